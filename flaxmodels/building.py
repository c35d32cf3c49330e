"""From layers to one module: `Sequential` stacks them, `Model` connects them into a graph."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util
from flax.linen import module as linen_module

from flaxmodels.fusion import find_fusion
from flaxmodels.graph import Graph, check_scopes, scope_names, snake_case
from flaxmodels.layers import symbolic
from flaxmodels.layers.base import Layer, Lookup, arguments, trace
from flaxmodels.layers.linen import Linen as Linen
from flaxmodels.layers.symbolic import Input as Input
from flaxmodels.layers.symbolic import Node, Symbol


class Stack(Sequence[Layer]):
    """The layers of a `Sequential`, their names, and the symbols between them where the input's shape is known."""

    def __init__(self, layers: tuple[Any, ...] = (), source: Symbol | None = None, output: Any = None):
        self.layers, self.source, self.output = layers, source, output
        self.names = scope_names(layers)
        check_scopes(self.names, layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: Any) -> Any:
        return self.layers[index]

    def __repr__(self) -> str:
        return f"[{', '.join(self.names)}]"

    def extended(self, things: Iterable[Any]) -> "Stack":
        """The stack with more on top, its shapes checked if the input's shape is known."""
        layers, source = list(self.layers), self.source
        for thing in things:
            if isinstance(thing, Symbol):
                _check_first(layers, source)
                source = thing
                continue
            layer = _as_layer(thing)
            source = _input_of(layer) if not layers and source is None else source
            layers.append(layer)
        stack = Stack(tuple(layers), source, self.output if self.layers else source)
        if source is not None:
            for name, layer in list(zip(stack.names, layers, strict=True))[len(self) :]:
                stack.output = symbolic.record(layer, (stack.output,), {}, name)
        return stack


def _kind(thing: Any) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"a {type(thing).__name__}"


def _as_layer(thing: Any) -> Layer:
    if isinstance(thing, nn.Module) and not isinstance(thing, Layer):
        return Linen(thing, name=thing.name)
    if not isinstance(thing, Layer):
        raise TypeError(
            f"Sequential takes layers, linen modules and Input(...), got {thing!r} of type {type(thing).__name__}; "
            "make an object of a layer's class, such as layers.Dense(10)."
        )
    return thing


def _check_first(layers: Sequence[Layer], source: Symbol | None) -> None:
    if layers or source is not None:
        raise ValueError(
            f"Input(...) comes first in a Sequential, got it after {len(layers)} layers"
            f"{'' if source is None else f' and an input of shape {source.shape}'}; move it to the front."
        )


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

    def __post_init__(self) -> None:
        for name in ("param_dtype", "activity_regularizer", "input_shape"):
            value = getattr(self, name)
            if value is not getattr(Layer, name):
                raise ValueError(
                    f"{self.label} has no `{name}` of its own, got {value!r}; give it to the layers inside."
                )
        super().__post_init__()

    def outputs_and_mask(self, inputs: Any, *, mask: Any = None, train: bool = False) -> tuple[Any, Any]:
        """Computes the outputs and the mask that belongs to them."""
        raise TypeError(f"{type(self).__name__} is no model; use Sequential or Model.")

    @nn.nowrap
    def may_fuse(self) -> bool:
        """Returns whether pairs of layers may be computed at once, because nothing observes what is between them.

        Parameters are initialized, intermediates recorded and methods intercepted layer by layer.
        """
        observed = self.is_initializing() or self.is_mutable_collection("intermediates")
        return not observed and not getattr(linen_module, "_global_interceptor_stack", ())

    @nn.nowrap
    def symbols(self) -> tuple[Any, Any]:
        """The symbols of the inputs and the outputs, None where a Sequential does not know its input yet."""
        return None, None

    @nn.nowrap
    def inner_outputs(self) -> Any:
        return self.symbols()[1]

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
        """For each call of a layer: its name, the layer, the output symbols, the names of what its inputs come from."""
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
        _ = self.output_shape  # raises where the input is not known
        print_fn(_table(self))

    @nn.nowrap
    def in_order(self, expected: Any, given: Any, what: str = "inputs") -> list[Any]:
        """What is given for the expected symbols, in their order; raises if its structure is another."""
        if isinstance(expected, Symbol):
            expected = [expected]
        if not isinstance(given, list | tuple | Mapping):
            given = [given]
        if isinstance(given, Mapping):
            self._check_keys(expected, given, what)
        if isinstance(given, Mapping) and not isinstance(expected, Mapping):
            names = [symbol.name for symbol in jax.tree.leaves(expected)]
            given = [given[name] for name in names] if set(names) <= set(given) else given
        found = _matched(expected, given)
        if found is None:
            names = jax.tree.map(lambda symbol: symbol.name or str(symbol.shape), expected)
            raise ValueError(
                f"{self.label} takes {what} in the structure {names}, got {_outline(given)}; "
                "give them as the model's inputs were given, or in a dictionary by the inputs' names."
            )
        return found

    @nn.nowrap
    def _check_keys(self, expected: Any, given: Mapping[str, Any], what: str) -> None:
        """Raises if an input of this name is missing; where not all inputs have names, their structure decides."""
        names = list(expected) if isinstance(expected, Mapping) else [s.name for s in jax.tree.leaves(expected)]
        missing = [name for name in names if name not in given]
        if missing and None not in names:
            raise ValueError(
                f"{self.label} takes {what} by the names {sorted(names)}, got {sorted(given)}; "
                f"add {', '.join(map(repr, missing))}."
            )

    @nn.nowrap
    def check_inputs(self, expected: Any, inputs: Any) -> list[Any]:
        """The input arrays in the order of the expected symbols, or an error that says what differs."""
        arrays = self.in_order(expected, inputs)
        for symbol, array in zip(jax.tree.leaves(expected), arrays, strict=True):
            shape = tuple(np.shape(array))
            # As in Keras, any batch size is taken, also where the input has a fixed one.
            same = len(shape) == symbol.ndim and all(
                n is None or n == m for n, m in zip(symbol.shape[1:], shape[1:], strict=True)
            )
            if not same:
                raise ValueError(
                    f"{self.label} takes inputs of shape {symbol.shape}, got {shape}; "
                    "reshape the data, or change the model's input shape."
                )
        return arrays


