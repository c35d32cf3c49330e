"""Reads and writes the files of Keras 3 without Keras: `.keras` for models, `.weights.h5` for weights.

The readers treat every file as untrusted, so that opening one can neither run code nor exhaust the machine. A `.keras`
file has three members of bounded size (see `keras_archive`). Its config can only name this library's classes (see
`keras_config`). Its arrays are read in a separate process (see `hdf5`).
"""

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from flaxmodels import formats, layers, saving
from flaxmodels.building import Model, Sequential
from flaxmodels.container import Container
from flaxmodels.extras import require_extra
from flaxmodels.interop import hdf5, keras_config
from flaxmodels.interop.hdf5 import OPTIMIZER
from flaxmodels.interop.keras_archive import CONFIG, METADATA, WEIGHTS, open_members, parse_json, read_text, unpack
from flaxmodels.interop.keras_groups import Group, StoredNames, groups
from flaxmodels.interop.keras_weights import COLLECTIONS
from flaxmodels.layers import symbolic
from flaxmodels.layers.base import Layer
from flaxmodels.saving.format import Json, check_shapes, write
from flaxmodels.saving.messages import reason

if TYPE_CHECKING:
    import h5py

KERAS_VERSION = "3.15.1"  # the version whose format is written

Config = dict[str, Json]
Variables = dict[str, Any]  # collections of variables by name
Path = tuple[str, ...]
Array: TypeAlias = jax.Array | np.ndarray
Arrays = dict[str, Any]  # the arrays of a group by name; a class of the user may put other values there
Expected: TypeAlias = Mapping[Path, Array | jax.ShapeDtypeStruct]  # variables, or their shapes, keyed by path


# ---------------------------------------------------------------- reading


def load_keras(path: str | os.PathLike[str]) -> tuple[Container, Variables]:
    """Reads a model that Keras or `save_keras` saved.

    Args:
        path: A `.keras` file.

    Returns:
        The model and its variables; `model.apply(variables, x)` gives the outputs of Keras' `predict`. As in Keras, a
        recurrent layer that is called with initial states gets no mask, and its outputs have none.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged, contains code, or has layers that this library does not have.

    Example:
        >>> import tempfile
        >>> from flaxmodels import Input, Sequential
        >>> model = Sequential([Input((3,)), layers.Dense(2)])
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_keras(f"{folder}/model.keras", model, variables)
        ...     _, loaded = load_keras(f"{folder}/model.keras")
        >>> bool((loaded["params"]["dense"]["kernel"] == variables["params"]["dense"]["kernel"]).all())
        True
    """
    config, contents = read_keras(path)
    return build(path, config, contents)


def read_keras(path: str | os.PathLike[str], with_optimizer: bool = False) -> tuple[Json, hdf5.Contents]:
    """Reads the config and the arrays of a `.keras` file, which remain untrusted.

    Args:
        path: The file.
        with_optimizer: Whether to read the variables of the optimizer too.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged.
    """
    _check_readable(path, ".keras")
    with open_members(path) as (archive, members):
        config = parse_json(path, read_text(path, archive, members[CONFIG]))
        return config, _read_arrays(path, archive, members, with_optimizer)


def build(
    path: str | os.PathLike[str],
    config: Json,
    contents: hdf5.Contents,
    has_own_store: Callable[[nn.Module | None], bool] = lambda layer: False,
) -> tuple[Container, Variables]:
    """Builds the model of a `.keras` file, and returns it with its variables.

    Args:
        path: Path of the file, for error messages and for limits by its size.
        config: The config of the file.
        contents: The arrays of the file.
        has_own_store: Returns whether a layer reads its arrays itself.

    Raises:
        ValueError: If the config describes no model, or the arrays do not fit it.
    """
    model, expected = _build_model(path, config)
    return model, to_variables(path, model, expected, contents, True, has_own_store)


def load_keras_weights(path: str | os.PathLike[str], model: Layer, variables: Mapping[str, object]) -> Variables:
    """Reads the weights of a model from a file that Keras, `save_keras_weights` or `save_keras` wrote.

    The layers of a model are matched by name if the user named all of them and the file has the same names. Otherwise
    they are matched by order, as in Keras.

    Args:
        path: A `.weights.h5` file, or a `.keras` file, whose config is not read.
        model: The model, with the same layers as in Keras.
        variables: The variables of the model, or their shapes, as `model.init` returns them.

    Returns:
        Variables with the same structure.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged, or names or shapes differ; the error lists the first ten differences.

    Example:
        >>> import tempfile
        >>> layer = layers.Dense(2)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_keras_weights(f"{folder}/model.weights.h5", layer, variables)
        ...     loaded = load_keras_weights(f"{folder}/model.weights.h5", layer, variables)
        >>> bool((loaded["params"]["kernel"] == variables["params"]["kernel"]).all())
        True
    """
    return to_variables(path, model, traverse_util.flatten_dict(dict(variables)), read_weights(path))


