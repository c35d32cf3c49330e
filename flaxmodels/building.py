"""Builds models from layers: `Sequential` stacks them, `Model` connects them into a graph."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import flax.linen as nn
import jax
import numpy as np
from jax.typing import DTypeLike

from flaxmodels.container import Container
from flaxmodels.fusion import find_fusion
from flaxmodels.graph import Graph, scope_names
from flaxmodels.layers import symbolic
from flaxmodels.layers.base import Layer, MultiOutputLayer, arguments
from flaxmodels.layers.linen import Linen as Linen
from flaxmodels.layers.scopes import check_shared
from flaxmodels.layers.symbolic import Input as Input
from flaxmodels.layers.symbolic import Node, Symbol
from flaxmodels.layers.tracing import Lookup, Sources, trace
from flaxmodels.names import refuse_keras
from flaxmodels.ops.base import OperationCall
from flaxmodels.summary import Call
from flaxmodels.trees import ArrayTree, MaskTree, Tree


class LayerStack(Sequence[Layer]):
    """The layers of a `Sequential` with their names.

    Attributes:
        source: The symbol of the input, None if it is not known.
        outputs: The output symbols of each layer if the input is known.
    """

    def __init__(
        self, layers: tuple[Layer, ...] = (), source: Symbol | None = None, outputs: tuple[Tree[Symbol], ...] = ()
    ):
        self.layers, self.source, self.outputs = layers, source, outputs
        self.names = scope_names(layers)
        check_shared(self.names, layers)

    def __len__(self) -> int:
        return len(self.layers)

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Layer, ...]: ...
    def __getitem__(self, index: int | slice) -> Layer | tuple[Layer, ...]:
        return self.layers[index]

    def __repr__(self) -> str:
        return f"[{', '.join(self.names)}]"

    @property
    def output(self) -> Tree[Symbol] | None:
        """The symbols of the output; None if the input is not known."""
        return self.outputs[-1] if self.outputs else self.source

    def without_last(self) -> "LayerStack":
        """Returns the stack without its last layer."""
        return LayerStack(self.layers[:-1], self.source, self.outputs[:-1])

    def extended(self, things: Iterable[object]) -> "LayerStack":
        """Returns the stack with more layers at the end; their shapes are checked if the input is known."""
        layers, source = list(self.layers), self.source
        for thing in things:
            if isinstance(thing, Symbol):
                _check_input_is_first(layers, source)
                source = thing
                continue
            wrapped = [known for known in layers if isinstance(known, Linen) and known.module is thing]
            layer = wrapped[0] if wrapped else _as_layer(thing)
            source = _input_of(layer) if not layers and source is None else source
            layers.append(layer)
        stack = LayerStack(tuple(layers), source, self.outputs)
        if source is not None:
            for name, layer in list(zip(stack.names, layers, strict=True))[len(self) :]:
                stack.outputs += (symbolic.record(layer, (stack.output,), {}, name),)
        return stack


def _describe_type(thing: object) -> str:
    """Returns the name of a value's type with an article, for an error message."""
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"a {type(thing).__name__}"


def _as_layer(thing: object) -> Layer:
    """Returns a layer unchanged and any other linen module wrapped in `Linen`."""
    if isinstance(thing, nn.Module) and not isinstance(thing, Layer):
        return Linen(thing, name=thing.name)
    if not isinstance(thing, Layer):
        refuse_keras(thing)
        raise TypeError(
            f"Sequential takes layers, linen modules and Input(...), got {thing!r} of type {type(thing).__name__}; "
            "create a layer, such as layers.Dense(10)."
        )
    return thing


def _check_input_is_first(layers: Sequence[Layer], source: Symbol | None) -> None:
    """Raises unless a Sequential with these layers and this input can still take an `Input`."""
    if layers or source is not None:
        raise ValueError(
            f"Input(...) must come first in a Sequential, got it after {len(layers)} layer{'s' * (len(layers) != 1)}"
            f"{'' if source is None else f' and an input of shape {source.shape}'}; move it to the front."
        )


def _input_of(layer: Layer) -> Symbol | None:
    """Returns the input symbol that a first layer determines, or None."""
    if isinstance(layer, Container):
        source = layer.symbols()[0]
        return source if isinstance(source, Symbol) else None
    return None if layer.input_shape is None else Input(layer.input_shape)


