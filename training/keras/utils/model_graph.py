"""Describes the layers of a model and their connections as boxes and edges, as DOT source, and as pictures."""

import dataclasses
import html
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias, TypeGuard

import jax
import jax.numpy as jnp

from flaxmodels.building import Model, Sequential
from flaxmodels.graph import snake_case
from flaxmodels.layers.base import Layer
from flaxmodels.layers.symbolic import Node, Symbol
from flaxmodels.ops.base import OperationCall
from flaxmodels.trees import Tree
from training.keras.utils import drawing
from training.keras.utils.drawing import Box, Edge

DIRECTIONS = ("TB", "BT", "LR", "RL")
SPLINES = ("ortho", "curved", "polyline", "spline", "line")
# The symbols of a call of a layer: its inputs, None if it has none, and its outputs.
Call: TypeAlias = tuple[Tree[Symbol] | None, Tree[Symbol]]

FORMATS = ("png", "svg", "pdf", "jpg", "jpeg", "dot")


@dataclasses.dataclass(frozen=True)
class Show:
    """What the boxes contain."""

    shapes: bool = False
    dtype: bool = False
    layer_names: bool = True
    layer_activations: bool = False
    trainable: bool = False
    expand_nested: bool = False


@dataclasses.dataclass
class Dot:
    """The graph of a model: `to_string` is DOT source, `write_png` and `write_svg` make pictures.

    Args:
        name: The name of the model.
        boxes: The layers.
        edges: The connections.
        rankdir: The direction: "TB" from top to bottom, "LR" from left to right, "BT" or "RL".
        splines: How edges are drawn.
        dpi: Dots per inch of pictures.
        subgraph: Whether the source is that of a cluster inside another graph.
    """

    name: str
    boxes: list[Box]
    edges: list[Edge]
    rankdir: str = "TB"
    splines: str = "ortho"
    dpi: int = 200
    subgraph: bool = False

    def to_string(self) -> str:
        """Returns the graph as DOT source, which Graphviz can draw."""
        lines = [f"subgraph {_quote('cluster_' + self.name)} {{" if self.subgraph else "digraph G {"]
        if self.subgraph:
            lines.append(f"  style=dashed; label={_quote(self.name)}; labeljust=l;")
        else:
            lines.append(f"  rankdir={self.rankdir}; concentrate=true; dpi={self.dpi}; splines={self.splines};")
        lines.append('  node [shape=plaintext, fontname="Helvetica", margin=0];')
        lines.extend(self._clusters((), "  "))
        lines.extend(f"  {edge.source} -> {edge.target} [penwidth=2];" for edge in self.edges)
        return "\n".join([*lines, "}", ""])

    __str__ = to_string

    def _clusters(self, path: tuple[str, ...], indent: str) -> Iterator[str]:
        """Yields the boxes of a nested model, and the models inside it."""
        done: set[str] = set()
        for box in self.boxes:
            if box.cluster == path:
                yield f"{indent}{box.key} [label=<{_table(box)}>];"
            elif box.cluster[: len(path)] == path and box.cluster[len(path)] not in done:
                inner = box.cluster[len(path)]
                done.add(inner)
                yield f"{indent}subgraph {_quote('cluster_' + '/'.join((*path, inner)))} {{"
                yield f"{indent}  style=dashed; label={_quote(inner)}; labeljust=l;"
                yield from self._clusters((*path, inner), f"{indent}  ")
                yield f"{indent}}}"

    def write(self, path: str | os.PathLike[str], format: str | None = None) -> None:  # noqa: A002 - pydot's name
        """Writes a picture, or the source.

        Args:
            path: The name of the file.
            format: "png", "svg", "pdf", "jpg" or "dot"; by default the suffix of the name, or "png" without one.

        Raises:
            ValueError: If the format is unknown.
            ModuleNotFoundError: If matplotlib is not installed, which draws pictures.
        """
        kind = (format or Path(path).suffix[1:] or "png").lower()
        if kind not in FORMATS:
            raise ValueError(f"The format must be one of {', '.join(FORMATS)}, got {kind!r}; use 'png'.")
        if kind == "dot":
            Path(path).write_text(self.to_string(), encoding="utf-8")
            return
        Path(path).write_bytes(self._picture(kind))

    def write_png(self, path: str | os.PathLike[str]) -> None:
        """Writes a picture in the PNG format."""
        self.write(path, "png")

    def write_svg(self, path: str | os.PathLike[str]) -> None:
        """Writes a picture in the SVG format."""
        self.write(path, "svg")

    def _picture(self, kind: str) -> bytes:
        return drawing.draw(self.boxes, self.edges, self.rankdir, self.splines, self.dpi, kind)

    def _repr_svg_(self) -> str:
        return self._picture("svg").decode()


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _table(box: Box) -> str:
    """Returns the label of a box in DOT's HTML: a dark row with the title, and a row for each list of cells."""
    columns = max([len(row) for row in box.rows], default=1)
    title = f'<font color="white"><b>{html.escape(box.title)}</b></font>'
    rows = [f'<tr><td colspan="{columns}" bgcolor="black">{title}</td></tr>']
    for row in box.rows:
        span = f' colspan="{columns}"' if len(row) == 1 and columns > 1 else ""
        cells = (f'<td{span} bgcolor="{cell.color}">{html.escape(cell.text)}</td>' for cell in row)
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table border="0" cellborder="1" cellspacing="0" cellpadding="8">{"".join(rows)}</table>'


