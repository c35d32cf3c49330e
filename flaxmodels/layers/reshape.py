"""Layers that rearrange values: flatten, reshape, permute, repeat, pad, crop and upsample."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.layers.base import Layer
from flaxmodels.layers.checks import is_integer
from flaxmodels.layers.spatial import Spatial, integers
from flaxmodels.layers.tracing import keep_values


class Flatten(Spatial):
    """Flattens all axes but the batch into one.

    Args:
        data_format: "channels_last" (the default) or "channels_first"; the latter moves the channels to the end first,
            so that both give the same order of values.

    Shapes: x [B, ...] -> [B, F]; x [B] -> [B, 1].

    Raises:
        ValueError: If `data_format` is unknown or the inputs have no batch axis.

    References:
        Keras, `keras.layers.Flatten`.

    Example:
        >>> Flatten().apply({}, jnp.ones((2, 4, 4, 3))).shape
        (2, 48)
    """

    data_format: str | None = None

    trace_inputs = keep_values

    def __post_init__(self) -> None:
        self.set_data_format()
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Rearranges the inputs."""
        x = self.cast_floats(inputs)
        if x.ndim < 1:
            raise ValueError(
                f"{self.label} takes inputs of at least 1 axis [B, ...], got shape (); add the batch axis."
            )
        if x.ndim > 1 and self.channels_first:
            x = jnp.moveaxis(x, 1, -1)
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))


class Reshape(Layer):
    """Reshapes each example.

    Args:
        target_shape: New shape without the batch; one size may be -1 and is then inferred.

    Shapes: x [B, ...] -> [B, *target_shape].

    Raises:
        ValueError: If a size is not positive, more than one is -1, or the number of values differs.

    References:
        Keras, `keras.layers.Reshape`.

    Example:
        >>> Reshape((-1, 3)).apply({}, jnp.ones((2, 4, 6))).shape
        (2, 8, 3)
    """

    target_shape: Sequence[int]

    trace_inputs = keep_values

    def __post_init__(self) -> None:
        shape = self.target_shape
        sizes = integers(shape, len(shape), -1) if isinstance(shape, Sequence | np.ndarray) else None
        if sizes is None or 0 in sizes or sizes.count(-1) > 1:
            raise ValueError(
                f"`target_shape` of {self.label} must be a tuple of positive integers, at most one of which is -1, got "
                f"{self.target_shape!r}; give the shape of one example, without the batch."
            )
        object.__setattr__(self, "target_shape", sizes)
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Rearranges the inputs."""
        x, target = self.cast_floats(inputs), self.target_shape
        count, known = math.prod(x.shape[1:]), math.prod(n for n in target if n != -1)
        if x.ndim < 1 or (count % known if -1 in target else count != known):
            raise ValueError(
                f"{self.label} needs {'a multiple of ' if -1 in target else ''}{known} values in each example for "
                f"`target_shape`={target}, got inputs of shape {tuple(x.shape)}; give a shape of the same size."
            )
        return x.reshape(x.shape[0], *(count // known if n == -1 else n for n in target))


class Permute(Layer):
    """Permutes the axes of each example.

    Args:
        dims: For each new axis, the index of the old axis; the first axis after the batch has index 1.

    Shapes: x [B, n1, n2, ...] -> [B, n_dims[0], n_dims[1], ...].

    Raises:
        ValueError: If `dims` is not a permutation of 1, 2, ... or the inputs have the wrong number of axes.

    References:
        Keras, `keras.layers.Permute`.

    Example:
        >>> Permute((2, 1)).apply({}, jnp.ones((4, 10, 64))).shape
        (4, 64, 10)
    """

    dims: Sequence[int]

    trace_inputs = keep_values

    def __post_init__(self) -> None:
        dims = integers(self.dims, len(self.dims), 1) if isinstance(self.dims, Sequence | np.ndarray) else None
        if dims is None or sorted(dims) != list(range(1, len(dims) + 1)):
            raise ValueError(
                f"`dims` of {self.label} must be a permutation of 1, 2, ..., got {self.dims!r}; give each axis once, "
                "without the batch."
            )
        object.__setattr__(self, "dims", dims)
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Rearranges the inputs."""
        self.check_rank(inputs, " ".join(["B", *(f"n{dim}" for dim in sorted(self.dims))]))
        return jnp.transpose(self.cast_floats(inputs), (0, *self.dims))


