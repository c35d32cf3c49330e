"""LSTM and GRU by one fused kernel on an NVIDIA GPU: the whole way through time, or back, is one launch.

A row of the batch needs no other row, so each program takes some rows through all steps and never waits for another
program; within one, a barrier parts what a step writes from what the next one reads. The recurrent kernel is read anew
at each step, from the caches of the GPU, which hold it. States stay in the caches, too; sums run in float32 at least.
Products for all steps at once, those of the inputs and of the weights' gradients, are left to XLA: see `recurrence.py`,
which also has the same functions as scans.

Shapes: T steps, B batch, U units, G gates: 4 of an LSTM, 3 of a GRU.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Values of `jax_default_matmul_precision` that ask for all digits of a float32.
EXACT = ("highest", "float32", "float64", "F32_F32_F32", "F64_F64_F64")

# Only for tests: the kernels are then run by Pallas' interpreter, on any platform.
interpreted = False


class Tiles(NamedTuple):
    """How a kernel is cut.

    Args:
        rows: Of the batch, per program; a tensor core takes no fewer than 16.
        units: Columns of each gate that are computed at once.
        depth: Rows of the kernel that are multiplied at once.
        warps: Of 32 threads, per program.
        stages: Parts of the kernel that are on their way at the same time.
    """

    rows: int = 16
    units: int = 64
    depth: int = 64
    warps: int = 8
    stages: int = 3


def tiles_for(units: int, dtype: Any) -> Tiles:
    """Tiles for a recurrence of some units: enough bytes on their way to be fast, few enough to fit on the chip."""
    most, deepest = 64, 128 // jnp.dtype(dtype).itemsize
    size = max(16, 1 << (units - 1).bit_length())
    return Tiles(units=min(most, size), depth=min(deepest, size))


def elements(rows: int, units: int, dtype: Any) -> int:
    """How many elements the largest array of a kernel has, for so many rows of all steps, if none is padded.

    Example:
        >>> elements(128 * 64, 100, "float32")
        4194304
    """
    tiles = tiles_for(units, dtype)
    return rows * 4 * (-units % max(tiles.units, tiles.depth) + units)


def exact() -> bool:
    """Whether products of float32 keep all digits, as JAX's default precision of products says."""
    return str(jax.config.jax_default_matmul_precision) in EXACT  # type: ignore[attr-defined]


# --- the way through time


def lstm_forward(
    xs: jax.Array,
    bias: Any,
    kernel: jax.Array,
    h: jax.Array,
    c: jax.Array,
    mask: jax.Array | None,
    keep: bool,
    tiles: Tiles | None = None,
) -> tuple[jax.Array, ...]:
    """Takes an LSTM through time.

    Args:
        xs: What the inputs contribute.
        bias: What is added to it, or 0.
        kernel: The recurrent kernel.
        h: The output before the first step.
        c: The cell before the first step.
        mask: Which steps count, or None.
        keep: Whether to return what `lstm_backward` needs.
        tiles: How the kernel is cut; by default `tiles_for` says it.

    Shapes: xs [T, B, 4 U], bias [1, 4 U], kernel [U, 4 U], h and c [B, U], mask [T, B] -> h after each step [T, B, U],
        the last c [B, U] and, to keep, c after each step [T, B, U] and the gates i, f, g, o of each [T, B, 4 U].
    """
    cut = _Cut(xs.shape, kernel, 4, tiles)
    given = {
        "x": (cut.gates(xs), 1),
        "bias": (cut.bias(bias), None),
        "w": (cut.weights(kernel), None),
        "h": (cut.state(h), 0),
        "c": (cut.state(c), 0),
        "mask": (cut.mask(mask), 1),
    }
    made = {"hs": cut.out(xs.dtype, 1), "c": cut.out(xs.dtype, 1, steps=None), "h": cut.out(xs.dtype, 1, steps=2)}
    if keep:
        made |= {"cs": cut.out(xs.dtype, 1), "gates": cut.out(xs.dtype, 4)}
    found = cut.launch(_lstm_steps, given, made)
    kept = (cut.cropped(found["cs"]), cut.cropped(found["gates"], 4)) if keep else ()
    return cut.cropped(found["hs"]), cut.cropped(found["c"]), *kept


