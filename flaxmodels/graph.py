"""What lies between a model's inputs and its outputs: layers with their names, and the calls that connect them."""

import collections
import re
from collections.abc import Sequence
from typing import Any

import jax

from flaxmodels.keras_order import in_keras_order
from flaxmodels.layers.base import Layer
from flaxmodels.layers.linen import Linen
from flaxmodels.layers.symbolic import Node, Symbol


def snake_case(class_name: str) -> str:
    """Keras' automatic name of a class: "Conv2DTranspose" is "conv2d_transpose"."""
    words = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", class_name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", words).lower()


def scope_names(layers: Sequence[Any]) -> list[str]:
    """One name for each layer: its own, or Keras' automatic one, numbered from the second of a class on.

    Raises:
        ValueError: If two layers ask for the same name, or a name has a slash.
    """
    for layer in layers:
        if layer.name and (not isinstance(layer.name, str) or "/" in layer.name):
            raise ValueError(
                f"The name of a layer is a string without '/', got {layer.name!r} for {type(layer).__name__}; "
                "use another character, such as '_'."
            )
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
            stem = snake_case(type(layer.module if isinstance(layer, Linen) else layer).__name__)
            candidate = f"{stem}_{counts[stem]}" if counts[stem] else stem
            counts[stem] += 1
            name = candidate if candidate not in used else None
        used.add(name)
        names.append(name)
    return names


def check_scopes(names: Sequence[str], layers: Sequence[Any]) -> None:
    """Refuses a layer in two scopes: it would have parameters of its own in each, where one layer means to share them.

    Raises:
        ValueError: If a layer comes twice, or once by itself and once inside another one.
    """
    # The layers are kept beside the names: an id stands for a layer only as long as the layer lives.
    places: dict[int, tuple[str, Any]] = {}
    for name, layer in zip(names, layers, strict=True):
        inside = _with_inner(layer)
        for inner in inside:
            if id(inner) in places:
                raise ValueError(
                    f"A layer has its parameters in one scope, but one {type(inner).__name__} is in "
                    f"{places[id(inner)][0]!r} and in {name!r}; share it by calling it twice in one Model, or make two."
                )
        places.update((id(inner), (name, inner)) for inner in inside)


def _with_inner(layer: Any) -> list[Any]:
    """A layer and the distinct layers inside it."""
    inside = [layer.module] if isinstance(layer, Linen) else []
    for _, child in layer.children() if isinstance(layer, Layer) else []:
        inside.extend(_with_inner(child))
    return list({id(inner): inner for inner in [layer, *inside]}.values())


def _takes_one_symbol(node: Node) -> bool:
    """Whether a call takes one symbol and nothing else."""
    return isinstance(node.args[0], Symbol) and not node.args[1:] and not node.kwargs


class Graph:
    """Inputs, outputs and what lies between them: calls of layers in order, and the layers with their names."""

    def __init__(self, inputs: Any, outputs: Any):
        self.inputs, self.outputs = inputs, outputs
        self._check_are_symbols()
        self.nodes = sorted(self._reachable(), key=lambda node: node.order)
        called = list({id(node.layer): node.layer for node in self.nodes}.values())
        names = scope_names(called)
        check_scopes(names, called)
        self.names = dict(zip(map(id, called), names, strict=True))
        self._layers: dict[str, list[Layer]] = {}
        self.followers = self._followers()

    def layers_in(self, dtype: Any) -> list[Layer]:
        """The distinct layers in the order of Keras' `model.layers`, for a model of this dtype, None included."""
        if str(dtype) not in self._layers:
            self._layers[str(dtype)] = in_keras_order(self.nodes, self.outputs, dtype)
        return list(self._layers[str(dtype)])

    def __repr__(self) -> str:
        return f"<Graph of {', '.join(self.names.values())}>"

    def __reduce__(self) -> Any:
        return Graph, (self.inputs, self.outputs)  # the names go by id, which a copy has anew

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

    def _followers(self) -> dict[Node, Node]:
        """The call after a call, where it alone reads the one output, and both take one symbol and nothing else."""
        readers: dict[int, list[Node]] = collections.defaultdict(list)
        for node in self.nodes:
            for symbol in node.symbols():
                readers[id(symbol)].append(node)
        kept = set(map(id, jax.tree.leaves(self.outputs)))
        found = {}
        for node in filter(_takes_one_symbol, self.nodes):
            output = node.outputs
            if isinstance(output, Symbol) and id(output) not in kept and len(readers[id(output)]) == 1:
                after = readers[id(output)][0]
                found.update({node: after} if _takes_one_symbol(after) else {})
        return found
