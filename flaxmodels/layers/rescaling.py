"""Layers that shift and scale numbers: by given constants, or by the mean and variance of data."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from flaxmodels.layers import checks, host
from flaxmodels.layers.base import Layer
from flaxmodels.layers.checks import checked_axes

EPSILON = 1e-7  # the smallest standard deviation that Normalization divides by, as in Keras
Numbers = float | Sequence["Numbers"]


class Rescaling(Layer):
    """Computes x * scale + offset.

    Args:
        scale: Factor, or one factor for each channel, the last axis.
        offset: Number to add, or one for each channel.

    Shapes: x [B, ...] -> the same.

    Raises:
        ValueError: If `scale` or `offset` is not a number or an array of numbers.

    References:
        Keras, `keras.layers.Rescaling`.

    Example:
        >>> Rescaling(1 / 127.5, offset=-1).apply({}, jnp.array([0, 255], jnp.uint8)).tolist()
        [-1.0, 1.0]
    """

    scale: ArrayLike | Sequence[float]
    offset: ArrayLike | Sequence[float] = 0.0

    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("scale", "offset"):
            given = getattr(self, name)
            # A configuration in a file describes an array by a dictionary, which is resolved later.
            if not isinstance(given, dict) and not checks.is_number(given) and not _is_numbers(given):
                raise ValueError(
                    f"`{name}` of {self.label} must be a number or one number for each channel, got "
                    f"{checks.describe(given)}; give, for example, 1 / 255."
                )
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Returns the rescaled inputs in the dtype of the computation."""
        scale, offset = (self._aligned(value, inputs.ndim) for value in (self.scale, self.offset))
        return self.cast(inputs) * scale + offset

    @nn.nowrap
    def _aligned(self, value: ArrayLike | Sequence[float], rank: int) -> jax.Array:
        """Returns factors with an axis for each axis of the inputs."""
        factors = self.cast(jnp.asarray(value))
        return factors.reshape((1,) * (rank - factors.ndim) + factors.shape) if factors.ndim else factors


def _is_numbers(value: object) -> bool:
    try:
        return np.issubdtype(np.asarray(value).dtype, np.number)
    except (TypeError, ValueError):
        return False


class Normalization(Layer):
    """Subtracts the mean of data and divides by their standard deviation: y = (x - mean) / sqrt(variance).

    Call `adapt` on data before the first use of the layer, or give `mean` and `variance`. Without both, the mean is 0
    and the variance is 1. What `adapt` finds becomes the initial value of the statistics `mean` and `variance`, which
    training does not change.

    Args:
        axis: Axis or axes that have a mean for each index; None for one mean of all numbers.
        mean: Mean, which broadcasts to the sizes of the axes; None for that of the data.
        variance: Variance, given if and only if `mean` is given.
        invert: Whether to compute the inverse, x * sqrt(variance) + mean.
        adapted: Mean and variance that `adapt` has found.

    Shapes: x [B, ...] -> the same.

    Raises:
        ValueError: If only one of `mean` and `variance` is given, their shapes differ or don't fit the axes.

    References:
        Keras, `keras.layers.Normalization`.

    Example:
        >>> layer, x = Normalization(), np.array([[1.0, 10.0], [3.0, 30.0]])
        >>> layer.adapt(x)
        >>> layer.apply(layer.init(jax.random.key(0), x), x).tolist()
        [[-1.0, -1.0], [1.0, 1.0]]
    """

    axis: int | Sequence[int] | None = -1
    mean: ArrayLike | Numbers | None = None
    variance: ArrayLike | Numbers | None = None
    invert: bool = False
    adapted: tuple[Numbers, Numbers] | None = dataclasses.field(default=None, kw_only=True)

    SUPPORTS_MASKING: ClassVar[bool] = True
    WEIGHTS: ClassVar[tuple[str, ...]] = ("mean", "variance", "count")

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.variance is None):
            raise ValueError(
                f"`mean` and `variance` of {self.label} must be given together, got mean={self.mean!r} and "
                f"variance={self.variance!r}; give both, or neither and call adapt."
            )
        for name in ("mean", "variance"):
            if isinstance(vars(self).get(name), np.ndarray | jax.Array | list):
                object.__setattr__(self, name, _as_tuples(np.asarray(vars(self)[name]).tolist()))
        if self.mean is not None:
            shapes = np.shape(self.mean), np.shape(self.variance)  # type: ignore[arg-type]
            axes = self._given_axes()
            if shapes[0] != shapes[1] or len(shapes[0]) > len(axes):
                raise ValueError(
                    f"`mean` and `variance` of {self.label} must have one shape with at most {len(axes)} axes, one for "
                    f"each of `axis`={self.axis}, got shapes {shapes[0]} and {shapes[1]}; change them, or `axis`."
                )
        super().__post_init__()

    @nn.nowrap
    def _given_axes(self) -> tuple[int, ...]:
        if self.axis is None:
            return ()
        return (self.axis,) if checks.is_integer(self.axis) else tuple(self.axis)  # type: ignore[arg-type, return-value]

    @nn.nowrap
    def kept_axes(self, inputs: jax.Array | np.ndarray) -> tuple[int, ...]:
        """Returns the sorted axes that have a mean for each index."""
        given = self._given_axes()
        return checked_axes(self, given, jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)) if given else ()  # type: ignore[arg-type]

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Normalizes the inputs, or computes the inverse."""
        axes = self.kept_axes(inputs)
        shape = tuple(inputs.shape[axis] for axis in axes)
        aligned = tuple(n if axis in axes else 1 for axis, n in enumerate(inputs.shape))
        mean, variance = (self.cast(value.reshape(aligned)) for value in self._statistics(shape))
        x, deviation = self.cast(inputs), jnp.maximum(jnp.sqrt(variance), EPSILON)
        return x * deviation + mean if self.invert else (x - mean) / deviation

    def _statistics(self, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """Returns mean and variance in the shape of the axes."""
        if self.mean is not None:
            try:
                return jnp.broadcast_to(jnp.asarray(self.mean), shape), jnp.broadcast_to(
                    jnp.asarray(self.variance), shape
                )
            except ValueError as error:
                raise ValueError(
                    f"`mean` of {self.label} must broadcast to the sizes {shape} of `axis`={self.axis}, got shape "
                    f"{np.shape(self.mean)}; give one number for each index."  # type: ignore[arg-type]
                ) from error
        found = (0.0, 1.0) if self.adapted is None else self.adapted
        if self.adapted is not None and np.shape(found[0]) != shape:  # type: ignore[arg-type]
            raise ValueError(
                f"{self.label} adapted to data with the sizes {np.shape(found[0])} on `axis`={self.axis}, got inputs "  # type: ignore[arg-type]
                f"with {shape}; call adapt on data like the inputs."
            )
        values = [
            self.variable("batch_stats", name, self._initial, value, shape)
            for name, value in zip(("mean", "variance"), found, strict=True)
        ]
        self.variable("batch_stats", "count", lambda: jnp.zeros((), jnp.int32))
        return values[0].value, values[1].value

    @nn.nowrap
    def _initial(self, value: Numbers, shape: tuple[int, ...]) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(value, self.param_dtype), shape)

    @nn.nowrap
    def adapt(self, data: object) -> None:
        """Computes the mean and variance of data, which the layer uses from now on.

        Args:
            data: An array, or an iterable of batches, such as a generator or a `PyDataset`. The inputs are the first
                item of a batch that is a tuple.

        Raises:
            ValueError: If the layer has a given mean, there is no batch, or the shapes of batches do not fit.

        References:
            Keras, `keras.layers.Normalization.adapt`.
        """
        given = vars(self)["mean"]  # in `training.keras`, the attribute is the mean that adapt has found
        if given is not None:
            raise ValueError(
                f"{self.label} cannot adapt to data, because it got `mean`={given!r}; leave `mean` and `variance` out."
            )
        mean, variance, shape = moments(self, data)
        self._keep(mean, variance, shape)

    @nn.nowrap
    def _keep(self, mean: np.ndarray, variance: np.ndarray, shape: tuple[int, ...]) -> None:
        """Keeps statistics of data of a shape as the initial values of the layer's own."""
        object.__setattr__(self, "adapted", (_as_tuples(mean.tolist()), _as_tuples(variance.tolist())))


