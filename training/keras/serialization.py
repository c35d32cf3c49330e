"""Objects as configurations, and back: the part of `keras.saving` that the other modules use.

A configuration never names code by itself: it may name the classes and functions of this package, which are in a closed
table, and those that the running program has registered.
"""

import dataclasses
import importlib
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from flaxmodels.interop import keras_config
from flaxmodels.layers.base import Layer
from flaxmodels.saving import sharing
from training.keras import config as settings
from training.keras import registry

Config = dict[str, Any]

# The modules of Keras that a configuration may name, and where their classes are here. They are imported when a
# configuration names them, because each of them uses this module for its `serialize` and `deserialize`.
MODULES = {
    "keras": "training.keras.config",
    "keras.constraints": "training.keras.constraints",
    "keras.dtype_policies": "training.keras.config",
    "keras.initializers": "training.keras.initializers",
    "keras.losses": "training.keras.losses",
    "keras.metrics": "training.keras.metrics",
    "keras.optimizers": "training.keras.optimizers",
    "keras.optimizers.schedules": "training.keras.optimizers.schedules",
    "keras.regularizers": "training.keras.regularizers",
}
FUNCTIONS = ("keras.activations", "keras.losses", "keras.metrics")
# The functions of these modules that a configuration may not name, and the classes of the first module that it may.
LOOKUPS = ("deserialize", "get", "serialize")
POLICIES = ("DTypePolicy", "FloatDTypePolicy")
PLAIN = (str, int, float, bool, type(None))


# ---------------------------------------------------------------- to configurations


def serialize_keras_object(obj: object) -> Any:
    """Describes an object by plain values, as Keras does.

    Args:
        obj: A layer, loss, metric, optimizer, schedule, initializer, regularizer, constraint or policy, an object of a
            class with `get_config`, a function with a name, an array, a plain value, or a container of these.

    Returns:
        A dictionary with "module", "class_name", "config" and "registered_name", or plain values.

    Raises:
        ValueError: If an object can be described only by code.

    References:
        Keras, `keras.saving.serialize_keras_object`.

    Example:
        >>> from flaxmodels.regularizers import L2
        >>> serialize_keras_object(L2(0.5))
        {'module': 'keras.regularizers', 'class_name': 'L2', 'config': {'l2': 0.5}, 'registered_name': None}
    """
    if isinstance(obj, PLAIN):
        return obj
    if isinstance(obj, list | tuple):
        return type(obj)(map(serialize_keras_object, obj))
    if isinstance(obj, Mapping):
        return {key: serialize_keras_object(value) for key, value in obj.items()}
    special = _special_config(obj)
    if special is not None:
        return special
    if isinstance(obj, types.FunctionType):
        if obj.__name__ == "<lambda>":
            raise ValueError(
                "A configuration must describe functions by their names, got a lambda; define the function with def."
            )
        name = registry.get_registered_name(obj)
        return {"module": "builtins", "class_name": "function", "config": name, "registered_name": "function"}
    if isinstance(obj, Layer) and not registry.is_registered(type(obj)) and _is_ours(obj):
        return _numbered(obj, _layer_configs().describe(obj))
    return _numbered(obj, _object_config(obj))


def _numbered(obj: object, described: Config) -> Config:
    """Returns the configuration of an object, with the number of a layer that several parts of a saved model hold."""
    number = sharing.number_of(obj) if isinstance(obj, Layer) else None
    return described if number is None else described | {"shared_object_id": number}


def _layer_configs() -> Any:
    """Returns the module that describes layers, which itself uses this one."""
    return importlib.import_module("training.keras.layer_configs")


def _special_config(obj: object) -> Any:
    """Returns the configuration of a value that is neither plain nor an object with arguments, otherwise None."""
    if isinstance(obj, bytes):
        return {"class_name": "__bytes__", "config": {"value": obj.decode()}}
    if isinstance(obj, slice):
        parts = {part: serialize_keras_object(getattr(obj, part)) for part in ("start", "stop", "step")}
        return {"class_name": "__slice__", "config": parts}
    if obj is Ellipsis:
        return {"class_name": "__ellipsis__", "config": {}}
    if isinstance(obj, np.generic) or (isinstance(obj, np.ndarray) and obj.ndim == 0):
        return obj.item()
    if isinstance(obj, np.ndarray | jax.Array):
        kind = "__numpy__" if isinstance(obj, np.ndarray) else "__tensor__"
        return {"class_name": kind, "config": {"value": np.asarray(obj).tolist(), "dtype": obj.dtype.name}}
    if isinstance(obj, np.dtype) or (isinstance(obj, type) and issubclass(obj, np.generic)):
        return np.dtype(obj).name
    return None


