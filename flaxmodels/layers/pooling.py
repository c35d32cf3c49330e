"""Pooling: reduces each window of a channel, or all positions of a channel, to one number."""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.kernels import pooling
from flaxmodels.layers.spatial import Spatial


class Pooling(Spatial):
    """Reduces each window of each channel to one number.

    Args:
        pool_size: Size of the window; one integer for all axes, or one per axis.
        strides: Steps of the window; None for `pool_size`, which makes windows adjacent.
        padding: "valid" uses only windows inside the inputs. "same" gives as many outputs as inputs (divided by
            `strides`); a window at the border reduces only the inputs that it covers.
        data_format: "channels_last" (also for None) or "channels_first".

    Raises:
        ValueError: If a size is not positive or the window does not fit into the inputs.
    """

    pool_size: Any
    strides: Any = None
    padding: str = "valid"
    data_format: str | None = None

    REDUCE: ClassVar[Callable[..., jax.Array]]

    def __post_init__(self) -> None:
        self.set_sizes("pool_size")
        if self.strides is None:
            object.__setattr__(self, "strides", self.pool_size)
        self.set_sizes("strides")
        self.set_choice("padding", ("valid", "same"))
        self.set_data_format()
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Reduces each window."""
        self.check_axes(inputs)
        self.check_window(inputs, "pool_size")
        x = self.channels_last(self.cast(inputs))
        return self.to_data_format(type(self).REDUCE(x, self.pool_size, self.strides, self.padding))


class MaxPooling(Pooling):
    """Takes the maximum of each window; `pool_size` is 2 by default."""

    pool_size: Any = 2

    REDUCE = staticmethod(pooling.max_pool)


class AveragePooling(Pooling):
    """Takes the mean of the inputs that each window covers; padding of "same" does not count."""

    REDUCE = staticmethod(pooling.avg_pool)


class SumPooling(Pooling):
    """Takes the sum of each window."""

    REDUCE = staticmethod(pooling.sum_pool)


class MaxPooling1D(MaxPooling):
    """Takes the maximum of each window over time; arguments and errors as in `Pooling`.

    Shapes: x [B, T, C] -> [B, T', C]; channels_first: x [B, C, T] -> [B, C, T'].

    References:
        Keras, `keras.layers.MaxPooling1D`.

    Example:
        >>> MaxPooling1D(2).apply({}, jnp.array([[[1.0], [5.0], [3.0], [4.0]]])).ravel().tolist()
        [5.0, 4.0]
    """

    RANK: ClassVar[int] = 1


class MaxPooling2D(MaxPooling):
    """Takes the maximum of each window over two spatial axes; arguments and errors as in `Pooling`.

    Shapes: x [B, H, W, C] -> [B, H', W', C]; channels_first: x [B, C, H, W] -> [B, C, H', W'].

    References:
        Keras, `keras.layers.MaxPooling2D`.

    Example:
        >>> MaxPooling2D(2).apply({}, jnp.arange(4.0).reshape(1, 2, 2, 1)).ravel().tolist()
        [3.0]
    """

    RANK: ClassVar[int] = 2


class MaxPooling3D(MaxPooling):
    """Takes the maximum of each window over three spatial axes; arguments and errors as in `Pooling`.

    Shapes: x [B, D, H, W, C] -> [B, D', H', W', C]; with channels_first the channels are axis 1.

    References:
        Keras, `keras.layers.MaxPooling3D`.

    Example:
        >>> MaxPooling3D(2).apply({}, jnp.arange(8.0).reshape(1, 2, 2, 2, 1)).ravel().tolist()
        [7.0]
    """

    RANK: ClassVar[int] = 3


class AveragePooling1D(AveragePooling):
    """Takes the mean of each window over time; arguments and errors as in `Pooling`.

    Shapes: x [B, T, C] -> [B, T', C]; channels_first: x [B, C, T] -> [B, C, T'].

    References:
        Keras, `keras.layers.AveragePooling1D`.

    Example:
        >>> AveragePooling1D(2).apply({}, jnp.array([[[1.0], [5.0], [3.0], [4.0]]])).ravel().tolist()
        [3.0, 3.5]
    """

    RANK: ClassVar[int] = 1


class AveragePooling2D(AveragePooling):
    """Takes the mean of each window over two spatial axes; arguments and errors as in `Pooling`.

    Shapes: x [B, H, W, C] -> [B, H', W', C]; channels_first: x [B, C, H, W] -> [B, C, H', W'].

    References:
        Keras, `keras.layers.AveragePooling2D`.

    Example:
        >>> AveragePooling2D(2).apply({}, jnp.arange(4.0).reshape(1, 2, 2, 1)).ravel().tolist()
        [1.5]
    """

    RANK: ClassVar[int] = 2


class AveragePooling3D(AveragePooling):
    """Takes the mean of each window over three spatial axes; arguments and errors as in `Pooling`.

    Shapes: x [B, D, H, W, C] -> [B, D', H', W', C]; with channels_first the channels are axis 1.

    References:
        Keras, `keras.layers.AveragePooling3D`.

    Example:
        >>> AveragePooling3D(2).apply({}, jnp.arange(8.0).reshape(1, 2, 2, 2, 1)).ravel().tolist()
        [3.5]
    """

    RANK: ClassVar[int] = 3


class SumPooling1D(SumPooling):
    """Takes the sum of each window over time; arguments and errors as in `Pooling`.

    Shapes: x [B, T, C] -> [B, T', C]; channels_first: x [B, C, T] -> [B, C, T'].

    References:
        Keras has no such layer; arguments are those of `keras.layers.AveragePooling1D`.

    Example:
        >>> SumPooling1D(2).apply({}, jnp.array([[[1.0], [5.0], [3.0], [4.0]]])).ravel().tolist()
        [6.0, 7.0]
    """

    RANK: ClassVar[int] = 1


class SumPooling2D(SumPooling):
    """Takes the sum of each window over two spatial axes; arguments and errors as in `Pooling`.

    Shapes: x [B, H, W, C] -> [B, H', W', C]; channels_first: x [B, C, H, W] -> [B, C, H', W'].

    References:
        Keras has no such layer; arguments are those of `keras.layers.AveragePooling2D`.

    Example:
        >>> SumPooling2D(2).apply({}, jnp.arange(4.0).reshape(1, 2, 2, 1)).ravel().tolist()
        [6.0]
    """

    RANK: ClassVar[int] = 2


class SumPooling3D(SumPooling):
    """Takes the sum of each window over three spatial axes; arguments and errors as in `Pooling`.

    Shapes: x [B, D, H, W, C] -> [B, D', H', W', C]; with channels_first the channels are axis 1.

    References:
        Keras has no such layer; arguments are those of `keras.layers.AveragePooling3D`.

    Example:
        >>> SumPooling3D(2).apply({}, jnp.arange(8.0).reshape(1, 2, 2, 2, 1)).ravel().tolist()
        [28.0]
    """

    RANK: ClassVar[int] = 3


class GlobalPooling(Spatial):
    """Reduces all positions of each channel to one number.

    Args:
        data_format: "channels_last" (also for None) or "channels_first".
        keepdims: Whether the reduced axes are kept with size 1.

    Raises:
        ValueError: If the inputs have the wrong number of axes or no positions, or `data_format` is unknown.
    """

    data_format: str | None = None
    keepdims: bool = False

    REDUCE: ClassVar[Callable[..., jax.Array]]

    def __post_init__(self) -> None:
        self.set_data_format()
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Reduces all positions."""
        return self.reduce(self.prepare(inputs))

    @nn.nowrap
    def reduce(self, x: jax.Array) -> jax.Array:
        """Reduces the positions of x."""
        return type(self).REDUCE(x, self.position_axes, keepdims=self.keepdims)

    @nn.nowrap
    def prepare(self, inputs: jax.Array) -> jax.Array:
        """Returns the checked inputs in the dtype of the computation."""
        self.check_axes(inputs)
        self.check_not_empty(inputs)
        return self.cast(inputs)

    @nn.nowrap
    def expand_mask(self, inputs: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns the mask with an axis of size 1 for the channels."""
        expected = tuple(inputs.shape[axis] for axis in (0, *self.position_axes))
        if tuple(mask.shape) != expected:
            raise ValueError(
                f"{self.label} takes a mask with a value for each position, of shape {expected}, got shape "
                f"{tuple(mask.shape)}; make the mask from inputs of shape {tuple(inputs.shape)}."
            )
        return jnp.expand_dims(mask.astype(bool), 1 if self.channels_first else -1)


class GlobalMaxPooling(GlobalPooling):
    """Takes the maximum over all positions."""

    REDUCE = staticmethod(jnp.max)


class GlobalAveragePooling(GlobalPooling):
    """Takes the mean over all positions."""

    REDUCE = staticmethod(jnp.mean)


class GlobalSumPooling(GlobalPooling):
    """Takes the sum over all positions."""

    REDUCE = staticmethod(jnp.sum)


class GlobalMaxPooling1D(GlobalMaxPooling):
    """Takes the maximum over time; arguments and errors as in `GlobalPooling`.

    Shapes: x [B, T, C] -> [B, C], or [B, 1, C] if keepdims; channels_first: x [B, C, T].

    References:
        Keras, `keras.layers.GlobalMaxPooling1D`.

    Example:
        >>> GlobalMaxPooling1D().apply({}, jnp.ones((2, 9, 4))).shape
        (2, 4)
    """

    RANK: ClassVar[int] = 1


class GlobalMaxPooling2D(GlobalMaxPooling):
    """Takes the maximum over two spatial axes; arguments and errors as in `GlobalPooling`.

    Shapes: x [B, H, W, C] -> [B, C], or [B, 1, 1, C] if keepdims; channels_first: x [B, C, H, W].

    References:
        Keras, `keras.layers.GlobalMaxPooling2D`.

    Example:
        >>> GlobalMaxPooling2D().apply({}, jnp.ones((2, 7, 7, 4))).shape
        (2, 4)
    """

    RANK: ClassVar[int] = 2


class GlobalMaxPooling3D(GlobalMaxPooling):
    """Takes the maximum over three spatial axes; arguments and errors as in `GlobalPooling`.

    Shapes: x [B, D, H, W, C] -> [B, C], or [B, 1, 1, 1, C] if keepdims; channels_first: x [B, C, D, H, W].

    References:
        Keras, `keras.layers.GlobalMaxPooling3D`.

    Example:
        >>> GlobalMaxPooling3D().apply({}, jnp.ones((2, 3, 5, 5, 4))).shape
        (2, 4)
    """

    RANK: ClassVar[int] = 3


class GlobalAveragePooling1D(GlobalAveragePooling):
    """Takes the mean over the time steps that the mask keeps; arguments and errors as in `GlobalPooling`.

    If the mask keeps no step, the mean is 0, whereas Keras divides by zero.

    Shapes: x [B, T, C], mask [B, T] -> [B, C], or [B, 1, C] if keepdims; channels_first: x [B, C, T].

    References:
        Keras, `keras.layers.GlobalAveragePooling1D`.

    Example:
        >>> x, mask = jnp.array([[[1.0], [3.0], [8.0]]]), jnp.array([[True, True, False]])
        >>> GlobalAveragePooling1D().apply({}, x, mask=mask).tolist()
        [[2.0]]
    """

    RANK: ClassVar[int] = 1

    @nn.compact
    def compute(self, inputs: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Takes the mean over the time steps that the mask keeps."""
        x = self.prepare(inputs)
        if mask is None:
            return self.reduce(x)
        kept, axes, dtype = self.expand_mask(inputs, mask), self.position_axes, np.promote_types(x.dtype, np.float32)
        total = jnp.sum(jnp.where(kept, x, 0), axes, dtype=dtype, keepdims=self.keepdims)
        count = jnp.sum(kept, axes, dtype=dtype, keepdims=self.keepdims)
        return (total / jnp.maximum(count, 1)).astype(x.dtype)


class GlobalAveragePooling2D(GlobalAveragePooling):
    """Takes the mean over two spatial axes; arguments and errors as in `GlobalPooling`.

    Shapes: x [B, H, W, C] -> [B, C], or [B, 1, 1, C] if keepdims; channels_first: x [B, C, H, W].

    References:
        Keras, `keras.layers.GlobalAveragePooling2D`.

    Example:
        >>> GlobalAveragePooling2D().apply({}, jnp.ones((2, 7, 7, 4))).shape
        (2, 4)
    """

    RANK: ClassVar[int] = 2


class GlobalAveragePooling3D(GlobalAveragePooling):
    """Takes the mean over three spatial axes; arguments and errors as in `GlobalPooling`.

    Shapes: x [B, D, H, W, C] -> [B, C], or [B, 1, 1, 1, C] if keepdims; channels_first: x [B, C, D, H, W].

    References:
        Keras, `keras.layers.GlobalAveragePooling3D`.

    Example:
        >>> GlobalAveragePooling3D().apply({}, jnp.ones((2, 3, 5, 5, 4))).shape
        (2, 4)
    """

    RANK: ClassVar[int] = 3


class GlobalSumPooling1D(GlobalSumPooling):
    """Takes the sum over the time steps that the mask keeps; arguments and errors as in `GlobalPooling`.

    Shapes: x [B, T, C], mask [B, T] -> [B, C], or [B, 1, C] if keepdims; channels_first: x [B, C, T].

    References:
        Keras has no such layer; arguments are those of `keras.layers.GlobalAveragePooling1D`.

    Example:
        >>> x, mask = jnp.array([[[1.0], [3.0], [8.0]]]), jnp.array([[True, True, False]])
        >>> GlobalSumPooling1D().apply({}, x, mask=mask).tolist()
        [[4.0]]
    """

    RANK: ClassVar[int] = 1

    @nn.compact
    def compute(self, inputs: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Takes the sum over the time steps that the mask keeps."""
        x = self.prepare(inputs)
        return self.reduce(x if mask is None else jnp.where(self.expand_mask(inputs, mask), x, 0))


class GlobalSumPooling2D(GlobalSumPooling):
    """Takes the sum over two spatial axes; arguments and errors as in `GlobalPooling`.

    Shapes: x [B, H, W, C] -> [B, C], or [B, 1, 1, C] if keepdims; channels_first: x [B, C, H, W].

    References:
        Keras has no such layer; arguments are those of `keras.layers.GlobalAveragePooling2D`.

    Example:
        >>> GlobalSumPooling2D().apply({}, jnp.ones((2, 7, 7, 4))).shape
        (2, 4)
    """

    RANK: ClassVar[int] = 2


class GlobalSumPooling3D(GlobalSumPooling):
    """Takes the sum over three spatial axes; arguments and errors as in `GlobalPooling`.

    Shapes: x [B, D, H, W, C] -> [B, C], or [B, 1, 1, 1, C] if keepdims; channels_first: x [B, C, D, H, W].

    References:
        Keras has no such layer; arguments are those of `keras.layers.GlobalAveragePooling3D`.

    Example:
        >>> GlobalSumPooling3D().apply({}, jnp.ones((2, 3, 5, 5, 4))).shape
        (2, 4)
    """

    RANK: ClassVar[int] = 3


MaxPool1D = MaxPooling1D
MaxPool2D = MaxPooling2D
MaxPool3D = MaxPooling3D
AvgPool1D = AveragePooling1D
AvgPool2D = AveragePooling2D
AvgPool3D = AveragePooling3D
GlobalMaxPool1D = GlobalMaxPooling1D
GlobalMaxPool2D = GlobalMaxPooling2D
GlobalMaxPool3D = GlobalMaxPooling3D
GlobalAvgPool1D = GlobalAveragePooling1D
GlobalAvgPool2D = GlobalAveragePooling2D
GlobalAvgPool3D = GlobalAveragePooling3D
