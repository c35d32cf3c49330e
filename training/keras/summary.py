"""The table that `model.summary()` prints, in the layout of Keras."""

import math
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import numpy as np
from flax.linen import module as linen_module

from flaxmodels import building, layers
from flaxmodels.layers import symbolic
from flaxmodels.layers.symbolic import Node, Symbol
from flaxmodels.ops.base import OperationCall
from flaxmodels.trees import Tree
from training.keras import held_values
from training.keras.inputs import InputLayer, layer_of

if TYPE_CHECKING:
    from training.keras.compiled import CompiledModel
    from training.keras.stateful import Stateful
    from training.keras.variables import Weight

# Layers that Keras marks as built when they are made. It knows no output shape of them unless symbols reach them.
BUILT_WHEN_MADE = (
    layers.Activation, layers.ActivityRegularization, layers.AlphaDropout, layers.AveragePooling1D,
    layers.AveragePooling2D, layers.AveragePooling3D, layers.Dropout, layers.ELU, layers.GaussianDropout,
    layers.GaussianNoise, layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D, layers.Identity,
    layers.LeakyReLU, layers.Masking, layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D, layers.ReLU,
    layers.Reshape, layers.Softmax, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D,
    layers.UnitNormalization,
)  # fmt: skip
UNKNOWN = "?"
UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
MIN_WIDTH = 4


class Options(NamedTuple):
    """What the table shows.

    Attributes:
        line_length: The width of the table; None for that of the terminal, up to a limit.
        positions: Where each column ends, as shares of the width; None for the usual places.
        expand_nested: Whether the layers inside nested models have rows.
        show_trainable: Whether a column says if the layer is trained.
        layer_range: Regular expressions for the names of the first and the last layer; None for all layers.
    """

    line_length: int | None = None
    positions: Sequence[float] | None = None
    expand_nested: bool = False
    show_trainable: bool = False
    layer_range: Sequence[str] | None = None


class Column(NamedTuple):
    """A column of the table: its header, alignment ("<", ">" or "^") and width."""

    header: str
    alignment: str
    width: int


# A layer in the table: one with weights, an operation, or an input.
Row: TypeAlias = "Stateful | OperationCall | InputLayer"


def as_text(model: "CompiledModel", options: Options) -> str:
    """Returns the name of a model, the table of its layers and the numbers of its weights.

    Raises:
        ValueError: If the columns do not fit the line, or no layers have the names of `layer_range`.
    """
    graph = getattr(model, "graph", None)
    found = (
        model.layers
        if graph is None
        else [layer_of(x) if isinstance(x, Symbol) else x for x in graph.in_order(model.own_dtype)]
    )
    found = list(found)
    table = _Table(model, options)
    columns = _columns(not table.is_chain, options)
    first, last = _range(found, table.name_of, options.layer_range)
    rows = [row for layer in found[first:last] for row in table.rows(layer, table.shapes, 0)]
    lines = [f'Model: "{model.name}"', *_drawn(columns, rows), *_totals(model)]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- layers


class _Table:
    """Describes the layers of a model by cells of text."""

    def __init__(self, model: "CompiledModel", options: Options):
        self.model, self.options = model, options
        self.graph: Any = getattr(model, "graph", None)  # None for a stack or a class of the user
        self.is_chain = self.graph is None or _is_chain(self.graph)
        self.shapes = _shapes_inside(model)

    def name_of(self, layer: Row) -> str:
        """Returns the name of a layer in the model."""
        return self.graph.names[id(layer)] if isinstance(layer, OperationCall) else str(layer.name)

    def rows(self, layer: Row, shapes: "_Shapes", depth: int) -> Iterator[list[str]]:
        """Yields the cells of a layer, and those of the layers inside a nested model.

        Args:
            layer: The layer.
            shapes: The output shapes of the layers around it.
            depth: How many models of the table are around it.
        """
        prefix = f"{'   ' * depth}└ " if depth else ""
        weights: list[Weight] = [] if isinstance(layer, OperationCall) else layer.weights
        cells = [f"{prefix}{self.name_of(layer)} ({class_name(layer)})", shapes.of(layer), shapes.count(layer, weights)]
        if not self.is_chain:
            cells.append(_connections(layer, self.graph) or "-")
        if self.options.show_trainable:
            cells.append("-" if not weights else "Y" if layer.trainable else "N")
        yield cells
        if self.options.expand_nested and isinstance(layer, building.Container):
            inside = _shapes_inside(layer, shapes)  # type: ignore[arg-type]
            for child in layer.layers:
                yield from self.rows(child, inside, depth + 1)


