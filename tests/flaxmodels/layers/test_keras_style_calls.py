"""Calls of layers written as Keras classes: masks, wrappers, transformations, precision and training."""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from flaxmodels import Input, Model, Sequential, interop, layers
from flaxmodels.layers import Layer
from tests.support.keras_classes import OURS, both, variables_of
from training import Trainer, optimizers

IDS = np.array([[1, 2, 0, 0], [3, 1, 2, 0], [4, 0, 0, 0]])
STEPS = np.random.default_rng(1).normal(size=(3, 4, 5)).astype("float32")


@pytest.fixture(autouse=True)
def rank_promotion():
    """Lets classes that are written for Keras add a bias without an explicit broadcast."""
    with jax.numpy_rank_promotion("allow"):
        yield


def token_model(k):
    """Embedding -> layers in a class, with and without masks -> LSTM."""

    class TemporalSoftmax(k.layers.Layer):
        def call(self, inputs, mask=None):
            mask = k.ops.expand_dims(k.ops.cast(mask, "float32"), -1)
            exps = k.ops.exp(inputs) * mask
            return exps / k.ops.sum(exps * mask, axis=1, keepdims=True)

    class PassesOn(k.layers.Layer):
        def __init__(self):
            super().__init__()
            self.supports_masking = True

        def call(self, inputs):
            return k.ops.relu(inputs)

    class Drops(k.layers.Layer):
        def call(self, inputs):
            return inputs * 2.0

    class Halves(k.layers.Layer):
        def call(self, inputs):
            return inputs[:, ::2]

        def compute_mask(self, inputs, mask=None):
            return None if mask is None else mask[:, ::2]

    class Tokens(k.layers.Layer):
        def __init__(self):
            super().__init__()
            self.embedding = k.layers.Embedding(6, 3, mask_zero=True)
            self.passes, self.drops, self.halves = PassesOn(), Drops(), Halves()
            self.lstms = [k.layers.LSTM(2) for _ in range(3)]
            self.softmax = TemporalSoftmax()

        def call(self, ids):
            x = self.passes(self.embedding(ids))
            first = self.lstms[0](x)
            second = self.lstms[1](self.drops(x))
            third = self.lstms[2](self.halves(x))
            return k.ops.concatenate([first, second, third, self.softmax(x)[:, 1]], axis=-1)

    inputs = k.Input((4,), dtype="int32")
    x = k.layers.Embedding(6, 3, mask_zero=True)(inputs)
    return k.Model(inputs, k.layers.Concatenate()([Tokens()(inputs), k.layers.LSTM(2)(TemporalSoftmax()(x))]))


@pytest.mark.filterwarnings("ignore:Layer:UserWarning")
def test_masks_travel_with_the_arrays():
    theirs, ours, weights = both(token_model)
    variables = variables_of(ours, IDS, weights)
    expected = np.asarray(theirs(IDS))
    np.testing.assert_allclose(ours.apply(variables, IDS), expected, rtol=1e-5, atol=1e-6)


