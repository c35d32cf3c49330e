"""Operations that make arrays of a shape or of a range of numbers, and window functions.

The default dtype is float32 unless the docstring says otherwise.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from flaxmodels.layers.symbolic import Symbol
from flaxmodels.ops.arrays import Tensor, as_array, as_dtype, as_tuples, promoted
from flaxmodels.ops.base import operation

ShapeLike: TypeAlias = int | Sequence[int]


def _window(name: str, function: Callable[..., jax.Array], args: tuple[ArrayLike | Symbol, ...]) -> jax.Array:
    """Returns a window function of a number of points, which must be known."""
    if isinstance(args[0], Symbol):
        raise TypeError(
            f"The number of points of {name} must be an integer, got {args[0]!r}, which has no value; pass an integer."
        )
    return function(*args).astype(jnp.float32)


@operation
def arange(
    start: ArrayLike, stop: ArrayLike | None = None, step: ArrayLike | None = None, dtype: DTypeLike | None = None
) -> jax.Array:
    """Returns the numbers from `start` up to `stop`, excluded; from 0 up to `start` if `stop` is None.

    Args:
        start: The first number.
        stop: The end, which is excluded.
        step: The difference of two numbers; 1 by default.
        dtype: The dtype; by default that of the arguments, int32 for Python integers and float32 for Python floats.
    """
    if dtype is None:
        given: list[np.dtype | type] = [getattr(x, "dtype", type(x)) for x in (start, stop, step) if x is not None]
        dtype = promoted(*given)
    return jnp.arange(start, stop, step=step, dtype=as_dtype(dtype))


@operation
def array(x: Tensor, dtype: DTypeLike | None = None) -> jax.Array:
    """Returns a new array of numbers, nested lists or an array; its dtype is that of the numbers by default."""
    return jnp.array(x, dtype=as_dtype(dtype))


def bartlett(x: int) -> jax.Array:
    """Returns the Bartlett window of `x` points, a triangle."""
    return _window("bartlett", jnp.bartlett, (x,))


def blackman(x: int) -> jax.Array:
    """Returns the Blackman window of `x` points."""
    return _window("blackman", jnp.blackman, (x,))


def empty(shape: ShapeLike, dtype: DTypeLike | None = None) -> jax.Array:
    """Returns a new array, which JAX fills with zeros."""
    return jnp.empty(as_tuples(shape), as_dtype(dtype or jnp.float32))


@operation
def empty_like(x: Tensor, dtype: DTypeLike | None = None) -> jax.Array:
    """Returns a new array of the shape and dtype of `x`, which JAX fills with zeros."""
    return jnp.empty_like(as_array(x), dtype=as_dtype(dtype))


def eye(N: int, M: int | None = None, k: int = 0, dtype: DTypeLike | None = None) -> jax.Array:  # noqa: N803 - Keras' names
    """Returns a matrix with ones on a diagonal.

    Args:
        N: The number of rows.
        M: The number of columns; N by default.
        k: The diagonal: 0 is the main one, positive ones are above it.
        dtype: The dtype.

    Raises:
        TypeError: If N or M is not an integer.
    """
    for name, size in (("N", N), ("M", M)):
        if isinstance(size, float) or jnp.issubdtype(getattr(size, "dtype", int), jnp.floating):
            raise TypeError(f"`{name}` of ops.eye must be an integer, got {size!r}; convert it with int().")
    return jnp.eye(N, M, k=k, dtype=as_dtype(dtype or jnp.float32))


@operation
def full(shape: ShapeLike, fill_value: Tensor, dtype: DTypeLike | None = None) -> jax.Array:
    """Returns an array filled with a value, which broadcasts to the shape."""
    return jnp.full(as_tuples(shape), as_array(fill_value), as_dtype(dtype or jnp.float32))


@operation
def full_like(x: Tensor, fill_value: Tensor, dtype: DTypeLike | None = None) -> jax.Array:
    """Returns an array of the shape and dtype of `x`, filled with a value."""
    return jnp.full_like(as_array(x), as_array(fill_value), dtype=as_dtype(dtype))


@operation
def geomspace(
    start: Tensor, stop: Tensor, num: int = 50, endpoint: bool = True, dtype: DTypeLike | None = None, axis: int = 0
) -> jax.Array:
    """Returns numbers from `start` to `stop` with a constant ratio; see `linspace`."""
    return jnp.geomspace(as_array(start), as_array(stop), num, endpoint, as_dtype(dtype), axis)


def hamming(x: int) -> jax.Array:
    """Returns the Hamming window of `x` points."""
    return _window("hamming", jnp.hamming, (x,))


def hanning(x: int) -> jax.Array:
    """Returns the Hann window of `x` points."""
    return _window("hanning", jnp.hanning, (x,))


def identity(n: int, dtype: DTypeLike | None = None) -> jax.Array:
    """Returns the identity matrix of `n` rows."""
    return jnp.identity(n, as_dtype(dtype or jnp.float32))


def kaiser(x: int, beta: ArrayLike) -> jax.Array:
    """Returns the Kaiser window of `x` points, which is narrower for a larger `beta`."""
    return _window("kaiser", jnp.kaiser, (x, beta))


@operation
def linspace(
    start: Tensor,
    stop: Tensor,
    num: int = 50,
    endpoint: bool = True,
    retstep: bool = False,
    dtype: DTypeLike | None = None,
    axis: int = 0,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Returns numbers from `start` to `stop` with a constant difference.

    Args:
        start: The first number, or an array of first numbers.
        stop: The last number, or an array of last numbers.
        num: How many numbers.
        endpoint: Whether `stop` is the last number; otherwise it is excluded.
        retstep: Whether to return the difference as well.
        dtype: The dtype; a floating one by default.
        axis: The axis of the numbers, where `start` or `stop` are arrays.
    """
    return jnp.linspace(as_array(start), as_array(stop), num, endpoint, retstep, as_dtype(dtype), axis)


