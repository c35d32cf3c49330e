"""Layers hold their variables: initial values bit-equal to those of Keras, names, weights, calls on arrays."""

import copy
import pickle

import jax
import jax.numpy as jnp
import keras as theirs
import numpy as np
import pytest

from training import keras

X2, X3, X4 = (np.linspace(-1, 1, np.prod(shape), dtype="float32").reshape(shape) for shape in [(2, 6), (2, 5, 4), (2, 8, 8, 3)])  # fmt: skip  # noqa: E501
LAYERS = {
    "Dense": (lambda k: k.layers.Dense(5, bias_initializer="random_normal"), (2, 6)),
    "Conv2D": (lambda k: k.layers.Conv2D(4, 3), (2, 8, 8, 3)),
    "Conv1DTranspose": (lambda k: k.layers.Conv1DTranspose(4, 3), (2, 5, 4)),
    "SeparableConv2D": (lambda k: k.layers.SeparableConv2D(4, 3), (2, 8, 8, 3)),
    "DepthwiseConv1D": (lambda k: k.layers.DepthwiseConv1D(3), (2, 5, 4)),
    "LSTM": (lambda k: k.layers.LSTM(4), (2, 5, 4)),
    "GRU": (lambda k: k.layers.GRU(4), (2, 5, 4)),
    "SimpleRNN": (lambda k: k.layers.SimpleRNN(4), (2, 5, 4)),
    "Bidirectional": (lambda k: k.layers.Bidirectional(k.layers.GRU(4)), (2, 5, 4)),
    "cells": (lambda k: k.layers.RNN([k.layers.LSTMCell(3), k.layers.SimpleRNNCell(2), k.layers.GRUCell(2)]), (2, 5, 4)),
    "ConvLSTM1D": (lambda k: k.layers.ConvLSTM1D(2, 3), (2, 3, 5, 2)),
    "TimeDistributed": (lambda k: k.layers.TimeDistributed(k.layers.Dense(3)), (2, 5, 4)),
    "Embedding": (lambda k: k.layers.Embedding(10, 3), (2, 5)),
    "EinsumDense": (lambda k: k.layers.EinsumDense("abc,cd->abd", output_shape=(None, 7), bias_axes="d"), (2, 5, 4)),
    "MultiHeadAttention": (lambda k: k.layers.MultiHeadAttention(2, 3, dropout=0.1), (2, 5, 4)),
    "GroupQueryAttention": (lambda k: k.layers.GroupQueryAttention(4, 4, 2), (2, 5, 4)),
    "AdditiveAttention": (lambda k: k.layers.AdditiveAttention(), (2, 5, 4)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _promotion_as_in_programs():
    """Lets Keras promote ranks and dtypes, as in programs of users."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def build(module, make, shape):
    """Returns the weights of a layer, and those of a layer that is made after it."""
    module.utils.set_random_seed(7)
    layer, after = make(module), None
    if isinstance(layer, (module.layers.MultiHeadAttention, module.layers.GroupQueryAttention)):
        layer.build(shape, shape)
    else:
        layer.build([shape, shape] if isinstance(layer, module.layers.AdditiveAttention) else shape)
    after = module.layers.Dense(2)
    after.build((2, 3))
    return layer.get_weights() + after.get_weights()


def test_initial_weights_equal_those_of_keras_bit_for_bit():
    for name, (make, shape) in LAYERS.items():
        for value, wanted in zip(build(keras, make, shape), build(theirs, make, shape), strict=True):
            np.testing.assert_array_equal(value, wanted, err_msg=name)


def model_with_draws(module):
    """Returns a model of layers that draw seeds in Keras when they are made, built or trained."""

    class Custom(module.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.dense = module.layers.Dense(2)

        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1], 3), initializer="random_normal", name="scale")
            self.shift = self.add_weight(shape=(3,))

        def call(self, x):
            return self.dense(x @ self.scale + self.shift)

    module.utils.set_random_seed(3)
    inputs = module.Input((5, 4))
    x = module.layers.LSTM(3, return_sequences=True, dropout=0.2)(inputs)
    x = module.layers.Dropout(0.3, seed=3)(x)
    x = module.layers.MultiHeadAttention(2, 2, dropout=0.1)(x, x)
    for layer in ("GaussianNoise", "SpatialDropout1D", "AlphaDropout", "GaussianDropout"):
        x = getattr(module.layers, layer)(0.1)(x)
    return module.Model(inputs, module.layers.Dense(3)(Custom()(module.layers.Flatten()(x))))


def test_initial_weights_of_a_model_equal_those_of_keras():
    for value, wanted in zip(
        model_with_draws(keras).get_weights(), model_with_draws(theirs).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(value, wanted)


def names(module):
    """Returns the automatic names of inputs, layers and models."""
    module.backend.clear_session()
    layers = module.layers
    inputs = module.Input((3,))
    made = [
        layers.Dense(1), layers.Dense(1), layers.Conv2DTranspose(1, 1), layers.PReLU(), layers.ELU(),
        layers.Bidirectional(layers.LSTM(2)), layers.MaxPool2D(), layers.RMSNormalization(), layers.ConvLSTM2D(1, 1),
        layers.GlobalAvgPool1D(), layers.RNN(layers.LSTMCell(2)), layers.MultiHeadAttention(1, 1),
        layers.GroupQueryAttention(1, 2, 1), layers.Dense(2, name="own"), layers.Dense(2), module.Sequential(),
        module.Sequential(), module.Model(inputs, layers.Dense(1)(inputs)), layers.UpSampling2D(),
        type("HTTPLayer", (layers.Layer,), {})(), module.metrics.AUC(), module.metrics.AUC(),
        module.metrics.MeanIoU(2), module.metrics.IoU(2, [0]), module.metrics.Precision(name="own"),
        module.metrics.Precision(), module.metrics.Mean(), module.metrics.MeanSquaredError(),
    ]  # fmt: skip
    return [module.Input((2,), name="own").name, *(thing.name for thing in made)]


def test_automatic_names_are_those_of_keras():
    assert names(keras) == names(theirs)


def test_weights_are_attributes():
    layer = keras.layers.Dense(3, name="head")
    with pytest.raises(AttributeError) as caught:
        layer.kernel  # noqa: B018
    assert str(caught.value) == "Dense 'head' has no `kernel` yet; build it, or call it on data first."
    layer.build((None, 6))
    assert layer.kernel is layer.weights[0] and layer.kernel.shape == (6, 3) and layer.kernel.path == "head/kernel"
    assert layer.kernel.name == "kernel" and layer.kernel.trainable and layer.bias is layer.trainable_weights[1]
    without = keras.layers.Dense(3, use_bias=False)
    without.build((None, 6))
    assert without.bias is None and len(without.weights) == 1
    norm = keras.layers.BatchNormalization()
    norm.build((None, 6))
    assert [w.name for w in norm.weights] == ["gamma", "beta", "moving_mean", "moving_variance"]
    assert norm.moving_mean in norm.non_trainable_weights and not norm.moving_variance.trainable
    embedding = keras.layers.Embedding(5, 2)
    embedding.build((None, 1))
    assert embedding.embeddings.name == "embeddings" and embedding.embeddings.shape == (5, 2)


def test_assigned_values_are_those_of_the_next_call():
    layer = keras.layers.Dense(2, name="two")
    layer(X2)
    kernel = layer.kernel
    assert kernel.assign(np.ones((6, 2))) is kernel
    kernel.assign_add(1).assign_sub(np.full((6, 2), 0.5))
    np.testing.assert_allclose(layer(X2), np.repeat(1.5 * X2.sum(1, keepdims=True), 2, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(kernel * 2 + layer.bias[0], np.full((6, 2), 3.0))
    np.testing.assert_allclose(X2 @ kernel, layer(X2), rtol=1e-6, atol=1e-6)
    layer.set_weights([np.zeros((6, 2)), np.array([1.0, 2.0])])
    np.testing.assert_array_equal(layer(X2), [[1, 2], [1, 2]])
    assert [w.dtype for w in layer.weights] == ["float32", "float32"] and layer.count_params() == 14
    with pytest.raises(ValueError) as caught:
        kernel.assign(np.ones((2, 2)))
    assert str(caught.value) == "two/kernel must keep the shape (6, 2), got a value of shape (2, 2); reshape it first."


def refusal(call, kind=ValueError):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def test_layers_without_weights_say_so():
    layer = keras.layers.Dense(3, name="new")
    assert layer.weights == layer.get_weights() == [] and not layer.built
    assert refusal(lambda: layer.set_weights([np.ones((2, 3))])) == (
        "new has no weights yet, got 1 arrays; build it, or call it on data first."
    )
    assert refusal(layer.count_params) == "new has no weights to count yet; build it, or call it on data first."
    inputs = keras.layers.InputLayer((3,), name="first")
    inputs.set_weights([])
    assert inputs.count_params() == 0 and inputs.get_weights() == [] and inputs.batch_shape == (None, 3)
    flags = {"sparse": False, "ragged": False, "optional": False}
    assert inputs.get_config() == {"batch_shape": (None, 3), "dtype": "float32", "name": "first", **flags}
    assert refusal(lambda: inputs.set_weights([X2])) == (
        "first is an input and has no weights, got 1 arrays; leave them out."
    )


def test_a_layer_of_a_model_gets_the_shapes_of_the_model():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, name="only")])
    assert refusal(lambda: model.layers[0](np.ones((2, 7), "float32"))) == (
        "`kernel` of Dense 'only' has shape (6, 3), but inputs of this size need (7, 3); give inputs of the size that "
        "the variables were made for, or call `init` again."
    )
    assert model.layers[0](X2).shape == (2, 3)
    np.testing.assert_allclose(model(X2), model.layers[0](X2))


def test_a_layer_in_two_models_has_one_set_of_values():
    shared, inputs = keras.layers.Dense(2), keras.Input((6,))
    one, two = keras.Model(inputs, shared(inputs)), keras.Sequential([shared, keras.layers.ReLU()])
    one.set_weights([np.ones((6, 2)), np.full(2, 3.0)])
    np.testing.assert_allclose(two(X2), np.maximum(one(X2), 0))
    assert one.weights[0] is two.weights[0] is shared.kernel
    two.compile(keras.optimizers.SGD(0.1), "mse")
    two.fit(X2, np.zeros((2, 2), "float32"), verbose=0)
    assert not np.allclose(shared.get_weights()[1], 3)
    np.testing.assert_array_equal(one.get_weights()[0], shared.kernel)


def test_a_stateful_layer_inside_a_traced_call_is_refused():
    outside = keras.layers.Dense(2)

    class Hidden(keras.layers.Layer):
        def call(self, x):
            return {"layer": outside}["layer"](x)

    with pytest.raises(ValueError, match="outside|Dense"):
        Hidden()(X2)


def test_gradients_of_pure_functions_reach_the_values():
    layer = keras.layers.Dense(1)
    layer(X2)
    tree = {"params": {"kernel": layer.kernel.value, "bias": layer.bias.value}}
    grads = jax.grad(lambda variables: jnp.sum(layer.apply(variables, X2)))(tree)
    np.testing.assert_allclose(grads["params"]["kernel"][:, 0], X2.sum(0), rtol=1e-5)


def test_layers_are_copied_with_their_values():
    layer = keras.layers.Dense(2)
    layer(X2)
    for duplicate in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(duplicate.get_weights()[0], layer.kernel)
        duplicate.kernel.assign(np.zeros((6, 2)))
        assert duplicate.name == layer.name and np.any(layer.kernel.numpy())


def test_training_flag_and_dtypes_of_calls():
    dropped = keras.layers.Dropout(0.5)
    assert np.sum(np.asarray(dropped(np.ones((50, 4)), training=True)) == 0) > 20
    np.testing.assert_array_equal(dropped(np.ones((5, 4), "float32")), np.ones((5, 4)))
    norm = keras.layers.BatchNormalization(momentum=0.5)
    norm(2 * np.ones((4, 3)), training=True)
    np.testing.assert_allclose(norm.moving_mean, np.ones(3))
    assert (
        keras.layers.Dense(2)(np.ones((2, 3))).dtype
        == keras.layers.Dense(2)(np.ones((2, 3), "int32")).dtype
        == "float32"
    )


def test_trainable_flags_reach_inner_layers():
    layers = keras.layers
    base = keras.Sequential([keras.Input((6,)), layers.Dense(3), layers.BatchNormalization(), layers.Dense(2)])
    model = keras.Sequential([keras.Input((6,)), base, layers.Dense(1)])

    def counts():
        return len(model.trainable_weights), len(model.non_trainable_weights), len(base.trainable_weights)

    assert counts() == (8, 2, 6)
    base.trainable = False
    assert counts() == (2, 8, 0) and not base.layers[0].trainable
    base.layers[-1].trainable = True
    assert counts() == (4, 6, 0) and not base.trainable
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = model.get_weights()
    model.fit(X2, np.ones((2, 1), "float32"), verbose=0)
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed == [False] * 6 + [True] * 4  # the weights of Keras' order, with the two averages of the base
    model.trainable = True
    assert counts() == (8, 2, 6) and base.layers[0].trainable


def test_model_without_training_argument_trains_in_inference_mode_as_in_keras():
    x = np.random.default_rng(0).normal(1, 3, (32, 4)).astype("float32")
    histories, statistics, outputs = [], [], []
    for module in (theirs, keras):
        module.utils.set_random_seed(1)

        class Scaled(module.Model):
            def __init__(self, module=module):
                super().__init__()
                self.norm = module.layers.BatchNormalization()
                self.dense = module.layers.Dense(1)

            def call(self, x):
                return self.dense(self.norm(x))

        model = Scaled()
        model.compile("sgd", "mse")
        histories.append(model.fit(x, x[:, :1], batch_size=16, epochs=2, shuffle=False, verbose=0).history["loss"])
        statistics.append(np.asarray(model.norm.moving_mean))
        outputs.append(np.asarray(model(x, training=True)))  # named by the user, the mode reaches the layers inside
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-5)
    np.testing.assert_array_equal(statistics, np.zeros((2, 4)))
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)


def test_vector_of_spectral_normalization_has_the_bits_of_keras():
    for value, wanted in zip(
        *(build(k, lambda k: k.layers.SpectralNormalization(k.layers.Dense(2)), (2, 3)) for k in (keras, theirs)),
        strict=True,
    ):
        np.testing.assert_array_equal(value, wanted)
