"""Conversion of the arguments of operations to arrays, and Keras' rules for their dtypes."""

import functools
from collections.abc import Sequence
from typing import TypeAlias, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from flaxmodels.layers.symbolic import Symbol

T = TypeVar("T")
Scalar = TypeVar("Scalar", bound=ArrayLike | Symbol | None)

# A number, an array, or a nested list of these.
Nested: TypeAlias = ArrayLike | Sequence["Nested"]
# What an operation takes for an array: on a symbol it adds a node, and lists are nested lists of numbers or arrays.
Tensor: TypeAlias = ArrayLike | Symbol | Sequence["Tensor"]

# The types that the functions of `jax.numpy` take as they are. A Python number keeps its weak type there.
_OPERANDS = frozenset({np.ndarray, np.float32, np.int32, np.bool_, bool, int, float, complex})
_INEXACT = frozenset(map(jnp.dtype, ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")))
_PYTHON_DTYPES: dict[object, str] = {bool: "bool", int: "int32", float: "float32", "int": "int32", "float": "float32"}


def as_array(x: Tensor) -> jax.Array:
    """Returns an array, number or nested list as a JAX array; a Python number gets a weak dtype."""
    return x if isinstance(x, jax.Array) else jnp.asarray(x)


def as_operand(x: Tensor) -> ArrayLike:
    """Returns an array that the functions of `jax.numpy` take; numbers and NumPy arrays stay as they are."""
    operand: ArrayLike = x if type(x) in _OPERANDS or isinstance(x, jax.Array) else jnp.asarray(x)  # type: ignore[assignment]
    return operand


def as_float(x: Tensor) -> jax.Array | float:
    """Returns an array of a floating or complex dtype: integers and booleans become float32."""
    if type(x) is float:
        return x
    array = as_array(x)
    return array if array.dtype in _INEXACT else array.astype(jnp.float32)


def as_arrays(xs: Tensor) -> list[jax.Array] | jax.Array:
    """Returns the arrays of a sequence as a list of JAX arrays; an array of arrays stays as it is."""
    return [as_array(x) for x in xs] if isinstance(xs, list | tuple) else as_array(xs)


@overload
def as_tuples(value: Scalar) -> Scalar: ...
@overload
def as_tuples(value: Sequence[T]) -> tuple[T, ...]: ...
def as_tuples(value: object) -> object:
    """Returns a static argument with tuples in place of lists, because a file stores tuples as lists."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


@overload
def as_dtype(dtype: None) -> None: ...
@overload
def as_dtype(dtype: DTypeLike) -> np.dtype: ...
def as_dtype(dtype: DTypeLike | None) -> np.dtype | None:
    """Returns a dtype as JAX has it, or None for None: 32 bits for 64 bits unless JAX enables 64 bits.

    Raises:
        ValueError: If there is no such dtype.
    """
    if dtype is None:
        return None
    try:
        return jax.dtypes.canonicalize_dtype(_PYTHON_DTYPES.get(dtype, dtype))
    except TypeError:
        raise ValueError(
            f"`dtype` must be the name of a dtype such as 'float32', a dtype of NumPy or JAX, or None, got {dtype!r}; "
            "use one of these."
        ) from None


@functools.cache
def promoted(*dtypes: DTypeLike) -> np.dtype:
    """Returns the dtype to which dtypes are promoted; with `float` among them, it is a floating-point dtype."""
    with jax.numpy_dtype_promotion("standard"):  # Keras' result, even where JAX is strict about the user's operators.
        return jnp.result_type(*dtypes)


def together(*xs: Tensor) -> list[jax.Array]:
    """Returns arrays in their common floating dtype, where also Python numbers have the dtype of their arrays."""
    arrays = [as_array(x) for x in xs]
    dtype = promoted(*(x.dtype for x in arrays), float)
    return [x if x.dtype == dtype else x.astype(dtype) for x in arrays]
