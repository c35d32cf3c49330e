"""Operations that join arrays, split them or repeat their elements."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.ops.arrays import Tensor, as_array, as_arrays, as_tuples
from flaxmodels.ops.base import operation


def _split(
    function: Callable[..., list[jax.Array]], x: Tensor, indices_or_sections: int | Sequence[int]
) -> list[jax.Array]:
    """Calls a function of JAX that splits arrays; its annotation leaves out lists of indices."""
    return function(as_array(x), as_tuples(indices_or_sections))


@operation
def append(x1: Tensor, x2: Tensor, axis: int | None = None) -> jax.Array:
    """Joins two arrays along an axis, by default after flattening them."""
    return jnp.append(as_array(x1), as_array(x2), axis)


@operation
def array_split(x: Tensor, indices_or_sections: int, axis: int = 0) -> list[jax.Array]:
    """Splits an array into a number of parts, of which the first ones may be larger by one.

    Raises:
        TypeError: If the number of parts or the axis is not an integer.
        ValueError: If the number of parts is not positive.
    """
    for name, value in (("indices_or_sections", indices_or_sections), ("axis", axis)):
        if not isinstance(value, int):
            raise TypeError(
                f"`{name}` of ops.array_split must be an integer, got {value!r}; use ops.split to split at indices."
            )
    if indices_or_sections <= 0:
        raise ValueError(
            f"`indices_or_sections` of ops.array_split must be positive, got {indices_or_sections}; use 1 or more."
        )
    return jnp.array_split(as_array(x), indices_or_sections, axis)


@operation
def concatenate(xs: Sequence[Tensor], axis: int = 0) -> jax.Array:
    """Joins arrays along an axis that they have.

    Example:
        >>> concatenate([[[1, 2]], [[3, 4]]], axis=1).tolist()
        [[1, 2, 3, 4]]
    """
    return jnp.concatenate(as_arrays(xs), axis)


@operation
def dsplit(x: Tensor, indices_or_sections: int | Sequence[int]) -> list[jax.Array]:
    """Splits an array along its third axis; see `split`."""
    return _split(jnp.dsplit, x, indices_or_sections)


@operation
def dstack(xs: Sequence[Tensor]) -> jax.Array:
    """Joins arrays along their third axis, which is added where needed."""
    return jnp.dstack(as_arrays(xs))


@operation
def hsplit(x: Tensor, indices_or_sections: int | Sequence[int]) -> list[jax.Array]:
    """Splits an array along its second axis, or the first one of a vector; see `split`."""
    return _split(jnp.hsplit, x, indices_or_sections)


@operation
def hstack(xs: Sequence[Tensor]) -> jax.Array:
    """Joins arrays along their second axis, or the first one of vectors."""
    return jnp.hstack(as_arrays(xs))


@operation
def repeat(x: Tensor, repeats: int | Sequence[int] | jax.Array, axis: int | None = None) -> jax.Array:
    """Repeats each element of an axis, by default of the flattened array.

    Args:
        x: The array.
        repeats: How often to repeat each element: one number, or one for each position of the axis.
        axis: The axis.

    Example:
        >>> repeat([[1, 2], [3, 4]], 2, axis=1).tolist()
        [[1, 1, 2, 2], [3, 3, 4, 4]]
    """
    counts: Any = np.asarray(repeats) if isinstance(repeats, list | tuple) else repeats
    return jnp.repeat(as_array(x), counts, axis)


@operation
def split(x: Tensor, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[jax.Array]:
    """Splits an array along an axis into equal parts, or before each of several indices.

    Example:
        >>> [part.tolist() for part in split([1, 2, 3, 4], 2)], [part.tolist() for part in split([1, 2, 3, 4], [1])]
        ([[1, 2], [3, 4]], [[1], [2, 3, 4]])
    """
    return jnp.split(as_array(x), as_tuples(indices_or_sections), axis)


@operation
def stack(x: Sequence[Tensor], axis: int = 0) -> jax.Array:
    """Joins arrays along a new axis."""
    return jnp.stack(as_arrays(x), axis)


@operation
def tile(x: Tensor, repeats: int | Sequence[int]) -> jax.Array:
    """Repeats an array as a whole along each axis."""
    return jnp.tile(as_array(x), as_tuples(repeats))


@operation
def vsplit(x: Tensor, indices_or_sections: int | Sequence[int]) -> list[jax.Array]:
    """Splits an array along its first axis; see `split`."""
    return _split(jnp.vsplit, x, indices_or_sections)


@operation
def vstack(xs: Sequence[Tensor]) -> jax.Array:
    """Joins arrays along their first axis, which is added to vectors."""
    return jnp.vstack(as_arrays(xs))