def wrapped(k):
    class Cell(k.layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units = units
            self.state_size = units

        def build(self, input_shape):
            self.kernel = self.add_weight(shape=(input_shape[-1], self.units), initializer="uniform", name="kernel")
            self.recurrent = self.add_weight(shape=(self.units, self.units), initializer="uniform", name="recurrent")

        def call(self, inputs, states):
            h = k.ops.matmul(inputs, self.kernel)
            output = k.ops.tanh(h + k.ops.matmul(states[0], self.recurrent))
            return output, [output]

    class Scaled(k.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = k.layers.Dense(3)

        def build(self, input_shape):
            self.scale = self.add_weight(shape=(3,), initializer="ones", name="scale")
            self.dense.build(input_shape)

        def call(self, x, training=None):
            return self.dense(x) * self.scale * (2.0 if training else 1.0)

        def compute_output_shape(self, input_shape):
            return (*input_shape[:-1], 3)

    inputs = k.Input((4, 5))
    x = k.layers.TimeDistributed(Scaled())(inputs)
    y = k.layers.RNN(Cell(2), return_sequences=True)(x)
    with k.saving.CustomObjectScope({"Cell": Cell}) if k is keras else contextlib.nullcontext():
        return k.Model(inputs, k.layers.Bidirectional(k.layers.RNN(Cell(3)))(y))


def test_wrappers_apply_keras_classes():
    theirs, ours, weights = both(wrapped)
    variables = variables_of(ours, STEPS, weights)
    for train in (False, True):
        expected = np.asarray(theirs(STEPS, training=train))
        np.testing.assert_allclose(ours.apply(variables, STEPS, train=train), expected, rtol=1e-5, atol=1e-6)


def vae(k):
    class Sampling(k.layers.Layer):
        def call(self, inputs):
            z_mean, z_log_var = inputs
            return z_mean + k.ops.exp(0.5 * z_log_var) * 0.3

    class Encoder(k.layers.Layer):
        def __init__(self, latent=2, intermediate=4, name="encoder", **kwargs):
            super().__init__(name=name, **kwargs)
            self.dense_proj = k.layers.Dense(intermediate, activation="relu")
            self.dense_mean, self.dense_log_var = k.layers.Dense(latent), k.layers.Dense(latent)
            self.sampling = Sampling()

        def call(self, inputs):
            x = self.dense_proj(inputs)
            z_mean, z_log_var = self.dense_mean(x), self.dense_log_var(x)
            return z_mean, z_log_var, self.sampling((z_mean, z_log_var))

    class Decoder(k.layers.Layer):
        def __init__(self, original, intermediate=4, name="decoder", **kwargs):
            super().__init__(name=name, **kwargs)
            self.dense_proj = k.layers.Dense(intermediate, activation="relu")
            self.dense_output = k.layers.Dense(original, activation="sigmoid")

        def call(self, inputs):
            return self.dense_output(self.dense_proj(inputs))

    class VariationalAutoEncoder(k.Model):
        def __init__(self, original, name="autoencoder", **kwargs):
            super().__init__(name=name, **kwargs)
            self.encoder, self.decoder = Encoder(), Decoder(original)
            self.norm = k.layers.BatchNormalization()

        def call(self, inputs, training=False):
            z_mean, z_log_var, z = self.encoder(inputs)
            kl = -0.5 * k.ops.mean(z_log_var - k.ops.square(z_mean) - k.ops.exp(z_log_var) + 1)
            self.add_loss(kl)
            return self.norm(self.decoder(z), training=training)

    return VariationalAutoEncoder(5)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_trainer_trains_a_model_without_an_input_as_keras_does():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 5)).astype("float32"), rng.uniform(size=(20, 5)).astype("float32")
    theirs = vae(keras)
    theirs(keras.Input((5,)))
    weights = [np.abs(rng.normal(0.2, 0.4, w.shape)).astype("float32") for w in theirs.get_weights()]
    theirs.set_weights(weights)
    theirs.compile(keras.optimizers.SGD(0.05), "mse", metrics=["mae"])
    expected = theirs.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0).history
    named = vae(OURS)
    named.build((None, 5))
    variables = interop.set_keras_weights(named, named.init(jax.random.key(0), x), weights)
    ours = vae(OURS)
    trainer = Trainer(ours, optimizers.SGD(0.05), "mse", metrics=["mae"], seed=0, variables=variables)
    history = trainer.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0).history
    for name in ("loss", "mae"):
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-5)
    for mine, weight in zip(interop.get_keras_weights(ours, trainer.variables), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trainer.predict(x), theirs.predict(x, verbose=0), rtol=1e-4, atol=1e-5)
    assert [name for name, _ in ours.children()] == ["encoder", "decoder", "norm"]


def test_freezing_a_sublayer():
    model = vae(OURS)
    model.encoder.trainable = False
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    trainer = Trainer(model, "sgd", "mse", seed=0)
    trainer.build(x)
    before = jax.tree.map(np.array, trainer.variables["params"])
    trainer.fit(x, x[:, ::-1], batch_size=4, epochs=1, verbose=0)
    after = trainer.variables["params"]
    equal = jax.tree.map(lambda a, b: bool((a == b).all()), before, after)
    assert all(jax.tree.leaves(equal["encoder"])) and not all(jax.tree.leaves(equal["decoder"]))


