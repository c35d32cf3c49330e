"""The builds of layers written as Keras classes while the shapes of a call on symbols are inferred.

The inference calls bound clones of layers with arrays that have no values. The first call of a clone builds its
original, outside of the trace, and the clone takes over the variables and sublayers. As in Keras, the layers therefore
draw their names and seeds once, in the order of their first calls.

If a size is unknown, two inferences with different numbers in its place show where it is. A rehearsal makes these
inferences first, with builds of the clones only, so that the originals are built for shapes with None.
"""

import contextlib
import contextvars
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import numpy as np

from flaxmodels.trees import Tree

Shape: TypeAlias = tuple[int | None, ...]
# Shapes by the names of the arguments of a call.
Shapes: TypeAlias = dict[str, Tree[Shape]]


class Builds:
    """The calls of layers during the inference of one call on symbols.

    Attributes:
        is_rehearsal: Whether only clones are built.
        runs: The shapes of the inputs of each call, for each time that the inference called the outermost layer.
        known: The shapes of the inputs of each call with None for unknown sizes, if there was a rehearsal.
    """

    def __init__(self, rehearsal: "Builds | None" = None, *, is_rehearsal: bool = False):
        self.is_rehearsal = is_rehearsal
        self.runs: list[list[Shapes]] = []
        self.known = [] if rehearsal is None else rehearsal._merged_runs()

    def start(self) -> None:
        """Notes that the inference calls the outermost layer."""
        self.runs.append([])

    def note_call(self, shapes: Shapes) -> Shapes:
        """Notes a call; returns the shapes of its inputs with None for the batch and for unknown sizes."""
        run = self.runs[-1]
        run.append(shapes)
        known = self.known[len(run) - 1 : len(run)]
        return known[0] if known and known[0].keys() == shapes.keys() else merged([shapes])

    def _merged_runs(self) -> list[Shapes]:
        """Returns the shapes of each call with None for the sizes that differ between the last two runs."""
        try:
            return [merged(calls) for calls in zip(*self.runs[-2:], strict=True)]
        except ValueError:  # the layer makes other calls for other sizes
            return []


# The builds of the inference in this context, None outside of one.
BUILDS: contextvars.ContextVar[Builds | None] = contextvars.ContextVar("BUILDS", default=None)

# Makes a context that undoes what calls draw from the whole program's numbers, such as automatic names.
undoing_draws: list[Callable[[], contextlib.AbstractContextManager[None]]] = [contextlib.nullcontext]


def is_shape(value: object) -> bool:
    """Returns whether a value is a shape: a list or tuple of integers and None."""
    return isinstance(value, list | tuple) and all(n is None or _is_integer(n) for n in value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def merged(calls: Sequence[Shapes]) -> Shapes:
    """Returns shapes with None for the batch and for sizes that differ between calls."""

    def merge(*given: Shape) -> Shape:
        sizes = [n if all(n == m for m in rest) else None for n, *rest in zip(*given, strict=False)]
        return (None, *sizes[1:]) if sizes else ()

    found: Shapes = jax.tree.map(merge, *calls, is_leaf=is_shape)
    return {name: found[name] for name in calls[0]}  # in the order of the arguments; JAX sorts them
