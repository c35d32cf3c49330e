"""Cells of many cells, and cells of any other kind."""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels.kernels import recurrence
from flaxmodels.layers.base import Layer, MultiOutputLayer
from flaxmodels.layers.cells import Cell, Steps, one_step


class StackedRNNCells(MultiOutputLayer):
    """Stacks cells into one: each takes the output of the one before.

    Args:
        cells: The cells, from the inputs up.

    Shapes: x [B, F], states: a list of each cell's -> (output of the last cell, the same states anew).

    Raises:
        ValueError: If there is no cell, or a shape is wrong.
        TypeError: If something else than a cell comes.

    References:
        Keras, `keras.layers.StackedRNNCells`.

    Example:
        >>> from flaxmodels.layers.cells import GRUCell, LSTMCell
        >>> cell, x = StackedRNNCells([LSTMCell(4), GRUCell(2)]), jnp.ones((5, 3))
        >>> variables = cell.init(jax.random.key(0), x)
        >>> output, states = cell.apply(variables, x)
        >>> output.shape, cell.state_size
        ((5, 2), [[4, 4], 2])
    """

    cells: Any

    def __post_init__(self) -> None:
        if not isinstance(self.cells, list | tuple):
            raise TypeError(
                f"`cells` of StackedRNNCells is a list of cells, got {self.cells!r}; give one such as [cell]."
            )
        object.__setattr__(self, "cells", tuple(self.cells))
        if not self.cells:
            raise ValueError("`cells` of StackedRNNCells has at least one cell, got none; give a list of cells.")
        for cell in self.cells:
            check_cell(cell)
        super().__post_init__()

    @nn.nowrap
    def children(self) -> list[tuple[str, Any]]:
        return [(f"cells_{i}", cell) for i, cell in enumerate(self.cells)]

    def steps(self, shape: tuple[int, ...], train: bool) -> Steps:
        """The functions of all cells for inputs of which one step has this shape, [B, ...]."""
        parts: list[Steps] = []
        for cell in self.cells:
            parts.append(steps_of(cell, parts[-1].shape if parts else shape, train))

        def step(x: jax.Array, states: Sequence[Any]) -> tuple[jax.Array, list[Any]]:
            new = []
            for i, (part, state) in enumerate(zip(parts, states, strict=True)):
                x, state = part.step(part.project(x) if i else x, state)
                new.append(state)
            return x, new

        def run(xs: jax.Array, states: Sequence[Any], mask: Any, unroll: bool) -> tuple[jax.Array, list[Any]]:
            # A masked step keeps every state, so one cell after the other may go through all of time.
            last = []
            for part, state in zip(parts, states, strict=True):
                xs, state = part.run(xs, state, mask, unroll)
                last.append(state)
            return xs, last

        return Steps(parts[0].project, step, run, [part.zeros for part in parts], parts[-1].shape)

    def compute(self, inputs: jax.Array, states: Any = None, *, train: bool = False) -> tuple[jax.Array, Any]:
        """Takes one step: the output, and the states in the structure they came in."""
        if inputs.ndim < 2:
            self.check_rank(inputs, "B F")
        return one_step(self, self.steps(inputs.shape, train), inputs, states)

    @property
    @nn.nowrap
    def state_size(self) -> list[Any]:
        """The size of each cell's states."""
        return [cell.state_size for cell in self.cells]

    @property
    @nn.nowrap
    def output_size(self) -> int:
        """The size of the last cell's output."""
        last = self.cells[-1]
        return getattr(last, "output_size", None) or jax.tree.leaves(last.state_size)[0]

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> list[Any]:
        """The states to begin with: a list of each cell's."""
        return [initial_states(cell, batch_size) for cell in self.cells]


def check_cell(cell: Any) -> None:
    """Raises unless a module can be taken through time."""
    if not isinstance(cell, nn.Module) or not hasattr(cell, "state_size"):
        raise TypeError(
            f"A cell is a module with a `state_size` that maps (inputs, states) to (output, states), got {cell!r} "
            f"of type {type(cell).__name__}; give an LSTMCell, a GRUCell, a SimpleRNNCell, or a module of this kind."
        )


def initial_states(cell: Any, batch_size: int) -> list[Any]:
    """The states that a cell begins with: its own `get_initial_state`, or zeros of its `state_size`."""
    if hasattr(cell, "get_initial_state"):
        states = cell.get_initial_state(batch_size=batch_size)
        return list(states) if isinstance(states, list | tuple) else [states]
    dtype = cell.compute_dtype if isinstance(cell, Layer) else jnp.float32
    sizes = cell.state_size if isinstance(cell.state_size, list | tuple) else [cell.state_size]
    return [jnp.zeros((batch_size, size), dtype) for size in sizes]


class Remembered(NamedTuple):
    """The state of a cell of any kind: its output, repeated where a step is masked, and its own states."""

    h: jax.Array
    states: Any


def steps_of(cell: Any, shape: tuple[int, ...], train: bool) -> Steps:
    """The functions of a bound cell, also of one that only maps (inputs, states) to (output, states)."""
    if isinstance(cell, Cell | StackedRNNCells):
        return cell.steps(shape, train)
    named = inspect.signature(type(cell).__call__).parameters
    flags = {"train": train} if "train" in named or isinstance(cell, Layer) else {}
    zeros = initial_states(cell, shape[0])
    # One call on the bound cell makes its parameters and adds its losses once; the loop itself has to be pure.
    example, _ = cell(jnp.zeros(shape, jax.tree.leaves(zeros)[0].dtype), zeros, **flags)
    module, variables = cell.unbind()
    rngs = {"dropout": cell.make_rng("dropout")} if cell.has_rng("dropout") else None

    def step(x: jax.Array, states: Any) -> tuple[jax.Array, Any]:
        output, new = module.apply(variables, x, states, rngs=rngs, **flags)
        return output, jax.tree.unflatten(jax.tree.structure(states), jax.tree.leaves(new))

    def run(xs: jax.Array, states: Any, mask: Any, unroll: bool) -> tuple[jax.Array, Any]:
        def advance(x: jax.Array, memory: Remembered) -> Remembered:
            return Remembered(*step(x, memory.states))

        hs, memory = recurrence.scan(advance, xs, Remembered(jnp.zeros_like(example), states), mask, unroll)
        return hs, memory.states

    return Steps(lambda x: x, step, run, zeros, example.shape)
