"""Transfer rules of primitives that move elements, and of primitives along an axis."""

import math
from collections.abc import Callable

import numpy as np

from training.padding.elementwise import is_known_to_be
from training.padding.lattice import (
    AbstractValue,
    BatchAxis,
    Clean,
    NoRule,
    Operand,
    Operation,
    RowWise,
    Rule,
    axis_of_unequal_size,
    common_layout,
    default_rule,
    padding_value,
    row_wise_at,
)


def reshape(operation: Operation) -> list[AbstractValue]:
    """Describes `reshape`, `squeeze` and `expand_dims`, which keep the order of the elements."""
    operand, out = operation.inputs[0], operation.outputs[0]
    value = operand.value
    if len(operation.inputs) > 1 or operation.params.get("dimensions") and operation.name == "reshape":
        raise NoRule
    if isinstance(value, RowWise) and value.outer_size is None:
        # The batch axis may hold more than the batch. It may be divided, but not be merged with its neighbors.
        k = axis_of_unequal_size(operand.shape, operand.short_shape)
        leading, trailing = math.prod(operand.shape[:k]), math.prod(operand.shape[k + 1 :])
        sizes = [n for n in out.shape if n != 1]
        while sizes and leading > 1 and leading % sizes[0] == 0:
            leading //= sizes.pop(0)
        while sizes and trailing > 1 and trailing % sizes[-1] == 0:
            trailing //= sizes.pop()
        if leading != 1 or trailing != 1:
            raise NoRule
    if isinstance(value, Clean) and out.shape != out.short_shape:
        raise NoRule
    return [value]


def transpose(operation: Operation) -> list[AbstractValue]:
    """Moves the batch axis to its new index."""
    operand, out = operation.inputs[0], operation.outputs[0]
    if isinstance(operand.value, Clean):
        return default_rule(operation)
    axis = operation.axis(operand)
    index = operation.params["permutation"].index(axis.index)
    return [row_wise_at(axis, index, out.shape, padding_value(operand.value))]


def along(*names: str, same_shapes: bool = False) -> Rule:
    """Returns the rule for primitives that only permute elements along the axes that these parameters name.

    Args:
        *names: Parameters with an axis, or several axes.
        same_shapes: Whether all inputs have the same shape; otherwise only the first has a batch axis.
    """

    def rule(operation: Operation) -> list[AbstractValue]:
        if operation.is_clean:
            return default_rule(operation)
        arrays = operation.inputs if same_shapes else operation.inputs[:1]
        if not same_shapes and not all(isinstance(value, Clean) for value in operation.values[1:]):
            raise NoRule
        axis = operation.common_axis(arrays)
        mixed_axes = [a for name in names for a in np.atleast_1d(operation.params[name]).tolist()]
        if axis.index in mixed_axes:
            raise NoRule
        outputs = operation.outputs
        paddings = [padding_value(operand.value) for operand in arrays]
        paddings = paddings if len(paddings) == len(outputs) else paddings[:1] * len(outputs)
        return [
            row_wise_at(axis, axis.index, out.shape, padding) for out, padding in zip(outputs, paddings, strict=True)
        ]

    return rule


def last_axes(count: Callable[[Operation], int]) -> Callable[[Operation], list[AbstractValue]]:
    """Makes the rule of operations on the last axes, such as a Fourier transform or a factorization."""

    def rule(operation: Operation) -> list[AbstractValue]:
        if operation.is_clean:
            return default_rule(operation)
        axis = operation.common_axis(operation.inputs)
        if axis.index >= len(operation.inputs[0].shape) - count(operation):
            raise NoRule
        return [row_wise_at(axis, axis.index, out.shape) for out in operation.outputs]

    return rule


def concatenate(operation: Operation) -> list[AbstractValue]:
    """Joins arrays along an axis that must not be the batch axis."""
    if operation.is_clean:
        return default_rule(operation)
    axis = operation.common_axis(operation.inputs)
    if axis.index == operation.params["dimension"]:
        raise NoRule
    first, *others = [padding_value(value) for value in operation.values]
    padding = first if all(is_known_to_be(other, first) for other in others) else None
    return [row_wise_at(axis, axis.index, operation.outputs[0].shape, padding)]