def read_weights(path: str | os.PathLike[str], with_optimizer: bool = False) -> hdf5.Contents:
    """Reads the arrays of a `.weights.h5` or `.keras` file, which remain untrusted.

    Args:
        path: The file.
        with_optimizer: Whether to read the variables of the optimizer too.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged.
    """
    _check_readable(path, ".weights.h5", ".keras")
    if formats.suffix_of(path) == ".keras":
        with open_members(path) as (archive, members):
            return _read_arrays(path, archive, members, with_optimizer)
    with open(path, "rb") as file:
        require_extra("h5py", "Keras files need")
        return hdf5.read(path, file, os.fstat(file.fileno()).st_size, with_optimizer)


def _check_readable(path: str | os.PathLike[str], *suffixes: str) -> None:
    formats.check_is_file(path)
    formats.check_suffix(path, *suffixes)
    formats.check_content(path)


def _read_arrays(
    path: str | os.PathLike[str],
    archive: zipfile.ZipFile,
    members: Mapping[str, zipfile.ZipInfo],
    with_optimizer: bool,
) -> hdf5.Contents:
    """Returns the contents of the weights file in a `.keras` file."""
    with tempfile.TemporaryFile() as file:
        size = unpack(path, archive, members[WEIGHTS], file)
        require_extra("h5py", "Keras files need")
        return hdf5.read(path, file, size, with_optimizer)


def to_variables(
    path: str | os.PathLike[str],
    model: Layer,
    expected: Expected,
    contents: hdf5.Contents,
    names_required: bool = False,
    has_own_store: Callable[[nn.Module | None], bool] = lambda layer: False,
) -> Variables:
    """Returns the arrays of a file as variables; raises unless they are the weights of the model.

    Args:
        path: Path of the file, for error messages only.
        model: The model.
        expected: The model's variables, or their shapes, keyed by path.
        contents: Contents of the file.
        names_required: Whether the model has the layer names of the file, because both are from one `.keras` file.
        has_own_store: Returns whether a layer reads its arrays itself; its variables stay as they are.

    Raises:
        ValueError: If the arrays do not fit the model.
    """
    stored_groups = groups(model, expected, StoredNames(path, contents.names, names_required))
    own = [group for group in stored_groups if has_own_store(group.layer)]
    targets = _targets([group for group in stored_groups if not has_own_store(group.layer)])
    # A model inside the model may have been compiled, so that Keras saved an optimizer of it.
    arrays = {name: array for name, array in contents.arrays.items() if name in targets or f"/{OPTIMIZER}/" not in name}
    own_paths = {group.path for group in own}
    arrays = {name: array for name, array in arrays.items() if name.rpartition("/")[0] not in own_paths}
    shapes = {"/".join(targets[name]) if name in targets else name: array.shape for name, array in arrays.items()}
    check_shapes(path, {"/".join(t): tuple(expected[t].shape) for t in targets.values()}, shapes)
    stored = set(targets.values())
    result = {target: _default_value(target, like) for target, like in expected.items() if target not in stored}
    result |= {target: expected[target] for group in own for target in group.arrays}
    for name, target in targets.items():
        result[target] = jnp.asarray(arrays[name].astype(expected[target].dtype))
    return traverse_util.unflatten_dict(result)


def targets_of(
    path: str | os.PathLike[str],
    model: Layer,
    expected: Expected,
    contents: hdf5.Contents,
    names_required: bool = False,
) -> dict[str, Path]:
    """Returns the path in the variables for the name of each array that the file of a model has.

    Args:
        path: Path of the file, for error messages only.
        model: The model.
        expected: The model's variables, or their shapes, keyed by path.
        contents: Contents of the file.
        names_required: Whether the model has the layer names of the file.
    """
    return _targets(groups(model, expected, StoredNames(path, contents.names, names_required)))


