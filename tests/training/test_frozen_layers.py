"""As in Keras, frozen layers have no weight regularizers, but keep their activity regularizers."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

import flaxmodels
from flaxmodels import interop
from training import Trainer, optimizers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4, 3)).astype("float32")
Y = RNG.normal(size=(6, 4, 3)).astype("float32")


def penalized(library, **kwargs):
    return library.layers.Dense(3, kernel_regularizer="l2", **kwargs)


def frozen(layer):
    layer.trainable = False
    return layer


def functional(library, layer, calls=1):
    inputs = outputs = library.Input((4, 3))
    for _ in range(calls):
        outputs = layer(outputs)
    return library.Model(inputs, outputs)


def stack(library, *layers):
    return library.Sequential([library.Input((4, 3)), *layers])


FROZEN = {
    "by an argument": lambda lib: stack(lib, penalized(lib, trainable=False)),
    "after construction": lambda lib: stack(lib, frozen(penalized(lib))),
    "in a frozen Sequential": lambda lib: stack(lib, frozen(stack(lib, penalized(lib)))),
    "in a frozen Model": lambda lib: stack(lib, frozen(functional(lib, penalized(lib)))),
    "two levels down": lambda lib: functional(lib, frozen(stack(lib, stack(lib, penalized(lib))))),
    "shared": lambda lib: functional(lib, penalized(lib, trainable=False), calls=2),
    "in TimeDistributed": lambda lib: stack(lib, lib.layers.TimeDistributed(penalized(lib, trainable=False))),
    "the cell of an RNN": lambda lib: stack(
        lib, lib.layers.RNN(lib.layers.LSTMCell(3, kernel_regularizer="l2", trainable=False), return_sequences=True)
    ),
    "normalization": lambda lib: stack(lib, lib.layers.BatchNormalization(gamma_regularizer="l2", trainable=False)),
    "the whole model": lambda lib: frozen(stack(lib, penalized(lib))),
}


def losses(build):
    """Returns the loss of a batch here and in Keras with equal weights, and the mean squared error in float64."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = build(keras)
        start = [RNG.normal(size=w.shape).astype("float32") ** 2 for w in theirs.get_weights()]
        theirs.set_weights(start)
        theirs.compile(loss="mse")
        outputs = theirs.predict(X, verbose=0).astype("float64")
        want = theirs.evaluate(X, Y, verbose=0)
    ours = build(flaxmodels)
    variables = interop.set_keras_weights(ours, ours.init(jax.random.key(0), X[:1]), start)
    got = Trainer(ours, loss="mse", variables=variables).evaluate(X, Y)["loss"]
    return got, want, ((outputs - Y) ** 2).mean()


@pytest.mark.rotate
@pytest.mark.parametrize("case", FROZEN)
def test_frozen_parameters_have_no_regularizers(case):
    got, want, mse = losses(FROZEN[case])
    np.testing.assert_allclose(got, mse, rtol=1e-6)
    np.testing.assert_allclose(want, mse, rtol=1e-6)


def test_trainable_layers_next_to_frozen_layers_keep_their_regularizers():
    model = stack(flaxmodels, penalized(flaxmodels, trainable=False), penalized(flaxmodels))
    variables = model.init(jax.random.key(0), X)
    _, new = model.apply(variables, X, mutable=["losses"])
    kernel = np.asarray(variables["params"]["dense_1"]["kernel"], "float64")
    assert list(new["losses"]) == ["dense_1"]
    np.testing.assert_allclose(new["losses"]["dense_1"]["kernel"], 0.01 * (kernel**2).sum(), rtol=1e-6)


