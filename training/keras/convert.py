"""Converts between pure and stateful layers; both have the same arguments, names and graphs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from flaxmodels import building
from flaxmodels.layers.base import Layer
from flaxmodels.layers.symbolic import Symbol
from training.keras.stateful import Stateful

Choose = Callable[[type], type]


def rebuild(layer: Any, choose: Choose, copy: Callable[[Any], Any] | None = None) -> Any:
    """Returns a copy of a layer or model whose layers are of chosen classes.

    Args:
        layer: A layer or model.
        choose: Returns for the class of a layer the class of its copy, which takes the same arguments.
        copy: Returns the copy of a layer inside the model, instead of `choose`.
    """
    return _Rebuild(choose, copy).layer(layer)


class _Rebuild:
    """One copy: a layer that occurs twice is copied once."""

    def __init__(self, choose: Choose, copy: Callable[[Any], Any] | None):
        self.choose, self.copy = choose, copy
        self.copies: dict[int, Any] = {}
        self.originals: list[Any] = []  # keeps the ids unique

    def layer(self, layer: Any) -> Any:
        """Returns the copy of a layer."""
        if id(layer) not in self.copies:
            self.originals.append(layer)
            self.copies[id(layer)] = self._copy(layer)
        return self.copies[id(layer)]

    def _copy(self, layer: Any) -> Any:
        cls: Any = self.choose(type(layer))
        if isinstance(layer, building.Sequential):
            return self._sequential(layer, cls)
        if isinstance(layer, building.Model) and layer.graph is not None:
            return self._graph(layer, cls)
        if self.copy is not None:
            return self.copy(layer)
        return cls(**self._arguments(layer))

    def _arguments(self, layer: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
        return {
            field.name: self.value(getattr(layer, field.name))
            for field in dataclasses.fields(layer)
            if field.init and field.name not in ("parent", *without)
        }

    def value(self, value: Any) -> Any:
        """Returns the copy of an argument: layers in it are copied."""
        if isinstance(value, Layer):
            return self.layer(value)
        if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
            return type(value)(self.value(item) for item in value)
        if isinstance(value, Mapping):
            return {key: self.value(item) for key, item in value.items()}
        return value

    def _sequential(self, model: building.Sequential, cls: Any) -> Any:
        source = model.layers.source
        front = [] if source is None else [Symbol(source.shape, source.dtype, name=source.name)]
        names = model.layers.names
        copies = [self._named(layer, name) for layer, name in zip(model.layers, names, strict=True)]
        return cls([*front, *copies], **self._arguments(model, without=("layers",)))

    def _named(self, layer: Any, name: str) -> Any:
        copy = self.layer(layer)
        if copy.name != name:
            object.__setattr__(copy, "name", name)
        return copy

    def _graph(self, model: building.Model, cls: Any) -> Any:
        graph = model.graph
        held: dict[int, Symbol] = {
            id(symbol): Symbol(symbol.shape, symbol.dtype, name=symbol.name) for symbol in jax.tree.leaves(graph.inputs)
        }

        def fill(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: held[id(leaf)] if isinstance(leaf, Symbol) else leaf, tree)

        for node in graph.nodes:
            copy = self._named(node.layer, graph.names[id(node.layer)])
            outputs = copy(*fill(node.args), **fill(node.kwargs))
            held.update(zip(map(id, jax.tree.leaves(node.outputs)), jax.tree.leaves(outputs), strict=True))
        arguments = self._arguments(model, without=("inputs", "outputs", "graph"))
        return cls(fill(graph.inputs), fill(graph.outputs), **arguments)


def to_pure(layer: Any) -> Any:
    """Returns the pure copy of a stateful layer or model, without values.

    Classes of the user have no pure counterpart, so they are copied as they are.
    """
    return rebuild(layer, lambda cls: cls.pure_class() if issubclass(cls, Layer) else cls)


def is_stateful(layer: Any) -> bool:
    """Returns whether a layer holds values itself."""
    return isinstance(layer, Stateful)
