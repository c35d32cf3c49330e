"""The decorator of all operations: on arrays an operation computes, on symbols it adds a node to the graph."""

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import flax.linen as nn

from flaxmodels.layers import symbolic
from flaxmodels.layers.base import MultiOutputLayer
from flaxmodels.names import lookup

P = ParamSpec("P")
R = TypeVar("R")

# The submodules of `flaxmodels.ops` that define operations.
MODULES = ("core", "image", "linalg", "math", "nn", "numpy")

_operations: dict[str, Callable[..., Any]] = {}


class OperationCall(MultiOutputLayer):
    """The layer of a node that applies an operation. It has no parameters, and its outputs have no mask.

    Args:
        operation: The name of a function of `flaxmodels.ops`; with its module if Keras has it only there, such as
            "image.resize".

    References:
        Keras, `keras.Operation`.

    Example:
        >>> import jax.numpy as jnp
        >>> OperationCall("add")(jnp.ones(2), jnp.ones(2)).tolist()
        [2.0, 2.0]
    """

    operation: str

    @nn.nowrap
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Applies the operation, or adds a node to a graph if an argument is a symbol."""
        if symbolic.symbols_in((args, kwargs)):
            return symbolic.record(self, args, kwargs)
        return function(self.operation)(*args, **kwargs)

    @nn.nowrap
    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """Applies the operation."""
        return self(*args, **kwargs)


def operation(function: Callable[P, R], name: str | None = None) -> Callable[P, R]:
    """Makes an operation of a function of arrays: on symbols, it adds a node to the graph.

    Args:
        function: Computes arrays from arrays and static values. A graph stores the static values of a call, so they
            must be able to be saved: numbers, strings, None, dtypes, slices, and lists and dictionaries of these.
        name: The name in graphs and files; the name of the function by default.
    """
    known_as = name or function.__name__
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not symbolic.symbols_in((args, kwargs)):
            return function(*args, **kwargs)
        # In a graph, each argument is positional where possible, however the call was written.
        bound = signature.bind(*args, **kwargs)
        return OperationCall(known_as)(*bound.args, **bound.kwargs)

    _operations[known_as] = function
    return wrapper


def function(name: str) -> Callable[..., Any]:
    """Returns the function of arrays of an operation.

    Raises:
        ValueError: If there is no such operation.

    Example:
        >>> function("add")(1, 2).item()
        3
    """
    if name not in _operations:
        for module in MODULES:
            importlib.import_module(f"flaxmodels.ops.{module}")
    return lookup("operation", name, _operations)


def apply(name: str, *args: Any, **kwargs: Any) -> Any:
    """Applies an operation, given by its name, to arrays or symbols."""
    return OperationCall(name)(*args, **kwargs)


symbolic.apply_operation = apply
