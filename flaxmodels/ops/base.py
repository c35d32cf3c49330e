"""The decorator of all operations: on arrays an operation computes, on symbols it adds a node to the graph."""

import functools
import importlib
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flaxmodels.layers import symbolic
from flaxmodels.layers.base import MultiOutputLayer
from flaxmodels.layers.tracing import Lookup, Sources
from flaxmodels.names import lookup
from flaxmodels.ops import keras_classes
from flaxmodels.trees import Tree

P = ParamSpec("P")

# The submodules of `flaxmodels.ops` that define operations.
MODULES = (
    "core", "image", "linalg", "math", "nn", "numpy.binary", "numpy.creation", "numpy.indexing",
    "numpy.joining", "numpy.products", "numpy.reductions", "numpy.shaping", "numpy.sorting", "numpy.statistics",
    "numpy.unary",
)  # fmt: skip

# Operations whose output has all values of the first argument and no others. `get_item` is not one: the values that it
# leaves out may be no ids.
REARRANGING = ("expand_dims", "ravel", "reshape", "squeeze", "swapaxes", "transpose")

_operations: dict[str, Callable[..., object]] = {}

# The types of arguments that hold no symbols and need no conversion. Classes of arrays and tracers are added when they
# are first met, because a lookup by type is several times faster than isinstance.
_plain: set[type] = {
    bool, int, float, complex, str, bytes, slice, range, type, type(None), type(Ellipsis), types.FunctionType,
    np.ndarray,
}  # fmt: skip
_PLAIN_BASES = (jax.Array, np.ndarray, np.generic, np.dtype, bool, int, float, complex, str)
_PLAIN, _CONVERTIBLE, _SYMBOLIC = 0, 1, 2

# Two sizes for the unknown batch and two for other unknown sizes, to infer shapes with: an output size that differs
# between them is unknown. The first ones include small sizes, because an operation may cut an axis to a size. Where an
# operation refuses them, they are too small or not divisible as needed.
_SIZES = (((3, 61), (5, 96)), ((61, 67), (64, 96)), ((960, 1200), (960, 1440)), ((30720, 38400), (30720, 46080)))
_MAX_GUESSES = 12
# What another attempt counts for the readers of files, where a small layer counts 1.
ATTEMPT_COST = 2


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

    @property
    @nn.nowrap
    def class_name(self) -> str:
        """The name of Keras' class of the operation, such as "TrueDivide"."""
        return keras_classes.class_name(self.operation)

    @nn.nowrap
    def keras_input_dtype(self, model_dtype: DTypeLike | None) -> None:
        """Returns None: Keras does not cast the arguments of an operation."""
        return None

    @nn.nowrap
    def trace_inputs(
        self, sources: Sources, lookups: list[Lookup], path: str, *args: object, **kwargs: object
    ) -> Sources:
        """Returns the sources of an operation that only rearranges all values of its first argument."""
        return sources if self.operation in REARRANGING else frozenset()

    @nn.nowrap
    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Applies the operation, or adds a node to a graph if an argument is a symbol."""
        if symbolic.symbols_in((args, kwargs)):
            return symbolic.record(self, args, kwargs)
        return function(self.operation)(*args, **kwargs)

    @nn.nowrap
    def compute(self, *args: object, **kwargs: object) -> Any:
        """Applies the operation."""
        return self(*args, **kwargs)

    @nn.nowrap
    def infer_outputs(self, args: tuple[object, ...], kwargs: dict[str, object]) -> Tree[symbolic.Symbol]:
        """Returns the outputs of a call on symbols as a tree of symbols without nodes.

        Unlike a layer, an operation may move the batch or merge it with other axes, so the inferred shapes follow
        the batch to any axis.

        Raises:
            TypeError: If the operation reads values to decide the shape of its output.
        """
        compute = function(self.operation)
        leaves, treedef = jax.tree.flatten((args, kwargs))
        where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, symbolic.Symbol)]

        def call(arrays: list[jax.Array]) -> object:
            filled = list(leaves)
            for i, array in zip(where, arrays, strict=True):
                filled[i] = array
            positional, named = jax.tree.unflatten(treedef, filled)
            return compute(*positional, **named)

        try:
            first, second = _output_shapes(call, [leaves[i] for i in where], leaves)
        except jax.errors.ConcretizationTypeError as error:
            raise TypeError(
                f"The operation {self.operation!r} needs the values of its arguments to decide the shape of its "
                f"output, got {leaves[where[0]]!r}, which has no values; apply the operation to arrays, outside of the "
                "model."
            ) from error
        return jax.tree.map(_symbol, first, second)


def _output_shapes(
    call: Callable[[list[jax.Array]], object], symbols: list[symbolic.Symbol], leaves: list[object]
) -> tuple[Tree[jax.ShapeDtypeStruct], Tree[jax.ShapeDtypeStruct]]:
    """Returns the output shapes of an operation for two choices of the unknown sizes of symbols."""
    if all(None not in symbol.shape for symbol in symbols):
        first = jax.eval_shape(call, _filled(symbols, 0, 0))
        return first, first
    refused: Exception | None = None
    for batch, unknown in _guesses(symbols, leaves):
        if refused is not None:
            # The readers of files limit the cost of all inferences. Their error must not be hidden by `try`.
            spend = getattr(symbolic.CACHED_INFERENCE.get(), "spend", None)
            if spend is not None:
                spend(ATTEMPT_COST)
        try:
            return tuple(jax.eval_shape(call, _filled(symbols, *sizes)) for sizes in zip(batch, unknown, strict=True))
        except jax.errors.ConcretizationTypeError:
            raise
        except (TypeError, ValueError) as error:
            refused = refused or error
    if refused is not None:
        (small_batch, _), (small, _) = _SIZES[0]
        refused.add_note(f"Here {small_batch} represents an unknown batch size, {small} other unknown sizes.")
    raise refused


def _guesses(symbols: list[symbolic.Symbol], leaves: list[object]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yields pairs of sizes for the unknown batch and for other unknown sizes.

    The last ones are the known sizes of the arguments: an unknown size must equal a known one where the operation
    combines both elementwise.
    """
    yield from _SIZES
    _, (batch, unknown), *_ = _SIZES
    known = [n for leaf in leaves for n in ([leaf] if type(leaf) is int else getattr(leaf, "shape", None) or ())]
    sizes = [n for n in dict.fromkeys(known) if isinstance(n, int) and n > 1][:_MAX_GUESSES]
    if any(None in symbol.shape[1:] for symbol in symbols):
        yield from ((batch, (n, n)) for n in sizes)
    if any(symbol.shape[:1] == (None,) for symbol in symbols):
        yield from (((n, n), unknown) for n in sizes)


