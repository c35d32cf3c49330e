"""Custom classes and functions of a program in the files of its models."""

import types

from flaxmodels.layers.base import Layer
from flaxmodels.saving.format import Json
from training.keras import convert, registry, serialization
from training.keras.stateful import Stateful

Config = dict[str, Json]


class ProgramObjects:
    """Describes and builds objects of the classes that the program registered, for `flaxmodels.saving.custom`.

    Args:
        custom_objects: Further classes and functions by name.
    """

    def __init__(self, custom_objects: registry.CustomObjects = None):
        self.custom_objects = dict(custom_objects or {})

    def describe(self, thing: object) -> Config | None:
        """Returns the configuration of an object of the user, or None for another one."""
        if isinstance(thing, types.FunctionType):
            is_users = not convert.is_library(thing.__module__ or "") and thing.__name__ != "<lambda>"
        else:
            is_users = not convert.is_ours(type(thing)) and hasattr(thing, "get_config") and not isinstance(thing, type)
        if not is_users:
            return None
        described: Config = serialization.serialize_keras_object(thing)
        built = thing.get_build_config() if isinstance(thing, Stateful) and _builds_itself(thing) else None
        return described | ({"build_config": serialization.serialize_keras_object(built)} if built else {})

    def is_known(self, described: Config) -> bool:
        """Returns whether the program registered the class or function that a configuration names."""
        name: Json = described.get("registered_name")
        module, kind = described.get("module"), described.get("class_name")
        if kind == "function":
            name = described.get("config")
        elif name is None and not (isinstance(module, str) and module.partition(".")[0] == "keras"):
            name = kind
        return isinstance(name, str) and registry.get_registered_object(name, self.custom_objects) is not None

    def build(self, described: Config) -> object:
        """Returns the object of a configuration."""
        made = serialization.deserialize_keras_object(described, self.custom_objects)
        built = described.get("build_config")
        if isinstance(made, Layer) and isinstance(built, dict) and _builds_itself(made) and not made.built:
            made.build_from_config(built)
        return made


def _builds_itself(thing: object) -> bool:
    """Returns whether an object has build configurations that are not those of every layer."""
    names = ("get_build_config", "build_from_config")
    return any(getattr(type(thing), name, None) not in (None, getattr(Stateful, name)) for name in names)
