"""From what a user gives (arrays, a `Split`, weights) to checked data on the device, in batches of one shape."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.building import Container, lookups_of
from training import losses
from training.datasets import Split
from training.objective import Objective, ordered
from training.steps import Batch, make_order


@dataclass(frozen=True)
class Data:
    """Examples in memory: x, y and weight are arrays or trees of arrays [N, ...].

    Attributes:
        x: Inputs, in the type they are stored in.
        y: Labels, or None.
        weight: Sample weights, or None.
        scale: Factor of the inputs, applied inside the compiled step.
        num_classes: Given where the labels are known to be class indices.
    """

    x: Any
    y: Any = None
    weight: Any = None
    scale: float = 1.0
    num_classes: int | None = None

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.x)[0])

    def __getitem__(self, rows: slice) -> "Data":
        x, y, weight = jax.tree.map(lambda a: a[rows], (self.x, self.y, self.weight))
        return replace(self, x=x, y=y, weight=weight)

    def batch(self) -> Batch:
        """All of it as one batch."""
        return Batch(self.x, self.y, self.weight)


def as_data(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    whole: bool = True,
) -> Data:
    """Takes what `fit`, `evaluate` and `predict` accept, and checks all that can be known before a model sees it.

    Args:
        x: Inputs: an array, a list or dictionary of arrays, a `Split`, or `Data`.
        y: Labels, likewise; None for a `Split`, which has its own.
        sample_weight: Factors of the examples' losses.
        class_weight: Factors by class, instead of `sample_weight`.
        whole: Whether this is all data, and not a batch, which need not have examples of every class.

    Raises:
        ValueError: If the arrays differ in length, are empty, or hold values that are no finite numbers.
        TypeError: If something is no array of numbers.
    """
    scale, num_classes = 1.0, None
    if isinstance(x, Data):
        return x
    if isinstance(x, Split):
        if y is not None:
            raise ValueError(f"A Split brings its own labels, got y={_named(y)} as well; leave `y` out.")
        x, y, scale, num_classes = x.x, x.y, x.scale, x.num_classes
    x, y, weight = _arrays("x", x), _arrays("y", y), _arrays("sample_weight", sample_weight)
    _check_lengths(x, y, weight)
    if class_weight is not None:
        if weight is not None:
            raise ValueError(
                "Examples are weighted by `class_weight` or by `sample_weight`, got both; multiply them into one."
            )
        weight = _by_class(y, class_weight, whole)
    return Data(x, y, weight, scale, num_classes)


def _named(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"an array of shape {tuple(shape)}" if shape is not None else f"a {type(value).__name__}"


def _arrays(name: str, tree: Any) -> Any:
    """Every leaf as an array of finite numbers, in a type that JAX keeps."""
    leaves = jax.tree.leaves(tree)
    if isinstance(tree, list | tuple) and leaves and all(np.isscalar(leaf) for leaf in leaves):
        return _array(name, tree)  # numbers in lists are one array, not a tree of inputs
    return jax.tree.map(lambda leaf: _array(name, leaf), tree)


def _array(name: str, leaf: Any) -> Any:
    array: Any = leaf
    if hasattr(leaf, "__getitem__") and not hasattr(leaf, "__iter__") and not is_array(leaf):
        # NumPy would read one item after the other, without an end where there is no IndexError.
        raise TypeError(
            f"`{name}` is an array of numbers, got a {type(leaf).__name__} of items; put them into one array, for "
            "example with np.stack([items[i] for i in range(len(items))])."
        )
    if not isinstance(leaf, jax.Array):
        try:
            array = np.asarray(leaf)
        except ValueError as error:
            raise TypeError(
                f"`{name}` is an array of numbers, but lists of different lengths came; pad them to one length."
            ) from error
    if array.dtype.kind not in "biuf" and array.dtype != jnp.bfloat16:
        raise TypeError(f"`{name}` is an array of numbers, got {_not_numbers(array)}.")
    if array.ndim == 0:
        raise ValueError(f"`{name}` has one row per example, got the single number {array}; give an array [N, ...].")
    if array.dtype.kind == "f":
        _check_finite(name, array)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
    return _as_int32(name, array) if array.dtype in (np.int64, np.uint64, np.uint32) else array


def _not_numbers(array: np.ndarray) -> str:
    """Describes an array that does not hold numbers, and what to do about it."""
    where, first = "", array.flat[0] if array.size else None
    for index, value in np.ndenumerate(array) if array.dtype == object else ():
        if not isinstance(value, float | int | np.number | np.bool_):
            where, first = f" at {list(index)}", value
            break
    if isinstance(first, str | bytes):
        text = repr(str(first) if isinstance(first, str) else bytes(first))
        if not array.ndim:
            return f"the text {text}; read the file or text first, and give arrays"
        return (
            f"text such as {text}{where}; encode text as numbers, for example with "
            "np.unique(values, return_inverse=True)[1]"
        )
    if where:
        missing = "fill missing values" if first is None else "give one number in each place"
        return f"{first!r} of type {type(first).__name__}{where}; {missing}"
    return f"dtype {array.dtype}; convert it, for example with np.asarray(values, dtype='float32')"


def _as_int32(name: str, array: Any) -> Any:
    """The integers in 32 bits, in which JAX computes.

    Raises:
        ValueError: If one is too large.
    """
    limits = np.iinfo(np.int32)
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < limits.min or high > limits.max:
        raise ValueError(
            f"`{name}` holds integers of 32 bits, which end at {limits.max}, got some from {low} to {high}; "
            "give smaller ones, or convert them with np.asarray(values, dtype='float32')."
        )
    return array.astype(np.int32)


def is_array(x: Any) -> bool:
    """Whether NumPy takes x for an array without reading it item by item."""
    return any(hasattr(x, name) for name in ("__array__", "__array_interface__", "__dlpack__"))


def _check_finite(name: str, array: Any) -> None:
    # A sum makes no array, and in float32 takes a quarter of the time of one in float64; where it overflows without a
    # reason, a look at each number follows.
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.sum(np.asarray(array), dtype=np.promote_types(array.dtype, np.float32))
    if np.isfinite(total):
        return
    bad = ~np.isfinite(np.asarray(array))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"`{name}` holds finite numbers, got {np.asarray(array)[first]} at {list(first)} and {int(bad.sum())} such "
            f"values in all of {array.size}; remove or fill them, for example with np.nan_to_num."
        )


def _check_lengths(x: Any, y: Any, weight: Any) -> None:
    leaves = [("x", a) for a in jax.tree.leaves(x)] + [("y", a) for a in jax.tree.leaves(y)]
    leaves += [("sample_weight", a) for a in jax.tree.leaves(weight)]
    if not jax.tree.leaves(x):
        raise ValueError("There are no inputs: `x` is empty or None; give an array [N, ...].")
    lengths = [len(a) for _, a in leaves]
    if len(set(lengths)) > 1:
        shapes = ", ".join(f"{name} {tuple(a.shape)}" for name, a in leaves[:6])
        shapes += f" and {len(leaves) - 6} more" if len(leaves) > 6 else ""
        raise ValueError(f"All arrays have one row per example, got {shapes}; give them the same length.")
    if lengths[0] == 0:
        raise ValueError(f"There are no examples: x has shape {tuple(leaves[0][1].shape)}; give at least one.")


def _by_class(y: Any, class_weight: Mapping[int, float], whole: bool) -> np.ndarray:
    """Each example's weight by its class; labels are indices or one-hot rows."""
    if y is None or len(jax.tree.leaves(y)) != 1:
        raise ValueError(
            f"`class_weight` needs one array of labels, got {len(jax.tree.leaves(y))}; use `sample_weight` instead."
        )
    if not isinstance(class_weight, Mapping):
        raise TypeError(
            f"`class_weight` is a dictionary from classes to factors, got {class_weight!r}; write {{0: 1.0, 1: 2.0}}."
        )
    for index, factor in class_weight.items():
        if not isinstance(factor, int | float | np.number) or not np.isfinite(factor):
            raise ValueError(
                f"`class_weight` holds a finite number for each class, got {factor!r} for class {index!r}; give one."
            )
    labels = np.asarray(jax.tree.leaves(y)[0])
    if labels.ndim > 2:
        raise ValueError(
            f"`class_weight` takes labels [N] or [N, classes], got shape {labels.shape}; use `sample_weight` instead."
        )
    if labels.ndim == 2:
        classes = np.arange(labels.shape[1])
        labels = labels.argmax(-1) if labels.shape[1] > 1 else labels[:, 0]
    else:
        classes = np.arange(int(labels.max()) + 1)
    labels = np.round(labels).astype(np.int64)
    known = set(classes.tolist()) | set(np.unique(labels).tolist())
    unknown = sorted(set(class_weight) - known)
    if unknown and whole:
        raise ValueError(
            f"`class_weight` goes by the classes of the labels, which are {min(known)} to {max(known)}, got the key "
            f"{unknown[0]!r}; remove it."
        )
    weights = np.ones(labels.shape, np.float32)
    for index, factor in class_weight.items():
        weights[labels == index] = factor
    return weights


