"""Keras configs: `to_keras` writes the config of a `.keras` file, and `from_keras` translates it into this library's.

A config is untrusted. The config is translated value by value into the description that `flaxmodels.saving.from_config`
builds, which contains only the names of classes and functions of this library. Nothing that a file names is imported,
called or evaluated, because that would let a file run code.
"""

import collections
import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flaxmodels import activations, constraints, initializers, layers, regularizers
from flaxmodels.building import Model, Sequential
from flaxmodels.container import Container
from flaxmodels.interop import keras_calls, keras_operations
from flaxmodels.interop.keras_values import get, required
from flaxmodels.layers.base import Layer
from flaxmodels.layers.host import HostLayer
from flaxmodels.layers.symbolic import Symbol
from flaxmodels.names import lookup
from flaxmodels.ops.base import OperationCall
from flaxmodels.saving import custom, sharing
from flaxmodels.saving.format import Json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
Config = dict[str, Json]

OBJECTS = {"initializers": initializers, "regularizers": regularizers, "constraints": constraints}
# Keras has no sum pooling, and a Lambda layer contains code. Layers that compute on the host cannot be in a model.
ON_THE_HOST = {name for name, cls in layers.classes().items() if issubclass(cls, HostLayer)}
NOT_IN_KERAS = {
    "Layer",
    "Lambda",
    *ON_THE_HOST,
    *(f"{name}SumPooling{rank}D" for name in ("", "Global") for rank in (1, 2, 3)),
}
LAYERS: dict[str, type[Layer]] = {name: cls for name, cls in layers.classes().items() if name not in NOT_IN_KERAS}
FUNCTIONAL = ("Functional", "Model")
# The modules that a config may give for Keras' own classes and functions. They are compared, never imported.
MODULES = {
    "layer": {"keras.layers"},
    "model": {"keras", "keras.models", "keras.src.models.functional", "keras.src.models.sequential"},
    "dtype": {"keras", "keras.dtype_policies"},
    "function": {"builtins", "keras.activations"},
}
# Arguments that only Keras has, which have no effect if they are None.
IGNORED_IF_NONE = ("quantization_config", "lora_rank", "lora_alpha", "input_length")
# Arguments that have no effect in these layers and that Keras' constructors don't accept.
NOT_ACCEPTED_BY_KERAS = {
    "ActivityRegularization": ("activity_regularizer",),
    "Normalization": ("adapted",),
    **{f"SpatialDropout{rank}D": ("trainable", "activity_regularizer") for rank in (1, 2, 3)},
}
ARRAY_CLASSES = ("__numpy__", "__tensor__")
POLICY = re.compile(r"(mixed_)?(b?float16|float32|float64)|u?int(8|16|32|64)|bool")

# ---------------------------------------------------------------- from Keras


def from_keras(config: Json) -> Config:
    """Translates the config of a Keras model into the description that `saving.from_config` takes.

    Args:
        config: Parsed `config.json` of a `.keras` file.

    Raises:
        ValueError: If the config names an unknown class or function, contains code, or does not describe a model.

    Example:
        >>> config = {"module": "keras.layers", "class_name": "Dense", "config": {"units": 3}}
        >>> from_keras(config)
        {'class': 'Dense', 'config': {'units': 3}}
    """
    return _ConfigReader().layer(with_shared_ids(config))


def with_shared_ids(config: Json) -> Json:
    """Returns a config in which all descriptions of a shared layer have the `shared_object_id` of the layer.

    Keras leaves it out of the first one, which has the same class and arguments, among them the name.
    """
    known: dict[str, Json] = {}

    def visit(value: Json, change: Callable[[Config], Config]) -> Json:
        if isinstance(value, list):
            return [visit(item, change) for item in value]
        if not isinstance(value, dict):
            return value
        return change({key: visit(item, change) for key, item in value.items()})

    def identify(described: Config) -> str | None:
        inner = described.get("config")
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            return None
        without = visit({"class": described.get("class_name"), "config": inner}, _without_shared_id)
        return json.dumps(without, sort_keys=True)

    def note(described: Config) -> Config:
        if described.get("shared_object_id") is not None and (key := identify(described)) is not None:
            known.setdefault(key, described["shared_object_id"])
        return described

    def complete(described: Config) -> Config:
        if "class_name" not in described or described.get("shared_object_id") is not None:
            return described
        key = identify(described)
        return described if key not in known else described | {"shared_object_id": known[key]}

    visit(config, note)
    return visit(config, complete) if known else config


def _without_shared_id(described: Config) -> Config:
    return {key: value for key, value in described.items() if key != "shared_object_id"}


