"""One safetensors file per model: the architecture as JSON in its header, the arrays behind it. No code, no pickle."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import secrets
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from flaxmodels import activations, bounds, constraints, formats, initializers, layers, regularizers
from flaxmodels.building import Container, Linen, Model, Sequential
from flaxmodels.layers.base import Layer
from flaxmodels.layers.symbolic import Input, Symbol
from flaxmodels.names import lookup

FORMAT = "1"
MAX_HEADER_BYTES = 16 * 2**20
MAX_DEPTH = 64
MAX_PARTS = 1_000_000
MAX_CALLS = 5_000
MAX_DIFFERENCES = 10
MAX_SENTENCE = 4_000  # a list of all layers is 3000 characters long
MAX_DIFFERENCE = 500
OBJECTS = {"initializers": initializers, "regularizers": regularizers, "constraints": constraints}

# ---------------------------------------------------------------- architecture to JSON


def to_config(model: Layer) -> dict[str, Any]:
    """Describes a layer or model in plain JSON values, by the names of our own classes.

    Raises:
        ValueError: If the model holds something that only code can describe.

    Example:
        >>> from flaxmodels import layers
        >>> to_config(layers.Dense(3, activation="relu"))
        {'class': 'Dense', 'config': {'units': 3, 'activation': 'relu'}}
    """
    if type(model) is Sequential:
        return _with_name(model, _sequential_config(model))
    if type(model) is Model:
        return _with_name(model, _graph_config(model))
    if not _is_named(type(model)):
        inner = model.module if isinstance(model, Linen) else model
        raise ValueError(
            f"A model file names the layers of flaxmodels, but only code describes what {type(inner).__name__} does; "
            "save with architecture=False, build the model in code, and read its variables with fm.load_weights."
        )
    return _with_name(model, {"class": type(model).__name__, "config": _fields(model)})


def _with_name(model: Layer, config: dict[str, Any]) -> dict[str, Any]:
    return config | ({"name": model.name} if model.name else {})


def _fields(thing: Any, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults."""
    found = {}
    for field in dataclasses.fields(thing):
        value = getattr(thing, field.name)
        if field.name in ("parent", "name", *but) or not field.init or _same(value, field.default):
            continue
        found[field.name] = _encode(value, f"{type(thing).__name__}.{field.name}")
    return found


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, str | int | float | bool | tuple) and a == b)


def _encode(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | jax.Array):
        return {"array": np.asarray(value).tolist(), "dtype": jnp.dtype(value.dtype).name}
    if isinstance(value, list | tuple):
        return [_encode(item, where) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"mapping": {key: _encode(item, where) for key, item in value.items()}}
    if isinstance(value, Layer | nn.Module):
        return {"layer": to_config(value)}  # type: ignore[arg-type]
    for kind, module in OBJECTS.items():
        if dataclasses.is_dataclass(value) and getattr(module, type(value).__name__, None) is type(value):
            return {kind: type(value).__name__, "config": _fields(value)}
    for name, function in activations.ACTIVATIONS.items():
        if value is function:
            return name
    if _is_dtype(value):
        return {"dtype": jnp.dtype(value).name}
    raise ValueError(
        f"A model file holds names, numbers and our own objects, but {where} is {value!r}, which only code describes; "
        "use a name, or save with architecture=False and build the model in code."
    )


def _is_dtype(value: Any) -> bool:
    try:
        return jnp.dtype(value).kind != "O"
    except (TypeError, ValueError):
        return False


def _sequential_config(model: Sequential) -> dict[str, Any]:
    source = model.layers.source
    described = [to_config(layer) | {"name": name} for name, layer in model.children()]
    return {
        "class": "Sequential",
        "config": _fields(model, but=("layers",)),
        "input": None if source is None else _symbol_config(source),
        "layers": described,
    }


def _symbol_config(symbol: Symbol) -> dict[str, Any]:
    return {"shape": list(symbol.shape), "dtype": jnp.dtype(symbol.dtype).name, "name": symbol.name}


