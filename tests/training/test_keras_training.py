"""Compares training with Keras on its JAX backend: the same weights and batches give the same results."""

import jax
import numpy as np
import pytest

import flaxmodels
from flaxmodels import Input, interop
from training import Trainer, optimizers

keras = pytest.importorskip("keras")

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(40, 10, 10, 1)).astype("float32")
LABELS = np.eye(4, dtype="float32")[RNG.integers(0, 4, 40)]

OPTIMIZERS = {
    "sgd": {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True},
    "rmsprop": {},
    "adam": {},
    "adamax": {},
    "nadam": {},
}
CLASSES = {"sgd": "SGD", "rmsprop": "RMSprop", "adam": "Adam", "adamax": "Adamax", "nadam": "Nadam"}


def relaxed():
    """Allows the rank and dtype promotion that Keras needs."""
    return jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard")


def simple_cnn(library, first):
    """Builds a smaller simple CNN without dropout in either library."""
    return library.Sequential(
        [
            first,
            library.layers.Conv2D(8, (3, 3), activation="relu"),
            library.layers.Conv2D(6, (3, 3), activation="relu"),
            library.layers.MaxPooling2D((2, 2)),
            library.layers.Flatten(),
            library.layers.Dense(16, activation="relu"),
            library.layers.Dense(4, activation="softmax"),
        ]
    )


@pytest.fixture(scope="module")
def keras_cnn():
    ranks, dtypes = relaxed()
    with ranks, dtypes:
        model = simple_cnn(keras, keras.Input((10, 10, 1)))
        return model, model.get_weights()


@pytest.mark.rotate
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_five_steps_of_the_simple_cnn(name, keras_cnn):
    """40 images in batches of 9 give four full steps and a padded one."""
    theirs, start = keras_cnn
    ranks, dtypes = relaxed()
    with ranks, dtypes:
        theirs.set_weights(start)
        theirs.compile(
            getattr(keras.optimizers, CLASSES[name])(**OPTIMIZERS[name]),
            "categorical_crossentropy",
            metrics=["accuracy"],
        )
        want = theirs.fit(IMAGES, LABELS, batch_size=9, epochs=1, shuffle=False, verbose=0).history
        want_weights = theirs.get_weights()

    ours = simple_cnn(flaxmodels, Input((10, 10, 1)))
    variables = ours.init(jax.random.key(0), IMAGES[:1])
    trainer = Trainer(
        ours,
        getattr(optimizers, CLASSES[name])(**OPTIMIZERS[name]),
        "categorical_crossentropy",
        ["accuracy"],
        variables=interop.set_keras_weights(ours, variables, start),
    )
    got = trainer.fit(IMAGES, LABELS, batch_size=9, epochs=1, shuffle=False, verbose=0).history
    for a, b, before in zip(interop.get_keras_weights(ours, trainer.variables), want_weights, start, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
        assert np.abs(b - before).max() > 1e-4  # the weights have changed
    np.testing.assert_allclose(got["loss"], want["loss"], rtol=1e-5)
    assert got["accuracy"] == pytest.approx(want["accuracy"])


def test_masked_lstm_with_weights_and_validation():
    """Compares losses, metrics and weights of two epochs with right-padded sequences and sample weights."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(22, 6, 3)).astype("float32")
    for i, length in enumerate(rng.integers(1, 7, 22)):
        x[i, length:] = 0
    y, weight = rng.integers(0, 3, 22).astype("int32"), rng.uniform(0.5, 2, 22).astype("float32")

    def build(library, first):
        return library.Sequential(
            [
                first,
                library.layers.Masking(0.0),
                library.layers.LSTM(5, return_sequences=True),
                library.layers.GRU(4),
                library.layers.Dense(3, activation="softmax", kernel_regularizer="l2"),
            ]
        )

    ranks, dtypes = relaxed()
    with ranks, dtypes:
        theirs = build(keras, keras.Input((6, 3)))
        start = theirs.get_weights()
        theirs.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], weighted_metrics=["accuracy"])
        options = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0, "sample_weight": weight}
        want = theirs.fit(x, y, validation_data=(x[:10], y[:10]), **options).history
        want_weights = theirs.get_weights()

    ours = build(flaxmodels, Input((6, 3)))
    variables = interop.set_keras_weights(ours, ours.init(jax.random.key(0), x[:1]), start)
    trainer = Trainer(
        ours, "adam", "sparse_categorical_crossentropy", ["accuracy"], None, ["accuracy"], variables=variables
    )
    got = trainer.fit(x, y, validation_data=(x[:10], y[:10]), **options).history
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=2e-5, err_msg=name)
    for a, b in zip(interop.get_keras_weights(ours, trainer.variables), want_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_two_outputs_with_class_weights_of_the_loss():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(20, 4)).astype("float32")
    y = [rng.integers(0, 3, 20).astype("int32"), rng.normal(size=(20, 1)).astype("float32")]

    def build(library, inputs):
        hidden = library.layers.Dense(6, activation="tanh", name="hidden")(inputs)
        outputs = [
            library.layers.Dense(3, activation="softmax", name="kind")(hidden),
            library.layers.Dense(1, name="size")(library.layers.Add()([hidden, hidden])),
        ]
        return library.models.Model(inputs, outputs)

    arguments = {
        "optimizer": "sgd",
        "loss": ["sparse_categorical_crossentropy", "mse"],
        "loss_weights": [1.0, 0.3],
        "metrics": [["accuracy"], ["mae"]],
    }
    ranks, dtypes = relaxed()
    with ranks, dtypes:
        theirs = build(keras, keras.Input((4,)))
        start = theirs.get_weights()
        theirs.compile(**arguments)
        want = theirs.fit(x, y, batch_size=6, epochs=3, shuffle=False, verbose=0).history
        want_weights = theirs.get_weights()

    ours = build(flaxmodels, Input((4,)))
    variables = interop.set_keras_weights(ours, ours.init(jax.random.key(0), x[:1]), start)
    trainer = Trainer(ours, variables=variables, **arguments)
    got = trainer.fit(x, y, batch_size=6, epochs=3, shuffle=False, verbose=0).history
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=2e-5, err_msg=name)
    for a, b in zip(interop.get_keras_weights(ours, trainer.variables), want_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