class _ConfigReader:
    """Translates one config."""

    def layer(self, described: Json, scope: bool = False) -> Config:
        """Translates a layer or model; `scope` adds its name, which is the scope of its parameters."""
        translated = self._layer(described, scope)
        number = get(described, "shared_object_id")
        return translated if number is None else translated | {"shared": number}

    def _layer(self, described: Json, scope: bool) -> Config:
        kind, config = required(described, "class_name", str), required(described, "config", dict)
        if custom.is_known(described):
            name = get(described, "name") or required(config, "name", str) if scope else None
            return _custom(described) | ({"name": name} if scope else {})
        named: Config = {"name": required(config, "name", str)} if scope else {}
        _check_from_keras(described, "model" if kind in ("Sequential", *FUNCTIONAL) else "layer")
        if kind == "Sequential":
            return self._sequential(config) | named
        if kind in FUNCTIONAL:
            return self._functional(config) | named
        cls = _layer_class(kind)
        translated: Config = {"class": cls.__name__, "config": self._arguments(config)}
        return translated | named

    def _arguments(self, config: Config) -> Config:
        arguments: Config = {}
        for key, value in config.items():
            if isinstance(value, float) and math.isnan(value):
                raise ValueError(f"NaN is not a valid argument of a layer, got it for {key[:80]!r}")
            if key == "name" or (key in IGNORED_IF_NONE and value is None):
                continue
            if key == "dtype":
                arguments.update(_dtype_arguments(_parse_policy(value)))
            elif key == "reverse_dtype":
                arguments[key] = None if value is None else _parse_policy(value)
            else:
                arguments[key] = self.value(value)
        return arguments

    def value(self, value: Json) -> Json:
        """Translates an argument: keeps plain values, and describes objects by the names of this library's classes."""
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "class_name" not in value:
            return {"mapping": {key: self.value(item) for key, item in value.items()}}
        kind, module = required(value, "class_name", str), value.get("module")
        if custom.is_known(value):
            return _custom(value)
        if kind == "__lambda__":
            raise ValueError("it contains the code of a lambda, which is never run; use the name of a Keras function")
        if kind in ARRAY_CLASSES:
            inner = required(value, "config", dict)
            numbers = inner.get("value")
            array = numbers if isinstance(numbers, bool | int | float) else required(inner, "value", list)
            return {"array": array, "dtype": required(inner, "dtype", str)}
        if kind == "function":
            name = required(value, "config", str)
            _check_from_keras(value, "function", name)
            lookup("function", name[:80], activations.ACTIVATIONS, place="in a Keras file")
            return name
        for objects in OBJECTS:
            if module == f"keras.{objects}":  # the class name is looked up when the object is built
                _check_from_keras(value, None)
                return {objects: kind, "config": self._arguments(required(value, "config", dict))}
        return {"layer": self.layer(value)}

    def _sequential(self, config: Config) -> Config:
        described = required(config, "layers", list)
        source: Json = None
        if described and _is_input(described[0]):
            source, described = _input_description(described[0]), described[1:]
        return {
            "class": "Sequential",
            "config": _trainable(config),
            "input": source,
            "layers": [self.layer(layer, scope=True) for layer in described],
        }

    def _functional(self, config: Config) -> Config:
        described = required(config, "layers", list)
        names = [required(layer, "name", str) for layer in described]
        duplicates = [name for name, count in collections.Counter(names).items() if count > 1]
        if duplicates:
            raise ValueError(f"two layers have the name {duplicates[0][:80]!r}; give each a unique name")
        sources = [layer for layer in described if _is_input(layer)]
        inner: Config = {
            name: self.layer(layer, scope=True) | {"name": name}
            for name, layer in zip(names, described, strict=True)
            if not _is_input(layer) and not keras_operations.is_operation(layer)
        }
        counted_from_one = {layer["name"] for layer in described if layer.get("class_name") in FUNCTIONAL}
        calls = keras_calls.CallGraph(
            {name: _named_as_custom(layer) for name, layer in zip(names, described, strict=True)},
            [layer["name"] for layer in sources],
            config.get("output_layers"),
            LAYERS,
            _compute_dtype,
        )
        inner |= {name: {"operation": operation, "name": name} for name, operation in calls.operations.items()}
        return {
            "class": "Model",
            "config": _trainable(config),
            "sources": [_input_description(layer) for layer in sources],
            "layers": inner,
            "calls": [
                {
                    "layer": name,
                    "args": [calls.argument(item, self.value) for item in call["args"]],
                    "kwargs": self._keywords(call["kwargs"], calls),
                }
                for name, call in calls.in_order()
            ],
            "inputs": calls.endpoints(config.get("input_layers"), counted_from_one),
            "outputs": calls.endpoints(config.get("output_layers"), counted_from_one),
        }

    def _keywords(self, keywords: Config, calls: "keras_calls.CallGraph") -> Config:
        """Translates the keyword arguments of a call, except `training`.

        Keras writes `training=False` even if the user did not pass it. The caller of the model decides instead.
        """
        keywords = {key: value for key, value in keywords.items() if key != "training"}
        return {key: calls.argument(value, self.value) for key, value in keywords.items()}


