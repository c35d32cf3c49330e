"""LSTM and GRU by one fused Pallas kernel on an NVIDIA GPU: one launch for all steps of a forward or a backward pass.

A row of the batch needs no other row. Each program therefore takes some rows through all steps and never waits for
another program. Inside a program, a barrier separates the writes of one step from the reads of the next. The recurrent
kernel is read again at each step, from the caches of the GPU. The states also stay in the caches. Sums run in float32,
or in float64 for float64 arrays. XLA computes the products over all steps, those of the inputs and of the weights'
gradients (`products.py`). `reference.py` has the same passes as scans.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.kernels.recurrence.products import accumulation_dtype, project, upcast
from flaxmodels.kernels.recurrence.tiling import Ref, Refs, Slice, Tiling, dtype_of
from flaxmodels.kernels.recurrence.types import GATES, Hidden, Inputs, LSTMState, Passes, Residuals


def lstm_forward(
    inputs: Inputs, kernel: jax.Array, _: None, state: LSTMState, mask: jax.Array | None, keep: bool
) -> tuple[jax.Array, LSTMState, Residuals]:
    """Computes an LSTM, as in `Passes`."""
    xs, bias = project(inputs)
    tiling = Tiling(xs.shape, kernel, GATES["LSTM"])
    operands = {
        "x": (tiling.pad_gates(xs), 1),
        "bias": (tiling.pad_bias(bias), None),
        "w": (tiling.pad_kernel(kernel), None),
        "h": (tiling.pad_state(state.h), 0),
        "c": (tiling.pad_state(state.c), 0),
        "mask": (tiling.pad_mask(mask), 1),
    }
    outputs = {
        "hs": tiling.output(xs.dtype, 1, tiling.steps),
        "c": tiling.output(xs.dtype, 1),
        "h": tiling.output(xs.dtype, 1, 2),
    }
    if keep:
        outputs |= {
            "cs": tiling.output(xs.dtype, 1, tiling.steps),
            "gates": tiling.output(xs.dtype, 4, tiling.steps),
        }
    results = tiling.launch(_lstm_steps, operands, outputs)
    residuals = (tiling.crop(results["cs"]), tiling.crop(results["gates"], 4)) if keep else ()
    hs = tiling.crop(results["hs"])
    return hs, LSTMState(hs[-1], tiling.crop(results["c"])), residuals


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
    tiling = Tiling(gates.shape, kernel, GATES["LSTM"])
    operands = {
        "gates": (tiling.pad_gates(gates), 1),
        "cs": (tiling.pad_state(cs), 1),
        "c": (tiling.pad_state(first.c), 0),
        "w": (tiling.pad_kernel(kernel).T, None),
        "mask": (tiling.pad_mask(mask), 1),
        "d_hs": (tiling.pad_state(d_hs), 1),
        "dh": (tiling.pad_state(d_last.h), 0),
        "dc": (tiling.pad_state(d_last.c), 0),
    }
    sums = accumulation_dtype(d_hs.dtype)
    outputs = {
        "dz": tiling.output(d_hs.dtype, 4, tiling.steps),
        "dh": tiling.output(sums, 1),
        "dc": tiling.output(sums, 1),
    }
    results = tiling.launch(_lstm_steps_back, operands, outputs)
    dh, dc = (tiling.crop(results[name]).astype(d_hs.dtype) for name in ("dh", "dc"))
    return tiling.crop(results["dz"], 4), None, LSTMState(dh, dc)


def gru_forward(
    inputs: Inputs, kernel: jax.Array, bias: jax.Array, state: Hidden, mask: jax.Array | None, keep: bool
) -> tuple[jax.Array, Hidden, Residuals]:
    """Computes a GRU, as in `Passes`."""
    xs, input_bias = project(inputs)
    tiling = Tiling(xs.shape, kernel, GATES["GRU"])
    operands = {
        "x": (tiling.pad_gates(xs), 1),
        "bias": (tiling.pad_bias(input_bias), None),
        "w": (tiling.pad_kernel(kernel), None),
        "inner_bias": (tiling.pad_bias(bias[None]), None),
        "h": (tiling.pad_state(state.h), 0),
        "mask": (tiling.pad_mask(mask), 1),
    }
    outputs = {"hs": tiling.output(xs.dtype, 1, tiling.steps), "h": tiling.output(xs.dtype, 1, 2)}
    if keep:
        outputs["parts"] = tiling.output(xs.dtype, 4, tiling.steps)
    results = tiling.launch(_gru_steps, operands, outputs)
    hs = tiling.crop(results["hs"])
    return hs, Hidden(hs[-1]), (tiling.crop(results["parts"], 4),) if keep else ()


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
    (parts,) = residuals
    tiling = Tiling(parts.shape, kernel, GATES["GRU"])
    operands = {
        "parts": (tiling.pad_gates(parts, 4), 1),
        "hs": (tiling.pad_state(hs), 1),
        "h": (tiling.pad_state(first.h), 0),
        "w": (tiling.pad_kernel(kernel).T, None),
        "mask": (tiling.pad_mask(mask), 1),
        "d_hs": (tiling.pad_state(d_hs), 1),
        "dh": (tiling.pad_state(d_last.h), 0),
    }
    outputs = {
        "inner": tiling.output(d_hs.dtype, 3, tiling.steps),
        "xs": tiling.output(d_hs.dtype, 3, tiling.steps),
        "dh": tiling.output(accumulation_dtype(d_hs.dtype), 1),
    }
    results = tiling.launch(_gru_steps_back, operands, outputs)
    d_inner, d_xs = (tiling.crop(results[name], 3) for name in ("inner", "xs"))
    return d_inner, d_xs, Hidden(tiling.crop(results["dh"]).astype(d_hs.dtype))


LSTM = Passes(lstm_forward, lstm_backward)
GRU = Passes(gru_forward, gru_backward)


# --- the kernels: `ins` and `outs` are references to arrays in the GPU's memory, restricted to the rows of one program
#
# The compiler chooses which thread holds which element, separately for each load and store. So between two barriers, an
# element that is read may be overwritten only by a value computed from what was read there.


def _lstm_steps(tiling: Tiling, ins: Refs, outs: Refs) -> None:
    def start(unit: Slice) -> None:
        outs["h"][0, :, unit] = ins["h"][:, unit]
        outs["c"][:, unit] = ins["c"][:, unit]

    def step(t: jax.Array) -> None:
        counts = tiling.step_mask(ins, t)

        def tile(j: jax.Array) -> None:
            unit, columns = tiling.columns(j, 4)
            z = [upcast(ins["x"][t, :, gate]) + ins["bias"][:, gate] for gate in columns]
            z = tiling.add_product(z, lambda part: outs["h"][_parity(t), :, part], ins["w"], columns)
            i, f, o = jax.nn.sigmoid(z[0]), jax.nn.sigmoid(z[1]), jax.nn.sigmoid(z[3])
            g, before = jnp.tanh(z[2]), outs["c"][:, unit]
            c = f * upcast(before) + i * g
            h = _new_where(counts, (o * jnp.tanh(c)).astype(before.dtype), outs["h"][_parity(t), :, unit])
            c = _new_where(counts, c.astype(before.dtype), before)
            outs["h"][_parity(t + 1), :, unit] = h
            outs["hs"][t, :, unit] = h
            outs["c"][:, unit] = c
            if "gates" in outs:
                outs["cs"][t, :, unit] = c
                for gate, value in zip(columns, (i, f, g, o), strict=True):
                    outs["gates"][t, :, gate] = value.astype(before.dtype)

        tiling.for_each_tile(tile)
        tiling.barrier()

    tiling.loop_over_steps(start, step)


def _lstm_steps_back(tiling: Tiling, ins: Refs, outs: Refs) -> None:
    def start(unit: Slice) -> None:
        outs["dh"][:, unit] = upcast(ins["dh"][:, unit])
        outs["dc"][:, unit] = upcast(ins["dc"][:, unit])

    def step(back: jax.Array) -> None:
        t = tiling.steps - 1 - back
        counts = tiling.step_mask(ins, t)

        def tile(j: jax.Array) -> None:
            unit, columns = tiling.columns(j, 4)
            i, f, g, o = (upcast(ins["gates"][t, :, gate]) for gate in columns)
            before = upcast(_before(t, ins["cs"], ins["c"], unit))
            dh = outs["dh"][:, unit] + upcast(ins["d_hs"][t, :, unit])
            dc_after, tanh_c = outs["dc"][:, unit], jnp.tanh(upcast(ins["cs"][t, :, unit]))
            dc = dc_after + dh * o * (1 - tanh_c * tanh_c)
            dz = (dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g * g), dh * tanh_c * o * (1 - o))
            for gate, value in zip(columns, dz, strict=True):
                outs["dz"][t, :, gate] = _new_where(counts, value, jnp.zeros_like(value)).astype(dtype_of(outs["dz"]))
            outs["dc"][:, unit] = _new_where(counts, dc * f, dc_after)
            if counts is not None:
                outs["dh"][:, unit] = dh

        def product(j: jax.Array) -> None:
            unit, _ = tiling.columns(j, 1)
            # At a masked step, dh is passed on unchanged. The product adds the gradient that passes through the step.
            total = jnp.zeros((tiling.tiles.rows, tiling.tiles.units), dtype_of(outs["dh"]))
            total = total if counts is None else _new_where(counts, total, outs["dh"][:, unit])
            load_dz = partial(_load_step, outs["dz"], t)
            outs["dh"][:, unit] = tiling.add_product_over_gates(total, load_dz, ins["w"], unit)

        tiling.for_each_tile(tile)
        tiling.barrier()
        tiling.for_each_tile(product)
        tiling.barrier()

    tiling.loop_over_steps(start, step)


def _gru_steps(tiling: Tiling, ins: Refs, outs: Refs) -> None:
    def start(unit: Slice) -> None:
        outs["h"][0, :, unit] = ins["h"][:, unit]

    def step(t: jax.Array) -> None:
        counts = tiling.step_mask(ins, t)

        def tile(j: jax.Array) -> None:
            unit, columns = tiling.columns(j, 3)
            x_z, x_r, x_g = (upcast(ins["x"][t, :, gate]) + ins["bias"][:, gate] for gate in columns)
            a, b, d = (jnp.broadcast_to(ins["inner_bias"][:, gate], x_z.shape) for gate in columns)
            sums = [x_z + a, x_r + b, d]
            z, r, d = tiling.add_product(sums, lambda part: outs["h"][_parity(t), :, part], ins["w"], columns)
            z, r = jax.nn.sigmoid(z), jax.nn.sigmoid(r)
            g, before = jnp.tanh(x_g + r * d), outs["h"][_parity(t), :, unit]
            h = _new_where(counts, (z * upcast(before) + (1 - z) * g).astype(before.dtype), before)
            outs["h"][_parity(t + 1), :, unit] = h
            outs["hs"][t, :, unit] = h
            if "parts" in outs:
                for part, value in zip(tiling.columns(j, 4)[1], (z, r, g, d), strict=True):
                    outs["parts"][t, :, part] = value.astype(before.dtype)

        tiling.for_each_tile(tile)
        tiling.barrier()

    tiling.loop_over_steps(start, step)


def _gru_steps_back(tiling: Tiling, ins: Refs, outs: Refs) -> None:
    def start(unit: Slice) -> None:
        outs["dh"][:, unit] = upcast(ins["dh"][:, unit])

    def step(back: jax.Array) -> None:
        t = tiling.steps - 1 - back
        counts = tiling.step_mask(ins, t)

        def tile(j: jax.Array) -> None:
            unit, columns = tiling.columns(j, 4)
            z, r, g, d = (upcast(ins["parts"][t, :, part]) for part in columns)
            before = upcast(_before(t, ins["hs"], ins["h"], unit))
            dh = outs["dh"][:, unit] + upcast(ins["d_hs"][t, :, unit])
            to_g = dh * (1 - z) * (1 - g * g)
            by_z, by_r = dh * (before - g) * z * (1 - z), to_g * d * r * (1 - r)
            for name, last in (("inner", to_g * r), ("xs", to_g)):
                for gate, value in zip(columns[:3], (by_z, by_r, last), strict=True):
                    value = _new_where(counts, value, jnp.zeros_like(value))
                    outs[name][t, :, gate] = value.astype(dtype_of(outs[name]))
            outs["dh"][:, unit] = _new_where(counts, dh * z, dh)

        def product(j: jax.Array) -> None:
            unit, _ = tiling.columns(j, 1)
            load_inner = partial(_load_step, outs["inner"], t)
            outs["dh"][:, unit] = tiling.add_product_over_gates(outs["dh"][:, unit], load_inner, ins["w"], unit)

        tiling.for_each_tile(tile)
        tiling.barrier()
        tiling.for_each_tile(product)
        tiling.barrier()

    tiling.loop_over_steps(start, step)


def _parity(t: jax.Array) -> jax.Array:
    """Returns t % 2, the index of the buffer that holds the state before step t.

    Uses `&`, because Triton lowers `%` only for floats.
    """
    return t & np.int32(1)


def _load_step(values: Ref, t: jax.Array, part: Slice) -> jax.Array:
    return values[t, :, part]


def _before(t: jax.Array, values: Ref, first: Ref, unit: Slice) -> jax.Array:
    """Returns a state before step t."""
    return jnp.where(t > 0, values[jnp.maximum(t - 1, 0), :, unit], first[:, unit])


def _new_where(counts: jax.Array | None, new: jax.Array, old: jax.Array) -> jax.Array:
    """Returns the new values in valid rows, otherwise the old ones."""
    return new if counts is None else jnp.where(counts, new, old)
