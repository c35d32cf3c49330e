"""Layers whose class decides itself what a file holds of them: `save_own_variables` and `load_own_variables`."""

from typing import Any

import flax.linen as nn

from flaxmodels.interop.keras_files import Arrays
from flaxmodels.layers import keras_state
from training.keras.convert import is_library

METHODS = frozenset(("save_own_variables", "load_own_variables"))


def has_own_store(layer: nn.Module | None) -> bool:
    """Returns whether the class of a layer overrides how its variables are saved or loaded."""
    found = (getattr(type(layer), name, None) for name in METHODS)
    return any(method is not None and not is_library(method.__module__) for method in found)


def store_of(layer: nn.Module | None) -> Arrays | None:
    """Returns what a layer puts into a file; None if its class leaves that to the library."""
    if layer is None or not has_own_store(layer):
        return None
    store: Arrays = {}
    stateful: Any = keras_state.origin_of(layer)
    stateful.save_own_variables(store)
    return store