class RepeatVector(Layer):
    """Repeats each vector over n time steps.

    Args:
        n: Number of steps.

    Shapes: x [B, F] -> [B, n, F].

    Raises:
        ValueError: If `n` is not positive or the inputs do not have two axes.

    References:
        Keras, `keras.layers.RepeatVector`.

    Example:
        >>> RepeatVector(3).apply({}, jnp.ones((2, 8))).shape
        (2, 3, 8)
    """

    n: int

    trace_inputs = keep_values

    def __post_init__(self) -> None:
        self.check_positive("n")
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Rearranges the inputs."""
        self.check_rank(inputs, "B F")
        return jnp.repeat(self.cast_floats(inputs)[:, None], self.n, axis=1)


class EdgeLayer(Spatial):
    """Base class of padding and cropping, with a pair of integers (before, after) for each spatial axis."""

    @nn.nowrap
    def set_pairs(self, name: str) -> None:
        """Converts the argument to a tuple of pairs of integers of at least 0, or one pair if there is one axis."""
        value = getattr(self, name)
        pairs: Any
        if self.RANK == 1:
            pairs = integers((value, value) if is_integer(value) else value, 2, 0)
        else:
            pairs = self._pair_per_axis((value,) * self.RANK if is_integer(value) else value)
        if pairs is None:
            form = "a pair" if self.RANK == 1 else f"a tuple of {self.RANK} integers or pairs"
            raise ValueError(
                f"`{name}` of {self.label} must be an integer of at least 0 or {form} of them, got {value!r}; "
                "give the numbers of positions before and after."
            )
        object.__setattr__(self, name, pairs)

    @nn.nowrap
    def _pair_per_axis(self, value: object) -> tuple[tuple[int, ...], ...] | None:
        if not isinstance(value, Sequence | np.ndarray) or len(value) != self.RANK:
            return None
        pairs = [integers((v, v) if is_integer(v) else v, 2, 0) for v in value]
        return None if None in pairs else tuple(pair for pair in pairs if pair is not None)

    @nn.nowrap
    def per_axis(self, value: Any) -> list[tuple[int, int]]:
        """Returns a pair for each axis of the inputs, (0, 0) for batch and channels."""
        pairs = [value] if self.RANK == 1 else value
        by_axis = dict(zip(self.position_axes, pairs, strict=True))
        return [by_axis.get(axis, (0, 0)) for axis in range(self.RANK + 2)]


class ZeroPadding(EdgeLayer):
    """Base class of ZeroPadding1D, ZeroPadding2D and ZeroPadding3D."""

    padding: Any = 1
    data_format: str | None = None

    trace_inputs = keep_values

    def __post_init__(self) -> None:
        self.set_pairs("padding")
        self.set_data_format()
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Rearranges the inputs."""
        self.check_axes(inputs)
        return jnp.pad(self.cast_floats(inputs), self.per_axis(self.padding))


class ZeroPadding1D(ZeroPadding):
    """Pads sequences with zeros before the first step and after the last.

    Args:
        padding: Number of zeros on both sides, or a pair (before, after).
        data_format: "channels_last" (the default) or "channels_first".

    Shapes: x [B, T, C] -> [B, T', C]; channels_first: x [B, C, T] -> [B, C, T'].

    Raises:
        ValueError: If a number is negative or the inputs do not have 3 axes.

    References:
        Keras, `keras.layers.ZeroPadding1D`.

    Example:
        >>> ZeroPadding1D((1, 2)).apply({}, jnp.ones((1, 2, 1))).ravel().tolist()
        [0.0, 1.0, 1.0, 0.0, 0.0]
    """

    RANK: ClassVar[int] = 1


