"""Translates between an architecture and plain JSON values, which name only classes of this library."""

import dataclasses
import inspect
import json
import operator
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flaxmodels import activations, constraints, initializers, layers, regularizers
from flaxmodels.building import Linen, Model, Sequential
from flaxmodels.layers.base import Layer
from flaxmodels.layers.lookup import refuse_path
from flaxmodels.layers.symbolic import Input, Node, Symbol, symbols_in
from flaxmodels.names import lookup
from flaxmodels.ops import base, keras_classes
from flaxmodels.ops.base import OperationCall
from flaxmodels.saving import custom, sharing
from flaxmodels.saving.format import Json
from flaxmodels.saving.messages import reason

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

OBJECTS = {"initializers": initializers, "regularizers": regularizers, "constraints": constraints}
Config = dict[str, Json]

# ---------------------------------------------------------------- architecture to JSON


def to_config(model: nn.Module) -> Config:
    """Describes a layer or model by JSON values and the names of this library's classes.

    Raises:
        ValueError: If only code can describe a part of the model.

    Example:
        >>> from flaxmodels import layers
        >>> to_config(layers.Dense(3, activation="relu"))
        {'class': 'Dense', 'config': {'units': 3, 'activation': 'relu'}}
    """
    with sharing.describing(model):
        config, number = _describe(model), sharing.number_of(model)
    return config if number is None else config | {"shared": number}


def _describe(model: nn.Module) -> Config:
    if type(model) is Sequential:
        return _with_name(model, _sequential_config(model))
    if type(model) is Model:
        return _with_name(model, _graph_config(model))
    if isinstance(model, OperationCall):
        return _with_name(model, {"operation": _known_operation(model.operation)})
    if not _is_named(type(model)):
        described = custom.describe(model)
        if described is not None:
            return _with_name(model, {"custom": json.dumps(described)})
        inner = model.module if isinstance(model, Linen) else model
        raise ValueError(
            f"A model file names layers of flaxmodels, but only code can describe {type(inner).__name__}; "
            "save with architecture=False, build the model in code, and read its variables with fm.load_weights."
        )
    return _with_name(model, {"class": type(model).__name__, "config": _fields(model)})


def _with_name(model: nn.Module, config: Config) -> Config:
    return config | ({"name": model.name} if model.name else {})


def _fields(thing: "DataclassInstance | type[DataclassInstance]", without: tuple[str, ...] = ()) -> Config:
    """Returns the fields of a dataclass that differ from their defaults, as JSON values."""
    config: Config = {}
    for field in dataclasses.fields(thing):
        value = getattr(thing, field.name)
        if field.name in ("parent", "name", *without) or not field.init or _same(value, field.default):
            continue
        config[field.name] = _encode(value, f"{type(thing).__name__}.{field.name}")
    return config


def _same(a: object, b: object) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, str | int | float | bool | tuple) and a == b)


def _encode(value: object, where: str) -> Json:
    """Returns a value as JSON values; `where` describes the value's place in error messages."""
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
    if isinstance(value, nn.Module):
        return {"layer": to_config(value)}
    for kind, module in OBJECTS.items():
        if dataclasses.is_dataclass(value) and getattr(module, type(value).__name__, None) is type(value):
            return {kind: type(value).__name__, "config": _fields(value)}
    for name, function in activations.ACTIVATIONS.items():
        if value is function:
            return name
    if _is_dtype(value):
        return {"dtype": jnp.dtype(value).name}
    described = custom.describe(value)
    if described is not None:
        return {"custom": json.dumps(described)}
    raise ValueError(
        f"A model file holds names, numbers and this library's objects, but only code can describe {where}, got "
        f"{value!r}; use a name, or save with architecture=False and build the model in code."
    )


def _known_operation(name: str) -> str:
    if keras_classes.may_be_named(name):
        return name
    raise ValueError(
        f"A model file names operations of Keras, but only code can describe {name!r}; save with architecture=False, "
        "build the model in code, and read its variables with fm.load_weights."
    )