@operation
def logspace(
    start: Tensor,
    stop: Tensor,
    num: int = 50,
    endpoint: bool = True,
    base: ArrayLike = 10,
    dtype: DTypeLike | None = None,
    axis: int = 0,
) -> jax.Array:
    """Returns numbers from base**start to base**stop with a constant ratio; see `linspace`."""
    return jnp.logspace(as_array(start), as_array(stop), num, endpoint, base, as_dtype(dtype), axis)


@operation
def meshgrid(*x: Tensor, indexing: str = "xy") -> list[jax.Array]:
    """Returns the coordinates of a grid, one array for each axis.

    Args:
        *x: The coordinates along each axis, one-dimensional arrays.
        indexing: "xy" if the first coordinate is along the second axis, "ij" if it is along the first one.

    Example:
        >>> [grid.tolist() for grid in meshgrid([1, 2], [3, 4, 5], indexing="ij")]
        [[[1, 1, 1], [2, 2, 2]], [[3, 4, 5], [3, 4, 5]]]
    """
    return jnp.meshgrid(*map(as_array, x), indexing=indexing)


def ones(shape: ShapeLike, dtype: DTypeLike | None = None) -> jax.Array:
    """Returns an array of ones."""
    return jnp.ones(as_tuples(shape), as_dtype(dtype or jnp.float32))


@operation
def ones_like(x: Tensor, dtype: DTypeLike | None = None) -> jax.Array:
    """Returns ones in the shape and dtype of `x`."""
    return jnp.ones_like(as_array(x), dtype=as_dtype(dtype))


def tri(N: int, M: int | None = None, k: int = 0, dtype: DTypeLike | None = None) -> jax.Array:  # noqa: N803 - Keras' names
    """Returns a matrix of N rows and M columns with ones on and below diagonal `k`, and zeros above it."""
    return jnp.tri(N, M, k=k, dtype=as_dtype(dtype or jnp.float32))


@operation
def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> jax.Array:  # noqa: N803 - Keras' names
    """Returns the Vandermonde matrix of a vector, whose columns are the powers of `x`.

    Args:
        x: A one-dimensional array.
        N: The number of columns; the size of `x` by default.
        increasing: Whether the powers increase from left to right.

    Raises:
        ValueError: If `x` has not one axis, or `N` is negative.
        TypeError: If `N` is not an integer or `increasing` not a boolean.
    """
    array = as_array(x)
    if array.ndim != 1:
        raise ValueError(f"ops.vander needs a one-dimensional array, got shape {array.shape}; use ops.ravel first.")
    if N is not None and not isinstance(N, int):
        raise TypeError(f"`N` of ops.vander must be an integer or None, got {N!r}; convert it with int().")
    if N is not None and N < 0:
        raise ValueError(f"`N` of ops.vander must not be negative, got {N}; leave it out for as many columns as rows.")
    if not isinstance(increasing, bool):
        raise TypeError(f"`increasing` of ops.vander must be True or False, got {increasing!r}; use one of these.")
    return jnp.vander(array, N=N, increasing=increasing)


def zeros(shape: ShapeLike, dtype: DTypeLike | None = None) -> jax.Array:
    """Returns an array of zeros."""
    return jnp.zeros(as_tuples(shape), as_dtype(dtype or jnp.float32))


@operation
def zeros_like(x: Tensor, dtype: DTypeLike | None = None) -> jax.Array:
    """Returns zeros in the shape and dtype of `x`."""
    return jnp.zeros_like(as_array(x), dtype=as_dtype(dtype))