def _graph_config(model: Model) -> dict[str, Any]:
    graph = model.graph
    sources = jax.tree.leaves(graph.inputs)
    # A symbol is written as [call, output], the inputs being call -1.
    places = {id(symbol): [-1, i] for i, symbol in enumerate(sources)}
    for i, node in enumerate(graph.nodes):
        places.update((id(symbol), [i, j]) for j, symbol in enumerate(jax.tree.leaves(node.outputs)))

    def encode(value: Any, where: str) -> Any:
        if isinstance(value, Symbol):
            return {"symbol": places[id(value)]}
        if isinstance(value, tuple):
            return {"tuple": [encode(item, where) for item in value]}
        if isinstance(value, list):
            return [encode(item, where) for item in value]
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {"mapping": {key: encode(item, where) for key, item in value.items()}}
        return _encode(value, where)

    calls = [
        {
            "layer": graph.names[id(node.layer)],
            "args": [encode(value, "an argument") for value in node.args],
            "kwargs": {name: encode(value, name) for name, value in node.kwargs.items()},
        }
        for node in graph.nodes
    ]
    return {
        "class": "Model",
        "config": _fields(model, but=("inputs", "outputs", "graph")),
        "sources": [_symbol_config(symbol) for symbol in sources],
        "layers": {name: to_config(layer) | {"name": name} for name, layer in model.children()},
        "calls": calls,
        "inputs": encode(graph.inputs, "inputs"),
        "outputs": encode(graph.outputs, "outputs"),
    }


# ---------------------------------------------------------------- JSON to architecture


def from_config(config: Any) -> Layer:
    """Builds the layer or model that `to_config` described, from our own classes alone.

    Raises:
        ValueError: If the description is malformed or names something unknown.

    Example:
        >>> from_config({"class": "Dense", "config": {"units": 3}}).units
        3
    """
    kind = _entry(config, "class", str)
    name = _string_or_none(config.get("name"))
    if kind in ("Sequential", "Model"):
        return _sequential(config, name) if kind == "Sequential" else _graph(config, name)
    cls = lookup("layer in a model file", kind[:80], _classes())
    return _construct(cls, _entry(config, "config", dict), name=name)


def _is_named(cls: type) -> bool:
    """Whether a class is one of `_classes`, of which the others need not be imported."""
    name = cls.__name__
    return name in layers.__all__ and name not in ("Layer", "Lambda") and getattr(layers, name) is cls


def _classes() -> dict[str, type]:
    return {name: cls for name, cls in layers.classes().items() if name != "Lambda"}


def _entry(config: Any, key: str, kind: type) -> Any:
    value = config.get(key) if isinstance(config, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"A model file describes each part with a {kind.__name__} {key!r}, got {str(config)[:80]!r}.")
    return value


def _construct(cls: Callable[..., Any], config: dict[str, Any], **extra: Any) -> Any:
    fields = {field.name for field in dataclasses.fields(cls) if field.init} - {"parent", "name", *extra}  # type: ignore[arg-type]
    unknown = sorted(set(config) - fields)
    if unknown:
        raise ValueError(
            f"{cls.__name__} in a model file has the unknown arguments {unknown}; known are {sorted(fields)}."
        )
    try:
        return cls(**{key: _decode(value) for key, value in config.items()}, **extra)
    except TypeError as error:
        raise ValueError(f"{cls.__name__} in a model file can't be built: {_reason(error)}.") from error


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "layer" in value:
        return from_config(value["layer"])
    if "mapping" in value:
        return {key: _decode(item) for key, item in _entry(value, "mapping", dict).items()}
    if "array" in value:
        return np.array(value["array"], _dtype(value.get("dtype")))
    if "dtype" in value:
        return _dtype(value["dtype"])
    for kind, module in OBJECTS.items():
        if kind in value:
            known = {
                v.__name__: v for v in vars(module).values() if isinstance(v, type) and dataclasses.is_dataclass(v)
            }
            cls = lookup(f"object of {kind} in a model file", _entry(value, kind, str)[:80], known)
            return _construct(cls, _entry(value, "config", dict))
    raise ValueError(f"A model file holds an unknown kind of value, {str(value)[:80]!r}.")


def _dtype(name: Any) -> Any:
    try:
        if isinstance(name, str) and re.fullmatch(r"bool|u?int\d+|b?float\d+(_\w+)?|complex\d+", name):
            return jnp.dtype(name)
    except TypeError:
        pass
    raise ValueError(f"A model file names an unknown dtype, {str(name)[:80]!r}.")


