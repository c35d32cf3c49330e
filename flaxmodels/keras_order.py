"""The order of Keras' `model.operations`: by distance from the outputs, then by a depth-first traversal from them.

Keras also counts the operations that compute masks. When a layer that takes a mask is called on one masked tensor and
nothing else, Keras adds the mask to the arguments of the call and keeps it there. The operations that compute the mask
then become nodes of the graph. They change the order, because they connect the layer with the input of the layer that
made the mask. Keras does not keep the mask if it has to convert the arguments (lists, keywords, a different dtype).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flaxmodels import mask_operations
from flaxmodels.layers.attention import ProjectedAttention, ScoredAttention
from flaxmodels.layers.base import Layer
from flaxmodels.layers.checks import computes_with_mask
from flaxmodels.layers.core import Lambda
from flaxmodels.layers.embedding import Embedding
from flaxmodels.layers.linen import Linen
from flaxmodels.layers.masking import Masking
from flaxmodels.layers.merge import Concatenate, Dot, Merge
from flaxmodels.layers.recurrent import Recurrent
from flaxmodels.layers.symbolic import Node, Symbol
from flaxmodels.layers.wrappers import Bidirectional, TimeDistributed
from flaxmodels.ops.base import OperationCall
from flaxmodels.trees import Tree


class MaskOperation:
    """An operation on masks that Keras counts as a node.

    Args:
        kind: Keras' name of the operation.
        config: The configuration of the operation, which does not affect the order.
        *arguments: Symbols, operations, and constants.
    """

    def __init__(self, kind: str, config: Mapping[str, object], *arguments: Any):
        self.arguments = arguments
        ranks = [np.ndim(argument) for argument in arguments]
        self.ndim = max(ranks, default=0) + {"ExpandDims": 1, "Any": -1}.get(kind, 0)


# A node of Keras' graph.
KerasNode = Node | MaskOperation | Symbol


def in_keras_order(
    nodes: Sequence[Node], outputs: Tree[Symbol], dtype: DTypeLike | None = None, inputs: Sequence[Symbol] = ()
) -> list[Layer | Symbol]:
    """Returns the distinct layers and operations of a graph in the order of Keras' `model.operations`.

    Args:
        nodes: The calls of the graph in topological order.
        outputs: A tree of the symbols that the graph computes.
        dtype: The model's dtype, which layers without their own dtype use.
        inputs: The symbols of inputs, which are in the list, too. Those that lead to no output are at its end.
    """
    sources = _sources(nodes, dtype, inputs)
    entered, left = _traversal(sources, outputs)
    depths: dict[KerasNode, int] = {}
    layer_depths: dict[int, int] = {id(symbol): 0 for symbol in inputs}
    for node in reversed(left):
        depth = depths.get(node, 0)
        if not isinstance(node, MaskOperation):
            depth = layer_depths[id(_layer_of(node))] = max(depth, layer_depths.get(id(_layer_of(node)), 0))
        for source in sources[node]:
            depths[source] = max(depth + 1, depths.get(source, 0))
    found = [_layer_of(node) for node in entered if not isinstance(node, MaskOperation)]
    # In Keras, the inputs that lead to no output are in front of the layers of the same depth.
    unused = [symbol for symbol in inputs if symbol not in entered]
    layers = list({id(layer): layer for layer in [*unused, *found]}.values())
    return sorted(layers, key=lambda layer: -layer_depths[id(layer)])


def _layer_of(node: Node | Symbol) -> Layer | Symbol:
    """Returns the layer of a call; an input stands for its own layer."""
    return node.layer if isinstance(node, Node) else node


def _traversal(
    sources: Mapping[KerasNode, list[KerasNode]], outputs: Tree[Symbol]
) -> tuple[list[KerasNode], list[KerasNode]]:
    """Returns calls and operations in the preorder and postorder of a depth-first traversal from the outputs."""
    entered: dict[KerasNode, None] = {}
    left: list[KerasNode] = []
    for output in jax.tree.leaves(outputs):
        path: list[tuple[KerasNode | None, Iterator[KerasNode]]] = [
            (None, iter([node for node in (output, output.node) if node in sources][:1]))
        ]
        while path:
            node, open_sources = path[-1]
            source = next((source for source in open_sources if source not in entered), None)
            if source is not None:
                entered[source] = None
                path.append((source, iter(sources[source])))
            else:
                path.pop()
                if node is not None:
                    left.append(node)
    return list(entered), left


# ---------------------------------------------------------------- masks


def _sources(
    nodes: Sequence[Node], dtype: DTypeLike | None, inputs: Sequence[Symbol]
) -> dict[KerasNode, list[KerasNode]]:
    """Returns for each call and each operation on masks the calls and operations of its inputs, in Keras' order."""
    masks: dict[int, object] = {}
    inside = set(nodes)
    sources: dict[KerasNode, list[KerasNode]] = {symbol: [] for symbol in inputs}

    known = set(inputs)

    def add(node: KerasNode, arguments: object) -> None:
        open_nodes: list[tuple[KerasNode, object]] = [(node, arguments)]
        while open_nodes:
            node, arguments = open_nodes.pop()
            leaves = [leaf for leaf in jax.tree.leaves(arguments) if isinstance(leaf, Symbol | MaskOperation)]
            needed = [leaf if isinstance(leaf, MaskOperation) or leaf in known else leaf.node for leaf in leaves]
            sources[node] = [leaf for leaf in needed if isinstance(leaf, MaskOperation) or leaf in inside | known]
            open_nodes += [(leaf, leaf.arguments) for leaf in sources[node]
                           if isinstance(leaf, MaskOperation) and leaf not in sources]  # fmt: skip

    for node in nodes:
        if isinstance(node.layer, OperationCall):  # It takes no masks of its arguments and passes none on.
            add(node, (node.args, node.kwargs))
            continue
        mask = node.kwargs.get("mask")
        carried = _masks_of(node.args[0], masks)
        keeps = mask is None and _keeps_mask(node, dtype)
        add(node, (node.args, node.kwargs | {"mask": carried} if keeps else node.kwargs))
        passed_on = _passed_on(node, carried if mask is None else mask, dtype)
        masks.update(zip(map(id, jax.tree.leaves(node.outputs)), passed_on, strict=False))
    return sources


