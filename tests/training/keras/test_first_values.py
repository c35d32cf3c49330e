"""Weights that exist before the first call, and state that calls on arrays change, compared with Keras."""

import keras as reference
import numpy as np
import pytest

from tests.support.random_bits import assert_same_draws
from training import keras as facade


def summing(keras, **options):
    class ComputeSum(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.total = self.add_weight(shape=(2,), initializer="zeros", trainable=False, **options)

        def call(self, x):
            self.total.assign_add(keras.ops.sum(x, axis=0))
            return self.total

    return ComputeSum()


def projecting(keras):
    class Projection(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.scale = self.add_weight(shape=(1, 2))

        def build(self, s):
            self.matrix = self.add_weight(shape=(s[-1], 2), initializer="he_normal")

        def call(self, x):
            return x @ self.matrix * self.scale

    return Projection()


def in_both(program):
    results = []
    for keras in (reference, facade):
        keras.utils.set_random_seed(0)
        keras.backend.clear_session()
        results.append(program(keras))
    return results


def test_a_call_on_arrays_keeps_the_state_that_it_assigns():
    layer = summing(facade)
    x = np.ones((2, 2), np.float32)
    assert [np.asarray(layer(x)).tolist() for _ in range(3)] == [[2, 2], [4, 4], [6, 6]]
    assert layer.total.numpy().tolist() == layer.get_weights()[0].tolist() == [6, 6]


def test_a_weight_of_the_constructor_has_a_value_at_once():
    layer = projecting(facade)
    assert len(layer.weights) == len(layer.trainable_weights) == layer.count_params() - 1 == 1
    layer.scale.assign(np.array([[1, 2]], np.float32))
    assert layer.get_weights()[0].tolist() == layer.scale.numpy().tolist() == [[1, 2]]
    layer.set_weights([np.zeros((1, 2))])
    assert layer(np.ones((1, 3), np.float32)).tolist() == [[0, 0]]


def test_weights_have_the_values_and_names_of_keras():
    def program(keras):
        layers = [projecting(keras), projecting(keras)]
        layers[0].build((None, 3))
        layers[1](np.ones((1, 3), np.float32))
        return [weight for layer in layers for weight in layer.weights]

    expected, got = in_both(program)
    assert [weight.name for weight in got] == [weight.name for weight in expected]
    for weight, other in zip(got, expected, strict=True):
        assert_same_draws(weight, other)


def test_more_arrays_than_weights_are_refused():
    layer = projecting(facade)
    sentence = f"^{layer.name} has 1 weights yet, got 2 arrays; build it, or call it on data first.$"
    with pytest.raises(ValueError, match=sentence):
        layer.set_weights([np.zeros((1, 2)), np.zeros((1, 2))])
