"""Rules of operations number by number, and of those that make arrays."""

import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from training.padding.values import (
    MIXED,
    Mixed,
    Operand,
    Operation,
    Rows,
    Same,
    Unknown,
    Value,
    differing_axis,
    fill_of,
    placed,
)

ELEMENTWISE = """
abs acos acosh add and asin asinh atan atan2 atanh bessel_i0e bessel_i1e bitcast_convert_type cbrt ceil clamp clz
complex conj convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt
igamma igammac imag integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to max min mul name ne neg nextafter
not or polygamma population_count pow real reduce_precision regularized_incomplete_beta rem round rsqrt
select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor
zeta
""".split()

# Functions that compute the fill of an output; of other operations the fill is not known.
FOLDS: dict[str, Callable[..., Any]] = {
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


def elementwise(operation: Operation) -> list[Value]:
    """Operations number by number, on arrays of one shape up to axes of size 1."""
    if any(isinstance(value, Mixed) for value in operation.values):
        raise Unknown
    fill = _folded(operation)
    rows = [operand for operand in operation.inputs if isinstance(operand.value, Rows)]
    if not rows:
        return [Same(fill)]
    out = operation.outputs[0]
    if all(operand.shape == out.shape for operand in rows):  # the batch may extend over two axes
        definite = {operand.value.before for operand in rows if operand.value.before is not None}  # type: ignore[union-attr]
        if len(definite) > 1:
            raise Unknown
        return [Rows(definite.pop() if definite else None, fill)]
    axis = operation.common_axis(rows)
    return [placed(axis, axis.number, out.shape, fill)]


def _folded(operation: Operation) -> Any:
    """The fill of the output, None if it is unknown."""
    name, fills = operation.name, [fill_of(value) for value in operation.values]
    first, *others = fills
    if name == "select_n":
        if first is not None:
            return others[int(first)]
        return others[0] if all(is_number(fill, others[0]) for fill in others) else None
    if name == "convert_element_type":
        return None if first is None else np.asarray(first).astype(operation.params["new_dtype"])[()]
    if name in FOLDS and all(map(_is_exact, fills)):
        return np.asarray(FOLDS[name](*fills))[()]
    # Padding rows repeat a row of their batch, so that they are not finite only where an example is not.
    if name in ("mul", "and"):
        return next((fill for fill in fills if is_number(fill, 0)), None)
    if name == "or":
        return next((fill for fill in fills if isinstance(fill, np.bool_) and fill), None)
    if name == "div" and is_number(first, 0) and others[0] is not None and others[0] != 0:
        return first
    if name in ("sqrt", "sign") or (name == "integer_pow" and operation.params["y"] > 0):
        return first if is_number(first, 0) else None
    return None


def is_number(fill: Any, number: Any) -> bool:
    """Whether a fill is known to be this number."""
    return fill is not None and number is not None and bool(fill == number)


def _is_exact(fill: Any) -> bool:
    """Whether arithmetic on a fill does not round, so that compilers can't give another number."""
    return fill is not None and (np.isinf(fill) or (abs(float(fill)) < 2**20 and float(fill).is_integer()))


def unchanged(operation: Operation) -> list[Value]:
    """Each output is an input."""
    return operation.values


def broadcast(operation: Operation) -> list[Value]:
    """`broadcast_in_dim`: axes are added, and axes of size 1 repeated."""
    operand, out = operation.inputs[0], operation.outputs[0]
    if len(operation.inputs) > 1:
        raise Unknown
    if isinstance(operand.value, Rows):
        axis = operation.axis(operand)
        return [placed(axis, operation.params["broadcast_dimensions"][axis.number], out.shape, operand.value.fill)]
    if isinstance(operand.value, Mixed):
        raise Unknown
    if out.shape == out.short:
        return [Same(operand.value.constant)]
    return [_along(operation, out, operand.value.constant)]


def _along(operation: Operation, out: Operand, fill: Any = None) -> Rows:
    """The description of an array whose one batch axis its values do not vary along."""
    k = differing_axis(out.shape, out.short)
    rows, fewer = operation.sizes
    if out.shape[k] % rows or out.shape[k] // rows * fewer != out.short[k]:
        raise Unknown
    return Rows(math.prod(out.shape[:k]) if out.shape[k] == rows else None, fill)


def iota(operation: Operation) -> list[Value]:
    """Numbers that count along one axis; along the batch axis the first ones are those of the examples."""
    out = operation.outputs[0]
    if out.shape == out.short:
        return [Same()]
    k = differing_axis(out.shape, out.short)
    if k != operation.params["dimension"]:
        return [_along(operation, out)]
    return [Rows(math.prod(out.shape[:k])) if out.shape[k] == operation.sizes[0] else MIXED]


def random_bits(operation: Operation) -> list[Value]:
    """Random numbers; each is a function of the key and its flat index, so a leading batch axis only appends rows."""
    key, out = operation.inputs[0], operation.outputs[0]
    if not isinstance(key.value, Same) or key.shape:
        raise Unknown
    if out.shape == out.short:
        return [Same()]
    partitionable = jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
    if not partitionable or key.dtype != jax.random.key(0, impl="threefry2x32").dtype:
        raise Unknown
    k = differing_axis(out.shape, out.short)
    if math.prod(out.shape[:k]) != 1:
        raise Unknown
    return [Rows(1)]


RULES: dict[str, Callable[[Operation], list[Value]]] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(("optimization_barrier", "sharding_constraint"), unchanged),
    "broadcast_in_dim": broadcast,
    "iota": iota,
    "random_bits": random_bits,
}
