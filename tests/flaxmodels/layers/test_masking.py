import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Sequential, layers


@pytest.mark.parametrize(
    ("options", "x", "want"),
    [
        ({}, [[[0.0, 0.0], [0.0, 3.0]]], [[False, True]]),
        ({"mask_value": -1}, [[[-1.0, -1.0], [0.0, 0.0], [-1.0, 0.0]]], [[False, True, True]]),
        ({"mask_value": 0.1}, [[[0.1], [0.1000001], [np.nan]]], [[False, True, True]]),
        ({"mask_value": 0.5}, [[[0], [1]]], [[True, True]]),
        ({"mask_value": 1}, [[[0], [1]]], [[True, False]]),
        ({"mask_value": np.array([1.0, 2.0])}, [[[1.0, 2.0], [2.0, 1.0]]], [[False, True]]),
        ({}, [[[[0.0], [1.0]]]], [[[False, True]]]),
    ],
)
def test_steps_of_the_value_are_masked_and_set_to_zero(options, x, want):
    x = jnp.asarray(x)
    layer = layers.Masking(**options)
    assert layer.compute_mask(x, None).tolist() == want
    y = jax.jit(layer.apply)({}, x)
    np.testing.assert_array_equal(y, np.where(np.array(want)[..., None], x, 0))
    assert y.dtype == x.dtype


def test_gradients_stop_at_masked_steps():
    x = jnp.array([[[2.0], [0.0], [3.0]]])
    grad = jax.grad(lambda x: (layers.Masking().apply({}, x) ** 2).sum())(x)
    assert grad.ravel().tolist() == [4.0, 0.0, 6.0]


def test_the_mask_reaches_the_next_layer():
    x = jnp.array([[[2.0], [0.0], [3.0]]])
    model = Sequential([layers.Masking(), layers.SimpleRNN(1, activation=None, kernel_initializer="ones")])
    variables = model.init(jax.random.key(0), x)
    variables["params"]["simple_rnn"]["recurrent_kernel"] = jnp.full((1, 1), 10.0)
    assert model.apply(variables, x).tolist() == [[23.0]]
