"""Symbols stand for arrays while a graph of layers is drawn; every layer call on them leaves a node behind."""

import contextvars
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Shape = tuple[int | None, ...]

_order: Iterator[int] = itertools.count()

# What infers the outputs of a call in place of `infer`, in this context: a reader of files remembers and counts.
REMEMBERED: contextvars.ContextVar[Callable[[Any, tuple[Any, ...], dict[str, Any], str | None], Any] | None] = (
    contextvars.ContextVar("REMEMBERED", default=None)
)

# Sizes that stand in for unknown ones when shapes are inferred: a leading size that comes out as BATCH is the batch;
# any other unknown size is found as what differs between two inferences. Where a layer refuses the first pair of sizes
# (they are smaller than its window, or do not divide as it needs), the next is tried.
BATCH = 61
UNKNOWN = ((64, 96), (960, 1440), (30720, 46080))


class Node:
    """One call of a layer on symbols; `order` grows with each call, so sorting by it sorts a graph topologically."""

    def __init__(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.layer, self.args, self.kwargs = layer, args, kwargs
        self.outputs: Any = None
        self.order = next(_order)

    def symbols(self) -> list["Symbol"]:
        """The symbols that the call took."""
        return symbols_in((self.args, self.kwargs))


class Symbol:
    """The place of an array in a graph: its shape (None where any size goes), its dtype and the node it comes from."""

    def __init__(self, shape: Shape, dtype: Any, node: Node | None = None, name: str | None = None):
        self.shape, self.dtype, self.node, self.name = shape, dtype, node, name

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __repr__(self) -> str:
        source = f"input {self.name!r}" if self.node is None else f"output of {type(self.node.layer).__name__}"
        return f"<Symbol shape={self.shape} dtype={jnp.dtype(self.dtype).name} {source}>"

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"A symbol holds no numbers, but one of shape {self.shape} came where an array is needed; "
            "call layers on it, make a Model of inputs and outputs, and give arrays to the model."
        )

    def __bool__(self) -> bool:
        raise TypeError(
            f"A symbol holds no numbers, but one of shape {self.shape} came where a truth value is needed; "
            "decide in Python before the graph is drawn, or inside a layer."
        )


def Input(  # noqa: N802 - Keras' name
    shape: Shape | None = None,
    batch_size: int | None = None,
    dtype: Any = None,
    name: str | None = None,
    *,
    batch_shape: Shape | None = None,
) -> Symbol:
    """Makes the symbol that a model's input array will stand for.

    Args:
        shape: Shape of one example, without the batch; None where any size goes.
        batch_size: Batch size, if the model takes only this one.
        dtype: The array's dtype, float32 by default.
        name: Name in summaries and in dictionaries of inputs.
        batch_shape: Shape with the batch, instead of `shape` and `batch_size`.

    Returns:
        A symbol of shape [B, *shape].

    Raises:
        ValueError: If neither or both of `shape` and `batch_shape` come, or a size is not positive.

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


def as_shape(shape: Any) -> Shape:
    """The sizes as a tuple of integers and None; raises where they are none."""
    sizes = tuple(shape) if isinstance(shape, list | tuple | np.ndarray) else (shape,)
    for size in sizes:
        if size is not None and (not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 1):
            raise ValueError(
                f"The sizes of an input shape are positive integers or None, got {size!r} in {sizes}; "
                "leave the batch out and give the shape of one example."
            )
    return tuple(None if size is None else int(size) for size in sizes)


def symbols_in(tree: Any) -> list[Symbol]:
    """The symbols among the leaves of a tree."""
    return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, Symbol)]


def record(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None = None) -> Any:
    """Notes a call of a layer on symbols and returns the symbols of its outputs; errors call the layer by `name`."""
    node = Node(layer, args, kwargs)
    remembered = REMEMBERED.get()
    if remembered is not None:
        inferred = remembered(layer, args, kwargs, name)
    else:
        inferred, _ = infer_with_variables(layer.clone(name=name or layer.name), args, kwargs)
    node.outputs = jax.tree.map(lambda symbol: Symbol(symbol.shape, symbol.dtype, node), inferred)
    return node.outputs


def infer(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Infers the outputs of a module as a tree of symbols, never running it.

    Args:
        module: A module that is not bound.
        args: Positional arguments, with symbols for arrays.
        kwargs: Keyword arguments, with symbols for arrays.
    """
    return infer_with_variables(module, args, kwargs)[0]


def infer_with_variables(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Infers the outputs of a module as a tree of symbols, and its variables as shapes and dtypes."""
    leaves, treedef = jax.tree.flatten((args, kwargs))
    where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Symbol)]
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}

    def call(arrays: list[jax.Array]) -> Any:
        filled = list(leaves)
        for i, array in zip(where, arrays, strict=True):
            filled[i] = array
        positional, named = jax.tree.unflatten(treedef, filled)
        return module.init_with_output(rngs, method=lambda bound: bound(*positional, **named))

    (first, variables), (second, _) = evaluate(call, [leaves[i] for i in where])
    batched = any(leaves[i].shape[:1] == (None,) for i in where)

    def symbol(a: Any, b: Any) -> Symbol:
        sizes = [n if n == m else None for n, m in zip(a.shape, b.shape, strict=True)]
        if batched and sizes and sizes[0] == BATCH:
            sizes[0] = None
        return Symbol(tuple(sizes), a.dtype)

    return jax.tree.map(symbol, first, second), variables


def evaluate(function: Callable[[Any], Any], symbols: Any) -> tuple[Any, Any]:
    """The shapes that a function of arrays gives for symbols in their place, for two choices of the unknown sizes."""
    ragged = any(None in symbol.shape[1:] for symbol in symbols_in(symbols))
    refused: Exception | None = None
    for sizes in UNKNOWN if ragged else UNKNOWN[:1]:
        try:
            first = jax.eval_shape(function, _filled(symbols, sizes[0]))
            return first, jax.eval_shape(function, _filled(symbols, sizes[1])) if ragged else first
        except (TypeError, ValueError) as error:
            refused = refused or error
    if refused is not None:
        refused.add_note(f"Here {BATCH} stands for an unknown batch size, {UNKNOWN[0][0]} for other unknown sizes.")
    raise refused  # type: ignore[misc]


def _filled(symbols: Any, unknown: int) -> Any:
    def fill(symbol: Symbol) -> jax.ShapeDtypeStruct:
        sizes = [unknown if n is None else n for n in symbol.shape]
        if symbol.shape and symbol.shape[0] is None:
            sizes[0] = BATCH
        return jax.ShapeDtypeStruct(tuple(sizes), symbol.dtype)

    return jax.tree.map(fill, symbols)
