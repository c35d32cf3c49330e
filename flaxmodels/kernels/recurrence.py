"""Recurrences: `scan` takes any step through time; LSTM, GRU and the simplest one have gradients of their own.

These three go through time, and back, by kernels in C on a CPU where there are (`recurrence_cpu.py`, in float32), by a
fused kernel on an NVIDIA GPU (`recurrence_gpu.py`), else by a scan. All keep the same for the way back, so any can
follow on any. cuDNN, which an LSTM may go by on a GPU, keeps what it likes and does both ways (`recurrence_cudnn.py`).

Which of them is taken is decided by `_chosen`, which asks `recurrence_choice.py` about a GPU.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxmodels.kernels import dispatch, recurrence_cpu, recurrence_gpu
from flaxmodels.kernels.recurrence_choice import asked, on_gpu

Step = Callable[[Any, Any], Any]


class Hidden(NamedTuple):
    """The state of a cell that remembers its output alone."""

    h: jax.Array


class LSTMState(NamedTuple):
    """The state of an LSTM: its output h and its cell c."""

    h: jax.Array
    c: jax.Array


class Inputs(NamedTuple):
    """What inputs contribute to a recurrence, x @ kernel + bias; without a kernel x is the product already.

    Taking all three, a recurrence adds the bias where it reads the product: arrays of all steps are gone through once.
    """

    x: jax.Array
    kernel: jax.Array | None = None
    bias: jax.Array | None = None


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
        new = _kept(keep, step(x, state), state)
        return new, new.h

    state, hs = jax.lax.scan(body, state, (xs, mask), unroll=unroll)
    return hs, state


def expand(mask: jax.Array, like: jax.Array) -> jax.Array:
    """A mask with as many axes as another array, new ones at the end."""
    return jnp.expand_dims(mask, tuple(range(mask.ndim, like.ndim)))


# --- recurrences with a gradient of their own
#
# Differentiating `scan` sums the gradient of the kernel step by step. Below, the loop back through time makes only
# what the next step needs, from factors computed for all steps at once; the kernel's gradient is then one product.
# Sums run in float32 at least. `scan` with the step as written in a cell is the reference for each.


def lstm(inputs: Inputs, kernel: jax.Array, state: LSTMState, mask: jax.Array | None) -> tuple[jax.Array, LSTMState]:
    """An LSTM through time, with tanh and sigmoid.

    i, f, g, o = split(x + h @ kernel), c' = sigmoid(f) c + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(c')

    Args:
        inputs: What inputs and bias contribute to the gates, the x above.
        kernel: The recurrent kernel.
        state: The state before the first step.
        mask: Which steps count, or None for all.

    Shapes: inputs [T, B, 4 units] or [T, B, F], [F, 4 units], [4 units]; kernel [units, 4 units], state [B, units]
        each, mask [T, B] -> h after each step [T, B, units], and the last state.

    Example:
        >>> zeros = jnp.zeros((2, 3))
        >>> hs, last = lstm(Inputs(jnp.ones((5, 2, 12))), jnp.ones((3, 12)), LSTMState(zeros, zeros), None)
        >>> hs.shape, last.c.shape
        ((5, 2, 3), (2, 3))
    """
    steps, batch, _ = inputs.x.shape
    # cuDNN multiplies the inputs by their kernel itself.
    if inputs.kernel is not None and on_gpu("LSTM", kernel, steps * batch) == "cudnn":
        from flaxmodels.kernels import recurrence_cudnn

        hs, h, c = recurrence_cudnn.lstm(inputs.x, inputs.kernel, inputs.bias, kernel, state.h, state.c, mask)
        return hs, LSTMState(h, c)
    return _lstm(inputs, kernel, state, mask)


@jax.custom_vjp
def _lstm(inputs: Inputs, kernel: jax.Array, state: LSTMState, mask: jax.Array | None) -> tuple[jax.Array, LSTMState]:
    hs, last, _ = _lstm_steps(inputs, kernel, state, mask, keep=False)
    return hs, last


def _lstm_steps(inputs: Inputs, kernel: jax.Array, state: LSTMState, mask: jax.Array | None, keep: bool) -> Any:
    """h after each step, the last state and, for the way back, c after each step and the gates of each, or nothing."""

    def compiled(inputs: Inputs, kernel: jax.Array, state: LSTMState, mask: jax.Array | None) -> Any:
        hs, cs, gates = recurrence_cpu.forward(recurrence_cpu.LSTM, *inputs, kernel, None, *state, mask, keep)
        return hs, LSTMState(hs[-1], cs[-1] if keep else cs), (cs, gates) if keep else ()

    def fused(inputs: Inputs, kernel: jax.Array, state: LSTMState, mask: jax.Array | None) -> Any:
        xs, bias = _contributed(inputs)
        hs, c, *kept = recurrence_gpu.lstm_forward(xs, bias, kernel, *state, mask, keep)
        return hs, LSTMState(hs[-1], c), tuple(kept)

    ways = Ways(compiled, fused, partial(_lstm_scan, keep=keep))
    return _chosen("LSTM", ways, kernel, inputs, kernel, state, mask)


def _lstm_scan(inputs: Inputs, kernel: jax.Array, state: LSTMState, mask: jax.Array | None, keep: bool) -> Any:
    # tanh(x) = 2 sigmoid(2 x) - 1, so that one sigmoid serves all gates: g's columns are doubled before the loop.
    double = jnp.repeat(jnp.array([1, 1, 2, 1], kernel.dtype), kernel.shape[0])
    doubled = kernel * double[None]
    xs, bias = _contributed(inputs, double)
    double = _wide(double)[None]

    def body(state: LSTMState, given: Any) -> Any:
        x, counts = given
        gates = jax.nn.sigmoid(_wide(x) + bias + _dot(state.h, doubled))
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = f * _wide(state.c) + i * (2 * g - 1)
        new = LSTMState((o * (2 * jax.nn.sigmoid(2 * c) - 1)).astype(xs.dtype), c.astype(xs.dtype))
        new = _kept(counts, new, state)
        return new, (new.h, (new.c, (gates * double - (double - 1)).astype(xs.dtype)) if keep else ())

    last, (hs, kept) = jax.lax.scan(body, state, (xs, mask))
    return hs, last, kept


def _lstm_forward(inputs: Inputs, kernel: jax.Array, state: LSTMState, mask: jax.Array | None) -> Any:
    hs, last, kept = _lstm_steps(inputs, kernel, state, mask, keep=True)
    return (hs, last), (inputs, hs, kept, kernel, state, mask)


def _lstm_backward(residuals: Any, cotangents: Any) -> Any:
    inputs, hs, (cs, gates), kernel, first, mask = residuals
    d_hs, (dh, dc) = cotangents

    def compiled(*residuals: Any) -> Any:
        hs, cs, gates, kernel, first, mask, d_hs, dh, dc = residuals
        dz, _, dh, dc = recurrence_cpu.backward(
            recurrence_cpu.LSTM, gates, hs, cs, first.h, first.c, d_hs, dh, dc, kernel, mask
        )
        return dz, LSTMState(dh, dc)

    def fused(*residuals: Any) -> Any:
        hs, cs, gates, kernel, first, mask, d_hs, dh, dc = residuals
        dz, dh, dc = recurrence_gpu.lstm_backward(cs, gates, kernel, first.c, mask, d_hs, dh, dc)
        return dz, LSTMState(dh, dc)

    ways = Ways(compiled, fused, _lstm_scan_back)
    dz, d_state = _chosen("LSTM", ways, kernel, hs, cs, gates, kernel, first, mask, d_hs, dh, dc)
    return _input_gradients(inputs, dz), _kernel_gradient(hs, first.h, dz), d_state, None


def _lstm_scan_back(
    hs: jax.Array,
    cs: jax.Array,
    gates: jax.Array,
    kernel: jax.Array,
    first: LSTMState,
    mask: jax.Array | None,
    d_hs: jax.Array,
    dh: jax.Array,
    dc: jax.Array,
) -> tuple[jax.Array, LSTMState]:
    i, f, g, o = jnp.split(_wide(gates), 4, axis=-1)
    tanh_c, c_before = jnp.tanh(_wide(cs)), _before(cs, first.c)
    # dc gains dh times the first factor; dc times the next three and dh times the last are the gates' gradients.
    factors = (o * (1 - tanh_c**2), g * i * (1 - i), c_before * f * (1 - f), i * (1 - g**2), tanh_c * o * (1 - o))
    factors, f, transposed = _masked(factors, mask, 0), _masked(f, mask, 1), kernel.T

    def body(carry: Any, given: Any) -> Any:
        dh, dc = carry
        d_h, (to_c, to_i, to_f, to_g, to_o), f, keep = given
        dh = dh + _wide(d_h)
        dc = dc + dh * to_c
        dz = jnp.concatenate([dc * to_i, dc * to_f, dc * to_g, dh * to_o], axis=-1)
        return (_passed(keep, dh, _dot(dz, transposed)), dc * f), dz.astype(d_hs.dtype)

    (dh, dc), dz = jax.lax.scan(body, (_wide(dh), _wide(dc)), (d_hs, factors, f, mask), reverse=True)
    return dz, LSTMState(dh.astype(d_hs.dtype), dc.astype(d_hs.dtype))


_lstm.defvjp(_lstm_forward, _lstm_backward)


@jax.custom_vjp
def gru(
    inputs: Inputs, kernel: jax.Array, bias: jax.Array, state: Hidden, mask: jax.Array | None
) -> tuple[jax.Array, Hidden]:
    """A GRU through time, with tanh and sigmoid, the reset gate after the product.

    a, b, d = split(h @ kernel + bias); z, r, g = split(x);
    z = sigmoid(z + a), r = sigmoid(r + b), g = tanh(g + r d), h' = z h + (1 - z) g

    Args:
        inputs: What inputs and their bias contribute, the x above.
        kernel: The recurrent kernel.
        bias: The recurrent bias.
        state: The state before the first step.
        mask: Which steps count, or None for all.

    Shapes: inputs [T, B, 3 units] or [T, B, F], [F, 3 units], [3 units]; kernel [units, 3 units], bias [3 units],
        state [B, units], mask [T, B] -> h after each step [T, B, units], and the last state.

    Example:
        >>> hs, last = gru(Inputs(jnp.ones((5, 2, 9))), jnp.ones((3, 9)), jnp.ones(9), Hidden(jnp.zeros((2, 3))), None)
        >>> hs.shape, last.h.shape
        ((5, 2, 3), (2, 3))
    """
    hs, last, _ = _gru_steps(inputs, kernel, bias, state, mask, keep=False)
    return hs, last


def _gru_steps(
    inputs: Inputs, kernel: jax.Array, bias: jax.Array, state: Hidden, mask: jax.Array | None, keep: bool
) -> Any:
    """h after each step, the last state and, for the way back, z, r, g and d of each step side by side, or nothing."""

    def compiled(inputs: Inputs, kernel: jax.Array, bias: jax.Array, state: Hidden, mask: jax.Array | None) -> Any:
        hs, _, parts = recurrence_cpu.forward(recurrence_cpu.GRU, *inputs, kernel, bias, state.h, None, mask, keep)
        return hs, Hidden(hs[-1]), parts if keep else ()

    def fused(inputs: Inputs, kernel: jax.Array, bias: jax.Array, state: Hidden, mask: jax.Array | None) -> Any:
        xs, input_bias = _contributed(inputs)
        hs, *parts = recurrence_gpu.gru_forward(xs, input_bias, kernel, bias, state.h, mask, keep)
        return hs, Hidden(hs[-1]), parts[0] if keep else ()

    ways = Ways(compiled, fused, partial(_gru_scan, keep=keep))
    return _chosen("GRU", ways, kernel, inputs, kernel, bias, state, mask)


def _gru_scan(
    inputs: Inputs, kernel: jax.Array, bias: jax.Array, state: Hidden, mask: jax.Array | None, keep: bool
) -> Any:
    units = kernel.shape[0]
    xs, input_bias = _contributed(inputs)

    def body(state: Hidden, given: Any) -> Any:
        x, counts = given
        x, inner = _wide(x) + input_bias, _dot(state.h, kernel) + _wide(bias)[None]
        gates = jax.nn.sigmoid(x[:, : 2 * units] + inner[:, : 2 * units])
        z, r = jnp.split(gates, 2, axis=-1)
        d = inner[:, 2 * units :]
        g = jnp.tanh(x[:, 2 * units :] + r * d)
        new = _kept(counts, Hidden((z * _wide(state.h) + (1 - z) * g).astype(xs.dtype)), state)
        return new, (new.h, jnp.concatenate([gates, g, d], axis=-1).astype(xs.dtype) if keep else ())

    last, (hs, parts) = jax.lax.scan(body, state, (xs, mask))
    return hs, last, parts


def _gru_forward(inputs: Inputs, kernel: jax.Array, bias: jax.Array, state: Hidden, mask: jax.Array | None) -> Any:
    hs, last, parts = _gru_steps(inputs, kernel, bias, state, mask, keep=True)
    return (hs, last), (inputs, hs, parts, kernel, state, mask)


def _gru_backward(residuals: Any, cotangents: Any) -> Any:
    inputs, hs, parts, kernel, first, mask = residuals
    d_hs, (dh,) = cotangents

    def compiled(*residuals: Any) -> Any:
        hs, parts, kernel, first, mask, d_hs, dh = residuals
        return recurrence_cpu.backward(
            recurrence_cpu.GRU, parts, hs, None, first.h, None, d_hs, dh, None, kernel, mask
        )[:3]

    def fused(*residuals: Any) -> Any:
        hs, parts, kernel, first, mask, d_hs, dh = residuals
        return recurrence_gpu.gru_backward(hs, parts, kernel, first.h, mask, d_hs, dh)

    ways = Ways(compiled, fused, _gru_scan_back)
    d_inner, d_xs, dh = _chosen("GRU", ways, kernel, hs, parts, kernel, first, mask, d_hs, dh)
    d_bias, d_kernel = jnp.sum(d_inner, axis=(0, 1)), _kernel_gradient(hs, first.h, d_inner)
    return _input_gradients(inputs, d_xs), d_kernel, d_bias, Hidden(dh), None


def _gru_scan_back(
    hs: jax.Array,
    parts: jax.Array,
    kernel: jax.Array,
    first: Hidden,
    mask: jax.Array | None,
    d_hs: jax.Array,
    dh: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    z, r, g, d = jnp.split(_wide(parts), 4, axis=-1)
    to_g = (1 - z) * (1 - g**2)
    # All gradients of a step are dh times these.
    factors = ((_before(hs, first.h) - g) * z * (1 - z), to_g * d * r * (1 - r), to_g * r, to_g)
    (to_z, to_r, to_d, to_g), z, transposed = _masked(factors, mask, 0), _masked(z, mask, 1), kernel.T

    def body(dh: jax.Array, given: Any) -> Any:
        d_h, to_z, to_r, to_d, z = given
        dh = dh + _wide(d_h)
        inner = jnp.concatenate([dh * to_z, dh * to_r, dh * to_d], axis=-1)
        return dh * z + _dot(inner, transposed), dh

    dh, dhs = jax.lax.scan(body, _wide(dh), (d_hs, to_z, to_r, to_d, z), reverse=True)
    d_inner = jnp.concatenate([dhs * to_z, dhs * to_r, dhs * to_d], axis=-1).astype(d_hs.dtype)
    d_xs = jnp.concatenate([dhs * to_z, dhs * to_r, dhs * to_g], axis=-1).astype(d_hs.dtype)
    return d_inner, d_xs, dh.astype(d_hs.dtype)


gru.defvjp(_gru_forward, _gru_backward)


@jax.custom_vjp
def simple(inputs: Inputs, kernel: jax.Array, state: Hidden, mask: jax.Array | None) -> tuple[jax.Array, Hidden]:
    """The simplest recurrence through time: h' = tanh(x + h @ kernel).

    Args:
        inputs: What inputs and bias contribute, the x above.
        kernel: The recurrent kernel.
        state: The state before the first step.
        mask: Which steps count, or None for all.

    Shapes: inputs [T, B, units] or [T, B, F], [F, units], [units]; kernel [units, units], state [B, units],
        mask [T, B] -> h after each step [T, B, units], and the last state.

    Example:
        >>> hs, last = simple(Inputs(jnp.ones((5, 2, 3))), jnp.ones((3, 3)), Hidden(jnp.zeros((2, 3))), None)
        >>> hs.shape, last.h.shape
        ((5, 2, 3), (2, 3))
    """

    def compiled(inputs: Inputs, kernel: jax.Array, state: Hidden, mask: jax.Array | None) -> Any:
        hs, _, _ = recurrence_cpu.forward(recurrence_cpu.SIMPLE, *inputs, kernel, None, state.h, None, mask, False)
        return hs, Hidden(hs[-1])

    def scanned(inputs: Inputs, kernel: jax.Array, state: Hidden, mask: jax.Array | None) -> Any:
        xs, bias = _contributed(inputs)
        return scan(
            lambda x, s: Hidden(jnp.tanh(_wide(x) + bias + _dot(s.h, kernel)).astype(xs.dtype)), xs, state, mask
        )

    return _chosen("SimpleRNN", Ways(compiled, None, scanned), kernel, inputs, kernel, state, mask)


def _simple_forward(inputs: Inputs, kernel: jax.Array, state: Hidden, mask: jax.Array | None) -> Any:
    hs, last = simple(inputs, kernel, state, mask)
    return (hs, last), (inputs, hs, kernel, state, mask)


def _simple_backward(residuals: Any, cotangents: Any) -> Any:
    inputs, hs, kernel, first, mask = residuals
    d_hs, (dh,) = cotangents

    def compiled(*residuals: Any) -> Any:
        hs, kernel, first, mask, d_hs, dh = residuals
        nothing = jnp.zeros(0, jnp.float32)
        dz, _, dh, _ = recurrence_cpu.backward(
            recurrence_cpu.SIMPLE, nothing, hs, None, first.h, None, d_hs, dh, None, kernel, mask
        )
        return dz, dh

    ways = Ways(compiled, None, _simple_scan_back)
    dz, dh = _chosen("SimpleRNN", ways, kernel, hs, kernel, first, mask, d_hs, dh)
    return _input_gradients(inputs, dz), _kernel_gradient(hs, first.h, dz), Hidden(dh), None


def _simple_scan_back(
    hs: jax.Array, kernel: jax.Array, first: Hidden, mask: jax.Array | None, d_hs: jax.Array, dh: jax.Array
) -> tuple[jax.Array, jax.Array]:
    slope, transposed = _masked(1 - _wide(hs) ** 2, mask, 0), kernel.T

    def body(dh: jax.Array, given: Any) -> Any:
        d_h, slope, keep = given
        dh = dh + _wide(d_h)
        dz = dh * slope
        return _passed(keep, dh, _dot(dz, transposed)), dz.astype(d_hs.dtype)

    dh, dz = jax.lax.scan(body, _wide(dh), (d_hs, slope, mask), reverse=True)
    return dz, dh.astype(d_hs.dtype)


simple.defvjp(_simple_forward, _simple_backward)


class Ways(NamedTuple):
    """One way through time, there or back: by kernels in C, by the fused kernel of a GPU, by a scan."""

    compiled: Callable[..., Any]
    fused: Callable[..., Any] | None
    scanned: Callable[..., Any]


def _chosen(kind: str, ways: Ways, kernel: jax.Array, *arguments: Any) -> Any:
    """The rule: on a CPU the kernels in C where they take these arrays, on a GPU what `on_gpu` says; else a scan.

    Either is the way there or the way back. Who differentiates that again differentiates the scan.
    The platform is found where a program is lowered, so one with several devices has the right way on each.
    """
    found = {}
    steps, batch = jax.tree.leaves(arguments)[0].shape[:2]
    arrays = [a for a in jax.tree.leaves(arguments) if a.dtype != bool]
    if asked() != "scan" and recurrence_cpu.suits(*arrays):
        found["cpu"] = ways.compiled
    if ways.fused is not None and on_gpu(kind, kernel, steps * batch, whole=False) == "fused":
        found["cuda"] = ways.fused
    return dispatch.alternatives(ways.scanned, *arguments, **found)


def _contributed(inputs: Inputs, scale: jax.Array | None = None) -> tuple[jax.Array, Any]:
    """The products of all steps, and the bias that is still to be added, both with their columns scaled."""
    x, kernel, bias = inputs
    if kernel is not None:
        x = product(x, kernel if scale is None else kernel * scale[None])
    elif scale is not None:
        x = x * scale[None, None]
    if bias is None:
        return x, 0.0
    return x, (_wide(bias) if scale is None else _wide(bias) * _wide(scale))[None]


def _input_gradients(inputs: Inputs, dz: jax.Array) -> Inputs:
    """The gradients by x, kernel and bias, of that by what they contribute."""
    x, kernel, bias = inputs
    d_bias = None if bias is None else jnp.sum(_wide(dz), axis=(0, 1)).astype(bias.dtype)
    if kernel is None:
        return Inputs(dz, None, d_bias)
    d_kernel = _dot(x.reshape(-1, x.shape[-1]).T, dz.reshape(-1, dz.shape[-1])).astype(kernel.dtype)
    return Inputs(product(dz, kernel.T), d_kernel, d_bias)


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel for x [..., F]."""
    # On CPU, the gradient of a product with more axes transposes whole arrays of x's size.
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def _wide(x: jax.Array) -> jax.Array:
    """The array in float32, or in float64 if it is."""
    return x.astype(_wide_dtype(x))


