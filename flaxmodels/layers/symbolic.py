"""Symbols represent arrays while a graph of layers is built; each call of a layer on symbols adds a node."""

import contextvars
import importlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from jax.typing import ArrayLike, DTypeLike

from flaxmodels.layers import builds
from flaxmodels.layers.builds import BUILDS, Builds, Shape
from flaxmodels.trees import Tree

if TYPE_CHECKING:
    import flax.linen as nn

    from flaxmodels.layers.base import Layer

_order: Iterator[int] = itertools.count()

# Replaces `infer_with_variables` in this context: the readers of files cache inferences and limit their cost.
CACHED_INFERENCE: contextvars.ContextVar[
    Callable[["Layer", tuple[object, ...], dict[str, object], str | None], "Tree[Symbol]"] | None
] = contextvars.ContextVar("CACHED_INFERENCE", default=None)

# Makes the names of the outputs of calls. None leaves them without names, as the graph needs only those of inputs.
name_of_output: Callable[[], str] | None = None

# Makes the name of an operation from the name of its class in Keras. None leaves the names to the models.
name_of_operation: Callable[[str], str] | None = None

# Whether this context infers the shapes of a call. Random generators must not advance then.
INFERRING: contextvars.ContextVar[bool] = contextvars.ContextVar("INFERRING", default=False)

# Sizes that replace unknown ones when shapes are inferred. A leading output size of BATCH is the batch. Any other size
# that differs between two inferences is unknown. If a layer refuses the first pair of sizes, because they are smaller
# than its window or not divisible as needed, the next pair is tried.
BATCH = 61
UNKNOWN = ((64, 96), (960, 1440), (30720, 46080))


class Node:
    """One call of a layer or operation on symbols; `order` increases with each call, so it sorts a graph."""

    def __init__(self, layer: "Layer", args: tuple[object, ...], kwargs: dict[str, object]):
        self.layer, self.args, self.kwargs = layer, args, kwargs
        self.outputs: Any = None
        self.order = next(_order)

    def symbols(self) -> list["Symbol"]:
        """Returns the symbols among the arguments of the call."""
        return symbols_in((self.args, self.kwargs))


# Applies an operation of `flaxmodels.ops`, given by its name, to arguments with symbols. An operation is a layer and
# layers are built on symbols, so `flaxmodels.ops.base` registers the function when it is imported.
apply_operation: Callable[..., "Symbol"] | None = None


def _operator(operation: str, reflected: bool = False) -> Callable[..., "Symbol"]:
    """Returns a method of `Symbol` that applies an operation; a reflected method takes the symbol second."""

    def method(self: "Symbol", *others: object) -> "Symbol":
        return call_operation(operation, *others, self) if reflected else call_operation(operation, self, *others)

    return method


def call_operation(operation: str, *args: object) -> "Symbol":
    """Applies an operation of `flaxmodels.ops`, given by its name, to arguments with symbols."""
    if apply_operation is None:
        importlib.import_module("flaxmodels.ops.base")
    function: Any = apply_operation
    symbol: Symbol = function(operation, *args)
    return symbol


_get_item = _operator("get_item")