def test_regularizers_and_constraints_of_weights():
    def make(k):
        class Squeezed(k.layers.Layer):
            def build(self, shape):
                self.w = self.add_weight(
                    shape=(shape[-1], 2), name="w", initializer="ones", regularizer="l2", constraint="non_neg"
                )

            def call(self, x):
                return k.ops.matmul(x, self.w)

        inputs = k.Input((5,))
        return k.Model(inputs, Squeezed()(inputs))

    theirs, ours, weights = both(make)
    x, y = STEPS[:, 0], np.full((3, 2), -3.0, "float32")
    theirs.compile(keras.optimizers.SGD(0.5), "mse")
    expected = theirs.fit(x, y, batch_size=3, epochs=3, shuffle=False, verbose=0).history["loss"]
    trainer = Trainer(ours, optimizers.SGD(0.5), "mse", seed=0, variables=variables_of(ours, x, weights))
    history = trainer.fit(x, y, batch_size=3, epochs=3, shuffle=False, verbose=0).history
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)
    kernel = interop.get_keras_weights(ours, trainer.variables)[0]
    np.testing.assert_allclose(kernel, theirs.get_weights()[0], rtol=1e-5, atol=1e-6)
    assert (kernel >= 0).all()


def test_mixed_precision_reads_weights_in_the_compute_dtype():
    seen = []

    class Reads(Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1],), name="w", initializer="ones")
            self.count = self.add_weight(shape=(), name="count", dtype="int32", initializer="zeros", trainable=False)
            self.exact = self.add_weight(shape=(), name="exact", initializer="ones", autocast=False)

        def call(self, x):
            seen.append((x.dtype, self.w.dtype, self.w.value.dtype, self.count.dtype, self.exact.dtype))
            return x * self.w

    variables = Reads(dtype="mixed_bfloat16").init(jax.random.key(0), STEPS)
    assert [str(dtype) for dtype in seen[-1]] == ["bfloat16"] * 3 + ["int32", "float32"]
    assert variables["params"]["w"].dtype == jnp.float32
    Reads().init(jax.random.key(0), STEPS)
    assert [str(dtype) for dtype in seen[-1]] == ["float32"] * 3 + ["int32", "float32"]


def test_transformations_of_flax():
    class Block(Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(3, kernel_regularizer="l2")

        def build(self, shape):
            self.gain = self.add_weight(shape=(shape[-1],), name="gain", initializer="ones", regularizer="l2")

        def call(self, x, training=None):
            return self.dense(x * self.gain) * (2.0 if training else 1.0)

    plain = Sequential([Block(), layers.Dense(1)])
    variables = plain.init(jax.random.key(0), STEPS)
    rematted = Sequential([nn.remat(Block)(name="block"), layers.Dense(1)])
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)  # noqa: E731
    assert shapes(rematted.init(jax.random.key(0), STEPS)) == shapes(variables)
    for train in (False, True):
        expected, losses = plain.apply(variables, STEPS, train=train, mutable=["losses"])
        outputs, same = rematted.apply(variables, STEPS, train=train, mutable=["losses"])
        np.testing.assert_allclose(outputs, expected, rtol=1e-6)
        np.testing.assert_allclose(*(sum(jax.tree.leaves(tree)) for tree in (same, losses)), rtol=1e-6)
    gradients = [
        jax.grad(lambda v, m=m: m.apply(v, STEPS).sum())({"params": variables["params"]}) for m in (plain, rematted)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *gradients)


def test_shared_sublayers_have_one_set_of_weights():
    class Twice(Layer):
        def __init__(self):
            super().__init__()
            self.a = layers.Dense(5)
            self.b = [self.a, Sequential([layers.Dense(5)])]

        def call(self, x):
            return self.b[1](self.b[0](self.a(x)))

    layer = Twice()
    layer.build((None, 5))
    variables = layer.init(jax.random.key(0), STEPS[:, 0])
    assert list(variables["params"]) == ["a", "b_1"]
    assert len(interop.get_keras_weights(layer, variables)) == 4