def _matched(expected: Any, given: Any) -> list[Any] | None:
    """What stands in the places of the expected symbols, in the order of jax.tree.leaves; None if a place differs."""
    if isinstance(expected, Symbol):
        return None if isinstance(given, list | tuple | Mapping) else [given]
    if isinstance(expected, Mapping):
        if not isinstance(given, Mapping) or set(expected) != set(given):
            return None
        pairs = [(expected[key], given[key]) for key in sorted(expected)]
    else:
        if not isinstance(given, list | tuple) or len(expected) != len(given):
            return None
        pairs = list(zip(expected, given, strict=True))
    parts = [_matched(*pair) for pair in pairs]
    return None if None in parts else [leaf for part in parts if part is not None for leaf in part]


def _outline(given: Any) -> str:
    """The structure of what was given, arrays by their shapes."""
    return str(jax.tree.map(lambda leaf: str(np.shape(leaf)), given, is_leaf=lambda leaf: leaf is None))


class Sequential(Container):
    """Stacks layers: each takes the output of the one before.

    Args:
        layers: Layers, linen modules, or `Input(...)` in front; more can be added while the model is not bound.

    Shapes: those of the first layer's input and the last layer's output.

    Raises:
        ValueError: If two layers have the same name, a layer comes twice, or one does not fit the output of the one
            before.
        TypeError: If something else than a layer comes.

    References:
        Keras, `keras.Sequential`.

    Example:
        >>> import jax.numpy as jnp
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
        if isinstance(self.layers, nn.Module | Symbol) or callable(self.layers):
            raise TypeError(
                f"`layers` of Sequential is a list of layers, got {_kind(self.layers)}; write Sequential([...])."
            )
        if not isinstance(self.layers, Stack):
            object.__setattr__(self, "layers", Stack().extended(self.layers or ()))
        super().__post_init__()

    @nn.nowrap
    def add(self, layer: Any) -> None:
        """Puts a layer on top."""
        if self.scope is not None:
            raise ValueError("A Sequential that is bound to parameters is frozen; add layers before `init` or `apply`.")
        object.__setattr__(self, "layers", self.layers.extended([layer]))

    @nn.nowrap
    def pop(self) -> Layer:
        """Takes the last layer off and returns it."""
        if not len(self.layers):
            raise ValueError("A Sequential without layers has none to take off; add a layer first.")
        *rest, last = self.layers
        object.__setattr__(self, "layers", Stack((), self.layers.source, self.layers.source).extended(rest))
        return last

    @nn.compact
    def outputs_and_mask(self, inputs: Any, *, mask: Any = None, train: bool = False) -> tuple[Any, Any]:
        """Computes the outputs and the mask that belongs to them."""
        if not len(self.layers) and self.layers.source is None:
            raise ValueError("A Sequential without layers computes nothing; add a layer first.")
        if self.layers.source is not None:
            inputs = self.check_inputs(self.layers.source, inputs)[0]
        bound = [layer.clone(parent=self, name=name) for name, layer in self.children()]
        may_fuse = self.may_fuse()
        while bound:
            layer, *bound = bound
            fused = find_fusion(layer, bound[0]) if bound and may_fuse else None
            if fused is not None:
                following, *bound = bound
                inputs, mask = fused(layer, following, inputs, mask=mask, train=train)
            else:
                inputs, mask = layer.call_with_mask(inputs, mask=mask, train=train)
        return inputs, mask

    @nn.nowrap
    def trace_inputs(self, sources: Any, lookups: list[Lookup], path: str, *args: Any, **kwargs: Any) -> Any:
        """Traces the layers one after the other."""
        for name, layer in self.children():
            sources = trace(layer, sources, lookups, f"{path}/{name}")
        return sources

    @nn.nowrap
    def keras_input_dtype(self, around: Any) -> Any:
        return np.dtype("float32")  # in Keras, a dtype is given to the layers inside

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


class Model(Container):
    """Connects layers into a graph, from input symbols to output symbols.

    A layer called twice shares its parameters; a model called like a layer is nested.

    Args:
        inputs: A symbol of `Input(...)`, or a list, tuple or dictionary of them.
        outputs: The symbols to compute, in the structure that calls return.

    Shapes: those of the symbols.

    Raises:
        ValueError: If the outputs need an input that is not among `inputs`, two layers have the same name, or a layer
            is both in the model and inside another of its layers.
        TypeError: If something else than symbols comes.

    References:
        Keras, `keras.Model`, the functional API.

    Example:
        >>> import jax.numpy as jnp
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
    graph: Any = dataclasses.field(default=None, kw_only=True)

    def __hash__(self) -> int:
        return hash(self.graph)  # `inputs` and `outputs` may be lists

    def __post_init__(self) -> None:
        if self.graph is None:
            object.__setattr__(self, "graph", Graph(self.inputs, self.outputs))
        super().__post_init__()

    @nn.compact
    def outputs_and_mask(self, inputs: Any, *, mask: Any = None, train: bool = False) -> tuple[Any, Any]:
        """Computes the outputs and the mask that belongs to them."""
        graph, symbols = self.graph, jax.tree.leaves(self.graph.inputs)
        values = dict(zip(map(id, symbols), self.check_inputs(graph.inputs, inputs), strict=True))
        given = [None] * len(symbols) if mask is None else self.in_order(graph.inputs, mask, "masks")
        masks: dict[int, Any] = dict(zip(map(id, symbols), given, strict=True))
        bound = {id(layer): layer.clone(parent=self, name=name) for name, layer in self.children()}
        done: set[Node] = set()
        may_fuse = self.may_fuse()
        for node in graph.nodes:
            if node in done:
                continue
            layer, following = bound[id(node.layer)], graph.followers.get(node)
            after = bound[id(following.layer)] if following and may_fuse else None
            fused = find_fusion(layer, after) if after else None
            if following and fused:
                source = id(node.args[0])
                outputs, out_mask = fused(layer, after, values[source], mask=masks.get(source), train=train)
                done.add(node := following)
            else:
                outputs, out_mask = _call(node, layer, values, masks, train)
            leaves = jax.tree.leaves(node.outputs)
            values.update(zip(map(id, leaves), jax.tree.leaves(outputs), strict=True))
            out_masks = jax.tree.leaves(out_mask, is_leaf=lambda m: m is None)
            masks.update(zip(map(id, leaves), out_masks * len(leaves), strict=False))
        return (
            jax.tree.map(lambda symbol: values[id(symbol)], graph.outputs),
            jax.tree.map(lambda symbol: masks.get(id(symbol)), graph.outputs),
        )

    @nn.nowrap
    def trace_inputs(self, sources: Any, lookups: list[Lookup], path: str, *args: Any, **kwargs: Any) -> Any:
        """Traces the calls of the graph in their order."""
        graph = self.graph
        given = jax.tree.leaves(sources)
        held = dict(zip(map(id, jax.tree.leaves(graph.inputs)), given, strict=True))

        def of(symbol: Any) -> Any:
            return held.get(id(symbol), frozenset())

        for node in graph.nodes:
            scope = f"{path}/{graph.names[id(node.layer)]}"
            first = jax.tree.map(of, node.args[0])
            found = trace(node.layer, first, lookups, scope, *node.args[1:], **node.kwargs)
            outputs, found = jax.tree.leaves(node.outputs), jax.tree.leaves(found)
            found = found if len(found) == len(outputs) else found * len(outputs)
            held.update(zip(map(id, outputs), found, strict=False))
        return jax.tree.map(of, graph.outputs)

    @nn.nowrap
    def keras_input_dtype(self, around: Any) -> Any:
        return None

    @nn.nowrap
    def children(self) -> list[tuple[str, Any]]:
        return [(self.graph.names[id(layer)], layer) for layer in self.layers]

    @property
    @nn.nowrap
    def layers(self) -> list[Layer]:
        """The layers, in Keras' order."""
        return self.graph.layers_in(self.dtype)

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


