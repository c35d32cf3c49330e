"""Keras files: models that Keras saved give Keras' outputs here, and models saved here give our outputs in Keras."""

import dataclasses
import json
import re
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Model, Sequential, initializers, interop, layers
from flaxmodels.inspection import weights_of
from flaxmodels.interop import keras_config
from tests.flaxmodels.interop import test_interop
from tests.support.layer_oracle import numbers
from tests.support.layer_table import ROWS

keras = pytest.importorskip("keras")

KEY = jax.random.key(0)
B = 4


def raises(sentence, error=ValueError):
    return pytest.raises(error, match=f"^{re.escape(sentence)}$")


def relaxed(function, *args, **kwargs):
    """Calls Keras with rank and dtype promotion enabled."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return function(*args, **kwargs)


def predicted(model, inputs):
    return [np.asarray(y, np.float32) for y in jax.tree.leaves(relaxed(model, inputs, training=False))]


def applied(model, variables, inputs):
    return [np.asarray(y, np.float32) for y in jax.tree.leaves(jax.jit(model.apply)(variables, inputs))]


def assert_near(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def randomized(model):
    """Sets random weights, also for statistics and biases."""
    model.set_weights([np.abs(numbers(i, *w.shape)).astype(w.dtype) * 0.5 for i, w in enumerate(model.get_weights())])
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # Keras computes with copies of the weights, which it renews here and after loading
    return model


def assert_both_ways(model, inputs, folder):
    """Keras' file gives Keras' outputs here, our file gives our outputs in Keras, and so do the weights files."""
    want = predicted(model, inputs)
    model.save(folder / "theirs.keras")
    ours, variables = interop.load_keras(folder / "theirs.keras")
    assert_near(applied(ours, variables, inputs), want)
    interop.save_keras(folder / "ours.keras", ours, variables)
    back = relaxed(keras.models.load_model, folder / "ours.keras")
    assert_near(predicted(back, inputs), want)
    assert_same_config(model, back)
    assert [w.shape for w in back.get_weights()] == [w.shape for w in model.get_weights()]

    model.save_weights(folder / "theirs.weights.h5")
    zeros = jax.tree.map(jnp.zeros_like, variables)
    again = interop.load_keras_weights(folder / "theirs.weights.h5", ours, zeros)
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    assert_near(applied(ours, again, inputs), want)
    interop.save_keras_weights(folder / "ours.weights.h5", ours, variables)
    back.set_weights([np.zeros_like(w) for w in back.get_weights()])
    relaxed(back.load_weights, folder / "ours.weights.h5")
    assert_near(predicted(back, inputs), want)
    return ours, variables


def assert_same_config(model, back):
    """Layers read from our file have the same arguments, except for names inside layers."""

    def plain(value):
        if isinstance(value, dict) and "class_name" in value:
            inner = (
                {k: v for k, v in value["config"].items() if k != "name"}
                if isinstance(value["config"], dict)
                else value["config"]
            )
            return value["class_name"], plain(inner)
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, list | tuple) else value

    pairs = zip(model.layers, back.layers, strict=True)
    for one, other in pairs:
        assert type(one) is type(other)
        if isinstance(one, keras.Model):
            assert_same_config(one, other)
        else:
            assert plain(keras.saving.serialize_keras_object(one)["config"]) == plain(
                keras.saving.serialize_keras_object(other)["config"]
            )


# ---------------------------------------------------------------- whole models


def cnn(L):
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            L.Conv2D(4, 3, padding="same", activation="relu", kernel_regularizer=keras.regularizers.L2(0.01)),
            L.BatchNormalization(momentum=0.9),
            L.MaxPooling2D(),
            L.SeparableConv2D(3, 3),
            L.Dropout(0.3, seed=1),
            L.Flatten(),
            L.Dense(5, activation="softmax", kernel_constraint=keras.constraints.MaxNorm(2.0)),
        ],
        name="cnn",
    )


def recurrent(L):
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            L.Embedding(5, 4, mask_zero=True),
            L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode="concat"),
            L.TimeDistributed(L.Dense(4, activation="tanh")),
            L.GRU(3, return_sequences=True, reset_after=False),
            L.RNN([L.LSTMCell(2), L.GRUCell(3), L.LSTMCell(2)], return_sequences=True),
            L.Bidirectional(L.GRU(2), backward_layer=L.GRU(2, go_backwards=True, activation="relu"), merge_mode="sum"),
        ]
    )


def masked(L):
    return keras.Sequential([keras.Input((5, 3)), L.Masking(0.5), L.LSTM(3, return_sequences=True), L.SimpleRNN(2)])


def functional(L):
    a, b = keras.Input((6,), name="first"), keras.Input((6,), name="second")
    shared = L.Dense(4, activation="relu", name="shared")
    inner_in = keras.Input((4,))
    inner = keras.Model(
        inner_in, [L.Dense(3)(inner_in), L.Dense(4, name="deep")(L.BatchNormalization()(inner_in))], name="inner"
    )
    tail = keras.Sequential([keras.Input((4,)), L.Dense(4), L.Dense(4, use_bias=False)], name="tail")
    left, right = shared(a), tail(shared(b))
    small, wide = inner(L.Add()([left, right]))
    small_2, _ = inner(tail(wide))
    joined = L.Concatenate()([small, L.Multiply()([small, small_2]), L.Average()([left, right])])
    return keras.Model([a, b], {"y": L.Dense(2, name="y")(joined), "small": small_2, "dot": L.Dot(1)([small, small_2])})


def attention(L):
    query, value = keras.Input((4, 6)), keras.Input((5, 6))
    y = L.MultiHeadAttention(2, 3, dropout=0.1, name="self")(query, query, use_causal_mask=True)
    y = L.LayerNormalization()(L.Add()([query, y]))
    z, scores = L.MultiHeadAttention(2, 3, value_dim=2, use_gate=True)(y, value, return_attention_scores=True)
    g = L.GroupQueryAttention(2, 4, 2)(z, value)
    return keras.Model([query, value], [g, scores])


def states(L):
    x = keras.Input((4, 3))
    y, h, c = L.LSTM(2, return_sequences=True, return_state=True)(x)
    return keras.Model(x, L.LSTM(2)(y, initial_state=[h, c]))


def vgg16(L):
    stages = [(2, 4), (2, 6), (3, 8), (3, 8), (3, 8)]
    front = [keras.Input((32, 32, 3))]
    for stage, (count, filters) in enumerate(stages, 1):
        front += [
            L.Conv2D(filters, 3, padding="same", activation="relu", name=f"block{stage}_conv{i + 1}")
            for i in range(count)
        ]
        front.append(L.MaxPooling2D(2, strides=2, name=f"block{stage}_pool"))
    return keras.Sequential(
        [
            *front,
            L.Flatten(),
            L.Dense(16, activation="relu"),
            L.Dense(16, activation="relu"),
            L.Dense(4, activation="softmax"),
        ]
    )


def resnet50(L):
    def block(x, filters, stride, project, name):
        y = L.Conv2D(filters, 1, strides=stride, name=f"{name}_1_conv")(x)
        y = L.Activation("relu")(L.BatchNormalization(epsilon=1.001e-5, name=f"{name}_1_bn")(y))
        y = L.Conv2D(filters, 3, padding="same", name=f"{name}_2_conv")(y)
        y = L.Activation("relu")(L.BatchNormalization(epsilon=1.001e-5, name=f"{name}_2_bn")(y))
        y = L.BatchNormalization(name=f"{name}_3_bn")(L.Conv2D(4 * filters, 1, name=f"{name}_3_conv")(y))
        if project:
            x = L.BatchNormalization(name=f"{name}_0_bn")(
                L.Conv2D(4 * filters, 1, strides=stride, name=f"{name}_0_conv")(x)
            )
        return L.Activation("relu", name=f"{name}_out")(L.Add(name=f"{name}_add")([x, y]))

    x = keras.Input((32, 32, 3))
    y = L.Conv2D(4, 7, strides=2, name="conv1_conv")(L.ZeroPadding2D(3, name="conv1_pad")(x))
    y = L.MaxPooling2D(3, strides=2)(L.ZeroPadding2D(1)(L.ReLU()(L.BatchNormalization(name="conv1_bn")(y))))
    for stage, (filters, count) in enumerate([(2, 3), (3, 4), (4, 6), (4, 3)], 2):
        for i in range(count):
            y = block(y, filters, 2 if stage > 2 and i == 0 else 1, i == 0, f"conv{stage}_block{i + 1}")
    return keras.Model(x, L.Dense(5, activation="softmax")(L.GlobalAveragePooling2D()(y)), name="resnet50")


@pytest.mark.rotate
@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (cnn, (B, 8, 8, 2)),
        (masked, (B, 5, 3)),
        (functional, [(B, 6), (B, 6)]),
        (attention, [(B, 4, 6), (B, 5, 6)]),
        (states, (B, 4, 3)),
        (vgg16, (B, 32, 32, 3)),
        (resnet50, (2, 32, 32, 3)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_models(make, shapes, tmp_path):
    model = randomized(relaxed(make, keras.layers))
    inputs = jax.tree.map(lambda s: numbers(3, *s), shapes, is_leaf=lambda s: isinstance(s, tuple))
    assert_both_ways(model, inputs, tmp_path)


def test_recurrent(tmp_path):
    tokens = np.array([[1, 2, 0, 0, 0, 0], [3, 0, 4, 1, 2, 0], [1, 1, 1, 1, 1, 1]], np.int32)
    assert_both_ways(randomized(relaxed(recurrent, keras.layers)), tokens, tmp_path)


@pytest.mark.parametrize("make", test_interop.MODELS, ids=lambda make: make.__name__)
def test_models_of_other_tests(make, tmp_path):
    model = randomized(relaxed(make, keras))
    inputs = jax.tree.map(
        lambda x: np.abs(numbers(3, 2, *x.shape[1:])).astype(x.dtype),
        model.input if isinstance(model, keras.Model) and not isinstance(model, keras.Sequential) else model.inputs[0],
    )
    assert_both_ways(model, inputs, tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_random_graphs(seed, tmp_path):
    model = test_interop.random_graph(keras, seed)
    assert_both_ways(randomized(model), [numbers(i, 2, *x.shape[1:]) for i, x in enumerate(model.inputs)], tmp_path)


# ---------------------------------------------------------------- one layer each


def in_keras(value):
    """Returns the same object built from Keras' classes."""
    for module in ("layers", "initializers", "regularizers", "constraints"):
        cls = getattr(getattr(keras, module), type(value).__name__, None)
        if dataclasses.is_dataclass(value) and cls is not None:
            ours = ("parent", "name", "param_dtype", "input_shape")
            fields = {
                f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init and f.name not in ours
            }
            defaults = {f.name: f.default for f in dataclasses.fields(value)}
            return cls(**{k: in_keras(v) for k, v in fields.items() if v is not defaults[k]})
    return (
        [in_keras(v) for v in value]
        if isinstance(value, tuple) and any(isinstance(v, layers.Layer) for v in value)
        else value
    )


