"""Traces which inputs of a model reach a layer that looks up integers, such as an Embedding."""

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import flax.linen as nn

from flaxmodels.trees import Tree

if TYPE_CHECKING:
    from flaxmodels.layers.base import Layer

# For each array, the indices of the model's inputs whose values it holds.
Sources: TypeAlias = Tree[frozenset[int]]


class Lookup(NamedTuple):
    """A layer that takes integers of a limited range from an input of a model.

    Attributes:
        source: The index of the model's input.
        path: The scopes of the layer, joined by "/".
        layer: The name of the layer's class.
        size: The number of valid integers, which start at 0.
    """

    source: int
    path: str
    layer: str
    size: int


def trace(
    layer: "Layer", sources: Sources, lookups: list[Lookup], path: str, *args: object, **kwargs: object
) -> Sources:
    """Calls `layer.trace_inputs`, unless a subclass changes the computation without changing the tracing.

    Args:
        layer: A layer.
        sources: One set for each input of the layer: the indices of the model's inputs whose values it holds. The set
            is empty if the input holds other values.
        lookups: A list that receives the layers that look up integers.
        path: The scopes of the layer, joined by "/".
        *args: Further arguments of the call.
        **kwargs: Further arguments of the call.

    Returns:
        A set for each output, or one for all.
    """
    classes = type(layer).__mro__
    computing = next(i for i, cls in enumerate(classes) if {"compute", "outputs_and_mask"} & set(vars(cls)))
    tracing = next(i for i, cls in enumerate(classes) if "trace_inputs" in vars(cls))
    return layer.trace_inputs(sources, lookups, path, *args, **kwargs) if tracing <= computing else frozenset()


@nn.nowrap
def keep_values(
    layer: "Layer", sources: Sources, lookups: list[Lookup], path: str, *args: object, **kwargs: object
) -> Sources:
    """Implements `trace_inputs` for a layer whose outputs are values of its inputs, or 0."""
    return sources