def lstm_backward(
    cs: jax.Array,
    gates: jax.Array,
    kernel: jax.Array,
    c: jax.Array,
    mask: jax.Array | None,
    d_hs: jax.Array,
    dh: jax.Array,
    dc: jax.Array,
    tiles: Tiles | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Takes gradients of an LSTM back through time: of what `lstm_forward` returned and the gradients of its outputs.

    Shapes: as in `lstm_forward` -> the gradients of xs [T, B, 4 U], of h and of c before the first step [B, U].
    """
    cut = _Cut(gates.shape, kernel, 4, tiles)
    given = {
        "gates": (cut.gates(gates), 1),
        "cs": (cut.state(cs), 1),
        "c": (cut.state(c), 0),
        "w": (cut.weights(kernel).T, None),
        "mask": (cut.mask(mask), 1),
        "d_hs": (cut.state(d_hs), 1),
        "dh": (cut.state(dh), 0),
        "dc": (cut.state(dc), 0),
    }
    wide = _wide_dtype(d_hs)
    made = {"dz": cut.out(d_hs.dtype, 4), "dh": cut.out(wide, 1, steps=None), "dc": cut.out(wide, 1, steps=None)}
    found = cut.launch(_lstm_steps_back, given, made)
    dh, dc = (cut.cropped(found[name]).astype(d_hs.dtype) for name in ("dh", "dc"))
    return cut.cropped(found["dz"], 4), dh, dc


def gru_forward(
    xs: jax.Array,
    bias: Any,
    kernel: jax.Array,
    inner_bias: jax.Array,
    h: jax.Array,
    mask: jax.Array | None,
    keep: bool,
    tiles: Tiles | None = None,
) -> tuple[jax.Array, ...]:
    """Takes a GRU through time; arguments as in `lstm_forward`, and the bias of the recurrent products.

    Shapes: xs [T, B, 3 U], bias [1, 3 U], kernel [U, 3 U], inner_bias [3 U], h [B, U], mask [T, B] -> h after each step
        [T, B, U] and, to keep, z, r, g, d of each [T, B, 4 U].
    """
    cut = _Cut(xs.shape, kernel, 3, tiles)
    given = {
        "x": (cut.gates(xs), 1),
        "bias": (cut.bias(bias), None),
        "w": (cut.weights(kernel), None),
        "inner_bias": (cut.bias(inner_bias[None]), None),
        "h": (cut.state(h), 0),
        "mask": (cut.mask(mask), 1),
    }
    made = {"hs": cut.out(xs.dtype, 1), "h": cut.out(xs.dtype, 1, steps=2)}
    if keep:
        made["parts"] = cut.out(xs.dtype, 4)
    found = cut.launch(_gru_steps, given, made)
    return cut.cropped(found["hs"]), *((cut.cropped(found["parts"], 4),) if keep else ())


def gru_backward(
    hs: jax.Array,
    parts: jax.Array,
    kernel: jax.Array,
    h: jax.Array,
    mask: jax.Array | None,
    d_hs: jax.Array,
    dh: jax.Array,
    tiles: Tiles | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Takes gradients of a GRU back through time: of what `gru_forward` returned and the gradients of its outputs.

    Shapes: as in `gru_forward` -> the gradients of the recurrent products and of xs [T, B, 3 U], of h [B, U].
    """
    cut = _Cut(parts.shape, kernel, 3, tiles)
    given = {
        "parts": (cut.gates(parts, 4), 1),
        "hs": (cut.state(hs), 1),
        "h": (cut.state(h), 0),
        "w": (cut.weights(kernel).T, None),
        "mask": (cut.mask(mask), 1),
        "d_hs": (cut.state(d_hs), 1),
        "dh": (cut.state(dh), 0),
    }
    made = {
        "inner": cut.out(d_hs.dtype, 3),
        "xs": cut.out(d_hs.dtype, 3),
        "dh": cut.out(_wide_dtype(d_hs), 1, steps=None),
    }
    found = cut.launch(_gru_steps_back, given, made)
    d_inner, d_xs = (cut.cropped(found[name], 3) for name in ("inner", "xs"))
    return d_inner, d_xs, cut.cropped(found["dh"]).astype(d_hs.dtype)


# --- the kernels: `given` and `made` name references to arrays in the GPU's memory, of the rows of one program
#
# Which thread has which element is the compiler's choice, for a load and for a store. So between two barriers a place
# that is read is only overwritten by a value that is computed from what was read there.


def _lstm_steps(cut: "_Cut", given: Any, made: Any) -> None:
    def begin(unit: Any) -> None:
        made["h"][0, :, unit] = given["h"][:, unit]
        made["c"][:, unit] = given["c"][:, unit]

    def step(t: Any) -> None:
        counts = cut.counts(given, t)

        def tile(j: Any) -> None:
            unit, columns = cut.columns(j, 4)
            z = [_wide(given["x"][t, :, gate]) + given["bias"][:, gate] for gate in columns]
            z = cut.multiplied(z, lambda part: made["h"][_odd(t), :, part], given["w"], columns)
            i, f, o = jax.nn.sigmoid(z[0]), jax.nn.sigmoid(z[1]), jax.nn.sigmoid(z[3])
            g, before = jnp.tanh(z[2]), made["c"][:, unit]
            c = f * _wide(before) + i * g
            h = _kept(counts, (o * jnp.tanh(c)).astype(before.dtype), made["h"][_odd(t), :, unit])
            c = _kept(counts, c.astype(before.dtype), before)
            made["h"][_odd(t + 1), :, unit] = h
            made["hs"][t, :, unit] = h
            made["c"][:, unit] = c
            if "gates" in made:
                made["cs"][t, :, unit] = c
                for gate, value in zip(columns, (i, f, g, o), strict=True):
                    made["gates"][t, :, gate] = value.astype(before.dtype)

        cut.each_tile(tile)
        cut.barrier()

    cut.run(begin, step)


def _lstm_steps_back(cut: "_Cut", given: Any, made: Any) -> None:
    def begin(unit: Any) -> None:
        made["dh"][:, unit] = _wide(given["dh"][:, unit])
        made["dc"][:, unit] = _wide(given["dc"][:, unit])

    def passing_by(unit: Any, counts: jax.Array | None) -> jax.Array:
        """What of dh passes a step by; what goes through it is added."""
        nothing = jnp.zeros((cut.each.rows, cut.each.units), cut.dtype_of(made["dh"]))
        return nothing if counts is None else _kept(counts, nothing, made["dh"][:, unit])

    def step(back: Any) -> None:
        t = cut.steps - 1 - back
        counts = cut.counts(given, t)

        def tile(j: Any) -> None:
            unit, columns = cut.columns(j, 4)
            i, f, g, o = (_wide(given["gates"][t, :, gate]) for gate in columns)
            before = _wide(_before(t, given["cs"], given["c"], unit))
            dh = made["dh"][:, unit] + _wide(given["d_hs"][t, :, unit])
            dc_after, tanh_c = made["dc"][:, unit], jnp.tanh(_wide(given["cs"][t, :, unit]))
            dc = dc_after + dh * o * (1 - tanh_c * tanh_c)
            dz = (dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g * g), dh * tanh_c * o * (1 - o))
            for gate, value in zip(columns, dz, strict=True):
                made["dz"][t, :, gate] = _kept(counts, value, jnp.zeros_like(value)).astype(cut.dtype_of(made["dz"]))
            made["dc"][:, unit] = _kept(counts, dc * f, dc_after)
            if counts is not None:
                made["dh"][:, unit] = dh

        cut.each_tile(tile)
        cut.barrier()
        cut.each_tile(
            lambda j: cut.pass_back(
                made["dh"], partial(passing_by, counts=counts), lambda part: made["dz"][t, :, part], given["w"], j
            )
        )
        cut.barrier()

    cut.run(begin, step)