def class_name(layer: Row) -> str:
    """Returns Keras' name of the class of a layer, an operation or a model."""
    if isinstance(layer, OperationCall):
        return layer.class_name
    is_functional = getattr(layer, "graph", None) is not None and "adds_state_to" in vars(type(layer))
    return "Functional" if is_functional else type(layer).__name__


class _Shapes:
    """The output shapes of the layers inside one model.

    Args:
        known: Shapes by the `id` of a layer; those of symbols if there are symbols.
        called: The ids of the layers that were called.
        has_symbols: Whether the layers were called on symbols.
    """

    def __init__(self, known: dict[int, Tree[Symbol]], called: set[int], has_symbols: bool):
        self.known, self.called, self.has_symbols = known, called, has_symbols

    def of(self, layer: Row) -> str:
        """Returns the output shape as text."""
        if isinstance(layer, InputLayer):
            return str(layer.batch_shape)
        tree = self.known.get(id(layer))
        is_hidden = isinstance(layer, BUILT_WHEN_MADE) or layer.BINDS_ATTRIBUTES and not _shows_shape(layer)
        if tree is None or (is_hidden and not self.has_symbols):
            return UNKNOWN
        leaves = [symbol.shape for symbol in jax.tree.leaves(tree)]
        if len(leaves) == 1:
            return str(leaves[0])
        # Keras flattens the outputs of calls on symbols.
        shapes = leaves if self.has_symbols else jax.tree.map(lambda symbol: symbol.shape, tree)
        return str(shapes).replace("'", "")

    def count(self, layer: Row, weights: Sequence["Weight"]) -> str:
        """Returns the number of weights as text."""
        is_made = isinstance(layer, (OperationCall, InputLayer, *BUILT_WHEN_MADE))
        if not is_made and id(layer) not in self.called and not weights:
            return "0 (unbuilt)"
        return f"{sum(weight.size for weight in weights):,}"


def _shows_shape(layer: "Stateful | OperationCall") -> bool:
    """Returns whether a class of the user computes its output shape itself."""
    return "compute_output_shape" in {name for cls in type(layer).__mro__ if not _is_own(cls) for name in vars(cls)}


def _is_own(cls: type) -> bool:
    return cls.__module__.split(".")[0] in ("flaxmodels", "training", "flax", "builtins")


def _shapes_inside(model: "CompiledModel", around: _Shapes | None = None) -> _Shapes:
    """Returns the output shapes of the layers of a model: those of its symbols, or those of its first call.

    Args:
        model: The model.
        around: The shapes of the model around it, which hold those of this model's layers, too.
    """
    if getattr(model, "graph", None) is not None:
        known = {id(layer): vars(layer)["_nodes"][-1].outputs for layer in model.graph.operations_in(None)}
        return _Shapes(known, set(known), True)
    is_stack = isinstance(model, building.Sequential)
    if around is not None and not around.has_symbols:
        return _Shapes(around.known, around.called, is_stack and id(model) in around.called)
    if is_stack and model.layers.source is not None:
        outputs = model.layers.outputs
        size = vars(model).get("_batch_size")
        known = {id(layer): jax.tree.map(lambda x: _with_batch(x, size), out)
                 for layer, out in zip(model.layers, outputs, strict=True)}  # fmt: skip
        return _Shapes(known, set(known), True)
    traced = _traced(model)
    return _Shapes(traced, set(traced), False)


def _with_batch(symbol: Symbol, size: int | None) -> Symbol:
    """Returns a symbol with a known batch size, which Keras shows for models that data has built."""
    return symbol if size is None or symbol.shape[:1] != (None,) else Symbol((size, *symbol.shape[1:]), symbol.dtype)