def _encode_operand(value: object, where: str) -> Json:
    """Returns a constant argument of an operation as JSON values; its dtype and weak type decide that of the output."""
    if isinstance(value, slice):
        parts = [None if part is None else operator.index(part) for part in (value.start, value.stop, value.step)]
        return {"slice": list[Json](parts)}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, jax.Array) and value.ndim == 0 and value.weak_type:
        value = value.item()
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if any(value is kind for kind in (bool, int, float)):
        return cast(type, value).__name__  # `ops` read these names as Python's types.
    # The name of a function would be read as a string, and a complex number is no JSON.
    is_code = callable(value) and not _is_dtype(value)
    if is_code or isinstance(value, complex) or (isinstance(value, np.ndarray) and value.dtype.kind in "cOSU"):
        raise ValueError(
            f"A model file holds numbers, names and slices as arguments of operations, but {where} is {value!r}; "
            "compute with it outside of the model, or save with architecture=False and build the model in code."
        )
    return _encode(value, where)


def _is_dtype(value: Any) -> TypeGuard[DTypeLike]:
    try:
        return jnp.dtype(value).kind != "O"
    except (TypeError, ValueError):
        return False


def _sequential_config(model: Sequential) -> Config:
    source = model.layers.source
    described: list[Json] = [to_config(layer) | {"name": name} for name, layer in model.children()]
    return {
        "class": "Sequential",
        "config": _fields(model, without=("layers", "input_shape")),
        "input": None if source is None else _symbol_config(source),
        "layers": described,
    }


def _symbol_config(symbol: Symbol) -> Config:
    return {"shape": list(symbol.shape), "dtype": jnp.dtype(symbol.dtype).name, "name": symbol.name}


def _graph_config(model: Model) -> Config:
    graph = model.graph
    sources = jax.tree.leaves(graph.inputs)
    # A symbol is written as [index of the call, index of its output]; the inputs of the model have call -1.
    places: dict[int, Json] = {id(symbol): [-1, i] for i, symbol in enumerate(sources)}
    for i, node in enumerate(graph.nodes):
        places.update((id(symbol), [i, j]) for j, symbol in enumerate(jax.tree.leaves(node.outputs)))

    def encode(value: object, where: str, constant: Callable[[object, str], Json]) -> Json:
        if isinstance(value, Symbol):
            return {"symbol": places[id(value)]}
        if isinstance(value, tuple):
            return {"tuple": [encode(item, where, constant) for item in value]}
        if isinstance(value, list):
            return [encode(item, where, constant) for item in value]
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {"mapping": {key: encode(item, where, constant) for key, item in value.items()}}
        return constant(value, where)

    def call(node: Node) -> Json:
        name, constant = graph.names[id(node.layer)], _encode
        if isinstance(node.layer, OperationCall):
            constant = _encode_operand
        return {
            "layer": name,
            "args": [encode(value, f"an argument of {name!r}", constant) for value in node.args],
            "kwargs": {key: encode(value, f"{key!r} of {name!r}", constant) for key, value in node.kwargs.items()},
        }

    described = {
        graph.names[id(layer)]: to_config(layer) | {"name": graph.names[id(layer)]} for layer in model.operations
    }
    return {
        "class": "Model",
        "config": _fields(model, without=("inputs", "outputs", "graph", "input_shape")),
        "sources": [_symbol_config(symbol) for symbol in sources],
        "layers": {name: value for name, value in described.items()},
        "calls": [call(node) for node in graph.nodes],
        "inputs": encode(graph.inputs, "inputs", _encode),
        "outputs": encode(graph.outputs, "outputs", _encode),
    }


# ---------------------------------------------------------------- JSON to architecture