def _wide_dtype(x: jax.Array) -> Any:
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32


def _dot(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel of the kernel's dtype, summed in float32 or wider."""
    return jnp.matmul(x.astype(kernel.dtype), kernel, preferred_element_type=_wide_dtype(kernel))


def _before(values: jax.Array, first: jax.Array) -> jax.Array:
    """The values of the steps before, wide."""
    return _wide(jnp.concatenate([first[None], values[:-1]]))


def _kernel_gradient(hs: jax.Array, first: jax.Array, dz: jax.Array) -> jax.Array:
    """The gradient of the recurrent kernel, as one product over all steps and examples."""
    h = jnp.concatenate([first[None], hs[:-1]]).reshape(-1, hs.shape[-1])
    return _dot(h.T, dz.reshape(-1, dz.shape[-1])).astype(dz.dtype)


def _kept(keep: jax.Array | None, new: Any, old: Any) -> Any:
    """The new state where a step counts, else the old one."""
    if keep is None:
        return new
    return jax.tree.map(lambda n, o: jnp.where(expand(keep, n), n, o), new, old)


def _passed(keep: jax.Array | None, dh: jax.Array, through: jax.Array) -> jax.Array:
    """The gradient of the state before a step: through the step, or past it where it does not count."""
    return through if keep is None else jnp.where(expand(keep, dh), through, dh)


def _masked(values: Any, mask: jax.Array | None, otherwise: int) -> Any:
    """Values of all steps, with another value where a step does not count."""
    if mask is None:
        return values
    return jax.tree.map(lambda v: jnp.where(expand(mask, v), v, otherwise), values)
