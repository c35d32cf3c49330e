"""Architectures in Keras' words: `to_keras` writes the JSON of a `.keras` file, `from_keras` translates it into ours.

What is read is translated value by value into the description that `flaxmodels.saving.from_config` builds, which knows
the names of our classes and functions alone. Nothing here imports, calls or evaluates what a file names.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels import activations, constraints, initializers, layers, regularizers
from flaxmodels.building import Model, Sequential
from flaxmodels.container import Container
from flaxmodels.interop import keras_masks
from flaxmodels.layers.base import Layer
from flaxmodels.layers.symbolic import Symbol
from flaxmodels.names import lookup

OBJECTS = {"initializers": initializers, "regularizers": regularizers, "constraints": constraints}
# Sums over windows are ours alone; what a Lambda does is code.
NOT_IN_KERAS = {"Layer", "Lambda", *(f"{name}SumPooling{rank}D" for name in ("", "Global") for rank in (1, 2, 3))}
LAYERS: dict[str, Any] = {name: cls for name, cls in layers.classes().items() if name not in NOT_IN_KERAS}
FUNCTIONAL = ("Functional", "Model")
# Modules that stand beside the names of Keras' own classes and functions; they are compared, never imported.
MODULES = {
    "layer": {"keras.layers"},
    "model": {"keras", "keras.models", "keras.src.models.functional", "keras.src.models.sequential"},
    "dtype": {"keras", "keras.dtype_policies"},
    "function": {"builtins", "keras.activations"},
}
# Arguments of Keras alone, and the one value with which they ask for nothing.
WITHOUT_EFFECT = ("quantization_config", "lora_rank", "lora_alpha", "input_length")
# Arguments of ours, without effect in these layers, that Keras' constructors do not take.
NOT_TAKEN = {
    "ActivityRegularization": ("activity_regularizer",),
    **{f"SpatialDropout{rank}D": ("trainable", "activity_regularizer") for rank in (1, 2, 3)},
}
ARRAYS = ("__numpy__", "__tensor__")
POLICY = re.compile(r"(mixed_)?(b?float16|float32|float64)|u?int(8|16|32|64)|bool")

# ---------------------------------------------------------------- from Keras


def from_keras(config: Any) -> dict[str, Any]:
    """Translates a model of Keras' into the description that `saving.from_config` takes.

    Args:
        config: The value of a `.keras` file's `config.json`.

    Raises:
        ValueError: If it names what is not ours, holds code, or is no description of a model.

    Example:
        >>> config = {"module": "keras.layers", "class_name": "Dense", "config": {"units": 3}}
        >>> from_keras(config)
        {'class': 'Dense', 'config': {'units': 3}}
    """
    return _Reader().layer(config)


class _Reader:
    """Translates one file; remembers which layers it has seen, since Keras tells shared ones by their number."""

    def __init__(self) -> None:
        self.seen: set[Any] = set()

    def layer(self, described: Any, scope: bool = False) -> dict[str, Any]:
        """A layer or model; with its name where that is its scope among the parameters."""
        kind, config = _entry(described, "class_name", str), _entry(described, "config", dict)
        named = {"name": _entry(config, "name", str)} if scope else {}
        _check_own(described, "model" if kind in ("Sequential", *FUNCTIONAL) else "layer")
        self._check_not_shared(described, kind)
        if kind == "Sequential":
            return self._sequential(config) | named
        if kind in FUNCTIONAL:
            return self._functional(config) | named
        cls = _known(kind)
        return {"class": cls.__name__, "config": self._arguments(config)} | named

    def _check_not_shared(self, described: Any, kind: str) -> None:
        number = described.get("shared_object_id")
        if number is None:
            return
        if not isinstance(number, int) or number in self.seen:
            raise ValueError(
                f"one {kind} is in two models, and here its weights would be two; "
                "share it by calling it twice in one model"
            )
        self.seen.add(number)

    def _arguments(self, config: dict[str, Any]) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for key, value in config.items():
            if key == "name" or (key in WITHOUT_EFFECT and value is None):
                continue
            if key == "dtype":
                given.update(_dtypes(_policy(value)))
            elif key == "reverse_dtype":
                given[key] = None if value is None else _policy(value)
            else:
                given[key] = self.value(value)
        return given

    def value(self, value: Any) -> Any:
        """An argument: plain values, and objects by the names of our own classes."""
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "class_name" not in value:
            return {"mapping": {key: self.value(item) for key, item in value.items()}}
        kind, module = _entry(value, "class_name", str), value.get("module")
        if kind == "__lambda__":
            raise ValueError("it holds the code of a lambda, and no code of a file is run; name a function of Keras'")
        if kind in ARRAYS:
            inner = _entry(value, "config", dict)
            return {"array": _entry(inner, "value", list), "dtype": _entry(inner, "dtype", str)}
        if kind == "function":
            _check_own(value, "function", name=_entry(value, "config", str))
            lookup("function in a Keras file", value["config"][:80], activations.ACTIVATIONS)
            return value["config"]
        for objects in OBJECTS:
            if module == f"keras.{objects}":  # the name itself is looked up where the object is made
                _check_own(value, None)
                return {objects: kind, "config": self._arguments(_entry(value, "config", dict))}
        return {"layer": self.layer(value)}

    def _sequential(self, config: dict[str, Any]) -> dict[str, Any]:
        described, source = _entry(config, "layers", list), None
        if described and _is_input(described[0]):
            source, described = _source(described[0]), described[1:]
        return {
            "class": "Sequential",
            "config": _trainable(config),
            "input": source,
            "layers": [self.layer(layer, scope=True) for layer in described],
        }

    def _functional(self, config: dict[str, Any]) -> dict[str, Any]:
        described = _entry(config, "layers", list)
        names = [_entry(layer, "name", str) for layer in described]
        twice = [name for name, count in collections.Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"two layers have the name {twice[0][:80]!r}; give each its own")
        sources = [layer for layer in described if _is_input(layer)]
        inner = {
            name: self.layer(layer, scope=True) | {"name": name}
            for name, layer in zip(names, described, strict=True)
            if not _is_input(layer) and not keras_masks.is_operation(layer)
        }
        shifted = {layer["name"] for layer in described if layer.get("class_name") in FUNCTIONAL}
        calls = _Calls(described, [layer["name"] for layer in sources])
        return {
            "class": "Model",
            "config": _trainable(config),
            "sources": [_source(layer) for layer in sources],
            "layers": inner,
            "calls": [
                {
                    "layer": name,
                    "args": [calls.argument(item, self.value) for item in call["args"]],
                    "kwargs": self._keywords(call["kwargs"], calls),
                }
                for name, call in calls.in_order()
            ],
            "inputs": calls.end(config.get("input_layers"), shifted),
            "outputs": calls.end(config.get("output_layers"), shifted),
        }

    def _keywords(self, keywords: dict[str, Any], calls: "_Calls") -> dict[str, Any]:
        """What a call was given by name.

        Keras writes down a `training` of False that nobody gave; when the model is called, what the caller says of
        training goes before what stands in the file.
        """
        given = {key: value for key, value in keywords.items() if key != "training"}
        return {key: calls.argument(value, self.value) for key, value in given.items()}


class _Calls:
    """The calls of a functional model, ordered so that each comes after those that it takes from."""

    def __init__(self, described: list[Any], sources: list[str]):
        self.places = {(name, 0): [-1, i] for i, name in enumerate(sources)}
        self.calls: dict[tuple[str, int], Any] = {}
        for layer in described:
            if layer["name"] not in sources:
                for i, call in enumerate(_entry(layer, "inbound_nodes", list)):
                    self.calls[layer["name"], i] = {
                        "args": _entry(call, "args", list),
                        "kwargs": _entry(call, "kwargs", dict),
                    }
        by_name = {layer["name"]: layer for layer in described}
        self.masks = keras_masks.Masks(by_name, _source_of, LAYERS, lambda config: _computed(config.get("dtype")))
        self.order = []
        for key in self._sorted():
            call = self.masks.resolved(key, self.calls[key])
            if call is not None:
                self.calls[key] = call
                self.order.append(key)
        self.places |= {key: [i, 0] for i, key in enumerate(self.order)}

    def _sorted(self) -> list[tuple[str, int]]:
        needs = {key: set(map(_history, _tensors(call))) for key, call in self.calls.items()}
        missing = {key: {other for other in needed if other in self.calls} for key, needed in needs.items()}
        followers = collections.defaultdict(list)
        for key, needed in missing.items():
            for other in needed:
                followers[other].append(key)
        ready = collections.deque(key for key, needed in missing.items() if not needed)
        order = []
        while ready:
            order.append(ready.popleft())
            for key in followers[order[-1]]:
                missing[key].discard(order[-1])
                if not missing[key]:
                    ready.append(key)
        if len(order) < len(self.calls):
            left = next(iter(set(self.calls) - set(order)))
            raise ValueError(f"its graph goes in circles at {left[0][:80]!r}; a model has an order")
        return order

    def in_order(self) -> Iterator[tuple[str, Any]]:
        for key in self.order:
            yield key[0], self.calls[key]

    def argument(self, value: Any, translate: Callable[[Any], Any]) -> Any:
        """An argument of a call, with our symbols for Keras' tensors."""
        if _is_tensor(value):
            return self._symbol(*_source_of(value))
        if isinstance(value, list):
            return [self.argument(item, translate) for item in value]
        if isinstance(value, dict) and "class_name" not in value:
            return {"mapping": {key: self.argument(item, translate) for key, item in value.items()}}
        return translate(value)

    def end(self, tree: Any, shifted: set[str]) -> Any:
        """The model's inputs or outputs; Keras counts the calls of a nested functional model from 1 here."""
        if isinstance(tree, dict):
            return {"mapping": {key: self.end(item, shifted) for key, item in tree.items()}}
        if isinstance(tree, list) and len(tree) == 3 and isinstance(tree[0], str):
            name, call, output = tree
            return self._symbol(name, call - (name in shifted) if isinstance(call, int) else call, output)
        if isinstance(tree, list):
            return [self.end(item, shifted) for item in tree]
        raise ValueError(f"its inputs and outputs are [layer, call, output], got {str(tree)[:80]!r}")

    def _symbol(self, name: str, call: int, output: Any) -> dict[str, Any]:
        if name in self.masks.operations:
            raise ValueError(
                f"it computes with {self.masks.operations[name]}, and operations of Keras are read only where they "
                "make the mask of a layer; use layers"
            )
        if not isinstance(call, int) or type(output) is not int or output < 0 or (name, call) not in self.places:
            raise ValueError(f"it takes from call {str(call)[:20]} of {name[:80]!r}, which is not there")
        number, first = self.places[name, call]
        return {"symbol": [number, first + output]}


