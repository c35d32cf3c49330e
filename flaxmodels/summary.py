"""The table of a model's layers, as text and as HTML."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

import flax.linen as nn
import jax
import numpy as np

from flaxmodels import html
from flaxmodels.graph import snake_case
from flaxmodels.layers import symbolic
from flaxmodels.layers.base import Layer
from flaxmodels.layers.checks import is_integer
from flaxmodels.trees import Tree

HEADER = ("layer (class)", "output", "parameters", "inputs")
PARAMETERS = 2  # the column of numbers
GAP = "  "
MIN_WIDTH = 4


class Summarized(Protocol):
    """A model that can be shown as a table; `Container` is one."""

    name: str | None
    trainable: bool

    @property
    def input_spec(self) -> Any:
        """The input as a symbol or a tree of symbols, or None if it is not known."""

    def children(self) -> Sequence[tuple[str, nn.Module]]:
        """Returns the layers inside, keyed by name, without operations."""

    def calls(self) -> "list[Call]":
        """Returns the calls of layers in order."""

    def init(self, rngs: dict[str, jax.Array], *args: object) -> object:
        """Initializes the variables."""


class Call(NamedTuple):
    """A call of a layer or operation inside a model.

    Attributes:
        name: The name of the layer or operation in the model.
        layer: The layer; for an operation, an `OperationCall`.
        outputs: The symbols of the outputs.
        sources: The names of the layers or inputs that its inputs come from.
    """

    name: str
    layer: Layer
    outputs: Tree[symbolic.Symbol]
    sources: list[str]


class Options(NamedTuple):
    """What a table shows, and its width.

    Attributes:
        line_length: The greatest number of characters of a line; None for no limit.
        positions: Where each column ends, in characters or as shares of `line_length`; None to fit the content.
        expand_nested: Whether the layers inside nested models have rows.
        show_trainable: Whether a column says if the layer is trained.
    """

    line_length: int | None = None
    positions: Sequence[float] | None = None
    expand_nested: bool = False
    show_trainable: bool = False


DEFAULT = Options()


def as_text(model: Summarized, options: Options = DEFAULT) -> str:
    """Returns the table of a model whose input shape is known.

    Raises:
        ValueError: If the columns do not fit `line_length` or `positions`.
    """
    count, rows = _rows(model, options)
    rows = [_header(options), *rows]
    columns = range(len(rows[0]))
    natural = [max(len(row[i]) for row in rows) for i in columns]
    widths = _widths(natural, options)
    lines = [_title(model, count)]
    for row in rows:
        cells = [textwrap.wrap(text, width, subsequent_indent=" " * (len(text) - len(text.lstrip())))
                 if len(text) > width else [text] for text, width in zip(row, widths, strict=True)]  # fmt: skip
        for k in range(max(map(len, cells))):
            parts = [cell[k] if k < len(cell) else "" for cell in cells]
            aligned = [f"{parts[i]:{'>' if i == PARAMETERS else '<'}{widths[i]}}" for i in columns]
            lines.append(GAP.join(aligned).rstrip())
    return "\n".join(lines)


def _header(options: Options) -> Sequence[str]:
    return (*HEADER, "trainable") if options.show_trainable else HEADER


def _widths(natural: list[int], options: Options) -> list[int]:
    """Returns the widths of the columns, given the widths that need no line breaks."""
    length, positions = options.line_length, options.positions
    if length is not None and (not is_integer(length) or length < 1):
        raise ValueError(f"`line_length` must be a positive integer or None, got {length!r}; give a number such as 80.")
    if positions is not None:
        given = [float(position) for position in positions]
        if len(given) != len(natural):
            raise ValueError(
                f"`positions` must have one number for each of the {len(natural)} columns, got {list(positions)}; give "
                "the end of each column."
            )
        total = sum(natural) + len(GAP) * (len(natural) - 1) if length is None else length
        ends = [int(total * position) for position in given] if given[-1] <= 1 else list(map(int, given))
        widths = [end - start for start, end in zip([-len(GAP), *ends], ends, strict=False)]
        widths = [width - len(GAP) for width in widths]
    else:
        widths = list(natural)
        excess = 0 if length is None else sum(widths) + len(GAP) * (len(widths) - 1) - length
        for _ in range(excess):
            widths[widths.index(max(widths))] -= 1
    if min(widths) < MIN_WIDTH:
        raise ValueError(
            f"Each column of a summary needs at least {MIN_WIDTH} characters, got {min(widths)} with "
            f"line_length={length!r} and positions={None if positions is None else list(positions)}; give more room."
        )
    return widths


def as_html(model: Summarized) -> str:
    """Returns the table for a notebook; without shapes if the input shape is not known."""
    if model.input_spec is None:
        rows = [(f"{name} ({layer.class_name})",) for name, layer in model.children()]
        return html.table(HEADER[:1], rows, f"{_name(model)}: input shape unknown")
    count, table = _rows(model, DEFAULT)
    return html.table(HEADER, table, _title(model, count))


def parameter_count(tree: object) -> int:
    """Returns how many numbers a tree of arrays, or of their shapes, holds."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def _rows(model: Summarized, options: Options) -> tuple[int, list[Sequence[str]]]:
    """Returns the number of parameters, and a row per call of a layer or operation."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    variables, _ = symbolic.evaluate(lambda examples: model.init(rngs, examples), model.input_spec)
    trees = list(variables.values())
    return parameter_count(variables), list(_rows_inside(model, trees, options, "", model.trainable))


def _rows_inside(
    model: Summarized, trees: list[Any], options: Options, indent: str, trainable: bool
) -> Iterator[Sequence[str]]:
    """Yields the rows of a model, given the parts of the variables that belong to it."""
    seen: set[str] = set()
    for name, layer, outputs, sources in model.calls():
        # The parameters of a shared layer count once.
        inside = [tree[name] for tree in trees if name in tree]
        count = 0 if name in seen else parameter_count(inside)
        trained = trainable and layer.trainable
        shapes = ", ".join(str(symbol.shape) for symbol in jax.tree.leaves(outputs))
        row = (f"{indent}{name} ({layer.class_name})", shapes, f"{count:,}", ", ".join(sources))
        yield (*row, ("yes" if trained else "no") if inside else "-") if options.show_trainable else row
        if options.expand_nested and name not in seen and layer.inner_outputs() is not None:
            yield from _rows_inside(cast(Summarized, layer), inside, options, f"{indent}  ", trained)
        seen.add(name)


def _title(model: Summarized, count: int) -> str:
    return f"{_name(model)}: {count:,} parameters"


def _name(model: Summarized) -> str:
    return model.name or snake_case(type(model).__name__)
