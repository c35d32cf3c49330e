"""Transfer rules of elementwise primitives, and of primitives that create arrays."""

import math
import operator
from collections.abc import Callable

import jax
import numpy as np
from numpy.typing import ArrayLike

from training.padding.lattice import (
    TAINTED,
    AbstractValue,
    Clean,
    NoRule,
    Operand,
    Operation,
    RowWise,
    Rule,
    Scalar,
    Tainted,
    axis_of_unequal_size,
    padding_value,
    row_wise_at,
)

ELEMENTWISE = """
abs acos acosh add and asin asinh atan atan2 atanh bessel_i0e bessel_i1e bitcast_convert_type cbrt ceil clamp clz
complex conj convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt
igamma igammac imag integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to max min mul name ne neg nextafter
not or polygamma population_count pow real reduce_precision regularized_incomplete_beta rem round rsqrt
select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor
zeta
""".split()

# Functions that compute the number in the padding rows of an output.
FOLDS: dict[str, Callable[..., ArrayLike]] = {
    "abs": np.abs,
    "add": operator.add,
    "and": np.bitwise_and,
    "copy": lambda x: x,
    "eq": operator.eq,
    "ge": operator.ge,
    "gt": operator.gt,
    "le": operator.le,
    "lt": operator.lt,
    "max": np.maximum,
    "min": np.minimum,
    "mul": operator.mul,
    "ne": operator.ne,
    "neg": lambda x: -x,
    "not": np.invert,
    "or": np.bitwise_or,
    "square": np.square,
    "stop_gradient": lambda x: x,
    "sub": operator.sub,
}


def elementwise(operation: Operation) -> list[AbstractValue]:
    """Keeps rows separate; the inputs have the shape of the output, except for axes of size 1."""
    if any(isinstance(value, Tainted) for value in operation.values):
        raise NoRule
    padding = _padding_of_output(operation)
    row_wise = [operand for operand in operation.inputs if isinstance(operand.value, RowWise)]
    if not row_wise:
        return [Clean(padding)]
    out = operation.outputs[0]
    if all(operand.shape == out.shape for operand in row_wise):  # here the batch may extend over two axes
        values = [value for value in operation.values if isinstance(value, RowWise)]
        outer_sizes = {value.outer_size for value in values if value.outer_size is not None}
        if len(outer_sizes) > 1:
            raise NoRule
        return [RowWise(outer_sizes.pop() if outer_sizes else None, padding)]
    axis = operation.common_axis(row_wise)
    return [row_wise_at(axis, axis.index, out.shape, padding)]


def _padding_of_output(operation: Operation) -> Scalar | None:
    """Returns the number in the padding rows of the output, or None if it is unknown."""
    name, paddings = operation.name, [padding_value(value) for value in operation.values]
    first, *others = paddings
    if name == "select_n":
        if first is not None:
            return others[int(first)]
        return others[0] if all(is_known_to_be(padding, others[0]) for padding in others) else None
    if name == "convert_element_type":
        return None if first is None else np.asarray(first).astype(operation.params["new_dtype"])[()]  # type: ignore[return-value]
    if name in FOLDS and all(map(_is_exact, paddings)):
        return np.asarray(FOLDS[name](*paddings))[()]  # type: ignore[return-value]
    # Padding rows are copies of a row of the batch, so they hold NaN only if an example does. Therefore 0 * x is 0.
    if name in ("mul", "and"):
        return next((padding for padding in paddings if is_known_to_be(padding, 0)), None)
    if name == "or":
        return next((padding for padding in paddings if isinstance(padding, np.bool_) and padding), None)
    if name == "div" and is_known_to_be(first, 0) and others[0] is not None and others[0] != 0:
        return first
    if name in ("sqrt", "sign") or (name == "integer_pow" and operation.params["y"] > 0):
        return first if is_known_to_be(first, 0) else None
    return None


def is_known_to_be(padding: Scalar | None, number: Scalar | int | None) -> bool:
    """Returns whether both numbers are known and equal."""
    return padding is not None and number is not None and bool(padding == number)


def _is_exact(padding: Scalar | None) -> bool:
    """Returns whether arithmetic on a number does not round, so that its result does not depend on the compiler."""
    if padding is None:
        return False
    return bool(np.isinf(padding)) or (abs(float(padding)) < 2**20 and float(padding).is_integer())


def identity(operation: Operation) -> list[AbstractValue]:
    """Returns the descriptions of the inputs."""
    return operation.values


def broadcast(operation: Operation) -> list[AbstractValue]:
    """Describes `broadcast_in_dim`, which adds axes and repeats axes of size 1."""
    operand, out = operation.inputs[0], operation.outputs[0]
    if len(operation.inputs) > 1:
        raise NoRule
    if isinstance(operand.value, RowWise):
        axis = operation.axis(operand)
        index = operation.params["broadcast_dimensions"][axis.index]
        return [row_wise_at(axis, index, out.shape, operand.value.padding)]
    if isinstance(operand.value, Tainted):
        raise NoRule
    if out.shape == out.short_shape:
        return [Clean(operand.value.constant)]
    return [_constant_along_batch(operation, out, operand.value.constant)]


def _constant_along_batch(operation: Operation, out: Operand, padding: Scalar | None = None) -> RowWise:
    """Describes an array that is constant along its batch axis."""
    k = axis_of_unequal_size(out.shape, out.short_shape)
    rows, short_rows = operation.batch_sizes
    if out.shape[k] % rows or out.shape[k] // rows * short_rows != out.short_shape[k]:
        raise NoRule
    return RowWise(math.prod(out.shape[:k]) if out.shape[k] == rows else None, padding)


def iota(operation: Operation) -> list[AbstractValue]:
    """Describes numbers that count along an axis; along the batch axis, the examples have the same numbers."""
    out = operation.outputs[0]
    if out.shape == out.short_shape:
        return [Clean()]
    k = axis_of_unequal_size(out.shape, out.short_shape)
    if k != operation.params["dimension"]:
        return [_constant_along_batch(operation, out)]
    return [RowWise(math.prod(out.shape[:k])) if out.shape[k] == operation.batch_sizes[0] else TAINTED]


def random_bits(operation: Operation) -> list[AbstractValue]:
    """Describes random numbers.

    Each number is a function of the key and of the number's flat index. If the batch axis is the first one, the padded
    program therefore appends rows and does not change the others.
    """
    key, out = operation.inputs[0], operation.outputs[0]
    if not isinstance(key.value, Clean) or key.shape:
        raise NoRule
    if out.shape == out.short_shape:
        return [Clean()]
    partitionable = jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
    if not partitionable or key.dtype != jax.random.key(0, impl="threefry2x32").dtype:
        raise NoRule
    k = axis_of_unequal_size(out.shape, out.short_shape)
    if math.prod(out.shape[:k]) != 1:
        raise NoRule
    return [RowWise(1)]


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(("optimization_barrier", "sharding_constraint"), identity),
    "broadcast_in_dim": broadcast,
    "iota": iota,
    "random_bits": random_bits,
}
