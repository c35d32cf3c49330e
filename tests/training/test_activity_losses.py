"""Activity losses of wrapped, shared and recurrent layers, compared with float64 computations and with Keras."""

import jax
import keras
import numpy as np
import pytest

import flaxmodels
from flaxmodels import Input, Model, Sequential, interop, layers
from training import Trainer

RNG = np.random.default_rng(0)
B, T = 6, 4
X = RNG.normal(size=(B, T, 3)).astype("float32")
KERNEL, BIAS = RNG.normal(size=(3, 3)), RNG.normal(size=3)
AFFINE = X.astype("float64") @ KERNEL + BIAS  # the outputs of Dense(3)
TWICE = AFFINE @ KERNEL + BIAS


def l2(outputs):
    return 0.01 * (outputs**2).sum() / B


def activity_loss(model, variables, train=False):
    """Returns the sum of all activity losses; the models here have no other losses."""
    _, new = model.apply(variables, X, train=train, mutable=["losses", "batch_stats"])
    return sum(jax.tree.leaves(new["losses"]))


def variables_of(model):
    """Sets all kernels to KERNEL and all biases to BIAS."""
    variables = model.init(jax.random.key(0), X)
    values = {"kernel": KERNEL.astype("float32"), "bias": BIAS.astype("float32")}
    return jax.tree_util.tree_map_with_path(lambda path, leaf: values.get(path[-1].key, leaf), variables)


