"""Products of vectors, matrices and tensors."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from flaxmodels.ops.arrays import Tensor, as_array, as_operand, as_tuples
from flaxmodels.ops.base import operation


def _accumulator(*xs: ArrayLike) -> DTypeLike | None:
    """Returns the dtype to accumulate a product in: int32 for int8, which would overflow, otherwise None."""
    return jnp.int32 if all(getattr(x, "dtype", None) == jnp.int8 for x in xs) else None


@operation
def cross(
    x1: Tensor, x2: Tensor, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None
) -> jax.Array:
    """Returns the cross product of vectors of two or three elements.

    Args:
        x1: The first vectors.
        x2: The second vectors.
        axisa: The axis of the vectors in `x1`.
        axisb: The axis of the vectors in `x2`.
        axisc: The axis of the vectors in the result.
        axis: The axis of the vectors in all three, instead of the other arguments.
    """
    return jnp.cross(as_array(x1), as_array(x2), axisa, axisb, axisc, axis)


@operation
def dot(x1: Tensor, x2: Tensor) -> jax.Array:
    """Returns the sum of products over the last axis of `x1` and the last but one of `x2`."""
    return jnp.dot(as_operand(x1), as_operand(x2))


@operation
def einsum(subscripts: str, *operands: Tensor, **kwargs: Any) -> jax.Array:
    """Returns the sums of products that Einstein notation describes.

    Args:
        subscripts: The axes of each array and of the result, such as "bij,bjk->bik".
        *operands: The arrays.
        **kwargs: Options of `jax.numpy.einsum`, such as `optimize`.

    Example:
        >>> einsum("ij,j->i", [[1, 2], [3, 4]], [1, 1]).tolist()
        [3, 7]
    """
    arrays = [as_array(operand) for operand in operands]
    return jnp.einsum(subscripts, *arrays, **{**kwargs, "preferred_element_type": _accumulator(*arrays)})


@operation
def inner(x1: Tensor, x2: Tensor) -> jax.Array:
    """Returns the sum of products over the last axes of two arrays."""
    return jnp.inner(as_operand(x1), as_operand(x2))


@operation
def kron(x1: Tensor, x2: Tensor) -> jax.Array:
    """Returns the Kronecker product."""
    return jnp.kron(as_operand(x1), as_operand(x2))


@operation
def matmul(x1: Tensor, x2: Tensor) -> jax.Array:
    """Returns the matrix product x1 @ x2; other axes broadcast. For int8 the result is int32."""
    a, b = as_operand(x1), as_operand(x2)
    return jnp.matmul(a, b, preferred_element_type=_accumulator(a, b))


@operation
def outer(x1: Tensor, x2: Tensor) -> jax.Array:
    """Returns the products of all pairs of elements of two arrays, which are flattened."""
    return jnp.outer(as_operand(x1), as_array(x2))


@operation
def slogdet(x: Tensor) -> tuple[jax.Array, jax.Array]:
    """Returns the sign of the determinant of matrices, and the logarithm of its absolute value."""
    sign, logarithm = jnp.linalg.slogdet(as_array(x))
    return sign, logarithm


@operation
def tensordot(x1: Tensor, x2: Tensor, axes: int | Sequence[int] | Sequence[Sequence[int]] = 2) -> jax.Array:
    """Returns the sum of products over several axes.

    Args:
        x1: The first array.
        x2: The second array.
        axes: The number of last axes of `x1` and first axes of `x2`, or a pair of axes of `x1` and axes of `x2`.
    """
    return jnp.tensordot(as_array(x1), as_array(x2), as_tuples(axes))


@operation
def trace(x: Tensor, offset: int = 0, axis1: int = 0, axis2: int = 1) -> jax.Array:
    """Returns the sum of a diagonal of the matrices of two axes; a positive `offset` is above the main diagonal."""
    return jnp.trace(as_array(x), offset, axis1, axis2)


@operation
def vdot(x1: Tensor, x2: Tensor) -> jax.Array:
    """Returns the sum of products of two arrays, which are flattened; the first one is conjugated."""
    return jnp.vdot(as_operand(x1), as_operand(x2))