def _custom(described: Json) -> Config:
    """Returns the description of a custom object, without the entries that belong to the graph around it."""
    outside = ("name", "inbound_nodes", "shared_object_id")
    return {"custom": json.dumps({key: value for key, value in dict(described).items() if key not in outside})}  # type: ignore[arg-type]


def _named_as_custom(described: Json) -> dict[str, Any]:
    """Returns the config of a layer; a custom class may have the name of one of Keras' classes."""
    config: Any = described
    return {**config, "class_name": f"custom {config['class_name']}"} if custom.is_known(described) else config


def _check_from_keras(described: Json, kind: str | None, name: str | None = None) -> None:
    """Raises if an object has a custom registered name, or is not in one of Keras' public modules.

    Such an object is custom code, even if it has the name of one of Keras' classes.

    Args:
        described: Config of the object.
        kind: Key in `MODULES`; None skips the check of the module.
        name: Name of the object, by default its class name.
    """
    name = name or required(described, "class_name", str)
    module, registered = get(described, "module"), get(described, "registered_name")
    is_known = kind is None or (isinstance(module, str) and module in MODULES[kind])
    if not is_known or registered not in (None, name):
        raise ValueError(
            f"it names {name[:80]!r} of {str(module)[:80]!r}, registered as {str(registered)[:80]!r}, but only "
            "Keras' own layers and functions are supported; build such a model in code, or pass what it names in "
            "custom_objects of training.keras.saving.load_model"
        )


def _layer_class(kind: str) -> type[Layer]:
    if kind == "Lambda":
        raise ValueError("it has a Lambda layer, whose code is never run; use another layer")
    return lookup("layer", kind[:80], LAYERS, place="in a Keras file")


def _trainable(config: Config) -> Config:
    return {} if config.get("trainable") in (None, True) else {"trainable": config["trainable"]}


def _is_input(described: Json) -> bool:
    return isinstance(described, dict) and described.get("class_name") == "InputLayer"


def _input_description(described: Json) -> Config:
    _check_from_keras(described, "layer")
    config = required(described, "config", dict)
    unusual = [key for key in ("sparse", "ragged", "optional") if config.get(key)]
    if unusual:
        raise ValueError(f"it has an input that is {unusual[0]}, but only dense inputs are supported; make it dense")
    shape = required(config, "batch_shape", list)
    return {"shape": shape, "dtype": _parse_policy(config.get("dtype")), "name": required(config, "name", str)}


def _parse_policy(value: Json) -> str:
    """Returns the name of a dtype or of a policy such as "mixed_bfloat16"."""
    if isinstance(value, dict):
        if value.get("class_name") not in ("DTypePolicy", "FloatDTypePolicy"):
            raise ValueError(f"it has the dtype policy {str(value.get('class_name'))[:80]!r}, which is not supported")
        _check_from_keras(value, "dtype")
        value = required(required(value, "config", dict), "name", str)
    if value is None:
        return "float32"
    if not isinstance(value, str) or not POLICY.fullmatch(value):
        raise ValueError(f"it has the unknown dtype {str(value)[:80]!r}")
    return value


def _dtype_arguments(policy: str) -> dict[str, str]:
    if policy == "float32":
        return {}
    return {"dtype": policy} if policy.startswith("mixed_") else {"dtype": policy, "param_dtype": policy}


def _compute_dtype(config: Mapping[str, Json]) -> str:
    """Returns the compute dtype of a layer, given its config."""
    return _parse_policy(config.get("dtype")).removeprefix("mixed_")


# ---------------------------------------------------------------- to Keras


def to_keras(model: Layer, shares: bool = True) -> Config:
    """Returns the config of a layer or model as Keras writes it in the `config.json` of a `.keras` file.

    Args:
        model: A layer or model.
        shares: Whether layers in several places have a number, as in files; Keras' `get_config` and `to_json` give
            none, so that each place gets a layer of its own.

    Raises:
        ValueError: If Keras has no such layer, or an argument is custom code.

    Example:
        >>> to_keras(layers.Dense(3))["config"]["units"]
        3
    """
    with sharing.describing(model, shares):
        return _to_config(model, model.name, None, True)


