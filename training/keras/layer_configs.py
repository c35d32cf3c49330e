"""Layers and models with state as Keras' configurations, and back."""

from typing import Any

from flaxmodels.container import Container
from flaxmodels.interop import keras_config
from flaxmodels.layers.base import Layer
from flaxmodels.saving import custom, from_config
from training.keras import convert, registry, serialization
from training.keras.custom_objects import ProgramObjects
from training.keras.inputs import InputLayer
from training.keras.layers import stateful_class
from training.keras.registry import CustomObjects
from training.keras.stateful import Stateful


def describe(layer: Layer | Stateful) -> dict[str, Any]:
    """Returns the configuration of a layer or model of this library, as Keras writes it."""
    cls: Any = type(layer)
    if isinstance(layer, Stateful) and not isinstance(layer, Container) and cls.pure_class() is not cls:
        inner = {name: serialization.serialize_keras_object(value) for name, value in layer.get_config().items()}
        return {"module": "keras.layers", "class_name": cls.__name__, "config": inner, "registered_name": None}
    with custom.using(ProgramObjects()):
        return keras_config.to_keras(convert.to_pure(layer))


def from_description(config: dict[str, Any], custom_objects: CustomObjects = None) -> Any:
    """Returns the layer or model with state of a configuration that Keras wrote.

    Args:
        config: The configuration.
        custom_objects: Classes and functions by name, in addition to the registered ones.
    """
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
    layer = convert.rebuild(described, stateful_class, keep_custom=True)
    if name:
        object.__setattr__(layer, "name", name)
    return layer
