"""Operations as nodes of a functional Keras model, such as those of `x + y` and `ops.mean(x)`.

A file can only name the operations in `flaxmodels.ops.keras_classes`. Keras stores some arguments of an operation in
its config, and the others in its call. Here all are arguments of the call.
"""

import inspect
from collections.abc import Callable

import jax
import numpy as np

from flaxmodels.interop.keras_masks import Arguments, Description
from flaxmodels.layers.symbolic import Node, symbols_in
from flaxmodels.ops import keras_classes
from flaxmodels.ops.base import function
from flaxmodels.saving.format import Json


def is_operation(described: object) -> bool:
    """Returns whether a node of a graph is one of the known operations of Keras."""
    if not isinstance(described, dict):
        return False
    module, name = described.get("module"), described.get("class_name")
    if not isinstance(module, str) or not isinstance(name, str):
        return False
    operation = keras_classes.by_class().get((module, name))
    config = described.get("config")
    if operation is None or described.get("registered_name") not in (None, name) or not isinstance(config, dict):
        return False
    return set(config) <= {"name", "dtype", *keras_classes.by_operation()[operation].settings}


def name_of(described: Description) -> str:
    """Returns our name of an operation."""
    return keras_classes.by_class()[described["module"], described["class_name"]]


def merge_settings(described: Description, call: Arguments) -> Arguments:
    """Returns the call of an operation with the arguments of its config, in the order of our function.

    Raises:
        ValueError: If the config has an argument that is not supported, or the call has too many.
    """
    operation = name_of(described)
    cls = keras_classes.by_operation()[operation]
    parameters = inspect.signature(function(operation)).parameters
    given: dict[str, Json] = {key: described["config"][key] for key in cls.settings if key in described["config"]}
    for key in [key for key in given if key not in parameters]:
        if given.pop(key) not in (None, False):
            raise ValueError(f"{cls.name} with {key!r} is not supported; leave it out")
    names = list(cls.tensors)
    if names[0].startswith("*"):
        given[names[0][1:]] = call["args"]
    elif len(call["args"]) > len(names):
        raise ValueError(f"{cls.name} takes {len(names)} arguments in a call, got {len(call['args'])}; remove some")
    else:
        given |= dict(zip(names, call["args"], strict=False))
    given |= call["kwargs"]
    args: list[Json] = []
    for name, parameter in parameters.items():
        if name not in given or parameter.kind is parameter.KEYWORD_ONLY:
            break
        value = given.pop(name)
        if parameter.kind is not parameter.VAR_POSITIONAL:
            args.append(value)
        elif isinstance(value, list):
            args.extend(value)
    return {"args": args, "kwargs": given}


def describe(node: Node, name: str, encode: Callable[[object], Json]) -> tuple[dict[str, Json], dict[str, Json]]:
    """Returns the config of an operation and its call as Keras writes them.

    Args:
        node: A call of an operation.
        name: The name of the operation in the model.
        encode: Writes the other arguments of a call.

    Raises:
        ValueError: If Keras has no such operation, or would store a symbol or code in its config.
    """
    operation = node.layer.operation
    if operation not in keras_classes.by_operation():
        raise ValueError(
            f"A Keras file can contain only operations of Keras, got {operation!r}; save the model's weights alone."
        )
    cls = keras_classes.by_operation()[operation]
    given = inspect.signature(function(operation)).bind(*node.args, **node.kwargs).arguments

    def write(value: object) -> Json:
        if isinstance(value, slice):
            return {"class_name": "__slice__", "config": {"start": value.start, "stop": value.stop, "step": value.step}}
        if value is Ellipsis:
            return {"class_name": "__ellipsis__", "config": {}}
        if isinstance(value, list | tuple):
            return [write(item) for item in value]
        if isinstance(value, jax.Array) and value.ndim == 0 and value.weak_type:
            value = value.item()
        if isinstance(value, np.generic):
            value = np.asarray(value)
        if any(value is kind for kind in (bool, int, float)):
            return value.__name__  # type: ignore[attr-defined]
        if isinstance(value, complex):
            raise ValueError(f"A Keras file cannot contain the complex number {value} of {name!r}; use real numbers.")
        return encode(value)

    config: dict[str, Json] = {"name": name}
    for key in cls.settings:
        if key in given:
            if symbols_in(given[key]):
                raise ValueError(
                    f"Keras stores `{key}` of {operation!r} as a constant, got a symbol for {name!r}; use a number, or "
                    "another operation, or save the model as '.safetensors'."
                )
            config[key] = write(_plain(given[key]))
    args: list[Json] = []
    kwargs: dict[str, Json] = {}
    for key in cls.tensors:
        if key.startswith("**"):
            kwargs |= {name: write(value) for name, value in given.get(key[2:], {}).items()}
        elif key.startswith("*"):
            args.extend(write(value) for value in given.get(key[1:], ()))
        elif key in given and not kwargs and len(args) == cls.tensors.index(key):
            args.append(write(given[key]))
        elif key in given:
            kwargs[key] = write(given[key])
    described: dict[str, Json] = {"module": cls.module, "class_name": cls.name, "config": config}
    return described | {"registered_name": cls.name}, {"args": args, "kwargs": kwargs}


def _plain(value: object) -> object:
    """Returns a setting with numbers of Python in place of NumPy's: Keras' constructors take no arrays from a file."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | jax.Array) and value.ndim == 0):
        return value.item()
    if isinstance(value, np.ndarray | jax.Array):
        return value.tolist()
    return value