def from_config(config: Json) -> Layer:
    """Builds the layer or model that `to_config` described, from this library's classes only.

    Raises:
        ValueError: If the description is malformed or names something unknown.

    Example:
        >>> from_config({"class": "Dense", "config": {"units": 3}}).units
        3
    """
    name, number = _string_or_none(_get(config, "name")), _get(config, "shared")
    if number is not None and not isinstance(number, int):
        raise ValueError(f"The number of a shared layer in a model file must be an integer, got {str(number)[:80]!r}.")
    with sharing.building():
        known = sharing.built(number)
        if not isinstance(known, Layer):
            return sharing.note_built(number, _layer(config, name))
    if name is not None and known.name != name:
        object.__setattr__(known, "name", name)  # the models that hold it already have kept the other name
    return known


def _layer(config: Json, name: str | None) -> Layer:
    if isinstance(config, dict) and "custom" in config:
        return _custom_layer(entry(config, "custom", str), name)
    kind = entry(config, "class", str)
    if kind in ("Sequential", "Model"):
        return _sequential(config, name) if kind == "Sequential" else _graph(config, name)
    cls = lookup("layer", kind[:80], _classes(), place="in a model file")
    return _construct(cls, entry(config, "config", dict), name=name)


def _custom_layer(text: str, name: str | None) -> Layer:
    layer = custom.build(json.loads(text))
    if not isinstance(layer, Layer):
        raise ValueError(f"A model file has a custom object in the place of a layer, got {type(layer).__name__}.")
    if name is not None and layer.name != name:
        object.__setattr__(layer, "name", name)
    return layer


def _is_named(cls: type) -> bool:
    """Returns whether a class is in `_classes()`, without importing the other ones."""
    name = cls.__name__
    return name in layers.__all__ and name not in ("Layer", "Lambda") and getattr(layers, name) is cls


def _classes() -> dict[str, type[Layer]]:
    """Returns the layers that a file may name; a Lambda would hold code."""
    return {name: cls for name, cls in layers.classes().items() if name != "Lambda"}


def entry(config: Json, key: str, kind: type[T]) -> T:
    """Returns `config[key]`, or raises if the configuration has no such entry of this type."""
    value = _get(config, key)
    if not isinstance(value, kind):
        raise ValueError(
            f"Each part in a model file must have a {key!r} of type {kind.__name__}, got {str(config)[:80]!r}."
        )
    return value


def _get(config: Json, key: str) -> Json:
    return config.get(key) if isinstance(config, dict) else None


def _construct(cls: Callable[..., T], config: Config, **extra: object) -> T:
    """Calls a class with decoded arguments and `extra` ones, after a check of the names."""
    fields = {field.name for field in dataclasses.fields(cls) if field.init} - {"parent", "name", *extra}  # type: ignore[arg-type]
    unknown = sorted(set(config) - fields)
    if unknown:
        raise ValueError(f"{cls.__name__} in a model file has unknown arguments {unknown}; known are {sorted(fields)}.")
    if isinstance(cls, type):
        refuse_path(cls, config.get("vocabulary"))
    try:
        return cls(**{key: _decode(value) for key, value in config.items()}, **extra)
    except TypeError as error:
        raise ValueError(f"{cls.__name__} in a model file can't be built: {reason(error)}.") from error


def _decode(value: Json) -> object:
    """Returns the value that `_encode` wrote; lists become tuples."""
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "layer" in value:
        return from_config(value["layer"])
    if "mapping" in value:
        return {key: _decode(item) for key, item in entry(value, "mapping", dict).items()}
    if "array" in value:
        return np.array(value["array"], _dtype(value.get("dtype")))
    if "dtype" in value:
        return _dtype(value["dtype"])
    if "custom" in value:
        return custom.build(json.loads(entry(value, "custom", str)))
    for kind, module in OBJECTS.items():
        if kind in value:
            known = {
                v.__name__: v for v in vars(module).values() if isinstance(v, type) and dataclasses.is_dataclass(v)
            }
            cls = lookup(kind.removesuffix("s"), entry(value, kind, str)[:80], known, place="in a model file")
            return _construct(cls, entry(value, "config", dict))
    raise ValueError(f"A model file holds an unknown kind of value, {str(value)[:80]!r}.")