def _targets(stored_groups: list[Group]) -> dict[str, Path]:
    return {f"{group.path}/{i}": target for group in stored_groups for i, target in enumerate(group.arrays)}


def own_stores(
    path: str | os.PathLike[str],
    model: Layer,
    expected: Expected,
    contents: hdf5.Contents,
    has_own_store: Callable[[nn.Module | None], bool],
) -> list[tuple[nn.Module, Arrays]]:
    """Returns the layers that read their arrays themselves, each with its arrays in the file.

    Args:
        path: Path of the file, for error messages only.
        model: The model.
        expected: The model's variables, or their shapes, keyed by path.
        contents: Contents of the file.
        has_own_store: Returns whether a layer reads its arrays itself.
    """
    found = []
    for group in groups(model, expected, StoredNames(path, contents.names, False)):
        if group.layer is not None and has_own_store(group.layer):
            prefix = f"{group.path}/"
            names = [name for name in contents.arrays if name.rpartition("/")[0] == group.path]
            found.append((group.layer, {name.removeprefix(prefix): contents.arrays[name] for name in names}))
    return found


def matching_variables(
    path: str | os.PathLike[str], model: Layer, variables: Mapping[Path, Array], contents: hdf5.Contents
) -> tuple[Variables, list[str]]:
    """Returns the variables with the arrays of the layers that fit, and the names of the layers that do not.

    Args:
        path: Path of the file, for error messages only.
        model: The model.
        variables: The model's variables, keyed by path.
        contents: Contents of the file.
    """
    result, skipped = dict(variables), []
    for group in groups(model, variables, StoredNames(path, contents.names, False)):
        prefix = f"{group.path}/"
        stored = {name: array for name, array in contents.arrays.items() if name.rpartition("/")[0] == group.path}
        wanted = {f"{prefix}{i}": target for i, target in enumerate(group.arrays)}
        if {name: array.shape for name, array in stored.items()} == {
            name: tuple(variables[target].shape) for name, target in wanted.items()
        }:
            result |= {t: jnp.asarray(stored[n].astype(variables[t].dtype)) for n, t in wanted.items()}
        else:
            skipped.append(group.name or group.path)
    return traverse_util.unflatten_dict(result), skipped


def _default_value(target: Path, like: Array | jax.ShapeDtypeStruct) -> Array:
    """Returns the value of a variable that Keras does not save: 1 for sigma, 0 for states, unchanged for others."""
    if target[0] not in COLLECTIONS and not isinstance(like, jax.ShapeDtypeStruct):
        return like
    return jnp.full(like.shape, 1 if target[-1] == "sigma" else 0, like.dtype)


def _build_model(path: str | os.PathLike[str], config: Json) -> tuple[Container, dict[Path, jax.ShapeDtypeStruct]]:
    """Builds the model of an untrusted config, and returns it with its variables as shapes and dtypes."""
    try:
        model, expected = saving.build(keras_config.from_keras(config), os.path.getsize(path))
        return _with_known_input(model), expected or {}
    except Exception as error:  # the arguments are unchecked, so a layer can raise anything
        raise ValueError(f"{path} describes no model that can be built: {reason(error)}.") from error