def keras_loss(build, weights=(KERNEL, BIAS)):
    """Returns the activity losses of Keras; the mean squared error is 0 here."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        model = build(keras)
        model.set_weights([*weights, *model.get_weights()[len(weights) :]])
        model.compile(loss="mse")
        return model.evaluate(X, model.predict(X, verbose=0), batch_size=B, verbose=0)


def dense(library, **kwargs):
    return library.layers.Dense(3, activity_regularizer="l2", **kwargs)


def stack(library, *layers):
    return library.Sequential([library.Input((T, 3)), *layers])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda lib: dense(lib),
        lambda lib: lib.layers.TimeDistributed(dense(lib)),
        lambda lib: lib.layers.TimeDistributed(lib.Sequential([lib.Input((3,)), dense(lib)])),
        lambda lib: stack(lib, lib.layers.TimeDistributed(dense(lib))),
        lambda lib: lib.layers.TimeDistributed(lib.layers.Dense(3), activity_regularizer="l2"),
    ],
    ids=["itself", "each step", "a model at each step", "inside a model", "the wrapper's own"],
)
def test_losses_of_time_steps_are_divided_by_the_number_of_examples(wrap):
    model = stack(flaxmodels, wrap(flaxmodels))
    np.testing.assert_allclose(activity_loss(model, variables_of(model)), l2(AFFINE), rtol=1e-6)


def test_keras_adds_losses_of_models_but_not_of_layers_in_time_distributed():
    def wrapped(lib):
        return lib.Sequential([lib.Input((3,)), dense(lib)])

    of_model = keras_loss(lambda lib: stack(lib, lib.layers.TimeDistributed(wrapped(lib))))
    np.testing.assert_allclose(of_model, l2(AFFINE), rtol=1e-6)
    assert keras_loss(lambda lib: stack(lib, lib.layers.TimeDistributed(dense(lib)))) == 0


def test_nested_time_distributed():
    """Two wrappers fold two time axes into the batch."""
    x = RNG.normal(size=(B, 2, T, 3)).astype("float32")
    model = Sequential([Input((2, T, 3)), layers.TimeDistributed(layers.TimeDistributed(dense(flaxmodels)))])
    kernel = {"kernel": KERNEL.astype("float32"), "bias": BIAS.astype("float32")}
    variables = {"params": {"time_distributed": {"layer": {"layer": kernel}}}}
    _, new = model.apply(variables, x, mutable=["losses"])
    np.testing.assert_allclose(sum(jax.tree.leaves(new["losses"])), l2(x @ KERNEL + BIAS), rtol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_training_and_evaluation_agree_when_steps_are_not_folded(train):
    """The model contains BatchNormalization, so in training TimeDistributed does not fold the steps."""
    inner = Sequential([Input((3,)), dense(flaxmodels), layers.BatchNormalization()])
    model = stack(flaxmodels, layers.TimeDistributed(inner))
    np.testing.assert_allclose(activity_loss(model, variables_of(model), train), l2(AFFINE), rtol=1e-6)


def test_padding_rows_have_no_activity_loss():
    """Six examples in batches of four give a second batch with two padding rows."""
    model = stack(flaxmodels, layers.TimeDistributed(dense(flaxmodels)))
    trainer = Trainer(model, loss="mse", variables=variables_of(model))
    found = trainer.evaluate(X, AFFINE.astype("float32"), batch_size=4)["loss"]
    batches = [0.01 * (AFFINE[rows] ** 2).sum() / len(AFFINE[rows]) for rows in (slice(4), slice(4, 6))]
    np.testing.assert_allclose(found, (4 * batches[0] + 2 * batches[1]) / 6, rtol=1e-5)


def test_a_layer_after_time_distributed_divides_by_examples():
    """The wrapper does not fold the batch for layers outside of it."""
    model = stack(flaxmodels, layers.TimeDistributed(layers.Dense(3)), dense(flaxmodels))
    np.testing.assert_allclose(activity_loss(model, variables_of(model)), l2(TWICE), rtol=1e-6)


def called_twice(library):
    inputs, layer = library.Input((T, 3)), dense(library)
    return library.Model(inputs, layer(layer(inputs)))


def test_each_call_of_a_shared_layer_adds_a_loss():
    model = called_twice(flaxmodels)
    np.testing.assert_allclose(activity_loss(model, variables_of(model)), l2(AFFINE) + l2(TWICE), rtol=1e-6)
    inputs = Input((T, 3))
    nested = Model(inputs, called_twice(flaxmodels)(inputs))
    np.testing.assert_allclose(activity_loss(nested, variables_of(nested)), l2(AFFINE) + l2(TWICE), rtol=1e-6)


def test_keras_adds_all_calls_only_inside_nested_models():
    def nested(lib):
        inputs = lib.Input((T, 3))
        return lib.Model(inputs, called_twice(lib)(inputs))

    np.testing.assert_allclose(keras_loss(nested), l2(AFFINE) + l2(TWICE), rtol=1e-5)
    np.testing.assert_allclose(keras_loss(called_twice), l2(TWICE), rtol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_recurrent_layers_add_activity_losses(kind):
    def build(library):
        return stack(library, getattr(library.layers, kind)(3, return_sequences=True, activity_regularizer="l2"))

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = build(keras)
        weights, outputs = theirs.get_weights(), theirs.predict(X, verbose=0).astype("float64")
    model = build(flaxmodels)
    variables = interop.set_keras_weights(model, model.init(jax.random.key(0), X), weights)
    np.testing.assert_allclose(activity_loss(model, variables), l2(outputs), rtol=1e-5)
    # Keras' SimpleRNN accepts the argument and adds no loss.
    in_keras = keras_loss(build, weights)
    np.testing.assert_allclose(in_keras, 0 if kind == "SimpleRNN" else l2(outputs), rtol=1e-5)


def test_losses_of_layers_alone_train_without_labels():
    model = Sequential([layers.Dense(2, kernel_regularizer="l2", input_shape=(3,))])
    x = np.ones((10, 3), np.float32)
    trainer = Trainer(model, "sgd")
    history = trainer.fit(x, batch_size=4, epochs=2, verbose=0, validation_data=(x[:4],))
    assert list(history.history) == ["loss", "val_loss"]
    assert history.history["loss"][1] < history.history["loss"][0]
    kernel = jax.tree.leaves(trainer.variables)[1]
    np.testing.assert_allclose(history.history["val_loss"][1], 0.01 * np.sum(np.square(kernel)), rtol=1e-5)
    np.testing.assert_allclose(trainer.evaluate(x)["loss"], history.history["val_loss"][1], rtol=1e-6)
