"""Saves and loads models in the format given by the suffix of the file name: this library's, or one of Keras'."""

import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

import flaxmodels  # `flaxmodels.interop` is imported on first use, for Keras files.
from flaxmodels import formats, saving
from flaxmodels.layers.base import Layer


def save(
    path: str | os.PathLike[str], model: nn.Module, variables: Mapping[str, object], architecture: bool | None = None
) -> None:
    """Writes a model and its variables into one file, completely or not at all; equal models give equal bytes.

    Args:
        path: The file. Its name ends in ".safetensors" for the format of flaxmodels, in ".keras" for a model that Keras
            can load, or in ".weights.h5" for weights that Keras can load.
        model: A model made of this library's layers.
        variables: The model's variables.
        architecture: Whether the file also holds the architecture. `load_weights` reads a file without it. The default
            is True for ".safetensors"; a ".weights.h5" file never holds it, and a ".keras" file always does.

    Raises:
        ValueError: If the suffix is unknown, or the format cannot describe a part of the model.

    Example:
        >>> import tempfile, jax, jax.numpy as jnp
        >>> from flaxmodels import Input, Sequential, layers
        >>> model = Sequential([Input((3,)), layers.Dense(2)])
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/model.keras", model, variables)
        ...     again, _ = load(f"{folder}/model.keras")
        >>> again.output_shape
        (None, 2)
    """
    check_architecture(path, architecture)
    suffix = formats.suffix_of(path)
    if suffix == ".safetensors":
        saving.save(path, model, variables, architecture is not False)
    elif suffix == ".keras":
        flaxmodels.interop.save_keras(path, _as_layer(model), variables)
    else:
        flaxmodels.interop.save_keras_weights(path, _as_layer(model), variables)


def check_can_save(path: str | os.PathLike[str], model: nn.Module, architecture: bool | None = None) -> None:
    """Raises if `save` would refuse the model regardless of its variables."""
    check_architecture(path, architecture)
    suffix = formats.suffix_of(path)
    if suffix == ".keras":
        flaxmodels.interop.keras_files.check_can_save(_as_layer(model))
    elif suffix == ".safetensors" and architecture is not False:
        saving.to_config(model)
    elif suffix == ".weights.h5":
        _as_layer(model)


def check_architecture(path: str | os.PathLike[str], architecture: bool | None, given: str | None = None) -> None:
    """Raises unless the format of a file can hold the architecture, or leave it out, as requested.

    Args:
        path: The file.
        architecture: Whether the file holds the architecture; None if either is acceptable.
        given: The argument and its value for the error, such as "save_weights_only=True".
    """
    suffix = formats.suffix_of(path)
    given = given or f"architecture={architecture}"
    if suffix == ".keras" and architecture is False:
        raise ValueError(
            f"A '.keras' file always holds the architecture, got {os.fspath(path)!r} with {given}; "
            "use '.weights.h5' or '.safetensors' for weights alone."
        )
    if suffix == ".weights.h5" and architecture:
        raise ValueError(
            f"A '.weights.h5' file holds weights alone, got {os.fspath(path)!r} with {given}; "
            "use '.keras' or '.safetensors' for a whole model, or change the argument."
        )


def _as_layer(model: nn.Module) -> Layer:
    if not isinstance(model, Layer):
        raise ValueError(
            f"A Keras file names Keras layers, but {type(model).__name__} is a linen module; "
            "save it as '.safetensors' with architecture=False."
        )
    return model


def load(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """Reads a model and its variables.

    Args:
        path: A ".safetensors" file that `save` wrote, or a ".keras" file that `save` or Keras wrote.

    Returns:
        The model and its variables: `model.apply(variables, x)` gives the same outputs as before saving.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file has a different format, is damaged, or its arrays do not fit its architecture.
    """
    formats.check_is_file(path)
    suffix = formats.suffix_of(path)
    if suffix == ".weights.h5":
        raise ValueError(
            f"{path} holds weights without an architecture; build the model and use "
            "interop.load_keras_weights(path, model, variables)."
        )
    return saving.load(path) if suffix == ".safetensors" else flaxmodels.interop.load_keras(path)


def load_weights(path: str | os.PathLike[str], variables: Mapping[str, object]) -> dict[str, Any]:
    """Reads variables of the given structure and ignores the architecture in the file.

    Args:
        path: A ".safetensors" file that `save` wrote.
        variables: Variables, or their shapes, as `model.init` makes them.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file has a different format, or names or shapes differ; the first ten differences are listed.
    """
    formats.check_is_file(path)
    if formats.suffix_of(path) != ".safetensors":
        raise ValueError(
            f"{path} is a Keras file, and reading its weights also needs the model; use "
            "interop.load_keras_weights(path, model, variables)."
        )
    return saving.load_weights(path, variables)
