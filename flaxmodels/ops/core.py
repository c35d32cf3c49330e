"""Keras' core operations: conversion, shapes, slices and scattered updates; loops are in `control_flow`."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from flaxmodels.names import lookup
from flaxmodels.ops.arguments import refuse_sparse
from flaxmodels.ops.arrays import Tensor, as_array, as_dtype
from flaxmodels.ops.base import operation
from flaxmodels.ops.control_flow import (
    associative_scan,
    cond,
    custom_gradient,
    fori_loop,
    map,
    scan,
    switch,
    vectorized_map,
    while_loop,
)

__all__ = [
    "associative_scan",
    "cast",
    "cond",
    "convert_to_numpy",
    "convert_to_tensor",
    "custom_gradient",
    "dtype",
    "fori_loop",
    "is_tensor",
    "map",
    "rearrange",
    "saturate_cast",
    "scan",
    "scatter",
    "scatter_update",
    "shape",
    "slice",
    "slice_update",
    "stop_gradient",
    "switch",
    "unstack",
    "vectorized_map",
    "while_loop",
]

# --- conversion


@operation
def cast(x: Tensor, dtype: DTypeLike) -> jax.Array:
    """Returns x in another dtype.

    Example:
        >>> cast([1.7, -1.7], "int32").tolist()
        [1, -1]
    """
    return as_array(x).astype(as_dtype(dtype))


@operation
def saturate_cast(x: Tensor, dtype: DTypeLike) -> jax.Array:
    """Returns x in another dtype; values beyond the range of the dtype become its smallest or largest value.

    Example:
        >>> saturate_cast([-3, 300], "uint8").tolist()
        [0, 255]
    """
    array = as_array(x)
    target = as_dtype(dtype)
    (in_low, in_high), (out_low, out_high) = _limits(array.dtype), _limits(target)
    low, high = np.maximum(in_low, out_low).astype(array.dtype), np.minimum(in_high, out_high).astype(array.dtype)
    # Rounding to the dtype of x may have moved a limit out of the range again.
    if low < out_low:
        low = np.nextafter(low, np.zeros_like(low))
    if high > out_high:
        high = np.nextafter(high, np.zeros_like(high))
    return jnp.clip(array, low, high).astype(target)


def _limits(dtype: np.dtype) -> tuple[float, float]:
    """Returns the smallest and the largest value of a dtype."""
    if dtype.kind == "b":
        return 0, 1
    if jnp.issubdtype(dtype, jnp.integer):
        return int(jnp.iinfo(dtype).min), int(jnp.iinfo(dtype).max)
    return float(jnp.finfo(dtype).min), float(jnp.finfo(dtype).max)


@operation
def convert_to_tensor(
    x: Tensor, dtype: DTypeLike | None = None, sparse: bool | None = None, ragged: bool | None = None
) -> jax.Array:
    """Returns x as an array of JAX.

    Args:
        x: An array, a number, or nested lists of numbers.
        dtype: The dtype; by default that of x, where Python's floats are float32 and its integers int32.
        sparse: True is refused, because all arrays are dense.
        ragged: True is refused, because all arrays are dense.

    Raises:
        ValueError: If `sparse` or `ragged` is True.

    Example:
        >>> convert_to_tensor([1, 2]).dtype.name, convert_to_tensor([1, 2], dtype="float32").dtype.name
        ('int32', 'float32')
    """
    refuse_sparse("convert_to_tensor", sparse)
    if ragged:
        raise ValueError("`convert_to_tensor` returns dense arrays only, got ragged=True; leave `ragged` out.")
    array = as_array(x)
    return array if dtype is None else array.astype(as_dtype(dtype))


def convert_to_numpy(x: Tensor) -> np.ndarray:
    """Returns the values of an array as an array of NumPy.

    Raises:
        TypeError: If x is a symbol, which has no values.

    Example:
        >>> convert_to_numpy(jnp.arange(3))
        array([0, 1, 2], dtype=int32)
    """
    return np.array(x)


def is_tensor(x: object) -> bool:
    """Returns whether x is an array of JAX, also one that is being traced; a symbol is not.

    Example:
        >>> is_tensor(jnp.ones(2)), is_tensor(np.ones(2)), is_tensor([1.0])
        (True, False, False)
    """
    return isinstance(x, jax.Array)


def shape(x: Tensor) -> tuple[int | None, ...]:
    """Returns the shape of an array or symbol as a tuple; unknown sizes of a symbol are None.

    Example:
        >>> shape(jnp.ones((2, 3)))
        (2, 3)
    """
    return tuple(x.shape) if hasattr(x, "shape") else np.shape(x)  # type: ignore[arg-type]


def dtype(x: Tensor) -> str:
    """Returns the name of the dtype of an array or symbol.

    Example:
        >>> dtype(jnp.ones(2))
        'float32'
    """
    return jnp.dtype(x.dtype if hasattr(x, "dtype") else as_array(x).dtype).name


@operation
def stop_gradient(variable: Tensor) -> jax.Array:
    """Returns the array unchanged, as a constant for derivatives.

    Example:
        >>> jax.grad(lambda x: x * stop_gradient(x))(3.0).item()
        3.0
    """
    return jax.lax.stop_gradient(as_array(variable))


# --- slices and updates


@operation
def slice(inputs: Tensor, start_indices: Tensor, shape: Sequence[int]) -> jax.Array:
    """Returns the block of an array that starts at an index and has a shape.

    Args:
        inputs: The array.
        start_indices: One index per axis; they may be traced. A block that would exceed the array is moved inside.
        shape: The size of the block along each axis; -1 takes the rest of the axis, for which the index is static.

    Example:
        >>> slice(jnp.arange(12).reshape(3, 4), (1, 2), (2, 2)).tolist()
        [[6, 7], [10, 11]]
    """
    x = as_array(inputs)
    starts: Any = start_indices
    sizes = [n - int(starts[i]) if size == -1 else size for i, (n, size) in enumerate(zip(x.shape, shape, strict=True))]
    return jax.lax.dynamic_slice(x, _index_list(starts), sizes)


@operation
def slice_update(inputs: Tensor, start_indices: Tensor, updates: Tensor) -> jax.Array:
    """Returns an array in which a block that starts at an index is replaced.

    Args:
        inputs: The array.
        start_indices: One index per axis; they may be traced. A block that would exceed the array is moved inside.
        updates: The block.

    Example:
        >>> slice_update(jnp.zeros(4), (1,), jnp.ones(2)).tolist()
        [0.0, 1.0, 1.0, 0.0]
    """
    starts: Any = start_indices
    return jax.lax.dynamic_update_slice(as_array(inputs), as_array(updates), _index_list(starts))


def _index_list(indices: jax.Array | np.ndarray | Sequence[Tensor]) -> list[ArrayLike]:
    """Returns indices, an array or a sequence, as a list."""
    if isinstance(indices, jax.Array | np.ndarray):
        return list(indices)
    return [as_array(index) for index in indices]


@operation
def scatter(indices: Tensor, values: Tensor, shape: Sequence[int]) -> jax.Array:
    """Returns an array of zeros to which values are added at indices; values at the same index add up.

    Shapes: indices [N, K] index the first K axes, values [N, ...] -> shape.

    Example:
        >>> scatter([[0], [2], [0]], jnp.array([1.0, 2.0, 3.0]), (4,)).tolist()
        [4.0, 0.0, 2.0, 0.0]
    """
    updates = as_array(values)
    where = tuple(jnp.moveaxis(as_array(indices), -1, 0))
    return jnp.zeros(tuple(shape), updates.dtype).at[where].add(updates)


@operation
def scatter_update(inputs: Tensor, indices: Tensor, updates: Tensor, reduction: str | None = None) -> jax.Array:
    """Returns an array whose values at indices are replaced by updates or combined with them.

    Args:
        inputs: The array.
        indices: Indices of the first K axes.
        updates: The new values.
        reduction: None to replace the values, or "add", "max", "min" or "mul" to combine them.

    Shapes: indices [N, K], updates [N, ...].

    Raises:
        ValueError: If `reduction` is unknown.

    Example:
        >>> scatter_update(jnp.ones(3), [[0], [2]], [5.0, 6.0], reduction="add").tolist()
        [6.0, 1.0, 7.0]
    """
    x = as_array(inputs)
    at = x.at[tuple(jnp.transpose(as_array(indices)))]
    if reduction is None:
        return at.set(as_array(updates))
    methods: dict[str, Callable[..., jax.Array]] = {"add": at.add, "max": at.max, "min": at.min, "mul": at.multiply}
    return lookup("reduction", reduction.lower(), methods)(as_array(updates))


@operation
def unstack(x: Tensor, num: int | None = None, axis: int = 0) -> list[jax.Array]:
    """Splits an array into the list of its slices along an axis, without that axis.

    Args:
        x: The array.
        num: The size of the axis, checked if given.
        axis: The axis to split.

    Raises:
        ValueError: If the axis has another size than `num`.

    Example:
        >>> [part.tolist() for part in unstack(jnp.array([[1, 2], [3, 4]]), axis=1)]
        [[1, 3], [2, 4]]
    """
    array = as_array(x)
    size = array.shape[axis]
    if num is not None and num != size:
        raise ValueError(
            f"`num` must be the size of axis {axis}, got num={num} for shape {array.shape}; leave `num` out."
        )
    return [jax.lax.index_in_dim(array, i, axis, keepdims=False) for i in range(size)]


# --- axes by name


@operation
def rearrange(tensor: Tensor, pattern: str, **axes_lengths: int) -> jax.Array:
    """Splits, permutes and merges axes as a pattern of axis names says.

    Args:
        tensor: The array.
        pattern: Names of the axes of the array, "->" and the names in the new order. Parentheses split an axis on the
            left and merge axes on the right.
        **axes_lengths: Sizes of axes that a split cannot infer: all but one in each pair of parentheses.

    Raises:
        ValueError: If the pattern is malformed or does not fit the shape.

    Example:
        >>> rearrange(jnp.zeros((2, 6, 3)), "b (h k) c -> b h (k c)", k=2).shape
        (2, 3, 6)
    """
    x = as_array(tensor)
    left, right = _parse_pattern(pattern)
    names = sum(left, [])
    if len(left) != x.ndim or sorted(names) != sorted(sum(right, [])) or len(set(names)) != len(names):
        raise ValueError(
            f"`pattern` must name each of the {x.ndim} axes once on the left and the same names on the right, "
            f"got {pattern!r} for shape {x.shape}; correct the pattern."
        )
    sizes: dict[str, int] = dict(axes_lengths)
    for size, group in zip(x.shape, left, strict=True):
        unknown = [name for name in group if name not in axes_lengths]
        known = math.prod(axes_lengths[name] for name in group if name in axes_lengths)
        if len(unknown) > 1 or size % known or (not unknown and size != known):
            raise ValueError(
                f"The axis of size {size} cannot be split into {tuple(group)} with the sizes {axes_lengths}; "
                "give sizes whose product divides it, for all but one name."
            )
        sizes.update({name: size // known for name in unknown})
    split = x.reshape([sizes[name] for name in names])
    order = [names.index(name) for group in right for name in group]
    return split.transpose(order).reshape([math.prod(sizes[name] for name in group) for group in right])


def _parse_pattern(pattern: str) -> tuple[list[list[str]], list[list[str]]]:
    """Returns the groups of axis names on both sides of a pattern."""
    sides = pattern.split("->")
    name = r"[A-Za-z_]\w*"
    if len(sides) != 2 or any(re.sub(rf"\(\s*({name}\s*)*\)|{name}|\s+|\b1\b", "", side) for side in sides):
        raise ValueError(
            f"`pattern` must have the form 'a b (c d) -> b (a c) d', got {pattern!r}; "
            "write names of axes, parentheses and one arrow."
        )
    left, right = ([token.strip("()").split() for token in re.findall(r"\([^)]*\)|\w+", side)] for side in sides)
    return left, right