def _to_config(layer: Layer, name: str | None, dtype: DTypeLike | None, trainable: bool) -> Config:
    """Returns the config of a layer, with its number if it is shared; see `_describe`."""
    described, number = _describe(layer, name, dtype, trainable), sharing.number_of(layer)
    return described if number is None else described | {"shared_object_id": number}


def _describe(layer: Layer, name: str | None, dtype: DTypeLike | None, trainable: bool) -> Config:
    """Returns the config of a layer.

    Args:
        layer: The layer.
        name: The layer's name, or None to leave it out.
        dtype: Dtype of the models that contain the layer, or None.
        trainable: Whether all models that contain the layer are trainable.
    """
    trainable = trainable and layer.trainable
    named: Config = ({} if trainable else {"trainable": False}) | ({"name": name} if name else {})
    if isinstance(layer, Container):
        dtype = dtype if layer.own_dtype is None else layer.own_dtype
        if type(layer) is Sequential:
            module, kind, inside = "keras", "Sequential", _sequential_config(layer, dtype, trainable)
        elif type(layer) is Model:
            module, kind = "keras.src.models.functional", "Functional"
            inside = _functional_config(layer, dtype, trainable)
        else:
            described = custom.describe(layer)
            if described is None:
                raise ValueError(
                    f"A Keras file supports Sequential and Model, got a {type(layer).__name__}; build one of these "
                    "instead."
                )
            return _with_name(described, name, trainable)
        config = named | {"name": name or kind.lower()} | inside
        registered = kind if kind == "Functional" else None
        return {"module": module, "class_name": kind, "config": config, "registered_name": registered}
    kind = type(layer).__name__
    if LAYERS.get(kind) is not type(layer):
        described = custom.describe(layer)
        if described is not None:
            return _with_name(described, name, trainable)
        raise ValueError(
            f"A Keras file supports only Keras' own layers, got a {kind}; replace it, or save the model as "
            "'.safetensors'."
        )
    arguments = named | {"dtype": _policy_name(layer, dtype)}
    arguments |= _changed_arguments(layer, lambda inner: _to_config(inner, None, dtype, trainable))
    for argument in NOT_ACCEPTED_BY_KERAS.get(kind, ()):
        arguments.pop(argument, None)
    size = arguments.get("size")
    if kind == "UpSampling1D" and isinstance(size, list):
        arguments["size"] = size[0]
    return {"module": "keras.layers", "class_name": kind, "config": arguments, "registered_name": None}


def _with_name(described: Config, name: str | None, trainable: bool) -> Config:
    """Returns the description of a custom layer with its name, and not trainable if the model around it is not."""
    config = required(described, "config", dict)
    changed: Config = ({"name": name} if name else {}) | ({} if trainable else {"trainable": False})
    return described | {"config": config | {key: value for key, value in changed.items() if key in config}}


def _policy_name(layer: Layer, around: DTypeLike | None) -> str:
    """Returns the name of Keras' dtype policy for a layer's compute dtype and parameter dtype."""
    compute_dtype = layer.own_dtype if layer.own_dtype is not None else around
    param_dtype = jnp.dtype(layer.param_dtype).name
    if isinstance(compute_dtype, str) and compute_dtype.startswith("mixed_"):
        compute_dtype = compute_dtype.removeprefix("mixed_")
    compute_dtype = param_dtype if compute_dtype is None else jnp.dtype(compute_dtype).name
    if compute_dtype == param_dtype:
        return param_dtype
    if param_dtype == "float32" and compute_dtype in ("bfloat16", "float16"):
        return f"mixed_{compute_dtype}"
    raise ValueError(
        f"Keras has no policy to compute in {compute_dtype} with parameters in {param_dtype}, as {layer.label} does; "
        "use one dtype for both, or a mixed policy."
    )


def _changed_arguments(
    thing: "DataclassInstance | type[DataclassInstance]", describe: Callable[[Layer], Json]
) -> Config:
    """Returns the arguments of a layer or object that differ from their defaults, which equal Keras' defaults."""
    arguments: Config = {}
    for field in dataclasses.fields(thing):
        value = getattr(thing, field.name)
        is_separate = field.name in ("parent", "name", "trainable", "dtype", "param_dtype", "input_shape")
        if is_separate or not field.init or value is field.default:
            continue
        arguments[field.name] = _encode(value, f"{type(thing).__name__}.{field.name}", describe)
    return arguments


