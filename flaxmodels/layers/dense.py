"""Layers that multiply the last axis by a matrix."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels import activations
from flaxmodels.layers.base import Layer


class Dense(Layer):
    """Multiplies the last axis by a kernel, adds a bias, applies an activation.

    y = activation(x @ kernel + bias)

    Args:
        units: Size of the output's last axis.
        activation: Name or function; None keeps y as it is.
        use_bias: Whether a bias is added.
        kernel_initializer: Name or initializer of `kernel`.
        bias_initializer: Name or initializer of `bias`.
        kernel_regularizer: Adds a loss on `kernel`.
        bias_regularizer: Adds a loss on `bias`.
        kernel_constraint: Applied to `kernel` after each update.
        bias_constraint: Applied to `bias` after each update.

    Shapes: x [B, ..., F] -> [B, ..., units].

    Raises:
        ValueError: If `units` is not positive or x has fewer than two axes.

    References:
        Keras, `keras.layers.Dense`.

    Example:
        >>> layer = Dense(2, activation="relu")
        >>> variables = layer.init(jax.random.key(0), jnp.ones((5, 3)))
        >>> layer.apply(variables, jnp.ones((5, 3))).shape
        (5, 2)
    """

    units: int
    activation: Any = None
    use_bias: bool = True
    kernel_initializer: Any = "glorot_uniform"
    bias_initializer: Any = "zeros"
    kernel_regularizer: Any = None
    bias_regularizer: Any = None
    # Keras has `activity_regularizer` in this place, so what follows goes by name alone.
    _: dataclasses.KW_ONLY
    kernel_constraint: Any = None
    bias_constraint: Any = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("kernel", "bias")
    ENDS_IN: ClassVar[str] = "activation"
    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_positive("units")
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        if inputs.ndim < 2:
            raise ValueError(
                f"{self.label} takes inputs of at least 2 axes [B, F], got shape {inputs.shape}; add the missing axis."
            )
        kernel = self.add_weight("kernel", (inputs.shape[-1], self.units))
        outputs = self.cast(inputs) @ kernel
        if self.use_bias:
            outputs = add_bias(outputs, self.add_weight("bias", (self.units,)))
        return activations.get(self.activation)(outputs)


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias [F] to the last axis of x [..., F]."""
    return x + jnp.expand_dims(bias, tuple(range(x.ndim - 1)))