class Symbol:
    """Represents an array in a graph: its shape, with None for any size, its dtype and the node that outputs it.

    Arithmetic operators, comparisons and indexing add nodes to the graph, like the functions of `flaxmodels.ops`.
    As in Keras, `==` compares the identity of two symbols; `ops.equal` compares values.
    """

    # With None, NumPy leaves an operator to the symbol on the right side of an array.
    __array_ufunc__ = None

    def __init__(self, shape: Shape, dtype: DTypeLike, node: Node | None = None, name: str | None = None):
        self.shape, self.dtype, self.node, self.name = shape, dtype, node, name
        # The name of the first layer of a model, if it differs from that of the symbol.
        self.layer_name: str | None = None
        # A symbol of the shape of the mask, None if the array has no mask.
        self.mask: Symbol | None = None

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def has_keras_name(self) -> bool:
        """Whether Keras' API named the symbol: it made the symbol, or an input that the symbol was computed from."""
        return self.layer_name is not None or (self.node is not None and self.name is not None)

    def __repr__(self) -> str:
        if self.has_keras_name:
            dtype = jnp.dtype(self.dtype).name
            return f"<KerasTensor shape={self.shape}, dtype={dtype}, sparse=False, ragged=False, name={self.name}>"
        source = f"input {self.name!r}" if self.node is None else f"output of {self.node.layer.class_name}"
        return f"<Symbol shape={self.shape} dtype={jnp.dtype(self.dtype).name} {source}>"

    def __array__(self, *args: object, **kwargs: object) -> NoReturn:
        error = TypeError(
            f"An array is needed here, got a symbol of shape {self.shape}, which has no values; "
            "call layers on it, make a Model of inputs and outputs, and pass arrays to the model."
        )
        if "keras" in sys.modules:
            error.add_note("Layers of the package keras take no symbols; write `from training.keras import layers`.")
        raise error

    def __bool__(self) -> bool:
        raise TypeError(
            f"A boolean is needed here, got a symbol of shape {self.shape}, which has no values; "
            "decide in Python before the graph is built, or inside a layer."
        )

    # Python then reports that a symbol is not iterable. A method would make flax iterate over the symbols that a model
    # holds, when it transforms the model. `ops.unstack` splits a symbol.
    __iter__ = None

    def __getitem__(self, key: object) -> "Symbol":
        # In a file, a list is a tuple of indices, so a list of a program would change its meaning there.
        if any(isinstance(part, list) for part in (key if isinstance(key, tuple) else (key,))):
            raise TypeError(
                f"A symbol must be indexed by integers, slices, None, Ellipsis and arrays, got the list in x[{key!r}]; "
                "write np.array([...]) in its place."
            )
        return _get_item(self, key)

    if TYPE_CHECKING:

        def __add__(self, other: ArrayLike | "Symbol") -> "Symbol": ...
        def __radd__(self, other: ArrayLike) -> "Symbol": ...
        def __sub__(self, other: ArrayLike | "Symbol") -> "Symbol": ...
        def __rsub__(self, other: ArrayLike) -> "Symbol": ...
        def __mul__(self, other: ArrayLike | "Symbol") -> "Symbol": ...
        def __rmul__(self, other: ArrayLike) -> "Symbol": ...
        def __truediv__(self, other: ArrayLike | "Symbol") -> "Symbol": ...
        def __rtruediv__(self, other: ArrayLike) -> "Symbol": ...
        def __floordiv__(self, other: ArrayLike | "Symbol") -> "Symbol": ...
        def __rfloordiv__(self, other: ArrayLike) -> "Symbol": ...
        def __mod__(self, other: ArrayLike | "Symbol") -> "Symbol": ...
        def __rmod__(self, other: ArrayLike) -> "Symbol": ...
        def __pow__(self, other: ArrayLike | "Symbol") -> "Symbol": ...
        def __rpow__(self, other: ArrayLike) -> "Symbol": ...
        def __matmul__(self, other: ArrayLike | "Symbol") -> "Symbol": ...
        def __rmatmul__(self, other: ArrayLike) -> "Symbol": ...
        def __and__(self, other: ArrayLike | "Symbol") -> "Symbol": ...
        def __rand__(self, other: ArrayLike) -> "Symbol": ...
        def __or__(self, other: ArrayLike | "Symbol") -> "Symbol": ...
        def __ror__(self, other: ArrayLike) -> "Symbol": ...
        def __xor__(self, other: ArrayLike | "Symbol") -> "Symbol": ...
        def __rxor__(self, other: ArrayLike) -> "Symbol": ...
        def __lt__(self, other: ArrayLike | "Symbol") -> "Symbol": ...
        def __le__(self, other: ArrayLike | "Symbol") -> "Symbol": ...
        def __gt__(self, other: ArrayLike | "Symbol") -> "Symbol": ...
        def __ge__(self, other: ArrayLike | "Symbol") -> "Symbol": ...
        def __ne__(self, other: object) -> "Symbol": ...
        def __neg__(self) -> "Symbol": ...
        def __abs__(self) -> "Symbol": ...
        def __invert__(self) -> "Symbol": ...
        def __round__(self, ndigits: int = 0) -> "Symbol": ...


# Keras' names of the operations. As in Keras, bitwise operators are the logical operations.
for _method, _operation in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide",
    "mod": "mod", "pow": "power", "matmul": "matmul", "and": "logical_and", "or": "logical_or", "xor": "logical_xor",
}.items():  # fmt: skip
    setattr(Symbol, f"__{_method}__", _operator(_operation))
    setattr(Symbol, f"__r{_method}__", _operator(_operation, reflected=True))
for _method, _operation in {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "ne": "not_equal", "neg": "negative",
    "abs": "absolute", "invert": "logical_not", "round": "round",
}.items():  # fmt: skip
    setattr(Symbol, f"__{_method}__", _operator(_operation))


# `nn.jit` compares modules by their fields. It would iterate over a symbol, unless flax can describe it.
serialization.register_serialization_state(Symbol, lambda symbol: {"id": id(symbol)}, lambda symbol, state: symbol)


