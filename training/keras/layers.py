"""Keras' layers, which hold the values of their variables. Type checkers read `layers.pyi`."""

import functools
import sys
from collections.abc import Mapping
from typing import Any

from flaxmodels import layers as pure
from flaxmodels.interop import keras_config
from flaxmodels.layers.attention import ProjectedAttention
from flaxmodels.layers.base import Layer as PureLayer
from flaxmodels.saving import from_config
from training.keras import convert, refused, serialization
from training.keras.docstrings import without_example
from training.keras.inputs import Input as Input
from training.keras.inputs import InputLayer as InputLayer
from training.keras.stateful import Stateful, registered, with_seed

# The functions that merge symbols or arrays, and their classes.
MERGES = {name: name.capitalize() for name in "add average concatenate dot maximum minimum multiply subtract".split()}


def _merge_function(name: str) -> Any:
    """Returns the function that merges symbols or arrays with a new layer, which holds a name like all others."""
    layer_class: Any = stateful_class(getattr(pure, MERGES[name]))

    @functools.wraps(getattr(pure, name))
    def merge(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if name == "dot" and not args:
            kwargs.setdefault("axes", -1)
        return layer_class(*args, **kwargs)(inputs)

    return merge


@functools.cache
def stateful_class(cls: type[PureLayer]) -> type[PureLayer]:
    """Returns the class that adds state to a class of pure layers."""
    if issubclass(cls, Stateful):
        return cls
    known = registered(cls)
    if known is not None:
        return known
    namespace = {
        "__doc__": without_example(cls),
        "__module__": __name__,
        "__qualname__": cls.__name__,
        "adds_state_to": cls,
    }
    bases = (SeededProjections, Stateful, cls) if issubclass(cls, ProjectedAttention) else (Stateful, cls)
    return type(cls)(cls.__name__, bases, namespace)


class SeededProjections:
    """Mixin of attention layers, whose projections each have a seed for their initial weights."""

    def projections(self, features: tuple[int, ...]) -> dict[str, Any]:
        """Returns the projections, whose initializers have the seeds that were drawn for them."""
        made = super().projections(features)  # type: ignore[misc]
        for name, layer in made.items():
            for argument in ("kernel_initializer", "bias_initializer"):
                seed = self.__dict__.get("_seeds", {}).get(f"{name}/{argument}")
                if seed is not None:
                    object.__setattr__(layer, argument, with_seed(vars(layer)[argument], seed))
        return made


def serialize(layer: Any) -> Any:
    """Describes a layer by plain values.

    References:
        Keras, `keras.layers.serialize`.
    """
    return serialization.serialize_keras_object(layer)


def deserialize(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """Returns the layer of a configuration.

    Args:
        config: What `serialize` returned, here or in Keras.
        custom_objects: Classes and functions by name, in addition to the registered ones.

    Raises:
        ValueError: If the configuration names an unknown class or function.

    References:
        Keras, `keras.layers.deserialize`.
    """
    described = {"module": "keras.layers", **config} if isinstance(config, Mapping) else config
    layer = serialization.deserialize_keras_object(described, custom_objects)
    if not isinstance(layer, PureLayer | InputLayer):
        raise ValueError(
            f"`config` must describe a layer, got one of type {type(layer).__name__}; use `keras.layers.serialize`."
        )
    return layer


def describe(layer: PureLayer) -> dict[str, Any]:
    """Returns the configuration of a layer or model of this library, as Keras writes it."""
    return keras_config.to_keras(convert.to_pure(layer))


def from_description(config: dict[str, Any]) -> Any:
    """Returns the layer or model with state of a configuration that Keras wrote."""
    name = config["config"].get("name")
    if config.get("class_name") == "InputLayer":
        return InputLayer(**config["config"])
    layer = convert.rebuild(from_config(keras_config.from_keras(config)), stateful_class)
    if name:
        object.__setattr__(layer, "name", name)
    return layer


_refuse, __dir__ = refused.attach(__name__, {*pure.__all__, "InputLayer", "deserialize", "serialize"})


def __getattr__(name: str) -> Any:
    value = getattr(pure, name) if name in pure.__all__ else _refuse(name)
    if name in MERGES:
        value = _merge_function(name)
    if isinstance(value, type) and issubclass(value, PureLayer):
        value = stateful_class(value)  # type: ignore[arg-type]  # classes are hashable
    setattr(sys.modules[__name__], name, value)
    return value
