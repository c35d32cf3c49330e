"""The operations by which Keras' layers compute masks, in terms of whatever stands for tensors.

A graph of this library has no such operations, but Keras counts them when it orders layers, and its files name them.
Every function takes `make(operation, config, *arguments)`, which makes the result of one operation.
"""

from collections.abc import Callable, Sequence
from typing import Any

Make = Callable[..., Any]


def embedding_mask(make: Make, ids: Any, zero: Any = 0) -> Any:
    """The mask of an Embedding with `mask_zero`."""
    return make("NotEqual", {}, ids, zero)


def masking_mask(make: Make, inputs: Any, value: Any) -> Any:
    """The mask of a Masking layer."""
    return _any(make, make("NotEqual", {}, inputs, value))


def merged_mask(make: Make, masks: Sequence[Any]) -> Any:
    """The mask of an Add and the like, where any input is kept; None if an input has no mask."""
    if not masks or any(mask is None for mask in masks):
        return None
    merged, *others = masks
    for other in others:
        merged = make("LogicalOr", {}, merged, other)
    return merged


def concatenated_mask(
    make: Make, inputs: Sequence[Any], masks: Sequence[Any], axis: int, is_full: Callable[[Any, Any], bool]
) -> Any:
    """The mask of a Concatenate, if any input has one.

    Args:
        make: Makes the result of one operation.
        inputs: What is concatenated, in the dtype of the layer.
        masks: A mask or None for each input.
        axis: The axis of the layer.
        is_full: Whether a mask has as many axes as its input.
    """
    if all(mask is None for mask in masks):
        return None
    whole = []
    for value, mask in zip(inputs, masks, strict=True):
        if mask is None:
            whole.append(make("OnesLike", {"dtype": "bool"}, value))
        elif is_full(value, mask):
            whole.append(mask)
        else:
            wide = make("ExpandDims", {"axis": -1}, mask)
            whole.append(make("LogicalOr", {}, wide, make("ZerosLike", {"dtype": "bool"}, value)))
    return _any(make, make("Concatenate", {"axis": axis}, *whole))


def _any(make: Make, mask: Any) -> Any:
    return make("Any", {"axis": -1, "keepdims": False}, mask)