# ---------------------------------------------------------------- boxes and edges of a model


class _Builder:
    """Collects the boxes and edges of a model and of the models inside it."""

    def __init__(self, show: Show):
        self.show = show
        self.boxes: list[Box] = []
        self.edges: dict[Edge, None] = {}

    def box(self, layer: Layer | str, name: str, cluster: tuple[str, ...], calls: list[Call]) -> str:
        """Adds a layer with the symbols of its calls and returns the key of its box."""
        key = f"n{len(self.boxes)}"
        self.boxes.append(Box(key, _title(layer, name, self.show), _rows(layer, calls, self.show), cluster))
        return key

    def connect(self, source: str, target: str) -> None:
        """Adds an edge, once."""
        self.edges[Edge(source, target)] = None

    def model(self, model: Model | Sequential, cluster: tuple[str, ...]) -> tuple[list[list[str]], list[str]]:
        """Adds the layers of a model.

        Returns:
            For each input the boxes that read it, and for each output the box that computes it.
        """
        if isinstance(model, Sequential):
            return self._sequential(model, cluster)
        return self._functional(model, cluster)

    def _layer(
        self, layer: Layer | str, name: str, cluster: tuple[str, ...], calls: list[Call]
    ) -> tuple[list[list[str]] | str, list[str] | str]:
        """Adds a layer, or the layers of a nested model; a plain layer has one box for all inputs and outputs."""
        if self.show.expand_nested and _is_expandable(layer):
            return self.model(layer, (*cluster, name))
        key = self.box(layer, name, cluster, calls)
        return key, key

    def _sequential(self, model: Sequential, cluster: tuple[str, ...]) -> tuple[list[list[str]], list[str]]:
        source: Tree[Symbol] | None = model.layers.source
        previous: list[str] = []  # the box of the last layer so far
        entries: list[list[str]] = []
        for call in model.calls():
            begins, ends = self._layer(call.layer, call.name, cluster, [(source, call.outputs)])
            targets = _first(begins)
            if not previous:
                entries = [targets]
            else:
                for target in targets:
                    self.connect(previous[0], target)
            previous = [ends] if isinstance(ends, str) else ends[:1]
            source = call.outputs
        return entries, previous

    def _functional(self, model: Model, cluster: tuple[str, ...]) -> tuple[list[list[str]], list[str]]:
        graph = model.graph
        made_by: dict[int, str] = {}
        inputs = jax.tree.leaves(graph.inputs)
        for i, symbol in enumerate(inputs):
            name = symbol.layer_name or symbol.name or ("input_layer" if len(inputs) == 1 else f"input_layer_{i}")
            made_by[id(symbol)] = self.box("InputLayer", name, cluster, [(None, symbol)])
        entries = [[made_by[id(symbol)]] for symbol in inputs]
        placed: dict[int, tuple[list[list[str]] | str, list[str] | str]] = {}
        for node in graph.nodes:
            layer = node.layer
            if id(layer) not in placed:
                calls: list[Call] = [(_inputs_of(n), n.outputs) for n in graph.nodes if n.layer is layer]
                placed[id(layer)] = self._layer(layer, graph.names[id(layer)], cluster, calls)
            begins, ends = placed[id(layer)]
            for i, symbol in enumerate(node.symbols()):
                for target in _first(begins, i):
                    self.connect(made_by[id(symbol)], target)
            for i, symbol in enumerate(jax.tree.leaves(node.outputs)):
                made_by[id(symbol)] = ends if isinstance(ends, str) else ends[i]
        return entries, [made_by[id(symbol)] for symbol in jax.tree.leaves(graph.outputs)]


