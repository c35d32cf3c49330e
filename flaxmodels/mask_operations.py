"""The operations with which Keras' layers compute masks, for any representation of tensors.

The graphs of this library have no such operations, but Keras counts them when it orders layers, and its files contain
them. Each function takes `make(operation, config, *arguments)`, which returns the result of one operation.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

Tensor = TypeVar("Tensor")
Mask = TypeVar("Mask")
Result = TypeVar("Result")


def embedding_mask(make: Callable[..., Result], ids: object, zero: object = 0) -> Result:
    """Returns the mask of an Embedding with `mask_zero`."""
    return make("NotEqual", {}, ids, zero)


def masking_mask(make: Callable[..., Result], inputs: object, value: object) -> Result:
    """Returns the mask of a Masking layer."""
    return _any(make, make("NotEqual", {}, inputs, value))


def merged_mask(make: Callable[..., Result], masks: Sequence[Mask | None]) -> Mask | Result | None:
    """Returns the mask of a layer such as Add: positions that any input keeps, or None if an input has no mask."""
    if not masks or any(mask is None for mask in masks):
        return None
    merged: Mask | Result | None
    merged, *others = masks
    for other in others:
        merged = make("LogicalOr", {}, merged, other)
    return merged


def concatenated_mask(
    make: Callable[..., Result],
    inputs: Sequence[Tensor],
    masks: Sequence[Mask | None],
    axis: int,
    is_full: Callable[[Tensor, Mask], bool],
) -> Result | None:
    """Returns the mask of a Concatenate, or None if no input has one.

    Args:
        make: Returns the result of one operation.
        inputs: The concatenated tensors, in the dtype of the layer.
        masks: A mask or None for each input.
        axis: The axis of the layer.
        is_full: Returns whether a mask has as many axes as its input.
    """
    if all(mask is None for mask in masks):
        return None
    full: list[Mask | Result] = []
    for value, mask in zip(inputs, masks, strict=True):
        if mask is None:
            full.append(make("OnesLike", {"dtype": "bool"}, value))
        elif is_full(value, mask):
            full.append(mask)
        else:
            expanded = make("ExpandDims", {"axis": -1}, mask)
            full.append(make("LogicalOr", {}, expanded, make("ZerosLike", {"dtype": "bool"}, value)))
    return _any(make, make("Concatenate", {"axis": axis}, *full))


def _any(make: Callable[..., Result], mask: Result) -> Result:
    return make("Any", {"axis": -1, "keepdims": False}, mask)
