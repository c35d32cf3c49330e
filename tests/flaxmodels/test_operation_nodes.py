"""Nodes of operations in graphs: names, order, masks, ids, padding and copies, compared with live Keras."""

import copy
import pickle

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

import flaxmodels as fm
from flaxmodels import Input, Model, layers
from flaxmodels.inspection import lookups_of
from flaxmodels.interop import set_keras_weights
from flaxmodels.ops.base import apply
from training import Trainer

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(6, 4, 3)).astype("float32")
IDS = np.array([[1, 2, 0, 0], [3, 0, 0, 0], [1, 2, 3, 4], [5, 5, 0, 0], [2, 0, 0, 0], [4, 4, 4, 0]], "int32")


def relaxed(function, *args, **kwargs):
    """Calls Keras with promotion of ranks and dtypes allowed."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return function(*args, **kwargs)


def names(model):
    """Returns the names in Keras' order, without inputs and Keras' operations on masks."""
    if isinstance(model, Model):
        return [model.graph.names[id(operation)] for operation in model.operations]
    masks = (
        "not_equal",
        "concatenate",
        "any",
        "logical_or",
        "zeros_like",
        "ones_like",
        "expand_dims",
        "convert_to_tensor",
    )
    kept = [x for x in model.operations if not isinstance(x, keras.layers.InputLayer)]
    return [x.name for x in kept if not x.name.startswith(masks)]


def random_graph(lib, make_input, make_model, seed):
    """Draws a graph of layers, masks and operations; equal for equal seeds in both libraries."""
    rng = np.random.default_rng(seed)
    a, b = make_input((4, 3)), make_input((4,), dtype="int32")
    pool = [a, lib.Embedding(6, 3, mask_zero=True, name="embedding")(b)]
    for i in range(int(rng.integers(4, 12))):
        x, y = pool[rng.integers(len(pool))], pool[rng.integers(len(pool))]
        kind = rng.integers(9)
        pool.append(
            [
                lambda: lib.Dense(3, name=f"dense_{i}")(x),  # noqa: B023
                lambda: lib.GRU(3, return_sequences=True, name=f"gru_{i}")(x),  # noqa: B023
                lambda: lib.Add(name=f"sum_{i}")([x, y]),  # noqa: B023
                lambda: lib.Dense(3, name=f"joined_{i}")(lib.Concatenate(name=f"concat_{i}")([x, y])),  # noqa: B023
                lambda: x + y,  # noqa: B023
                lambda: 1.5 - x,  # noqa: B023
                lambda: x * y + x,  # noqa: B023
                lambda: x[:, ::-1] * 2.0,  # noqa: B023
                lambda: x / 2.0 + y[:, :1],  # noqa: B023
            ][kind]()
        )
    return make_model([a, b], lib.Add(name="end")(pool))


@pytest.mark.parametrize("seed", range(30))
def test_order_and_outputs_of_random_graphs(seed):
    keras.backend.clear_session()
    theirs = relaxed(random_graph, keras.layers, keras.Input, keras.Model, seed)
    ours = relaxed(random_graph, layers, Input, Model, seed)
    assert names(ours) == names(theirs)
    assert [layer.name for layer in ours.layers] == [
        layer.name for layer in theirs.layers if not isinstance(layer, keras.layers.InputLayer)
    ]
    rng = np.random.default_rng(seed)
    weights = [rng.uniform(-1, 1, w.shape).astype("float32") for w in theirs.get_weights()]
    theirs.set_weights(weights)
    want = relaxed(theirs.predict, [X, IDS], verbose=0)
    got = relaxed(ours.apply, set_keras_weights(ours, relaxed(ours.init, KEY, [X, IDS]), weights), [X, IDS])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def residual():
    x = Input((4, 3))
    y = layers.Dense(3)(x) + x
    y = y / 2.0
    return Model(x, layers.Dense(2)(y[:, 0] + y[:, -1]))


def test_names_layers_and_summary():
    model = residual()
    assert names(model) == ["dense", "add", "true_divide", "get_item", "get_item_1", "add_1", "dense_1"]
    assert [name for name, _ in model.children()] == ["dense", "dense_1"]
    assert list(model.init(KEY, X)["params"]) == ["dense", "dense_1"]
    assert [call.name for call in model.calls()] == names(model)
    texts = []
    model.summary(texts.append)
    assert "true_divide (TrueDivide)  (None, 4, 3)           0  add\n" in texts[0]
    assert "add_1 (Add)               (None, 3)              0  get_item, get_item_1\n" in texts[0]
    assert repr(model.get_layer("dense_1").input) == "<Symbol shape=(None, 3) dtype=float32 output of Add>"


def test_an_operation_passes_no_mask_on():
    ids = Input((4,), dtype="int32")
    embedded = layers.Embedding(6, 3, mask_zero=True)(ids)
    model = Model(ids, [layers.LSTM(2)(embedded * 1.0), layers.LSTM(2)(embedded)])
    variables = model.init(KEY, IDS)
    variables["params"]["lstm_1"] = variables["params"]["lstm"]
    without, with_mask = model.apply(variables, IDS)
    assert np.abs(without - with_mask).max() > 1e-3
    plain = Model(ids, layers.LSTM(2, name="lstm")(layers.Embedding(6, 3, name="embedding")(ids)))
    np.testing.assert_array_equal(
        plain.apply({"params": {k: variables["params"][k] for k in ("embedding", "lstm")}}, IDS), without
    )


def test_operations_have_arguments_named_mask():
    """`mask` is an argument of the operation here, not the mask of a layer's inputs."""
    q, allowed = Input((4, 1, 3)), Input((1, 4, 4), dtype="bool")
    model = Model([q, allowed], apply("dot_product_attention", q, q, q, mask=allowed))
    queries = X[:, :, None]
    lower = np.tril(np.ones((6, 1, 4, 4), bool))
    want = jax.nn.dot_product_attention(queries, queries, queries, mask=lower)
    np.testing.assert_allclose(model.apply({}, [queries, lower]), want, rtol=1e-6)


