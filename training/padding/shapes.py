"""Rules of operations that move numbers, and of those along an axis."""

import math
from collections.abc import Callable

import numpy as np

from training.padding.elementwise import is_number
from training.padding.values import (
    Axis,
    Operand,
    Operation,
    Rows,
    Same,
    Unknown,
    Value,
    common,
    differing_axis,
    fill_of,
    placed,
    without_rule,
)


def reshape(operation: Operation) -> list[Value]:
    """`reshape`, `squeeze` and `expand_dims`: the order of the numbers stays."""
    operand, out = operation.inputs[0], operation.outputs[0]
    value = operand.value
    if len(operation.inputs) > 1 or operation.params.get("dimensions") and operation.name == "reshape":
        raise Unknown
    if isinstance(value, Rows) and value.before is None:
        # Constant along an axis that holds more than the batch: it may stay one axis, or be divided.
        k = differing_axis(operand.shape, operand.short)
        ahead, after = math.prod(operand.shape[:k]), math.prod(operand.shape[k + 1 :])
        sizes = [n for n in out.shape if n != 1]
        while sizes and ahead > 1 and ahead % sizes[0] == 0:
            ahead //= sizes.pop(0)
        while sizes and after > 1 and after % sizes[-1] == 0:
            after //= sizes.pop()
        if ahead != 1 or after != 1:
            raise Unknown
    if isinstance(value, Same) and out.shape != out.short:
        raise Unknown
    return [value]


def transpose(operation: Operation) -> list[Value]:
    operand, out = operation.inputs[0], operation.outputs[0]
    if isinstance(operand.value, Same):
        return without_rule(operation)
    axis = operation.axis(operand)
    return [placed(axis, operation.params["permutation"].index(axis.number), out.shape, fill_of(operand.value))]


def along(*names: str, keeps_fill: bool = True, several: bool = False) -> Callable[[Operation], list[Value]]:
    """Makes the rule of operations that work along the axes in these parameters, and leave the others apart.

    Args:
        *names: Parameters with an axis, or several axes.
        keeps_fill: Whether equal numbers stay what they are.
        several: Whether all inputs are arrays of one shape; otherwise only the first has a batch axis.
    """

    def rule(operation: Operation) -> list[Value]:
        if operation.is_same:
            return without_rule(operation)
        arrays = operation.inputs if several else operation.inputs[:1]
        if not several and not all(isinstance(value, Same) for value in operation.values[1:]):
            raise Unknown
        axis = operation.common_axis(arrays)
        worked = [a for name in names for a in np.atleast_1d(operation.params[name]).tolist()]
        if axis.number in worked:
            raise Unknown
        fills = [fill_of(operand.value) if keeps_fill else None for operand in arrays]
        fills = fills if len(fills) == len(operation.outputs) else fills[:1] * len(operation.outputs)
        return [placed(axis, axis.number, out.shape, fill) for out, fill in zip(operation.outputs, fills, strict=True)]

    return rule


def last_axes(count: Callable[[Operation], int]) -> Callable[[Operation], list[Value]]:
    """Makes the rule of operations on the last axes, such as a Fourier transform or a factorization."""

    def rule(operation: Operation) -> list[Value]:
        if operation.is_same:
            return without_rule(operation)
        axis = operation.common_axis(operation.inputs)
        if axis.number >= len(operation.inputs[0].shape) - count(operation):
            raise Unknown
        return [placed(axis, axis.number, out.shape) for out in operation.outputs]

    return rule


def concatenate(operation: Operation) -> list[Value]:
    if operation.is_same:
        return without_rule(operation)
    axis = operation.common_axis(operation.inputs)
    if axis.number == operation.params["dimension"]:
        raise Unknown
    fills = [fill_of(value) for value in operation.values]
    fill = fills[0] if all(is_number(fill, fills[0]) for fill in fills) else None
    return [placed(axis, axis.number, operation.outputs[0].shape, fill)]


def stack(operation: Operation) -> list[Value]:
    """Joins arrays along a new axis."""
    if operation.is_same:
        return without_rule(operation)
    axis, new = operation.common_axis(operation.inputs), operation.params["axis"]
    return [placed(axis, axis.number + (new <= axis.number), operation.outputs[0].shape)]


def unstack(operation: Operation) -> list[Value]:
    """Takes an axis apart."""
    if operation.is_same:
        return without_rule(operation)
    axis, gone = operation.axis(operation.inputs[0]), operation.params["axis"]
    if axis.number == gone:
        raise Unknown
    return [placed(axis, axis.number - (gone < axis.number), out.shape) for out in operation.outputs]


def tile(operation: Operation) -> list[Value]:
    """Repeats an array along axes other than that of the batch."""
    operand = operation.inputs[0]
    if isinstance(operand.value, Same):
        return without_rule(operation)
    axis = operation.axis(operand)
    if operation.params["reps"][axis.number] != 1:
        raise Unknown
    return [placed(axis, axis.number, operation.outputs[0].shape, fill_of(operand.value))]


def pad(operation: Operation) -> list[Value]:
    operand, padding = operation.inputs
    if isinstance(operand.value, Same):
        return without_rule(operation)
    axis = operation.axis(operand)
    if not isinstance(padding.value, Same) or tuple(operation.params["padding_config"][axis.number]) != (0, 0, 0):
        raise Unknown
    fill = fill_of(operand.value)
    fill = fill if is_number(fill, padding.value.constant) else None
    return [placed(axis, axis.number, operation.outputs[0].shape, fill)]


