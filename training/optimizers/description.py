"""Describes an optimizer by its arguments, so that two optimizers can be compared."""

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping

import jax
import numpy as np
import optax

Plain = str | bool | int | float | None
Description = dict[str, Plain]


def describe(optimizer: optax.GradientTransformation) -> Description:
    """Returns the arguments of an optimizer, keyed by the paths of the variables that hold them.

    An optax transformation is a pair of functions, which close over its arguments. The description has an entry for
    each number, string, array and function that is reachable from there. It therefore works for every transformation,
    including chains. The names of this package's own functions are left out, because they may change: `Rule.name` says
    which formula an optimizer has.

    Args:
        optimizer: Any optax transformation.

    Example:
        >>> from training.optimizers import Adam
        >>> description = describe(Adam(beta_1=0.8))
        >>> [value for path, value in description.items() if path.endswith("beta_1")][0]
        0.8
    """
    description: Description = {}
    _visit(optimizer, "", description, set())
    return description


def differences(before: Mapping[str, Plain], now: Mapping[str, Plain]) -> list[tuple[str, Plain, Plain]]:
    """Returns the entries in which two descriptions differ: (path, before, now), with None for missing entries.

    Args:
        before: The first description.
        now: The second description.

    Example:
        >>> differences({"beta": 0.9, "eps": 1e-7}, {"beta": 0.8, "eps": 1e-7})
        [('beta', 0.9, 0.8)]
    """
    return [(p, before.get(p), now.get(p)) for p in sorted({*before, *now}) if before.get(p) != now.get(p)]


def is_learning_rate(path: str) -> bool:
    """Returns whether an entry of a description belongs to the learning rate, which may be a schedule.

    Args:
        path: The path of the entry.
    """
    return "learning_rate" in path.split("/")


def name_of(path: str) -> str:
    """Returns the name of the argument that an entry of a description holds.

    Args:
        path: The path of the entry.

    Example:
        >>> name_of("update/common/clipnorm"), name_of("update/exclude/0")
        ('clipnorm', 'exclude')
    """
    return next((part for part in reversed(path.split("/")) if not part.isdigit()), path)


def _visit(value: object, path: str, description: Description, visited: set[int]) -> None:
    """Adds the entries of a value and of its parts to a description."""
    if isinstance(value, Plain):
        description[path] = value
        return
    if id(value) in visited:  # functions share variables, and may close over themselves
        return
    visited.add(id(value))
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        description[path] = array.item() if array.ndim == 0 else hashlib.sha256(array.tobytes()).hexdigest()
        return
    for name, part in _parts(value, path, description):
        _visit(part, "/".join(filter(None, (path, name))), description, visited)


def _parts(value: object, path: str, description: Description) -> list[tuple[str, object]]:
    """Returns the names and parts of a compound value; adds the name of a function or class to the description."""
    if isinstance(value, Mapping):
        return [(str(name), value[name]) for name in sorted(value, key=str)]
    if isinstance(value, tuple | list):
        names = getattr(value, "_fields", range(len(value)))
        return [(str(name), part) for name, part in zip(names, value, strict=True)]
    if isinstance(value, functools.partial):
        return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    if inspect.isfunction(value) and _is_internal(value):
        return _captured_values(value)
    description[path] = getattr(value, "__qualname__", None) or getattr(value, "__name__", type(value).__qualname__)
    if isinstance(value, type) or inspect.ismodule(value):
        return []
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if inspect.ismethod(value):
        return [("self", value.__self__)]
    if inspect.isfunction(value):
        return _captured_values(value)
    # Other objects, such as a schedule that is not a dataclass, are described by their plain attributes.
    attributes = getattr(value, "__dict__", {})
    return [(name, attributes[name]) for name in sorted(attributes) if isinstance(attributes[name], Plain)]


def _is_internal(value: object) -> bool:
    """Returns whether a value is a function of this package, whose name may change between versions."""
    return inspect.isfunction(value) and str(value.__module__).startswith(f"{__package__}.")


def _captured_values(function: Callable[..., object]) -> list[tuple[str, object]]:
    """Returns the variables that a function closes over, and the defaults of its arguments.

    A variable that holds an internal function has no name, so that its parts count as parts of the given function.
    """
    variables = inspect.getclosurevars(function).nonlocals
    parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    values = sorted((defaults | dict(variables)).items())
    return [("" if _is_internal(value) else name, value) for name, value in values]