def _entry(config: Any, key: str, kind: type) -> Any:
    value = config.get(key) if isinstance(config, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"it describes each part with a {kind.__name__} {key!r}, got {str(config)[:80]!r}")
    return value


def _check_own(described: Any, kind: str | None, name: str | None = None) -> None:
    """Refuses what is registered by other packages or comes from other modules than Keras' public ones."""
    name = name or described["class_name"]
    module, registered = described.get("module"), described.get("registered_name")
    known = kind is None or (isinstance(module, str) and module in MODULES[kind])
    if not known or registered not in (None, name):
        raise ValueError(
            f"it names {name[:80]!r} of {str(module)[:80]!r}, registered as {str(registered)[:80]!r}, but only "
            "layers and functions of Keras itself are read; build such a model in code"
        )


def _known(kind: str) -> Any:
    if kind == "Lambda":
        raise ValueError("it has a Lambda layer, which is code, and no code of a file is run; use a layer by its name")
    return lookup("layer in a Keras file", kind[:80], LAYERS)


def _trainable(config: dict[str, Any]) -> dict[str, Any]:
    return {} if config.get("trainable") in (None, True) else {"trainable": config["trainable"]}


def _is_input(described: Any) -> bool:
    return isinstance(described, dict) and described.get("class_name") == "InputLayer"


