"""LSTM, GRU and the simplest recurrence by the kernels in C (`recurrence.c`), forward and back through time.

Both take and give what the recurrences of `recurrence.py` do, in float32; `keep` says whether the way back will follow.

Shapes: T steps, B batch, F features, U units, G gates: 4 of an LSTM, 3 of a GRU, 1 of the simplest.
"""

from typing import Any

import jax
import jax.numpy as jnp

from flaxmodels.kernels import dispatch, native
from flaxmodels.kernels.native import GRU, LSTM, SIMPLE

GATES = (4, 3, 1)


def suits(*arrays: jax.Array | None) -> bool:
    """Whether the kernels take these arrays: there are kernels, some steps and examples, and all is float32."""
    there = [a for a in arrays if a is not None]
    return dispatch.is_static(*there) and all(a.dtype == jnp.float32 and a.size for a in there) and native.available()


def forward(
    kind: int,
    x: jax.Array,
    kernel: jax.Array | None,
    bias: jax.Array | None,
    recurrent: jax.Array,
    inner_bias: jax.Array | None,
    h: jax.Array,
    c: jax.Array | None,
    mask: jax.Array | None,
    keep: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Takes a recurrence through time.

    Args:
        kind: LSTM, GRU or SIMPLE.
        x: The inputs, or without a kernel what they contribute.
        kernel: Their kernel, or None.
        bias: Their bias, or None.
        recurrent: The recurrent kernel.
        inner_bias: The bias of a GRU's recurrent products, else None.
        h: The output before the first step.
        c: The cell of an LSTM before the first step, else None.
        mask: Which steps count, or None.
        keep: Whether to return what `backward` needs.

    Shapes: x [T, B, F] or [T, B, G U], kernel [F, G U], biases [G U], recurrent [U, G U], h and c [B, U], mask [T, B]
        -> h after each step [T, B, U]; c after each step [T, B, U], or only the last one [B, U] unless `keep`;
        the gates i f g o or z r g d [T, B, 4 U]. What is not needed is empty.
    """
    (steps, batch, _), units = x.shape, h.shape[-1]
    width, features = GATES[kind] * units, 0 if kernel is None else x.shape[-1]
    cells = {True: (steps, batch, units), False: (batch, units)}[keep] if kind == LSTM else (0,)
    factors = (steps, batch, 4 * units) if keep and kind != SIMPLE else (0,)
    out = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((steps, batch, units), cells, factors)]
    zeros = jnp.zeros(width, jnp.float32)
    operands = (
        x,
        _or_empty(kernel),
        zeros if bias is None else bias,
        recurrent,
        _or_empty(inner_bias),
        h,
        _or_empty(c),
    )
    attributes = {"cell_type": kind, "units": units, "features": features, "keep_residuals": keep}
    return tuple(native.call("recurrence", out, *operands, _bytes(mask), attributes=attributes))


def backward(
    kind: int,
    factors: jax.Array,
    hs: jax.Array,
    cs: jax.Array | None,
    h: jax.Array,
    c: jax.Array | None,
    d_hs: jax.Array,
    d_h: jax.Array,
    d_c: jax.Array | None,
    recurrent: jax.Array,
    mask: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Takes gradients back through time: of what `forward` returned and the gradients of its outputs.

    Shapes: as in `forward` -> the gradients of the recurrent products [T, B, G U], of what inputs contribute where that
        is another one (a GRU) [T, B, 3 U], of h and of an LSTM's c before the first step [B, U].
    """
    (steps, batch, units), width = hs.shape, GATES[kind] * hs.shape[-1]
    shapes = [(steps, batch, width), (steps, batch, width) if kind == GRU else (0,), h.shape]
    out = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [*shapes, h.shape if kind == LSTM else (0,)]]
    operands: tuple[Any, ...] = (factors, hs, _or_empty(cs), h, _or_empty(c), d_hs, d_h, _or_empty(d_c), recurrent)
    attributes = {"cell_type": kind, "units": units, "features": 0, "keep_residuals": 1}
    return tuple(native.call("recurrence_backward", out, *operands, _bytes(mask), attributes=attributes))


def _or_empty(array: jax.Array | None) -> jax.Array:
    return jnp.zeros(0, jnp.float32) if array is None else array


def _bytes(mask: jax.Array | None) -> jax.Array:
    return jnp.zeros((0, 0), jnp.uint8) if mask is None else mask.astype(jnp.uint8)
