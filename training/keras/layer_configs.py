"""Layers and models with state as Keras' configurations, and back."""

from typing import Any

from flaxmodels.interop import keras_config
from flaxmodels.layers.base import Layer
from flaxmodels.saving import custom, from_config
from training.keras import convert
from training.keras.custom_objects import ProgramObjects
from training.keras.inputs import InputLayer
from training.keras.layers import stateful_class
from training.keras.registry import CustomObjects
from training.keras.stateful import Stateful


def describe(layer: Layer | Stateful) -> dict[str, Any]:
    """Returns the configuration of a layer or model of this library, as Keras writes it."""
    with custom.using(ProgramObjects()):
        return keras_config.to_keras(convert.to_pure(layer))


def from_description(config: dict[str, Any], custom_objects: CustomObjects = None) -> Any:
    """Returns the layer or model with state of a configuration that Keras wrote.

    Args:
        config: The configuration.
        custom_objects: Classes and functions by name, in addition to the registered ones.
    """
    name = config["config"].get("name")
    if config.get("class_name") == "InputLayer":
        return InputLayer(**config["config"])
    with custom.using(ProgramObjects(custom_objects)):
        described = from_config(keras_config.from_keras(config))
    layer = convert.rebuild(described, stateful_class, keep_custom=True)
    if name:
        object.__setattr__(layer, "name", name)
    return layer
