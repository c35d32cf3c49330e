"""Operations that change the shape of an array or the order of its elements."""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from flaxmodels.ops.arrays import Tensor, as_array, as_dtype, as_tuples
from flaxmodels.ops.base import operation


@operation
def broadcast_to(x: Tensor, shape: int | Sequence[int]) -> jax.Array:
    """Returns an array broadcast to a shape."""
    return jnp.broadcast_to(as_array(x), as_tuples(shape))


@operation
def diag(x: Tensor, k: int = 0) -> jax.Array:
    """Returns diagonal `k` of a matrix, or a matrix with a vector on diagonal `k`."""
    return jnp.diag(as_array(x), k)


@operation
def diagflat(x: Tensor, k: int = 0) -> jax.Array:
    """Returns a matrix with the flattened array on diagonal `k`."""
    return jnp.diagflat(as_array(x), k)


@operation
def diagonal(x: Tensor, offset: int = 0, axis1: int = 0, axis2: int = 1) -> jax.Array:
    """Returns a diagonal of the matrices of two axes, as the last axis.

    Raises:
        ValueError: If both axes are the same.
    """
    array = as_array(x)
    if axis1 % array.ndim == axis2 % array.ndim:
        raise ValueError(
            f"`axis1` and `axis2` of ops.diagonal must differ, got {axis1} and {axis2} for {array.ndim} axes; "
            "choose two axes."
        )
    return jnp.diagonal(array, offset, axis1, axis2)


@operation
def expand_dims(x: Tensor, axis: int | Sequence[int]) -> jax.Array:
    """Adds axes of size 1 at positions of the result."""
    return jnp.expand_dims(as_array(x), as_tuples(axis))


@operation
def flip(x: Tensor, axis: int | Sequence[int] | None = None) -> jax.Array:
    """Reverses the order of elements along axes, by default along all."""
    return jnp.flip(as_array(x), as_tuples(axis))


@operation
def fliplr(x: Tensor) -> jax.Array:
    """Reverses the order of elements along the second axis."""
    return jnp.fliplr(as_array(x))


@operation
def flipud(x: Tensor) -> jax.Array:
    """Reverses the order of elements along the first axis."""
    return jnp.flipud(as_array(x))