def _encode(value: Any, where: str, describe: Callable[[Layer], Json]) -> Json:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        return {"class_name": "__numpy__", "config": {"value": array.tolist(), "dtype": array.dtype.name}}
    if isinstance(value, list | tuple):
        return [_encode(item, where, describe) for item in value]
    if isinstance(value, Mapping):
        return {key: _encode(item, where, describe) for key, item in value.items()}
    if isinstance(value, Layer):
        return describe(value)
    for kind, module in OBJECTS.items():
        if dataclasses.is_dataclass(value) and getattr(module, type(value).__name__, None) is type(value):
            config = _changed_arguments(value, describe)
            named: Config = {"module": f"keras.{kind}", "class_name": type(value).__name__}
            return named | {"config": config, "registered_name": None}
    for name, function in activations.ACTIVATIONS.items():
        if value is function:
            return name
    described = custom.describe(value)
    if described is not None:
        return described
    try:
        return jnp.dtype(value).name
    except TypeError:
        raise ValueError(
            f"A Keras file can contain only names and numbers, got {value!r} for {where}; use a name."
        ) from None


def _input_layer(symbol: Symbol, name: str) -> Config:
    config: Config = {"batch_shape": list(symbol.shape), "dtype": jnp.dtype(symbol.dtype).name, "name": name}
    return {"module": "keras.layers", "class_name": "InputLayer", "config": config, "registered_name": None}


def _sequential_config(model: Sequential, dtype: DTypeLike | None, trainable: bool) -> Config:
    source = model.layers.source
    front = [] if source is None else [_input_layer(source, source.name or "input_layer")]
    inner = [_to_config(layer, name, dtype, trainable) for name, layer in model.children()]
    return {"layers": [*front, *inner]}


def _functional_config(model: Model, dtype: DTypeLike | None, trainable: bool) -> Config:
    graph = model.graph
    sources = jax.tree.leaves(graph.inputs)
    names = _input_names(model)
    positions: dict[int, tuple[str, int, int]] = {id(x): (name, 0, 0) for x, name in zip(sources, names, strict=True)}
    calls: dict[str, list[Json]] = {graph.names[id(layer)]: [] for layer in model.operations}
    operations: dict[str, Config] = {}

    def encode(value: object) -> Json:
        if isinstance(value, Symbol):
            config: Config = {"shape": list(value.shape), "dtype": jnp.dtype(value.dtype).name}
            return {"class_name": "__keras_tensor__", "config": config | {"keras_history": list(positions[id(value)])}}
        if isinstance(value, list | tuple):
            return [encode(item) for item in value]
        if isinstance(value, Mapping):
            return {key: encode(item) for key, item in value.items()}
        return _encode(value, "an argument of a call", lambda layer: _to_config(layer, None, dtype, trainable))

    for node in graph.nodes:
        name = graph.names[id(node.layer)]
        for i, symbol in enumerate(jax.tree.leaves(node.outputs)):
            positions[id(symbol)] = name, len(calls[name]), i
        if isinstance(node.layer, OperationCall):
            described_operation, call = keras_operations.describe(node, name, encode)
            if operations.setdefault(name, described_operation) != described_operation:
                raise ValueError(f"A Keras file needs one operation for all calls of {name!r}; give each its own name.")
            calls[name].append(call)
            continue
        keywords = {"training" if key == "train" else key: encode(value) for key, value in node.kwargs.items()}
        calls[name].append({"args": encode(node.args), "kwargs": keywords})
    inner = {
        name: operations[name] if name in operations else _to_config(layer, name, dtype, trainable)
        for name, layer in ((graph.names[id(layer)], layer) for layer in model.operations)
    }
    counted_from_one = {name for name, layer in model.children() if isinstance(layer, Model)}

    def end(tree: object) -> Json:
        def place(symbol: Symbol) -> list[Json]:
            name, call, output = positions[id(symbol)]
            return [name, call + (name in counted_from_one), output]

        return jax.tree.map(place, tree)

    described: list[Json] = []
    for symbol in sources:
        name = positions[id(symbol)][0]
        described.append(_input_layer(symbol, name) | {"name": name, "inbound_nodes": []})
    for name, layer in inner.items():
        described.append(layer | {"name": name, "inbound_nodes": calls[name]})
    return {
        "layers": described,
        "input_layers": end(graph.inputs),
        "output_layers": end(graph.outputs),
    }


def _input_names(model: Model) -> list[str]:
    """Returns a name for each input; no layer has one of these names."""
    used = set(model.graph.names.values())
    names: list[str] = []
    for symbol in jax.tree.leaves(model.graph.inputs):
        name, count = symbol.name or "input_layer", 0
        while name in used:
            count += 1
            name = f"{symbol.name or 'input_layer'}_{count}"
        used.add(name)
        names.append(name)
    return names