def take_slice(operation: Operation) -> list[Value]:
    """`slice`: all of the batch axis, any part of the others."""
    operand, out = operation.inputs[0], operation.outputs[0]
    if isinstance(operand.value, Same):
        return without_rule(operation)
    axis = operation.axis(operand)
    _check_whole(axis, operand, out)
    return [placed(axis, axis.number, out.shape, fill_of(operand.value))]


def _check_whole(axis: Axis, operand: Operand, out: Operand) -> None:
    """Raises unless a slice has all of the batch axis."""
    k = axis.number
    if out.shape[k] != operand.shape[k] or out.short[k] != operand.short[k]:
        raise Unknown


def dynamic_slice(operation: Operation) -> list[Value]:
    operand, *starts = operation.inputs
    if not all(isinstance(start.value, Same) for start in starts):
        raise Unknown
    if isinstance(operand.value, Same):
        return without_rule(operation)
    axis, out = operation.axis(operand), operation.outputs[0]
    _check_whole(axis, operand, out)  # a slice as long as the axis begins at 0, whatever start is asked for
    return [placed(axis, axis.number, out.shape, fill_of(operand.value))]


def dynamic_update_slice(operation: Operation) -> list[Value]:
    operand, update, *starts = operation.inputs
    if operation.is_same:
        return without_rule(operation)
    if not all(isinstance(start.value, Same) for start in starts):
        raise Unknown
    axis = operation.common_axis([operand, update])
    _check_whole(axis, operand, update)
    return [placed(axis, axis.number, operand.shape)]


def gather(operation: Operation) -> list[Value]:
    """Looks up slices of an operand at indices; either of them, or both at paired axes, may have a batch axis."""
    operand, indices = operation.inputs
    if operation.is_same:
        return without_rule(operation)
    numbers, sizes, out = operation.params["dimension_numbers"], operation.params["slice_sizes"], operation.outputs[0]
    batch_axes = [k for k in range(len(out.shape)) if k not in numbers.offset_dims]
    paired = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    if isinstance(indices.value, Rows):
        axis = operation.axis(indices)
        if axis.number == len(indices.shape) - 1:
            raise Unknown
        if isinstance(operand.value, Rows):
            other = operation.axis(operand)
            if paired.get(other.number) != axis.number:
                raise Unknown
            axis = common(axis, other)
        elif not isinstance(operand.value, Same):
            raise Unknown
        return [placed(axis, batch_axes[axis.number], out.shape)]
    axis = operation.axis(operand)
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    if not isinstance(indices.value, Same) or axis.number in gone:
        raise Unknown
    if sizes[axis.number] != operand.shape[axis.number]:
        raise Unknown
    offsets = [k for k in range(len(operand.shape)) if k not in gone]
    fill = fill_of(operand.value) if "FILL" not in str(operation.params["mode"]) else None
    return [placed(axis, numbers.offset_dims[offsets.index(axis.number)], out.shape, fill)]


def scatter(operation: Operation) -> list[Value]:
    """Writes updates into an operand, or adds them.

    The batch axis is one along which whole slices are written, or one of the axes of the indices; in the latter case
    only updates that are zero in the padding rows, and added, change nothing.
    """
    operand, indices, updates = operation.inputs
    if operation.is_same:
        return without_rule(operation)
    numbers = operation.params["dimension_numbers"]
    windows = list(numbers.update_window_dims)
    if isinstance(operand.value, Rows):
        axis, other = operation.axis(operand), operation.axis(updates)
        gone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
        kept = [k for k in range(len(operand.shape)) if k not in gone]
        if axis.number in gone or windows[kept.index(axis.number)] != other.number:
            raise Unknown
        if not isinstance(indices.value, Same) or updates.shape[other.number] != operand.shape[axis.number]:
            raise Unknown
        return [placed(common(axis, other), axis.number, operand.shape)]
    axis, other = operation.axis(indices), operation.axis(updates)
    scattered = [k for k in range(len(updates.shape)) if k not in windows]
    if axis.number >= len(scattered) or scattered[axis.number] != other.number or common(axis, other).outer is None:
        raise Unknown
    adds_nothing = operation.name == "scatter-add" and is_number(fill_of(updates.value), 0)
    if not adds_nothing or not isinstance(operand.value, Same):
        raise Unknown
    return [Same()]


RULES: dict[str, Callable[[Operation], list[Value]]] = {
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), reshape),
    "transpose": transpose,
    "rev": along("dimensions"),
    "split": along("axis"),
    "sort": along("dimension", several=True),
    "top_k": last_axes(lambda operation: 1),
    "fft": last_axes(lambda operation: len(operation.params["fft_lengths"])),
    **dict.fromkeys(
        ("cholesky", "eigh", "householder_product", "lu", "qr", "svd", "triangular_solve"),
        last_axes(lambda operation: 2),
    ),
    "concatenate": concatenate,
    "stack": stack,
    "unstack": unstack,
    "tile": tile,
    "pad": pad,
    "slice": take_slice,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "gather": gather,
    **dict.fromkeys(("scatter", "scatter-add", "scatter-mul", "scatter-min", "scatter-max"), scatter),
}
