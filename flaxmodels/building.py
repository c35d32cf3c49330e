"""From layers to one module: `Sequential` stacks them, `Model` connects them into a graph."""

import collections
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.layers import symbolic
from flaxmodels.layers.base import Layer
from flaxmodels.layers.symbolic import Input as Input
from flaxmodels.layers.symbolic import Node, Symbol


def snake_case(class_name: str) -> str:
    """Keras' automatic name of a class: "Conv2DTranspose" is "conv2d_transpose"."""
    words = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", class_name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", words).lower()


def scope_names(layers: Sequence[Any]) -> list[str]:
    """One name for each layer: its own, or Keras' automatic one, numbered from the second of a class on.

    Raises:
        ValueError: If two layers ask for the same name.
    """
    taken = collections.Counter(layer.name for layer in layers if layer.name)
    twice = [name for name, count in taken.items() if count > 1]
    if twice:
        raise ValueError(
            f"Layers of one model need names of their own, got {twice[0]!r} {taken[twice[0]]} times; "
            "give each layer another `name`, or none."
        )
    names, used, counts = [], set(taken), collections.Counter[str]()
    for layer in layers:
        name = layer.name
        while not name:
            stem = snake_case(type(layer).__name__)
            candidate = f"{stem}_{counts[stem]}" if counts[stem] else stem
            counts[stem] += 1
            name = candidate if candidate not in used else None
        used.add(name)
        names.append(name)
    return names


class Linen(Layer):
    """Puts any linen module where a layer goes; its parameters take the layer's own scope.

    Args:
        module: A linen module; it receives `train` and `mask` if its `__call__` names them.

    Shapes: whatever the module takes and gives.

    Example:
        >>> model = Sequential([Input((3,)), Linen(nn.Dense(2))])
        >>> model.output_shape
        (None, 2)
    """

    module: nn.Module

    def setup(self) -> None:
        nn.share_scope(self, self.module)

    def compute(self, inputs: Any, *args: Any, mask: Any = None, train: bool = False, **kwargs: Any) -> Any:
        named = inspect.signature(type(self.module).__call__).parameters
        given = {"train": train, "mask": mask}
        return self.module(inputs, *args, **{k: v for k, v in given.items() if k in named}, **kwargs)


class Stack(Sequence[Layer]):
    """The layers of a `Sequential`, their names, and the symbols between them where the input's shape is known."""

    def __init__(self, layers: tuple[Any, ...] = (), source: Symbol | None = None, output: Any = None):
        self.layers, self.source, self.output = layers, source, output
        self.names = scope_names(layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: Any) -> Any:
        return self.layers[index]

    def __repr__(self) -> str:
        return f"[{', '.join(self.names)}]"

    def adding(self, layer: Any) -> "Stack":
        """The stack with one more layer on top, its shapes checked if the input's shape is known."""
        if isinstance(layer, Symbol):
            return self._with_source(layer)
        if isinstance(layer, nn.Module) and not isinstance(layer, Layer):
            layer = Linen(layer)
        if not isinstance(layer, Layer):
            raise TypeError(
                f"Sequential takes layers, linen modules and Input(...), got {layer!r} of type "
                f"{type(layer).__name__}; make an object of a layer's class, such as layers.Dense(10)."
            )
        source, output = self.source, self.output
        if not self.layers and source is None:
            source = output = _input_of(layer)
        stack = Stack((*self.layers, layer), source, output)
        if output is not None:
            stack.output = symbolic.record(layer, (output,), {}, stack.names[-1])
        return stack

    def _with_source(self, source: Symbol) -> "Stack":
        if self.layers or self.source is not None:
            raise ValueError(
                f"Input(...) comes first in a Sequential, got it after {len(self)} layers"
                f"{'' if self.source is None else f' and an input of shape {self.source.shape}'}; move it to the front."
            )
        return Stack((), source, source)


def _input_of(layer: Layer) -> Symbol | None:
    if layer.input_shape is not None:
        return Input(layer.input_shape)
    if isinstance(layer, Sequential):
        return layer.layers.source
    if isinstance(layer, Model) and isinstance(layer.graph.inputs, Symbol):
        return layer.graph.inputs
    return None


