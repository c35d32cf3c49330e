"""Saves and loads models in `.safetensors` files."""

import json
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import traverse_util

from flaxmodels import formats
from flaxmodels.layers.base import Layer
from flaxmodels.saving import format, rebuilding, schema
from flaxmodels.saving.messages import reason


def save(
    path: str | os.PathLike[str], model: nn.Module, variables: Mapping[str, object], architecture: bool = True
) -> None:
    """Writes a model and its variables into one safetensors file, completely or not at all.

    Args:
        path: The file; its name ends in ".safetensors".
        model: A model made of this library's layers.
        variables: The model's variables.
        architecture: Whether the file also holds the architecture. `load_weights` reads a file without it.

    Raises:
        ValueError: If only code can describe a part of the model, or the file would be too large to be read again.
    """
    formats.check_suffix(path, ".safetensors")
    config = schema.to_config(model) if architecture else None
    flat = {"/".join(key): jnp.asarray(value) for key, value in traverse_util.flatten_dict(dict(variables)).items()}
    content = format.encode(flat, json.dumps(config) if architecture else None)
    rebuilding.check_can_be_read(config, len(content))
    format.write(path, content)


def load(path: str | os.PathLike[str]) -> tuple[Layer, dict[str, Any]]:
    """Reads a model and its variables.

    Args:
        path: A file that `save` wrote.

    Returns:
        The model and its variables: `model.apply(variables, x)` gives the same outputs as before saving.

    Raises:
        ValueError: If the file is not a model file of this library, is damaged, or its arrays do not fit its
            architecture.
    """
    metadata, shapes = format.read_header(path)
    if "model" not in metadata:
        raise ValueError(f"{path} holds weights without an architecture; build the model and use fm.load_weights.")
    config = format.parse_json(path, metadata["model"])
    try:
        model, expected = rebuilding.build(config, os.path.getsize(path))
    except Exception as error:  # Layers raise any exception for arguments that nothing has checked.
        raise ValueError(f"{path} describes no model that can be built: {reason(error)}.") from error
    if expected is not None:
        format.check_shapes(path, {"/".join(key): tuple(value.shape) for key, value in expected.items()}, shapes)
    return model, format.read_arrays(path)


def load_weights(path: str | os.PathLike[str], variables: Mapping[str, object]) -> dict[str, Any]:
    """Reads variables of the given structure and ignores the architecture in the file.

    Args:
        path: A file that `save` wrote.
        variables: Variables, or their shapes, as `model.init` makes them.

    Raises:
        ValueError: If names or shapes differ; the first ten differences are listed.
    """
    _, shapes = format.read_header(path)
    flat = traverse_util.flatten_dict(dict(variables))
    format.check_shapes(path, {"/".join(key): tuple(value.shape) for key, value in flat.items()}, shapes)
    return format.read_arrays(path)