def known_to_keras(row):
    return type(row.layer()).__name__ not in keras_config.NOT_IN_KERAS


@pytest.mark.parametrize("row", [row for row in ROWS if known_to_keras(row)], ids=str)
def test_every_layer(row, tmp_path):
    inputs = list(row.arrays())
    if isinstance(row.layer(), layers.GroupQueryAttention):  # Keras takes one size of features only
        inputs = [numbers(0, B, 3, 6), numbers(1, B, 2, 6)]
    symbols = jax.tree.map(lambda x: keras.Input(x.shape[1:], dtype=str(x.dtype)), inputs)
    layer = getattr(keras.layers, type(row.layer()).__name__)(**{k: in_keras(v) for k, v in row.config.items()})
    call = {k: v for k, v in row.call.items() if k != "train"}
    leaves = jax.tree.leaves(symbols)
    model = keras.Model(leaves if len(leaves) > 1 else leaves[0], relaxed(layer, *symbols, **call))
    arrays = jax.tree.leaves(inputs)
    assert_both_ways(randomized(model), arrays if len(arrays) > 1 else arrays[0], tmp_path)


def test_every_class_is_known():
    """The table contains exactly the classes that both Keras and this library have."""
    for name, cls in keras_config.LAYERS.items():
        assert isinstance(getattr(keras.layers, name), type), name
        assert name in layers.__all__ and getattr(layers, name) is cls
    assert {name for name in layers.__all__ if isinstance(getattr(layers, name), type)} - set(keras_config.LAYERS) == (
        keras_config.NOT_IN_KERAS
    )
    assert {type(row.layer()).__name__ for row in ROWS if known_to_keras(row)} == {
        c.__name__ for c in keras_config.LAYERS.values()
    }