def batch_size_for(data: Data, batch_size: int | None, steps: int | None) -> int:
    """The batch size: the one given, or else what covers the data in the given number of steps, or else 32."""
    if batch_size is not None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise ValueError(f"`batch_size` is a positive integer, got {batch_size!r}; 32 is a usual choice.")
        return int(batch_size)
    return -(-len(data) // int(steps)) if steps else 32


def split_off(data: Data, fraction: float, weighted_by_class: bool = False) -> tuple[Data, Data]:
    """Takes the last part of the examples off for validation, before any shuffling, as Keras does.

    Args:
        data: All examples.
        fraction: How much of them is for validation.
        weighted_by_class: Whether their weights are class weights, which count in training alone.

    Raises:
        ValueError: If the fraction is not between 0 and 1, or leaves one part empty.
    """
    if not isinstance(fraction, int | float | np.number) or not 0 < fraction < 1:
        raise ValueError(f"`validation_split` lies between 0 and 1, got {fraction!r}; 0.2 takes the last fifth.")
    at = math.floor(len(data) * (1 - fraction))
    if at in (0, len(data)):
        raise ValueError(
            f"`validation_split`={fraction} leaves no examples to one side of {len(data)}; choose another fraction."
        )
    rest = data[at:]
    return data[:at], replace(rest, weight=None) if weighted_by_class else rest


def check_labels(data: Data, objective: Objective, outputs: list[Any]) -> None:
    """Raises if a label names a class that the output does not have."""
    if data.y is None:
        return
    y = ordered(data.y, objective.names)
    for labels, loss, spread, output in zip(y, objective.losses, objective.one_hot, outputs, strict=True):
        if loss is not None and loss.labels == "unit":
            low, high = float(np.min(labels)), float(np.max(labels))
            if low < 0 or high > 1:
                raise ValueError(
                    f"{loss.name} takes labels from 0 to 1, got some from {low:g} to {high:g}; use "
                    "sparse_categorical_crossentropy and a unit for each class, or map the labels to 0 and 1."
                )
        if loss is not None and (loss.labels == "index" or spread):
            ignored = getattr(loss, "ignore_class", None)
            losses.check_labels(np.asarray(labels), output.shape[-1], ignore_class=ignored)


def check_ids(data: Data, model: Any) -> None:
    """Raises if an integer in the inputs has no row in the embedding that it reaches.

    Inside a compiled step it cannot be seen: it would give NaN, or the vector of another integer.
    """
    lookups = lookups_of(model)
    if not lookups:
        return
    spec = model.input_spec if isinstance(model, Container) else None
    arrays = jax.tree.leaves(data.x) if spec is None else model.in_order(spec, data.x)
    names = [symbol.name for symbol in jax.tree.leaves(spec)] if len(arrays) > 1 else ["x"]
    for lookup in lookups:
        array = np.asarray(arrays[lookup.source])
        # The layer drops what follows the point of a float.
        if not array.size or (int(array.min() * data.scale) >= 0 and int(array.max() * data.scale) < lookup.size):
            continue
        ids = (array * data.scale).astype(np.int64)
        wrong = (ids < 0) | (ids >= lookup.size)
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        name = names[lookup.source] or f"input {lookup.source}"
        more = f" and {int(wrong.sum()) - 1} more" if wrong.sum() > 1 else ""
        raise ValueError(
            f"{lookup.layer} {lookup.path!r} looks up integers from 0 to {lookup.size - 1}, got {ids[first]} at "
            f"{list(first)} of `{name}`{more}; give a larger `input_dim`, or map what is not in the vocabulary to a "
            "number that is."
        )


class Chunk(NamedTuple):
    """Steps that run on one piece of data on the device.

    Attributes:
        data: The examples.
        order: The rows of each step [steps or more, B].
        steps: How many steps there are.
        first: Number of the first one in the pass through the data.
        sizes: Examples in each step.
    """

    data: Batch
    order: jax.Array
    steps: int
    first: int
    sizes: np.ndarray


class Feed:
    """Brings data to the device: once and whole where it fits, else in pieces while the device computes.

    Args:
        data: The examples.
        batch_size: Examples in a step.
        limit_bytes: Data above this size is streamed.
        whole: Whether smaller data may be brought whole; else it comes in pieces of 1, 8, 64 ... steps, so that data
            of any length needs few shapes to be compiled. Two to seven steps are a piece of 8 that is not full.
        pads: Whether a short last batch may be filled up with padding rows: called with its size. Otherwise the short
            batch is a chunk of its own shape.

    Attributes:
        padded: Whether some rows are padding.
    """

    def __init__(
        self,
        data: Data,
        batch_size: int,
        limit_bytes: float = math.inf,
        whole: bool = True,
        pads: Callable[[int], bool] = lambda rows: True,
    ):
        self.data, self.batch_size, self.n = data, batch_size, len(data)
        self.steps = -(-self.n // self.batch_size)
        short = self.n % self.batch_size
        self.padded = short != 0 and pads(short)
        # The steps that have the full shape; a short batch that is not padded comes after them.
        self.full_steps = self.n // self.batch_size if short and not self.padded else self.steps
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(data.batch()))
        self.resident = jax.device_put(data.batch()) if whole and size <= limit_bytes else None
        self.piece = self.steps
        if self.resident is None:
            per_step = max(1, size // self.steps)
            most = max(8, self.steps) if not whole and self.steps > 1 else self.steps
            self.piece = int(max(1, min(most, limit_bytes // (3 * per_step))))
        if not whole:
            self.piece = 8 ** ((self.piece.bit_length() - 1) // 3)

    @functools.cached_property
    def _in_order(self) -> jax.Array:
        rows = np.arange(self.steps * self.batch_size, dtype=np.int32).reshape(self.steps, self.batch_size)
        return jax.device_put(np.where(rows < self.n, rows, np.int32(-1)))  # as `make_order`, with nothing compiled

    def chunks(self, number: int = 0, key: jax.Array | None = None, first: int = 0) -> Iterator[Chunk]:
        """The steps of a pass through the data, shuffled if there is a key, from the chunk that has the `first` on."""
        shuffled = None if key is None else _shuffled(key, self.n, self.batch_size)
        sizes = np.full(self.steps, self.batch_size, np.int32)
        sizes[-1] = self.n - (self.steps - 1) * self.batch_size
        full = self.full_steps
        if self.resident is not None:
            order = self._in_order if shuffled is None else shuffled
            if full == self.steps:
                yield Chunk(self.resident, order, full, 0, sizes)
                return
            if full:
                yield Chunk(self.resident, order[:full], full, 0, sizes[:full])
            yield Chunk(self.resident, order[full:, : sizes[-1]], 1, full, sizes[full:])
            return
        rows = None if shuffled is None else np.asarray(shuffled)
        starts = [*range(min(first, full) // self.piece * self.piece, full, self.piece)]
        starts += [full] if full < self.steps else []
        ahead = self._piece(rows, starts[0], sizes)
        for start in starts[1:]:
            chunk, ahead = ahead, self._piece(rows, start, sizes)
            yield chunk
        yield ahead

    def _piece(self, rows: np.ndarray | None, start: int, sizes: np.ndarray) -> Chunk:
        """Starts moving the rows of some steps; a shorter last piece is filled up so that one shape is compiled.

        Args:
            rows: The rows of all steps; None for all in order, which are not gathered before they are moved.
            start: The first step.
            sizes: Examples in each step.
        """
        short = start >= self.full_steps  # a short batch by itself
        steps, batch_size = (1, int(sizes[-1])) if short else (self.piece, self.batch_size)
        sizes = sizes[start:] if short else sizes[start : min(start + steps, self.full_steps)]
        found, full = int(sizes.sum()), steps * batch_size
        first = start * self.batch_size
        taken = slice(first, first + found) if rows is None else rows[start : start + steps].reshape(-1)[:found]

        def moved(a: Any) -> Any:
            part = np.asarray(a)[taken]
            return part if found == full else np.resize(part, (full, *part.shape[1:]))

        numbers = np.arange(full, dtype=np.int32)
        order = np.where(numbers < found, numbers, np.int32(-1)).reshape(steps, batch_size)
        batch = jax.device_put(jax.tree.map(moved, self.data.batch()))
        return Chunk(batch, jax.device_put(order), len(sizes), start, sizes)


_shuffled = jax.jit(make_order, static_argnums=(1, 2))


def unit_of(data: Data) -> str:
    """What an example is called in rates: images, sequences, or just examples."""
    leaves = jax.tree.leaves(data.x)
    return {4: "images", 3: "sequences"}.get(leaves[0].ndim, "examples") if len(leaves) == 1 else "examples"
