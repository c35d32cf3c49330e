"""Finds the weights of layers while a model computes: they are in the variables of that call, not in the layers."""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import Scope
from jax.typing import DTypeLike

from flaxmodels.layers import keras_state
from flaxmodels.layers.base import Layer

Path = tuple[str, ...]


class Place(NamedTuple):
    """Where the weights of a layer are during a call.

    Attributes:
        scope: The scope of a layer that is computing.
        path: The scopes from there to the layer.
        dtype: The dtype in which the computing layer reads floating-point weights.
    """

    scope: Scope
    path: Path
    dtype: DTypeLike

    @property
    def is_initializing(self) -> bool:
        """Whether the call creates the variables."""
        return bool(self.scope.get_flag("initializing", False))

    def read(self, collection: str, names: Path) -> jax.Array | None:
        """Returns a weight, or None if the call has none of this name."""
        first, *rest = (*self.path, *names)
        found: object = self.scope.get_variable(collection, first)
        for name in rest:
            found = found.get(name) if isinstance(found, Mapping) else None
        return None if found is None or isinstance(found, Mapping) else nn.meta.unbox(found)

    def write(self, collection: str, names: Path, value: jax.Array) -> None:
        """Replaces a weight for the rest of the call. While variables are created, the initial value stays.

        Raises:
            ValueError: If the caller does not keep the collection.
        """
        if self.is_initializing:
            return
        first, *rest = (*self.path, *names)
        if not self.scope.is_mutable_collection(collection):
            raise ValueError(
                f"A layer assigns {'/'.join((collection, *self.scope.path, first, *rest))}, which must be kept, got a "
                f"call that drops it; write apply(..., mutable=['params', 'batch_stats'])."
            )
        tree: object = value
        for name in reversed(rest):
            tree = {name: tree}
        self.scope.put_variable(collection, first, tree)


def place_of(layer: object) -> Place | None:
    """Returns where the weights of a layer are in the innermost call that contains it; None outside of such calls."""
    for frame in reversed(keras_state.frames.stack):
        path = _path_to(layer, frame.layer, ())
        if path is not None:
            return Place(keras_state.scope_of(frame.layer), path, frame.layer.compute_dtype)
    return None


def present(place: Place | None, collection: str, names: Path) -> jax.Array | None:
    """Returns a weight at a place, in the dtype in which the computing layer reads it; None if there is none."""
    found = None if place is None else place.read(collection, names)
    if place is None or found is None or not jnp.issubdtype(found.dtype, jnp.floating):
        return found
    return found.astype(place.dtype)


def _path_to(layer: object, module: nn.Module, path: Path) -> Path | None:
    """Returns the scopes from a module to a layer inside it, or None."""
    if keras_state.origin_of(module) is layer:
        return path
    for name, child in module.children() if isinstance(module, Layer) else []:
        found = _path_to(layer, child, (*path, name))
        if found is not None:
            return found
    return None