def _is_ours(layer: Layer) -> bool:
    """Returns whether the class of a layer belongs to this library, and not to the user."""
    return type(layer).__module__.partition(".")[0] in ("flaxmodels", "training")


def _object_config(obj: object) -> Config:
    cls = type(obj)
    arguments = _arguments(obj)
    for module in MODULES:
        if not registry.is_registered(cls) and _class_in(module, cls.__name__) in (cls, *cls.__subclasses__()):
            return {"module": module, "class_name": cls.__name__, "config": arguments, "registered_name": None}
    return {
        "module": cls.__module__,
        "class_name": cls.__name__,
        "config": arguments,
        "registered_name": registry.get_registered_name(cls),
    }


def _arguments(obj: object) -> Config:
    """Returns the arguments of an object: from its `get_config`, otherwise the fields of a dataclass."""
    if hasattr(obj, "get_config"):
        given = obj.get_config()
        if not isinstance(given, Mapping):
            raise TypeError(
                f"get_config of {type(obj).__name__} must return a dictionary of arguments, got {given!r}; change it."
            )
        # Only this library has this argument, so Keras can read a configuration in which it has no effect.
        given = {key: value for key, value in given.items() if value or key != "exclude_from_weight_decay"}
        return {key: serialize_keras_object(value) for key, value in given.items()}
    if not dataclasses.is_dataclass(obj):
        raise ValueError(
            f"A configuration describes objects with get_config, got {obj!r} of type {type(obj).__name__}; define "
            "get_config, which returns the arguments of its constructor."
        )
    fields = (field.name for field in dataclasses.fields(obj) if field.init)
    return {name: serialize_keras_object(getattr(obj, name)) for name in fields}


# ---------------------------------------------------------------- from configurations


def deserialize_keras_object(
    config: object, custom_objects: Mapping[str, object] | None = None, safe_mode: bool = True
) -> Any:
    """Returns the object of a configuration.

    Args:
        config: What `serialize_keras_object` returned, here or in Keras.
        custom_objects: Classes and functions by name, in addition to the registered ones.
        safe_mode: Only True: code in configurations is never run.

    Raises:
        ValueError: If the configuration names an unknown class or function, or contains code.

    References:
        Keras, `keras.saving.deserialize_keras_object`.

    Example:
        >>> deserialize_keras_object({"module": "keras.regularizers", "class_name": "L2", "config": {"l2": 0.5}})
        L2(l2=0.5)
    """
    if not safe_mode:
        raise ValueError(
            "`safe_mode` must be True, because code in configurations is never run, got False; define the function in "
            "the program and pass it in `custom_objects`."
        )
    if isinstance(config, str) and custom_objects and config in custom_objects:
        return custom_objects[config]
    if isinstance(config, PLAIN):
        return config
    if isinstance(config, list | tuple):
        return [deserialize_keras_object(item, custom_objects) for item in config]
    if not isinstance(config, Mapping):
        raise TypeError(
            f"`config` must consist of plain values, got a {type(config).__name__}; use serialize_keras_object."
        )
    if "class_name" not in config or "config" not in config:
        return {key: deserialize_keras_object(value, custom_objects) for key, value in config.items()}
    kind, inner = config["class_name"], config["config"]
    if kind == "function":
        return _function(inner, custom_objects)
    inner = {} if inner is None else inner
    if not isinstance(kind, str) or not isinstance(inner, Mapping):
        raise ValueError(
            f"A configuration must have a name as 'class_name' and a dictionary as 'config', got {kind!r} and "
            f"{inner!r}; use serialize_keras_object."
        )
    if kind.startswith("__"):
        return _special_value(kind, inner, custom_objects)
    return _object(config, kind, inner, custom_objects)


