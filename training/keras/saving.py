"""Keras' `keras.saving`: models in files, and objects as configurations."""

from typing import Any

from training.keras import refused
from training.keras.models import load_model as load_model
from training.keras.models import save_model as save_model
from training.keras.registry import CustomObjectScope as CustomObjectScope
from training.keras.registry import custom_object_scope as custom_object_scope
from training.keras.registry import get_custom_objects as get_custom_objects
from training.keras.registry import get_registered_name as get_registered_name
from training.keras.registry import get_registered_object as get_registered_object
from training.keras.registry import register_keras_serializable as register_keras_serializable
from training.keras.serialization import deserialize_keras_object as deserialize_keras_object
from training.keras.serialization import serialize_keras_object as serialize_keras_object


def save_weights(model: Any, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
    """Writes the weights of a model; see the model's `save_weights`.

    Args:
        model: The model.
        filepath: The name of the file.
        overwrite: Whether an existing file is replaced.
        **kwargs: Arguments of `save_weights`.

    References:
        Keras, `keras.saving.save_weights`.
    """
    model.save_weights(filepath, overwrite=overwrite, **kwargs)


def load_weights(model: Any, filepath: Any, **kwargs: Any) -> None:
    """Reads the weights of a model; see the model's `load_weights`.

    Args:
        model: The model.
        filepath: The name of the file.
        **kwargs: Arguments of `load_weights`.

    References:
        Keras, `keras.saving.load_weights`.
    """
    model.load_weights(filepath, **kwargs)


__all__ = [
    "CustomObjectScope", "custom_object_scope", "deserialize_keras_object", "get_custom_objects",
    "get_registered_name", "get_registered_object", "load_model", "load_weights", "register_keras_serializable",
    "save_model", "save_weights", "serialize_keras_object",
]  # fmt: skip
__getattr__, __dir__ = refused.attach(__name__, __all__)
