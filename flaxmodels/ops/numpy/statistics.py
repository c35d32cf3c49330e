"""Histograms, correlations, differences and integrals."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from flaxmodels.ops.arrays import Tensor, as_array, as_tuples
from flaxmodels.ops.base import operation


@operation
def bincount(x: Tensor, weights: Tensor | None = None, minlength: int = 0, sparse: bool = False) -> jax.Array:
    """Counts how often each integer from 0 occurs, in each row of a matrix.

    The shape of the result depends on values, so it works neither on symbols nor inside `jax.jit`.

    Args:
        x: A vector or a matrix of nonnegative integers.
        weights: The amount that each element counts; 1 by default.
        minlength: The smallest size of the result.
        sparse: Only False: there are no sparse arrays here.

    Raises:
        ValueError: If `sparse` is True.

    Example:
        >>> bincount([1, 1, 3]).tolist()
        [0, 2, 0, 1]
    """
    if sparse:
        raise ValueError("ops.bincount must return a dense array, got sparse=True; leave `sparse` out.")
    array, given = as_array(x), None if weights is None else as_array(weights)
    if array.ndim != 2:
        return jnp.bincount(array, given, minlength=minlength)
    rows = [None] * len(array) if given is None else list(given)
    return jnp.stack([jnp.bincount(row, weight, minlength=minlength) for row, weight in zip(array, rows, strict=True)])


@operation
def corrcoef(x: Tensor) -> jax.Array:
    """Returns the correlation coefficients of the rows of a matrix."""
    return jnp.corrcoef(as_array(x))


@operation
def correlate(x1: Tensor, x2: Tensor, mode: str = "valid") -> jax.Array:
    """Returns the cross-correlation of two vectors; `mode` is "valid", "same" or "full"."""
    return jnp.correlate(as_array(x1), as_array(x2), mode)


@operation
def diff(a: Tensor, n: int = 1, axis: int = -1) -> jax.Array:
    """Returns the differences of successive elements, `n` times."""
    return jnp.diff(as_array(a), n, axis)


@operation
def histogram(x: Tensor, bins: int = 10, range: Sequence[float] | None = None) -> tuple[jax.Array, jax.Array]:
    """Counts the elements of a vector in bins of equal width.

    Args:
        x: A one-dimensional array.
        bins: The number of bins.
        range: The start of the first bin and the end of the last one; the minimum and the maximum by default.

    Returns:
        The counts, and the limits of the bins.

    Raises:
        TypeError: If `bins` is not an integer.
        ValueError: If `bins` is negative, `range` is not an increasing pair, or `x` has not one axis.
    """
    if not isinstance(bins, int):
        raise TypeError(f"`bins` of ops.histogram must be an integer, got {bins!r}; use ops.digitize for given limits.")
    if bins < 0:
        raise ValueError(f"`bins` of ops.histogram must not be negative, got {bins}; use 1 or more.")
    limits = as_tuples(range)
    if limits and (not isinstance(limits, tuple) or len(limits) != 2 or limits[1] < limits[0]):
        raise ValueError(f"`range` of ops.histogram must be a pair (low, high), got {range!r}; put the low one first.")
    array = as_array(x)
    if array.ndim != 1:
        raise ValueError(f"ops.histogram needs a one-dimensional array, got shape {array.shape}; use ops.ravel first.")
    return jnp.histogram(array, bins, limits or None)


@operation
def trapezoid(y: Tensor, x: Tensor | None = None, dx: Tensor = 1.0, axis: int = -1) -> jax.Array:
    """Returns the integral along an axis by the trapezoidal rule.

    Args:
        y: The values of the function.
        x: The positions of the values.
        dx: The distance of positions, if `x` is None.
        axis: The axis.
    """
    return jnp.trapezoid(as_array(y), None if x is None else as_array(x), as_array(dx), axis)
