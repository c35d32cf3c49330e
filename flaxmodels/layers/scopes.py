"""The scopes of the layers inside a model: a layer in several places has one scope, that of its first place.

flax binds a shared module once, to the first module that holds it. The layers of this library bind the layers inside
them in the order of `children`, before they compute. So the first place in a walk over `children` owns the variables.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import flax.linen as nn

from flaxmodels.layers import keras_state
from flaxmodels.layers.base import Layer, is_transformed
from flaxmodels.layers.linen import Linen

Path = tuple[str, ...]


class Place(NamedTuple):
    """A place of a layer inside a model.

    Attributes:
        path: The names of the layers around it and its own.
        layer: The layer, or another linen module.
        scope: The path of its first place, where its variables are.
    """

    path: Path
    layer: nn.Module
    scope: Path


def places_of(module: nn.Module) -> list[Place]:
    """Returns the places of a layer or model and of all layers inside it, in the order in which flax binds them.

    The layers inside a shared layer are listed at its first place only.

    Raises:
        ValueError: If a layer is shared with a part of the model that a transformation of flax computes.

    Example:
        >>> from flaxmodels import Sequential, layers
        >>> shared = layers.Dense(2)
        >>> model = Sequential([Sequential([shared], name="a"), Sequential([shared], name="b")])
        >>> [(place.path, place.scope) for place in places_of(model)][2:]
        [(('a', 'dense'), ('a', 'dense')), (('b',), ('b',)), (('b', 'dense'), ('a', 'dense'))]
    """
    known: dict[int, Place] = {}
    return list(_visit(module, (), known, False))


def scopes_of(module: nn.Module) -> list[tuple[Path, nn.Module]]:
    """Returns the scope of a layer or model and those of the distinct layers inside it."""
    return [(place.path, place.layer) for place in places_of(module) if place.path == place.scope]


def check_shared(names: Sequence[str], layers: Sequence[Layer]) -> None:
    """Raises if layers share one with a part of the model that a transformation of flax computes.

    Args:
        names: The scopes of the layers.
        layers: The layers of a model.
    """
    known: dict[int, Place] = {}
    for name, layer in zip(names, layers, strict=True):
        list(_visit(layer, (name,), known, False))


def _visit(module: nn.Module, path: Path, known: dict[int, Place], is_lifted: bool) -> Iterator[Place]:
    key = keras_state.origin_of(module.module if isinstance(module, Linen) else module)
    first = known.get(id(key))
    if first is not None and is_lifted and first.path != path:
        raise ValueError(
            f"A layer inside a class that flax transformed, such as nn.remat(Sequential), must be in no other place, "
            f"got {type(key).__name__} in {'/'.join(first.path)!r} and in {'/'.join(path)!r}; make two layers."
        )
    place = Place(path, module, path if first is None else first.path)
    yield place
    if first is not None:
        return
    known[id(key)] = place  # holds the layer: an id is unique only among living objects
    inside = is_lifted or is_transformed(keras_state.class_of(module))
    for name, child in module.children() if isinstance(module, Layer) else []:
        yield from _visit(child, (*path, name), known, inside)
