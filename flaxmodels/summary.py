"""The table that `model.summary()` prints."""

from typing import Any, NamedTuple

import jax
import numpy as np

from flaxmodels.graph import snake_case
from flaxmodels.layers import symbolic
from flaxmodels.layers.base import Layer


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
    outputs: Any
    sources: list[str]


def table(model: Any) -> str:
    """Returns the text of a model's `summary`; the input of the model must be known."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    variables, _ = symbolic.evaluate(lambda examples: model.init(rngs, examples), model.input_spec)
    seen: set[str] = set()
    rows = [("layer (class)", "output", "parameters", "inputs")]
    for name, layer, outputs, sources in model.calls():
        count = 0 if name in seen else sum(_size(tree.get(name, {})) for tree in variables.values())
        seen.add(name)
        shapes = ", ".join(str(symbol.shape) for symbol in jax.tree.leaves(outputs))
        rows.append((f"{name} ({type(layer).__name__})", shapes, f"{count:,}", ", ".join(sources)))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [f"{model.name or snake_case(type(model).__name__)}: {_size(variables):,} parameters"]
    for a, b, c, d in rows:
        lines.append(f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d}")
    return "\n".join(lines)


def _size(tree: Any) -> int:
    """Returns the number of values in a tree of arrays."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