def _input(config: Any) -> Symbol:
    shape, name = _entry(config, "shape", list), config.get("name")
    return Input(batch_shape=tuple(shape), dtype=_dtype(config.get("dtype")), name=_string_or_none(name))


def _string_or_none(name: Any) -> str | None:
    if name is not None and not isinstance(name, str):
        raise ValueError(f"A name in a model file is a string, got {str(name)[:80]!r}.")
    return name


def _sequential(config: Any, name: str | None) -> Sequential:
    source = config.get("input")
    front = [] if source is None else [_input(source)]
    layers = [*front, *map(from_config, _entry(config, "layers", list))]
    return _construct(Sequential, _entry(config, "config", dict), layers=layers, name=name)


def _graph(config: Any, name: str | None) -> Model:
    outputs = {-1: [_input(source) for source in _entry(config, "sources", list)]}
    layers = {key: from_config(value) for key, value in _entry(config, "layers", dict).items()}

    def decode(value: Any) -> Any:
        if isinstance(value, list):
            return [decode(item) for item in value]
        if isinstance(value, dict) and "symbol" in value:
            try:
                call, i = _entry(value, "symbol", list)
                return outputs[call][i]
            except (KeyError, IndexError, ValueError, TypeError) as error:
                where = str(value["symbol"])[:80]
                raise ValueError(f"A model file refers to {where!r}, which is not there.") from error
        if isinstance(value, dict) and "tuple" in value:
            return tuple(decode(item) for item in _entry(value, "tuple", list))
        if isinstance(value, dict) and "mapping" in value:
            return {key: decode(item) for key, item in _entry(value, "mapping", dict).items()}
        return _decode(value)

    for i, call in enumerate(_entry(config, "calls", list)):
        layer = lookup("layer of a graph in a model file", _entry(call, "layer", str), layers)
        args = decode(_entry(call, "args", list))
        kwargs = {key: decode(value) for key, value in _entry(call, "kwargs", dict).items()}
        outputs[i] = jax.tree.leaves(layer(*args, **kwargs))
    ends = {"inputs": decode(config.get("inputs")), "outputs": decode(config.get("outputs"))}
    return _construct(Model, _entry(config, "config", dict), **ends, graph=None, name=name)


# ---------------------------------------------------------------- files


def save(
    path: str | os.PathLike[str], model: nn.Module, variables: Mapping[str, Any], architecture: bool = True
) -> None:
    """Writes a model and its variables into one safetensors file, whole or not at all.

    Args:
        path: The file; its name ends in ".safetensors".
        model: A model of our layers.
        variables: Its variables.
        architecture: Whether the file also holds the architecture; without it, `load_weights` reads it.

    Raises:
        ValueError: If the model holds something that only code can describe, or too much of it to be read again.
    """
    import safetensors.flax

    formats.check_ending(path, ".safetensors")
    header = {"flaxmodels": FORMAT}
    config = to_config(model) if architecture else None  # type: ignore[arg-type]
    if architecture:
        header["model"] = json.dumps(config)
    flat = {"/".join(key): jnp.asarray(value) for key, value in traverse_util.flatten_dict(dict(variables)).items()}
    content = _with_digest(safetensors.flax.save(flat, metadata=header))
    length = struct.unpack("<Q", content[:8])[0]
    if length > MAX_HEADER_BYTES:
        raise ValueError(
            f"The header of a model file has up to {MAX_HEADER_BYTES} bytes, got {length}; give large arrays to "
            "`variables`, not to the arguments of layers."
        )
    check_can_be_read(config, len(content))
    _replace(pathlib.Path(path), content)


def _with_digest(content: bytes) -> bytes:
    """A safetensors file whose metadata also say the digest of everything else in it, in one order."""
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), memoryview(content)[8 + length :]
    digest = {"digest": _digest(header, [data])}
    # The library writes the metadata in the order of a hash table, another one each time.
    text = json.dumps(header | {"__metadata__": dict(sorted((header["__metadata__"] | digest).items()))}).encode()
    text += b" " * (-len(text) % 8)  # arrays are aligned
    return b"".join((struct.pack("<Q", len(text)), text, data))