def _gru_steps(cut: "_Cut", given: Any, made: Any) -> None:
    def begin(unit: Any) -> None:
        made["h"][0, :, unit] = given["h"][:, unit]

    def step(t: Any) -> None:
        counts = cut.counts(given, t)

        def tile(j: Any) -> None:
            unit, columns = cut.columns(j, 3)
            x_z, x_r, x_g = (_wide(given["x"][t, :, gate]) + given["bias"][:, gate] for gate in columns)
            a, b, d = (jnp.broadcast_to(given["inner_bias"][:, gate], x_z.shape) for gate in columns)
            sums = [x_z + a, x_r + b, d]
            z, r, d = cut.multiplied(sums, lambda part: made["h"][_odd(t), :, part], given["w"], columns)
            z, r = jax.nn.sigmoid(z), jax.nn.sigmoid(r)
            g, before = jnp.tanh(x_g + r * d), made["h"][_odd(t), :, unit]
            h = _kept(counts, (z * _wide(before) + (1 - z) * g).astype(before.dtype), before)
            made["h"][_odd(t + 1), :, unit] = h
            made["hs"][t, :, unit] = h
            if "parts" in made:
                for part, value in zip(cut.columns(j, 4)[1], (z, r, g, d), strict=True):
                    made["parts"][t, :, part] = value.astype(before.dtype)

        cut.each_tile(tile)
        cut.barrier()

    cut.run(begin, step)


