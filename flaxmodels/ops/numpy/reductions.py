"""Operations that reduce axes of an array: sums, means, extremes, and cumulative sums and products.

`axis` is an integer, a tuple of integers, or None for all axes. With `keepdims`, reduced axes stay with size 1.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from flaxmodels.ops.arrays import Tensor, as_array, as_dtype, as_tuples, promoted
from flaxmodels.ops.base import operation

Axis: TypeAlias = int | Sequence[int] | None


@operation
def all(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns whether all elements over axes are nonzero."""
    return jnp.all(as_array(x), as_tuples(axis), keepdims=keepdims)


@operation
def any(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns whether any element over axes is nonzero."""
    return jnp.any(as_array(x), as_tuples(axis), keepdims=keepdims)


@operation
def amax(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns the maximum over axes."""
    return jnp.max(as_array(x), as_tuples(axis), keepdims=keepdims)


@operation
def amin(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns the minimum over axes."""
    return jnp.min(as_array(x), as_tuples(axis), keepdims=keepdims)


@operation
def argmax(x: Tensor, axis: int | None = None, keepdims: bool = False) -> jax.Array:
    """Returns the index of the maximum along an axis, by default in the flattened array; -0.0 is less than 0.0.

    Example:
        >>> argmax([-0.0, 0.0]).item(), argmin([0.0, -0.0]).item()
        (1, 1)
    """
    return jnp.argmax(_with_ordered_zeros(x), axis, keepdims=keepdims)


@operation
def argmin(x: Tensor, axis: int | None = None, keepdims: bool = False) -> jax.Array:
    """Returns the index of the minimum along an axis, by default in the flattened array; -0.0 is less than 0.0."""
    return jnp.argmin(_with_ordered_zeros(x), axis, keepdims=keepdims)


def _with_ordered_zeros(x: Tensor) -> jax.Array:
    """Returns floating-point values with negative zeros replaced by the negative number nearest to them.

    As in Keras on a CPU, the result then does not depend on which numbers the hardware rounds to zero.
    """
    array = as_array(x)
    if not jnp.issubdtype(array.dtype, jnp.floating) or not array.ndim:
        return array
    array = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    tiny = jnp.asarray(-jnp.finfo(array.dtype).tiny, array.dtype)
    return jnp.where((array == 0) & jnp.signbit(array), tiny, array)


@operation
def average(x: Tensor, axis: Axis = None, weights: Tensor | None = None) -> jax.Array:
    """Returns the average over axes, weighted by `weights` of the shape of x or of the axis.

    Example:
        >>> average([[1.0, 2.0], [3.0, 6.0]], axis=1, weights=[3.0, 1.0]).tolist()
        [1.25, 3.75]
    """
    arrays = [as_array(array) for array in (x, weights) if array is not None]
    dtype = promoted(*(array.dtype for array in arrays), float)
    array, *given = (array.astype(dtype) for array in arrays)
    return jnp.average(array, as_tuples(axis), weights=given[0] if given else None)


@operation
def count_nonzero(x: Tensor, axis: Axis = None) -> jax.Array:
    """Returns the number of nonzero elements over axes."""
    return jnp.count_nonzero(as_array(x), as_tuples(axis)).astype(jnp.int32)


@operation
def cumprod(x: Tensor, axis: int | None = None, dtype: DTypeLike | None = None) -> jax.Array:
    """Returns the cumulative product along an axis, by default of the flattened array."""
    return jnp.cumprod(as_array(x), axis, dtype=as_dtype(dtype))


@operation
def cumsum(x: Tensor, axis: int | None = None, dtype: DTypeLike | None = None) -> jax.Array:
    """Returns the cumulative sum along an axis, by default of the flattened array."""
    return jnp.cumsum(as_array(x), axis, dtype=as_dtype(dtype))


@operation
def max(x: Tensor, axis: Axis = None, keepdims: bool = False, initial: ArrayLike | None = None) -> jax.Array:
    """Returns the maximum over axes; `initial` is the smallest value of the result."""
    return jnp.max(as_array(x), as_tuples(axis), keepdims=keepdims, initial=initial)


@operation
def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns the mean over axes; it is accumulated in float32 for float16 and bfloat16."""
    array = as_array(x)
    dtype = promoted(array.dtype, jnp.float32)
    mean = jnp.mean(array, as_tuples(axis), keepdims=keepdims, dtype=dtype)
    return mean.astype(array.dtype) if jnp.issubdtype(array.dtype, jnp.inexact) else mean


@operation
def median(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns the median over axes."""
    return jnp.median(as_array(x), as_tuples(axis), keepdims=keepdims)


@operation
def min(x: Tensor, axis: Axis = None, keepdims: bool = False, initial: ArrayLike | None = None) -> jax.Array:
    """Returns the minimum over axes; `initial` is the largest value of the result."""
    return jnp.min(as_array(x), as_tuples(axis), keepdims=keepdims, initial=initial)


@operation
def nanargmax(x: Tensor, axis: int | None = None, keepdims: bool = False) -> jax.Array:
    """Returns the index of the maximum along an axis without NaN; -1 where all elements are NaN."""
    return jnp.nanargmax(as_array(x), axis, keepdims=keepdims)


@operation
def nanargmin(x: Tensor, axis: int | None = None, keepdims: bool = False) -> jax.Array:
    """Returns the index of the minimum along an axis without NaN; -1 where all elements are NaN."""
    return jnp.nanargmin(as_array(x), axis, keepdims=keepdims)


@operation
def nancumprod(x: Tensor, axis: int | None = None, dtype: DTypeLike | None = None) -> jax.Array:
    """Returns the cumulative product along an axis, with NaN as 1."""
    return jnp.nancumprod(as_array(x), axis, dtype=as_dtype(dtype))


@operation
def nancumsum(x: Tensor, axis: int | None = None, dtype: DTypeLike | None = None) -> jax.Array:
    """Returns the cumulative sum along an axis, with NaN as 0."""
    return jnp.nancumsum(as_array(x), axis, dtype=as_dtype(dtype))


@operation
def nanmax(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns the maximum over axes without NaN."""
    return jnp.nanmax(as_array(x), as_tuples(axis), keepdims=keepdims)


@operation
def nanmean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns the mean over axes without NaN."""
    return jnp.nanmean(as_array(x), as_tuples(axis), keepdims=keepdims)


@operation
def nanmedian(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns the median over axes without NaN."""
    return jnp.nanmedian(as_array(x), as_tuples(axis), keepdims=keepdims)


@operation
def nanmin(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns the minimum over axes without NaN."""
    return jnp.nanmin(as_array(x), as_tuples(axis), keepdims=keepdims)


@operation
def nanpercentile(x: Tensor, q: Tensor, axis: Axis = None, method: str = "linear", keepdims: bool = False) -> jax.Array:
    """Returns the percentiles `q`, from 0 to 100, over axes without NaN; see `quantile`."""
    return jnp.nanpercentile(as_array(x), as_array(q), as_tuples(axis), method=method, keepdims=keepdims)


@operation
def nanprod(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns the product over axes without NaN."""
    return jnp.nanprod(as_array(x), as_tuples(axis), keepdims=keepdims)


@operation
def nanquantile(x: Tensor, q: Tensor, axis: Axis = None, method: str = "linear", keepdims: bool = False) -> jax.Array:
    """Returns the quantiles `q`, from 0 to 1, over axes without NaN; see `quantile`."""
    return jnp.nanquantile(as_array(x), as_array(q), as_tuples(axis), method=method, keepdims=keepdims)


@operation
def nanstd(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns the standard deviation over axes without NaN."""
    return jnp.nanstd(as_array(x), as_tuples(axis), keepdims=keepdims)


@operation
def nansum(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns the sum over axes without NaN."""
    return jnp.nansum(as_array(x), as_tuples(axis), keepdims=keepdims)


@operation
def nanvar(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns the variance over axes without NaN."""
    return jnp.nanvar(as_array(x), as_tuples(axis), keepdims=keepdims)


@operation
def percentile(x: Tensor, q: Tensor, axis: Axis = None, method: str = "linear", keepdims: bool = False) -> jax.Array:
    """Returns the percentiles `q`, from 0 to 100, over axes; see `quantile`."""
    return jnp.percentile(as_array(x), as_array(q), as_tuples(axis), method=method, keepdims=keepdims)


@operation
def prod(x: Tensor, axis: Axis = None, keepdims: bool = False, dtype: DTypeLike | None = None) -> jax.Array:
    """Returns the product over axes."""
    return jnp.prod(as_array(x), as_tuples(axis), keepdims=keepdims, dtype=as_dtype(dtype))


@operation
def ptp(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns the maximum minus the minimum over axes."""
    return jnp.ptp(as_array(x), as_tuples(axis), keepdims=keepdims)


@operation
def quantile(x: Tensor, q: Tensor, axis: Axis = None, method: str = "linear", keepdims: bool = False) -> jax.Array:
    """Returns quantiles over axes.

    Args:
        x: The array.
        q: One or more quantiles, from 0 to 1. The axes of `q` are the first of the result.
        axis: The axes to reduce; all by default.
        method: What a quantile between two elements is: "linear", "lower", "higher", "midpoint" or "nearest".
        keepdims: Whether the reduced axes stay with size 1.

    Example:
        >>> quantile([1.0, 2.0, 4.0, 8.0], [0.25, 0.5]).tolist()
        [1.75, 3.0]
    """
    return jnp.quantile(as_array(x), as_array(q), as_tuples(axis), method=method, keepdims=keepdims)


@operation
def std(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns the standard deviation over axes."""
    return jnp.std(as_array(x), as_tuples(axis), keepdims=keepdims)


@operation
def sum(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns the sum over axes."""
    return jnp.sum(as_array(x), as_tuples(axis), keepdims=keepdims)


@operation
def var(x: Tensor, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """Returns the variance over axes; it is accumulated in float32 for float16 and bfloat16."""
    array = as_array(x)
    variance = jnp.var(array, as_tuples(axis), keepdims=keepdims, dtype=promoted(array.dtype, jnp.float32))
    return variance.astype(promoted(array.dtype, float))
