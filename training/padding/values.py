"""What is known of a value in a padded and in a short program, and where the batch is in it."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Same(NamedTuple):
    """A value that is equal in both programs; `constant` is its number if it is a known scalar."""

    constant: Any = None


class Rows(NamedTuple):
    """A value that is equal in the rows which are examples; the padded program has further rows.

    Attributes:
        before: A flat index into the value is (a, row, b) in mixed radix; `before` is the number of values of `a`. A
            reshape does not change it. None if the value is constant along the batch axis.
        fill: The number in all padding rows, None if it is unknown.
    """

    before: int | None = 1
    fill: Any = None


class Mixed(NamedTuple):
    """A value about which nothing is known."""


MIXED = Mixed()
Value = Same | Rows | Mixed


class Unknown(Exception):  # noqa: N818 - control flow among rules
    """No rule describes the outputs of an operation."""


class Axis(NamedTuple):
    """Where the batch is: axis `number` has the size outer * rows * inner, or the value is constant along it (None)."""

    number: int
    outer: int | None
    inner: int | None


class Operand(NamedTuple):
    """A value with its dtype and its shape in the padded and in the short program."""

    value: Value
    dtype: Any
    shape: Shape
    short: Shape


class Operation(NamedTuple):
    """An operation that occurs in both programs.

    Attributes:
        name: The name of its primitive.
        params: Its parameters in the padded program.
        short_params: Its parameters in the short program.
        inputs: The inputs.
        outputs: The outputs, not described yet.
        sizes: Rows of the padded and of the short batch.
        follow: Describes the outputs of two inner programs: (jaxpr, jaxpr, values) -> values.
    """

    name: str
    params: dict[str, Any]
    short_params: dict[str, Any]
    inputs: list[Operand]
    outputs: list[Operand]
    sizes: tuple[int, int]
    follow: Callable[[Any, Any, Sequence[Value]], list[Value]]

    @property
    def values(self) -> list[Value]:
        """The descriptions of the inputs."""
        return [operand.value for operand in self.inputs]

    def axis(self, operand: Operand) -> Axis:
        """The batch axis of a value; raises `Unknown` if there is none, or if the batch extends over two axes."""
        value, _, shape, short = operand
        if not isinstance(value, Rows):
            raise Unknown
        k = differing_axis(shape, short)
        if value.before is None:
            return Axis(k, None, None)
        (rows, fewer), ahead = self.sizes, math.prod(shape[:k])
        outer = value.before // ahead
        inner = shape[k] // (outer * rows) if outer else 0
        if value.before % ahead or outer * rows * inner != shape[k] or outer * fewer * inner != short[k]:
            raise Unknown
        return Axis(k, outer, inner)

    def common_axis(self, operands: Sequence[Operand]) -> Axis:
        """The batch axis that several values of one rank share."""
        axes = {self.axis(operand) for operand in operands}
        if len({axis.number for axis in axes}) != 1:
            raise Unknown
        return common(*axes)

    @property
    def is_same(self) -> bool:
        """Whether all inputs are equal in both programs."""
        return all(isinstance(value, Same) for value in self.values)

    def same_params(self, *but_for: str) -> bool:
        """Whether the parameters are equal in both programs, apart from some."""
        names = [name for name in self.params if name not in but_for]
        return all(_alike(self.params[name], self.short_params.get(name)) for name in names)


def differing_axis(shape: Shape, short: Shape) -> int:
    """The one axis whose sizes differ; raises `Unknown` if there is not exactly one."""
    differing = [k for k, (n, m) in enumerate(zip(shape, short, strict=True)) if n != m]
    if len(differing) != 1:
        raise Unknown
    return differing[0]


def common(*axes: Axis) -> Axis:
    """The division into outer, rows and inner that several values share, with the number of the first axis."""
    definite = {(axis.outer, axis.inner) for axis in axes if axis.outer is not None}
    if len(definite) > 1:
        raise Unknown
    return Axis(axes[0].number, *(definite.pop() if definite else (None, None)))


def placed(axis: Axis, index: int, shape: Shape, fill: Any = None) -> Rows:
    """The description of an array of this shape with the batch at axis `index`."""
    return Rows(None if axis.outer is None else math.prod(shape[:index]) * axis.outer, fill)


def _alike(value: Any, other: Any) -> bool:
    if value is other:
        return True
    if hasattr(value, "eqns") or hasattr(value, "jaxpr") or isinstance(value, tuple | list):
        return str(value) == str(other)
    return bool(np.all(value == other))


def fill_of(value: Value) -> Any:
    """The number that a value has in the padding rows, None if it is unknown."""
    return value.fill if isinstance(value, Rows) else value.constant if isinstance(value, Same) else None


def without_rule(operation: Operation) -> list[Value]:
    """Equal inputs and parameters give equal outputs."""
    if operation.is_same and operation.same_params():
        return [Same()] * len(operation.outputs)
    raise Unknown