class Sequential(Container):
    """Stacks layers: each takes the output of the previous one.

    Args:
        layers: Layers or linen modules, optionally with `Input(...)` first; `add` appends more.

    Shapes: those of the first layer's input and the last layer's output.

    Raises:
        ValueError: If two layers have the same name, or a layer does not fit the output of the previous one.
        TypeError: If a value is not a layer.

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
            given = _describe_type(self.layers)
            raise TypeError(f"`layers` of Sequential must be a list of layers, got {given}; write Sequential([...]).")
        if not isinstance(self.layers, LayerStack):
            object.__setattr__(self, "layers", LayerStack().extended(self.layers or ()))
        super().__post_init__()

    @nn.nowrap
    def add(self, layer: nn.Module | Symbol) -> None:
        """Appends a layer."""
        if self.scope is not None:
            raise ValueError("A Sequential that is bound to parameters is frozen; add layers before `init` or `apply`.")
        object.__setattr__(self, "layers", self.layers.extended([layer]))

    @nn.nowrap
    def pop(self) -> Layer:
        """Removes the last layer and returns it."""
        if not len(self.layers):
            raise ValueError("A Sequential without layers has no last layer to remove; add a layer first.")
        last: Layer = self.layers[-1]
        object.__setattr__(self, "layers", self.layers.without_last())
        return last

    @nn.compact
    def outputs_and_mask(
        self, inputs: ArrayTree, *, mask: MaskTree = None, train: bool = False
    ) -> tuple[ArrayTree, MaskTree]:
        """Computes the outputs and their mask."""
        if not len(self.layers) and self.layers.source is None:
            raise ValueError("A Sequential without layers computes nothing; add a layer first.")
        if self.layers.source is not None:
            inputs = self.check_inputs(self.layers.source, inputs)[0]
        bound = [self.bound(layer) for layer in self.layers]
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
    def trace_inputs(
        self, sources: Sources, lookups: list[Lookup], path: str, *args: object, **kwargs: object
    ) -> Sources:
        """Traces the layers in order."""
        for name, layer in self.children():
            sources = trace(layer, sources, lookups, f"{path}/{name}")
        return sources

    @nn.nowrap
    def keras_input_dtype(self, model_dtype: DTypeLike | None) -> np.dtype:
        """Returns float32: in Keras, a Sequential itself has no dtype, only its layers have one."""
        return np.dtype("float32")

    @nn.nowrap
    def children(self) -> Sequence[tuple[str, Layer]]:
        """Returns the names and the layers in order."""
        return list(zip(self.layers.names, self.layers, strict=True))

    @nn.nowrap
    def symbols(self) -> tuple[Tree[Symbol] | None, Tree[Symbol] | None]:
        """Returns the symbols of the input and of the output."""
        return self.layers.source, self.layers.output

    @nn.nowrap
    def calls(self) -> list[Call]:
        """Returns one call for each layer."""
        sources = ["input", *self.layers.names]
        return [
            Call(name, layer, output, [source])
            for (name, layer), output, source in zip(self.children(), self.layers.outputs, sources, strict=False)
        ]


class Model(Container, MultiOutputLayer):
    """Connects layers into a graph from input symbols to output symbols.

    A layer that is called twice, or that several models inside this one hold, has one set of parameters. It is in the
    scope of its first place, in the order of `layers`. A model can be called like a layer, which nests it.

    Args:
        inputs: A symbol of `Input(...)`, or a list, tuple or dictionary of them.
        outputs: The symbols to compute, in the structure that calls of the model return.

    Shapes: those of the symbols.

    Raises:
        ValueError: If the outputs need an input that is not among `inputs`, or two layers have the same name.
        TypeError: If inputs or outputs are not symbols.

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
        return hash(self.graph)  # `inputs` and `outputs` may be lists, which have no hash.

    def __post_init__(self) -> None:
        # A subclass that is called without inputs and outputs computes in its `call`, as in Keras.
        is_subclassed = self.BINDS_ATTRIBUTES and self.inputs is None and self.outputs is None
        if self.graph is None and not is_subclassed:
            object.__setattr__(self, "graph", Graph(self.inputs, self.outputs))
        if self.graph is not None:
            # As in Keras, these are lists; `input` and `output` have the structure that was given.
            object.__setattr__(self, "inputs", jax.tree.leaves(self.graph.inputs))
            object.__setattr__(self, "outputs", jax.tree.leaves(self.graph.outputs))
        super().__post_init__()

    @nn.compact
    def outputs_and_mask(
        self, inputs: ArrayTree, *, mask: MaskTree = None, train: bool = False
    ) -> tuple[ArrayTree, MaskTree]:
        """Computes the outputs and their mask."""
        graph, symbols = self.graph, jax.tree.leaves(self.graph.inputs)
        values = dict(zip(map(id, symbols), self.check_inputs(graph.inputs, inputs), strict=True))
        given = [None] * len(symbols) if mask is None else self.match_structure(graph.inputs, mask, "masks")
        masks: dict[int, MaskTree] = dict(zip(map(id, symbols), given, strict=True))
        done: set[Node] = set()
        may_fuse = self.may_fuse()
        for node in graph.nodes:
            if node in done:
                continue
            if isinstance(node.layer, OperationCall):
                # An operation takes and returns no masks, and its arguments may themselves have the name `mask`.
                outputs = node.layer(*_filled(node.args, values), **_filled(node.kwargs, values))
                values.update(zip(map(id, jax.tree.leaves(node.outputs)), jax.tree.leaves(outputs), strict=True))
                continue
            layer, following = self.bound(node.layer), graph.followers.get(node)
            after = self.bound(following.layer) if following and may_fuse else None
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
    def trace_inputs(
        self, sources: Sources, lookups: list[Lookup], path: str, *args: object, **kwargs: object
    ) -> Sources:
        """Traces the calls of the graph in order."""
        graph = self.graph
        held = dict(zip(map(id, jax.tree.leaves(graph.inputs)), jax.tree.leaves(sources), strict=True))

        def sources_of(symbol: object) -> frozenset[int]:
            return held.get(id(symbol), frozenset())

        for node in graph.nodes:
            scope = f"{path}/{graph.names[id(node.layer)]}"
            first = jax.tree.map(sources_of, node.args[0] if node.args else None)
            traced = jax.tree.leaves(trace(node.layer, first, lookups, scope, *node.args[1:], **node.kwargs))
            outputs = jax.tree.leaves(node.outputs)
            traced = traced if len(traced) == len(outputs) else traced * len(outputs)
            held.update(zip(map(id, outputs), traced, strict=False))
        return jax.tree.map(sources_of, graph.outputs)

    @nn.nowrap
    def keras_input_dtype(self, model_dtype: DTypeLike | None) -> None:
        """Returns None: Keras does not cast the inputs of a functional model."""
        return None

    @nn.nowrap
    def children(self) -> Sequence[tuple[str, Layer]]:
        """Returns the names and the layers in the order of Keras' `model.layers`."""
        if self.graph is None:
            return []
        return [(self.graph.names[id(layer)], layer) for layer in self.graph.layers_in(self.own_dtype)]

    @property
    @nn.nowrap
    def layers(self) -> list[Layer]:
        """The layers in the order of Keras' `model.layers`, without inputs and operations."""
        if self.graph is None:
            return [layer for _, layer in self.children()]
        return self.graph.layers_in(self.own_dtype)

    @property
    @nn.nowrap
    def operations(self) -> list[Layer]:
        """The layers and the nodes of operations in the order of Keras' `model.operations`, without inputs."""
        return self.graph.operations_in(self.own_dtype)

    @nn.nowrap
    def symbols(self) -> tuple[Tree[Symbol] | None, Tree[Symbol] | None]:
        """Returns the trees of input and output symbols, None for a model that computes in its `call`."""
        if self.graph is None:
            return None, None
        return self.graph.inputs, self.graph.outputs

    @nn.nowrap
    def calls(self) -> list[Call]:
        """Returns the calls of the graph in order."""
        inputs = jax.tree.leaves(self.graph.inputs)
        names = {id(symbol): symbol.layer_name or symbol.name or "input" for symbol in inputs}
        calls: list[Call] = []
        for node in self.graph.nodes:
            name = self.graph.names[id(node.layer)]
            calls.append(Call(name, node.layer, node.outputs, [names[id(symbol)] for symbol in node.symbols()]))
            names.update((id(symbol), name) for symbol in jax.tree.leaves(node.outputs))
        return calls


def _filled(tree: object, values: Mapping[int, jax.Array]) -> Any:
    """Returns the arguments of a recorded call with arrays in place of symbols."""
    return jax.tree.map(lambda leaf: values[id(leaf)] if isinstance(leaf, Symbol) else leaf, tree)


def _call(
    node: Node, layer: Layer, values: Mapping[int, jax.Array], masks: Mapping[int, MaskTree], train: bool
) -> tuple[ArrayTree, MaskTree]:
    """Repeats a recorded call with arrays in place of symbols; a recorded `mask` or `train` is kept."""

    def mask_of(tree: object) -> MaskTree:
        mask = jax.tree.map(lambda leaf: masks.get(id(leaf)), tree)
        return mask if jax.tree.leaves(mask) else None

    names = arguments(layer)
    further = [*zip(names[1:], node.args[1:], strict=False), *node.kwargs.items()]
    defaults: dict[str, object] = {f"{name}_mask": mask_of(value) for name, value in further if f"{name}_mask" in names}
    defaults |= {"mask": mask_of(node.args[0]), "train": train}
    return layer.call_with_mask(*_filled(node.args, values), **defaults | _filled(node.kwargs, values))
