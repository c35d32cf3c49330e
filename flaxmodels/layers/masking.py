"""The layer that marks steps of a sequence as missing."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.layers.base import Layer


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

    def compute(self, inputs: jax.Array) -> jax.Array:
        inputs = jnp.asarray(inputs)
        return jnp.where(jnp.expand_dims(self.compute_mask(inputs, None), -1), inputs, 0)

    def compute_mask(self, inputs: Any, mask: Any) -> jax.Array:
        """Which steps hold something else than `mask_value`; a mask that comes in is not looked at, as in Keras."""
        inputs, value = jnp.asarray(inputs), np.asarray(self.mask_value)
        if not jnp.issubdtype(inputs.dtype, jnp.inexact) and np.issubdtype(value.dtype, np.inexact):
            inputs = inputs.astype(jnp.float32)
        value = value.reshape((1,) * (inputs.ndim - value.ndim) + value.shape)
        return jnp.any(inputs != jnp.asarray(value, inputs.dtype), axis=-1)
