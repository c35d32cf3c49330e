"""Layers and models with state as Keras' configurations, and back."""

from typing import Any

from flaxmodels.container import Container
from flaxmodels.interop import keras_config
from flaxmodels.layers import keras_state
from flaxmodels.layers.base import Layer
from flaxmodels.saving import custom, from_config, sharing
from training.keras import convert, registry, serialization
from training.keras.custom_objects import ProgramObjects
from training.keras.inputs import InputLayer
from training.keras.layers import stateful_class
from training.keras.registry import CustomObjects
from training.keras.stateful import Stateful


def describe(layer: Layer | Stateful, shares: bool = False) -> dict[str, Any]:
    """Returns the configuration of a layer or model of this library, as Keras writes it.

    Args:
        layer: The layer or model.
        shares: Whether layers in several places have a number, as in files.
    """
    cls: Any = type(layer)
    if isinstance(layer, Stateful) and not isinstance(layer, Container) and cls.pure_class() is not cls:
        inner = {name: serialization.serialize_keras_object(value) for name, value in layer.get_config().items()}
        return {"module": "keras.layers", "class_name": cls.__name__, "config": inner, "registered_name": None}
    with custom.using(ProgramObjects()):
        return keras_config.to_keras(convert.to_pure(layer), shares)


def from_description(config: dict[str, Any], custom_objects: CustomObjects = None) -> Any:
    """Returns the layer or model with state of a configuration that Keras wrote.

    Args:
        config: The configuration.
        custom_objects: Classes and functions by name, in addition to the registered ones.
    """
    number = config.get("shared_object_id")
    known = sharing.built(number)
    if known is not None:
        return _with_state(known)
    layer = _build(config, custom_objects)
    if number is not None:
        pure = convert.to_pure(layer)  # for the pure models that are built from the same file
        object.__setattr__(pure, convert.STATEFUL_COPY, layer)
        sharing.note_built(number, pure)
    return layer


def _with_state(layer: object) -> object:
    """Returns a shared layer that a file described before, with state; its models get the same object."""
    if isinstance(layer, Layer) and convert.STATEFUL_COPY not in vars(layer):
        copy = convert.rebuild(layer, stateful_class)
        object.__setattr__(layer, convert.STATEFUL_COPY, copy)
        keras_state.note_origin(layer, copy)
    return vars(layer)[convert.STATEFUL_COPY]


def _build(config: dict[str, Any], custom_objects: CustomObjects) -> Any:
    """Returns the layer or model of a configuration; see `from_description`."""
    inner, kind = config["config"], config.get("class_name")
    if kind == "InputLayer":
        return InputLayer(**inner)
    if config.get("module") == "keras.layers" and kind in keras_config.LAYERS:
        cls: Any = stateful_class(keras_config.LAYERS[kind])
        with registry.CustomObjectScope(custom_objects or registry.present_scope()):
            return cls.from_config(inner)
    name = inner.get("name")
    with custom.using(ProgramObjects(custom_objects)):
        described = from_config(keras_config.from_keras(config))
    if name and described.name is None:
        object.__setattr__(described, "name", name)  # the copy then takes no automatic name
    layer = convert.rebuild(described, stateful_class, keep_custom=True)
    if name:
        object.__setattr__(layer, "name", name)
    return layer
