"""The layer that masks padded steps of a sequence."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from flaxmodels.layers import checks
from flaxmodels.layers.base import Layer
from flaxmodels.layers.tracing import Lookup, Sources
from flaxmodels.trees import MaskTree


class Masking(Layer):
    """Masks the steps whose features all equal a value, and sets them to zero.

    mask = any(x != mask_value, over the features); y = x where mask, else 0.
    `Sequential` and `Model` pass the mask to the layers and losses that use it.

    Args:
        mask_value: Value of all features of a masked step; a number, or one number for each feature.

    Shapes: x [B, T, ..., F] -> the same; the mask is [B, T, ...].

    Raises:
        ValueError: If `mask_value` is not a number, or does not fit the features.

    References:
        Keras, `keras.layers.Masking`.

    Example:
        >>> x = jnp.array([[[0.0, 0.0], [0.0, 3.0]]])
        >>> y, mask = Masking().bind({}).outputs_and_mask(x)
        >>> mask.tolist()
        [[False, True]]
    """

    mask_value: ArrayLike = 0.0

    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not checks.is_array(np.asarray(self.mask_value)):
            raise ValueError(
                f"`mask_value` of {self.label} must be a number, got {self.mask_value!r}; give, for example, 0.0."
            )
        super().__post_init__()

    @nn.nowrap
    def trace_inputs(
        self, sources: Sources, lookups: list[Lookup], path: str, *args: object, **kwargs: object
    ) -> Sources:
        """Returns the sources if masking leaves all values unchanged, which is the case if `mask_value` is 0."""
        return sources if np.all(np.asarray(self.mask_value) == 0) else frozenset()

    def compute(self, inputs: jax.Array) -> jax.Array:
        """Returns the inputs with masked steps set to zero."""
        inputs = jnp.asarray(inputs)
        return jnp.where(jnp.expand_dims(self.compute_mask(inputs, None), -1), self.cast_floats(inputs), 0)

    def compute_mask(self, inputs: jax.Array, mask: MaskTree = None) -> jax.Array:
        """Returns the steps with a feature other than `mask_value`; as in Keras, the mask of the inputs is ignored."""
        inputs, value = jnp.asarray(inputs), np.asarray(self.mask_value)
        if inputs.ndim < 2:
            self.check_rank(inputs, "B T F")
        if not jnp.issubdtype(inputs.dtype, jnp.inexact) and np.issubdtype(value.dtype, np.inexact):
            inputs = inputs.astype(jnp.float32)
        if any(n not in (1, m) for n, m in zip(value.shape[::-1], inputs.shape[::-1], strict=False)) or (
            value.ndim > inputs.ndim
        ):
            raise ValueError(
                f"`mask_value` of {self.label} must be a number, or one number for each feature, got shape "
                f"{value.shape} for inputs of shape {inputs.shape}; give one number."
            )
        value = value.reshape((1,) * (inputs.ndim - value.ndim) + value.shape)
        return jnp.any(inputs != jnp.asarray(value, inputs.dtype), axis=-1)