def _dtype(name: Json) -> np.dtype:
    try:
        if isinstance(name, str) and re.fullmatch(r"bool|u?int\d+|b?float\d+(_\w+)?|complex\d+", name):
            return jnp.dtype(name)
    except TypeError:
        pass
    raise ValueError(f"A model file names an unknown dtype, {str(name)[:80]!r}.")


def _input(config: Json) -> Symbol:
    shape, name = entry(config, "shape", list), _get(config, "name")
    return Input(batch_shape=tuple(shape), dtype=_dtype(_get(config, "dtype")), name=_string_or_none(name))


def _string_or_none(name: Json) -> str | None:
    if name is not None and not isinstance(name, str):
        raise ValueError(f"A name in a model file must be a string, got {str(name)[:80]!r}.")
    return name


def _sequential(config: Json, name: str | None) -> Sequential:
    source = _get(config, "input")
    front = [] if source is None else [_input(source)]
    stack = [*front, *map(from_config, entry(config, "layers", list))]
    return _construct(Sequential, entry(config, "config", dict), layers=stack, name=name)


def _layer_or_operation(config: Json) -> Layer:
    if isinstance(config, dict) and "operation" in config:
        operation = entry(config, "operation", str)
        if not keras_classes.may_be_named(operation):
            raise ValueError(f"A model file names the operation {operation[:80]!r}, which files cannot name.")
        return OperationCall(operation, name=_string_or_none(_get(config, "name")))
    return from_config(config)


def _called(layer: Layer, args: list[object], kwargs: dict[str, object]) -> object:
    """Calls a layer or an operation on symbols; without a symbol, an operation would compute at once."""
    if not isinstance(layer, OperationCall):
        return layer(*args, **kwargs)
    if not symbols_in((args, kwargs)):
        raise ValueError(f"A model file applies {layer.operation!r} to constants alone; use a file that fm.save wrote.")
    try:
        bound = inspect.signature(base.function(layer.operation)).bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(f"A model file calls {layer.operation!r} with wrong arguments: {reason(error)}.") from error
    return layer(*bound.args, **bound.kwargs)


def _slice(parts: list[Json]) -> slice:
    numbers = [part for part in parts if part is None or type(part) is int]
    if len(numbers) != 3 or len(parts) != 3:
        raise ValueError(f"A slice in a model file must have three integers or nulls, got {str(parts)[:80]!r}.")
    return slice(*numbers)


def _graph(config: Json, name: str | None) -> Model:
    outputs = {-1: [_input(source) for source in entry(config, "sources", list)]}
    by_name = {key: _layer_or_operation(value) for key, value in entry(config, "layers", dict).items()}

    def decode(value: Json) -> object:
        if isinstance(value, list):
            return [decode(item) for item in value]
        if isinstance(value, dict) and "symbol" in value:
            try:
                call, i = entry(value, "symbol", list)
                return outputs[call][i]
            except (KeyError, IndexError, ValueError, TypeError) as error:
                where = str(value["symbol"])[:80]
                raise ValueError(f"A model file refers to {where!r}, which does not exist.") from error
        if isinstance(value, dict) and "tuple" in value:
            return tuple(decode(item) for item in entry(value, "tuple", list))
        if isinstance(value, dict) and "mapping" in value:
            return {key: decode(item) for key, item in entry(value, "mapping", dict).items()}
        if isinstance(value, dict) and "ellipsis" in value:
            return Ellipsis
        if isinstance(value, dict) and "slice" in value:
            return _slice(entry(value, "slice", list))
        return _decode(value)

    for i, call in enumerate(entry(config, "calls", list)):
        layer = lookup("layer", entry(call, "layer", str), by_name, place="in the graph of a model file")
        args = [decode(value) for value in entry(call, "args", list)]
        kwargs = {key: decode(value) for key, value in entry(call, "kwargs", dict).items()}
        outputs[i] = jax.tree.leaves(_called(layer, args, kwargs))
    ends = {"inputs": decode(_get(config, "inputs")), "outputs": decode(_get(config, "outputs"))}
    return _construct(Model, entry(config, "config", dict), **ends, graph=None, name=name)
