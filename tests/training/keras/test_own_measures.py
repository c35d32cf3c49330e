"""Losses, metrics and hooks that models of training.keras compute themselves, beyond what Keras on JAX can do."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from training import keras

X, Y = np.linspace(0, 1, 22, dtype="float32").reshape(11, 2), np.ones((11, 1), "float32")


def refuses(error, sentence):
    return pytest.raises(error, match=f"^{re.escape(sentence)}$")


class Rate(keras.layers.Layer):
    """Tracks the mean of its inputs."""

    def __init__(self):
        super().__init__()
        self.seen = keras.metrics.Mean(name="seen")

    def call(self, inputs):
        self.seen.update_state(inputs)
        return inputs


def test_a_layer_tracks_a_metric_inside_of_call():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1)(Rate()(inputs)))
    model.compile("sgd", "mse", metrics=["mae"])
    history = model.fit(X, Y, batch_size=4, verbose=0, validation_data=(X[:3], Y[:3]))
    assert list(history.history) == ["loss", "mae", "seen", "val_loss", "val_mae", "val_seen"]
    np.testing.assert_allclose(history.history["seen"], X.mean(), rtol=1e-6)
    np.testing.assert_allclose(history.history["val_seen"], X[:3].mean(), rtol=1e-6)
    model.predict(X, verbose=0)  # leaves the metric unchanged
    np.testing.assert_allclose(model.metrics[-1].result(), X[:3].mean(), rtol=1e-6)


def test_random_numbers_of_a_loss_differ_from_step_to_step():
    seen = []

    class Noisy(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            noise = keras.random.normal(())
            return jnp.mean(y_pred) * 0 + noise

    inputs = keras.Input((2,))
    model = Noisy(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd")
    seen = [model.train_on_batch(X) for _ in range(4)]
    assert len(set(seen)) == 4
    again = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(logs["loss"]))
    model.fit(X, batch_size=4, verbose=0, callbacks=[again])
    assert len(set(seen)) == 7


def test_later_fits_of_a_class_compile_nothing():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, inputs):
            return self.dense(inputs)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            traced.append(training)
            return jnp.mean((y - y_pred) ** 2)

    traced = []
    model = Own()
    model.compile("sgd")
    model.fit(X, Y, batch_size=4, verbose=0)
    count = len(traced)
    for _ in range(3):
        model.fit(X, Y, batch_size=4, verbose=0)
        model.get_weights()
    assert len(traced) == count


def test_wrong_losses_are_refused():
    inputs = keras.Input((2,))

    class Several(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return y_pred[:, 0]

    model = Several(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd")
    # JAX adds a note after the sentence.
    sentence = "`compute_loss` of Several must return one number, got shape (11,); return the mean."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        model.fit(X, verbose=0)
    plain = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    plain.compile("sgd")
    with refuses(
        ValueError,
        "Training needs a loss, got none and a model whose layers add none; write, for example, Trainer(model, "
        "loss='mse'), or call `add_loss` in a layer.",
    ):
        plain.fit(X, verbose=0)
    plain.compile("sgd", metrics=["mae"])
    with refuses(ValueError, "`fit` needs labels, got none; write fit(x, y), or give a Split of datasets.load."):
        plain.fit(X, verbose=0)
    with refuses(
        TypeError,
        "Mine defines `train_step`, which is not supported in a Keras class; give Trainer(train_step=...) a function "
        "that makes the step.",
    ):
        type("Mine", (keras.Model,), {"train_step": lambda self, state, data: None})


def test_losses_of_a_loss_and_of_layers_are_available():
    class Sums(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            self.count = len(self.losses)
            return sum(self.losses)

    inputs = keras.Input((2,))
    hidden = keras.layers.Dense(3, kernel_regularizer="l2", bias_regularizer="l1")(inputs)
    model = Sums(inputs, keras.layers.Dense(1, kernel_regularizer="l1")(hidden))
    model.compile("sgd")
    loss = model.test_on_batch(X)
    first, bias, second, _ = model.get_weights()
    np.testing.assert_allclose(loss, 0.01 * (np.sum(first**2) + abs(bias).sum() + abs(second).sum()), rtol=1e-5)


def test_single_batches_share_the_state_of_fit():
    model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.fit(X, Y, batch_size=11, verbose=0)
    kernel = model.layers[1].kernel.numpy()
    for _ in range(2):
        model.train_on_batch(X, Y)
    assert int(model.optimizer.iterations) == 3
    assert not np.allclose(model.layers[1].kernel.numpy(), kernel)
    model.layers[1].set_weights([np.zeros((2, 1)), np.full(1, 2.0)])
    np.testing.assert_allclose(model.predict_on_batch(X), 2.0)
    np.testing.assert_allclose(model.test_on_batch(X, Y), 1.0)
    model.layers[1].trainable = False
    model.compile("sgd", "mse")
    model.train_on_batch(X, Y)
    np.testing.assert_array_equal(model.layers[1].kernel.numpy(), np.zeros((2, 1)))
    model.train_on_batch(X, np.zeros((11, 1)), class_weight={0: 2.0})


def test_optimizers_refuse_what_they_cannot_do():
    layer = keras.layers.Dense(1)
    layer.build((None, 2))
    optimizer = keras.optimizers.SGD()
    with refuses(
        ValueError,
        "`apply` of SGD needs weights, got gradients alone; pass them, or call build(variables) first.",
    ):
        optimizer.apply([np.ones((2, 1))])
    with refuses(
        ValueError,
        "`grads` must have a gradient for each of the 2 weights, got 1; give None for a weight that stays.",
    ):
        optimizer.apply([np.ones((2, 1))], layer.trainable_variables)
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile(optimizer, "mse")
    model.fit(X, Y, verbose=0)
    with refuses(
        ValueError,
        "`apply` of SGD needs a state of its own, got an optimizer that trains a model by `fit`; make another "
        "optimizer for your own loop.",
    ):
        optimizer.apply([np.ones((2, 1)), np.ones(1)], layer.trainable_variables)


def test_the_loss_is_scaled_under_the_policy_of_half_precision():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        assert (model.optimizer.name, type(model.optimizer).__name__) == ("loss_scale_optimizer", "LossScaleOptimizer")
        model.fit(X, Y, epochs=3, verbose=0)
        done = int(model.optimizer.step_counter.value)  # overflows skip the first steps and halve the scale
        assert 0 < done <= 3 and float(model.optimizer.dynamic_scale.value) == 2.0 ** (15 - (3 - done))
        model.compile("adam", "mse", auto_scale_loss=False)
        assert type(model.optimizer).__name__ == "Adam"
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_loss_class_with_own_call_gets_whole_batches_without_padding():
    """Counted by hand: the loss is the square of the sum over the batch, and the last batch has 2 of 3 rows."""

    class SquareOfSum(keras.losses.Loss):
        def __call__(self, y_true, y_pred, sample_weight=None):
            values = y_pred[:, 0] - y_true[:, 0]
            return keras.ops.square(keras.ops.sum(values if sample_weight is None else values * sample_weight))

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones", use_bias=False)])
    model.compile(keras.optimizers.SGD(0.0), SquareOfSum())
    x, y = np.arange(5, dtype="float32")[:, None], np.full((5, 1), 1, "float32")
    # Sums -1 + 0 + 1 and 2 + 3; each batch counts once per row. With weights 0, 1, 2, 3, 0: 0 + 2 and 6 + 0.
    assert model.fit(x, y, batch_size=3, shuffle=False, verbose=0).history["loss"] == [(3 * 0 + 2 * 25) / 5]
    assert model.evaluate(x, y, batch_size=3, verbose=0) == (3 * 0 + 2 * 25) / 5
    weights = np.array([0, 1, 2, 3, 0], "float32")
    assert np.isclose(model.evaluate(x, y, 3, sample_weight=weights, verbose=0), (3 * 4 + 2 * 36) / 5)
