"""The layer that marks steps of a sequence as missing."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.layers import checks
from flaxmodels.layers.base import Layer
from flaxmodels.layers.tracing import Lookup


class Masking(Layer):
    """Masks the steps at which all features equal a value, and sets them to zero.

    mask = any(x != mask_value, over the features); y = x where mask, else 0.
    `Sequential` and `Model` carry the mask on to the layers and losses that use it.

    Args:
        mask_value: What marks a step as missing.

    Shapes: x [B, T, ..., F] -> the same; the mask is [B, T, ...].

    References:
        Keras, `keras.layers.Masking`.

    Example:
        >>> x = jnp.array([[[0.0, 0.0], [0.0, 3.0]]])
        >>> y, mask = Masking().bind({}).outputs_and_mask(x)
        >>> mask.tolist()
        [[False, True]]
    """

    mask_value: Any = 0.0

    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not checks.is_array(np.asarray(self.mask_value)):
            raise ValueError(
                f"`mask_value` of {self.label} is a number, got {self.mask_value!r}; give one such as 0.0."
            )
        super().__post_init__()

    @nn.nowrap
    def trace_inputs(self, sources: Any, lookups: list[Lookup], path: str, *args: Any, **kwargs: Any) -> Any:
        """Keeps the values, unless those of masked steps, which become 0, might be out of range."""
        return sources if np.all(np.asarray(self.mask_value) == 0) else frozenset()

    def compute(self, inputs: jax.Array) -> jax.Array:
        inputs = jnp.asarray(inputs)
        return jnp.where(jnp.expand_dims(self.compute_mask(inputs, None), -1), self.cast_floats(inputs), 0)

    def compute_mask(self, inputs: Any, mask: Any) -> jax.Array:
        """Which steps hold something else than `mask_value`; a mask that comes in is not looked at, as in Keras."""
        inputs, value = jnp.asarray(inputs), np.asarray(self.mask_value)
        if inputs.ndim < 2:
            self.check_rank(inputs, "B T F")
        if not jnp.issubdtype(inputs.dtype, jnp.inexact) and np.issubdtype(value.dtype, np.inexact):
            inputs = inputs.astype(jnp.float32)
        if any(n not in (1, m) for n, m in zip(value.shape[::-1], inputs.shape[::-1], strict=False)) or (
            value.ndim > inputs.ndim
        ):
            raise ValueError(
                f"`mask_value` of {self.label} is a number, or one for each feature, got shape {value.shape} for "
                f"inputs of shape {inputs.shape}; give one number."
            )
        value = value.reshape((1,) * (inputs.ndim - value.ndim) + value.shape)
        return jnp.any(inputs != jnp.asarray(value, inputs.dtype), axis=-1)
