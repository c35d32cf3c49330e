"""Rules of operations that add numbers up: reductions, products, convolutions, windows."""

from collections.abc import Callable
from typing import Any

import numpy as np

from training.padding.elementwise import is_number
from training.padding.values import Operation, Rows, Same, Unknown, Value, common, fill_of, placed, without_rule

# The number that adds nothing to a reduction, so that padding rows which hold it do not count.
IDENTITIES: dict[str, Callable[[Any], bool]] = {
    "reduce_sum": lambda fill: fill == 0,
    "reduce_prod": lambda fill: fill == 1,
    "reduce_max": lambda fill: fill == -np.inf or fill is np.False_ or fill is False,
    "reduce_min": lambda fill: fill == np.inf or fill is np.True_ or fill is True,
    "reduce_or": lambda fill: fill == 0,
    "reduce_and": lambda fill: isinstance(fill, bool | np.bool_) and bool(fill),
}


def reduction(operation: Operation) -> list[Value]:
    """Reductions along some axes; along the batch axis only where the padding rows hold the neutral number."""
    if operation.is_same:
        return without_rule(operation)
    operand, out = operation.inputs[0], operation.outputs[0]
    axis, axes, fill = operation.axis(operand), operation.params["axes"], fill_of(operand.value)
    if axis.number not in axes:
        kept = axis.number - sum(a < axis.number for a in axes)
        idempotent = operation.name in ("reduce_max", "reduce_min", "reduce_or", "reduce_and")
        keeps = idempotent or (operation.name in ("reduce_sum", "reduce_prod") and is_number(fill, 0))
        return [placed(axis, kept, out.shape, fill if keeps or not axes else None)]
    neutral = IDENTITIES.get(operation.name)
    if fill is None or neutral is None or not neutral(fill):
        raise Unknown
    return [Same()]


def cumulative(operation: Operation) -> list[Value]:
    """Sums, products and largest numbers up to each place along an axis."""
    operand = operation.inputs[0]
    if isinstance(operand.value, Same):
        return without_rule(operation)
    axis, fill = operation.axis(operand), fill_of(operand.value)
    if axis.number == operation.params["axis"]:
        raise Unknown
    keeps = operation.name in ("cummax", "cummin")
    keeps = keeps or (operation.name in ("cumsum", "cumprod") and is_number(fill, 0))
    return [placed(axis, axis.number, operation.outputs[0].shape, fill if keeps else None)]


def window_reduction(operation: Operation) -> list[Value]:
    operand, *initial = operation.inputs
    if operation.is_same:
        return without_rule(operation)
    axis, params = operation.axis(operand), operation.params
    k = axis.number
    extents = [params[name][k] for name in ("window_dimensions", "window_strides") if name in params]
    extents += [params[name][k] for name in ("base_dilation", "window_dilation") if name in params]
    if any(n != 1 for n in extents) or tuple(params["padding"][k]) != (0, 0):
        raise Unknown
    if not all(isinstance(start.value, Same) for start in initial):
        raise Unknown
    return [placed(axis, k, operation.outputs[0].shape)]


def dot_general(operation: Operation) -> list[Value]:
    """Products of matrices, with the batch among the free, the shared or the contracted axes."""
    left, right = operation.inputs
    if operation.is_same:
        return without_rule(operation)
    (left_sum, right_sum), (left_batch, right_batch) = operation.params["dimension_numbers"]
    out = operation.outputs[0].shape
    sides = [(left, right, left_sum, left_batch), (right, left, right_sum, right_batch)]
    fills = [fill_of(value) for value in operation.values]
    zero = next((fill for fill in fills if is_number(fill, 0)), None)
    if isinstance(left.value, Rows) and isinstance(right.value, Rows):
        axis, other = operation.axis(left), operation.axis(right)
        for own, others in ((left_sum, right_sum), (left_batch, right_batch)):
            if axis.number not in own or others[list(own).index(axis.number)] != other.number:
                continue
            both = common(axis, other)
            if own is left_batch:
                return [placed(both, list(own).index(axis.number), out, zero)]
            if zero is not None and both.outer is not None:
                return [Same()]
        raise Unknown
    for side, (operand, factor, summed, batch) in enumerate(sides):
        if isinstance(operand.value, Rows) and isinstance(factor.value, Same):
            axis = operation.axis(operand)
            if axis.number in summed or axis.number in batch:
                raise Unknown
            free = [k for k in range(len(operand.shape)) if k not in summed and k not in batch]
            skipped = 0 if side == 0 else len(left.shape) - len(left_sum) - len(left_batch)
            return [placed(axis, len(batch) + skipped + free.index(axis.number), out, zero)]
    raise Unknown


def convolution(operation: Operation) -> list[Value]:
    image, kernel = operation.inputs
    if operation.is_same:
        return without_rule(operation)
    axis, numbers = operation.axis(image), operation.params["dimension_numbers"]
    if axis.number != numbers.lhs_spec[0] or operation.params["batch_group_count"] != 1:
        raise Unknown
    if not isinstance(kernel.value, Same):
        raise Unknown
    zero = fill_of(image.value) if is_number(fill_of(image.value), 0) else None
    return [placed(axis, numbers.out_spec[0], operation.outputs[0].shape, zero)]


RULES: dict[str, Callable[[Operation], list[Value]]] = {
    **dict.fromkeys([*IDENTITIES, "reduce_xor", "argmax", "argmin"], reduction),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), cumulative),
    **dict.fromkeys(("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min"), window_reduction),
    "dot_general": dot_general,
    "conv_general_dilated": convolution,
}