def shapes_of(model: Layer) -> dict[Path, jax.ShapeDtypeStruct]:
    """Returns the shapes and dtypes of the variables of a model whose input is known, keyed by path."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    inputs: Any = _with_known_input(model).symbols()[0]
    variables, _ = symbolic.evaluate(lambda examples: model.init(rngs, examples), inputs)
    return traverse_util.flatten_dict(variables)


def _with_known_input(model: Layer) -> Container:
    """Returns the layer if it is a model whose input is known, and raises otherwise."""
    if not isinstance(model, Container) or model.symbols()[0] is None:
        raise ValueError(
            "A Keras file needs a model whose input is known, got one without it; start it with Input(shape), or save "
            "only the weights."
        )
    return model


# ---------------------------------------------------------------- writing

StoreOf = Callable[[nn.Module | None], Arrays | None]


def _no_store(layer: nn.Module | None) -> None:
    """Returns None: the file holds the variables of the layer."""


def save_keras(
    path: str | os.PathLike[str],
    model: Layer,
    variables: Mapping[str, object],
    config: Config | None = None,
    optimizer: Mapping[str, np.ndarray] | None = None,
    store_of: StoreOf = _no_store,
) -> None:
    """Writes a model to a `.keras` file, which `keras.models.load_model` can read; the file is replaced atomically.

    Args:
        path: A path that ends in ".keras".
        model: A Sequential or Model whose input is known.
        variables: The model's variables.
        config: Keras' config, or None to describe the model.
        optimizer: The variables of an optimizer, as in `hdf5.Contents`.
        store_of: Returns the arrays of a layer whose class decides what a file holds, otherwise None.

    Raises:
        ValueError: If Keras lacks one of the layers, an argument is custom code, or the variables do not belong to the
            model.

    Example:
        See `load_keras`.
    """
    formats.check_suffix(path, ".keras")
    flat = traverse_util.flatten_dict(dict(variables))
    if type(model) in (Sequential, Model):
        _check_complete(shapes_of(model), flat)
    content = io.BytesIO()
    metadata = {"keras_version": KERAS_VERSION, "date_saved": ""}
    with zipfile.ZipFile(content, "w") as archive:
        for name, value in ((METADATA, metadata), (CONFIG, config or keras_config.to_keras(model))):
            archive.writestr(_reproducible_member(name), json.dumps(value))
        archive.writestr(_reproducible_member(WEIGHTS), _weights_file(model, flat, optimizer or {}, store_of))
    if isinstance(model, Container) and type(model) in (Sequential, Model):
        saving.check_can_be_read(saving.to_config(model), len(content.getvalue()))
    write(path, content.getvalue())


def check_can_save(model: Layer) -> None:
    """Raises if `save_keras` cannot save the model regardless of its variables."""
    _with_known_input(model)
    keras_config.to_keras(model)


def _reproducible_member(name: str) -> zipfile.ZipInfo:
    """Returns a member of a zip file without the time and the operating system, so that equal models give equal
    files."""
    member = zipfile.ZipInfo(name)
    member.create_system = 3  # Unix
    return member


def save_keras_weights(
    path: str | os.PathLike[str],
    model: Layer,
    variables: Mapping[str, object],
    optimizer: Mapping[str, np.ndarray] | None = None,
    store_of: StoreOf = _no_store,
) -> None:
    """Writes weights to a file that Keras' `model.load_weights` can read; the file is replaced atomically.

    Args:
        path: A path that ends in ".weights.h5".
        model: The model.
        variables: The model's variables.
        optimizer: The variables of an optimizer, as in `hdf5.Contents`.
        store_of: Returns the arrays of a layer whose class decides what a file holds, otherwise None.

    Raises:
        ValueError: If the path has a different suffix, or a custom layer has weights whose order is not known.

    Example:
        See `load_keras_weights`.
    """
    formats.check_suffix(path, ".weights.h5")
    write(path, _weights_file(model, traverse_util.flatten_dict(dict(variables)), optimizer or {}, store_of))


def _check_complete(expected: Expected, given: Expected) -> None:
    """Raises unless the variables are those of the model; states are not compared, since they depend on the batch."""
    shapes = [{"/".join(k): tuple(v.shape) for k, v in tree.items() if not k[-1].startswith("state_")}
              for tree in (expected, given)]  # fmt: skip
    check_shapes("`variables`", *shapes)


def _weights_file(
    model: Layer, variables: Mapping[Path, Array], optimizer: Mapping[str, np.ndarray], store_of: StoreOf
) -> bytes:
    """Returns the bytes of a `.weights.h5` file."""
    require_extra("h5py", "Keras files need")
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w", track_order=False) as file:
        for group in groups(model, variables):
            target = file.create_group(group.path)
            target.attrs["name"] = group.name
            store = store_of(group.layer)
            if store is not None:
                for key, value in store.items():
                    _write_array(target, key, np.asarray(value))
                continue
            for i, source in enumerate(group.arrays):
                array = np.asarray(variables[source])
                is_divided = group.sigma in variables and source[-1] in layers.SpectralNormalization.KERNELS
                if group.sigma is not None and is_divided:
                    array = (array / np.asarray(variables[group.sigma])).astype(array.dtype)
                _write_array(target, str(i), array)
        for name, array in optimizer.items():
            _write_array(file, f"{OPTIMIZER}/{name}", array)
    return content.getvalue()


def _write_array(group: "h5py.Group", name: str, array: np.ndarray) -> None:
    if array.dtype != jnp.bfloat16:
        group.create_dataset(name, data=array, track_times=False)
        return
    dataset = group.create_dataset(name, data=array.view("V2"), track_times=False)
    dataset.attrs["dtype"] = "bfloat16"