def _gru_steps_back(cut: "_Cut", given: Any, made: Any) -> None:
    def begin(unit: Any) -> None:
        made["dh"][:, unit] = _wide(given["dh"][:, unit])

    def step(back: Any) -> None:
        t = cut.steps - 1 - back
        counts = cut.counts(given, t)

        def tile(j: Any) -> None:
            unit, columns = cut.columns(j, 4)
            z, r, g, d = (_wide(given["parts"][t, :, part]) for part in columns)
            before = _wide(_before(t, given["hs"], given["h"], unit))
            dh = made["dh"][:, unit] + _wide(given["d_hs"][t, :, unit])
            to_g = dh * (1 - z) * (1 - g * g)
            by_z, by_r = dh * (before - g) * z * (1 - z), to_g * d * r * (1 - r)
            for name, last in (("inner", to_g * r), ("xs", to_g)):
                for gate, value in zip(columns, (by_z, by_r, last), strict=False):
                    value = _kept(counts, value, jnp.zeros_like(value))
                    made[name][t, :, gate] = value.astype(cut.dtype_of(made[name]))
            made["dh"][:, unit] = _kept(counts, dh * z, dh)

        cut.each_tile(tile)
        cut.barrier()
        cut.each_tile(
            lambda j: cut.pass_back(
                made["dh"], lambda unit: made["dh"][:, unit], lambda part: made["inner"][t, :, part], given["w"], j
            )
        )
        cut.barrier()

    cut.run(begin, step)


def _odd(t: Any) -> Any:
    """1 at odd steps: where of two places the state is. By `&`, as `%` is lowered only for floats there."""
    return t & np.int32(1)


def _before(t: Any, values: Any, first: Any, unit: Any) -> jax.Array:
    """What a state was before a step."""
    return jnp.where(t > 0, values[jnp.maximum(t - 1, 0), :, unit], first[:, unit])


def _kept(counts: jax.Array | None, new: jax.Array, old: jax.Array) -> jax.Array:
    return new if counts is None else jnp.where(counts, new, old)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(_wide_dtype(x))