def stack(operation: Operation) -> list[AbstractValue]:
    """Joins arrays along a new axis."""
    if operation.is_clean:
        return default_rule(operation)
    axis, new = operation.common_axis(operation.inputs), operation.params["axis"]
    return [row_wise_at(axis, axis.index + (new <= axis.index), operation.outputs[0].shape)]


def unstack(operation: Operation) -> list[AbstractValue]:
    """Splits an array along an axis, which is removed and must not be the batch axis."""
    if operation.is_clean:
        return default_rule(operation)
    axis, removed = operation.axis(operation.inputs[0]), operation.params["axis"]
    if axis.index == removed:
        raise NoRule
    return [row_wise_at(axis, axis.index - (removed < axis.index), out.shape) for out in operation.outputs]


def tile(operation: Operation) -> list[AbstractValue]:
    """Repeats an array along axes other than the batch axis."""
    operand = operation.inputs[0]
    if isinstance(operand.value, Clean):
        return default_rule(operation)
    axis = operation.axis(operand)
    if operation.params["reps"][axis.index] != 1:
        raise NoRule
    return [row_wise_at(axis, axis.index, operation.outputs[0].shape, padding_value(operand.value))]


def pad(operation: Operation) -> list[AbstractValue]:
    """Adds a constant around an array, but not along the batch axis."""
    operand, constant = operation.inputs
    if isinstance(operand.value, Clean):
        return default_rule(operation)
    axis = operation.axis(operand)
    if not isinstance(constant.value, Clean) or tuple(operation.params["padding_config"][axis.index]) != (0, 0, 0):
        raise NoRule
    padding = padding_value(operand.value)
    padding = padding if is_known_to_be(padding, constant.value.constant) else None
    return [row_wise_at(axis, axis.index, operation.outputs[0].shape, padding)]


def static_slice(operation: Operation) -> list[AbstractValue]:
    """Describes `slice`, which must take the whole batch axis and may take any part of the other axes."""
    operand, out = operation.inputs[0], operation.outputs[0]
    if isinstance(operand.value, Clean):
        return default_rule(operation)
    axis = operation.axis(operand)
    _check_whole(axis, operand, out)
    return [row_wise_at(axis, axis.index, out.shape, padding_value(operand.value))]


def _check_whole(axis: BatchAxis, operand: Operand, out: Operand) -> None:
    """Raises NoRule unless a slice contains the whole batch axis."""
    k = axis.index
    if out.shape[k] != operand.shape[k] or out.short_shape[k] != operand.short_shape[k]:
        raise NoRule


def dynamic_slice(operation: Operation) -> list[AbstractValue]:
    """Describes `dynamic_slice`, which must take the whole batch axis and may take any part of the other axes."""
    operand, *starts = operation.inputs
    if not all(isinstance(start.value, Clean) for start in starts):
        raise NoRule
    if isinstance(operand.value, Clean):
        return default_rule(operation)
    axis, out = operation.axis(operand), operation.outputs[0]
    _check_whole(axis, operand, out)  # starts are clamped, so a slice as long as the axis always starts at 0
    return [row_wise_at(axis, axis.index, out.shape, padding_value(operand.value))]


def dynamic_update_slice(operation: Operation) -> list[AbstractValue]:
    """Describes an update, which must write the whole batch axis and may write any part of the other axes."""
    operand, update, *starts = operation.inputs
    if operation.is_clean:
        return default_rule(operation)
    if not all(isinstance(start.value, Clean) for start in starts):
        raise NoRule
    axis = operation.common_axis([operand, update])
    _check_whole(axis, operand, update)
    return [row_wise_at(axis, axis.index, operand.shape)]