def _as_tuples(value: Numbers) -> Numbers:
    """Returns nested lists as tuples, so that layers remain hashable."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


def moments(layer: Normalization, data: object) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Returns the mean and variance of data along the axes of a layer, and the shape of the first batch.

    The batches are merged in float64, so the result does not depend on their sizes.
    """
    count, mean, variance = 0, np.zeros(()), np.zeros(())
    first: tuple[int, ...] | None = None
    for batch, axes in _pieces(layer, data):
        if first is None:
            first = batch.shape
        if len(first) != batch.ndim or any(first[axis] != batch.shape[axis] for axis in axes):
            raise ValueError(
                f"{layer.label} adapts to batches with the same sizes on `axis`={layer.axis}, got shapes {first} and "
                f"{batch.shape}; make them alike."
            )
        reduced = tuple(axis for axis in range(batch.ndim) if axis not in axes)
        more = math.prod(batch.shape[axis] for axis in reduced)
        if not more:
            continue
        new_mean, new_variance = np.mean(batch, reduced, np.float64), np.var(batch, reduced, np.float64)
        count += more
        weight = more / count
        merged = mean + (new_mean - mean) * weight
        variance = (variance + (mean - merged) ** 2) * (1 - weight) + (new_variance + (new_mean - merged) ** 2) * weight
        mean = merged
    if first is None or not count:
        raise ValueError(f"{layer.label} adapts to data with at least one example, got none; give data.")
    return np.asarray(mean), np.asarray(variance), first


def _pieces(layer: Normalization, data: object) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """Yields batches as arrays, in pieces that need little memory as float64, and the axes that have a mean."""
    for batch in host.batches(data, lists_are_data=False):
        if not hasattr(batch, "shape"):
            raise TypeError(
                f"adapt takes an array or an iterable of arrays, got an element of type {type(batch).__name__}; "
                "convert the data with numpy.asarray."
            )
        array = np.asarray(batch)
        axes = layer.kept_axes(array)
        rows = max(1, 2**24 // max(1, math.prod(array.shape[1:])))
        if array.ndim == 0 or 0 in axes:
            yield array, axes
        else:
            yield from ((array[i : i + rows], axes) for i in range(0, len(array), rows))
