"""Tiles of the fused kernels: padding of their arrays, the launch, and the loops over tiles inside a kernel."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flaxmodels.kernels.recurrence.products import accumulation_dtype, has_exact_products, upcast

# Only for tests: run the kernels by Pallas' interpreter, on any platform.
interpreted = False

# A reference to an array in the GPU's memory, and a slice of its last axis.
Ref: TypeAlias = Any
Slice: TypeAlias = Any
Refs: TypeAlias = Mapping[str, Ref]
# An array of a kernel, or its shape, and its axis of batch rows; None if all programs see the whole array.
Operand: TypeAlias = tuple[jax.Array | None, int | None]
Output: TypeAlias = tuple[jax.ShapeDtypeStruct, int]


class Tiles(NamedTuple):
    """Tile sizes of a kernel.

    Attributes:
        rows: Rows of the batch per program. A tensor core needs at least 16.
        units: Columns of each gate that are computed at once.
        depth: Rows of the recurrent kernel that are multiplied at once.
        warps: Warps of 32 threads per program.
        stages: Depth of the software pipeline that loads the recurrent kernel.
    """

    rows: int = 16
    units: int = 64
    depth: int = 64
    warps: int = 8
    stages: int = 3


def tiles_for(units: int, dtype: DTypeLike) -> Tiles:
    """Chooses the tiles for a number of units: large enough to keep memory busy, small enough to fit on the chip."""
    most, deepest = 64, 128 // jnp.dtype(dtype).itemsize
    size = max(16, 1 << (units - 1).bit_length())
    return Tiles(units=min(most, size), depth=min(deepest, size))


def largest_array(rows: int, units: int, dtype: DTypeLike) -> int:
    """Returns the number of elements of a kernel's largest array for `rows` = T * B, without padding of the batch.

    Example:
        >>> largest_array(128 * 64, 100, "float32")
        4194304
    """
    tiles = tiles_for(units, dtype)
    return rows * 4 * (-units % max(tiles.units, tiles.depth) + units)


class Tiling:
    """Pads the arrays of a kernel to whole tiles, launches it, and loops over tiles inside it.

    Triton's blocks have sizes that are powers of two, so units and batch are padded with zeros. Units whose weights are
    all zero stay zero and do not affect other units.
    """

    def __init__(self, shape: tuple[int, ...], kernel: jax.Array, gates: int) -> None:
        self.steps, batch, _ = shape
        units, self.tiles = kernel.shape[0], tiles_for(kernel.shape[0], kernel.dtype)
        block = max(self.tiles.units, self.tiles.depth)
        self.batch, self.padded_batch = batch, -batch % self.tiles.rows + batch
        self.units, self.padded_units = units, -units % block + units
        self.gates = gates
        self.precision = jax.lax.Precision.HIGHEST if has_exact_products() else jax.lax.Precision.DEFAULT

    # --- arrays, outside a kernel

    def pad_state(self, values: jax.Array) -> jax.Array:
        """Pads [..., B, U]."""
        pads = [(0, 0)] * (values.ndim - 2)
        pads += [(0, self.padded_batch - self.batch), (0, self.padded_units - self.units)]
        return jnp.pad(values, pads) if any(high for _, high in pads) else values

    def pad_gates(self, values: jax.Array, gates: int | None = None) -> jax.Array:
        """Pads [T, B, G U], each gate separately."""
        gates = gates or self.gates
        if self.padded_units == self.units and self.padded_batch == self.batch:
            return values
        split = values.reshape(*values.shape[:-1], gates, self.units)
        rows, units = (0, self.padded_batch - self.batch), (0, self.padded_units - self.units)
        padded = jnp.pad(split, ((0, 0), rows, (0, 0), units))
        return padded.reshape(self.steps, self.padded_batch, gates * self.padded_units)

    def pad_kernel(self, kernel: jax.Array) -> jax.Array:
        """Pads [U, G U], each gate separately."""
        units = (0, self.padded_units - self.units)
        if not units[1]:
            return kernel
        split = kernel.reshape(self.units, self.gates, self.units)
        return jnp.pad(split, (units, (0, 0), units)).reshape(self.padded_units, -1)

    def pad_bias(self, bias: jax.Array | float) -> jax.Array:
        """Upcasts and pads [1, G U], each gate separately; a number applies to all columns."""
        bias = upcast(jnp.asarray(bias))
        bias = jnp.broadcast_to(bias.reshape(1, -1), (1, self.gates * self.units))
        split = bias.reshape(1, self.gates, self.units)
        return jnp.pad(split, ((0, 0), (0, 0), (0, self.padded_units - self.units))).reshape(1, -1)

    def pad_mask(self, mask: jax.Array | None) -> jax.Array | None:
        """Pads [T, B] and converts it to int32."""
        if mask is None:
            return None
        return jnp.pad(mask.astype(jnp.int32), ((0, 0), (0, self.padded_batch - self.batch)))

    def output(self, dtype: DTypeLike, gates: int, *steps: int) -> Output:
        """Returns the shape and the row axis of an output [*steps, B, G U]."""
        return jax.ShapeDtypeStruct((*steps, self.padded_batch, gates * self.padded_units), dtype), len(steps)

    def crop(self, values: jax.Array, gates: int = 1) -> jax.Array:
        """Removes the padding of [..., B, G U]."""
        if self.padded_units != self.units:
            split = values.reshape(*values.shape[:-1], gates, self.padded_units)[..., : self.units]
            values = split.reshape(*values.shape[:-1], gates * self.units)
        return values[..., : self.batch, :]

    def launch(
        self,
        kernel: Callable[["Tiling", Refs, Refs], None],
        operands: Mapping[str, Operand],
        outputs: Mapping[str, Output],
    ) -> dict[str, jax.Array]:
        """Runs a kernel once. Each program sees its own rows of the batch. Operands that are None are left out."""
        from jax.experimental import pallas as pl
        from jax.experimental.pallas import triton

        def spec(array: jax.Array | jax.ShapeDtypeStruct, axis: int | None) -> pl.BlockSpec:
            block = [self.tiles.rows if i == axis else n for i, n in enumerate(array.shape)]
            return pl.BlockSpec(tuple(block), lambda p: tuple(p if i == axis else 0 for i in range(array.ndim)))

        arrays = {name: array for name, (array, _) in operands.items() if array is not None}

        def body(ins: Refs, outs: Refs) -> None:
            kernel(self, ins, outs)

        body.__name__ = kernel.__name__.strip("_")
        return pl.pallas_call(
            body,
            out_shape={name: shape for name, (shape, _) in outputs.items()},
            grid=(self.padded_batch // self.tiles.rows,),
            in_specs=[{name: spec(array, operands[name][1]) for name, array in arrays.items()}],
            out_specs={name: spec(*output) for name, output in outputs.items()},
            compiler_params=triton.CompilerParams(num_warps=self.tiles.warps, num_stages=self.tiles.stages),
            interpret=interpreted,
        )(arrays)

    # --- loops and products, inside a kernel

    def loop_over_steps(self, start: Callable[[Slice], None], step: Callable[[jax.Array], None]) -> None:
        """Calls `start` with the units of each tile, then `step` with 0, 1, ..., T - 1."""
        self.for_each_tile(lambda j: start(self.columns(j, 1)[0]))
        self.barrier()
        jax.lax.fori_loop(np.int32(0), np.int32(self.steps), lambda t, _: step(t), None)

    def for_each_tile(self, function: Callable[[jax.Array], None]) -> None:
        """Calls a function with the number of each tile of units."""
        count = np.int32(self.padded_units // self.tiles.units)
        jax.lax.fori_loop(np.int32(0), count, lambda j, _: function(j), None)

    def barrier(self) -> None:
        """Waits until all threads of a program can see what the others have written."""
        from jax.experimental.pallas import triton

        if not interpreted:
            triton.debug_barrier()

    def columns(self, j: jax.Array, gates: int) -> tuple[Slice, list[Slice]]:
        """Returns the units of tile j, and its columns of each gate."""
        from jax.experimental import pallas as pl

        size = self.tiles.units
        return pl.ds(j * size, size), [pl.ds(gate * self.padded_units + j * size, size) for gate in range(gates)]

    def step_mask(self, ins: Refs, t: jax.Array) -> jax.Array | None:
        """Returns which rows are valid at step t, [rows, units of a tile], or None without a mask."""
        if "mask" not in ins:
            return None
        return jnp.broadcast_to((ins["mask"][t, :] != 0)[:, None], (self.tiles.rows, self.tiles.units))

    def add_product(
        self, sums: list[jax.Array], load_h: Callable[[Slice], jax.Array], w: Ref, columns: list[Slice]
    ) -> list[jax.Array]:
        """Returns sums + h @ w in the given columns of each gate; `load_h` reads some columns of h."""
        from jax.experimental import pallas as pl

        depth = self.tiles.depth

        def add_block(k: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
            part = pl.ds(k * depth, depth)
            values = load_h(part).astype(dtype_of(w))
            return [s + self._dot(values, w[part, gate]) for s, gate in zip(sums, columns, strict=True)]

        return jax.lax.fori_loop(np.int32(0), np.int32(self.padded_units // depth), add_block, sums)

    def add_product_over_gates(
        self, total: jax.Array, load_dz: Callable[[Slice], jax.Array], transposed: Ref, unit: Slice
    ) -> jax.Array:
        """Returns total + dz @ w.T in some units; `load_dz` reads some columns of dz, over all gates."""
        from jax.experimental import pallas as pl

        depth = self.tiles.depth

        def add_block(k: jax.Array, total: jax.Array) -> jax.Array:
            part = pl.ds(k * depth, depth)
            return total + self._dot(load_dz(part).astype(dtype_of(transposed)), transposed[part, unit])

        return jax.lax.fori_loop(np.int32(0), np.int32(self.gates * self.padded_units // depth), add_block, total)

    def _dot(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.dot(a, b, precision=self.precision, preferred_element_type=accumulation_dtype(a.dtype))


def dtype_of(ref: Ref) -> jnp.dtype:
    """Returns the dtype of the array behind a reference."""
    return jnp.dtype(ref.dtype)