class ZeroPadding2D(ZeroPadding):
    """Pads images with zeros on all sides.

    Args:
        padding: Number of zeros: one integer for all sides, one per axis, or a pair (before, after) per axis.
        data_format: "channels_last" (the default) or "channels_first".

    Shapes: x [B, H, W, C] -> [B, H', W', C]; channels_first: x [B, C, H, W] -> [B, C, H', W'].

    Raises:
        ValueError: If a number is negative or the inputs do not have 4 axes.

    References:
        Keras, `keras.layers.ZeroPadding2D`.

    Example:
        >>> ZeroPadding2D(((1, 0), (2, 2))).apply({}, jnp.ones((2, 4, 4, 3))).shape
        (2, 5, 8, 3)
    """

    RANK: ClassVar[int] = 2


class ZeroPadding3D(ZeroPadding):
    """Pads volumes with zeros on all sides.

    Args:
        padding: Number of zeros: one integer for all sides, one per axis, or a pair (before, after) per axis.
        data_format: "channels_last" (the default) or "channels_first".

    Shapes: x [B, D, H, W, C] -> [B, D', H', W', C]; with channels_first the channels are axis 1.

    Raises:
        ValueError: If a number is negative or the inputs do not have 5 axes.

    References:
        Keras, `keras.layers.ZeroPadding3D`.

    Example:
        >>> ZeroPadding3D((1, 2, 0)).apply({}, jnp.ones((2, 4, 4, 4, 3))).shape
        (2, 6, 8, 4, 3)
    """

    RANK: ClassVar[int] = 3


