"""The lattice of abstract values, and the operations that transfer rules receive."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

Shape = tuple[int, ...]
Scalar = np.number[Any] | np.bool_
Program = Jaxpr | ClosedJaxpr
Params = dict[str, Any]


class Clean(NamedTuple):
    """A value that is equal in both programs; `constant` is the number, if it is a known scalar."""

    constant: Scalar | None = None


class RowWise(NamedTuple):
    """A value whose example rows are equal in both programs; in the padded program it also has padding rows.

    Attributes:
        outer_size: The number of elements along the axes before the batch: a flat index into the value is
            (outer index, row, inner index). A reshape does not change it. None if the value is constant along
            the batch axis.
        padding: The number in all padding rows, or None if it is unknown.
    """

    outer_size: int | None = 1
    padding: Scalar | None = None


class Tainted(NamedTuple):
    """A value about which nothing is known, the top of the lattice."""


TAINTED = Tainted()
AbstractValue = Clean | RowWise | Tainted


class NoRule(Exception):  # noqa: N818 - control flow of the rules
    """Raised by a rule that cannot describe the outputs of an operation."""


class BatchAxis(NamedTuple):
    """The axis that contains the batch.

    Attributes:
        index: Index of the axis.
        outer: The size of the axis is outer * rows * inner; None if the value is constant along the axis.
        inner: See `outer`.
    """

    index: int  # type: ignore[assignment]
    outer: int | None
    inner: int | None


class Operand(NamedTuple):
    """A value with its dtype and its shape in the padded and in the short program."""

    value: AbstractValue
    dtype: object  # a NumPy dtype, the dtype of random keys, or None
    shape: Shape
    short_shape: Shape


class Operation(NamedTuple):
    """An operation that occurs in both programs.

    Attributes:
        name: The name of the primitive.
        params: The primitive's parameters in the padded program.
        short_params: The primitive's parameters in the short program.
        inputs: The inputs.
        outputs: The outputs, not described yet.
        batch_sizes: The number of rows of the padded and of the short batch.
        interpret: Describes the outputs of two inner programs: (program, program, values) -> values.
    """

    name: str
    params: Params
    short_params: Params
    inputs: list[Operand]
    outputs: list[Operand]
    batch_sizes: tuple[int, int]
    interpret: Callable[[Program, Program, Sequence[AbstractValue]], list[AbstractValue]]

    @property
    def values(self) -> list[AbstractValue]:
        """The descriptions of the inputs."""
        return [operand.value for operand in self.inputs]

    def axis(self, operand: Operand) -> BatchAxis:
        """Returns the batch axis of a row-wise value.

        Raises:
            NoRule: If there is none, or the batch extends over two axes.
        """
        value, _, shape, short_shape = operand
        if not isinstance(value, RowWise):
            raise NoRule
        k = axis_of_unequal_size(shape, short_shape)
        if value.outer_size is None:
            return BatchAxis(k, None, None)
        (rows, short_rows), leading = self.batch_sizes, math.prod(shape[:k])
        outer = value.outer_size // leading
        inner = shape[k] // (outer * rows) if outer else 0
        sizes = (outer * rows * inner, outer * short_rows * inner)
        if value.outer_size % leading or sizes != (shape[k], short_shape[k]):
            raise NoRule
        return BatchAxis(k, outer, inner)

    def common_axis(self, operands: Sequence[Operand]) -> BatchAxis:
        """Returns the batch axis that several values of the same rank share.

        Raises:
            NoRule: If their batch axes differ.
        """
        axes = {self.axis(operand) for operand in operands}
        if len({axis.index for axis in axes}) != 1:
            raise NoRule
        return common_layout(*axes)

    @property
    def is_clean(self) -> bool:
        """Whether all inputs are equal in both programs."""
        return all(isinstance(value, Clean) for value in self.values)

    def has_equal_params(self, *ignored: str) -> bool:
        """Returns whether the parameters are equal in both programs, except for the ignored ones."""
        names = [name for name in self.params if name not in ignored]
        return all(_are_equal(self.params[name], self.short_params.get(name)) for name in names)


Rule = Callable[[Operation], list[AbstractValue]]


def axis_of_unequal_size(shape: Shape, short_shape: Shape) -> int:
    """Returns the one axis whose sizes differ.

    Raises:
        NoRule: If there is not exactly one.
    """
    differing = [k for k, (n, m) in enumerate(zip(shape, short_shape, strict=True)) if n != m]
    if len(differing) != 1:
        raise NoRule
    return differing[0]


def common_layout(*axes: BatchAxis) -> BatchAxis:
    """Returns the division into outer, rows and inner that several values share, with the index of the first axis.

    Raises:
        NoRule: If the divisions differ.
    """
    known = {(axis.outer, axis.inner) for axis in axes if axis.outer is not None}
    if len(known) > 1:
        raise NoRule
    return BatchAxis(axes[0].index, *(known.pop() if known else (None, None)))


def row_wise_at(axis: BatchAxis, index: int, shape: Shape, padding: Scalar | None = None) -> RowWise:
    """Describes an array of this shape whose batch axis has this index and is divided like `axis`."""
    return RowWise(None if axis.outer is None else math.prod(shape[:index]) * axis.outer, padding)


def padding_value(value: AbstractValue) -> Scalar | None:
    """Returns the number that a value has in all padding rows, or None if it is unknown."""
    return value.padding if isinstance(value, RowWise) else value.constant if isinstance(value, Clean) else None


def default_rule(operation: Operation) -> list[AbstractValue]:
    """Describes the outputs of any operation: equal inputs and parameters give equal outputs.

    Raises:
        NoRule: If inputs or parameters differ.
    """
    if operation.is_clean and operation.has_equal_params():
        return [Clean()] * len(operation.outputs)
    raise NoRule


def _are_equal(value: object, other: object) -> bool:
    """Compares parameters of primitives; programs and sequences are compared by their text."""
    if value is other:
        return True
    if hasattr(value, "eqns") or hasattr(value, "jaxpr") or isinstance(value, tuple | list):
        return str(value) == str(other)
    return bool(np.all(value == other))
