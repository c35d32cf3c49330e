"""Recurrences by `jax.lax.scan` over time: `scan` for any cell, and the reference passes of LSTM, GRU and SimpleRNN."""

from collections.abc import Callable
from typing import Protocol, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from flaxmodels.kernels.recurrence.gradients import differentiable
from flaxmodels.kernels.recurrence.products import dot, project, upcast
from flaxmodels.kernels.recurrence.types import Hidden, Inputs, LSTMState, Passes, Residuals


class HasOutput(Protocol):
    """The state of a cell, one of whose fields is the output."""

    @property
    def h(self) -> jax.Array:
        """The output."""


Tree = TypeVar("Tree")
CellState = TypeVar("CellState", bound=HasOutput)
# (inputs of one step, previous state) -> next state
Step: TypeAlias = Callable[[jax.Array, CellState], CellState]


def scan(
    step: Step[CellState], xs: jax.Array, state: CellState, mask: jax.Array | None = None, unroll: bool = False
) -> tuple[jax.Array, CellState]:
    """Applies a cell to each step in turn: state = step(x, state) for each x of xs.

    Args:
        step: Returns the next state from the inputs of one step and the previous state. The field `h` of a state is its
            output.
        xs: The inputs of all steps, time first.
        state: The state before the first step.
        mask: True at valid steps. Other steps keep the state.
        unroll: Whether to unroll the loop.

    Shapes: xs [T, B, ...], mask [T, B] -> h after each step [T, B, ...], and the last state.

    Example:
        >>> add = lambda x, state: Hidden(state.h + x)
        >>> hs, last = scan(add, jnp.ones((3, 1)), Hidden(jnp.zeros(1)), jnp.array([[True], [False], [True]]))
        >>> hs.ravel().tolist()
        [1.0, 1.0, 2.0]
    """

    def body(state: CellState, inputs: tuple[jax.Array, jax.Array | None]) -> tuple[CellState, jax.Array]:
        x, keep = inputs
        new = _new_where(keep, step(x, state), state)
        return new, new.h

    state, hs = jax.lax.scan(body, state, (xs, mask), unroll=unroll)
    return hs, state


def expand_mask(mask: jax.Array, like: jax.Array) -> jax.Array:
    """Adds axes at the end of a mask until it has as many as another array."""
    return jnp.expand_dims(mask, tuple(range(mask.ndim, like.ndim)))


def _new_where(keep: jax.Array | None, new: Tree, old: Tree) -> Tree:
    """Returns the new state where a step is valid, otherwise the old one."""
    if keep is None:
        return new
    return jax.tree.map(lambda n, o: jnp.where(expand_mask(keep, n), n, o), new, old)


def _masked(values: Tree, mask: jax.Array | None, otherwise: int) -> Tree:
    """Replaces values at masked steps."""
    if mask is None:
        return values
    return jax.tree.map(lambda v: jnp.where(expand_mask(mask, v), v, otherwise), values)


def _before(values: jax.Array, first: jax.Array) -> jax.Array:
    """Returns the upcast values of the step before each step."""
    return upcast(jnp.concatenate([first[None], values[:-1]]))


# --- LSTM


def lstm_forward(
    inputs: Inputs, kernel: jax.Array, _: None, state: LSTMState, mask: jax.Array | None, keep: bool
) -> tuple[jax.Array, LSTMState, Residuals]:
    """Computes an LSTM; the residuals are c [T, B, U] and the gates i, f, g, o [T, B, 4 U] of each step."""
    # tanh(x) = 2 sigmoid(2 x) - 1, so one sigmoid computes all gates if the columns of g are doubled before the loop.
    double = jnp.repeat(jnp.array([1, 1, 2, 1], kernel.dtype), kernel.shape[0])
    doubled = kernel * double[None]
    xs, bias = project(inputs, double)
    double = upcast(double)[None]

    def body(state: LSTMState, inputs: tuple[jax.Array, jax.Array | None]) -> tuple[LSTMState, tuple]:
        x, counts = inputs
        gates = jax.nn.sigmoid(upcast(x) + bias + dot(state.h, doubled))
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = f * upcast(state.c) + i * (2 * g - 1)
        new = LSTMState((o * (2 * jax.nn.sigmoid(2 * c) - 1)).astype(xs.dtype), c.astype(xs.dtype))
        new = _new_where(counts, new, state)
        return new, (new.h, (new.c, (gates * double - (double - 1)).astype(xs.dtype)) if keep else ())

    last, (hs, residuals) = jax.lax.scan(body, state, (xs, mask))
    return hs, last, residuals