def _digest(header: Mapping[str, Any], data: Iterable[bytes | memoryview]) -> str:
    metadata = {name: text for name, text in header["__metadata__"].items() if name != "digest"}
    digest = hashlib.sha256(json.dumps({**header, "__metadata__": metadata}, sort_keys=True).encode())
    for part in data:
        digest.update(part)
    return digest.hexdigest()


def _check_digest(path: str | os.PathLike[str]) -> None:
    """Raises if a file says the digest of its content, and it is another; those of the first version say none."""
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = _json(path, file.read(length).decode(errors="replace"))
        written = header["__metadata__"].get("digest")
        if written is not None and written != _digest(header, iter(lambda: file.read(2**20), b"")):
            raise ValueError(f"{path} is damaged: its content is not what was written; save the model again.")


def _replace(path: pathlib.Path, content: bytes) -> None:
    """Writes beside the file, then renames: a reader sees the old file or the new one."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder {path.parent} is not there to write {path.name} into; make it first.")
    if path.is_dir():
        raise IsADirectoryError(f"A model is saved in a file, and {path} is a folder; add the file's name.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise type(error)(
            f"The model can't be written to {path} ({error.strerror or error}), and what was there is as before; "
            "make room, or choose another place."
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """Reads a model and its variables.

    Args:
        path: A file that `save` wrote.

    Returns:
        The model and its variables: `model.apply(variables, x)` gives what it gave when it was saved.

    Raises:
        ValueError: If the file is none of ours, is damaged, or its arrays do not fit its architecture.
    """
    header, shapes = read_header(path)
    if "model" not in header:
        raise ValueError(f"{path} holds weights without an architecture; build the model and use fm.load_weights.")
    model, expected = _built(path, _json(path, header["model"]))
    if expected is not None:
        _check_shapes(path, expected, shapes)
    return model, _arrays(path)


def _built(path: Any, config: Any) -> tuple[Layer, dict[str, tuple[int, ...]] | None]:
    """The model of a description that nobody vouches for, and the shapes of its variables where it knows its input."""
    try:
        model, expected = build(config, os.path.getsize(path))
    except Exception as error:  # whatever a layer makes of arguments that nobody checked
        raise ValueError(f"{path} describes no model that can be built: {_reason(error)}.") from error
    shapes = None if expected is None else {"/".join(key): tuple(value.shape) for key, value in expected.items()}
    return model, shapes


def build(config: Any, size: int) -> tuple[Layer, dict[tuple[str, ...], Any] | None]:
    """Builds what a file describes, within bounds of time and memory.

    Args:
        config: The description.
        size: The size of the file, which bounds how many layers it may have.

    Returns:
        The model, and its variables as shapes and dtypes where it knows its input.

    Raises:
        ValueError: If the description is malformed or too large.
    """
    calls = _unfolded(config)
    if calls > MAX_CALLS:
        raise ValueError(f"it calls {calls} layers, allowed are {MAX_CALLS}")
    inferences = bounds.Inferences(bounds.allowed(size), to_config, _cost)
    with nn.intercept_methods(bounds.bounded), inferences.used():
        model = from_config(config)
    known = isinstance(model, Container) and model.symbols()[0] is not None
    return model, inferences.variables_of(model) if known else None


def check_can_be_read(config: Any, size: int) -> None:
    """Raises if a file with this description would not be read again."""
    if _unfolded(config) <= MAX_CALLS and _cost(config) <= bounds.allowed(size):
        return
    try:
        build(config, size)
    except ValueError as error:
        raise ValueError(
            f"The model cannot be saved with its architecture, which would not be read again: {_reason(error)}; "
            "save its weights alone."
        ) from error


def _unfolded(config: Any) -> int:
    """How many calls of layers a description leads to; those inside a nested model count at each of its calls."""
    return _counted(config, lambda kind: 1)


def _cost(config: Any) -> int:
    """What it takes to infer the shapes of a layer or model, where no layer repeats another."""
    return _counted(config, lambda kind: bounds.COSTS.get(kind, 1) if isinstance(kind, str) else 1)


def _counted(config: Any, weight: Callable[[Any], int]) -> int:
    if isinstance(config, list):
        return sum(_counted(item, weight) for item in config)
    if not isinstance(config, dict):
        return 0
    layers, calls = config.get("layers"), config.get("calls")
    if isinstance(layers, dict) and isinstance(calls, list):
        counts = {name: _counted(layer, weight) for name, layer in layers.items()}
        return sum(counts.get(_entry(call, "layer", str), 1) for call in calls)
    inside = sum(_counted(value, weight) for value in config.values())
    return inside + (weight(config["class"]) if "class" in config else 0)


def _reason(error: Exception) -> str:
    """The first line of an error, as a part of a sentence that is not too long to be read."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return _cut(text, MAX_SENTENCE)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]} ..."