def _source(described: Any) -> dict[str, Any]:
    _check_own(described, "layer")
    config = _entry(described, "config", dict)
    unusual = [key for key in ("sparse", "ragged", "optional") if config.get(key)]
    if unusual:
        raise ValueError(f"it has an input that is {unusual[0]}, and inputs are dense arrays here; make it dense")
    shape = _entry(config, "batch_shape", list)
    return {"shape": shape, "dtype": _policy(config.get("dtype")), "name": _entry(config, "name", str)}


def _policy(value: Any) -> str:
    """The name of a dtype or of a policy such as "mixed_bfloat16"."""
    if isinstance(value, dict):
        if value.get("class_name") not in ("DTypePolicy", "FloatDTypePolicy"):
            raise ValueError(f"it computes in {str(value.get('class_name'))[:80]!r}, which is no policy of one dtype")
        _check_own(value, "dtype")
        value = _entry(_entry(value, "config", dict), "name", str)
    if value is None:
        return "float32"
    if not isinstance(value, str) or not POLICY.fullmatch(value):
        raise ValueError(f"it names an unknown dtype, {str(value)[:80]!r}")
    return value


def _dtypes(policy: str) -> dict[str, str]:
    if policy == "float32":
        return {}
    return {"dtype": policy} if policy.startswith("mixed_") else {"dtype": policy, "param_dtype": policy}


