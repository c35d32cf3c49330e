"""LSTM, GRU and SimpleRNN by kernels in C on a CPU (`native/recurrence.c`), in float32: forward and backward passes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from flaxmodels.kernels import dispatch, native
from flaxmodels.kernels.recurrence.types import GATES, Hidden, Inputs, Kind, LSTMState, Passes, Residuals

CELL_TYPES: dict[Kind, int] = {"LSTM": native.LSTM, "GRU": native.GRU, "SimpleRNN": native.SIMPLE}


def is_supported(arrays: Sequence[jax.Array]) -> bool:
    """Returns whether the kernels exist and support these arrays: float32, with static shapes, and not empty."""
    fits = dispatch.is_static(*arrays) and all(a.dtype == jnp.float32 and a.size for a in arrays)
    return fits and native.available()


def forward(
    kind: Kind,
    inputs: Inputs,
    kernel: jax.Array,
    bias: jax.Array | None,
    state: Hidden | LSTMState,
    mask: jax.Array | None,
    keep: bool,
) -> tuple[jax.Array, Any, Residuals]:
    """Computes a recurrence, as in `Passes`."""
    x, input_kernel, input_bias = inputs
    (steps, batch, _), units = x.shape, state.h.shape[-1]
    keep = keep and kind != "SimpleRNN"  # its backward pass needs only the outputs
    width, features = GATES[kind] * units, 0 if input_kernel is None else x.shape[-1]
    # Without `keep`, an LSTM returns only the last c. The kernel returns empty arrays for results that are not needed.
    cells = {True: (steps, batch, units), False: (batch, units)}[keep] if kind == "LSTM" else (0,)
    gates = (steps, batch, 4 * units) if keep else (0,)
    out = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((steps, batch, units), cells, gates)]
    zeros = jnp.zeros(width, jnp.float32)
    operands = (
        x,
        _or_empty(input_kernel),
        zeros if input_bias is None else input_bias,
        kernel,
        _or_empty(bias),
        state.h,
        _or_empty(getattr(state, "c", None)),
    )
    attributes = {"cell_type": CELL_TYPES[kind], "units": units, "features": features, "keep_residuals": keep}
    hs, cs, gates_kept = native.call("recurrence", out, *operands, _as_bytes(mask), attributes=attributes)
    if kind == "LSTM":
        return hs, LSTMState(hs[-1], cs[-1] if keep else cs), (cs, gates_kept) if keep else ()
    return hs, Hidden(hs[-1]), (gates_kept,) if keep else ()


def backward(
    kind: Kind,
    hs: jax.Array,
    residuals: Residuals,
    kernel: jax.Array,
    first: Hidden | LSTMState,
    mask: jax.Array | None,
    d_hs: jax.Array,
    d_last: Hidden | LSTMState,
) -> tuple[jax.Array, jax.Array | None, Any]:
    """Computes the gradients of a recurrence, as in `Passes`."""
    (steps, batch, units), width = hs.shape, GATES[kind] * hs.shape[-1]
    is_lstm = kind == "LSTM"
    cs, gates = residuals if is_lstm else (None, residuals[0] if residuals else None)
    shapes = [(steps, batch, width), (steps, batch, width) if kind == "GRU" else (0,), first.h.shape]
    out = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [*shapes, first.h.shape if is_lstm else (0,)]]
    operands: tuple[jax.Array, ...] = (
        _or_empty(gates),
        hs,
        _or_empty(cs),
        first.h,
        _or_empty(getattr(first, "c", None)),
        d_hs,
        d_last.h,
        _or_empty(getattr(d_last, "c", None)),
        kernel,
    )
    attributes = {"cell_type": CELL_TYPES[kind], "units": units, "features": 0, "keep_residuals": 1}
    gradients = native.call("recurrence_backward", out, *operands, _as_bytes(mask), attributes=attributes)
    d_product, d_inputs, dh, dc = gradients
    return d_product, d_inputs if kind == "GRU" else None, LSTMState(dh, dc) if is_lstm else Hidden(dh)


def _or_empty(array: jax.Array | None) -> jax.Array:
    return jnp.zeros(0, jnp.float32) if array is None else array


def _as_bytes(mask: jax.Array | None) -> jax.Array:
    return jnp.zeros((0, 0), jnp.uint8) if mask is None else mask.astype(jnp.uint8)


LSTM: Passes[LSTMState] = Passes(partial(forward, "LSTM"), partial(backward, "LSTM"))
GRU: Passes[Hidden] = Passes(partial(forward, "GRU"), partial(backward, "GRU"))
SIMPLE_RNN: Passes[Hidden] = Passes(partial(forward, "SimpleRNN"), partial(backward, "SimpleRNN"))
