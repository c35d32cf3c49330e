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


def averaged(k, assign, where):
    """Returns a model with a teacher that follows its student."""

    class Averaged(k.Model):
        def __init__(self, **options):
            super().__init__(**options)
            self.student = k.layers.Dense(1, kernel_initializer="ones")
            self.teacher = k.layers.Dense(1, kernel_initializer="ones", trainable=False)

        def call(self, x, training=False):
            student, teacher = self.student(x), self.teacher(x)
            if training and where == "call":
                assign(self)
            return student + 0.5 * teacher

        if where == "compute_loss":

            def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
                if training:
                    assign(self)
                return k.ops.mean((y - y_pred) ** 2) + k.ops.mean((self.teacher(x) - y) ** 2)

    return Averaged()


def by_attributes(model):
    for name in ("kernel", "bias"):
        teacher, student = getattr(model.teacher, name), getattr(model.student, name)
        teacher.assign(0.9 * teacher + 0.1 * student)


def by_lists(model):
    for teacher, student in zip(model.teacher.weights, model.student.trainable_variables, strict=True):
        teacher.assign(0.9 * teacher + 0.1 * student)


@pytest.mark.parametrize("where", ["call", "compute_loss"])
@pytest.mark.parametrize("assign", [by_attributes, by_lists])
def test_a_layer_may_assign_the_frozen_weights_of_another_as_in_keras(assign, where):
    def run(k):
        model = averaged(k, assign, where)
        model.compile("sgd", "mse")
        options = {"batch_size": 2, "epochs": 2, "shuffle": False, "verbose": 0}
        history = model.fit(X, Y, validation_data=(X, Y), **options).history
        trained = model.get_weights()
        return history, trained, model.train_on_batch(X, Y), model.get_weights(), np.asarray(model(X, training=True))

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), run(keras), run(theirs))


def test_a_teacher_follows_by_hand():
    model = averaged(keras, by_attributes, "call")
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(X, Y, batch_size=5, epochs=1, verbose=0)
    error = X @ np.ones((3, 1)) * 1.5 - Y
    # The teacher averages with the student before its step, which is equal then, and with the moved one after it.
    student = np.ones((3, 1)) - 0.1 * 2 / 5 * X.T @ error
    np.testing.assert_allclose(model.teacher.kernel, np.ones((3, 1)), rtol=1e-6)
    np.testing.assert_allclose(model.student.kernel, student, rtol=1e-5)
    model(X, training=True)
    np.testing.assert_allclose(model.teacher.kernel, 0.9 + 0.1 * student, rtol=1e-5)


def test_values_assigned_to_trained_weights_count_for_the_call_as_in_keras():
    def run(k):
        class Clipped(k.layers.Layer):
            def build(self, shape):
                self.w = self.add_weight(shape=(3, 1), initializer="ones", name="w")

            def call(self, x):
                self.w.assign(k.ops.clip(self.w, -0.5, 0.5))
                return x @ self.w

        layer = Clipped()
        model = k.Sequential([k.Input((3,)), layer])
        model.compile("sgd", "mse")
        found = [model.predict(X, verbose=0), layer.get_weights()]
        found += [model.fit(X, Y, epochs=2, verbose=0, shuffle=False).history, layer.get_weights()]
        return [*found, np.asarray(model(X)), layer.get_weights()]

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), run(keras), run(theirs))


def test_layers_inside_a_frozen_model_are_assigned_through_its_list():
    def run(k):
        class Pair(k.Model):
            def __init__(self):
                super().__init__()
                self.student, self.teacher = (
                    k.Sequential([k.Input((3,)), k.layers.Dense(2, "tanh", kernel_initializer="ones"), k.layers.Dense(1, kernel_initializer="ones")])  # noqa: E501
                    for _ in range(2)
                )  # fmt: skip
                self.teacher.trainable = False

            def call(self, x, training=False):
                outputs = self.student(x) + self.teacher(x)
                if training:
                    for teacher, student in zip(self.teacher.layers, self.student.layers, strict=True):
                        teacher.kernel.assign(0.9 * teacher.kernel + 0.1 * student.kernel)
                return outputs

        model = Pair()
        model.compile("sgd", "mse")
        history = model.fit(X, Y, batch_size=2, epochs=2, shuffle=False, verbose=0).history
        return history, model.get_weights(), model.evaluate(X, Y, verbose=0)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), run(keras), run(theirs))


def test_a_layer_that_is_called_only_in_training_keeps_its_state():
    def run(k):
        class Outer(k.layers.Layer):
            def __init__(self):
                super().__init__()
                self.inner = counter(k)

            def build(self, shape):
                self.inner.build(shape)

            def call(self, x, training=False):
                return self.inner(x) if training else x

        layer = Outer()
        model = k.Sequential([k.Input((3,)), layer])
        model.compile("sgd", "mse")
        first = layer.get_weights()
        history = model.fit(X, X, batch_size=2, epochs=2, shuffle=False, verbose=0).history
        return first, history, layer.get_weights(), model.predict(X, verbose=0)

    found = run(keras)
    assert float(found[2][0]) == 6  # two epochs of three batches
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, run(theirs))