def gather(operation: Operation) -> list[AbstractValue]:
    """Looks up slices of an operand at indices; one of them may have a batch axis, or both at paired axes."""
    if operation.is_clean:
        return default_rule(operation)
    if isinstance(operation.values[1], RowWise):
        return _gather_at_row_wise_indices(operation)
    return _gather_from_row_wise_operand(operation)


def _gather_at_row_wise_indices(operation: Operation) -> list[AbstractValue]:
    """Describes a lookup whose indices have a batch axis, such as in an embedding."""
    (operand, indices), out = operation.inputs, operation.outputs[0]
    numbers, axis = operation.params["dimension_numbers"], operation.axis(indices)
    if axis.index == len(indices.shape) - 1:  # the axis of the components of an index
        raise NoRule
    if isinstance(operand.value, RowWise):
        paired = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
        other = operation.axis(operand)
        if paired.get(other.index) != axis.index:
            raise NoRule
        axis = common_layout(axis, other)
    elif not isinstance(operand.value, Clean):
        raise NoRule
    batch_axes = [k for k in range(len(out.shape)) if k not in numbers.offset_dims]
    return [row_wise_at(axis, batch_axes[axis.index], out.shape)]


def _gather_from_row_wise_operand(operation: Operation) -> list[AbstractValue]:
    """Describes a lookup at clean indices, whose slices must contain the whole batch axis."""
    (operand, indices), out = operation.inputs, operation.outputs[0]
    numbers, axis = operation.params["dimension_numbers"], operation.axis(operand)
    removed = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    if not isinstance(indices.value, Clean) or axis.index in removed:
        raise NoRule
    if operation.params["slice_sizes"][axis.index] != operand.shape[axis.index]:
        raise NoRule
    kept = [k for k in range(len(operand.shape)) if k not in removed]
    padding = padding_value(operand.value) if "FILL" not in str(operation.params["mode"]) else None
    return [row_wise_at(axis, numbers.offset_dims[kept.index(axis.index)], out.shape, padding)]


def scatter(operation: Operation) -> list[AbstractValue]:
    """Writes updates into an operand at indices, or combines them with its elements."""
    if operation.is_clean:
        return default_rule(operation)
    if isinstance(operation.values[0], RowWise):
        return _scatter_to_row_wise_operand(operation)
    return _scatter_at_row_wise_indices(operation)


def _scatter_to_row_wise_operand(operation: Operation) -> list[AbstractValue]:
    """Describes a scatter at clean indices, whose windows must contain the whole batch axis."""
    operand, indices, updates = operation.inputs
    numbers = operation.params["dimension_numbers"]
    axis, other = operation.axis(operand), operation.axis(updates)
    removed = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    kept = [k for k in range(len(operand.shape)) if k not in removed]
    if axis.index in removed or numbers.update_window_dims[kept.index(axis.index)] != other.index:
        raise NoRule
    if not isinstance(indices.value, Clean) or updates.shape[other.index] != operand.shape[axis.index]:
        raise NoRule
    return [row_wise_at(common_layout(axis, other), axis.index, operand.shape)]


def _scatter_at_row_wise_indices(operation: Operation) -> list[AbstractValue]:
    """Describes a sum of rows into a clean operand, which is clean if the updates of the padding rows are 0."""
    operand, indices, updates = operation.inputs
    axis, other = operation.axis(indices), operation.axis(updates)
    windows = operation.params["dimension_numbers"].update_window_dims
    scattered = [k for k in range(len(updates.shape)) if k not in windows]
    if axis.index >= len(scattered) or scattered[axis.index] != other.index or common_layout(axis, other).outer is None:
        raise NoRule
    adds_zero = operation.name == "scatter-add" and is_known_to_be(padding_value(updates.value), 0)
    if not adds_zero or not isinstance(operand.value, Clean):
        raise NoRule
    return [Clean()]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), reshape),
    "transpose": transpose,
    "rev": along("dimensions"),
    "split": along("axis"),
    "sort": along("dimension", same_shapes=True),
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
    "slice": static_slice,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "gather": gather,
    **dict.fromkeys(("scatter", "scatter-add", "scatter-mul", "scatter-min", "scatter-max"), scatter),
}