def _traced(model: "CompiledModel") -> dict[int, Tree[Symbol]]:
    """Returns the outputs of the layers inside a class of the user in its first call, by the `id` of each layer."""
    call = vars(model).get("_first_call")
    if call is None or not held_values.has_values(model):
        return {}
    owners = {scope: id(layer) for scope, layer in held_values.scopes_of(model)}
    values = held_values.gather(model)
    leaves, treedef = jax.tree.flatten(call)
    where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Symbol)]
    found: dict[str, Tree[jax.Array]] = {}

    def note(
        method: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object],
        context: linen_module.InterceptorContext,
    ) -> object:  # fmt: skip
        result = method(*args, **kwargs)
        scope, path = context.module.scope, context.module.path
        if context.method_name == "outputs_and_mask" and scope is not None and path in owners:
            outputs: Any = result[0] if isinstance(result, tuple) else result
            found.setdefault(str(owners[path]), outputs)
        return result

    def run(arrays: list[jax.Array]) -> dict[str, Tree[jax.Array]]:
        filled = list(leaves)
        for i, array in zip(where, arrays, strict=True):
            filled[i] = array
        args, kwargs = jax.tree.unflatten(treedef, filled)
        found.clear()
        with nn.intercept_methods(note):
            model.apply(values, *args, **kwargs, mutable=["losses"])
        return dict(found)

    first, second = symbolic.evaluate(run, [leaves[i] for i in where])

    def symbol(a: jax.ShapeDtypeStruct, b: jax.ShapeDtypeStruct) -> Symbol:
        sizes = [n if n == m else None for n, m in zip(a.shape, b.shape, strict=True)]
        if sizes and sizes[0] == symbolic.BATCH:
            sizes[0] = None
        return Symbol(tuple(sizes), a.dtype)

    return {int(key): jax.tree.map(symbol, first[key], second[key]) for key in first}


# ---------------------------------------------------------------- the graph


def _is_chain(graph: building.Graph) -> bool:
    """Returns whether each layer has one input, its output has one reader, and no layer is called twice."""
    inputs = jax.tree.leaves(graph.inputs)
    read = [id(symbol) for node in graph.nodes for symbol in node.symbols()]
    calls = [id(node.layer) for node in graph.nodes]
    return (
        len(inputs) == 1
        and all(len(node.symbols()) == 1 for node in graph.nodes)
        and len(set(read)) == len(read)
        and len(set(calls)) == len(calls)
    )


def _connections(layer: Row, graph: building.Graph) -> str:
    """Returns the outputs that a layer takes: for each, the name of its layer, and the indices of call and output."""
    symbols = [symbol for node in graph.nodes if node.layer is layer for symbol in node.symbols()]
    return ", ".join(_place(symbol, graph) for symbol in symbols)


def _place(symbol: Symbol, graph: building.Graph) -> str:
    node: Node | None = symbol.node
    if node is None or symbol in jax.tree.leaves(graph.inputs):
        return f"{layer_of(symbol).name}[0][0]"
    call = [id(known) for known in vars(node.layer)["_nodes"]].index(id(node))
    output = [id(leaf) for leaf in jax.tree.leaves(node.outputs)].index(id(symbol))
    return f"{graph.names[id(node.layer)]}[{call}][{output}]"


def _range(found: Sequence[Row], name_of: Callable[[Row], str], wanted: Sequence[str] | None) -> tuple[int, int]:
    """Returns the positions of the first and after the last layer of a range."""
    if wanted is None:
        return 0, len(found)
    if len(wanted) != 2 or not all(isinstance(name, str) for name in wanted):
        raise ValueError(
            f"`layer_range` must hold the names of the first and the last layer, got {wanted!r}; give two strings."
        )
    first, last = ([i for i, layer in enumerate(found) if re.match(name, name_of(layer))] for name in wanted)
    if not first or not last:
        raise ValueError(
            f"`layer_range` must hold names of layers, or regular expressions for them, got {list(wanted)} with the "
            f"layers {[name_of(layer) for layer in found]}; give two of these names."
        )
    return (min(first), max(last) + 1) if min(first) <= max(last) else (min(last), max(first) + 1)


# ---------------------------------------------------------------- numbers of weights


def _totals(model: "CompiledModel") -> list[str]:
    """Returns the lines with the numbers of weights and the memory that they take."""
    trained, fixed = (
        (sum(weight.size for weight in weights), sum(weight.value.nbytes for weight in weights))
        for weights in (model.trainable_weights, model.non_trainable_weights)
    )
    optimizer = _optimizer_size(model)
    parts = [trained, fixed, *([] if optimizer is None else [optimizer])]
    total = (sum(count for count, _ in parts), sum(size for _, size in parts))
    names = ("Trainable", "Non-trainable", "Optimizer")
    return [
        f" {name} params: {count:,} ({readable_size(size)})"
        for name, (count, size) in zip(("Total", *names), [total, *parts], strict=False)
    ]


