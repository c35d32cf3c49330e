"""The graph of a model: the calls of layers and operations between its inputs and outputs, and their names."""

import collections
from collections.abc import Sequence

import jax
from jax.typing import DTypeLike

from flaxmodels.keras_order import in_keras_order
from flaxmodels.layers.base import Layer
from flaxmodels.layers.linen import Linen
from flaxmodels.layers.scopes import check_shared
from flaxmodels.layers.symbolic import Node, Symbol
from flaxmodels.names import snake_case as snake_case
from flaxmodels.ops.base import OperationCall
from flaxmodels.trees import Tree


def scope_names(layers: Sequence[Layer]) -> list[str]:
    """Returns a name for each layer or operation: its `name`, or Keras' automatic one for its class.

    The first one of a class has no number, the second one has the number 1. A layer that is listed twice has one name.

    Raises:
        ValueError: If two layers have the same `name`, or a name contains a slash.
    """
    distinct = list({id(layer): layer for layer in layers}.values())
    for layer in distinct:
        if layer.name and (not isinstance(layer.name, str) or "/" in layer.name):
            raise ValueError(
                f"The name of a layer must be a string without '/', got {layer.name!r} for {type(layer).__name__}; "
                "use another character, such as '_'."
            )
    taken = collections.Counter(layer.name for layer in distinct if layer.name)
    repeated = [name for name, count in taken.items() if count > 1]
    if repeated:
        raise ValueError(
            f"Layers of one model need different names, got {repeated[0]!r} {taken[repeated[0]]} times; "
            "give each layer another `name`, or none."
        )
    names: dict[int, str] = {}
    used, counts = set(taken), collections.Counter[str]()
    for layer in distinct:
        name = layer.name
        while not name:
            stem = snake_case(type(layer.module).__name__ if isinstance(layer, Linen) else layer.class_name)
            candidate = f"{stem}_{counts[stem]}" if counts[stem] else stem
            counts[stem] += 1
            name = candidate if candidate not in used else None
        used.add(name)
        names[id(layer)] = name
    return [names[id(layer)] for layer in layers]


def _takes_one_symbol(node: Node) -> bool:
    """Returns whether a layer is called on one symbol and nothing else."""
    one = len(node.args) == 1 and isinstance(node.args[0], Symbol) and not node.kwargs
    return one and not isinstance(node.layer, OperationCall)


class Graph:
    """The inputs and outputs of a model, and the calls of layers and operations between them in order.

    Attributes:
        nodes: The calls in topological order.
        names: The names of the layers and operations by the `id` of each.
        followers: For a call of a layer, the next call if no other one reads its output.
    """

    def __init__(self, inputs: Tree[Symbol], outputs: Tree[Symbol]):
        self.inputs, self.outputs = inputs, outputs
        self._check_are_symbols()
        self.nodes = sorted(self._reachable(), key=lambda node: node.order)
        called = list({id(node.layer): node.layer for node in self.nodes}.values())
        names = scope_names(called)
        check_shared(names, called)
        self.names = dict(zip(map(id, called), names, strict=True))
        self._order: dict[str, list[Layer | Symbol]] = {}
        self.followers = self._followers()

    def in_order(self, dtype: DTypeLike | None) -> list[Layer | Symbol]:
        """Returns the inputs, and the distinct layers and operations, in the order of Keras' `model.operations`.

        Args:
            dtype: The model's dtype, on which the order depends.
        """
        if str(dtype) not in self._order:
            inputs = jax.tree.leaves(self.inputs)
            self._order[str(dtype)] = in_keras_order(self.nodes, self.outputs, dtype, inputs)
        return list(self._order[str(dtype)])

    def operations_in(self, dtype: DTypeLike | None) -> list[Layer]:
        """Returns the distinct layers and operations in Keras' order, which depends on the model's dtype."""
        return [layer for layer in self.in_order(dtype) if not isinstance(layer, Symbol)]

    def layers_in(self, dtype: DTypeLike | None) -> list[Layer]:
        """Returns the distinct layers in the order of Keras' `model.layers`, which depends on the model's dtype."""
        return [layer for layer in self.operations_in(dtype) if not isinstance(layer, OperationCall)]

    def __repr__(self) -> str:
        return f"<Graph of {', '.join(self.names.values())}>"

    def __reduce__(self) -> tuple[type["Graph"], tuple[Tree[Symbol], Tree[Symbol]]]:
        return Graph, (self.inputs, self.outputs)  # Names are stored by object id, and a copy has new layers.

    def _check_are_symbols(self) -> None:
        for what, tree in (("inputs", self.inputs), ("outputs", self.outputs)):
            leaves = jax.tree.leaves(tree)
            wrong = [leaf for leaf in leaves if not isinstance(leaf, Symbol)]
            if wrong or not leaves:
                given = f"{wrong[0]!r} of type {type(wrong[0]).__name__}" if wrong else "none"
                raise TypeError(
                    f"The {what} of a Model must be symbols, made by Input(...) and by calling layers on them, "
                    f"got {given}; write x = Input(shape), y = layer(x), Model(x, y)."
                )

    def _reachable(self) -> set[Node]:
        """Returns the calls that lead from the inputs to the outputs."""
        inputs = set(map(id, jax.tree.leaves(self.inputs)))
        nodes: set[Node] = set()
        open_symbols = list(jax.tree.leaves(self.outputs))
        while open_symbols:
            symbol = open_symbols.pop()
            if id(symbol) in inputs:
                continue
            if symbol.node is None:
                raise ValueError(
                    f"The outputs of a Model must depend only on its `inputs`, got outputs that also need {symbol!r}; "
                    "add it to `inputs`."
                )
            if symbol.node not in nodes:
                nodes.add(symbol.node)
                open_symbols.extend(symbol.node.symbols())
        return nodes

    def _followers(self) -> dict[Node, Node]:
        """Maps each call to the only call that reads its output, if there is one and both take a single symbol."""
        readers: dict[int, list[Node]] = collections.defaultdict(list)
        for node in self.nodes:
            for symbol in node.symbols():
                readers[id(symbol)].append(node)
        kept = set(map(id, jax.tree.leaves(self.outputs)))
        followers = {}
        for node in filter(_takes_one_symbol, self.nodes):
            output = node.outputs
            if isinstance(output, Symbol) and id(output) not in kept and len(readers[id(output)]) == 1:
                after = readers[id(output)][0]
                followers.update({node: after} if _takes_one_symbol(after) else {})
        return followers