def _call(node: Node, layer: Layer, values: dict[int, Any], masks: dict[int, Any], train: bool) -> tuple[Any, Any]:
    """Repeats a recorded call with arrays for symbols; what the call fixed itself (mask, train) stays fixed."""

    def fill(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: values[id(leaf)] if isinstance(leaf, Symbol) else leaf, tree)

    def mask_of(tree: Any) -> Any:
        mask = jax.tree.map(lambda leaf: masks.get(id(leaf)), tree)
        return mask if jax.tree.leaves(mask) else None

    names = arguments(layer)
    further = [*zip(names[1:], node.args[1:], strict=False), *node.kwargs.items()]
    carried = {f"{name}_mask": mask_of(value) for name, value in further if f"{name}_mask" in names}
    carried |= {"mask": mask_of(node.args[0]), "train": train}
    return layer.call_with_mask(*fill(node.args), **carried | fill(node.kwargs))


def weights_of(module: nn.Module, *args: Any, **kwargs: Any) -> dict[tuple[str, ...], tuple[Layer, str]]:
    """Finds, by path in `params`, the layer and the name behind each weight, wherever in the module the layer is.

    What a linen module makes of its own accord has a layer only where `Linen` stands around it.

    Args:
        module: Any linen module.
        *args: What the module is called with; shapes and dtypes suffice.
        **kwargs: Likewise.
    """
    found: dict[tuple[str, ...], tuple[Layer, str]] = {}
    wrapped: dict[tuple[str, ...], Layer] = {}
    roots: list[Any] = []

    def note(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer, scope = context.module, context.module.scope
        roots.extend([] if scope is None else [scope.root])
        if scope is None or scope.root is not roots[0]:  # part of a graph that is drawn on the way
            return method(*args, **kwargs)
        if context.method_name == "add_weight":
            found[(*layer.path, args[0])] = (_by_itself(layer), args[0])
        elif isinstance(layer, Linen):
            wrapped[layer.path] = _by_itself(layer)
        return method(*args, **kwargs)

    leaves = {key: jax.tree.leaves(value) for key, value in kwargs.items()}
    arrays = {key: kwargs[key] for key in kwargs if leaves[key] and all(hasattr(leaf, "shape") for leaf in leaves[key])}
    fixed = {key: value for key, value in kwargs.items() if key not in arrays}
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    with nn.intercept_methods(note):
        variables = jax.eval_shape(lambda args, arrays: module.init(rngs, *args, **fixed, **arrays), args, arrays)
    for path in traverse_util.flatten_dict(variables.get("params", {})):
        around = [scope for scope in wrapped if path[: len(scope)] == scope]
        if around:
            found.setdefault(path, (wrapped[max(around, key=len)], path[-1]))
    return found


def _by_itself(layer: Layer) -> Layer:
    """The layer out of its place, frozen where one around it was: flax does not keep those alive for their parts."""
    return layer.clone(parent=None, trainable=not layer.frozen)


def lookups_of(model: nn.Module) -> list[Lookup]:
    """Finds which inputs of a model reach a layer that looks integers up, as far as layers of ours lead there.

    Args:
        model: Any linen module; of others than ours nothing is known.

    Example:
        >>> from flaxmodels import layers
        >>> lookups_of(Sequential([layers.Flatten(), layers.Embedding(9, 2)]))
        [Lookup(source=0, path='embedding', layer='Embedding', size=9)]
    """
    found: list[Lookup] = []
    if isinstance(model, Layer):
        spec = model.input_spec if isinstance(model, Container) else None
        numbers = itertools.count()
        sources = jax.tree.map(lambda _: frozenset([next(numbers)]), 0 if spec is None else spec)
        trace(model, sources, found, "")
    return [lookup._replace(path=lookup.path.removeprefix("/")) for lookup in found]


def _table(model: Container) -> str:
    """The text of `summary`."""
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
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
