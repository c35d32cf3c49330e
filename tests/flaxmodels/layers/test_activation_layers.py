"""Activation layers, compared with hand-computed values and Keras, and their errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Sequential, layers
from tests.support.layer_oracle import assert_arguments, assert_as_keras, numbers, truths
from tests.support.spatial_oracle import refuses

NAMES = ("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax")


def of(layer, *values, **call):
    return np.asarray(layer.apply({}, jnp.asarray(values, jnp.float32), **call), np.float64).round(6).tolist()


# ---------------------------------------------------------------- hand-computed values


def test_rectifiers_by_hand():
    assert of(layers.ReLU(), -1, 0, 2) == [0, 0, 2]
    assert of(layers.ReLU(max_value=1, negative_slope=0.5, threshold=0.5), -1.5, 0.25, 0.75, 2) == [-1, -0.125, 0.75, 1]
    assert of(layers.LeakyReLU(), -10, 5) == [-3, 5]
    assert of(layers.ELU(alpha=2), -100, 3) == [-2, 3]
    assert of(layers.Activation("relu"), -1, 2) == [0, 2]
    assert of(layers.Activation(jnp.square), -3) == [9]


def test_prelu_by_hand():
    x = jnp.array([[[-1.0, -2.0], [3.0, -4.0]]])
    assert layers.PReLU().apply({"params": {"alpha": jnp.array([[1.0, 2.0], [3.0, 4.0]])}}, x).tolist() == [
        [[-1, -4], [3, -16]]
    ]
    shared = layers.PReLU(shared_axes=1)
    assert shared.init(jax.random.key(0), x)["params"]["alpha"].shape == (1, 2)
    assert shared.apply({"params": {"alpha": jnp.array([[1.0, 2.0]])}}, x).tolist() == [[[-1, -4], [3, -8]]]


def test_softmax_by_hand():
    x = np.log([1, 2, 5])
    assert of(layers.Softmax(), *x) == [0.125, 0.25, 0.625]
    assert of(layers.Softmax(), *x, mask=jnp.array([True, True, False])) == [0.333333, 0.666667, 0]
    assert of(layers.Softmax(), *x, mask=jnp.array([0.0, 1.0, 1.0])) == [0, 0.285714, 0.714286]
    assert of(layers.Softmax(), *x, mask=jnp.zeros(3, bool)) == [0, 0, 0]


def test_softmax_over_several_axes_sums_to_one():
    y = layers.Softmax(axis=(1, 2)).apply({}, jnp.asarray(numbers(0, 2, 3, 4)))
    np.testing.assert_allclose(y.sum((1, 2)), [1, 1], rtol=1e-6)


def test_softmax_gradient_is_finite_if_all_elements_are_masked():
    grad = jax.grad(lambda x: layers.Softmax().apply({}, x, mask=jnp.zeros(3, bool))[0].sum())(jnp.ones((1, 3)))
    assert grad.tolist() == [[0, 0, 0]]


def test_softmax_of_bfloat16_is_summed_in_float32():
    y = layers.Softmax(dtype="bfloat16").apply({}, jnp.zeros((1, 1000)))
    assert y.dtype == jnp.bfloat16
    assert float(y[0, 0]) == pytest.approx(0.001, rel=4e-3)
    mask = jnp.arange(1000) < 900
    masked = layers.Softmax(dtype="bfloat16").apply({}, jnp.zeros((1, 1000)), mask=mask)
    assert float(masked[0, 0]) == pytest.approx(1 / 900, rel=4e-3)


def test_all_layers_but_activation_cast_integers_to_floats():
    assert layers.ReLU().apply({}, jnp.array([-1, 2])).dtype == jnp.float32
    assert layers.Activation(lambda x: x + 1).apply({}, jnp.array([1])).dtype == jnp.int32


def test_masks_are_passed_on_and_reach_softmax():
    for layer in (layers.Activation("relu"), layers.ReLU(), layers.LeakyReLU(), layers.ELU()):
        _, mask = layer.apply({}, jnp.ones((1, 2)), mask=jnp.array([[True, False]]), method="outputs_and_mask")
        assert mask.tolist() == [[True, False]]


def test_softmax_uses_the_mask_of_a_model():
    model = Sequential([Input((2, 2)), layers.Masking(), layers.Softmax(axis=1)])
    y = model.apply({}, jnp.array([[[1.0, 5.0], [0.0, 0.0]]]))
    # As in Keras, the mask [B, T] is aligned with the last axes, so it hides the second feature, not the second step.
    np.testing.assert_allclose(y, [[[np.e / (np.e + 1), 0], [1 / (np.e + 1), 0]]], rtol=1e-6)


# ---------------------------------------------------------------- Keras


@pytest.mark.parametrize("name", NAMES)
def test_arguments_equal_those_of_keras(name):
    assert_arguments(name)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("Activation", {"activation": "gelu"}),
        ("ReLU", {"max_value": 1.0, "negative_slope": 0.2, "threshold": 0.3}),
        ("ReLU", {"max_value": 6.0, "negative_slope": 0.1}),
        ("LeakyReLU", {"negative_slope": 0.1}),
        ("ELU", {"alpha": 0.7}),
        ("PReLU", {}),
        ("PReLU", {"shared_axes": [1, 2]}),
        ("PReLU", {"shared_axes": 3, "alpha_initializer": "ones"}),
        ("Softmax", {"axis": (1, 3)}),
        ("Softmax", {"axis": [2]}),
    ],
)
def test_as_keras(name, config):
    assert_as_keras(name, config, 2 * numbers(0, 2, 3, 4, 5))


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 4), (4,), (2, 1, 4)])
@pytest.mark.parametrize("axis", [-1, (1, 2)])
def test_masked_softmax_as_keras(shape, axis):
    assert_as_keras("Softmax", {"axis": axis}, numbers(0, 2, 3, 4), {"mask": truths(1, *shape)})


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: layers.ReLU(max_value=-1),
            "`max_value` of ReLU must be a number of at least 0, got -1; give None for no cap.",
        ),
        (
            lambda: layers.ReLU(threshold=None),
            "`threshold` of ReLU must be a number of at least 0, got None; give 0 for none.",
        ),
        (
            lambda: layers.LeakyReLU(-0.5),
            "`negative_slope` of LeakyReLU must be a number of at least 0, got -0.5; give 0 for none.",
        ),
        (
            lambda: layers.PReLU(shared_axes=(0, 1)).init(jax.random.key(0), jnp.ones((2, 3, 4))),
            "`shared_axes` of PReLU must be axes from 1 to 2 of inputs of shape (2, 3, 4), got (0, 1); leave out "
            "the batch axis, and count from the front.",
        ),
        (
            lambda: layers.Softmax(name="odds").apply({}, jnp.ones((2, 3)), mask=jnp.ones((2,), bool)),
            "The mask of Softmax 'odds' must have the inputs' sizes or 1 on its axes, aligned at the end, got a "
            "mask of shape (2,) for inputs of shape (2, 3); add the missing axes to the mask.",
        ),
        (
            lambda: layers.Softmax().apply({}, jnp.ones(3), mask=jnp.ones((2, 3), bool)),
            "The mask of Softmax must have the inputs' sizes or 1 on its axes, aligned at the end, got a mask of "
            "shape (2, 3) for inputs of shape (3,); add the missing axes to the mask.",
        ),
    ],
)
def test_error_messages(make, sentence):
    with refuses(sentence):
        make()


def test_unknown_activation_raises_at_construction():
    with pytest.raises(ValueError, match="^Unknown activation 'rleu'. Did you mean 'relu'"):
        layers.Activation("rleu")
