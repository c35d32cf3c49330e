"""The densely connected layer."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels import activations
from flaxmodels.activations import ActivationLike
from flaxmodels.constraints import ConstraintLike
from flaxmodels.initializers import InitializerLike
from flaxmodels.layers.base import Layer
from flaxmodels.regularizers import RegularizerLike


class Dense(Layer):
    """Multiplies the last axis by a kernel, adds a bias, and applies an activation.

    y = activation(x @ kernel + bias)

    Args:
        units: Size of the output's last axis.
        activation: Activation function or its name; None for none.
        use_bias: Whether a bias is added.
        kernel_initializer: Initializer of `kernel`, or its name.
        bias_initializer: Initializer of `bias`, or its name.
        kernel_regularizer: Regularizer of `kernel`, or its name.
        bias_regularizer: Regularizer of `bias`, or its name.
        kernel_constraint: Constraint on `kernel` after each update, or its name.
        bias_constraint: Constraint on `bias` after each update, or its name.

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
    activation: ActivationLike = None
    use_bias: bool = True
    kernel_initializer: InitializerLike = "glorot_uniform"
    bias_initializer: InitializerLike = "zeros"
    kernel_regularizer: RegularizerLike = None
    bias_regularizer: RegularizerLike = None
    # The next positional argument in Keras is `activity_regularizer`, so the following ones are keyword-only.
    _: dataclasses.KW_ONLY
    kernel_constraint: ConstraintLike = None
    bias_constraint: ConstraintLike = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("kernel", "bias")
    ENDS_IN: ClassVar[str] = "activation"
    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_positive("units")
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Computes activation(inputs @ kernel + bias)."""
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