def deserialize_named(
    module: str, config: object, custom_objects: Mapping[str, object] | None, resolve: Callable[[str], Any]
) -> Any:
    """Returns the object of a configuration for the `deserialize` of one of Keras' modules.

    Args:
        module: Keras' module, such as "keras.losses".
        config: What `serialize_keras_object` returned, or only the name of a class or function.
        custom_objects: Classes and functions by name, in addition to the registered ones.
        resolve: Returns the class or function of any name that the module knows.

    Raises:
        ValueError: If the configuration names an unknown class or function.
    """
    if isinstance(config, str):
        found = registry.get_registered_object(config, custom_objects)
        found = resolve(config) if found is None else found
        return found() if isinstance(found, type) else found
    if not isinstance(config, Mapping):
        return deserialize_keras_object(config, custom_objects)
    kind = config.get("class_name")
    if not isinstance(kind, str):
        raise ValueError(
            f"A configuration must have a name as 'class_name' and a dictionary as 'config', got {dict(config)!r}; use "
            "`serialize`."
        )
    described = {"module": module, "config": {}, **config}
    is_custom = any(
        isinstance(name, str) and registry.get_registered_object(name, custom_objects) is not None
        for name in (config.get("registered_name"), kind)
    )
    if not is_custom and kind != "function" and described["module"] == module and _class_in(module, kind) is None:
        found = resolve(kind)
        if not isinstance(found, type):
            return found
        described["class_name"] = found.__name__
    return deserialize_keras_object(described, custom_objects)


def _class_in(module: str, name: str) -> Any:
    """Returns the class of a name in one of Keras' modules, or None; helpers of the modules have no names in files."""
    place = importlib.import_module(MODULES[module])
    names = POLICIES if place is settings else place.__all__
    found = getattr(place, name, None) if name in names else None
    return found if isinstance(found, type) else None


def _function(name: Any, custom_objects: Mapping[str, Any] | None) -> Any:
    found = registry.get_registered_object(name, custom_objects) if isinstance(name, str) else None
    for module in FUNCTIONS:
        place = importlib.import_module(module.replace("keras", "training.keras", 1))
        known = getattr(place, name) if name in place.__all__ and name not in LOOKUPS else None
        if found is None and isinstance(known, types.FunctionType):
            found = known
    if found is None:
        raise ValueError(
            f"A configuration may name functions of Keras and registered ones, got {name!r}; register it with "
            "@keras.saving.register_keras_serializable(), or pass it in `custom_objects`."
        )
    return found


def _special_value(kind: str, inner: Mapping[str, Any], custom_objects: Mapping[str, Any] | None) -> Any:
    if kind == "__bytes__":
        return inner["value"].encode()
    if kind == "__slice__":
        return slice(*(deserialize_keras_object(inner[part], custom_objects) for part in ("start", "stop", "step")))
    if kind == "__ellipsis__":
        return Ellipsis
    if kind == "__numpy__":
        return np.array(inner["value"], inner["dtype"])
    if kind == "__tensor__":
        return jax.numpy.asarray(np.array(inner["value"], jax.numpy.dtype(inner["dtype"])))
    what = "the code of a lambda" if kind == "__lambda__" else f"a {kind!r}"
    raise ValueError(
        f"A configuration must describe its objects by names and plain values, got {what}, which is never run; define "
        "a function in the program and register it."
    )


def _object(
    config: Mapping[str, object], kind: str, inner: Mapping[str, object], custom: Mapping[str, object] | None
) -> Any:
    for name in (config.get("registered_name"), kind):
        cls = registry.get_registered_object(name, custom) if isinstance(name, str) else None
        if cls is not None:
            number = config.get("shared_object_id")
            known = sharing.built(number)
            return sharing.note_built(number, _custom(cls, inner, custom)) if known is None else known
    module = config.get("module")
    if module in keras_config.MODULES["layer"] | keras_config.MODULES["model"] and kind not in vars(settings):
        return _layer_configs().from_description({"module": module, **config}, custom)
    cls = _class_in(module, kind) if isinstance(module, str) and module in MODULES else None
    if cls is None:
        raise ValueError(
            f"A configuration may name classes of Keras and registered ones, got {kind!r} of the module {module!r}; "
            "register it with @keras.saving.register_keras_serializable(), or pass it in `custom_objects`."
        )
    arguments = {key: deserialize_keras_object(value, custom) for key, value in inner.items()}
    return cls(**arguments)


def _custom(cls: Any, inner: Mapping[str, Any], custom: Mapping[str, Any] | None) -> Any:
    """Returns the object of a class of the user, whose `from_config` may look up other registered classes."""
    if isinstance(cls, types.FunctionType):
        return cls
    if not hasattr(cls, "from_config"):
        return cls(**{key: deserialize_keras_object(value, custom) for key, value in inner.items()})
    arguments = dict(inner)
    if isinstance(arguments.get("dtype"), Mapping):
        policy = deserialize_keras_object(arguments["dtype"])
        # Models take only names. A name is enough if the weights are float32.
        is_named = isinstance(policy, settings.DTypePolicy) and policy.variable_dtype == "float32"
        arguments["dtype"] = policy.name if is_named else policy
    with registry.CustomObjectScope(custom or registry.present_scope()):
        return cls.from_config(arguments)
