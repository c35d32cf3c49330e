"""Keras' words, Flax's modules: layers and models that are pure linen modules."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxmodels import activations as activations
    from flaxmodels import constraints as constraints
    from flaxmodels import initializers as initializers
    from flaxmodels import interop as interop
    from flaxmodels import layers as layers
    from flaxmodels import models as models
    from flaxmodels import regularizers as regularizers
    from flaxmodels.building import Input as Input
    from flaxmodels.building import Linen as Linen
    from flaxmodels.building import Model as Model
    from flaxmodels.building import Sequential as Sequential
    from flaxmodels.files import load as load
    from flaxmodels.files import load_weights as load_weights
    from flaxmodels.files import save as save
    from flaxmodels.kernels.dispatch import without_kernels as without_kernels
    from flaxmodels.kernels.native import kernels_info as kernels_info

__version__ = "0.1.0"

MODULES = ("activations", "constraints", "initializers", "interop", "layers", "models", "regularizers")
NAMES = {
    "Input": "building",
    "Linen": "building",
    "Model": "building",
    "Sequential": "building",
    "kernels_info": "kernels.native",
    "load": "files",
    "load_weights": "files",
    "save": "files",
    "without_kernels": "kernels.dispatch",
}

__all__ = [*NAMES, *MODULES]


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is asked for, because making all the classes of layers takes a while."""
    if name in MODULES:
        return importlib.import_module(f"flaxmodels.{name}")
    if name in NAMES:
        value = getattr(importlib.import_module(f"flaxmodels.{NAMES[name]}"), name)
        globals()[name] = value  # asked for once only
        return value
    raise AttributeError(f"module 'flaxmodels' has no attribute {name!r}; it has {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
