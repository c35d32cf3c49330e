"""Recurrences: one function takes any step through time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Step = Callable[[Any, Any], Any]


class Hidden(NamedTuple):
    """The state of a cell that remembers its output alone."""

    h: jax.Array


class LSTMState(NamedTuple):
    """The state of an LSTM: its output h and its cell c."""

    h: jax.Array
    c: jax.Array


def scan(
    step: Step, xs: jax.Array, state: Any, mask: jax.Array | None = None, unroll: bool = False
) -> tuple[jax.Array, Any]:
    """Takes a cell through time: state = step(x, state) for each x of xs.

    Args:
        step: Makes the next state of one step's inputs and the state before; a state's field `h` is its output.
        xs: The inputs of all steps, time first.
        state: The state before the first step.
        mask: Which steps count; where one does not, the state stays.
        unroll: Writes the steps out one by one instead of in a loop.

    Shapes: xs [T, B, ...], mask [T, B] -> h after each step [T, B, ...], and the last state.

    Example:
        >>> add = lambda x, state: Hidden(state.h + x)
        >>> hs, last = scan(add, jnp.ones((3, 1)), Hidden(jnp.zeros(1)), jnp.array([[True], [False], [True]]))
        >>> hs.ravel().tolist()
        [1.0, 1.0, 2.0]
    """

    def body(state: Any, inputs: Any) -> tuple[Any, jax.Array]:
        x, keep = inputs
        new = step(x, state)
        if keep is not None:
            new = jax.tree.map(lambda n, old: jnp.where(expand(keep, n), n, old), new, state)
        return new, new.h

    state, hs = jax.lax.scan(body, state, (xs, mask), unroll=unroll)
    return hs, state


def expand(mask: jax.Array, like: jax.Array) -> jax.Array:
    """A mask with as many axes as another array, new ones at the end."""
    return jnp.expand_dims(mask, tuple(range(mask.ndim, like.ndim)))
