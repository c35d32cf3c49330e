"""Elementwise operations of one array."""

from collections.abc import Callable
from typing import Protocol, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flaxmodels.layers.symbolic import Symbol
from flaxmodels.ops.arrays import Nested, Tensor, as_array, as_float, as_operand
from flaxmodels.ops.base import operation


class Unary(Protocol):
    """The type of an elementwise operation of one array."""

    @overload
    def __call__(self, x: Symbol) -> Symbol: ...
    @overload
    def __call__(self, x: Nested) -> jax.Array: ...


def _unary(
    name: str,
    result: str,
    function: Callable[[ArrayLike], jax.Array],
    convert: Callable[[Tensor], ArrayLike] = as_operand,
) -> Unary:
    """Returns an operation; `result` describes what it returns, and `convert` is called on its argument."""

    def compute(x: Tensor) -> jax.Array:
        return function(convert(x))

    compute.__name__ = compute.__qualname__ = name
    compute.__doc__ = f"Returns {result}."
    return operation(compute)  # type: ignore[return-value]


# With `as_float`, Keras computes integers and booleans in float32, where JAX may keep integers or a weak dtype.
absolute = _unary("absolute", "the absolute value of each element", jnp.absolute)
abs = _unary("abs", "the absolute value of each element", jnp.absolute)
angle = _unary("angle", "the angle of each complex number, in radians", jnp.angle, as_float)
arccos = _unary("arccos", "the inverse cosine of each element", jnp.arccos, as_float)
arccosh = _unary("arccosh", "the inverse hyperbolic cosine of each element", jnp.arccosh, as_float)
arcsin = _unary("arcsin", "the inverse sine of each element", jnp.arcsin, as_float)
arcsinh = _unary("arcsinh", "the inverse hyperbolic sine of each element", jnp.arcsinh, as_float)
arctan = _unary("arctan", "the inverse tangent of each element", jnp.arctan, as_float)
arctanh = _unary("arctanh", "the inverse hyperbolic tangent of each element", jnp.arctanh, as_float)
bitwise_invert = _unary("bitwise_invert", "each integer with all its bits inverted", jnp.invert)
bitwise_not = _unary("bitwise_not", "each integer with all its bits inverted", jnp.invert)
cbrt = _unary("cbrt", "the cube root of each element", jnp.cbrt)
ceil = _unary("ceil", "the smallest integer that is at least as large as each element", jnp.ceil, as_float)
conj = _unary("conj", "the complex conjugate of each element", jnp.conjugate)
conjugate = _unary("conjugate", "the complex conjugate of each element", jnp.conjugate)
copy = _unary("copy", "a copy of an array", jnp.copy)
cos = _unary("cos", "the cosine of each element", jnp.cos, as_float)
cosh = _unary("cosh", "the hyperbolic cosine of each element", jnp.cosh, as_float)
deg2rad = _unary("deg2rad", "each angle in degrees as radians", jnp.deg2rad)
exp = _unary("exp", "e to the power of each element", jnp.exp, as_float)
exp2 = _unary("exp2", "2 to the power of each element", jnp.exp2, as_float)
expm1 = _unary("expm1", "exp(x) - 1, without the rounding error of the difference", jnp.expm1, as_float)
floor = _unary("floor", "the largest integer that is at most as large as each element", jnp.floor, as_float)
imag = _unary("imag", "the imaginary part of each element", jnp.imag)
isfinite = _unary("isfinite", "whether each element is neither infinite nor NaN", jnp.isfinite)
isinf = _unary("isinf", "whether each element is infinite", jnp.isinf)
isnan = _unary("isnan", "whether each element is NaN", jnp.isnan)
isneginf = _unary("isneginf", "whether each element is minus infinity", jnp.isneginf)
isposinf = _unary("isposinf", "whether each element is plus infinity", jnp.isposinf)
isreal = _unary("isreal", "whether the imaginary part of each element is zero", jnp.isreal)
log = _unary("log", "the natural logarithm of each element", jnp.log)
log10 = _unary("log10", "the logarithm of each element to base 10", jnp.log10)
log1p = _unary("log1p", "log(1 + x), without the rounding error of the sum", jnp.log1p)
log2 = _unary("log2", "the logarithm of each element to base 2", jnp.log2)
logical_not = _unary("logical_not", "whether each element is zero or False", jnp.logical_not)
negative = _unary("negative", "-x", jnp.negative)
rad2deg = _unary("rad2deg", "each angle in radians as degrees", jnp.rad2deg)
real = _unary("real", "the real part of each element", jnp.real)
reciprocal = _unary("reciprocal", "1 / x", jnp.reciprocal)
sign = _unary("sign", "-1, 0 or 1, the sign of each element", jnp.sign)
signbit = _unary("signbit", "whether the sign bit of each element is set, as it is for -0.0", jnp.signbit)
sin = _unary("sin", "the sine of each element", jnp.sin, as_float)
sinc = _unary("sinc", "sin(pi x) / (pi x), and 1 for zero", jnp.sinc, as_float)
sinh = _unary("sinh", "the hyperbolic sine of each element", jnp.sinh, as_float)
sqrt = _unary("sqrt", "the square root of each element", jnp.sqrt)
square = _unary("square", "the square of each element", jnp.square)
tan = _unary("tan", "the tangent of each element", jnp.tan, as_float)
tanh = _unary("tanh", "the hyperbolic tangent of each element", jnp.tanh, as_float)


@operation
def clip(x: Tensor, x_min: Tensor | None, x_max: Tensor | None) -> jax.Array:
    """Returns each element limited to the range from `x_min` to `x_max`; None sets no limit."""
    array = as_array(x)
    array = array.astype(jnp.int32) if array.dtype == bool else array
    low, high = (None if limit is None else as_operand(limit) for limit in (x_min, x_max))
    return jnp.clip(array, low, high)


@operation
def fabs(x: Tensor) -> jax.Array:
    """Returns the absolute value of each element as a floating number.

    Raises:
        TypeError: If the array is complex.
    """
    array = as_array(x)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"fabs needs real numbers, got an array of dtype {array.dtype.name}; use ops.absolute.")
    return jnp.fabs(array)


@operation
def i0(x: Tensor) -> jax.Array:
    """Returns the modified Bessel function of the first kind and order 0 of each element."""
    return jnp.i0(as_float(as_array(x)))


@operation
def nan_to_num(
    x: Tensor, nan: ArrayLike = 0.0, posinf: ArrayLike | None = None, neginf: ArrayLike | None = None
) -> jax.Array:
    """Replaces NaN and infinite elements.

    Args:
        x: The array.
        nan: Replaces NaN.
        posinf: Replaces plus infinity; the largest finite number by default.
        neginf: Replaces minus infinity; the smallest finite number by default.
    """
    return jnp.nan_to_num(as_array(x), nan=nan, posinf=posinf, neginf=neginf)


@operation
def round(x: Tensor, decimals: int = 0) -> jax.Array:
    """Rounds each element to a number of decimals, which is negative for tens, hundreds and so on.

    Example:
        >>> round([1.5, 2.5]).tolist(), round([1234], -2).tolist()
        ([2.0, 2.0], [1200])
    """
    array = as_array(x)
    if decimals >= 0 or not jnp.issubdtype(array.dtype, jnp.integer):
        return jnp.round(array, decimals)
    factor = jnp.float32(10.0**decimals)
    return (jnp.round(array.astype(jnp.float32) * factor) / factor).astype(array.dtype)


@operation
def trunc(x: Tensor) -> jax.Array:
    """Returns each element without its fraction."""
    array = as_array(x)
    return array if jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == bool else jnp.trunc(array)