class Container(Layer):
    """What `Sequential` and `Model` share: binding children to scopes, shapes, the summary."""

    def outputs_and_mask(
        self, inputs: Any, *args: Any, mask: Any = None, train: bool = False, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Computes the outputs and the mask that belongs to them."""
        raise TypeError(f"{type(self).__name__} is no model; use Sequential or Model.")

    @nn.nowrap
    def symbols(self) -> tuple[Any, Any]:
        """The symbols of the inputs and the outputs, None where a Sequential does not know its input yet."""
        return None, None

    @property
    @nn.nowrap
    def input_spec(self) -> Any:
        """The input as a symbol, or a tree of symbols; None if it is not known."""
        return self.symbols()[0]

    @property
    @nn.nowrap
    def output_shape(self) -> Any:
        """The shape of the output, or a tree of shapes, None for sizes that vary.

        Raises:
            ValueError: If the input's shape is not known.
        """
        inputs, outputs = self.symbols()
        if inputs is None:
            raise ValueError(
                f"{self.label} has no shapes until its input is known, and none was given; "
                "add Input(shape) first, or give the first layer `input_shape`."
            )
        return jax.tree.map(lambda symbol: symbol.shape, outputs)

    @nn.nowrap
    def calls(self) -> list[tuple[str, Layer, Any, list[str]]]:
        """For each call of a layer: its name, the layer, the output symbols, the names of where its inputs come from."""
        return []

    @nn.nowrap
    def summary(self, print_fn: Callable[[str], None] = print) -> None:
        """Prints a table: each layer's output shape, its number of parameters, and where its inputs come from.

        Args:
            print_fn: Takes the whole text.

        Raises:
            ValueError: If the input's shape is not known.

        Example:
            >>> from flaxmodels import layers
            >>> Sequential([Input((4,)), layers.Dense(2)], name="tiny").summary()
            tiny: 10 parameters
            layer (class)    output     parameters  inputs
            dense (Dense)    (None, 2)          10  input
        """
        if self.output_shape is not None:
            print_fn(_table(self))

    @nn.nowrap
    def check_inputs(self, expected: Any, inputs: Any) -> list[Any]:
        """The input arrays in the order of the expected symbols, or an error that says what differs."""
        if isinstance(inputs, dict) and not isinstance(expected, dict):
            names = [symbol.name for symbol in jax.tree.leaves(expected)]
            inputs = [inputs.get(name) for name in names]
        symbols, arrays = jax.tree.leaves(expected), jax.tree.leaves(inputs)
        if len(symbols) != len(arrays):
            shapes = [symbol.shape for symbol in symbols]
            raise ValueError(
                f"{self.label} takes {len(symbols)} inputs of shapes {shapes}, got {len(arrays)} arrays; "
                "give them in a list, in the order of the model's inputs."
            )
        for symbol, array in zip(symbols, arrays, strict=True):
            shape = tuple(array.shape)
            same = len(shape) == symbol.ndim and all(
                n is None or n == m for n, m in zip(symbol.shape, shape, strict=True)
            )
            if not same:
                raise ValueError(
                    f"{self.label} takes inputs of shape {symbol.shape}, got {shape}; "
                    "reshape the data, or change the model's input shape."
                )
        return arrays


class Sequential(Container):
    """Stacks layers: each takes the output of the one before.

    Args:
        layers: Layers, linen modules, or `Input(...)` in front; more can be added while the model is not bound.

    Shapes: those of the first layer's input and the last layer's output.

    Raises:
        ValueError: If two layers have the same name, or a layer does not fit the output of the one before.
        TypeError: If something else than a layer comes.

    References:
        Keras, `keras.Sequential`.

    Example:
        >>> from flaxmodels import layers
        >>> model = Sequential()
        >>> model.add(layers.Dense(8, activation="relu", input_shape=(4,)))
        >>> model.add(layers.Dense(2, activation="softmax"))
        >>> variables = model.init(jax.random.key(0), jnp.ones((5, 4)))
        >>> model.apply(variables, jnp.ones((5, 4))).shape
        (5, 2)
        >>> sorted(variables["params"])
        ['dense', 'dense_1']
    """

    layers: Any = ()

    def __post_init__(self) -> None:
        if not isinstance(self.layers, Stack):
            stack = Stack()
            for layer in self.layers:
                stack = stack.adding(layer)
            object.__setattr__(self, "layers", stack)
        super().__post_init__()

    @nn.nowrap
    def add(self, layer: Any) -> None:
        """Puts a layer on top."""
        if self.scope is not None:
            raise ValueError(
                "A Sequential that is bound to parameters is frozen; add layers before `init` or `apply`."
            )
        object.__setattr__(self, "layers", self.layers.adding(layer))

    @nn.nowrap
    def pop(self) -> Layer:
        """Takes the last layer off and returns it."""
        if not len(self.layers):
            raise ValueError("A Sequential without layers has none to take off; add a layer first.")
        *rest, last = self.layers
        stack = Stack((), self.layers.source, self.layers.source)
        for layer in rest:
            stack = stack.adding(layer)
        object.__setattr__(self, "layers", stack)
        return last

    @nn.compact
    def outputs_and_mask(
        self, inputs: Any, *args: Any, mask: Any = None, train: bool = False, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Computes the outputs and the mask that belongs to them."""
        if not len(self.layers):
            raise ValueError("A Sequential without layers computes nothing; add a layer first.")
        if self.layers.source is not None:
            inputs = self.check_inputs(self.layers.source, inputs)[0]
        for name, layer in self.children():
            inputs, mask = layer.clone(parent=self, name=name).outputs_and_mask(
                inputs, mask=mask, train=train
            )
        return inputs, mask

    @nn.nowrap
    def children(self) -> list[tuple[str, Any]]:
        return list(zip(self.layers.names, self.layers, strict=True))

    @nn.nowrap
    def symbols(self) -> tuple[Any, Any]:
        return self.layers.source, self.layers.output

    @nn.nowrap
    def calls(self) -> list[tuple[str, Layer, Any, list[str]]]:
        output, rows = self.layers.source, []
        before = "input"
        for name, layer in self.children():
            output = symbolic.record(layer, (output,), {}, name)
            rows.append((name, layer, output, [before]))
            before = name
        return rows


class Graph:
    """Inputs, outputs and what lies between them: calls of layers in order, and the layers with their names."""

    def __init__(self, inputs: Any, outputs: Any):
        self.inputs, self.outputs = inputs, outputs
        self._check_are_symbols()
        self.nodes = sorted(self._reachable(), key=lambda node: node.order)
        called = list({id(node.layer): node.layer for node in self.nodes}.values())
        self.names = dict(zip(map(id, called), scope_names(called), strict=True))
        self.layers = self._in_keras_order()

    def __repr__(self) -> str:
        return f"<Graph of {', '.join(self.names.values())}>"

    def _check_are_symbols(self) -> None:
        for what, tree in (("inputs", self.inputs), ("outputs", self.outputs)):
            leaves = jax.tree.leaves(tree)
            wrong = [leaf for leaf in leaves if not isinstance(leaf, Symbol)]
            if wrong or not leaves:
                came = f"{wrong[0]!r} of type {type(wrong[0]).__name__}" if wrong else "none"
                raise TypeError(
                    f"The {what} of a Model are symbols, made by Input(...) and by calling layers on them, got {came}; "
                    "write x = Input(shape), y = layer(x), Model(x, y)."
                )

    def _reachable(self) -> set[Node]:
        """The calls that lead from the inputs to the outputs."""
        inputs = set(map(id, jax.tree.leaves(self.inputs)))
        found: set[Node] = set()
        open_symbols = list(jax.tree.leaves(self.outputs))
        while open_symbols:
            symbol = open_symbols.pop()
            if id(symbol) in inputs:
                continue
            if symbol.node is None:
                raise ValueError(
                    f"The outputs of a Model depend on its inputs alone, but {symbol!r} is needed and not among them; "
                    "add it to `inputs`."
                )
            if symbol.node not in found:
                found.add(symbol.node)
                open_symbols.extend(symbol.node.symbols())
        return found

    def _in_keras_order(self) -> list[Layer]:
        """Distinct layers in the order of Keras' `model.layers`: by distance from the outputs, then by traversal."""
        traversal = list(self._depth_first())
        depth_of_node: dict[Node, int] = {}
        depth_of_layer: dict[int, int] = {}
        for node in reversed(traversal):
            depth = max(depth_of_node.get(node, 0), depth_of_layer.get(id(node.layer), 0))
            depth_of_node[node] = depth_of_layer[id(node.layer)] = depth
            for symbol in node.symbols():
                if symbol.node is not None:
                    depth_of_node[symbol.node] = max(depth + 1, depth_of_node.get(symbol.node, 0))
        layers = list({id(node.layer): node.layer for node in traversal}.values())
        return sorted(layers, key=lambda layer: -depth_of_layer[id(layer)])

    def _depth_first(self) -> Iterator[Node]:
        """The calls, each after those it depends on, going back from the outputs one after the other."""
        seen: set[Node] = set()
        wanted = set(self.nodes)

        def visit(symbol: Symbol) -> Iterator[Node]:
            node = symbol.node
            if node is None or node in seen or node not in wanted:
                return
            seen.add(node)
            for source in node.symbols():
                yield from visit(source)
            yield node

        for output in jax.tree.leaves(self.outputs):
            yield from visit(output)


class Model(Container):
    """Connects layers into a graph, from input symbols to output symbols.

    A layer called twice shares its parameters; a model called like a layer is nested.

    Args:
        inputs: A symbol of `Input(...)`, or a list, tuple or dictionary of them.
        outputs: The symbols to compute, in the structure that calls return.

    Shapes: those of the symbols.

    Raises:
        ValueError: If the outputs need an input that is not among `inputs`, or two layers have the same name.
        TypeError: If something else than symbols comes.

    References:
        Keras, `keras.Model`, the functional API.

    Example:
        >>> from flaxmodels import layers
        >>> a, b = Input((4,)), Input((4,))
        >>> shared = layers.Dense(3)
        >>> model = Model([a, b], layers.Add()([shared(a), shared(b)]))
        >>> variables = model.init(jax.random.key(0), [jnp.ones((2, 4)), jnp.ones((2, 4))])
        >>> list(variables["params"])
        ['dense']
    """

    inputs: Any = None
    outputs: Any = None
    graph: Any = None

    def __post_init__(self) -> None:
        if self.graph is None:
            object.__setattr__(self, "graph", Graph(self.inputs, self.outputs))
        super().__post_init__()

    @nn.compact
    def outputs_and_mask(
        self, inputs: Any, *args: Any, mask: Any = None, train: bool = False, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Computes the outputs and the mask that belongs to them."""
        graph, symbols = self.graph, jax.tree.leaves(self.graph.inputs)
        values = dict(zip(map(id, symbols), self.check_inputs(graph.inputs, inputs), strict=True))
        given = [None] * len(symbols) if mask is None else jax.tree.leaves(mask, is_leaf=lambda m: m is None)
        masks: dict[int, Any] = dict(zip(map(id, symbols), given, strict=True))
        bound = {id(layer): layer.clone(parent=self, name=name) for name, layer in self.children()}
        for node in graph.nodes:
            outputs, out_mask = _call(node, bound[id(node.layer)], values, masks, train)
            leaves = jax.tree.leaves(node.outputs)
            values.update(zip(map(id, leaves), jax.tree.leaves(outputs), strict=True))
            out_masks = jax.tree.leaves(out_mask, is_leaf=lambda m: m is None)
            masks.update(zip(map(id, leaves), out_masks * len(leaves) if len(out_masks) == 1 else out_masks))
        return (
            jax.tree.map(lambda symbol: values[id(symbol)], graph.outputs),
            jax.tree.map(lambda symbol: masks.get(id(symbol)), graph.outputs),
        )

    @nn.nowrap
    def children(self) -> list[tuple[str, Any]]:
        return [(self.graph.names[id(layer)], layer) for layer in self.graph.layers]

    @property
    @nn.nowrap
    def layers(self) -> list[Layer]:
        """The layers, in Keras' order."""
        return list(self.graph.layers)

    @nn.nowrap
    def symbols(self) -> tuple[Any, Any]:
        return self.graph.inputs, self.graph.outputs

    @nn.nowrap
    def calls(self) -> list[tuple[str, Layer, Any, list[str]]]:
        names = {id(symbol): symbol.name or "input" for symbol in jax.tree.leaves(self.graph.inputs)}
        rows = []
        for node in self.graph.nodes:
            name = self.graph.names[id(node.layer)]
            rows.append((name, node.layer, node.outputs, [names[id(symbol)] for symbol in node.symbols()]))
            names.update((id(symbol), name) for symbol in jax.tree.leaves(node.outputs))
        return rows


def _call(
    node: Node, layer: Layer, values: dict[int, Any], masks: dict[int, Any], train: bool
) -> tuple[Any, Any]:
    """Repeats a recorded call with arrays for symbols; what the call fixed itself (mask, train) stays fixed."""

    def fill(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: values[id(leaf)] if isinstance(leaf, Symbol) else leaf, tree)

    mask = jax.tree.map(lambda leaf: masks.get(id(leaf)), node.args[0])
    mask = mask if jax.tree.leaves(mask) else None
    return layer.outputs_and_mask(*fill(node.args), **{"mask": mask, "train": train, **fill(node.kwargs)})


def weights_of(module: nn.Module, *args: Any, **kwargs: Any) -> dict[tuple[str, ...], tuple[Layer, str]]:
    """Finds, by path in `params`, the layer and the name behind each weight, wherever in the module the layer is.

    Args:
        module: Any linen module.
        *args: What the module is called with; shapes and dtypes suffice.
        **kwargs: Likewise.
    """
    found: dict[tuple[str, ...], tuple[Layer, str]] = {}

    def note(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name == "add_weight":
            found[(*context.module.path, args[0])] = (context.module, args[0])
        return method(*args, **kwargs)

    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    with nn.intercept_methods(note):
        jax.eval_shape(lambda *arrays: module.init(rngs, *arrays, **kwargs), *args)
    return found


def _table(model: Container) -> str:
    """The text of `summary`."""
    inputs, _ = model.symbols()
    examples = jax.tree.map(lambda s: jax.ShapeDtypeStruct([n or 64 for n in s.shape], s.dtype), inputs)
    variables = jax.eval_shape(model.init, jax.random.key(0), examples)
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
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
