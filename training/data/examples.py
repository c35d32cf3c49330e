"""Examples in memory: converts and checks arrays, lists, a `Split` and weights before a model sees them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from training.datasets import Split
from training.state import Batch

# One array, or lists and dictionaries of arrays. An array is a value that NumPy can convert.
ArrayTree: TypeAlias = npt.ArrayLike | Sequence["ArrayTree"] | Mapping[str, "ArrayTree"]
Array = TypeVar("Array", np.ndarray, jax.Array)


@dataclass(frozen=True)
class Examples:
    """Examples in memory: x, y and weight are arrays or trees of arrays [N, ...].

    Attributes:
        x: Inputs, in their stored dtype.
        y: Labels, or None.
        weight: Sample weights, or None.
        scale: Factor of the inputs, applied inside the compiled step.
        num_classes: Number of classes if the labels are known to be class indices.
    """

    x: Any
    y: Any = None
    weight: Any = None
    scale: float = 1.0
    num_classes: int | None = None

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.x)[0])

    def __getitem__(self, rows: slice) -> "Examples":
        x, y, weight = jax.tree.map(lambda a: a[rows], (self.x, self.y, self.weight))
        return replace(self, x=x, y=y, weight=weight)

    def batch(self) -> Batch:
        """Returns all examples as one batch."""
        return Batch(self.x, self.y, self.weight)

    def batch_of(self, rows: int) -> Batch:
        """Returns the shapes and dtypes of a batch with this many rows, as a model receives it."""
        batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), self.batch())
        if self.scale == 1:
            return batch
        return batch._replace(x=jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.float32), batch.x))


def as_examples(
    x: object,
    y: ArrayTree | None = None,
    sample_weight: ArrayTree | None = None,
    class_weight: Mapping[int, float] | None = None,
    is_full_dataset: bool = True,
) -> Examples:
    """Converts what `fit`, `evaluate` and `predict` accept, and checks it as far as possible without a model.

    Args:
        x: Inputs: an array, a list or dictionary of arrays, a `Split`, or `Examples`.
        y: Labels: an array, or a list or dictionary of arrays; None for a `Split`, which contains labels.
        sample_weight: Factors of the examples' losses.
        class_weight: Factors of the losses, keyed by class, instead of `sample_weight`.
        is_full_dataset: Whether these are all examples. A batch need not have examples of every class.

    Raises:
        ValueError: If the arrays are empty, differ in length, or hold non-finite numbers.
        TypeError: If something is not an array of numbers.
    """
    scale, num_classes = 1.0, None
    if isinstance(x, Examples):
        return x
    if isinstance(x, Split):
        if y is not None:
            raise ValueError(f"A Split has its own labels, got y={describe_value(y)} as well; leave `y` out.")
        y, scale, num_classes = x.y, x.scale, x.num_classes
        x = x.x
    inputs, labels, weight = _arrays("x", x), _arrays("y", y), _arrays("sample_weight", sample_weight)
    _check_lengths(inputs, labels, weight)
    if class_weight is not None:
        if weight is not None:
            raise ValueError(
                "Examples are weighted by `class_weight` or by `sample_weight`, got both; combine them into one."
            )
        weight = _weights_by_class(labels, class_weight, is_full_dataset)
    return Examples(inputs, labels, weight, scale, num_classes)


def describe_value(value: object) -> str:
    """Returns the shape of an array, or the type of another value, for errors."""
    shape = getattr(value, "shape", None)
    return f"an array of shape {tuple(shape)}" if shape is not None else f"a {type(value).__name__}"


def _arrays(name: str, tree: object) -> Any:
    """Converts every leaf to an array of finite numbers, in a dtype that JAX supports."""
    if isinstance(tree, np.ndarray | jax.Array):
        return _array(name, tree)
    leaves = jax.tree.leaves(tree)
    if isinstance(tree, list | tuple) and leaves and all(np.isscalar(leaf) for leaf in leaves):
        return _array(name, tree)  # a list of numbers is one array, not a tree of inputs
    return jax.tree.map(lambda leaf: _array(name, leaf), tree)


def _array(name: str, leaf: object) -> np.ndarray | jax.Array:
    array: Any = leaf
    if hasattr(leaf, "__getitem__") and not hasattr(leaf, "__iter__") and not is_array(leaf):
        # NumPy would read the items one by one, endlessly if the object never raises IndexError.
        raise TypeError(
            f"`{name}` must be an array of numbers, got items of a {type(leaf).__name__}; put them into one array, "
            "for example with np.stack([items[i] for i in range(len(items))])."
        )
    if not isinstance(leaf, jax.Array):
        try:
            array = np.asarray(leaf)
        except ValueError as error:
            raise TypeError(
                f"`{name}` must be an array of numbers, got lists of different lengths; pad them to one length."
            ) from error
    if array.dtype.kind not in "biuf" and array.dtype != jnp.bfloat16:
        raise TypeError(f"`{name}` must be an array of numbers, got {_describe_non_numeric(array)}.")
    if array.ndim == 0:
        raise ValueError(
            f"`{name}` must have one row per example, got the single number {array}; give an array [N, ...]."
        )
    if array.dtype.kind == "f":
        _check_finite(name, array)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
    return _as_int32(name, array) if array.dtype in (np.int64, np.uint64, np.uint32) else array


def _describe_non_numeric(array: np.ndarray) -> str:
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
        missing = "fill missing values" if first is None else "give a number at each position"
        return f"{first!r} of type {type(first).__name__}{where}; {missing}"
    return f"dtype {array.dtype}; convert it, for example with np.asarray(values, dtype='float32')"


def _as_int32(name: str, array: Array) -> Array:
    """Converts integers to 32 bits, in which JAX computes.

    Raises:
        ValueError: If an integer does not fit in 32 bits.
    """
    limits = np.iinfo(np.int32)
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < limits.min or high > limits.max:
        raise ValueError(
            f"`{name}` must hold 32-bit integers, up to {limits.max}, got values from {low} to {high}; give smaller "
            "values, or convert them with np.asarray(values, dtype='float32')."
        )
    return array.astype(np.int32)


def is_array(x: object) -> bool:
    """Returns whether NumPy converts x to an array without reading it item by item."""
    return any(hasattr(x, name) for name in ("__array__", "__array_interface__", "__dlpack__"))


def _check_finite(name: str, array: np.ndarray | jax.Array) -> None:
    # A sum allocates no array, and in float32 takes a quarter of the time of float64. The sum of finite numbers may
    # overflow, so every number is checked if the sum is not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.sum(np.asarray(array), dtype=np.promote_types(array.dtype, np.float32))
    if np.isfinite(total):
        return
    bad = ~np.isfinite(np.asarray(array))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"`{name}` must hold finite numbers, got {np.asarray(array)[first]} at {list(first)} (non-finite: "
            f"{int(bad.sum())} of {array.size} values); remove or fill them, for example with np.nan_to_num."
        )


def _check_lengths(x: ArrayTree, y: ArrayTree | None, weight: ArrayTree | None) -> None:
    leaves = [("x", a) for a in jax.tree.leaves(x)] + [("y", a) for a in jax.tree.leaves(y)]
    leaves += [("sample_weight", a) for a in jax.tree.leaves(weight)]
    if not jax.tree.leaves(x):
        raise ValueError("There are no inputs: `x` is empty or None; give an array [N, ...].")
    lengths = [len(a) for _, a in leaves]
    if len(set(lengths)) > 1:
        shapes = ", ".join(f"{name} {tuple(a.shape)}" for name, a in leaves[:6])
        shapes += f" and {len(leaves) - 6} more" if len(leaves) > 6 else ""
        raise ValueError(f"All arrays must have one row per example, got {shapes}; give them the same length.")
    if lengths[0] == 0:
        raise ValueError(f"There are no examples: x has shape {tuple(leaves[0][1].shape)}; give at least one.")


def _weights_by_class(y: ArrayTree | None, class_weight: Mapping[int, float], is_full_dataset: bool) -> np.ndarray:
    """Returns the weight of each example, which its class determines; labels are indices or one-hot rows."""
    if y is None or len(jax.tree.leaves(y)) != 1:
        raise ValueError(
            f"`class_weight` needs one array of labels, got {len(jax.tree.leaves(y))}; use `sample_weight` instead."
        )
    if not isinstance(class_weight, Mapping):
        raise TypeError(
            f"`class_weight` must be a dictionary from classes to factors, got {class_weight!r}; write "
            f"{{0: 1.0, 1: 2.0}}."
        )
    for index, factor in class_weight.items():
        if not isinstance(factor, int | float | np.number) or not np.isfinite(factor):
            raise ValueError(
                f"`class_weight` must hold a finite number for each class, got {factor!r} for class {index!r}; give "
                "one."
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
    if unknown and is_full_dataset:
        raise ValueError(
            f"The keys of `class_weight` must be classes of the labels, from {min(known)} to {max(known)}, got "
            f"{unknown[0]!r}; remove it."
        )
    weights = np.ones(labels.shape, np.float32)
    for index, factor in class_weight.items():
        weights[labels == index] = factor
    return weights
