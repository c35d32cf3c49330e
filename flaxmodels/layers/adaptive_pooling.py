"""Adaptive pooling: the number of outputs is fixed, and the windows adapt to the size of the inputs."""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.layers.spatial import Spatial


class AdaptivePooling(Spatial):
    """Covers each axis of n positions with m windows and reduces each window to one number.

    Window i covers the positions from floor(i * n / m) up to, but not including, ceil((i + 1) * n / m). Keras' JAX
    backend rounds these in float32: for 7, 13, 14 or 15 outputs some of its windows are too large and give NaN.

    Args:
        output_size: Number of outputs m; one integer for all axes, or one per axis.
        data_format: "channels_last" (also for None) or "channels_first".

    Raises:
        ValueError: If a size is not positive, or the inputs have the wrong number of axes or no positions.
    """

    output_size: Any
    data_format: str | None = None

    REDUCE: ClassVar[Callable[..., jax.Array]]

    def __post_init__(self) -> None:
        self.set_sizes("output_size")
        self.set_data_format()
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Reduces the windows of one axis after another."""
        self.check_axes(inputs)
        self.check_not_empty(inputs)
        x = self.cast(inputs)
        for axis, m in zip(self.position_axes, self.output_size, strict=True):
            x = reduce_windows(type(self).REDUCE, x, axis, m)
        return x


def reduce_windows(reduce: Callable[..., jax.Array], x: jax.Array, axis: int, count: int) -> jax.Array:
    """Covers an axis with a number of windows and reduces each to one number by `mean_of` or `max_of`."""
    positions, covered = windows(x.shape[axis], count)
    split = jnp.take(x, positions, axis=axis, mode="clip")
    covered = np.expand_dims(covered, [i for i in range(split.ndim) if i not in (axis, axis + 1)])
    return reduce(split, covered, axis + 1)


def windows(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the positions [m, w] of m windows over n positions, and which of them each window covers."""
    i = np.arange(m)
    start, end = i * n // m, -(-(i + 1) * n // m)
    positions = start[:, None] + np.arange((end - start).max())
    return np.minimum(positions, n - 1), positions < end[:, None]


def mean_of(x: jax.Array, covered: np.ndarray, axis: int) -> jax.Array:
    """Returns the mean of the covered values along an axis."""
    dtype = np.promote_types(x.dtype, np.float32)
    total = jnp.sum(jnp.where(covered, x, 0), axis, dtype=dtype)
    return (total / covered.sum(axis).astype(dtype)).astype(x.dtype)


def max_of(x: jax.Array, covered: np.ndarray, axis: int) -> jax.Array:
    """Returns the maximum of the covered values along an axis; the first of equal ones gets the gradient."""
    first = jnp.argmax(jnp.where(covered, x, -jnp.inf), axis, keepdims=True)
    return jnp.squeeze(jnp.take_along_axis(x, first, axis), axis)


class AdaptiveAveragePooling(AdaptivePooling):
    """Takes the mean of each window."""

    REDUCE = staticmethod(mean_of)


class AdaptiveMaxPooling(AdaptivePooling):
    """Takes the maximum of each window; the first of equal values gets the gradient, as in `MaxPooling2D`."""

    REDUCE = staticmethod(max_of)


class AdaptiveAveragePooling1D(AdaptiveAveragePooling):
    """Takes the mean of m windows over time; arguments and errors as in `AdaptivePooling`.

    Shapes: x [B, T, C] -> [B, m, C]; channels_first: x [B, C, T] -> [B, C, m].

    References:
        Keras, `keras.layers.AdaptiveAveragePooling1D`.

    Example:
        >>> x = jnp.array([1.0, 2.0, 3.0, 5.0]).reshape(1, 4, 1)
        >>> AdaptiveAveragePooling1D(2).apply({}, x).ravel().tolist()
        [1.5, 4.0]
    """

    RANK: ClassVar[int] = 1


class AdaptiveAveragePooling2D(AdaptiveAveragePooling):
    """Takes the mean of m windows over each of two spatial axes; arguments and errors as in `AdaptivePooling`.

    Shapes: x [B, H, W, C] -> [B, m, m', C]; channels_first: x [B, C, H, W] -> [B, C, m, m'].

    References:
        Keras, `keras.layers.AdaptiveAveragePooling2D`.

    Example:
        >>> AdaptiveAveragePooling2D((3, 2)).apply({}, jnp.ones((2, 7, 5, 3))).shape
        (2, 3, 2, 3)
    """

    RANK: ClassVar[int] = 2


class AdaptiveAveragePooling3D(AdaptiveAveragePooling):
    """Takes the mean of m windows over each of three spatial axes; arguments and errors as in `AdaptivePooling`.

    Shapes: x [B, D, H, W, C] -> [B, m, m', m'', C]; with channels_first the channels are axis 1.

    References:
        Keras, `keras.layers.AdaptiveAveragePooling3D`.

    Example:
        >>> AdaptiveAveragePooling3D((2, 3, 2)).apply({}, jnp.ones((2, 4, 7, 5, 3))).shape
        (2, 2, 3, 2, 3)
    """

    RANK: ClassVar[int] = 3


class AdaptiveMaxPooling1D(AdaptiveMaxPooling):
    """Takes the maximum of m windows over time; arguments and errors as in `AdaptivePooling`.

    Shapes: x [B, T, C] -> [B, m, C]; channels_first: x [B, C, T] -> [B, C, m].

    References:
        Keras, `keras.layers.AdaptiveMaxPooling1D`.

    Example:
        >>> x = jnp.array([1.0, 2.0, 3.0, 5.0]).reshape(1, 4, 1)
        >>> AdaptiveMaxPooling1D(2).apply({}, x).ravel().tolist()
        [2.0, 5.0]
    """

    RANK: ClassVar[int] = 1


class AdaptiveMaxPooling2D(AdaptiveMaxPooling):
    """Takes the maximum of m windows over each of two spatial axes; arguments and errors as in `AdaptivePooling`.

    Shapes: x [B, H, W, C] -> [B, m, m', C]; channels_first: x [B, C, H, W] -> [B, C, m, m'].

    References:
        Keras, `keras.layers.AdaptiveMaxPooling2D`.

    Example:
        >>> AdaptiveMaxPooling2D((3, 2)).apply({}, jnp.ones((2, 7, 5, 3))).shape
        (2, 3, 2, 3)
    """

    RANK: ClassVar[int] = 2


class AdaptiveMaxPooling3D(AdaptiveMaxPooling):
    """Takes the maximum of m windows over each of three spatial axes; arguments and errors as in `AdaptivePooling`.

    Shapes: x [B, D, H, W, C] -> [B, m, m', m'', C]; with channels_first the channels are axis 1.

    References:
        Keras, `keras.layers.AdaptiveMaxPooling3D`.

    Example:
        >>> AdaptiveMaxPooling3D((2, 3, 2)).apply({}, jnp.ones((2, 4, 7, 5, 3))).shape
        (2, 2, 3, 2, 3)
    """

    RANK: ClassVar[int] = 3
