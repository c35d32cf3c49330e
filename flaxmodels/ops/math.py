"""Keras' mathematical operations: special functions, segments and rankings; Fourier transforms are in `spectral`."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from flaxmodels.ops.arrays import Tensor, as_array, as_float
from flaxmodels.ops.base import operation
from flaxmodels.ops.spectral import (
    extract_sequences,
    fft,
    fft2,
    ifft2,
    irfft,
    istft,
    rfft,
    stft,
    view_as_complex,
    view_as_real,
)

__all__ = [
    "cdist",
    "erf",
    "erfc",
    "erfinv",
    "extract_sequences",
    "fft",
    "fft2",
    "ifft2",
    "in_top_k",
    "irfft",
    "istft",
    "logdet",
    "logsumexp",
    "rfft",
    "rsqrt",
    "segment_max",
    "segment_min",
    "segment_prod",
    "segment_sum",
    "stft",
    "top_k",
    "view_as_complex",
    "view_as_real",
]

# --- special functions


@operation
def rsqrt(x: Tensor) -> jax.Array:
    """Returns 1 / sqrt(x)."""
    return jax.lax.rsqrt(as_float(x))


@operation
def erf(x: Tensor) -> jax.Array:
    """Returns the error function of x."""
    return jax.lax.erf(as_float(x))


@operation
def erfc(x: Tensor) -> jax.Array:
    """Returns 1 - erf(x), the complementary error function."""
    return jax.scipy.special.erfc(as_array(x))


@operation
def erfinv(x: Tensor) -> jax.Array:
    """Returns the inverse of the error function."""
    return jax.scipy.special.erfinv(as_array(x))


@operation
def logsumexp(x: Tensor, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> jax.Array:
    """Returns log(sum(exp(x))), without overflow.

    Args:
        x: Any array.
        axis: Axis or axes of the sum; None for all.
        keepdims: Whether to keep these axes with size 1.

    Example:
        >>> logsumexp([1000.0, 1000.0]).round(3).item()
        1000.693...
    """
    axes = tuple(axis) if isinstance(axis, list) else axis
    return jax.scipy.special.logsumexp(as_array(x), axis=axes, keepdims=keepdims)


@operation
def logdet(x: Tensor) -> jax.Array:
    """Returns the logarithm of the absolute value of the determinant.

    Shapes: x [..., N, N] -> [...].

    Example:
        >>> logdet(2.0 * jnp.eye(3)).round(4).item()
        2.0794...
    """
    return jnp.linalg.slogdet(as_array(x))[1]


@operation
def cdist(x: Tensor, y: Tensor) -> jax.Array:
    """Returns the Euclidean distance of each row of x to each row of y.

    Shapes: x [..., N, F], y [..., M, F] -> [..., N, M].

    Raises:
        ValueError: If an array has less than two axes, or the rows have different sizes.

    Example:
        >>> cdist([[0.0, 0.0]], [[3.0, 4.0], [0.0, 1.0]]).tolist()
        [[5.0, 1.0]]
    """
    a, b = as_array(x), as_array(y)
    if min(a.ndim, b.ndim) < 2 or a.shape[-1] != b.shape[-1]:
        raise ValueError(
            f"`cdist` takes arrays of rows with the same size of the last axis, got shapes {a.shape} and {b.shape}; "
            "reshape them to [..., rows, features]."
        )
    difference = jnp.expand_dims(a, -2) - jnp.expand_dims(b, -3)
    return jnp.sqrt(jnp.sum(difference * difference, axis=-1))


# --- segments


@operation
def segment_sum(data: Tensor, segment_ids: Tensor, num_segments: int | None = None, sorted: bool = False) -> jax.Array:
    """Sums the rows of each segment.

    Args:
        data: Rows along the leading axis.
        segment_ids: The segment of each row; rows of negative or too large segments are left out.
        num_segments: The number of segments; it is required.
        sorted: Whether the segments are in ascending order, which is faster.

    Shapes: data [N, ...], segment_ids [N] -> [num_segments, ...].

    Raises:
        ValueError: If `num_segments` is missing, or there is not one segment for each row.

    Example:
        >>> segment_sum([1.0, 2.0, 4.0], [0, 0, 2], num_segments=3).tolist()
        [3.0, 0.0, 4.0]
    """
    return _reduce_segments(jax.ops.segment_sum, data, segment_ids, num_segments, sorted)


@operation
def segment_max(data: Tensor, segment_ids: Tensor, num_segments: int | None = None, sorted: bool = False) -> jax.Array:
    """Returns the maximum of each segment; arguments, shapes and errors are those of `segment_sum`.

    Empty segments have the smallest value of the dtype, -inf for floats.

    Example:
        >>> segment_max([1.0, 2.0, 4.0], [0, 0, 1], num_segments=2).tolist()
        [2.0, 4.0]
    """
    return _reduce_segments(jax.ops.segment_max, data, segment_ids, num_segments, sorted)


@operation
def segment_min(data: Tensor, segment_ids: Tensor, num_segments: int | None = None, sorted: bool = False) -> jax.Array:
    """Returns the minimum of each segment; arguments, shapes and errors are those of `segment_sum`.

    Empty segments have the largest value of the dtype, inf for floats.

    Example:
        >>> segment_min([1.0, 2.0, 4.0], [0, 0, 1], num_segments=2).tolist()
        [1.0, 4.0]
    """
    return _reduce_segments(jax.ops.segment_min, data, segment_ids, num_segments, sorted)


@operation
def segment_prod(data: Tensor, segment_ids: Tensor, num_segments: int | None = None, sorted: bool = False) -> jax.Array:
    """Multiplies the rows of each segment; arguments, shapes and errors are those of `segment_sum`.

    Empty segments have the value 1.

    Example:
        >>> segment_prod([3.0, 2.0, 4.0], [0, 0, 1], num_segments=2).tolist()
        [6.0, 4.0]
    """
    return _reduce_segments(jax.ops.segment_prod, data, segment_ids, num_segments, sorted)


def _reduce_segments(
    reduce: Callable[..., jax.Array],
    data: Tensor,
    segment_ids: Tensor,
    num_segments: int | None,
    is_sorted: bool,
) -> jax.Array:
    rows, ids = as_array(data), as_array(segment_ids)
    if num_segments is None:
        raise ValueError(
            "`num_segments` must be an integer, because shapes are static, got None; give the number of segments."
        )
    if ids.ndim != 1 or rows.shape[:1] != ids.shape:
        raise ValueError(
            f"`segment_ids` must have one segment for each row of `data`, got shapes {ids.shape} and {rows.shape}; "
            "reshape them so that the rows are the leading axis."
        )
    return reduce(rows, ids, num_segments, indices_are_sorted=is_sorted)


# --- rankings


@operation
def top_k(x: Tensor, k: int, sorted: bool = True) -> tuple[jax.Array, jax.Array]:
    """Returns the k largest values along the last axis and their indices.

    Args:
        x: Any array.
        k: Number of values.
        sorted: The values are in descending order in any case; False only says that no order is needed.

    Shapes: x [..., N] -> two arrays [..., k].

    Example:
        >>> values, indices = top_k([1.0, 5.0, 3.0], 2)
        >>> values.tolist(), indices.tolist()
        ([5.0, 3.0], [1, 2])
    """
    values, indices = jax.lax.top_k(as_array(x), k)
    return values, indices


@operation
def in_top_k(targets: Tensor, predictions: Tensor, k: int) -> jax.Array:
    """Returns whether less than k predictions are larger than that of the target class.

    Shapes: targets [B] of class indices, predictions [B, C] -> [B] of booleans.

    Example:
        >>> in_top_k([0, 2], [[0.1, 0.7, 0.2], [0.1, 0.7, 0.2]], k=2).tolist()
        [False, True]
    """
    classes, scores = as_array(targets), as_array(predictions)
    of_target = jnp.take_along_axis(scores, jnp.expand_dims(classes, -1), axis=-1)
    # A prediction that is NaN counts as the smallest one.
    of_target = jnp.where(jnp.isnan(of_target), -jnp.inf, of_target)
    return jnp.sum(scores > of_target, axis=-1) < k