def _masks_of(inputs: object, masks: Mapping[int, object]) -> object:
    """Returns the masks of a tree of symbols, in its structure."""
    return jax.tree.map(lambda leaf: masks.get(id(leaf)), inputs)


def _keeps_mask(node: Node, dtype: DTypeLike | None) -> bool:
    """Returns whether Keras adds the mask of the inputs to the arguments of a call without a mask."""
    layer, wanted = node.layer, node.layer.keras_input_dtype(dtype)
    if isinstance(layer, Linen) or not computes_with_mask(layer):
        return False
    if wanted is None:
        return not any(isinstance(leaf, Symbol) for leaf in jax.tree.leaves((node.args[1:], node.kwargs)))
    first, *further = node.args
    return not further and not node.kwargs and isinstance(first, Symbol) and _dtype_of(first, dtype) == wanted


def _passed_on(node: Node, mask: Any, dtype: DTypeLike | None) -> Iterable[object]:
    """Returns the masks of the outputs of a call, or an empty list if there are none."""
    layer: Any = node.layer
    inputs = _cast(node, dtype)
    first = mask[0] if isinstance(mask, list | tuple) and mask else mask
    if isinstance(layer, Embedding):
        return [mask_operations.embedding_mask(MaskOperation, inputs)] if layer.mask_zero else []
    if isinstance(layer, Masking):
        return [mask_operations.masking_mask(MaskOperation, inputs, layer.mask_value)]
    if isinstance(layer, Lambda):
        return [MaskOperation("mask", {}, *jax.tree.leaves((inputs, mask))) if callable(layer.mask) else layer.mask]
    if isinstance(layer, Concatenate):
        is_full = lambda value, mask: np.ndim(mask) >= np.ndim(value)  # noqa: E731
        return [mask_operations.concatenated_mask(MaskOperation, inputs, mask, layer.axis, is_full)]
    if isinstance(layer, Merge):
        return [] if isinstance(layer, Dot) else [mask_operations.merged_mask(MaskOperation, mask)]
    if isinstance(layer, ScoredAttention):
        return [] if first is None else [MaskOperation("ConvertToTensor", {}, first)]
    if isinstance(layer, Recurrent):
        return [first] if layer.return_sequences else []
    if isinstance(layer, Bidirectional):
        returned = layer.layer.return_sequences
        return [first] * (1 if layer.merge_mode is not None else 2) if returned else []
    if isinstance(layer, ProjectedAttention):
        return [first]
    passes = layer.SUPPORTS_MASKING or isinstance(layer, TimeDistributed)
    return jax.tree.leaves(mask, is_leaf=lambda leaf: leaf is None) if passes else []


def _cast(node: Node, dtype: DTypeLike | None) -> Any:
    """Returns the first argument of a call, with the casts that Keras adds to it."""
    wanted = node.layer.keras_input_dtype(dtype)

    def cast(leaf: object) -> object:
        if not isinstance(leaf, Symbol) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return leaf if wanted in (None, _dtype_of(leaf, dtype)) else MaskOperation("Cast", {}, leaf)

    return jax.tree.map(cast, node.args[0])


def _dtype_of(symbol: Symbol, dtype: DTypeLike | None) -> DTypeLike | None:
    """Returns the dtype of a symbol in a model of the given dtype, which was unknown when the symbol was created."""
    layer: Any = None if symbol.node is None else symbol.node.layer
    if symbol.node is None or dtype is None or layer.own_dtype is not None:
        return symbol.dtype
    if isinstance(layer, OperationCall):
        return _dtype_of_operation(symbol, dtype)
    inside = layer.inner_outputs()
    if inside is not None:
        leaves = [id(leaf) for leaf in jax.tree.leaves(symbol.node.outputs)]
        return _dtype_of(jax.tree.leaves(inside)[leaves.index(id(symbol))], dtype)
    return layer.keras_input_dtype(dtype) if symbol.dtype == layer.keras_input_dtype(None) else symbol.dtype


def _dtype_of_operation(symbol: Symbol, dtype: DTypeLike) -> DTypeLike:
    """Returns the dtype of an operation's output inside a model of a dtype.

    If the operation keeps the common dtype of its floating-point arguments, then that is their dtype in the model.
    """
    chain: set[Node] = set()
    open_nodes = [] if symbol.node is None else [symbol.node]
    while open_nodes:
        chain.add(node := open_nodes.pop())
        nodes = {leaf.node for leaf in node.symbols() if leaf.node is not None}
        open_nodes += [other for other in nodes - chain if isinstance(other.layer, OperationCall)]
    known: dict[Any, dict[int, Any]] = {}
    for node in sorted(chain, key=lambda node: node.order):
        floats = [leaf for leaf in node.symbols() if jnp.issubdtype(leaf.dtype, jnp.floating)]
        inside = [known[leaf.node][id(leaf)] if leaf.node in known else _dtype_of(leaf, dtype) for leaf in floats]
        before, after = (jnp.result_type(*dtypes) if dtypes else None for dtypes in ([x.dtype for x in floats], inside))
        known[node] = {id(x): after if x.dtype == before else x.dtype for x in jax.tree.leaves(node.outputs)}
    return known[symbol.node][id(symbol)]