def Input(  # noqa: N802 - Keras' name
    shape: Shape | None = None,
    batch_size: int | None = None,
    dtype: DTypeLike | None = None,
    name: str | None = None,
    *,
    batch_shape: Shape | None = None,
) -> Symbol:
    """Makes the symbol of an input of a model.

    Args:
        shape: Shape of one example, without the batch; None for an axis of any size.
        batch_size: Batch size, if it is fixed.
        dtype: The array's dtype, float32 by default.
        name: Name in summaries and in dictionaries of inputs.
        batch_shape: Shape with the batch, instead of `shape` and `batch_size`.

    Returns:
        A symbol of shape [B, *shape].

    Raises:
        ValueError: If neither or both of `shape` and `batch_shape` are given, or a size is not positive.

    References:
        Keras, `keras.Input`.

    Example:
        >>> Input(shape=(28, 28, 1))
        <Symbol shape=(None, 28, 28, 1) dtype=float32 input None>
    """
    if (shape is None) == (batch_shape is None):
        raise ValueError(
            f"Input takes either `shape` or `batch_shape`, got shape={shape!r} and batch_shape={batch_shape!r}; "
            "give `shape`, the shape of one example."
        )
    if batch_shape is None:
        batch_shape = (batch_size, *as_shape(shape))
    elif batch_size is not None:
        raise ValueError(
            f"Input takes the batch's size in `batch_shape` or as `batch_size`, got batch_shape={batch_shape!r} and "
            f"batch_size={batch_size!r}; leave `batch_size` out."
        )
    return Symbol(as_shape(batch_shape), jnp.dtype("float32" if dtype is None else dtype), name=name)


def as_shape(shape: object) -> Shape:
    """Returns a shape as a tuple of integers and None; raises if a size is anything else."""
    sizes: tuple[Any, ...] = tuple(shape) if isinstance(shape, list | tuple | np.ndarray) else (shape,)
    for size in sizes:
        if size is not None and (not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 1):
            raise ValueError(
                f"The sizes of an input shape must be positive integers or None, got {size!r} in {sizes}; "
                "leave the batch out and give the shape of one example."
            )
    return tuple(None if size is None else int(size) for size in sizes)


def symbols_in(tree: object) -> list[Symbol]:
    """Returns the symbols among the leaves of a tree."""
    return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, Symbol)]


def record(
    layer: "Layer", args: tuple[object, ...], kwargs: dict[str, object], name: str | None = None
) -> Tree[Symbol]:
    """Records a call of a layer on symbols and returns the symbols of its outputs; errors use `name` for the layer."""
    given = [leaf for leaf in jax.tree.leaves((args, kwargs)) if isinstance(leaf, Symbol)]
    has_keras_names = any(symbol.has_keras_name for symbol in given)
    if has_keras_names and name_of_operation is not None and hasattr(layer, "infer_outputs") and layer.name is None:
        object.__setattr__(layer, "name", name_of_operation(layer.class_name))
    node = Node(layer, args, kwargs)
    cached_inference = CACHED_INFERENCE.get()
    token = INFERRING.set(True)
    try:
        if cached_inference is not None:
            inferred = cached_inference(layer, args, kwargs, name)
        else:
            inferred, masks = infer_and_build(layer, args, kwargs, name)
    finally:
        INFERRING.reset(token)
    node.outputs = jax.tree.map(lambda symbol: Symbol(symbol.shape, symbol.dtype, node), inferred)
    if cached_inference is None:
        leaves = jax.tree.leaves(node.outputs)
        if name_of_output is not None and has_keras_names:
            for symbol in leaves:
                symbol.name = name_of_output()
        flat = jax.tree.leaves(masks, is_leaf=lambda mask: mask is None)
        for symbol, mask in zip(leaves, flat * len(leaves) if len(flat) == 1 else flat, strict=False):
            symbol.mask = mask
    nodes: list[Node] = layer.__dict__.setdefault("_nodes", [])
    nodes.append(node)
    return node.outputs


def infer_and_build(
    layer: "Layer", args: tuple[object, ...], kwargs: dict[str, object], name: str | None
) -> tuple[Tree[Symbol], Tree[Symbol | None]]:
    """Infers the outputs of a call and their masks; as in Keras, the call builds layers written as Keras classes."""
    layer.build_on_symbols(args, kwargs)
    if args and kwargs.get("mask") is None and not hasattr(layer, "infer_outputs"):
        masks = jax.tree.map(lambda leaf: leaf.mask if isinstance(leaf, Symbol) else None, args[0])
        if symbols_in(masks):
            try:
                return _infer(layer, args, kwargs | {"mask": masks}, name)
            except (TypeError, ValueError):
                # A layer such as Softmax may refuse the mask for the sizes that represent unknown ones.
                if layer.BINDS_ATTRIBUTES:
                    raise
    return _infer(layer, args, kwargs, name)


