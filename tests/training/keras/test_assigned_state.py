"""Variables that custom layers assign in `call` change in every kind of call, as in Keras, also by hand."""

import jax
import keras as theirs
import numpy as np
import pytest

from training import keras

X = np.arange(15, dtype="float32").reshape(5, 3) / 10
Y = X[:, :1]


@pytest.fixture(autouse=True)
def _promotion_as_in_programs():
    """Lets Keras promote ranks and dtypes, as in programs of users."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def counter(k):
    """Returns a layer that adds the number of its calls."""

    class Counter(k.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.counter = self.add_weight(shape=(), initializer="zeros", trainable=False, name="counter")

        def call(self, x):
            self.counter.assign_add(1.0)
            return x + self.counter

    return Counter()


def summer(k):
    """Returns a layer whose state depends on all rows of a batch."""

    class Summer(k.layers.Layer):
        def build(self, shape):
            self.total = self.add_weight(shape=(3,), initializer="zeros", trainable=False, name="total")
            self.rows = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="rows")

        def call(self, x):
            self.total.assign_add(k.ops.sum(x, axis=0))
            self.rows.assign_add(k.ops.shape(x)[0])
            return x + self.total

    return Summer()


def centered(k):
    """Returns a layer that moves its mean outside of training only."""

    class Centered(k.layers.Layer):
        def build(self, shape):
            self.mean = self.add_weight(shape=(3,), initializer="zeros", trainable=False, name="mean")
            self.norm = k.layers.BatchNormalization()

        def call(self, x, training=False):
            if not training:
                self.mean.assign(0.9 * self.mean + 0.1 * k.ops.mean(x, axis=0))
            return self.norm(x - self.mean, training=training)

    return Centered()


def everything(k, make):
    """Returns what each kind of call returns, and the state of the layer after it."""
    layer = make(k)
    model = k.Sequential([k.Input((3,)), layer, k.layers.Dense(1, kernel_initializer="ones")])
    model.compile("sgd", "mse", metrics=["mae"])
    found = []

    def note(result):
        found.append(jax.tree.map(np.asarray, [result, layer.get_weights()]))

    note(model.predict(X, batch_size=2, verbose=0))
    note(model.evaluate(X, Y, batch_size=2, verbose=0))
    note(model.predict_on_batch(X[:2]))
    note(model.test_on_batch(X[:2], Y[:2]))
    note(model(X[:2]))
    note(layer(X[:2]))
    note(model.train_on_batch(X[:2], Y[:2]))
    options = {"batch_size": 2, "epochs": 2, "shuffle": False, "verbose": 0, "validation_batch_size": 3}
    note(model.fit(X, Y, validation_data=(X, Y), **options).history)
    note(model.predict(X, batch_size=4, verbose=0))
    note(model.get_weights())
    return found


@pytest.mark.parametrize("make", [counter, summer, centered])
def test_state_moves_in_every_kind_of_call_as_in_keras(make):
    for number, (found, wanted) in enumerate(zip(everything(keras, make), everything(theirs, make), strict=True)):
        jax.tree.map(
            lambda a, b, number=number: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=str(number)),
            found,
            wanted,
        )


def test_state_counts_batches_and_not_padding_rows():
    layer, count = summer(keras), counter(keras)
    model = keras.Sequential([keras.Input((3,)), count, layer])
    model.compile("sgd", "mse")
    zeros = np.zeros((5, 3), "float32")
    outputs = model.predict(zeros, batch_size=2, verbose=0)
    # The calls add 1, 2 and 3 to batches of 2, 2 and 1 rows, so the sums are 2, then 2 + 4, then 2 + 4 + 3.
    np.testing.assert_array_equal(outputs[:, 0], [1 + 2, 1 + 2, 2 + 6, 2 + 6, 3 + 9])
    assert (int(layer.rows), float(count.counter), np.asarray(layer.total).tolist()) == (5, 3, [9, 9, 9])
    model.evaluate(zeros, zeros, batch_size=4, verbose=0)
    # The next calls add 4 and 5 to batches of 4 and 1 rows.
    assert (int(layer.rows), float(count.counter), np.asarray(layer.total).tolist()) == (10, 5, [30, 30, 30])


def test_batch_hooks_see_the_state_of_each_step():
    layer, states = counter(keras), []
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile("sgd", "mse")

    class Watch(keras.callbacks.Callback):
        def on_predict_batch_end(self, batch, logs=None):
            states.append(float(layer.counter))

    model.predict(X, batch_size=2, verbose=0, callbacks=[Watch()])
    assert states == [1, 2, 3]


def test_models_without_such_layers_have_no_state_in_their_programs():
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    model.compile("sgd", "mse")
    before = model.get_weights()
    model.predict(X, verbose=0)
    model.evaluate(X, X, verbose=0)
    for now, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, old)