def test_loss_and_gradient_match_hand_computed_values():
    """Two weights of 3 and an input of 1 give the output 9 for the label 0. Only the second layer is trained and regularized."""

    def line(**kwargs):
        return flaxmodels.layers.Dense(1, kernel_initializer=lambda *_: jnp.full((1, 1), 3.0), use_bias=False, **kwargs)

    model = flaxmodels.Sequential(
        [line(kernel_regularizer="l2", trainable=False, input_shape=(1,)), line(kernel_regularizer="l2")]
    )
    trainer = Trainer(model, optimizers.SGD(0.1), "mse")
    history = trainer.fit(np.ones((1, 1), "float32"), np.zeros((1, 1), "float32"), verbose=0).history
    np.testing.assert_allclose(history["loss"], [81 + 0.01 * 9], rtol=1e-6)
    # d/dw (3 w)^2 + 0.01 w^2 = 18 w + 0.02 w = 54.06 at w = 3
    np.testing.assert_allclose(trainer.variables["params"]["dense_1"]["kernel"], [[3 - 5.406]], rtol=1e-5)
    np.testing.assert_array_equal(trainer.variables["params"]["dense"]["kernel"], [[3.0]])


@pytest.mark.parametrize("place", ["layer", "model"])
def test_frozen_layers_keep_activity_regularizers(place):
    """The activities depend on the trainable layers that precede the frozen layers."""

    def build(library):
        layer = library.layers.Dense(3, activity_regularizer="l2", trainable=place != "layer")
        model = stack(library, layer)
        return frozen(model) if place == "model" else model

    got, want, mse = losses(build)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert got > mse + 0.01


@pytest.mark.parametrize("place", ["layer", "model"])
def test_constraints_do_not_change_frozen_parameters(place):
    """After a step with the learning rate 0, only the trainable kernel is clipped to a norm of 1."""

    def build(library):
        def line(**kwargs):
            constraint = library.constraints.MaxNorm(1.0)
            return library.layers.Dense(1, use_bias=False, kernel_constraint=constraint, **kwargs)

        inner = library.Sequential([library.Input((1,)), line(trainable=place != "layer")])
        return library.Sequential([library.Input((1,)), frozen(inner) if place == "model" else inner, line()])

    x, y, start = np.ones((2, 1), "float32"), np.zeros((2, 1), "float32"), [np.full((1, 1), 3.0, "float32")] * 2
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = build(keras)
        theirs.set_weights(start)
        theirs.compile(keras.optimizers.SGD(0.0), "mse")
        theirs.fit(x, y, verbose=0)
        np.testing.assert_allclose([w[0, 0] for w in theirs.get_weights()], [3, 1], rtol=1e-5)
    ours = build(flaxmodels)
    variables = interop.set_keras_weights(ours, ours.init(jax.random.key(0), x), start)
    trainer = Trainer(ours, optimizers.SGD(0.0), "mse", variables=variables)
    trainer.fit(x, y, verbose=0)
    got = [w[0, 0] for w in interop.get_keras_weights(ours, trainer.variables)]
    np.testing.assert_allclose(got, [3, 1], rtol=1e-5)


@pytest.mark.parametrize(("first", "second"), [(False, True), (True, False)])
def test_layers_are_trainable_if_all_enclosing_models_are(first, second):
    """In Keras, setting `trainable` of a model also sets it for all layers, so the last assignment takes effect."""
    moved = []
    for library in (flaxmodels, keras):
        base = library.Sequential([library.Input((3,)), library.layers.Dense(3, name="inner")])
        model = library.Sequential([library.Input((3,)), base, library.layers.Dense(3)])
        base.trainable = first
        base.layers[-1].trainable = second
        if library is keras:
            with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
                model.compile(keras.optimizers.SGD(0.1), "mse")
                before = base.get_weights()
                model.fit(X[:, 0], Y[:, 0], verbose=0)
                moved.append(not np.array_equal(before[0], base.get_weights()[0]))
            continue
        trainer = Trainer(model, optimizers.SGD(0.1), "mse")
        trainer.build(X[:, 0])
        before = interop.get_keras_weights(model, trainer.variables)
        trainer.fit(X[:, 0], Y[:, 0], verbose=0)
        moved.append(not np.array_equal(before[0], interop.get_keras_weights(model, trainer.variables)[0]))
    assert moved == [False, second]