def _wide_dtype(x: jax.Array) -> Any:
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32


# --- how arrays and loops are cut


class _Cut:
    """Arrays padded to whole tiles, and the loops over them inside a kernel.

    The sizes of what a kernel takes at once are powers of two, so units and batch are padded with zeros: units that
    have no weights stay zero and change no others.
    """

    def __init__(self, shape: tuple[int, ...], kernel: jax.Array, gates: int, tiles: Tiles | None) -> None:
        self.steps, batch, _ = shape
        units, self.each = kernel.shape[0], tiles or tiles_for(kernel.shape[0], kernel.dtype)
        block = max(self.each.units, self.each.depth)
        self.batch, self.rows = batch, -batch % self.each.rows + batch
        self.units, self.wide = units, -units % block + units
        self.count = gates
        self.precision = jax.lax.Precision.HIGHEST if exact() else jax.lax.Precision.DEFAULT

    # arrays

    def state(self, values: jax.Array) -> jax.Array:
        """[..., B, U] with whole tiles."""
        pads = [(0, 0)] * (values.ndim - 2) + [(0, self.rows - self.batch), (0, self.wide - self.units)]
        return jnp.pad(values, pads) if any(high for _, high in pads) else values

    def gates(self, values: jax.Array, count: int | None = None) -> jax.Array:
        """[T, B, G U] with whole tiles of each gate."""
        count = count or self.count
        if self.wide == self.units and self.rows == self.batch:
            return values
        apart = values.reshape(*values.shape[:-1], count, self.units)
        rows, units = (0, self.rows - self.batch), (0, self.wide - self.units)
        return jnp.pad(apart, ((0, 0), rows, (0, 0), units)).reshape(self.steps, self.rows, count * self.wide)

    def weights(self, kernel: jax.Array) -> jax.Array:
        """[U, G U] with whole tiles."""
        missing = (0, self.wide - self.units)
        if not missing[1]:
            return kernel
        apart = kernel.reshape(self.units, self.count, self.units)
        return jnp.pad(apart, (missing, (0, 0), missing)).reshape(self.wide, -1)

    def bias(self, bias: Any) -> jax.Array:
        """[1, G U] with whole tiles, wide."""
        bias = _wide(jnp.asarray(bias))
        bias = jnp.broadcast_to(bias.reshape(1, -1), (1, self.count * self.units))
        apart = bias.reshape(1, self.count, self.units)
        return jnp.pad(apart, ((0, 0), (0, 0), (0, self.wide - self.units))).reshape(1, -1)

    def mask(self, mask: jax.Array | None) -> jax.Array | None:
        """[T, B] with whole tiles, as numbers."""
        return None if mask is None else jnp.pad(mask.astype(jnp.int32), ((0, 0), (0, self.rows - self.batch)))

    def out(self, dtype: Any, count: int, steps: int | None = -1) -> tuple[jax.ShapeDtypeStruct, int]:
        """What a kernel makes, [steps, B, count U], of all steps or of so many, and its axis of rows."""
        front = () if steps is None else (self.steps if steps == -1 else steps,)
        return jax.ShapeDtypeStruct((*front, self.rows, count * self.wide), dtype), len(front)

    def cropped(self, values: jax.Array, count: int = 1) -> jax.Array:
        """[..., B, count U] without the padding."""
        if self.wide != self.units:
            apart = values.reshape(*values.shape[:-1], count, self.wide)[..., : self.units]
            values = apart.reshape(*values.shape[:-1], count * self.units)
        return values[..., : self.batch, :]

    def launch(self, kernel: Callable[..., None], given: dict[str, Any], made: dict[str, Any]) -> Any:
        """Runs a kernel on arrays, of which each program sees its rows."""
        from jax.experimental import pallas as pl
        from jax.experimental.pallas import triton

        def spec(array: Any, axis: int | None) -> Any:
            block = [self.each.rows if i == axis else n for i, n in enumerate(array.shape)]
            return pl.BlockSpec(tuple(block), lambda p: tuple(p if i == axis else 0 for i in range(array.ndim)))

        given = {name: found for name, found in given.items() if found[0] is not None}
        out_shape = {name: found[0] for name, found in made.items()}

        def body(given: Any, made: Any) -> None:
            kernel(self, given, made)

        body.__name__ = kernel.__name__.strip("_")
        return pl.pallas_call(
            body,
            out_shape=out_shape,
            grid=(self.rows // self.each.rows,),
            in_specs=[{name: spec(*found) for name, found in given.items()}],
            out_specs={name: spec(*found) for name, found in made.items()},
            compiler_params=triton.CompilerParams(num_warps=self.each.warps, num_stages=self.each.stages),
            interpret=interpreted,
        )({name: found[0] for name, found in given.items()})

    # inside a kernel

    def run(self, begin: Callable[[Any], None], step: Callable[[Any], None]) -> None:
        """Does `begin` for the units of each tile, then each step."""
        self.each_tile(lambda j: begin(self.columns(j, 1)[0]))
        self.barrier()
        jax.lax.fori_loop(np.int32(0), np.int32(self.steps), lambda t, _: step(t), None)

    def each_tile(self, do: Callable[[Any], None]) -> None:
        """Does it for each tile of units, one after the other."""
        jax.lax.fori_loop(np.int32(0), np.int32(self.wide // self.each.units), lambda j, _: do(j), None)

    def barrier(self) -> None:
        """Parts what threads of a program have written from what others will read."""
        from jax.experimental.pallas import triton

        if not interpreted:
            triton.debug_barrier()

    def columns(self, j: Any, count: int) -> tuple[Any, list[Any]]:
        """The units of a tile, and its columns of each gate."""
        from jax.experimental import pallas as pl

        size = self.each.units
        return pl.ds(j * size, size), [pl.ds(gate * self.wide + j * size, size) for gate in range(count)]

    def counts(self, given: Any, t: Any) -> jax.Array | None:
        """Which rows count at a step, [rows, units of a tile]."""
        if "mask" not in given:
            return None
        return jnp.broadcast_to((given["mask"][t, :] != 0)[:, None], (self.each.rows, self.each.units))

    def multiplied(self, sums: list[jax.Array], h: Callable, w: Any, columns: list[Any]) -> list[jax.Array]:
        """Sums plus h @ w, for a tile's columns of each gate; h(part) is h in some of its columns."""
        from jax.experimental import pallas as pl

        depth = self.each.depth

        def deeper(k: Any, sums: list[jax.Array]) -> list[jax.Array]:
            part = pl.ds(k * depth, depth)
            values = h(part).astype(self.dtype_of(w))
            return [s + self.dot(values, w[part, gate]) for s, gate in zip(sums, columns, strict=True)]

        return jax.lax.fori_loop(np.int32(0), np.int32(self.wide // depth), deeper, sums)

    def pass_back(self, dh: Any, by: Callable, dz: Callable, w: Any, j: Any) -> None:
        """dh = by + dz @ w, for a tile of units; w is the kernel transposed."""
        from jax.experimental import pallas as pl

        unit, depth = self.columns(j, 1)[0], self.each.depth

        def deeper(k: Any, total: jax.Array) -> jax.Array:
            part = pl.ds(k * depth, depth)
            return total + self.dot(dz(part).astype(self.dtype_of(w)), w[part, unit])

        count = np.int32(self.count * self.wide // depth)
        dh[:, unit] = jax.lax.fori_loop(np.int32(0), count, deeper, by(unit))

    def dot(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.dot(a, b, precision=self.precision, preferred_element_type=_wide_dtype(a))

    def dtype_of(self, ref: Any) -> Any:
        return jnp.dtype(ref.dtype)
