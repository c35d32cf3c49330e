"""Models whose loss calls a layer that their `call` does not use, such as a teacher."""

import re

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


def network(k, value):
    constant = k.initializers.Constant(value)
    hidden = k.layers.Dense(2, "tanh", kernel_initializer=constant)
    return k.Sequential(
        [k.Input((3,)), hidden, k.layers.BatchNormalization(), k.layers.Dense(1, kernel_initializer=constant)]
    )


def distiller(k, teacher, training=False):
    class Distiller(k.Model):
        def __init__(self):
            super().__init__()
            self.student, self.teacher = network(k, 0.1), teacher

        def compile(self, optimizer, alpha):
            super().compile(optimizer=optimizer, metrics=["mae"])
            self.alpha = alpha

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, allow_empty=False):
            soft = self.teacher(x, training=training)
            return self.alpha * k.ops.mean((y - y_pred) ** 2) + (1 - self.alpha) * k.ops.mean((soft - y_pred) ** 2)

        def call(self, x):
            return self.student(x)

    return Distiller()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("is_trained", [False, True])
def test_a_teacher_that_only_the_loss_calls_trains_as_in_keras(is_trained, training):
    def run(k):
        model = distiller(k, network(k, 0.3), training)
        model.teacher.trainable = is_trained
        model.compile("sgd", 0.1)
        options = {"batch_size": 2, "epochs": 2, "shuffle": False, "verbose": 0}
        history = model.fit(X, Y, validation_data=(X, Y), **options).history
        numbers = [len(model.weights), len(model.trainable_weights)]
        evaluated = model.evaluate(X, Y, verbose=0, return_dict=True)
        return (
            history,
            model.get_weights(),
            model.teacher.get_weights(),
            numbers,
            evaluated,
            model.predict(X, verbose=0),
        )

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), run(keras), run(theirs))


def test_a_frozen_teacher_keeps_its_weights_and_the_student_moves_by_hand():
    class Distiller(keras.Model):
        def __init__(self):
            super().__init__()
            self.student = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
            self.teacher = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", trainable=False)
            self.teacher.build((None, 3))

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return keras.ops.mean((self.teacher(x) - y_pred) ** 2)

        def call(self, x):
            return self.student(x)

    model = Distiller()
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(X, Y, batch_size=5, epochs=1, verbose=0)
    np.testing.assert_allclose(model.student.kernel, 0.2 / 5 * X.T @ X @ np.ones((3, 1)), rtol=1e-5)
    np.testing.assert_array_equal(model.teacher.kernel, np.ones((3, 1)))


def test_a_teacher_without_weights_is_refused():
    model = distiller(keras, keras.Sequential([keras.layers.Dense(1)]))
    model.teacher.name = "teacher"
    model.compile("sgd", 0.1)
    sentence = (
        "A layer that only `compute_loss` calls must have its weights before the training, got 'teacher' of Distiller "
        "without weights; build it first, or start it with an Input."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        model.fit(X, Y, verbose=0)