def _first(begins: list[list[str]] | str, index: int = 0) -> list[str]:
    return [begins] if isinstance(begins, str) else begins[min(index, len(begins) - 1)]


def _is_expandable(layer: Layer | str) -> TypeGuard[Model | Sequential]:
    if isinstance(layer, Sequential):
        return layer.layers.source is not None and len(layer.layers) > 0
    return isinstance(layer, Model) and layer.graph is not None


def _inputs_of(node: Node) -> Tree[Symbol]:
    symbols = node.symbols()
    return symbols[0] if len(symbols) == 1 else symbols


def _title(layer: Layer | str, name: str, show: Show) -> str:
    kind = layer if isinstance(layer, str) else layer.operation if isinstance(layer, OperationCall) else None
    kind = kind or type(layer).__name__
    return f"{name} ({kind})" if show.layer_names else kind


def _rows(layer: Layer | str, calls: list[Call], show: Show) -> list[list[drawing.Cell]]:
    rows = []
    activation = getattr(layer, "activation", None)
    if show.layer_activations and activation is not None:
        word = activation if isinstance(activation, str) else getattr(activation, "__name__", type(activation).__name__)
        rows.append([drawing.Cell(f"Activation: {word}")])
    cells = []
    if show.shapes:
        if not isinstance(layer, str):
            cells.append(drawing.Cell(f"Input shape: {_same([_shape(given) for given, _ in calls])}"))
        cells.append(drawing.Cell(f"Output shape: {_same([_shape(made) for _, made in calls])}"))
    if show.dtype:
        cells.append(drawing.Cell(f"Output dtype: {_same([_dtype(made) for _, made in calls])}"))
    if show.trainable and isinstance(layer, Layer) and _has_weights(layer):
        trainable = bool(layer.trainable)
        cells.append(
            drawing.Cell("Trainable", "palegreen") if trainable else drawing.Cell("Non-trainable", "lightsalmon")
        )
    return [*rows, cells] if cells else rows


def _has_weights(layer: Layer) -> bool:
    weights = getattr(layer, "weights", None)
    return bool(type(layer).WEIGHTS or layer.children()) if weights is None else len(weights) > 0


def _same(texts: list[str]) -> str:
    """Returns the text that all calls share, or a question mark."""
    return texts[0] if len(set(texts)) == 1 else "?"


def _shape(symbols: Tree[Symbol] | None) -> str:
    return _text(symbols, lambda symbol: str(symbol.shape))


def _dtype(symbols: Tree[Symbol] | None) -> str:
    return _text(symbols, lambda symbol: jnp.dtype(symbol.dtype).name)


def _text(symbols: Tree[Symbol] | None, describe: Callable[[Symbol], str]) -> str:
    leaves = [leaf for leaf in jax.tree.leaves(symbols) if isinstance(leaf, Symbol)]
    return ", ".join(map(describe, leaves)) or "?"


# ---------------------------------------------------------------- Keras' functions


