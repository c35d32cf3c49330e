"""What an optimizer is made of: names and numbers that differ where two optimizers differ."""

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

PLAIN = str | bool | int | float | None


def describe(optimizer: optax.GradientTransformation) -> dict[str, Any]:
    """Returns the arguments of an optimizer by the paths of the variables that hold them.

    An optax transformation is a pair of functions, which close over its arguments. The description has an entry for
    each number, text and function that can be reached from there, so it covers every transformation, chains included.

    Example:
        >>> from training.optimizers import Adam
        >>> found = describe(Adam(beta_1=0.8))
        >>> [value for path, value in found.items() if path.endswith("beta_1")][0]
        0.8
    """
    found: dict[str, Any] = {}
    _walk(optimizer, "", found, set())
    return found


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Returns the entries in which two descriptions differ, by path; an entry that is not there is None."""
    return [(p, before.get(p), now.get(p)) for p in sorted({*before, *now}) if before.get(p) != now.get(p)]


def is_learning_rate(path: str) -> bool:
    """Whether an entry of a description belongs to the learning rate, which may be a schedule."""
    return "learning_rate" in path.split("/")


def name_of(path: str) -> str:
    """What an entry of a description is called where it was given."""
    return next((part for part in reversed(path.split("/")) if not part.isdigit()), path)


def _walk(value: Any, path: str, found: dict[str, Any], seen: set[int]) -> None:
    if isinstance(value, PLAIN):
        found[path] = value
        return
    if id(value) in seen:  # functions share what they close over, and may close over themselves
        return
    seen.add(id(value))
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        found[path] = array.item() if array.ndim == 0 else hashlib.sha256(array.tobytes()).hexdigest()
        return
    for name, part in _parts(value, path, found).items():
        _walk(part, f"{path}/{name}" if path else name, found, seen)


def _parts(value: Any, path: str, found: dict[str, Any]) -> dict[str, Any]:
    """The parts of a compound value by name; the name of a function or class is noted under the path."""
    if isinstance(value, Mapping):
        return {str(name): value[name] for name in sorted(value, key=str)}
    if isinstance(value, tuple | list):
        names = getattr(value, "_fields", range(len(value)))
        return {str(name): part for name, part in zip(names, value, strict=True)}
    if isinstance(value, functools.partial):
        return {"func": value.func, "args": value.args, "keywords": value.keywords}
    found[path] = getattr(value, "__qualname__", None) or getattr(value, "__name__", type(value).__qualname__)
    if isinstance(value, type) or inspect.ismodule(value):
        return {}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if inspect.ismethod(value):
        return {"self": value.__self__}
    if inspect.isfunction(value):
        return _closed_over(value)
    # Of any other object, such as a schedule of a class without fields, what can be compared.
    attributes = getattr(value, "__dict__", {})
    return {name: attributes[name] for name in sorted(attributes) if isinstance(attributes[name], PLAIN)}


def _closed_over(function: Any) -> dict[str, Any]:
    """The variables that a function closes over, and the defaults of its arguments."""
    variables = inspect.getclosurevars(function).nonlocals
    parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return dict(sorted((defaults | dict(variables)).items()))
