"""Attributes and configurations of layers, compared with Keras."""

import json

import jax
import keras as theirs
import numpy as np
import pytest

from training import keras

X = np.linspace(-1, 1, 8, dtype="float32").reshape(2, 4)
LAYERS = [
    "Dense(3)", "Conv2D(3, 2)", "DepthwiseConv2D(2)", "Conv2DTranspose(2, 2)", "SeparableConv2D(2, 2)", "LSTM(3)",
    "GRU(3)", "SimpleRNN(3)", "ConvLSTM2D(2, 2)", "Bidirectional(k.layers.LSTM(2))", "Embedding(3, 2)",
    "TimeDistributed(k.layers.Dense(2))", "RNN(k.layers.LSTMCell(2))", "StackedRNNCells([k.layers.GRUCell(2)])",
    "Dense(3, 'relu', kernel_regularizer='l2', kernel_constraint=k.constraints.MaxNorm(), trainable=False)",
    "Dense(3, kernel_initializer=k.initializers.RandomNormal(seed=3), dtype='mixed_bfloat16')",
    "BatchNormalization()", "LayerNormalization()", "GroupNormalization(2)", "RMSNormalization()",
    "UnitNormalization()", "SpectralNormalization(k.layers.Dense(2))", "Dropout(0.5)", "SpatialDropout2D(0.1)",
    "AlphaDropout(0.1)", "GaussianNoise(0.1)", "ActivityRegularization(0.1)", "Flatten()", "MaxPooling2D()",
    "GlobalAveragePooling2D()", "ZeroPadding2D()", "Cropping2D()", "UpSampling2D()", "RepeatVector(3)", "Masking()",
    "Reshape((2, 2))", "Permute((2, 1))", "Activation('relu')", "ReLU()", "LeakyReLU()", "ELU()", "PReLU()",
    "Softmax()", "EinsumDense('ab,bc->ac', 3)", "MultiHeadAttention(2, 2)", "GroupQueryAttention(2, 2, 1)",
    "Attention()", "AdditiveAttention()", "Concatenate()", "Add()", "Dot(1)", "Identity()",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _promotion_as_in_programs():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def same(function):
    """Asserts that a function of the library has the same result here and in Keras; returns the result."""
    results = []
    for library in (keras, theirs):
        library.utils.clear_session()
        results.append(function(library))
    assert results[0] == results[1]
    return results[0]


def refusal(call, kind=ValueError):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def layer_of(k, text):
    return eval(f"k.layers.{text}", {"k": k})


@pytest.mark.parametrize("text", LAYERS)
def test_configurations_of_layers_are_those_of_keras(text):
    described = same(lambda k: json.loads(json.dumps(layer_of(k, text).get_config())))
    layer = layer_of(keras, text)
    again = type(layer).from_config(described)
    assert json.loads(json.dumps(again.get_config())) == described
    other = theirs.layers.deserialize(keras.layers.serialize(layer))
    assert type(other).__name__.replace("Grouped", "Group") == type(layer).__name__
    back = keras.layers.deserialize(theirs.layers.serialize(other))
    assert back.get_config() == layer.get_config()


def custom(k):
    class Scale(k.layers.Dense):
        def __init__(self, units, factor=2.0, **kwargs):
            super().__init__(units, **kwargs)
            self.factor = factor

        def call(self, x):
            return super().call(x) * self.factor

        def get_config(self):
            return {**super().get_config(), "factor": self.factor}

    class Plain(k.layers.Layer):
        def __init__(self, width=3, **kwargs):
            super().__init__(**kwargs)
            self.width = width

        def call(self, x):
            return x

    return Scale, Plain


def test_configurations_of_custom_layers_are_those_of_keras():
    def described(k):
        scale, plain = custom(k)
        layer = scale(3, 4.0, activation="tanh", kernel_initializer="he_normal")
        again = scale.from_config(layer.get_config())
        assert again.factor == 4.0 and again.activation is k.activations.tanh
        return [layer.get_config(), again.get_config(), plain(5, name="p").get_config()]

    assert same(described)[0]["kernel_initializer"]["class_name"] == "HeNormal"


def test_attributes_of_layers():
    def read(k):
        found = []
        for dtype in (None, "mixed_bfloat16"):
            layer = k.layers.Dense(3, dtype=dtype, name="q")
            for _ in range(2):
                found += [layer.dtype, layer.compute_dtype, layer.variable_dtype, layer.input_dtype, layer.built]
                found += [layer.path, layer.dtype_policy.name, layer.metrics, layer.metrics_variables, layer.losses]
                found += [layer.quantization_mode, layer.activation.__name__, type(layer.kernel_initializer).__name__]
                found += [layer.kernel_regularizer, repr(layer.input_spec), len(layer.trainable_variables)]
                if not layer.built:
                    layer.build((None, 4))
        return found

    assert same(read)[:5] == ["float32", "float32", "float32", "float32", False]


def test_attributes_of_models():
    def read(k):
        x = k.Input((4,))
        models = [k.Sequential([k.Input((4,)), k.layers.Dense(3)]), k.Model(x, k.layers.Dense(2)(x))]
        models += [k.Sequential([k.layers.Dense(3)])]
        return [
            (m.dtype, m.compute_dtype, m.variable_dtype, m.built, m.path, m.metrics, m.losses, m.layers[-1].built)
            for m in models
        ]

    same(read)


def test_a_new_layer_has_the_policy_of_the_program_and_a_loaded_one_its_own(tmp_path):
    def read(k):
        x = k.Input((4,))
        k.Model(x, k.layers.Dense(2)(x)).save(tmp_path / f"{k.__name__}.keras")
        k.config.set_dtype_policy("mixed_bfloat16")
        try:
            loaded = k.models.load_model(tmp_path / f"{k.__name__}.keras")
            copied = k.models.clone_model(loaded)
            return [k.layers.Dense(2).compute_dtype, loaded.layers[1].compute_dtype, copied.layers[1].compute_dtype]
        finally:
            k.config.set_dtype_policy("float32")

    assert same(read) == ["bfloat16", "float32", "float32"]


def regularized(k):
    regularizers = k.regularizers
    return k.Sequential([
        k.Input((4,)),
        k.layers.Dense(3, kernel_regularizer="l2", activity_regularizer=regularizers.L1(0.1), kernel_initializer="ones"),
        k.layers.Dense(2, bias_regularizer=regularizers.L1(0.3), bias_initializer="ones", kernel_initializer="ones"),
    ])  # fmt: skip


def test_losses_of_layers_and_models():
    def read(k):
        class Penalty(k.layers.Layer):
            def call(self, x):
                self.add_loss(0.5 * k.ops.sum(x))
                return x

        model, layer, x = regularized(k), Penalty(), k.Input((4,))
        found = [model.losses]
        model(X)
        found += [model.losses, *(inner.losses for inner in model.layers)]
        layer(X + 1)
        found.append(layer.losses)
        layer(X + 2)
        outer = k.Model(x, k.layers.Dense(1, kernel_initializer="ones")(Penalty()(x)))
        outer(X + 3)
        found += [layer.losses, outer.losses]
        model.trainable = False
        return [np.round([float(loss) for loss in losses], 5).tolist() for losses in [*found, model.losses[1:]]]

    assert same(read)[1] == [0.68571, 0.12, 0.6]


def test_input_specs_of_custom_layers():
    def layer(k):
        class Checked(k.layers.Layer):
            def __init__(self):
                super().__init__()
                self.input_spec = k.layers.InputSpec(ndim=3, axes={-1: 2})

            def call(self, x):
                return x

        return Checked()

    assert same(lambda k: repr(layer(k).input_spec)) == "InputSpec(ndim=3, axes={-1: 2})"
    assert same(lambda k: k.InputSpec(shape=(None, 3)).get_config())["ndim"] == 2
    same(lambda k: [repr(make.input_spec) for make in (k.layers.Conv2D(1, 1), k.layers.LSTM(1), k.layers.ReLU())])
    assert refusal(lambda: layer(keras)(np.ones((61, 3, 4)))) == (
        "Checked 'checked' takes inputs with the size 2 along axis -1, as its `input_spec` says, got shape (61, 3, 4); "
        "reshape the inputs."
    )
    assert refusal(lambda: keras.InputSpec(axes={"a": 3}), TypeError) == (
        "`axes` of InputSpec must be a dictionary with integers as keys, got {'a': 3}; write {-1: 3}."
    )
    assert refusal(lambda: keras.InputSpec(ndim=2, axes={2: 3})) == (
        "`axes` of InputSpec must be among 2 axes, got 2; give a smaller number."
    )
    assert refusal(lambda: keras.InputSpec(allow_last_axis_squeeze=True)) == (
        "`allow_last_axis_squeeze` of InputSpec must be False, because inputs keep their axes, got True; reshape the "
        "inputs in `call`."
    )


def test_weights_know_their_regularizer_and_constraint():
    layer = keras.layers.Dense(2, kernel_regularizer="l1", bias_constraint="non_neg")
    layer.build((None, 3))
    assert layer.kernel.regularizer == keras.regularizers.L1() and layer.kernel.constraint is None
    assert layer.bias.constraint == keras.constraints.NonNeg() and layer.bias.regularizer is None