def _infer(
    layer: "Layer", args: tuple[object, ...], kwargs: dict[str, object], name: str | None
) -> tuple[Tree[Symbol], Tree[Symbol | None]]:
    """Infers the outputs of a call and their masks, and builds the layers inside; see `flaxmodels.layers.builds`."""

    def infer_with(noted: Builds) -> tuple[Tree[Symbol], Tree[Symbol | None]]:
        clone = layer.clone(name=name or layer.name)
        object.__setattr__(clone, "_origin", layer)
        token = BUILDS.set(noted)
        try:
            return infer_with_variables(clone, args, kwargs, lambda bound: bound.__dict__.get("_output_mask"))[0]
        finally:
            BUILDS.reset(token)

    rehearsal = None
    if has_unknown_size(symbols_in((args, kwargs))) and layer.has_unbuilt_layers():
        rehearsal = Builds(is_rehearsal=True)
        with builds.undoing_draws[0]():
            infer_with(rehearsal)
    return infer_with(Builds(rehearsal))


def has_unknown_size(symbols: Sequence[Symbol]) -> bool:
    """Returns whether any size but that of the batch is unknown."""
    return any(None in symbol.shape[1:] for symbol in symbols)


def infer(module: "nn.Module", args: tuple[object, ...], kwargs: Mapping[str, object]) -> Tree[Symbol]:
    """Infers the outputs of a module as a tree of symbols, without computing them.

    Args:
        module: A module that is not bound.
        args: Positional arguments, with symbols for arrays.
        kwargs: Keyword arguments, with symbols for arrays.
    """
    return infer_with_variables(module, args, kwargs)[0]


def infer_with_variables(
    module: "nn.Module",
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    read: Callable[["nn.Module"], object] | None = None,
) -> tuple[Any, Mapping[str, object]]:
    """Returns the outputs of a module as a tree of symbols, and its variables as shapes and dtypes.

    Args:
        module: A module that is not bound.
        args: Positional arguments, with symbols for arrays.
        kwargs: Keyword arguments, with symbols for arrays.
        read: Reads further arrays from the bound module after the call. They are returned with the outputs, as a pair.
    """
    if hasattr(module, "infer_outputs"):  # Operations have no variables, and their outputs may have the batch anywhere.
        outputs = module.infer_outputs(args, kwargs)
        return (outputs if read is None else (outputs, None)), {}
    leaves, treedef = jax.tree.flatten((args, kwargs))
    where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Symbol)]
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}

    def call(arrays: list[jax.Array]) -> tuple[object, Mapping[str, object]]:
        noted = BUILDS.get()
        if noted is not None:
            noted.start()
        filled = list(leaves)
        for i, array in zip(where, arrays, strict=True):
            filled[i] = array
        positional, named = jax.tree.unflatten(treedef, filled)

        def outputs(bound: "nn.Module") -> object:
            computed = bound(*positional, **named)
            return computed if read is None else (computed, read(bound))

        return module.init_with_output(rngs, method=outputs)

    (first, variables), (second, _) = evaluate(call, [leaves[i] for i in where])
    batched = any(leaves[i].shape[:1] == (None,) for i in where)

    def symbol(a: jax.ShapeDtypeStruct, b: jax.ShapeDtypeStruct) -> Symbol:
        sizes = [n if n == m else None for n, m in zip(a.shape, b.shape, strict=True)]
        if batched and sizes and sizes[0] == BATCH:
            sizes[0] = None
        return Symbol(tuple(sizes), a.dtype)

    return jax.tree.map(symbol, first, second), variables


def evaluate(function: Callable[..., object], symbols: Tree[Symbol]) -> tuple[Any, Any]:
    """Returns the output shapes of a function of arrays for two choices of the unknown sizes of symbols."""
    ragged = has_unknown_size(symbols_in(symbols))
    refused: Exception | None = None
    for sizes in UNKNOWN if ragged else UNKNOWN[:1]:
        try:
            first = jax.eval_shape(function, _filled(symbols, sizes[0]))
            if not ragged:
                return first, first
            with builds.undoing_draws[0]():
                return first, jax.eval_shape(function, _filled(symbols, sizes[1]))
        except (TypeError, ValueError) as error:
            refused = refused or error
    if refused is not None:
        refused.add_note(
            f"In this error, {BATCH} represents the unknown batch size, and {UNKNOWN[0][0]} any other unknown size."
        )
    raise refused


def _filled(symbols: Tree[Symbol], unknown: int) -> Tree[jax.ShapeDtypeStruct]:
    """Returns the symbols as shapes and dtypes without unknown sizes."""

    def fill(symbol: Symbol) -> jax.ShapeDtypeStruct:
        sizes = [unknown if n is None else n for n in symbol.shape]
        if symbol.shape and symbol.shape[0] is None:
            sizes[0] = BATCH
        return jax.ShapeDtypeStruct(tuple(sizes), symbol.dtype)

    return jax.tree.map(fill, symbols)
