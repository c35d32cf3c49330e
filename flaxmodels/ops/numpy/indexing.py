"""Operations that select elements by index or condition."""

from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from flaxmodels.ops.arrays import Tensor, as_array, as_operand, as_tuples
from flaxmodels.ops.base import operation

# An index along one axis, or along the axes of an array of booleans.
Index: TypeAlias = Tensor | slice | EllipsisType | None


@operation
def get_item(x: Tensor, key: Index | Sequence[Index]) -> jax.Array:
    """Returns x[key].

    Args:
        x: The array.
        key: An integer, a slice, None, Ellipsis, an array of indices or booleans, or a tuple of these. A list is a
            tuple, because a file stores tuples as lists.

    Example:
        >>> get_item([[1, 2, 3], [4, 5, 6]], (slice(None), -1)).tolist()
        [3, 6]
    """
    return as_array(x)[tuple(key) if isinstance(key, list) else key]


@operation
def nonzero(x: Tensor) -> tuple[jax.Array, ...]:
    """Returns the indices of the nonzero elements, one array for each axis.

    The shape of the result depends on values, so it works neither on symbols nor inside `jax.jit`.
    """
    return jnp.nonzero(as_array(x))


@operation
def select(condlist: Sequence[Tensor], choicelist: Sequence[Tensor], default: Tensor = 0) -> jax.Array:
    """Returns each element from the array of the first condition that is True.

    Args:
        condlist: A list of conditions.
        choicelist: The array to take elements from for each condition.
        default: The elements where no condition is True.

    Raises:
        ValueError: If the conditions or choices are no list, or none are given.

    Example:
        >>> x = jnp.arange(4)
        >>> select([x < 1, x > 2], [x + 10, x + 20], default=-1).tolist()
        [10, -1, -1, 23]
    """
    for name, values in (("condlist", condlist), ("choicelist", choicelist)):
        if not isinstance(values, list | tuple) or not values:
            raise ValueError(
                f"`{name}` of ops.select must be a list of at least one array, got {values!r}; "
                "use ops.where for one condition."
            )
    return jnp.select([as_array(x) for x in condlist], [as_array(x) for x in choicelist], as_operand(default))


@operation
def take(x: Tensor, indices: Tensor, axis: int | None = None) -> jax.Array:
    """Returns the elements at indices along an axis, by default of the flattened array.

    As in JAX, an index outside of the axis gives NaN, or the smallest value of an integer dtype.
    """
    return jnp.take(as_array(x), as_array(indices), axis)


@operation
def take_along_axis(x: Tensor, indices: Tensor, axis: int | None = None) -> jax.Array:
    """Returns the elements at indices along an axis, where each position of the other axes has its own indices."""
    return jnp.take_along_axis(as_array(x), as_array(indices), axis)


@operation
def unravel_index(indices: Tensor, shape: Sequence[int]) -> tuple[jax.Array, ...]:
    """Returns the coordinates of indices into a flattened array of a shape, one array for each axis."""
    return jnp.unravel_index(as_array(indices), as_tuples(shape))


def vectorize(
    pyfunc: Callable[..., object], *, excluded: set[int | str] | None = None, signature: str | None = None
) -> Callable[..., Any]:
    """Returns a function of arrays that applies a function of single elements to all of them.

    Args:
        pyfunc: A function of arrays without axes, or with the axes of `signature`.
        excluded: Positions and names of arguments that are passed as they are.
        signature: The axes that `pyfunc` works on, such as "(m,n),(n)->(m)".

    Raises:
        ValueError: If `pyfunc` is not callable.

    Example:
        >>> vectorize(jnp.dot, signature="(n),(n)->()")(jnp.ones((2, 3)), jnp.ones((2, 3))).tolist()
        [3.0, 3.0]
    """
    if not callable(pyfunc):
        raise ValueError(f"ops.vectorize needs a function, got {pyfunc!r}; pass a callable.")
    return jnp.vectorize(pyfunc, excluded=excluded or set(), signature=signature)


@operation
def where(condition: Tensor, x1: Tensor | None = None, x2: Tensor | None = None) -> jax.Array | tuple[jax.Array, ...]:
    """Returns elements of `x1` where a condition is True, and of `x2` elsewhere.

    Without `x1` and `x2`, it returns the indices of the nonzero elements, like `nonzero`.

    Raises:
        ValueError: If only one of `x1` and `x2` is given.

    Example:
        >>> where([True, False], 1.0, [2.0, 3.0]).tolist()
        [1.0, 3.0]
    """
    if (x1 is None) != (x2 is None):
        raise ValueError(f"ops.where takes both `x1` and `x2` or none, got x1={x1!r} and x2={x2!r}; pass both.")
    if x1 is None or x2 is None:
        return jnp.nonzero(as_array(condition))
    return jnp.where(as_array(condition), as_operand(x1), as_operand(x2))