def _filled(symbols: list[symbolic.Symbol], batch: int, unknown: int) -> list[jax.ShapeDtypeStruct]:
    """Returns symbols as shapes and dtypes without unknown sizes."""
    return [
        jax.ShapeDtypeStruct(
            tuple((unknown if axis else batch) if n is None else n for axis, n in enumerate(symbol.shape)), symbol.dtype
        )
        for symbol in symbols
    ]


def _symbol(first: jax.ShapeDtypeStruct, second: jax.ShapeDtypeStruct) -> symbolic.Symbol:
    """Returns the symbol of an output that has these shapes for two choices of the unknown sizes."""
    shape = tuple(n if n == m else None for n, m in zip(first.shape, second.shape, strict=True))
    return symbolic.Symbol(shape, first.dtype)


def _kind(value: object) -> int:
    """Returns whether an argument holds a symbol, holds an object to convert to an array, or neither."""
    cls = type(value)
    if cls in _plain:
        return _PLAIN
    if type(value) is list or type(value) is tuple:
        return max(map(_kind, value), default=_PLAIN)
    if type(value) is dict:
        return max(map(_kind, value.values()), default=_PLAIN)
    if isinstance(value, _PLAIN_BASES):
        _plain.add(cls)
        return _PLAIN
    if isinstance(value, symbolic.Symbol):
        return _SYMBOLIC
    if hasattr(value, "__jax_array__"):
        return _CONVERTIBLE
    leaves = jax.tree.leaves(value)
    return _PLAIN if len(leaves) == 1 and leaves[0] is value else max(map(_kind, leaves), default=_PLAIN)


def _converted(leaf: object) -> object:
    """Returns a leaf of the arguments; an object that has `__jax_array__`, such as a variable, as an array."""
    return jnp.asarray(leaf) if _kind(leaf) == _CONVERTIBLE else leaf


def operation(function: Callable[P, object], name: str | None = None) -> Callable[P, Any]:
    """Makes an operation of a function of arrays: on symbols, it adds a node to the graph.

    Args:
        function: Computes arrays from arrays and static values. A graph stores the static values of a call, so they
            must be able to be saved: numbers, strings, None, dtypes, slices, and lists and dictionaries of these.
            After reading a file, tuples are lists.
        name: The name in graphs and files; the name of the function by default.
    """
    known_as = name or function.__name__
    signature = inspect.signature(function)
    compute: Callable[..., object] = function

    def general(args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        kind = max(_kind(args), _kind(kwargs))
        if kind == _PLAIN:
            return compute(*args, **kwargs)
        args, kwargs = jax.tree.map(_converted, (args, kwargs))
        if kind == _CONVERTIBLE:
            return compute(*args, **kwargs)
        # In a graph, each argument is positional where possible, however the call was written.
        bound = signature.bind(*args, **kwargs)
        return OperationCall(known_as)(*bound.args, **bound.kwargs)

    plain = _plain

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> object:
        for value in args:
            if type(value) not in plain:
                return general(args, kwargs)
        return general(args, kwargs) if kwargs else compute(*args)

    _operations[known_as] = function
    return wrapper


def function(name: str) -> Callable[..., object]:
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


def apply(name: str, *args: object, **kwargs: object) -> Any:
    """Applies an operation, given by its name, to arrays or symbols."""
    return OperationCall(name)(*args, **kwargs)


symbolic.apply_operation = apply