class Cropping(EdgeLayer):
    """Base class of Cropping1D, Cropping2D and Cropping3D."""

    cropping: Any

    def __post_init__(self) -> None:
        self.set_pairs("cropping")
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Rearranges the inputs."""
        self.check_axes(inputs)
        x, edges = self.cast_floats(inputs), self.per_axis(self.cropping)
        for axis in self.position_axes:
            if sum(edges[axis]) >= x.shape[axis]:
                raise ValueError(
                    f"{self.label} must leave at least 1 position on each axis, got cropping={self.cropping} for "
                    f"inputs of shape {tuple(x.shape)}; crop less of axis {axis}."
                )
        return x[tuple(slice(before, n - after) for (before, after), n in zip(edges, x.shape, strict=True))]


class Cropping1D(Cropping):
    """Removes the first and last steps of sequences.

    Args:
        cropping: Number of steps to remove at both ends, or a pair (before, after).

    Shapes: x [B, T, C] -> [B, T', C].

    Raises:
        ValueError: If a number is negative, the inputs do not have 3 axes, or no step is left.

    References:
        Keras, `keras.layers.Cropping1D`.

    Example:
        >>> Cropping1D((1, 2)).apply({}, jnp.arange(5.0).reshape(1, 5, 1)).ravel().tolist()
        [1.0, 2.0]
    """

    cropping: Any = (1, 1)

    RANK: ClassVar[int] = 1


class Cropping2D(Cropping):
    """Removes the edges of images.

    Args:
        cropping: Number of positions to remove: one integer for all sides, one per axis, or a pair (before, after)
            per axis.
        data_format: "channels_last" (the default) or "channels_first".

    Shapes: x [B, H, W, C] -> [B, H', W', C]; channels_first: x [B, C, H, W] -> [B, C, H', W'].

    Raises:
        ValueError: If a number is negative, the inputs do not have 4 axes, or no position is left.

    References:
        Keras, `keras.layers.Cropping2D`.

    Example:
        >>> Cropping2D(((1, 0), (2, 2))).apply({}, jnp.ones((2, 8, 8, 3))).shape
        (2, 7, 4, 3)
    """

    cropping: Any = ((0, 0), (0, 0))
    data_format: str | None = None

    RANK: ClassVar[int] = 2

    def __post_init__(self) -> None:
        self.set_data_format()
        super().__post_init__()


class Cropping3D(Cropping):
    """Removes the edges of volumes.

    Args:
        cropping: Number of positions to remove: one integer for all sides, one per axis, or a pair (before, after)
            per axis.
        data_format: "channels_last" (the default) or "channels_first".

    Shapes: x [B, D, H, W, C] -> [B, D', H', W', C]; with channels_first the channels are axis 1.

    Raises:
        ValueError: If a number is negative, the inputs do not have 5 axes, or no position is left.

    References:
        Keras, `keras.layers.Cropping3D`.

    Example:
        >>> Cropping3D((1, 2, 0)).apply({}, jnp.ones((2, 8, 8, 8, 3))).shape
        (2, 6, 4, 8, 3)
    """

    cropping: Any = ((1, 1), (1, 1), (1, 1))
    data_format: str | None = None

    RANK: ClassVar[int] = 3

    def __post_init__(self) -> None:
        self.set_data_format()
        super().__post_init__()


class UpSampling(Spatial):
    """Base class of UpSampling1D, UpSampling2D and UpSampling3D, which repeat every position."""

    size: Any = 2

    def __post_init__(self) -> None:
        self.set_sizes("size")
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Rearranges the inputs."""
        self.check_axes(inputs)
        return self.upsample(self.cast_floats(inputs))

    @nn.nowrap
    def upsample(self, x: jax.Array) -> jax.Array:
        """Repeats each position along each axis."""
        for axis, times in zip(self.position_axes, self.size, strict=True):
            x = jnp.repeat(x, times, axis)
        return x


class UpSampling1D(UpSampling):
    """Repeats every step of sequences.

    Args:
        size: Number of repetitions.

    Shapes: x [B, T, C] -> [B, T * size, C].

    Raises:
        ValueError: If `size` is not positive or the inputs do not have 3 axes.

    References:
        Keras, `keras.layers.UpSampling1D`.

    Example:
        >>> UpSampling1D(2).apply({}, jnp.array([[[1.0], [2.0]]])).ravel().tolist()
        [1.0, 1.0, 2.0, 2.0]
    """

    RANK: ClassVar[int] = 1


class UpSampling2D(UpSampling):
    """Enlarges images by repetition or interpolation.

    Args:
        size: Factor of the size; one integer for both axes, or one per axis.
        data_format: "channels_last" (the default) or "channels_first".
        interpolation: "nearest" (repetition), "bilinear", "bicubic", "lanczos3" or "lanczos5".

    Shapes: x [B, H, W, C] -> [B, H', W', C]; channels_first: x [B, C, H, W] -> [B, C, H', W'].

    Raises:
        ValueError: If `size` is not positive, another argument is unknown, or the inputs do not have 4 axes.

    References:
        Keras, `keras.layers.UpSampling2D`.

    Example:
        >>> UpSampling2D((2, 3), interpolation="bilinear").apply({}, jnp.ones((2, 4, 4, 3))).shape
        (2, 8, 12, 3)
    """

    data_format: str | None = None
    interpolation: str = "nearest"

    RANK: ClassVar[int] = 2

    def __post_init__(self) -> None:
        self.set_data_format()
        self.set_choice("interpolation", ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5"))
        super().__post_init__()

    @nn.nowrap
    def upsample(self, x: jax.Array) -> jax.Array:
        """Repeats each position along each axis, or interpolates between positions."""
        if self.interpolation == "nearest":
            return super().upsample(x)
        shape = list(x.shape)
        for axis, times in zip(self.position_axes, self.size, strict=True):
            shape[axis] *= times
        return jax.image.resize(self.cast(x), shape, self.interpolation, antialias=False)


class UpSampling3D(UpSampling):
    """Repeats every position of volumes.

    Args:
        size: Number of repetitions; one integer for all axes, or one per axis.
        data_format: "channels_last" (the default) or "channels_first".

    Shapes: x [B, D, H, W, C] -> [B, D', H', W', C]; with channels_first the channels are axis 1.

    Raises:
        ValueError: If `size` is not positive or the inputs do not have 5 axes.

    References:
        Keras, `keras.layers.UpSampling3D`.

    Example:
        >>> UpSampling3D(2).apply({}, jnp.ones((2, 3, 4, 5, 1))).shape
        (2, 6, 8, 10, 1)
    """

    data_format: str | None = None

    RANK: ClassVar[int] = 3

    def __post_init__(self) -> None:
        self.set_data_format()
        super().__post_init__()
