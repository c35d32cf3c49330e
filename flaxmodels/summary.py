"""The table of a model's layers, as text and as HTML."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import numpy as np

from flaxmodels import html
from flaxmodels.graph import snake_case
from flaxmodels.layers import symbolic
from flaxmodels.layers.base import Layer
from flaxmodels.trees import Tree

HEADER = ("layer (class)", "output", "parameters", "inputs")


class Summarized(Protocol):
    """A model that can be shown as a table; `Container` is one."""

    name: str | None

    @property
    def input_spec(self) -> Any:
        """The input as a symbol or a tree of symbols, or None if it is not known."""

    def children(self) -> Sequence[tuple[str, nn.Module]]:
        """Returns the layers inside, keyed by name."""

    def calls(self) -> "list[Call]":
        """Returns the calls of layers in order."""

    def init(self, rngs: dict[str, jax.Array], *args: object) -> object:
        """Initializes the variables."""


class Call(NamedTuple):
    """A call of a layer inside a model.

    Attributes:
        name: The name of the layer in the model.
        layer: The layer.
        outputs: The symbols of the outputs.
        sources: The names of the layers or inputs that its inputs come from.
    """

    name: str
    layer: Layer
    outputs: Tree[symbolic.Symbol]
    sources: list[str]


def as_text(model: Summarized) -> str:
    """Returns the table of a model whose input shape is known."""
    count, rows = _rows(model)
    rows = [HEADER, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [_title(model, count)]
    for a, b, c, d in rows:
        lines.append(f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d}")
    return "\n".join(lines)


def as_html(model: Summarized) -> str:
    """Returns the table for a notebook; without shapes if the input shape is not known."""
    if model.input_spec is None:
        rows = [(f"{name} ({type(layer).__name__})",) for name, layer in model.children()]
        return html.table(HEADER[:1], rows, f"{_name(model)}: input shape unknown")
    count, table = _rows(model)
    return html.table(HEADER, table, _title(model, count))


def parameter_count(tree: object) -> int:
    """Returns how many numbers a tree of arrays, or of their shapes, holds."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def _rows(model: Summarized) -> tuple[int, list[Sequence[str]]]:
    """Returns the number of parameters, and a row per call of a layer."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    variables, _ = symbolic.evaluate(lambda examples: model.init(rngs, examples), model.input_spec)
    seen: set[str] = set()
    rows: list[Sequence[str]] = []
    for name, layer, outputs, sources in model.calls():
        # The parameters of a shared layer count once.
        count = 0 if name in seen else sum(parameter_count(tree.get(name, {})) for tree in variables.values())
        seen.add(name)
        shapes = ", ".join(str(symbol.shape) for symbol in jax.tree.leaves(outputs))
        rows.append((f"{name} ({type(layer).__name__})", shapes, f"{count:,}", ", ".join(sources)))
    return parameter_count(variables), rows


def _title(model: Summarized, count: int) -> str:
    return f"{_name(model)}: {count:,} parameters"


def _name(model: Summarized) -> str:
    return model.name or snake_case(type(model).__name__)