def _computed(policy: Any) -> str:
    """The dtype that a policy computes in."""
    return _policy(policy).removeprefix("mixed_")


def _is_tensor(value: Any) -> bool:
    return isinstance(value, dict) and value.get("class_name") == "__keras_tensor__"


def _history(tensor: Any) -> tuple[str, int]:
    """Which call of which layer a tensor comes from."""
    return _source_of(tensor)[:2]


def _source_of(tensor: Any) -> tuple[str, int, int]:
    """Which output of which call of which layer a tensor is."""
    history = _entry(_entry(tensor, "config", dict), "keras_history", list)
    if len(history) != 3 or not isinstance(history[0], str) or any(type(n) is not int for n in history[1:]):
        raise ValueError(f"its tensors come from [layer, call, output], got {str(history)[:80]!r}")
    return history[0], history[1], history[2]


def _tensors(value: Any) -> list[Any]:
    """The tensors anywhere in a call."""
    if _is_tensor(value):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [tensor for item in inner for tensor in _tensors(item)]


# ---------------------------------------------------------------- to Keras


def to_keras(model: Layer) -> dict[str, Any]:
    """Describes a layer or model as Keras does in the `config.json` of a `.keras` file.

    Raises:
        ValueError: If Keras has no such layer, or only code describes it.

    Example:
        >>> to_keras(layers.Dense(3))["config"]["units"]
        3
    """
    return _described(model, model.name, None, True)


def _described(layer: Layer, name: str | None, dtype: Any, trainable: bool) -> dict[str, Any]:
    """A layer, with the dtype and the freedom to train that the models around leave it."""
    trainable = trainable and layer.trainable
    named = ({} if trainable else {"trainable": False}) | ({"name": name} if name else {})
    if isinstance(layer, Container):
        dtype = dtype if layer.dtype is None else layer.dtype
        if type(layer) is Sequential:
            module, kind, write = "keras", "Sequential", _of_sequential
        elif type(layer) is Model:
            module, kind, write = "keras.src.models.functional", "Functional", _of_model
        else:
            raise ValueError(f"Keras has no {type(layer).__name__}; make the model a Sequential or a Model.")
        config = named | {"name": name or kind.lower()} | write(layer, dtype, trainable)
        registered = kind if kind == "Functional" else None
        return {"module": module, "class_name": kind, "config": config, "registered_name": registered}
    kind = type(layer).__name__
    if LAYERS.get(kind) is not type(layer):
        raise ValueError(
            f"A Keras file names Keras' own layers, and {kind} is none of them; replace it, or "
            "save the model as '.safetensors'."
        )
    arguments: dict[str, Any] = named | {"dtype": _policy_of(layer, dtype)}
    arguments |= _fields(layer, lambda inner: _described(inner, None, dtype, trainable))
    for argument in NOT_TAKEN.get(kind, ()):
        arguments.pop(argument, None)
    if kind == "UpSampling1D" and "size" in arguments:
        arguments["size"] = arguments["size"][0]
    return {"module": "keras.layers", "class_name": kind, "config": arguments, "registered_name": None}


def _policy_of(layer: Layer, around: Any) -> str:
    """Keras' name for the dtypes that a layer computes in and keeps its parameters in."""
    computation = layer.dtype if layer.dtype is not None else around
    kept = jnp.dtype(layer.param_dtype).name
    if isinstance(computation, str) and computation.startswith("mixed_"):
        computation = computation.removeprefix("mixed_")
    computation = kept if computation is None else jnp.dtype(computation).name
    if computation == kept:
        return kept
    if kept == "float32" and computation in ("bfloat16", "float16"):
        return f"mixed_{computation}"
    raise ValueError(
        f"Keras has no policy to compute in {computation} with parameters in {kept}, as {layer.label} does; "
        "give it one dtype, or a mixed one."
    )


def _fields(thing: Any, describe: Callable[[Layer], Any]) -> dict[str, Any]:
    """The arguments of a layer or object that differ from their defaults, which are Keras' own."""
    found = {}
    for field in dataclasses.fields(thing):
        value = getattr(thing, field.name)
        ours = field.name in ("parent", "name", "trainable", "dtype", "param_dtype", "input_shape")
        if ours or not field.init or value is field.default:
            continue
        found[field.name] = _encoded(value, f"{type(thing).__name__}.{field.name}", describe)
    return found