@operation
def moveaxis(x: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> jax.Array:
    """Moves axes to other positions; the other axes stay in order."""
    return jnp.moveaxis(as_array(x), as_tuples(source), as_tuples(destination))


def ndim(x: Tensor) -> int:
    """Returns the number of axes, which is an integer for a symbol too."""
    return len(x.shape) if hasattr(x, "shape") else np.ndim(x)  # type: ignore[arg-type]


@operation
def pad(
    x: Tensor,
    pad_width: int | Sequence[int] | Sequence[Sequence[int]],
    mode: str = "constant",
    constant_values: Tensor | None = None,
) -> jax.Array:
    """Adds elements before the first and after the last one of axes.

    Args:
        x: The array.
        pad_width: How many elements: one number for all axes, a pair (before, after) for all axes, or a pair or a list
            of one number for each axis.
        mode: The added elements: "constant", or "reflect", "symmetric", "edge", "wrap" and others of `jax.numpy.pad`.
        constant_values: The value for the mode "constant"; 0 by default.

    Raises:
        ValueError: If `pad_width` does not fit the axes, or another mode has `constant_values`.

    Example:
        >>> pad([1, 2], (1, 2), constant_values=9).tolist()
        [9, 1, 2, 9, 9]
    """
    array = as_array(x)
    width: Any = as_tuples(pad_width)
    if isinstance(width, int) or not isinstance(width[0], tuple):
        width = (width,) if not isinstance(width, int) else ((width, width),)
    width = tuple(pair * 2 if len(pair) == 1 else pair for pair in width)
    if len(width) not in (1, array.ndim):
        raise ValueError(
            f"`pad_width` of ops.pad must have one pair for each of {array.ndim} axes, got {pad_width!r} for shape "
            f"{array.shape}; use (0, 0) for an axis without padding."
        )
    if mode != "constant" and constant_values is not None:
        raise ValueError(
            f"`constant_values` of ops.pad needs mode 'constant', got mode={mode!r}; leave `constant_values` out."
        )
    values = {} if constant_values is None else {"constant_values": as_tuples(constant_values)}
    return jnp.pad(array, width, mode, **values)


@operation
def ravel(x: Tensor) -> jax.Array:
    """Returns an array with all its elements in one axis."""
    return jnp.ravel(as_array(x))


@operation
def reshape(x: Tensor, newshape: int | None | Sequence[int | None]) -> jax.Array:
    """Returns the elements in another shape.

    Args:
        x: The array.
        newshape: The shape. One size may be -1: it follows from the others. None is the size of the same axis of `x`,
            such as an unknown batch; if it is the only unknown size it is like -1.

    Raises:
        ValueError: If more than one size is -1, or the sizes do not fit.

    Example:
        >>> x = jnp.ones((2, 3, 4))
        >>> reshape(x, (None, 12)).shape, reshape(x, (None, -1, 2)).shape
        ((2, 12), (2, 6, 2))
    """
    array = as_array(x)
    shape = tuple(newshape) if isinstance(newshape, Sequence | np.ndarray | jax.Array) else (newshape,)
    if shape.count(-1) + shape.count(None) == 1:
        shape = tuple(-1 if size is None else size for size in shape)
    sizes = []
    for axis, size in enumerate(shape):
        if size is None and axis >= array.ndim:
            raise ValueError(
                f"None at axis {axis} of `newshape` of ops.reshape is the size of that axis of the array, got "
                f"newshape={newshape!r} for shape {array.shape}; write the size, or -1 for one size."
            )
        sizes.append(array.shape[axis] if size is None else operator.index(size))
    if sizes.count(-1) > 1 or any(size < -1 for size in sizes):
        raise ValueError(
            f"`newshape` of ops.reshape must have sizes of at least 0 and at most one -1, got {newshape!r}; "
            "write the other sizes."
        )
    return jnp.reshape(array, tuple(sizes))


@operation
def roll(x: Tensor, shift: ArrayLike | Sequence[int], axis: int | Sequence[int] | None = None) -> jax.Array:
    """Moves elements along axes by `shift` positions; elements beyond the end come in at the start."""
    return jnp.roll(as_array(x), as_tuples(shift), as_tuples(axis))


@operation
def rot90(array: Tensor, k: int = 1, axes: Sequence[int] = (0, 1)) -> jax.Array:
    """Rotates an array `k` times by 90 degrees in the plane of two axes, from the first one to the second one.

    Raises:
        ValueError: If the array has less than two axes, or `axes` are not two different axes.
    """
    x = as_array(array)
    if x.ndim < 2:
        raise ValueError(f"ops.rot90 needs an array of at least two axes, got shape {x.shape}; add axes.")
    if len(axes) != 2 or axes[0] % x.ndim == axes[1] % x.ndim:
        raise ValueError(f"`axes` of ops.rot90 must be two different axes, got {axes!r}; use for example (0, 1).")
    return jnp.rot90(x, k, (axes[0], axes[1]))


@operation
def size(x: Tensor) -> int:
    """Returns the number of elements."""
    return int(np.size(as_array(x)))


@operation
def squeeze(x: Tensor, axis: int | Sequence[int] | None = None) -> jax.Array:
    """Removes axes of size 1, by default all."""
    return jnp.squeeze(as_array(x), as_tuples(axis))


@operation
def swapaxes(x: Tensor, axis1: int, axis2: int) -> jax.Array:
    """Exchanges two axes."""
    return jnp.swapaxes(as_array(x), axis1, axis2)


@operation
def transpose(x: Tensor, axes: Sequence[int] | None = None) -> jax.Array:
    """Returns an array with its axes in another order, by default reversed."""
    return jnp.transpose(as_array(x), as_tuples(axes))


@operation
def tril(x: Tensor, k: int = 0) -> jax.Array:
    """Returns matrices with zeros above diagonal `k`."""
    return jnp.tril(as_array(x), k)


@operation
def triu(x: Tensor, k: int = 0) -> jax.Array:
    """Returns matrices with zeros below diagonal `k`."""
    return jnp.triu(as_array(x), k)


@operation
def view(x: Tensor, dtype: DTypeLike | None = None) -> jax.Array:
    """Returns the bytes of an array as another dtype; the last axis grows or shrinks with the size of an element."""
    return as_array(x).view(as_dtype(dtype))
