"""Keras' layers, which hold the values of their variables."""

import functools
import sys
from typing import Any

from flaxmodels import layers as pure
from flaxmodels.layers.base import Layer as PureLayer
from training.keras.docstrings import without_example
from training.keras.inputs import Input as Input
from training.keras.inputs import InputLayer as InputLayer
from training.keras.stateful import Stateful, registered


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
    return type(cls)(cls.__name__, (Stateful, cls), namespace)


def __getattr__(name: str) -> Any:
    if name not in pure.__all__ or name == "Input":
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; dir({__name__}) lists the known ones.",
            name=name,
            obj=sys.modules[__name__],
        )
    value = getattr(pure, name)
    if isinstance(value, type) and issubclass(value, PureLayer):
        value = stateful_class(value)  # type: ignore[arg-type]  # classes are hashable
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted({*pure.__all__, "InputLayer"})