# ---------------------------------------------------------------- what a file does not contain


def test_dropout_drops_in_training(tmp_path):
    """Keras writes `training: False` even if the user did not pass it; the caller decides, as in Keras."""
    x = keras.Input((50,))
    keras.Model(x, keras.layers.Dropout(0.5)(x)).save(tmp_path / "m.keras")
    model, variables = interop.load_keras(tmp_path / "m.keras")
    ones = jnp.ones((1, 50))
    assert 5 < (model.apply(variables, ones, train=True, rngs={"dropout": KEY}) == 0).sum() < 45
    assert (model.apply(variables, ones) == 1).all()


def test_an_optimizer_is_left_out(tmp_path):
    model = relaxed(cnn, keras.layers)
    model.compile("adam", "mse", metrics=["mae"])
    relaxed(model.fit, numbers(0, B, 8, 8, 2), numbers(1, B, 5), verbose=0)
    assert_both_ways(model, numbers(2, B, 8, 8, 2), tmp_path)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float16", "mixed_float16"])
@pytest.mark.spread
def test_policies(policy, tmp_path):
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, dtype=policy, name="dense"), keras.layers.Dense(2)]
    )
    relaxed(model, numbers(0, B, 3))
    model.save(tmp_path / "m.keras")
    ours, variables = interop.load_keras(tmp_path / "m.keras")
    kept = policy if "mixed" not in policy else "float32"
    assert {str(x.dtype) for x in jax.tree.leaves(variables["params"]["dense"])} == {kept}
    assert ours.apply(variables, numbers(0, B, 3)).dtype == jnp.float32
    interop.save_keras(tmp_path / "again.keras", ours, variables)
    back = relaxed(keras.models.load_model, tmp_path / "again.keras")
    assert [layer.dtype_policy.name for layer in back.layers] == [policy, "float32"]
    for a, b, c in zip(
        model.get_weights(), back.get_weights(), interop.get_keras_weights(ours, variables), strict=True
    ):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    np.testing.assert_allclose(predicted(back, numbers(0, B, 3)), predicted(model, numbers(0, B, 3)), rtol=1e-5)


