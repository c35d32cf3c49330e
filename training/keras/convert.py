"""Converts between pure and stateful layers; both have the same arguments, names and graphs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels import building
from flaxmodels.container import Container
from flaxmodels.layers import keras_state, symbolic
from flaxmodels.layers.base import Layer
from flaxmodels.layers.symbolic import Node, Symbol
from training.keras import initializers, naming, paths

# The attribute of a pure layer that holds the copy with state which an object of the user's class got from a file.
STATEFUL_COPY = "_stateful_copy"
Choose = Callable[[type], type | None]


def rebuild(layer: object, choose: Choose, copy: Callable[[Any], Any] | None = None, keep_custom: bool = False) -> Any:
    """Returns a copy of a layer or model whose layers are of chosen classes.

    Args:
        layer: A layer or model.
        choose: Returns for the class of a layer the class of its copy, which takes the same arguments. With None, the
            layer itself takes the place of the copy.
        copy: Returns the copy of a layer inside the model, instead of `choose`.
        keep_custom: Whether layers of the user's classes take the place of their copies. Otherwise a copy is made from
            their configuration.
    """
    return _Rebuild(choose, copy, keep_custom).layer(layer)


def clone(layer: object, choose: Choose, copy: Callable[[Any], Any] | None = None, separates: bool = False) -> Any:
    """Returns a copy as `rebuild` does; as in Keras, its inputs are named after their symbols, not after layers.

    Args:
        layer: A layer or model.
        choose: Returns the class of the copy.
        copy: Returns the copy of a layer inside the model, instead of `choose`.
        separates: Whether each layer around a shared one gets a copy of its own, as in Keras' `clone_model`.
    """
    return _Rebuild(choose, copy, names_of_symbols=True, separates=separates).layer(layer)


class _Rebuild:
    """One copy: a layer that occurs twice is copied once."""

    def __init__(
        self,
        choose: Choose,
        copy: Callable[[Any], Any] | None,
        keep_custom: bool = False,
        names_of_symbols: bool = False,
        separates: bool = False,
    ):
        self.choose, self.copy, self.is_pure = choose, copy, choose is _pure_class
        self.keep_custom, self.names_of_symbols, self.separates = keep_custom, names_of_symbols, separates
        self.copies: dict[int, Any] = {}
        self.originals: list[Any] = []  # keeps the ids unique

    def layer(self, layer: object) -> Any:
        """Returns the copy of a layer."""
        if id(layer) not in self.copies:
            self.originals.append(layer)
            around, self.copies = self.copies, {} if self.separates else self.copies
            copy = self._copy(layer)
            self.copies = around
            self.copies[id(layer)] = copy
            if self.is_pure and isinstance(layer, Layer) and copy is not layer:
                # Layers of the user's classes, which are not copied, may hold the same layer.
                keras_state.note_origin(copy, layer)
        return self.copies[id(layer)]

    def _copy(self, layer: Any) -> Any:
        cls: Any = self.choose(type(layer))
        if cls is None:
            return layer
        if self.keep_custom and STATEFUL_COPY in vars(layer):
            # A layer of the user's class holds this layer, too, and has made it with state.
            kept = vars(layer)[STATEFUL_COPY]
            object.__setattr__(kept, "_nodes", [])
            return kept
        has_graph = isinstance(layer, building.Sequential) or getattr(layer, "graph", None) is not None
        if self.copy is not None and not has_graph:
            return self.copy(layer)
        if not is_ours(type(layer)) and (not has_graph or getattr(type(layer).__init__, "is_users", False)):
            return self._custom(layer)
        if isinstance(layer, building.Sequential):
            return self._sequential(layer, cls)
        return self._graph(layer, cls) if has_graph else cls(**self._arguments(layer))

    def _custom(self, layer: Any) -> Any:
        """Returns the copy of a layer of a class of the user."""
        if not self.keep_custom:
            return type(layer).from_config(layer.get_config())
        object.__setattr__(layer, "_nodes", [])  # the calls in the graph that is copied
        return layer

    def _arguments(self, layer: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
        # The program's policy is for new layers, not for copies.
        is_float32 = not self.is_pure and not isinstance(layer, Container) and layer.own_dtype is None
        given = {"dtype": jnp.dtype(layer.param_dtype).name} if is_float32 else {}
        return {
            field.name: self.value(vars(layer)[field.name])  # not getattr, which may compute something else
            for field in dataclasses.fields(layer)
            if field.init and field.name in vars(layer) and field.name not in ("parent", *without)
        } | given

    def symbol(self, symbol: Symbol) -> Symbol:
        """Returns the symbol of an input of the copy."""
        name = symbol.name if self.names_of_symbols else symbol.layer_name or symbol.name
        return Symbol(symbol.shape, symbol.dtype, name=name)

    def value(self, value: object) -> Any:
        """Returns the copy of an argument: layers in it are copied."""
        if isinstance(value, Layer):
            return self.layer(value)
        if isinstance(value, initializers.KerasInitializer):
            return initializers.to_pure(value) if self.is_pure else initializers.copy_of(value)
        if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
            return type(value)(self.value(item) for item in value)
        if isinstance(value, Mapping):
            return {key: self.value(item) for key, item in value.items()}
        return value

    def _sequential(self, model: building.Sequential, cls: type[building.Sequential]) -> building.Sequential:
        stack = model.layers
        copies = [self._named(layer, name) for layer, name in zip(stack, stack.names, strict=True)]
        if not self.is_pure and not self.names_of_symbols:
            for copy in copies:
                paths.put(copy, "")  # Keras builds the layers of a file before the model
            for _ in copies[1:] if stack.source is not None else ():
                naming.automatic_name("functional")  # Keras adds the layers one by one, each with a new graph
        source = None if stack.source is None else self.symbol(stack.source)
        outputs = tuple(jax.tree.map(self.symbol, output) for output in stack.outputs)
        for copy, symbol in zip(copies, (source, *outputs), strict=False):
            if symbol is not None and needs_build(copy):
                nodes = list(vars(copy).get("_nodes", ()))
                symbolic.record(copy, (symbol,), {})
                object.__setattr__(copy, "_nodes", nodes)  # this call is in no graph
        copied = building.LayerStack(tuple(copies), source, outputs)
        return cls(copied, **self._arguments(model, without=("layers",)))

    def _named(self, layer: object, name: str) -> Any:
        copy = self.layer(layer)
        if copy.name != name:
            object.__setattr__(copy, "name", name)
        return copy

    def _graph(self, model: building.Model, cls: type[building.Model]) -> building.Model:
        graph = model.graph
        held = {id(symbol): self.symbol(symbol) for symbol in jax.tree.leaves(graph.inputs)}

        def fill(tree: object) -> Any:
            return jax.tree.map(lambda leaf: held[id(leaf)] if isinstance(leaf, Symbol) else leaf, tree)

        for node in graph.nodes:
            copy = self._named(node.layer, graph.names[id(node.layer)])
            if needs_build(copy):
                outputs = jax.tree.leaves(symbolic.record(copy, fill(node.args), fill(node.kwargs)))
                held.update(zip(map(id, jax.tree.leaves(node.outputs)), outputs, strict=True))
                continue
            # The shapes are known, so the call is recorded without inferring them again.
            call = Node(copy, fill(node.args), fill(node.kwargs))
            call.outputs = jax.tree.map(
                lambda symbol, call=call: Symbol(symbol.shape, symbol.dtype, call), node.outputs
            )
            if copy is not node.layer or self.keep_custom:
                object.__setattr__(copy, "_nodes", [*vars(copy).get("_nodes", ()), call])
            held.update(zip(map(id, jax.tree.leaves(node.outputs)), jax.tree.leaves(call.outputs), strict=True))
        arguments = self._arguments(model, without=("inputs", "outputs", "graph"))
        return cls(fill(graph.inputs), fill(graph.outputs), **arguments)


def needs_build(layer: object) -> bool:
    """Returns whether a layer, or one inside it, is written as a Keras class and does not know its variables yet."""
    if not isinstance(layer, Layer):
        return False
    return (layer.BINDS_ATTRIBUTES and not layer.built) or any(needs_build(child) for _, child in layer.children())


def is_ours(cls: type) -> bool:
    """Returns whether a class belongs to this library, and not to the user."""
    return is_library(cls.__module__)


def is_library(module: str) -> bool:
    """Returns whether a module belongs to this library."""
    return module.partition(".")[0] in ("flaxmodels", "training")


def to_pure(layer: object) -> Any:
    """Returns the pure copy of a stateful layer or model, without values.

    A layer of a class of the user has no pure counterpart and is returned as it is.
    """
    return rebuild(layer, _pure_class)


def to_library(model: object) -> Any:
    """Returns the pure copy of a model that consists of layers, as a model of this library also for a user's class."""
    if is_ours(type(model)):
        return to_pure(model)
    base = building.Sequential if isinstance(model, building.Sequential) else building.Model
    copy = _Rebuild(lambda cls: base if cls is type(model) else _pure_class(cls), None)
    copy.is_pure = True
    return copy.layer(model)


