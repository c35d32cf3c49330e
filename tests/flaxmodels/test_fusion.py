"""Fused pairs of layers equal separate layers, and are fused only if nothing observes the values between them."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from flaxmodels import Input, Model, Sequential, layers
from flaxmodels.kernels import native
from tests.support.model_parts import KEY

X = jax.random.normal(KEY, (3, 9, 8, 2))
needs_kernels = pytest.mark.skipif(not native.available(), reason="needs a C compiler for the kernels")


def graph(*stack, keep=False):
    x = y = Input(X.shape[1:])
    between = [y := layer(y) for layer in stack]
    return Model(x, [between[0], y] if keep else y)


def count_fused(model):
    """Returns the numbers of convolutions fused with pooling and of separate poolings in the model's program."""
    text = str(jax.make_jaxpr(model.apply)(model.init(KEY, X), X))
    return text.count("pooled=True"), text.count("pool_select")


def conv_pool_stack(activation="relu", **pooling):
    return [
        layers.Conv2D(8, 3, activation=activation),
        layers.MaxPooling2D(**pooling),
        layers.Conv2D(8, 2, activation=activation),
        layers.MaxPooling2D(2),
        layers.Flatten(),
    ]


@needs_kernels
@pytest.mark.parametrize("activation", ["relu", None])
@pytest.mark.parametrize("make", [lambda stack: Sequential(stack), lambda stack: graph(*stack)])
def test_convolution_and_pooling_are_fused(make, activation):
    model = make(conv_pool_stack(activation))
    variables = model.init(KEY, X)
    assert count_fused(model) == (2, 0)

    def loss(variables, x, **how):
        y = model.apply(variables, x, **how)
        return ((y[0] if how else y) ** 2).sum()

    fused = jax.value_and_grad(loss, argnums=(0, 1))(variables, X)
    separate = jax.value_and_grad(lambda *of: loss(*of, mutable=["intermediates"]), argnums=(0, 1))(variables, X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), fused, separate)


@needs_kernels
def test_convolution_and_pooling_over_time_are_fused():
    x = jax.random.normal(KEY, (2, 9, 3))
    model = Sequential([layers.Conv1D(9, 3, padding="causal", activation="relu"), layers.MaxPooling1D()])
    variables = model.init(KEY, x)
    assert "pooled=True" in str(jax.make_jaxpr(model.apply)(variables, x))
    y, _ = model.apply(variables, x, mutable=["intermediates"])
    np.testing.assert_allclose(model.apply(variables, x), y, rtol=1e-6, atol=1e-6)


class Custom(layers.Conv2D):
    """A convolution that computes something else."""

    @nn.compact
    def compute(self, inputs):
        return super().compute(inputs) + 1


@needs_kernels
@pytest.mark.spread
@pytest.mark.parametrize(
    "model",
    [
        Sequential(conv_pool_stack(pool_size=2, strides=1)[:2]),
        Sequential(conv_pool_stack(pool_size=3)[:2]),
        Sequential(conv_pool_stack(padding="same")[:2]),
        Sequential(conv_pool_stack("tanh")[:2]),
        Sequential([layers.Conv2D(8, 3, use_bias=False), layers.MaxPooling2D()]),
        Sequential([layers.Conv2D(8, 3, activity_regularizer="l2"), layers.MaxPooling2D()]),
        Sequential([layers.Conv2D(8, 3), layers.MaxPooling2D(activity_regularizer="l2")]),
        Sequential([layers.Conv2D(8, 3), layers.MaxPooling2D(data_format="channels_first")]),
        Sequential([layers.Conv2D(8, 3), layers.MaxPooling2D(dtype="bfloat16")]),
        Sequential([Custom(8, 3), layers.MaxPooling2D()]),
        graph(*conv_pool_stack()[:2], keep=True),
    ],
    ids=str,
)
def test_other_pairs_are_computed_separately(model):
    assert count_fused(model)[0] == 0


@needs_kernels
def test_output_with_two_consumers_is_not_fused():
    x = Input(X.shape[1:])
    y = layers.Conv2D(8, 3)(x)
    assert count_fused(Model(x, layers.Add()([layers.MaxPooling2D()(y), layers.MaxPooling2D()(y)])))[0] == 0


def test_shared_convolution_is_fused_at_each_call():
    conv, pooling = layers.Conv2D(8, 3, activation="relu"), layers.MaxPooling2D()
    x, z = Input(X.shape[1:]), Input(X.shape[1:])
    model = Model([x, z], [pooling(conv(x)), pooling(conv(z))])
    variables = model.init(KEY, [X, X])
    assert list(variables["params"]) == ["conv2d"]
    first, second = model.apply(variables, [X, X + 1])
    np.testing.assert_array_equal(second, model.apply(variables, [X + 1, X])[0])
    assert not np.array_equal(first, second)


def test_outputs_smaller_than_the_window_raise_the_error_of_the_pooling():
    model = Sequential([layers.Conv2D(8, 3), layers.MaxPooling2D()])
    variables = model.init(KEY, X)
    message = (
        r"^MaxPooling2D 'max_pooling2d' with padding='valid' has a window of 2 positions on axis 1, got inputs of shape "
        r"\(3, 1, 6, 8\); make `pool_size` smaller, or use padding='same'\."
    )
    with pytest.raises(ValueError, match=message):
        model.apply(variables, X[:, :3])
