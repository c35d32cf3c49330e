"""Elementwise operations of two arrays."""

from collections.abc import Callable
from typing import Protocol, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flaxmodels.layers.symbolic import Symbol
from flaxmodels.ops.arrays import Nested, Tensor, as_array, as_operand, together
from flaxmodels.ops.base import operation


class Binary(Protocol):
    """The type of an elementwise operation of two arrays."""

    @overload
    def __call__(self, x1: Symbol, x2: Tensor) -> Symbol: ...
    @overload
    def __call__(self, x1: Tensor, x2: Symbol) -> Symbol: ...
    @overload
    def __call__(self, x1: Nested, x2: Nested) -> jax.Array: ...


class Bitwise(Protocol):
    """The type of an elementwise operation of two arrays of integers or booleans."""

    @overload
    def __call__(self, x: Symbol, y: Tensor) -> Symbol: ...
    @overload
    def __call__(self, x: Tensor, y: Symbol) -> Symbol: ...
    @overload
    def __call__(self, x: Nested, y: Nested) -> jax.Array: ...


def _binary(name: str, result: str, function: Callable[[ArrayLike, ArrayLike], jax.Array]) -> Binary:
    """Returns an operation; `result` describes what it returns."""

    def compute(x1: Tensor, x2: Tensor) -> jax.Array:
        return function(as_operand(x1), as_operand(x2))

    compute.__name__ = compute.__qualname__ = name
    compute.__doc__ = f"Returns {result}."
    return operation(compute)  # type: ignore[return-value]


def _bitwise(name: str, result: str, function: Callable[[ArrayLike, ArrayLike], jax.Array]) -> Bitwise:
    """Returns an operation whose arguments have Keras' names x and y."""

    def compute(x: Tensor, y: Tensor) -> jax.Array:
        return function(as_operand(x), as_operand(y))

    compute.__name__ = compute.__qualname__ = name
    compute.__doc__ = f"Returns {result}."
    return operation(compute)  # type: ignore[return-value]


add = _binary("add", "x1 + x2", jnp.add)
arctan2 = _binary("arctan2", "the angle of each point (x2, x1), in radians", lambda a, b: jnp.arctan2(*together(a, b)))
divide = _binary("divide", "x1 / x2", jnp.divide)
equal = _binary("equal", "x1 == x2", jnp.equal)
floor_divide = _binary("floor_divide", "x1 // x2", jnp.floor_divide)
fmax = _binary("fmax", "the larger of two elements, and the other one if one is NaN", jnp.fmax)
fmin = _binary("fmin", "the smaller of two elements, and the other one if one is NaN", jnp.fmin)
fmod = _binary("fmod", "the remainder of x1 / x2 with the sign of x1", jnp.fmod)
gcd = _binary("gcd", "the greatest common divisor of integers", jnp.gcd)
greater = _binary("greater", "x1 > x2", jnp.greater)
greater_equal = _binary("greater_equal", "x1 >= x2", jnp.greater_equal)
heaviside = _binary("heaviside", "0 for negative x1, 1 for positive x1, and x2 for zero", jnp.heaviside)
hypot = _binary("hypot", "the square root of x1**2 + x2**2", jnp.hypot)
lcm = _binary("lcm", "the least common multiple of integers", jnp.lcm)
less = _binary("less", "x1 < x2", jnp.less)
less_equal = _binary("less_equal", "x1 <= x2", jnp.less_equal)
logaddexp = _binary("logaddexp", "log(exp(x1) + exp(x2))", lambda a, b: jnp.logaddexp(*together(a, b)))
logaddexp2 = _binary("logaddexp2", "log2(2**x1 + 2**x2)", lambda a, b: jnp.logaddexp2(*together(a, b)))
logical_and = _binary("logical_and", "whether both elements are nonzero", jnp.logical_and)
logical_or = _binary("logical_or", "whether any of two elements is nonzero", jnp.logical_or)
logical_xor = _binary("logical_xor", "whether exactly one of two elements is nonzero", jnp.logical_xor)
maximum = _binary("maximum", "the larger of two elements, and NaN if one is NaN", jnp.maximum)
minimum = _binary("minimum", "the smaller of two elements, and NaN if one is NaN", jnp.minimum)
mod = _binary("mod", "the remainder of x1 / x2 with the sign of x2", jnp.mod)
multiply = _binary("multiply", "x1 * x2", jnp.multiply)
nextafter = _binary("nextafter", "the floating number next to x1 in the direction of x2", jnp.nextafter)
not_equal = _binary("not_equal", "x1 != x2", jnp.not_equal)
power = _binary("power", "x1 to the power of x2", jnp.power)
subtract = _binary("subtract", "x1 - x2", jnp.subtract)
true_divide = _binary("true_divide", "x1 / x2", jnp.divide)

bitwise_and = _bitwise("bitwise_and", "the bitwise AND of integers", jnp.bitwise_and)
bitwise_or = _bitwise("bitwise_or", "the bitwise OR of integers", jnp.bitwise_or)
bitwise_xor = _bitwise("bitwise_xor", "the bitwise XOR of integers", jnp.bitwise_xor)
bitwise_left_shift = _bitwise("bitwise_left_shift", "x with its bits shifted left by y", jnp.left_shift)
bitwise_right_shift = _bitwise("bitwise_right_shift", "x with its bits shifted right by y", jnp.right_shift)
left_shift = _bitwise("left_shift", "x with its bits shifted left by y", jnp.left_shift)
right_shift = _bitwise("right_shift", "x with its bits shifted right by y", jnp.right_shift)


@operation
def allclose(x1: Tensor, x2: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> jax.Array:
    """Returns whether |x1 - x2| <= atol + rtol * |x2| for all elements; NaN equals NaN if `equal_nan` is True."""
    return jnp.allclose(as_array(x1), as_array(x2), rtol, atol, equal_nan)


@operation
def divide_no_nan(x1: Tensor, x2: Tensor) -> jax.Array:
    """Returns x1 / x2, and 0 where x2 is 0.

    Example:
        >>> divide_no_nan([1.0, 2.0], [0.0, 4.0]).tolist()
        [0.0, 0.5]
    """
    dividend, divisor = as_array(x1), as_array(x2)
    is_zero = divisor == 0
    # The inner `where` keeps the gradient finite where x2 is 0.
    return jnp.where(is_zero, 0, jnp.divide(dividend, jnp.where(is_zero, 1, divisor)))


@operation
def isclose(x1: Tensor, x2: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> jax.Array:
    """Returns whether |x1 - x2| <= atol + rtol * |x2|; NaN equals NaN if `equal_nan` is True."""
    return jnp.isclose(as_array(x1), as_array(x2), rtol, atol, equal_nan)


@operation
def ldexp(x1: Tensor, x2: Tensor) -> jax.Array:
    """Returns x1 * 2**x2.

    Raises:
        TypeError: If x2 is not an array of integers.
    """
    exponent = as_array(x2)
    if not jnp.issubdtype(exponent.dtype, jnp.integer):
        raise TypeError(f"The exponent x2 of ldexp must be integers, got dtype {exponent.dtype.name}; cast it first.")
    return jnp.ldexp(as_array(x1), exponent)
