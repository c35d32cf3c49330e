"""Copies of layers written as Keras classes, as flax's `clone` makes them."""

import contextlib
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar

import flax.linen as nn
from flax.core import Scope
from flax.ids import FlaxId
from flax.linen import module as linen_module

from flaxmodels.layers import keras_state
from flaxmodels.layers.keras_state import STATE, state_of

if TYPE_CHECKING:
    from flaxmodels.layers.keras_style import KerasStyle

Instance = TypeVar("Instance", bound="KerasStyle")
# The copies of modules that flax has made for one clone, by the id of the original.
Clones = MutableMapping[FlaxId, nn.Module]
# What flax accepts as the parent of a module.
Parent = Scope | nn.Module | linen_module._Sentinel | None


def clone(
    layer: Instance, parent: Parent, deep: bool | Clones, reset_names: bool, updates: dict[str, object]
) -> Instance:
    """Returns a copy of a layer with another parent or other arguments, as flax's `clone` does."""
    new = object.__new__(type(layer))
    fields = [
        name
        for name, is_argument in keras_state.field_names(keras_state.class_of(layer)).items()
        if is_argument and name != "parent"
    ]
    values = {name: getattr(layer, name) for name in fields}
    if deep is not False:
        cache: Clones = {} if isinstance(deep, bool) else deep

        def clone_inner(module: Any) -> nn.Module:
            if not hasattr(module, "_id"):
                return module
            if module._id not in cache:
                names = {"name": None} if reset_names else {}
                cache[module._id] = module.clone(_deep_clone=cache, _reset_names=reset_names, **names)
            return cache[module._id]

        with keras_state.binding() if parent is not None else contextlib.nullcontext():
            values = {name: linen_module._map_submodules(clone_inner, value) for name, value in values.items()}
    values |= updates
    copy_attributes(new, layer, values)
    origin = keras_state.origin_of(layer)
    # Clones that flax makes stand for their original; another copy is a layer of its own.
    if parent is not None or keras_state.is_binding() or updates == {"name": None}:
        new.__dict__["_origin"] = origin
    object.__setattr__(new, "parent", parent)
    root = getattr(getattr(parent, "scope", parent), "root", None)
    if root is not None:
        keras_state.clones_of(root)[origin._id] = new
    new.__post_init__()
    return new


def copy_into(new: "KerasStyle", layer: "KerasStyle", fields: Mapping[str, object]) -> None:
    """Makes a new instance, whose constructor was not called, stand for a layer; its fields get the given values."""
    copy_attributes(new, layer, fields)
    new.__dict__["_origin"] = keras_state.origin_of(layer)
    object.__setattr__(new, "parent", fields["parent"])
    new.__post_init__()


def copy_attributes(new: "KerasStyle", layer: "KerasStyle", fields: Mapping[str, object]) -> None:
    """Gives a new instance the attributes of a layer that is perhaps bound, and the given values of its fields."""
    attributes = keras_state.attributes(layer)
    state = state_of(layer).copy()
    if layer.scope is not None:
        attributes = {name: keras_state.unbound(value) for name, value in attributes.items()}
        state.variables = [variable.descriptor for variable in state.variables]
    copies = {name: keras_state.copied(value, state) for name, value in attributes.items()}
    new.__dict__.update(copies | {name: value for name, value in fields.items() if name != "parent"})
    new.__dict__[STATE] = state
    if "built" in layer.__dict__:
        new.__dict__["built"] = layer.__dict__["built"]
