"""The base class of layers that compute on the host, and the batches that layers adapt to."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeGuard, cast

import flax.linen as nn
import jax
import numpy as np

from flaxmodels.layers import symbolic
from flaxmodels.layers.base import Layer, MultiOutputLayer

Strings = str | bytes | np.ndarray | Sequence["Strings"]
Numbers = np.ndarray | jax.Array | int | Sequence["Numbers"]


class HostLayer(MultiOutputLayer):
    """Base class of layers that compute with NumPy on the host, because they read strings or vocabularies.

    A host layer has no variables, so it can be called on data directly. It cannot be part of a compiled program.
    """

    if not TYPE_CHECKING:

        def __call__(self, inputs: object = None, *args: object, **kwargs: object) -> object:
            """Computes the outputs of lists or arrays as NumPy arrays."""
            traced = [x for x in jax.tree.leaves((inputs, args)) if isinstance(x, jax.core.Tracer)]
            if traced or symbolic.symbols_in((inputs, args, kwargs)):
                what = "a traced array" if traced else "a symbol"
                raise ValueError(
                    f"{self.label} computes on the host, so it takes lists or arrays, got {what}; apply the layer to "
                    "the data before the model, such as model.fit(layer(x), y), or map it over the data source."
                )
            for flag in ("train", "training", "mask"):
                kwargs.pop(flag, None)
            return self.compute(inputs, *args, **kwargs)


def batches(data: object, steps: int | None = None, lists_are_data: bool = True) -> Iterator[object]:
    """Yields the batches that a layer adapts to: the whole array, or the elements of an iterable.

    Args:
        data: An array, a list, an object with `__len__` and `__getitem__`, or an iterable of batches. The inputs are
            the first item of a batch that is a tuple.
        steps: The largest number of batches; None for all.
        lists_are_data: Whether a list is one batch.
    """
    if isinstance(data, np.ndarray | jax.Array | str) or (lists_are_data and isinstance(data, list | tuple)):
        yield data
        return
    for i, batch in enumerate(_elements(data)):
        if steps is not None and i >= steps:
            return
        yield batch[0] if isinstance(batch, tuple) else batch


def _elements(data: object) -> Iterable[object]:
    if _is_indexed(data) and not isinstance(data, list | tuple):
        return (data[i] for i in range(len(data)))
    if not isinstance(data, Iterable):
        raise TypeError(
            f"`data` of adapt must be an array or an iterable of batches, got {type(data).__name__}; give an array."
        )
    return data


def _is_indexed(data: object) -> TypeGuard[Sequence[object]]:
    return hasattr(data, "__len__") and hasattr(data, "__getitem__")


def flatten(layer: nn.Module, values: object) -> tuple[list[object], tuple[int, ...]]:
    """Returns the values of nested lists or of an array in a flat list, and their shape.

    An array of strings would need as much memory for each one as for the longest, so lists remain lists.

    Args:
        layer: The layer, for error messages.
        values: A value, nested lists of equal lengths, or an array.

    Raises:
        ValueError: If nested lists have different lengths.

    Example:
        >>> flatten(nn.Dense(1), [["a"], ["b"]])
        (['a', 'b'], (2, 1))
    """
    if isinstance(values, list | tuple):
        parts = [flatten(layer, item) for item in values]
        shapes = {shape for _, shape in parts}
        if len(shapes) > 1:
            raise ValueError(
                f"{label_of(layer)} takes nested lists of equal lengths, got items of shapes {sorted(shapes)[:3]}; pad "
                "them to one length."
            )
        return [item for flat, _ in parts for item in flat], (len(values), *(shapes.pop() if shapes else ()))
    if isinstance(values, np.ndarray | jax.Array) or hasattr(values, "__array__"):
        array = np.asarray(values)
        return cast("list[object]", array.ravel().tolist()), array.shape
    return [values], ()


def label_of(layer: nn.Module) -> str:
    """Returns the name of a layer in error messages."""
    return layer.label if isinstance(layer, Layer) else type(layer).__name__


def to_text(layer: nn.Module, values: Sequence[object], encoding: str = "utf-8") -> list[str]:
    """Returns strings; bytes are decoded.

    Raises:
        ValueError: If a value is neither a string nor bytes.
    """
    texts = [value.decode(encoding) if isinstance(value, bytes) else value for value in values]
    wrong = next((value for value in texts if not isinstance(value, str)), None)
    if wrong is not None or None in texts:
        raise ValueError(
            f"{label_of(layer)} takes strings, got {wrong!r} of type {type(wrong).__name__}; convert the values with "
            "str, or use IntegerLookup for integers."
        )
    return cast("list[str]", texts)
