"""Files of Keras 3, read and written without Keras: `.keras` for models, `.weights.h5` for weights.

A reader trusts nothing: a `.keras` file has three members of bounded size, its architecture is read by our own names
(see `keras_config`), and its arrays are read by a process of its own (see `hdf5`).
"""

import collections
import contextlib
import dataclasses
import io
import json
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from flaxmodels import formats, layers, saving
from flaxmodels.building import Model
from flaxmodels.container import Container
from flaxmodels.graph import snake_case
from flaxmodels.interop import hdf5, keras_config
from flaxmodels.interop.keras_weights import COLLECTIONS, PartsReader
from flaxmodels.layers import symbolic
from flaxmodels.layers.base import Layer
from flaxmodels.saving.format import MAX_DEPTH, check_shapes, write
from flaxmodels.saving.messages import reason

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
MAX_READ = 2**20  # bytes at once, so also of a zip file's table of members
MAX_CONFIG = 16 * 2**20
MAX_PARTS = 250_000
MAX_STRING = 10_000
MAX_EXPANSION = 4  # of a member that was compressed; Keras compresses none
KERAS_VERSION = "3.15.1"  # whose format is written

# Where Keras keeps a layer's own weights, if not in the layer itself.
OWN_PATHS = {name: "cell" for name in ("SimpleRNN", "GRU", "LSTM", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")}
# Keras' attributes for the layers inside a layer, where they are not called as the scope is.
ATTRIBUTES = {
    "MultiHeadAttention": {
        "query": "query_dense",
        "key": "key_dense",
        "gate": "_gate_dense",
        "value": "value_dense",
        "attention_output": "output_dense",
    },
    "GroupQueryAttention": {
        name: f"_{attribute}_dense"
        for name, attribute in (*((n, n) for n in ("query", "key", "gate", "value")), ("attention_output", "output"))
    },
}
# Classes that have another name in Keras' own code.
CLASSES = {"GroupQueryAttention": "GroupedQueryAttention", "Model": "Functional", "Linen": "FlaxLayer"}

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Group:
    """A group of an HDF5 file: its path, Keras' name of the layer, and for each array the path in the variables."""

    path: str
    name: str
    arrays: list[Path]
    sigma: Path | None = None  # the divisor of its kernel, by which Keras has divided it after training


class StoredNames:
    """Chooses the groups of a file for the layers of models by the names that the file gives the groups.

    Keras calls groups by class and order, and the order depends on the graph. A name decides between the layers of one
    model and one class, and about nothing else. Files of older versions of Keras have no names.

    Args:
        path: What errors call the file.
        names: The names of layers by the paths of their groups.
        required: Whether the names are those of the layers for certain, so that others are refused. Otherwise they
            decide where they coincide with names that the layers were given. Automatic names decide nothing: Keras
            numbers them in the order in which layers were made, and this library in the order of their calls.
    """

    def __init__(self, path: Any, names: Mapping[str, str], required: bool):
        self.path, self.required = path, required
        self.models: dict[str, dict[str, str]] = collections.defaultdict(dict)
        # Files of this library had no group "vars" of recurrent layers at first; their cells had the layers' names.
        cells = {g.removesuffix("/cell/vars") + "/vars": name for g, name in names.items() if g.endswith("/cell/vars")}
        for group, name in (cells | dict(names)).items():
            *model, kind, key, last = ("", "", *group.split("/"))
            if (kind, last) == ("layers", "vars") and not _is_key(key, "input_layer"):
                self.models["/".join(filter(None, model))][key] = name

    def keys(self, model: str, children: list[tuple[str, Any]], by_order: list[str]) -> list[str]:
        """The keys of a model's layers in the file.

        Args:
            model: The path of the model in the file.
            children: The layers by their names.
            by_order: Their keys in Keras' order.
        """
        stored = self.models.get(model)
        if not stored:
            return by_order
        by_name = {name: key for key, name in stored.items()}
        names = [name for name, _ in children]
        fits = sorted(stored.values()) == sorted(names) and all(
            _is_key(by_name[name], _stem(child)) for name, child in children
        )
        if self.required and not fits:
            described = sorted((name[:80], _stem(child)) for name, child in children)[:10]
            given = sorted((name[:80], key[:80]) for key, name in stored.items())[:10]
            kinds, came = (", ".join(f"{kind} {name!r}" for name, kind in pairs) for pairs in (described, given))
            raise ValueError(
                f"{self.path} holds weights of other layers than it describes: described are {kinds}, got weights of "
                f"{came}; save it again with Keras."
            )
        if fits and (self.required or all(child.name for _, child in children)):
            return [by_name[name] for name in names]
        return by_order


# ---------------------------------------------------------------- reading


def load_keras(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """Reads a model that Keras saved, or `save_keras`.

    Args:
        path: A `.keras` file.

    Returns:
        The model and its variables: `model.apply(variables, x)` gives what `predict` gives in Keras. A recurrent layer
        that is called with initial states gets no mask, as in Keras, and its outputs have none.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file is damaged, holds code, or names layers that are not ours.

    Example:
        >>> import tempfile
        >>> from flaxmodels import Input, Sequential
        >>> model = Sequential([Input((3,)), layers.Dense(2)])
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_keras(f"{folder}/model.keras", model, variables)
        ...     _, again = load_keras(f"{folder}/model.keras")
        >>> bool((again["params"]["dense"]["kernel"] == variables["params"]["dense"]["kernel"]).all())
        True
    """
    _check_readable(path, ".keras")
    with _members(path) as (archive, members):
        model, expected = _built(path, _parsed(path, _text(path, archive, members[CONFIG])))
        found = _arrays(path, archive, members)
    return model, _fitted(path, model, expected, found, named=True)


def load_keras_weights(path: str | os.PathLike[str], model: Layer, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the weights of a model from a file that Keras wrote, or `save_keras_weights` or `save_keras`.

    The layers of a model are matched by name if each was given a name and the file has the same names. Otherwise they
    are matched by order, as in Keras.

    Args:
        path: A `.weights.h5` file, or a `.keras` file, whose architecture is not read.
        model: The model, as it was in Keras.
        variables: Its variables, or their shapes, as `model.init` makes them.

    Returns:
        Variables of the same structure.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file is damaged, or names or shapes differ; the first ten differences are listed.
    """
    _check_readable(path, ".weights.h5", ".keras")
    if formats.ending_of(path) == ".keras":
        with _members(path) as (archive, members):
            found = _arrays(path, archive, members)
    else:
        with open(path, "rb") as file:
            found = hdf5.read(path, file, os.fstat(file.fileno()).st_size)
    return _fitted(path, model, traverse_util.flatten_dict(dict(variables)), found)


def _check_readable(path: Any, *endings: str) -> None:
    formats.check_is_file(path)
    formats.check_ending(path, *endings)
    formats.check_content(path)


def _arrays(path: Any, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> hdf5.Contents:
    """What the member of a `.keras` file holds that is a `.weights.h5` file."""
    with tempfile.TemporaryFile() as file:
        size = _unpack(path, archive, members[WEIGHTS], file)
        return hdf5.read(path, file, size)


def _fitted(
    path: Any, model: Layer, expected: Mapping[Path, Any], contents: hdf5.Contents, named: bool = False
) -> dict[str, Any]:
    """The arrays of a file as variables, if they are those that the model has.

    Args:
        path: What errors call the file.
        model: The model.
        expected: Its variables, or their shapes, flat.
        contents: What the file holds.
        named: Whether the model was described with the names that the layers had when the file was written.
    """
    found, names = contents.arrays, StoredNames(path, contents.names, named)
    inside = groups(model, expected, names)
    places = {f"{group.path}/{i}": where for group in inside for i, where in enumerate(group.arrays)}
    ours = {"/".join(places[name]) if name in places else name: array.shape for name, array in found.items()}
    check_shapes(path, {"/".join(where): tuple(expected[where].shape) for where in places.values()}, ours)
    read = set(places.values())
    result = {where: _not_in_keras(where, like) for where, like in expected.items() if where not in read}
    for name, where in places.items():
        result[where] = jnp.asarray(found[name].astype(expected[where].dtype))
    return traverse_util.unflatten_dict(result)


def _not_in_keras(where: Path, like: Any) -> Any:
    """What Keras does not save: states, sigma, by which it divides a kernel in training, and other collections."""
    if where[0] not in COLLECTIONS and not isinstance(like, jax.ShapeDtypeStruct):
        return like
    return jnp.full(like.shape, 1 if where[-1] == "sigma" else 0, like.dtype)


def _built(path: Any, config: Any) -> tuple[Layer, dict[Path, Any]]:
    """The model of a description that nobody vouches for, and its variables as shapes and dtypes."""
    try:
        model, expected = saving.build(keras_config.from_keras(config), os.path.getsize(path))
        if expected is None:
            _inputs_of(model)
        return model, expected or {}
    except Exception as error:  # whatever a layer makes of arguments that nobody checked
        raise ValueError(f"{path} describes no model that can be built: {reason(error)}.") from error


def shapes_of(model: Layer) -> dict[Path, Any]:
    """The variables that a model with a known input has, as shapes and dtypes."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    variables, _ = symbolic.evaluate(lambda examples: model.init(rngs, examples), _inputs_of(model))
    return traverse_util.flatten_dict(variables)


def _inputs_of(model: Layer) -> Any:
    symbols = model.symbols()[0] if isinstance(model, Container) else None
    if symbols is None:
        raise ValueError(
            "A Keras file holds a model whose input is known; put Input(shape) in front, or use the weights alone."
        )
    return symbols


def _parsed(path: Any, text: str) -> Any:
    """A value of JSON, after its size, its depth and its strings were checked."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, count in collections.Counter(key for key, _ in pairs).items() if count > 1]
        if twice:
            raise ValueError(f"{twice[0][:80]!r} comes twice in one object")
        return dict(pairs)

    def constant(word: str) -> float:
        if word == "NaN":
            raise ValueError("NaN is no argument of a layer")
        return float(word)

    parts = sum(map(text.count, "[{,"))
    if parts > MAX_PARTS:
        raise ValueError(f"{path} describes {parts} parts, allowed are {MAX_PARTS}; it was not written by Keras.")
    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its {CONFIG} is no JSON ({reason(error)}); save it again.") from error
    depth, level = 0, [value]
    while level:
        depth += 1
        strings = [item for item in level if isinstance(item, str)]
        if depth > MAX_DEPTH or any(len(string) > MAX_STRING for string in strings):
            raise ValueError(
                f"{path} nests more than {MAX_DEPTH} levels deep or has strings of more than {MAX_STRING} "
                "characters; it was not written by Keras."
            )
        level = [inner for item in level if isinstance(item, list | dict) for inner in (
            (*item, *item.values()) if isinstance(item, dict) else item)]  # fmt: skip
    return value


# ---------------------------------------------------------------- the members of a zip file


class _Bounded(io.BufferedReader):
    """A file that is never read from before its begin, or in pieces of more than MAX_READ bytes, whatever it says."""

    def seek(self, place: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_SET and place < 0:
            raise zipfile.BadZipFile(f"it has a part {-place} bytes before its begin")
        return super().seek(place, whence)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = MAX_READ + 1 if os.fstat(self.fileno()).st_size - self.tell() > MAX_READ else MAX_READ
        if size > MAX_READ:
            raise zipfile.BadZipFile(f"it asks for {size} bytes at once, allowed are {MAX_READ}")
        return super().read(size)


@contextlib.contextmanager
def _members(path: Any) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """An open `.keras` file and its members by name, each of them a plain file of a size that it can have."""
    with _Bounded(io.FileIO(os.fspath(path))) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive, _checked(path, archive)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, UnicodeError) as error:
            raise ValueError(f"{path} is no Keras file, or damaged: {reason(error)}; save it again.") from error


def _checked(path: Any, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename
        mode = stat.S_IFMT(member.external_attr >> 16)
        if name not in (CONFIG, METADATA, WEIGHTS) or name in found or mode not in (0, stat.S_IFREG):
            known = name in (CONFIG, METADATA, WEIGHTS)
            what = "too" if not known else "twice" if name in found else "as something else than a file"
            raise ValueError(
                f"{path} holds {CONFIG}, {METADATA} and {WEIGHTS} as a Keras file of our layers does, but "
                f"{name[:80]!r} {what}; save it again with Keras."
            )
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            raise ValueError(f"{path} has {name!r} encrypted or in a rare compression; save it again with Keras.")
        limit = MAX_EXPANSION * member.compress_size + MAX_READ
        limit = min(limit, MAX_CONFIG) if name != WEIGHTS else limit
        if member.file_size > limit:
            raise ValueError(
                f"{path} declares {member.file_size} bytes for {name!r}, of which {member.compress_size} are stored, "
                f"and allowed are {limit}; save it again with Keras, which compresses nothing."
            )
        found[name] = member
    missing = [name for name in (CONFIG, WEIGHTS) if name not in found]
    if missing:
        raise ValueError(f"{path} is no Keras file: it has no {' and no '.join(missing)}; save it again with Keras.")
    return found


def _text(path: Any, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    file = io.BytesIO()
    _unpack(path, archive, member, file)
    return file.getvalue().decode()


def _unpack(path: Any, archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: BinaryIO) -> int:
    """Copies a member in pieces, up to the size that it declares; returns that size."""
    size = 0
    with archive.open(member) as source:
        while piece := source.read(MAX_READ // 2):
            size += len(piece)
            target.write(piece)
    target.flush()
    if size != member.file_size:
        raise ValueError(
            f"{path} is damaged: {member.filename!r} has {size} bytes of {member.file_size}; save it again."
        )
    target.seek(0)
    return size


# ---------------------------------------------------------------- writing


def save_keras(path: str | os.PathLike[str], model: Layer, variables: Mapping[str, Any]) -> None:
    """Writes a model as Keras saves it, whole or not at all: `keras.models.load_model` reads it.

    Args:
        path: A path that ends in ".keras".
        model: A Sequential or Model whose input is known.
        variables: Its variables.

    Raises:
        ValueError: If Keras has no such layer, only code describes one, or the variables are not the model's.
    """
    formats.check_ending(path, ".keras")
    expected = shapes_of(model)
    flat = traverse_util.flatten_dict(dict(variables))
    _check_complete(expected, flat)
    content = io.BytesIO()
    metadata = {"keras_version": KERAS_VERSION, "date_saved": ""}
    with zipfile.ZipFile(content, "w") as archive:
        for name, value in ((METADATA, metadata), (CONFIG, keras_config.to_keras(model))):
            archive.writestr(_member(name), json.dumps(value))
        archive.writestr(_member(WEIGHTS), _weights(model, flat))
    saving.check_can_be_read(saving.to_config(model), len(content.getvalue()))
    write(path, content.getvalue())


def check_can_save(model: Layer) -> None:
    """Raises where `save_keras` would because of the model, whatever its variables are."""
    _inputs_of(model)
    keras_config.to_keras(model)


def _member(name: str) -> zipfile.ZipInfo:
    """A member of a zip file without the time and the system that it was written at."""
    member = zipfile.ZipInfo(name)
    member.create_system = 3  # Unix
    return member


def save_keras_weights(path: str | os.PathLike[str], model: Layer, variables: Mapping[str, Any]) -> None:
    """Writes weights as Keras' `model.save_weights` does, whole or not at all; `model.load_weights` reads them.

    Args:
        path: A path that ends in ".weights.h5".
        model: The model.
        variables: Its variables.

    Raises:
        ValueError: If the path ends otherwise, or a custom layer has weights whose order is not known.
    """
    formats.check_ending(path, ".weights.h5")
    write(path, _weights(model, traverse_util.flatten_dict(dict(variables))))


def _check_complete(expected: Mapping[Path, Any], given: Mapping[Path, Any]) -> None:
    """Raises unless the variables are those of the model; the states of stateful layers depend on the batch."""
    shapes = [{"/".join(k): tuple(v.shape) for k, v in tree.items() if not k[-1].startswith("state_")}
              for tree in (expected, given)]  # fmt: skip
    check_shapes("`variables`", *shapes)


def groups(module: Layer, variables: Mapping[Path, Any], names: StoredNames | None = None) -> list[Group]:
    """What Keras' `save_weights` writes for a module, in its order.

    The layers inside a custom layer have the names of their scopes, where Keras has those of its attributes.

    Args:
        module: A layer or model.
        variables: Its variables, or their shapes, flat.
        names: The names in a file, which choose between the groups of one class.

    Raises:
        ValueError: If a custom layer has weights whose order is not known.
    """
    reader = PartsReader(module, traverse_util.unflatten_dict(variables))
    found = list(_groups(reader, module, "", (), module.name or "", names or StoredNames("", {}, False)))
    reader.check_complete([path for group in found for path in group.arrays])
    return found


def _groups(reader: PartsReader, module: Any, path: str, scope: Path, name: str, names: StoredNames) -> Iterator[Group]:
    """The groups of the module at a path in the file, a scope in the variables and a name in Keras."""
    own, inside = reader.parts(module, scope)
    if not isinstance(module, layers.SpectralNormalization):
        own_path = _of_class(OWN_PATHS, module, "")
        if own_path:  # Keras names the layer in a group of its own, without arrays
            yield Group(_joined(path, "vars"), name, [])
        yield Group(_joined(path, own_path, "vars"), name, own)
    else:  # its layer has the same scope, and in Keras the kernel twice
        sigma = ("batch_stats", *scope, "sigma")
        yield Group(_joined(path, "vars"), name, [where for where in own if where[-1] in module.WEIGHTS[:2]], sigma)
        of_layer = _groups(reader, module.layer, _joined(path, "layer"), scope, module.layer.name or "", names)
        yield from (dataclasses.replace(group, sigma=sigma) for group in of_layer)
    used: collections.Counter[str] = collections.Counter()
    attributes = [_of_class(ATTRIBUTES, module, {}).get(child_name, child_name) for child_name, _ in inside]
    if isinstance(module, Container):
        keys = names.keys(path, inside, [_unique(child, used) for _, child in inside])
        attributes = [f"layers/{key}" for key in keys]
    elif isinstance(module, layers.StackedRNNCells):
        attributes = [f"cells/{_unique(child, used)}" for _, child in inside]
    for attribute, (child_name, child) in zip(attributes, inside, strict=True):
        yield from _groups(reader, child, _joined(path, attribute), (*scope, child_name), child_name, names)


def _joined(*parts: str) -> str:
    return "/".join(filter(None, parts))


def _of_class(table: Mapping[str, Any], module: Any, default: Any) -> Any:
    """The entry of a table for a module's class, or for the nearest one that it is derived from."""
    return next((table[cls.__name__] for cls in type(module).__mro__ if cls.__name__ in table), default)


def _unique(layer: Layer, used: collections.Counter[str]) -> str:
    """Keras calls the layers of a list by their classes, numbered from the second on."""
    stem = _stem(layer)
    used[stem] += 1
    return stem if used[stem] == 1 else f"{stem}_{used[stem] - 1}"


def _stem(layer: Layer) -> str:
    kind = "Model" if isinstance(layer, Model) else type(layer).__name__
    return snake_case(CLASSES.get(kind, kind))


def _is_key(key: str, stem: str) -> bool:
    """Whether a key is the one of a class, with or without a number."""
    return key == stem or (key.startswith(f"{stem}_") and key[len(stem) + 1 :].isdecimal())


def _weights(model: Layer, variables: Mapping[Path, Any]) -> bytes:
    """The content of a `.weights.h5` file."""
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w", track_order=False) as file:
        for group in groups(model, variables):
            target = file.create_group(group.path)
            target.attrs["name"] = group.name
            for i, where in enumerate(group.arrays):
                array = np.asarray(variables[where])
                if (
                    group.sigma is not None
                    and group.sigma in variables
                    and where[-1] in layers.SpectralNormalization.KERNELS
                ):
                    array = (array / np.asarray(variables[group.sigma])).astype(array.dtype)
                if array.dtype == jnp.bfloat16:
                    dataset = target.create_dataset(str(i), data=array.view("V2"), track_times=False)
                    dataset.attrs["dtype"] = "bfloat16"
                else:
                    target.create_dataset(str(i), data=array, track_times=False)
    return content.getvalue()