def to_trained(model: object) -> Any:
    """Returns the pure copy of a model for training.

    Setting `trainable` of a model sets that of all layers inside it, so only the flags of the innermost layers and of
    the whole model count. The flags of the models in between are therefore True in the copy.
    """
    copy = clone(model, _pure_class)
    if copy is not model:
        _thaw_containers(copy, is_root=True)
    return copy


def is_private(model: object, copy: nn.Module) -> bool:
    """Returns whether nobody else holds a layer of the pure copy of a model: no layer is of a class of the user."""

    def is_private_layer(layer: nn.Module) -> bool:
        if not is_ours(type(layer)) or not isinstance(layer, Layer) or layer.KERAS_STYLE:
            return False
        fields = [value for value in vars(layer).values() if isinstance(value, nn.Module)]
        return all(map(is_private_layer, [*(child for _, child in layer.children()), *fields]))

    return copy is not model and is_private_layer(copy)


def _thaw_containers(layer: Any, is_root: bool = False) -> None:
    is_copy = isinstance(layer, Container) and layer.pure_class() is type(layer) and not layer.BINDS_ATTRIBUTES
    children = [child for _, child in layer.children()] if is_copy else []
    if children and not is_root:
        object.__setattr__(layer, "trainable", True)
    for child in children:
        _thaw_containers(child)


def _pure_class(cls: type) -> type | None:
    """Returns the pure class of a class with state, or None for a class of the user."""
    return cls.pure_class() if is_ours(cls) and issubclass(cls, Layer) else None