def load_weights(path: str | os.PathLike[str], variables: Mapping[str, Any]) -> dict[str, Any]:
    """Reads variables of the structure of the given ones, whatever architecture the file holds.

    Args:
        path: A file that `save` wrote.
        variables: Variables, or their shapes, as `model.init` makes them.

    Raises:
        ValueError: If names or shapes differ; the first ten differences are listed.
    """
    _, shapes = read_header(path)
    flat = traverse_util.flatten_dict(dict(variables))
    _check_shapes(path, {"/".join(key): tuple(value.shape) for key, value in flat.items()}, shapes)
    return _arrays(path)


def read_header(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Reads what a file says of itself, and the shapes of its arrays, without reading the arrays.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file is none of ours or is damaged.
    """
    formats.check_is_file(path)
    formats.check_ending(path, ".safetensors")
    formats.check_content(path)
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(
                f"{path} is no model file: its header should have 2 to {MAX_HEADER_BYTES} bytes within the file's "
                f"{size}, got {length}; save the model again."
            )
        header = _json(path, file.read(length).decode(errors="replace"))
    if not isinstance(header, dict):
        raise ValueError(f"{path} is no model file: its header is no JSON object; save the model again.")
    ours = header.pop("__metadata__", None)
    if not isinstance(ours, dict) or "flaxmodels" not in ours or not all(isinstance(x, str) for x in ours.values()):
        raise ValueError(f"{path} was not written by flaxmodels; read it with safetensors.")
    if ours["flaxmodels"] != FORMAT:
        raise ValueError(
            f"{path} has format {ours['flaxmodels'][:80]!r}, this version reads {FORMAT!r}; install a newer version."
        )
    return ours, {name: _shape(path, name, entry) for name, entry in header.items()}


def _shape(path: Any, name: str, entry: Any) -> tuple[int, ...]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise ValueError(f"{path} is damaged: the shape of {name[:80]!r} is {str(shape)[:80]}; save the model again.")
    return tuple(shape)


def _json(path: Any, text: str) -> Any:
    parts = text.count("[") + text.count("{")
    if parts > MAX_PARTS:
        raise ValueError(f"{path} describes {parts} parts, allowed are {MAX_PARTS}; it was not written by save.")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged: its header is no JSON ({_reason(error)}); save the model again."
        ) from error
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, list | dict)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"{path} nests more than {MAX_DEPTH} levels deep; it was not written by save.")
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return value


def _check_shapes(path: Any, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    wrong = [f"{name} is missing" for name in sorted(set(expected) - set(found))]
    wrong += [f"{name} is not expected" for name in sorted(set(found) - set(expected))]
    wrong += [
        f"{name} has shape {found[name]}, expected {expected[name]}"
        for name in sorted(set(expected) & set(found))
        if found[name] != expected[name]
    ]
    if wrong:
        first = [_cut(text, MAX_DIFFERENCE) for text in wrong[:MAX_DIFFERENCES]]
        more = f"; and {len(wrong) - len(first)} more" if len(wrong) > len(first) else ""
        raise ValueError(f"The arrays in {path} do not fit the model: {'; '.join(first)}{more}.")


def _arrays(path: str | os.PathLike[str]) -> dict[str, Any]:
    import safetensors.flax

    try:
        flat = safetensors.flax.load_file(os.fspath(path))
        variables = traverse_util.unflatten_dict({tuple(name.split("/")): value for name, value in flat.items()})
    except Exception as error:  # safetensors has an exception of its own for some kinds of damage, not for all
        raise ValueError(f"{path} is damaged: {_reason(error)}; save the model again.") from error
    _check_digest(path)  # now that the file is known to be no longer than its arrays
    return variables