def test_layers_around_an_operation_are_not_fused():
    def net(between):
        x = Input((8, 8, 1))
        y = layers.Conv2D(4, 3, activation="relu")(x)
        return Model(x, layers.MaxPooling2D(2)(between(y)))

    images = np.random.default_rng(1).normal(size=(2, 8, 8, 1)).astype("float32")
    plain, scaled = net(lambda y: y), net(lambda y: y * -1.0)
    variables = plain.init(KEY, images)
    features = layers.Conv2D(4, 3, activation="relu").apply({"params": variables["params"]["conv2d"]}, images)
    want = layers.MaxPooling2D(2).apply({}, -features)
    np.testing.assert_allclose(scaled.apply(variables, images), want, atol=1e-6)


def test_a_layer_that_an_operation_reads_is_not_fused():
    x = Input((8, 8, 1))
    y = layers.Conv2D(4, 3, activation="relu")(x)
    model = Model(x, [layers.MaxPooling2D(2)(y), y[:, 0, 0]])
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 1)).astype("float32")
    variables = model.init(KEY, images)
    features = layers.Conv2D(4, 3, activation="relu").apply({"params": variables["params"]["conv2d"]}, images)
    np.testing.assert_allclose(model.apply(variables, images)[1], features[:, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda ids: apply("expand_dims", ids, 1), True),
        (lambda ids: apply("reshape", ids, (-1, 2, 2)), True),
        (lambda ids: ids + 1, False),
        (lambda ids: ids[:, :1], False),
        (lambda ids: apply("concatenate", [ids, ids], 1), False),
    ],
    ids=["expand_dims", "reshape", "add", "get_item", "concatenate"],
)
def test_ids_are_traced_only_where_no_value_changes_or_is_left_out(change, kept):
    ids = Input((4,), dtype="int32")
    model = Model(ids, layers.Embedding(6, 2)(change(ids)))
    assert [lookup.source for lookup in lookups_of(model)] == ([0] if kept else [])


@pytest.mark.parametrize("axis", [0, 1])
def test_padding_does_not_change_operations_across_rows(axis):
    """A mean over the batch may not see padding rows; the last batch has 2 of 4 rows."""
    x = Input((4, 3))
    y = layers.Dense(3)(x)
    model = Model(x, y - apply("mean", y, axis=axis, keepdims=True))
    trainer = Trainer(model, "sgd", "mse", seed=0)
    with jax.numpy_rank_promotion("allow"):
        got = trainer.predict(X, batch_size=4)
        want = [model.apply(trainer.variables, X[part]) for part in (slice(0, 4), slice(4, 6))]
    np.testing.assert_allclose(got, np.concatenate(want), atol=1e-6)


def test_copies_share_nothing_and_keep_their_accessors():
    model = residual()
    variables = model.init(KEY, X)
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.clone()):
        assert names(made) == names(model)
        np.testing.assert_array_equal(made.apply(variables, X), model.apply(variables, X))
        part = Model(made.input, made.get_layer("dense").output)
        assert part.output_shape == (None, 4, 3)


def test_nested_models_with_operations_train():
    inner, x = residual(), Input((4, 3))
    model = Model(x, inner(x) * 2.0 + inner(x[:, ::-1]))
    assert sorted(names(model)) == ["add", "get_item", "model", "multiply"]
    trainer = Trainer(model, "sgd", "mse", seed=0)
    history = trainer.fit(X, np.ones((6, 2), "float32"), epochs=3, batch_size=4, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


def test_symbols_of_unknown_sizes():
    x = Input((None, 3))
    y = x[:, 1:] + x[:, :-1] * jnp.float32(2)
    assert y.shape == (None, None, 3)
    assert fm.Model(x, y).apply({}, X).shape == (6, 3, 3)
