"""Operations that sort, search and find unique elements."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flaxmodels.ops.arrays import Tensor, as_array
from flaxmodels.ops.base import operation


@operation
def argpartition(x: Tensor, kth: int, axis: int | None = -1) -> jax.Array:
    """Returns the indices that put the element of rank `kth` in place, smaller ones before it and larger ones after it.

    The axis None is the only one of the flattened array.
    """
    array = as_array(x)
    return jnp.argpartition(array.ravel(), kth, 0) if axis is None else jnp.argpartition(array, kth, axis)


@operation
def argsort(x: Tensor, axis: int | None = -1) -> jax.Array:
    """Returns the indices that sort an axis; the axis None is the only one of the flattened array."""
    array = as_array(x)
    return jnp.argsort(array, None if array.ndim == 0 else axis)


@operation
def digitize(x: Tensor, bins: Tensor) -> jax.Array:
    """Returns the index of the bin of each element, where `bins` are the sorted limits between bins."""
    return jnp.digitize(as_array(x), as_array(bins))


@operation
def isin(x1: Tensor, x2: Tensor, assume_unique: bool = False, invert: bool = False) -> jax.Array:
    """Returns whether each element of `x1` is among the elements of `x2`.

    Args:
        x1: The elements.
        x2: The elements to search.
        assume_unique: Whether all elements differ in both arrays, which may be faster.
        invert: Whether to return the opposite.
    """
    return jnp.isin(as_array(x1), as_array(x2), assume_unique=assume_unique, invert=invert)


@operation
def searchsorted(sorted_sequence: Tensor, values: Tensor, side: str = "left") -> jax.Array:
    """Returns the positions where values keep a sorted vector sorted.

    Args:
        sorted_sequence: A sorted one-dimensional array.
        values: The values.
        side: "left" for the position before equal elements, "right" for the one after them.

    Raises:
        ValueError: If the sorted array has not one axis.
    """
    array = as_array(sorted_sequence)
    if array.ndim != 1:
        raise ValueError(
            f"`sorted_sequence` of ops.searchsorted must have one axis, got shape {array.shape}; "
            "use ops.vectorized_map over the rows."
        )
    return jnp.searchsorted(array, as_array(values), side=side)


@operation
def sort(x: Tensor, axis: int | None = -1) -> jax.Array:
    """Returns an array sorted along an axis; the axis None is the only one of the flattened array."""
    return jnp.sort(as_array(x), axis)


@operation
def unique(
    x: Tensor,
    sorted: bool = True,
    return_index: bool = False,
    return_inverse: bool = False,
    return_counts: bool = False,
    axis: int | None = None,
    size: int | None = None,
    fill_value: ArrayLike | None = None,
) -> jax.Array | tuple[jax.Array, ...]:
    """Returns the different elements of an array.

    Args:
        x: The array.
        sorted: Whether the result is sorted.
        return_index: Whether to return the index of the first one of equal elements as well.
        return_inverse: Whether to return the index into the result for each element as well.
        return_counts: Whether to return how often each element occurs as well.
        axis: The axis whose slices are compared; by default the elements of the flattened array.
        size: The size of the result, which must be given on symbols and inside `jax.jit`.
        fill_value: The value of surplus elements of the result; the smallest element by default.
    """
    return jnp.unique(
        as_array(x),
        return_index=return_index,
        return_inverse=return_inverse,
        return_counts=return_counts,
        axis=axis,
        equal_nan=False,
        size=size,
        sorted=sorted,
        fill_value=fill_value,
    )
