"""Keras' operations that take functions: conditions, loops, scans, maps and custom gradients.

On symbols they add a node, too. Such a model computes and trains, but only code can describe its functions, so it is
saved without its architecture.
"""

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
from jax.typing import ArrayLike

from flaxmodels.ops.arrays import Tensor, as_array
from flaxmodels.ops.base import operation

T = TypeVar("T")
P = ParamSpec("P")
Carry = TypeVar("Carry")
X = TypeVar("X")
Y = TypeVar("Y")


@operation
def cond(pred: Tensor, true_fn: Callable[[], T], false_fn: Callable[[], T]) -> T:
    """Calls one of two functions.

    Args:
        pred: A boolean; it may be traced.
        true_fn: Called without arguments if `pred` is True.
        false_fn: Called without arguments otherwise; its result has the same structure, shapes and dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> cond(jnp.array(True), lambda: jnp.ones(2), lambda: jnp.zeros(2)).tolist()
        [1.0, 1.0]
    """
    return jax.lax.cond(as_array(pred), true_fn, false_fn)


@operation
def switch(index: Tensor, branches: Sequence[Callable[..., T]], *operands: object) -> T:
    """Calls the function at an index of a list.

    Args:
        index: An integer; it may be traced. It is clipped to the range of the list.
        branches: Functions of the operands, whose results have the same structure, shapes and dtypes.
        *operands: The arguments of the functions.

    Example:
        >>> import jax.numpy as jnp
        >>> switch(1, [lambda x: x + 1, lambda x: x * 10], jnp.array(3)).item()
        30
    """
    return jax.lax.switch(as_array(index), branches, *operands)


@operation
def while_loop(
    cond: Callable[..., bool | jax.Array],
    body: Callable[..., Any],
    loop_vars: object,
    maximum_iterations: int | None = None,
) -> object:
    """Calls a function on its own results while a condition holds.

    Args:
        cond: Takes the loop variables and returns a boolean.
        body: Takes the loop variables and returns their next values.
        loop_vars: The first values: a tuple or list, which is passed as separate arguments, or a single value.
        maximum_iterations: Largest number of iterations; None for no limit.

    Returns:
        The last values: a tuple for a tuple or list, otherwise a single value.

    Example:
        >>> while_loop(lambda i: i < 10, lambda i: i * 3, 1).item()
        27
    """
    is_sequence = isinstance(loop_vars, tuple | list)

    def proceeds(state: tuple[int, tuple[object, ...]]) -> bool | jax.Array:
        steps, values = state
        holds = cond(*values)
        return holds if maximum_iterations is None else holds & (steps < maximum_iterations)

    def step(state: tuple[int, tuple[object, ...]]) -> tuple[int, tuple[object, ...]]:
        steps, values = state
        out = body(*values)
        return steps + 1, tuple(out) if is_sequence else (out,)

    start = tuple(loop_vars) if isinstance(loop_vars, tuple | list) else (loop_vars,)
    _, last = jax.lax.while_loop(proceeds, step, (0, start))
    return last if is_sequence else last[0]


@operation
def fori_loop(
    lower: ArrayLike, upper: ArrayLike, body_fun: Callable[[jax.Array, Carry], Carry], init_val: Carry
) -> Carry:
    """Calls `value = body_fun(i, value)` for i from `lower` to `upper` - 1.

    Args:
        lower: The first i.
        upper: The end of the range; the loop is differentiable in reverse only if both ends are static.
        body_fun: Takes i and the value and returns the next value.
        init_val: The first value.

    Example:
        >>> fori_loop(0, 4, lambda i, total: total + i, 0).item()
        6
    """
    return jax.lax.fori_loop(lower, upper, body_fun, init_val)


@operation
def scan(
    f: Callable[[Carry, X], tuple[Carry, Y]],
    init: Carry,
    xs: X | None = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
) -> tuple[Carry, Y]:
    """Scans a function over the leading axis of arrays and carries a value along.

    Args:
        f: (carry, x) -> (next carry, y).
        init: The first carry.
        xs: Arrays with the same size of the leading axis; None to scan `length` times without inputs.
        length: The number of steps; by default the size of the leading axis.
        reverse: Whether to start at the end; the outputs keep the order of the inputs.
        unroll: Number of steps per iteration of the compiled loop; True unrolls it completely.

    Returns:
        The last carry and the stacked outputs y.

    Raises:
        ValueError: If `unroll` is neither a positive integer nor a boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> total, sums = scan(lambda c, x: (c + x, c + x), jnp.array(0), jnp.arange(4))
        >>> total.item(), sums.tolist()
        (6, [0, 1, 3, 6])
    """
    if not isinstance(unroll, bool) and (not isinstance(unroll, int) or unroll < 1):
        raise ValueError(f"`unroll` must be a positive integer or a boolean, got {unroll!r}; give, for example, 1.")
    return jax.lax.scan(f, init, xs, length, reverse, unroll)


@operation
def associative_scan(f: Callable[[T, T], T], elems: T, reverse: bool = False, axis: int = 0) -> T:
    """Computes all partial results of an associative function in parallel.

    Args:
        f: Combines two slices of `elems`, elementwise along the axis; it must be associative.
        elems: Arrays with the same size of the axis.
        reverse: Whether to start at the end.
        axis: The axis to scan.

    Example:
        >>> import jax.numpy as jnp
        >>> associative_scan(lambda a, b: a + b, jnp.arange(4)).tolist()
        [0, 1, 3, 6]
    """
    return jax.lax.associative_scan(f, jax.tree.map(as_array, elems), reverse, axis)


@operation
def map(f: Callable[[X], Y], xs: X) -> Y:
    """Applies a function to each slice along the leading axis, one after another, and stacks the results.

    Args:
        f: Takes a slice of each array in `xs`.
        xs: An array or a structure of arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> map(lambda x: x * x, jnp.arange(3)).tolist()
        [0, 1, 4]
    """
    return jax.lax.map(f, jax.tree.map(as_array, xs))


@operation
def vectorized_map(function: Callable[[X], Y], elements: X) -> Y:
    """Applies a function to each slice along the leading axis, all at once, and stacks the results.

    Args:
        function: Takes a slice of each array in `elements`.
        elements: An array or a structure of arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> vectorized_map(lambda x: x * x, jnp.arange(3)).tolist()
        [0, 1, 4]
    """
    return jax.vmap(function)(jax.tree.map(as_array, elements))


def custom_gradient(f: Callable[P, tuple[T, Callable[..., object]]]) -> Callable[P, T]:
    """Makes a function with a custom gradient.

    Args:
        f: Returns its value and a function that maps the gradient of the value to those of the arguments. Keras
            passes the gradient as `upstream` or as the only positional argument, so it is passed by position.

    Example:
        >>> import jax.numpy as jnp
        >>> @custom_gradient
        ... def clipped(x):
        ...     return x**2, lambda upstream: jnp.clip(upstream * 2 * x, -1.0, 1.0)
        >>> jax.grad(clipped)(5.0).item()
        1.0
    """
    return jax.custom_gradient(f)