def _optimizer_size(model: "CompiledModel") -> tuple[int, int] | None:
    """Returns how many numbers and bytes the optimizer holds; None before the first step."""
    optimizer = vars(model)["optimizer"]
    if not model.compiled or optimizer is None or not optimizer.built:
        return None
    values = [np.asarray(variable.value) for variable in optimizer.variables]
    return sum(value.size for value in values), sum(value.nbytes for value in values)


def readable_size(size: float) -> str:
    """Returns a number of bytes as text.

    Example:
        >>> readable_size(2048)
        '2.00 KB'
    """
    unit = 0
    while size >= 1024 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.2f} {UNITS[unit]}"


# ---------------------------------------------------------------- drawing


def _columns(has_connections: bool, options: Options) -> list[Column]:
    """Returns the columns, whose widths fill the line."""
    headers, alignments = ["Layer (type)", "Output Shape", "Param #"], ["<", "<", ">"]
    ends, limit = [0.45, 0.8, 1.0], 88
    if has_connections:
        headers, alignments, ends, limit = [*headers, "Connected to"], [*alignments, "<"], [0.3, 0.56, 0.74, 1.0], 108
    ends = list(options.positions or ends)
    if options.show_trainable:
        headers, alignments, limit = [*headers, "Trainable"], [*alignments, "^"], limit + 12
        ends = [*(0.9 * end for end in ends), 1.0]
    if len(ends) != len(headers):
        raise ValueError(
            f"`positions` must have one number for each of the {len(headers) - options.show_trainable} columns, got "
            f"{list(options.positions or ())}; give the end of each column as a share of the line."
        )
    length = options.line_length or min(limit, shutil.get_terminal_size().columns - 4)
    places = [0, *(int(end * length) for end in ends)]
    widths = [end - start for start, end in zip(places, places[1:], strict=False)]
    if min(widths) < MIN_WIDTH:
        raise ValueError(
            f"Each column of a summary needs at least {MIN_WIDTH} characters, got {min(widths)} with a line of "
            f"{length} and ends at {ends}; give a greater `line_length` or other `positions`."
        )
    fitted = _fitted([width + 2 for width in widths], length - len(widths) - 1)
    return [Column(*parts) for parts in zip(headers, alignments, [width - 2 for width in fitted], strict=True)]


def _fitted(widths: list[int], total: int) -> list[int]:
    """Returns the widths with equal parts taken away, or proportional ones added, so that their sum is the total."""
    fitted: list[int] = []
    open_width = sum(widths)
    for i, width in enumerate(widths):
        rest = total - sum(fitted)
        if sum(widths) > total:
            excess = sum(widths[i:]) - rest
            fitted.append(width - min(width, round(excess / (len(widths) - i))))
        else:
            fitted.append(width + math.ceil(width * (rest - sum(widths[i:])) / open_width))
            open_width -= width
    return fitted


def _wrapped(text: str, width: int) -> list[str]:
    """Returns the lines of a cell, broken between words; a word that is too long ends in an ellipsis."""
    lines = [""]
    for word in re.findall(r"\s*\S+\s*", text):
        if lines[-1] and len(lines[-1]) + len(word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    stripped = [line.rstrip() for line in lines]
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in stripped]


def _drawn(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yields the lines of the table."""
    widths = [column.width for column in columns]

    def rule(left: str, line: str, middle: str, right: str) -> str:
        return left + middle.join(line * (width + 2) for width in widths) + right

    def cells(texts: Sequence[str], bar: str, is_header: bool = False) -> Iterator[str]:
        wrapped = [_wrapped(text, width) for text, width in zip(texts, widths, strict=True)]
        height = max(map(len, wrapped))
        for k in range(height):
            parts = []
            for column, lines in zip(columns, wrapped, strict=True):
                line = k - (height - len(lines) if is_header else 0)
                part = lines[line] if 0 <= line < len(lines) else ""
                parts.append(f" {part:{column.alignment}{column.width}} ")
            yield bar + bar.join(parts) + bar

    yield rule("┏", "━", "┳", "┓")
    yield from cells([column.header for column in columns], "┃", is_header=True)
    yield rule("┡", "━", "╇", "┩")
    for i, row in enumerate(rows):
        if i:
            yield rule("├", "─", "┼", "┤")
        yield from cells(row, "│")
    yield rule("└", "─", "┴", "┘")