def model_to_dot(
    model: Layer,
    show_shapes: bool = False,
    show_dtype: bool = False,
    show_layer_names: bool = True,
    rankdir: str = "TB",
    expand_nested: bool = False,
    dpi: int = 200,
    subgraph: bool = False,
    show_layer_activations: bool = False,
    show_trainable: bool = False,
    splines: str = "ortho",
) -> Dot:
    """Returns the graph of a model, whose text is DOT source; it needs neither pydot nor Graphviz.

    Args:
        model: A model whose input is known. A model of the user's class is one box.
        show_shapes: Whether to show the shapes of inputs and outputs.
        show_dtype: Whether to show the dtypes of outputs.
        show_layer_names: Whether to show the names of layers beside their classes.
        rankdir: The direction: "TB" from top to bottom, "LR" from left to right, "BT" or "RL".
        expand_nested: Whether to show the layers of nested models.
        dpi: Dots per inch of pictures.
        subgraph: Whether the source is that of a cluster inside another graph.
        show_layer_activations: Whether to show the activations of layers.
        show_trainable: Whether to show which layers with weights are trainable.
        splines: "ortho", "curved", "polyline", "spline" or "line".

    Raises:
        ValueError: If the model is not built, or an option is unknown.

    References:
        Keras, `keras.utils.model_to_dot`.

    Example:
        >>> from flaxmodels import Input, Sequential, layers
        >>> dot = model_to_dot(Sequential([Input((4,)), layers.Dense(3), layers.Dense(2)]))
        >>> [box.title for box in dot.boxes]
        ['dense (Dense)', 'dense_1 (Dense)']
        >>> "n0 -> n1" in dot.to_string()
        True
    """
    for name, value, known in (("rankdir", rankdir, DIRECTIONS), ("splines", splines, SPLINES)):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {', '.join(map(repr, known))}, got {value!r}; choose one.")
    name = model.name or snake_case(type(model).__name__)
    is_graph = isinstance(model, Sequential) or (isinstance(model, Model) and model.graph is not None)
    if model.symbols()[0] is None if is_graph else not getattr(model, "built", True):
        raise ValueError(f"{name} is not built, so its graph is not known; call build, or the model on data, first.")
    show = Show(show_shapes, show_dtype, show_layer_names, show_layer_activations, show_trainable, expand_nested)
    builder = _Builder(show)
    if isinstance(model, Sequential | Model) and is_graph and model.calls():
        builder.model(model, ())
    else:
        builder.box(model, name, (), [])
    return Dot(name, builder.boxes, list(builder.edges), rankdir, splines, dpi, subgraph)


def plot_model(
    model: Layer,
    to_file: str | os.PathLike[str] = "model.png",
    show_shapes: bool = False,
    show_dtype: bool = False,
    show_layer_names: bool = False,
    rankdir: str = "TB",
    expand_nested: bool = False,
    dpi: int = 200,
    show_layer_activations: bool = False,
    show_trainable: bool = False,
    splines: str = "ortho",
) -> object:
    """Writes a picture of the graph of a model; matplotlib draws it.

    Args:
        model: A model whose input is known.
        to_file: The name of the file: `.png`, `.svg`, `.pdf`, `.jpg`, or `.dot` for the source.
        show_shapes: See `model_to_dot`.
        show_dtype: See `model_to_dot`.
        show_layer_names: See `model_to_dot`.
        rankdir: See `model_to_dot`.
        expand_nested: See `model_to_dot`.
        dpi: See `model_to_dot`.
        show_layer_activations: See `model_to_dot`.
        show_trainable: See `model_to_dot`.
        splines: See `model_to_dot`.

    Returns:
        In IPython an image that notebooks show, otherwise None.

    Raises:
        ValueError: If the model is not built, or an option is unknown.
        ModuleNotFoundError: If matplotlib is not installed.

    References:
        Keras, `keras.utils.plot_model`.
    """
    dot = model_to_dot(
        model, show_shapes=show_shapes, show_dtype=show_dtype, show_layer_names=show_layer_names, rankdir=rankdir,
        expand_nested=expand_nested, dpi=dpi, show_layer_activations=show_layer_activations,
        show_trainable=show_trainable, splines=splines,
    )  # fmt: skip
    dot.write(to_file)
    kind = Path(to_file).suffix.lower()
    if "IPython" not in sys.modules or kind in (".pdf", ".dot"):
        return None
    from IPython import display

    return display.SVG(filename=str(to_file)) if kind == ".svg" else display.Image(filename=str(to_file))