def test_models_of_inputs_and_outputs_in_a_constructor():
    class Functional(Model):
        def __init__(self, units):
            inputs = Input((5,))
            self.units = units
            super().__init__(inputs=inputs, outputs=layers.Dense(units)(inputs))

    class Stacked(Sequential):
        def __init__(self):
            super().__init__()
            self.add(layers.Dense(4))
            self.add(layers.Dropout(0.5))

        def call(self, x):
            return 2 * super().call(x)

    x = STEPS[:, 0]
    model = Functional(3)
    variables = model.init(jax.random.key(0), x)
    assert list(variables["params"]) == ["dense"] and model.apply(variables, x).shape == (3, 3)
    stacked = Stacked()
    variables = stacked.init(jax.random.key(0), x)
    plain = Sequential([layers.Dense(4), layers.Dropout(0.5)])
    np.testing.assert_allclose(stacked.apply(variables, x), 2 * plain.apply(variables, x), rtol=1e-6)
    noisy = stacked.apply(variables, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert (noisy == 0).any()


def test_layers_made_inside_a_call():
    class Makes(Layer):
        def __init__(self):
            super().__init__()
            self.dense = None

        def call(self, x):
            if self.dense is None:
                self.dense = layers.Dense(3)
            return layers.Activation("relu")(layers.Dropout(0.5)(self.dense(x)))

    layer = Makes()
    variables = layer.init(jax.random.key(0), STEPS)
    assert list(variables["params"]) == ["dense"] and layer.dense is None
    layer(Input((4, 5)))
    assert [name for name, _ in layer.children()] == ["dense"]
    np.testing.assert_allclose(layer.apply(variables, STEPS), jax.nn.relu(
        layers.Dense(3).apply({"params": variables["params"]["dense"]}, STEPS)), rtol=1e-6)  # fmt: skip


def test_an_input_spec_is_checked():
    class Spec:
        ndim, axes = 3, {-1: 5}

    class Checked(Layer):
        def __init__(self):
            super().__init__()
            self.input_spec = Spec()

        def call(self, x):
            return x

    assert Checked().apply({}, STEPS).shape == STEPS.shape
    with pytest.raises(
        ValueError, match=r"Checked takes inputs of 3 axes, as its `input_spec` says, got shape \(4, 5\)"
    ):
        Checked().apply({}, STEPS[0])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_stateless_calls_equal_those_of_keras():
    theirs = vae(keras)
    x = STEPS[:, 0]
    theirs(x)
    theirs.encoder.trainable = False
    ours = vae(OURS)
    ours.build((None, 5))
    ours.encoder.trainable = False
    trained, others = (
        [np.asarray(v) for v in vs] for vs in (theirs.trainable_variables, theirs.non_trainable_variables)
    )
    expected, rest, losses = theirs.stateless_call(trained, others, x, training=True, return_losses=True)
    outputs, mine, added = ours.stateless_call(trained, others, x, training=True, return_losses=True)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sum(added), sum(losses), rtol=1e-5)
    for value, wanted in zip(mine, rest, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(
        ValueError, match="`trainable_variables` of VariationalAutoEncoder 'autoencoder' must have the shapes"
    ):
        ours.stateless_call(trained[1:], others, x)
    # The attributes give the order of weights before the first call, unless a class has a `build` of its own.
    fresh = vae(OURS)
    fresh.encoder.trainable = False
    np.testing.assert_allclose(fresh.stateless_call(trained, others, x, training=True)[0], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="Scale 'scale' is not built, so the order of its weights is unknown"):
        scale(OURS).stateless_call([np.ones(5)], [], x)


def scale(k):
    class Scale(k.layers.Layer):
        def build(self, input_shape):
            self.factor = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="factor")

        def call(self, inputs):
            return inputs * self.factor

    return Scale(name="scale")
