"""Saves and loads models in `.safetensors` files."""

import json
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from flaxmodels import formats
from flaxmodels.layers.base import Layer
from flaxmodels.saving import format, rebuilding, schema
from flaxmodels.saving.format import Json
from flaxmodels.saving.messages import reason

Path = str | os.PathLike[str]
# Collections of variables, or variables of an optimizer, by name.
Variables = dict[str, Any]

OPTIMIZER = "optimizer"  # The first part of the names of an optimizer's variables.


def save(
    path: Path,
    model: nn.Module,
    variables: Mapping[str, object],
    architecture: bool = True,
    compiled: Json = None,
    optimizer: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes a model and its variables into one safetensors file, completely or not at all.

    Args:
        path: The file; its name ends in ".safetensors".
        model: A model made of this library's layers.
        variables: The model's variables.
        architecture: Whether the file also holds the architecture. `load_weights` reads a file without it.
        compiled: The arguments of `compile` of `training.keras` as plain values, or None.
        optimizer: The variables of an optimizer by name, or None.

    Raises:
        ValueError: If only code can describe a part of the model, or the file would be too large to be read again.
    """
    formats.check_suffix(path, ".safetensors")
    config = schema.to_config(model) if architecture else None
    flat = {"/".join(key): jnp.asarray(value) for key, value in traverse_util.flatten_dict(dict(variables)).items()}
    flat |= {f"{OPTIMIZER}/{name}": jnp.asarray(value) for name, value in (optimizer or {}).items()}
    texts = ({"model": json.dumps(config)} if architecture else {}) | (
        {} if compiled is None else {"compile": json.dumps(compiled)}
    )
    content = format.encode(flat, texts)
    rebuilding.check_can_be_read(config, len(content))
    format.write(path, content)


def load(path: Path) -> tuple[Layer, Variables]:
    """Reads a model and its variables.

    Args:
        path: A file that `save` wrote.

    Returns:
        The model and its variables: `model.apply(variables, x)` gives the same outputs as before saving.

    Raises:
        ValueError: If the file is not a model file of this library, is damaged, or its arrays do not fit its
            architecture.
    """
    return load_with_training(path)[:2]


def load_with_training(path: Path) -> tuple[Layer, Variables, Json, Variables]:
    """Reads a model, its variables, the arguments of `compile` and the variables of the optimizer.

    Args:
        path: A file that `save` wrote.

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
        wanted = {"/".join(key): tuple(value.shape) for key, value in expected.items()}
        format.check_shapes(path, wanted, _without_optimizer(shapes))
    compiled = format.parse_json(path, metadata["compile"]) if "compile" in metadata else None
    variables, optimizer = _read_arrays(path)
    return model, variables, compiled, optimizer


def load_weights(path: Path, variables: Mapping[str, object]) -> Variables:
    """Reads variables of the given structure and ignores the architecture in the file.

    Args:
        path: A file that `save` wrote.
        variables: Variables, or their shapes, as `model.init` makes them.

    Raises:
        ValueError: If names or shapes differ; the first ten differences are listed.
    """
    return load_weights_and_optimizer(path, variables)[0]


def load_weights_and_optimizer(path: Path, variables: Mapping[str, object]) -> tuple[Variables, Variables]:
    """Reads variables of the given structure, and the variables of the optimizer by name; see `load_weights`."""
    _, shapes = format.read_header(path)
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(dict(variables))
    wanted = {"/".join(key): tuple(value.shape) for key, value in flat.items()}
    format.check_shapes(path, wanted, _without_optimizer(shapes))
    return _read_arrays(path)


def _without_optimizer(shapes: format.Shapes) -> format.Shapes:
    return {name: shape for name, shape in shapes.items() if name.split("/")[0] != OPTIMIZER}


def _read_arrays(path: Path) -> tuple[Variables, Variables]:
    """Returns the variables, and the variables of the optimizer by name."""
    variables = format.read_arrays(path)
    optimizer = variables.pop(OPTIMIZER, {})
    flat = traverse_util.flatten_dict(optimizer) if isinstance(optimizer, dict) else {}
    return variables, {"/".join(key): value for key, value in flat.items()}