def lstm_backward(
    hs: jax.Array,
    residuals: Residuals,
    kernel: jax.Array,
    first: LSTMState,
    mask: jax.Array | None,
    d_hs: jax.Array,
    d_last: LSTMState,
) -> tuple[jax.Array, None, LSTMState]:
    """Computes the gradients of an LSTM, as in `Passes`."""
    cs, gates = residuals
    i, f, g, o = jnp.split(upcast(gates), 4, axis=-1)
    tanh_c, c_before = jnp.tanh(upcast(cs)), _before(cs, first.c)
    # At each step, dc increases by dh times the first factor. The gates' gradients are dc times the next three and dh
    # times the last.
    factors = (o * (1 - tanh_c**2), g * i * (1 - i), c_before * f * (1 - f), i * (1 - g**2), tanh_c * o * (1 - o))
    factors, f, transposed = _masked(factors, mask, 0), _masked(f, mask, 1), kernel.T

    def body(
        carry: tuple[jax.Array, jax.Array],
        inputs: tuple[jax.Array, tuple[jax.Array, ...], jax.Array, jax.Array | None],
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        dh, dc = carry
        d_h, (to_c, to_i, to_f, to_g, to_o), f, keep = inputs
        dh = dh + upcast(d_h)
        dc = dc + dh * to_c
        dz = jnp.concatenate([dc * to_i, dc * to_f, dc * to_g, dh * to_o], axis=-1)
        return (_new_where(keep, dot(dz, transposed), dh), dc * f), dz.astype(d_hs.dtype)

    carry = (upcast(d_last.h), upcast(d_last.c))
    (dh, dc), dz = jax.lax.scan(body, carry, (d_hs, factors, f, mask), reverse=True)
    return dz, None, LSTMState(dh.astype(d_hs.dtype), dc.astype(d_hs.dtype))


# --- GRU


def gru_forward(
    inputs: Inputs, kernel: jax.Array, bias: jax.Array, state: Hidden, mask: jax.Array | None, keep: bool
) -> tuple[jax.Array, Hidden, Residuals]:
    """Computes a GRU; the residuals are z, r, g and d of each step, side by side [T, B, 4 U]."""
    units = kernel.shape[0]
    xs, input_bias = project(inputs)

    def body(state: Hidden, inputs: tuple[jax.Array, jax.Array | None]) -> tuple[Hidden, tuple]:
        x, counts = inputs
        x, inner = upcast(x) + input_bias, dot(state.h, kernel) + upcast(bias)[None]
        gates = jax.nn.sigmoid(x[:, : 2 * units] + inner[:, : 2 * units])
        z, r = jnp.split(gates, 2, axis=-1)
        d = inner[:, 2 * units :]
        g = jnp.tanh(x[:, 2 * units :] + r * d)
        new = _new_where(counts, Hidden((z * upcast(state.h) + (1 - z) * g).astype(xs.dtype)), state)
        return new, (new.h, (jnp.concatenate([gates, g, d], axis=-1).astype(xs.dtype),) if keep else ())

    last, (hs, residuals) = jax.lax.scan(body, state, (xs, mask))
    return hs, last, residuals


def gru_backward(
    hs: jax.Array,
    residuals: Residuals,
    kernel: jax.Array,
    first: Hidden,
    mask: jax.Array | None,
    d_hs: jax.Array,
    d_last: Hidden,
) -> tuple[jax.Array, jax.Array, Hidden]:
    """Computes the gradients of a GRU, as in `Passes`."""
    z, r, g, d = jnp.split(upcast(residuals[0]), 4, axis=-1)
    to_g = (1 - z) * (1 - g**2)
    # All gradients of a step are dh times these factors.
    factors = ((_before(hs, first.h) - g) * z * (1 - z), to_g * d * r * (1 - r), to_g * r, to_g)
    (to_z, to_r, to_d, to_g), z, transposed = _masked(factors, mask, 0), _masked(z, mask, 1), kernel.T

    def body(dh: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        d_h, to_z, to_r, to_d, z = inputs
        dh = dh + upcast(d_h)
        inner = jnp.concatenate([dh * to_z, dh * to_r, dh * to_d], axis=-1)
        return dh * z + dot(inner, transposed), dh

    dh, dhs = jax.lax.scan(body, upcast(d_last.h), (d_hs, to_z, to_r, to_d, z), reverse=True)
    d_inner = jnp.concatenate([dhs * to_z, dhs * to_r, dhs * to_d], axis=-1).astype(d_hs.dtype)
    d_xs = jnp.concatenate([dhs * to_z, dhs * to_r, dhs * to_g], axis=-1).astype(d_hs.dtype)
    return d_inner, d_xs, Hidden(dh.astype(d_hs.dtype))


# --- SimpleRNN


def simple_rnn_forward(
    inputs: Inputs, kernel: jax.Array, _: None, state: Hidden, mask: jax.Array | None, keep: bool
) -> tuple[jax.Array, Hidden, Residuals]:
    """Computes a SimpleRNN, which needs no residuals other than its outputs."""
    xs, bias = project(inputs)

    def step(x: jax.Array, state: Hidden) -> Hidden:
        return Hidden(jnp.tanh(upcast(x) + bias + dot(state.h, kernel)).astype(xs.dtype))

    return *scan(step, xs, state, mask), ()


def simple_rnn_backward(
    hs: jax.Array,
    residuals: Residuals,
    kernel: jax.Array,
    first: Hidden,
    mask: jax.Array | None,
    d_hs: jax.Array,
    d_last: Hidden,
) -> tuple[jax.Array, None, Hidden]:
    """Computes the gradients of a SimpleRNN, as in `Passes`."""
    slope, transposed = _masked(1 - upcast(hs) ** 2, mask, 0), kernel.T

    def body(dh: jax.Array, inputs: tuple[jax.Array, jax.Array, jax.Array | None]) -> tuple[jax.Array, jax.Array]:
        d_h, slope, keep = inputs
        dh = dh + upcast(d_h)
        dz = dh * slope
        return _new_where(keep, dot(dz, transposed), dh), dz.astype(d_hs.dtype)

    dh, dz = jax.lax.scan(body, upcast(d_last.h), (d_hs, slope, mask), reverse=True)
    return dz, None, Hidden(dh.astype(d_hs.dtype))


LSTM = Passes(lstm_forward, lstm_backward)
GRU = Passes(gru_forward, gru_backward)
SIMPLE_RNN = Passes(simple_rnn_forward, simple_rnn_backward)

lstm = differentiable(LSTM)
