"""Transfer rules of reductions, windows, matrix products and convolutions."""

from collections.abc import Callable

import numpy as np

from training.padding.elementwise import is_known_to_be
from training.padding.lattice import (
    AbstractValue,
    Clean,
    NoRule,
    Operation,
    RowWise,
    Rule,
    Scalar,
    common_layout,
    default_rule,
    padding_value,
    row_wise_at,
)

# Whether a number is the identity element of a reduction, so that padding rows with this number do not count.
IS_IDENTITY: dict[str, Callable[[Scalar], bool]] = {
    "reduce_sum": lambda x: bool(x == 0),
    "reduce_prod": lambda x: bool(x == 1),
    "reduce_max": lambda x: bool(x == -np.inf) or (isinstance(x, np.bool_) and not x),
    "reduce_min": lambda x: bool(x == np.inf) or (isinstance(x, np.bool_) and bool(x)),
    "reduce_or": lambda x: bool(x == 0),
    "reduce_and": lambda x: isinstance(x, np.bool_) and bool(x),
}


def reduction(operation: Operation) -> list[AbstractValue]:
    """Reduces over axes; over the batch axis only if the padding rows hold the identity element."""
    if operation.is_clean:
        return default_rule(operation)
    operand, out = operation.inputs[0], operation.outputs[0]
    axis, axes, padding = operation.axis(operand), operation.params["axes"], padding_value(operand.value)
    if axis.index not in axes:
        index = axis.index - sum(a < axis.index for a in axes)
        idempotent = operation.name in ("reduce_max", "reduce_min", "reduce_or", "reduce_and")
        keeps = idempotent or (operation.name in ("reduce_sum", "reduce_prod") and is_known_to_be(padding, 0))
        return [row_wise_at(axis, index, out.shape, padding if keeps or not axes else None)]
    is_identity = IS_IDENTITY.get(operation.name)
    if padding is None or is_identity is None or not is_identity(padding):
        raise NoRule
    return [Clean()]


def cumulative(operation: Operation) -> list[AbstractValue]:
    """Accumulates sums, products, minima or maxima along an axis other than the batch axis."""
    operand = operation.inputs[0]
    if isinstance(operand.value, Clean):
        return default_rule(operation)
    axis, padding = operation.axis(operand), padding_value(operand.value)
    if axis.index == operation.params["axis"]:
        raise NoRule
    keeps = operation.name in ("cummax", "cummin")
    keeps = keeps or (operation.name in ("cumsum", "cumprod") and is_known_to_be(padding, 0))
    return [row_wise_at(axis, axis.index, operation.outputs[0].shape, padding if keeps else None)]


def window_reduction(operation: Operation) -> list[AbstractValue]:
    """Reduces windows of size 1 along the batch axis, and of any size along the other axes."""
    operand, *initial = operation.inputs
    if operation.is_clean:
        return default_rule(operation)
    axis, params = operation.axis(operand), operation.params
    k = axis.index
    extents = [params[name][k] for name in ("window_dimensions", "window_strides") if name in params]
    extents += [params[name][k] for name in ("base_dilation", "window_dilation") if name in params]
    if any(n != 1 for n in extents) or tuple(params["padding"][k]) != (0, 0):
        raise NoRule
    if not all(isinstance(start.value, Clean) for start in initial):
        raise NoRule
    return [row_wise_at(axis, k, operation.outputs[0].shape)]


def dot_general(operation: Operation) -> list[AbstractValue]:
    """Multiplies matrices; the batch axis may be a free axis, a batch axis or a contracted axis of the product."""
    if operation.is_clean:
        return default_rule(operation)
    left, right = operation.values
    if isinstance(left, RowWise) and isinstance(right, RowWise):
        return _dot_of_row_wise_operands(operation)
    if isinstance(left, RowWise) and isinstance(right, Clean):
        return _dot_with_clean_operand(operation, side=0)
    if isinstance(left, Clean) and isinstance(right, RowWise):
        return _dot_with_clean_operand(operation, side=1)
    raise NoRule


def _dot_of_row_wise_operands(operation: Operation) -> list[AbstractValue]:
    """Describes a product of operands that both have a batch axis, which must be paired in the product."""
    left, right = operation.inputs
    (left_contracted, right_contracted), (left_batch, right_batch) = operation.params["dimension_numbers"]
    axis, other = operation.axis(left), operation.axis(right)
    if (axis.index, other.index) in zip(left_contracted, right_contracted, strict=True):
        # The sum over the batch is clean if one factor of each padding row is 0.
        if _zero_padding(operation) is not None and common_layout(axis, other).outer is not None:
            return [Clean()]
    if (axis.index, other.index) in zip(left_batch, right_batch, strict=True):
        index, out = list(left_batch).index(axis.index), operation.outputs[0]
        return [row_wise_at(common_layout(axis, other), index, out.shape, _zero_padding(operation))]
    raise NoRule


def _dot_with_clean_operand(operation: Operation, side: int) -> list[AbstractValue]:
    """Describes a product with a clean operand; the batch axis of the operand on this side must be a free axis."""
    left, operand = operation.inputs[0], operation.inputs[side]
    contracted, batch = (axes[side] for axes in operation.params["dimension_numbers"])
    axis, out = operation.axis(operand), operation.outputs[0]
    free = [k for k in range(len(operand.shape)) if k not in contracted and k not in batch]
    if axis.index not in free:
        raise NoRule
    # The axes of the output: the batch axes, the free axes of the left operand, the free axes of the right operand.
    num_left = 0 if side == 0 else len(left.shape) - len(contracted) - len(batch)
    index = len(batch) + num_left + free.index(axis.index)
    return [row_wise_at(axis, index, out.shape, _zero_padding(operation))]


def _zero_padding(operation: Operation) -> Scalar | None:
    """Returns 0 if an operand is 0 in all padding rows, otherwise None."""
    paddings = (padding_value(value) for value in operation.values)
    return next((padding for padding in paddings if is_known_to_be(padding, 0)), None)


def convolution(operation: Operation) -> list[AbstractValue]:
    """Convolves with a clean kernel; the batch axis must be the batch axis of the convolution."""
    image, kernel = operation.inputs
    if operation.is_clean:
        return default_rule(operation)
    axis, numbers = operation.axis(image), operation.params["dimension_numbers"]
    if axis.index != numbers.lhs_spec[0] or operation.params["batch_group_count"] != 1:
        raise NoRule
    if not isinstance(kernel.value, Clean):
        raise NoRule
    zero = padding_value(image.value) if is_known_to_be(padding_value(image.value), 0) else None
    return [row_wise_at(axis, numbers.out_spec[0], operation.outputs[0].shape, zero)]


RULES: dict[str, Rule] = {
    **dict.fromkeys([*IS_IDENTITY, "reduce_xor", "argmax", "argmin"], reduction),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), cumulative),
    **dict.fromkeys(("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min"), window_reduction),
    "dot_general": dot_general,
    "conv_general_dilated": convolution,
}
