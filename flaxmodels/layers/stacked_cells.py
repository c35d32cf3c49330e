"""Stacked cells, and custom cells that are not a `Cell`."""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels.kernels import recurrence
from flaxmodels.layers.base import Layer, MultiOutputLayer
from flaxmodels.layers.cells import Cell, CellFunctions, States, StateSize, one_step


class StackedRNNCells(MultiOutputLayer):
    """Stacks cells into one: each cell takes the output of the previous one.

    Args:
        cells: List of cells; the first one takes the inputs.

    Shapes: x [B, F], states: a list of each cell's states -> (output of the last cell, a list of each cell's next
        states).

    Raises:
        ValueError: If the list is empty, or the inputs have a wrong shape.
        TypeError: If an element is not a cell.

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
                f"`cells` of StackedRNNCells must be a list of cells, got {self.cells!r}; give a list such as [cell]."
            )
        object.__setattr__(self, "cells", tuple(self.cells))
        if not self.cells:
            raise ValueError("`cells` of StackedRNNCells must have at least one cell, got none; give a list of cells.")
        for cell in self.cells:
            check_cell(cell)
        super().__post_init__()

    @nn.nowrap
    def children(self) -> list[tuple[str, nn.Module]]:
        """Returns the inner layers, keyed by scope name, in the order of Keras' weights."""
        return [(f"cells_{i}", cell) for i, cell in enumerate(self.cells)]

    def cell_functions(self, shape: tuple[int, ...], train: bool) -> CellFunctions:
        """Creates the weights and returns the functions of the stack for inputs [B, ...] of one step."""
        parts: list[CellFunctions] = []
        for cell in self.cells:
            parts.append(cell_functions_of(cell, parts[-1].shape if parts else shape, train))

        def step(x: jax.Array, states: Sequence[States]) -> tuple[jax.Array, list[States]]:
            new = []
            for i, (part, state) in enumerate(zip(parts, states, strict=True)):
                x, state = part.step(part.project(x) if i else x, state)
                new.append(state)
            return x, new

        def run(
            xs: jax.Array, states: Sequence[States], mask: jax.Array | None, unroll: bool
        ) -> tuple[jax.Array, list[States]]:
            # A masked step keeps all states, so each cell can process the whole sequence before the next cell starts.
            final = []
            for part, state in zip(parts, states, strict=True):
                xs, state = part.run(xs, state, mask, unroll)
                final.append(state)
            return xs, final

        return CellFunctions(parts[0].project, step, run, [part.zeros for part in parts], parts[-1].shape)

    def compute(
        self, inputs: jax.Array, states: States | None = None, *, train: bool = False
    ) -> tuple[jax.Array, States]:
        """Computes one step and returns the output and the next states, in the structure of `states`."""
        if inputs.ndim < 2:
            self.check_rank(inputs, "B F")
        return one_step(self, self.cell_functions(inputs.shape, train), inputs, states)

    @property
    @nn.nowrap
    def state_size(self) -> list[StateSize]:
        """The sizes of each cell's states."""
        return [cell.state_size for cell in self.cells]

    @property
    @nn.nowrap
    def output_size(self) -> int:
        """The size of the last cell's output."""
        last = self.cells[-1]
        return getattr(last, "output_size", None) or jax.tree.leaves(last.state_size)[0]

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> list[States]:
        """Returns the initial states: a list of each cell's states."""
        return [initial_states(cell, batch_size) for cell in self.cells]


def check_cell(cell: object) -> None:
    """Raises unless the module is a cell."""
    if not isinstance(cell, nn.Module) or not hasattr(cell, "state_size"):
        raise TypeError(
            f"A cell must be a module with a `state_size` that maps (inputs, states) to (output, states), got {cell!r} "
            f"of type {type(cell).__name__}; give an LSTMCell, a GRUCell, a SimpleRNNCell, or such a module."
        )


def initial_states(cell: nn.Module, batch_size: int) -> list[States]:
    """Returns the initial states of a cell: those of its `get_initial_state`, or zeros of its `state_size`."""
    if hasattr(cell, "get_initial_state"):
        states = cell.get_initial_state(batch_size=batch_size)
        return list(states) if isinstance(states, list | tuple) else [states]
    dtype = cell.compute_dtype if isinstance(cell, Layer) else jnp.float32
    sizes = cell.state_size if isinstance(cell.state_size, list | tuple) else [cell.state_size]
    return [jnp.zeros((batch_size, size), dtype) for size in sizes]


class OutputAndStates(NamedTuple):
    """The loop state of a custom cell.

    Attributes:
        h: The last output, which a masked step repeats.
        states: The states of the cell.
    """

    h: jax.Array
    states: States


def cell_functions_of(cell: nn.Module, shape: tuple[int, ...], train: bool) -> CellFunctions:
    """Returns the functions of a bound cell, which may be a custom module.

    Args:
        cell: The cell, bound to its variables; a custom module maps (inputs, states) to (output, states).
        shape: Shape of one step's inputs, [B, ...].
        train: Whether dropout is active.
    """
    if isinstance(cell, Cell | StackedRNNCells):
        return cell.cell_functions(shape, train)
    parameters = inspect.signature(type(cell).__call__).parameters
    flags: dict[str, Any] = {"train": train} if "train" in parameters or isinstance(cell, Layer) else {}
    zeros = initial_states(cell, shape[0])
    # The loop body must be pure. This one call of the bound cell creates its parameters and adds its losses once.
    example, _ = cell(jnp.zeros(shape, jax.tree.leaves(zeros)[0].dtype), zeros, **flags)
    module, variables = cell.unbind()
    rngs = {"dropout": cell.make_rng("dropout")} if cell.has_rng("dropout") else None

    def step(x: jax.Array, states: States) -> tuple[jax.Array, States]:
        output, new = module.apply(variables, x, states, rngs=rngs, **flags)
        return output, jax.tree.unflatten(jax.tree.structure(states), jax.tree.leaves(new))

    def run(xs: jax.Array, states: States, mask: jax.Array | None, unroll: bool) -> tuple[jax.Array, States]:
        def advance(x: jax.Array, carry: OutputAndStates) -> OutputAndStates:
            return OutputAndStates(*step(x, carry.states))

        hs, carry = recurrence.scan(advance, xs, OutputAndStates(jnp.zeros_like(example), states), mask, unroll)
        return hs, carry.states

    return CellFunctions(lambda x: x, step, run, zeros, example.shape)