def test_the_policy_of_a_model_goes_to_its_layers(tmp_path):
    model = Sequential([Input((3,)), layers.Dense(2), layers.Dense(2, dtype="float32")], dtype="mixed_bfloat16")
    interop.save_keras(tmp_path / "m.keras", model, model.init(KEY, jnp.ones((1, 3))))
    back = relaxed(keras.models.load_model, tmp_path / "m.keras")
    assert [layer.dtype_policy.name for layer in back.layers] == ["mixed_bfloat16", "float32"]
    wide = Sequential([Input((3,)), layers.Dense(2, dtype="float16", param_dtype="bfloat16", name="odd")])
    sentence = (
        "Keras has no policy to compute in float16 with parameters in bfloat16, as Dense 'odd' does; use one dtype "
        "for both, or a mixed policy."
    )
    with raises(sentence):
        interop.save_keras(tmp_path / "m.keras", wide, wide.init(KEY, jnp.ones((1, 3))))


def test_frozen_layers_stay_frozen(tmp_path):
    inner = Sequential(
        [layers.Dense(3), layers.Dropout(0.1), layers.SpatialDropout1D(0.1)], trainable=False, name="inner"
    )
    model = Sequential([Input((4, 3)), inner, layers.Dense(2, trainable=False), layers.Dense(1)])
    interop.save_keras(tmp_path / "m.keras", model, model.init(KEY, jnp.ones((1, 4, 3))))
    back = relaxed(keras.models.load_model, tmp_path / "m.keras")
    assert {w.path.split("/")[-2] for w in back.trainable_weights} == {"dense_1"}
    back.save(tmp_path / "k.keras")
    again, _ = interop.load_keras(tmp_path / "k.keras")
    frozen = {path[:-1]: layer.frozen for path, (layer, _) in weights_of(again, jnp.ones((1, 4, 3))).items()}
    assert frozen == {("inner", "dense"): True, ("dense",): True, ("dense_1",): False}