def _encoded(value: Any, where: str, describe: Callable[[Layer], Any]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        return {"class_name": "__numpy__", "config": {"value": array.tolist(), "dtype": array.dtype.name}}
    if isinstance(value, list | tuple):
        return [_encoded(item, where, describe) for item in value]
    if isinstance(value, Mapping):
        return {key: _encoded(item, where, describe) for key, item in value.items()}
    if isinstance(value, Layer):
        return describe(value)
    for kind, module in OBJECTS.items():
        if dataclasses.is_dataclass(value) and getattr(module, type(value).__name__, None) is type(value):
            config = _fields(value, describe)
            named = {"module": f"keras.{kind}", "class_name": type(value).__name__}
            return named | {"config": config, "registered_name": None}
    for name, function in activations.ACTIVATIONS.items():
        if value is function:
            return name
    try:
        return jnp.dtype(value).name
    except TypeError:
        raise ValueError(
            f"A Keras file holds names and numbers, but {where} is {value!r}, which only code describes; use a name."
        ) from None


def _input_layer(symbol: Symbol, name: str) -> dict[str, Any]:
    config = {"batch_shape": list(symbol.shape), "dtype": jnp.dtype(symbol.dtype).name, "name": name}
    return {"module": "keras.layers", "class_name": "InputLayer", "config": config, "registered_name": None}


def _of_sequential(model: Any, dtype: Any, trainable: bool) -> dict[str, Any]:
    source = model.layers.source
    front = [] if source is None else [_input_layer(source, source.name or "input_layer")]
    inner = [_described(layer, name, dtype, trainable) for name, layer in model.children()]
    return {"layers": [*front, *inner]}


def _of_model(model: Any, dtype: Any, trainable: bool) -> dict[str, Any]:
    graph = model.graph
    sources = jax.tree.leaves(graph.inputs)
    names = _input_names(model)
    places: dict[int, list[Any]] = {id(x): [name, 0, 0] for x, name in zip(sources, names, strict=True)}
    calls: dict[str, list[Any]] = {name: [] for name, _ in model.children()}

    def encode(value: Any) -> Any:
        if isinstance(value, Symbol):
            config = {"shape": list(value.shape), "dtype": jnp.dtype(value.dtype).name}
            return {"class_name": "__keras_tensor__", "config": config | {"keras_history": places[id(value)]}}
        if isinstance(value, list | tuple):
            return [encode(item) for item in value]
        if isinstance(value, Mapping):
            return {key: encode(item) for key, item in value.items()}
        return _encoded(value, "an argument of a call", lambda layer: _described(layer, None, dtype, trainable))

    for node in graph.nodes:
        name = graph.names[id(node.layer)]
        keywords = {"training" if key == "train" else key: encode(value) for key, value in node.kwargs.items()}
        for i, symbol in enumerate(jax.tree.leaves(node.outputs)):
            places[id(symbol)] = [name, len(calls[name]), i]
        calls[name].append({"args": encode(node.args), "kwargs": keywords})
    inner = {name: _described(layer, name, dtype, trainable) for name, layer in model.children()}
    shifted = {name for name, layer in model.children() if isinstance(layer, Model)}

    def end(tree: Any) -> Any:
        def place(symbol: Symbol) -> Any:
            name, call, output = places[id(symbol)]
            return [name, call + (name in shifted), output]

        return jax.tree.map(place, tree)

    front = [_input_layer(symbol, places[id(symbol)][0]) for symbol in sources]
    return {
        "layers": [layer | {"name": layer["config"]["name"], "inbound_nodes": []} for layer in front]
        + [layer | {"name": name, "inbound_nodes": calls[name]} for name, layer in inner.items()],
        "input_layers": end(graph.inputs),
        "output_layers": end(graph.outputs),
    }


def _input_names(model: Model) -> list[str]:
    """A name for each input, which no layer has."""
    taken = {name for name, _ in model.children()}
    names: list[str] = []
    for symbol in jax.tree.leaves(model.graph.inputs):
        name, count = symbol.name or "input_layer", 0
        while name in taken:
            count += 1
            name = f"{symbol.name or 'input_layer'}_{count}"
        taken.add(name)
        names.append(name)
    return names