def test_spectral_normalization_after_training(tmp_path):
    """Keras stores the divided kernel in files too, so sigma is 1 after reading."""
    model = Sequential([Input((3,)), layers.SpectralNormalization(layers.Dense(2))])
    x = jnp.asarray(numbers(0, B, 3))
    variables = model.init(KEY, x)
    _, new = model.apply(variables, x, train=True, mutable=["batch_stats"])
    variables = {**variables, **new}
    interop.save_keras(tmp_path / "m.keras", model, variables)
    want = applied(model, variables, x)
    assert_near(predicted(relaxed(keras.models.load_model, tmp_path / "m.keras"), x), want)
    assert_near(applied(*interop.load_keras(tmp_path / "m.keras"), x), want)


def test_states_of_a_stateful_layer_start_at_zero(tmp_path):
    model = relaxed(keras.Sequential, [keras.Input((4, 3), batch_size=2), keras.layers.LSTM(2, stateful=True)])
    x = numbers(0, 2, 4, 3)
    want = predicted(model, x)
    model.save(tmp_path / "m.keras")
    ours, variables = interop.load_keras(tmp_path / "m.keras")
    assert_near(applied(ours, variables, x), want)
    interop.save_keras(tmp_path / "o.keras", ours, variables)
    assert_near(predicted(relaxed(keras.models.load_model, tmp_path / "o.keras"), x), want)


def test_constants(tmp_path):
    """Arguments of layers and calls may be arrays."""
    x = Input((3,))
    start = initializers.Constant(np.array([1.0, 2.0], np.float32))
    model = Model(x, layers.Add()([layers.Dense(2, bias_initializer=start)(x), layers.Dense(2)(x)]))
    interop.save_keras(tmp_path / "m.keras", model, model.init(KEY, jnp.ones((1, 3))))
    back = relaxed(keras.models.load_model, tmp_path / "m.keras")
    np.testing.assert_array_equal(back.layers[1].bias_initializer.value, [1.0, 2.0])
    again, _ = interop.load_keras(tmp_path / "m.keras")
    np.testing.assert_array_equal(again.layers[0].bias_initializer.value, [1.0, 2.0])


def test_a_layer_in_two_models_is_shared(tmp_path):
    """Keras does not mark the first description of a shared layer, and writes its weights once."""
    x, shared = keras.Input((3,)), keras.layers.Dense(3, name="shared")
    inner = keras.Model(x, shared(x), name="inner")
    theirs = keras.Model(x, keras.layers.Add(name="add")([inner(x), shared(x)]))
    theirs.save(tmp_path / "m.keras")
    model, variables = interop.load_keras(tmp_path / "m.keras")
    inputs = np.linspace(-2, 2, 6, dtype="float32").reshape(2, 3)
    with jax.numpy_rank_promotion("allow"):
        wanted = theirs(inputs)
    np.testing.assert_allclose(model.apply(variables, inputs), wanted, rtol=1e-6)
    assert len(interop.get_keras_weights(model, variables)) == 2


def test_operations_are_read(tmp_path):
    x = keras.Input((3,))
    theirs = keras.Model(x, keras.ops.sigmoid(x) * 2)
    theirs.save(tmp_path / "m.keras")
    model, variables = interop.load_keras(tmp_path / "m.keras")
    inputs = np.linspace(-2, 2, 6, dtype="float32").reshape(2, 3)
    np.testing.assert_allclose(model.apply(variables, inputs), theirs(inputs), rtol=1e-6)


def test_metadata_names_the_format(tmp_path):
    model = Sequential([Input((3,)), layers.Dense(2)])
    interop.save_keras(tmp_path / "m.keras", model, model.init(KEY, jnp.ones((1, 3))))
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        assert archive.namelist() == ["metadata.json", "config.json", "model.weights.h5"]
        assert json.loads(archive.read("metadata.json"))["keras_version"].startswith("3.")
    assert [path.name for path in tmp_path.iterdir()] == ["m.keras"]
