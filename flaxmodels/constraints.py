"""Constraints on weights by Keras' names and arguments: frozen dataclasses that project an array.

Norms are those of the vectors along `axis`, which should be the weights that enter one unit: axis 0 for the
kernel of `Dense`, axes (0, 1, 2) for that of `Conv2D`. The gradient at a vector of zeros is finite, where
Keras' is NaN. bfloat16 and float16 arrays are computed in float32 and cast back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.names import lookup

EPSILON = 1e-7  # Keras' `config.epsilon()`

Axis = int | Sequence[int] | None


@dataclass(frozen=True, eq=False)
class Constraint:
    """The base class: w as it is. A subclass overrides `__call__`."""

    def __call__(self, w: jax.Array) -> jax.Array:
        return w


@dataclass(frozen=True)
class MaxNorm(Constraint):
    """Shrinks vectors whose norm exceeds `max_value` to that norm.

    w min(norm, max_value) / (norm + 1e-7)

    Args:
        max_value: The largest norm.
        axis: The axis or axes along which a norm is taken; None for all.

    Shapes: any -> the same.

    Raises:
        ValueError: If `max_value` is negative or not a number.

    Example:
        >>> w = MaxNorm(max_value=1)(jnp.array([[3.0, 0.0], [4.0, 0.5]]))
        >>> print(jnp.linalg.norm(w, axis=0).round(4))
        [1. 0.5]
    """

    max_value: float = 2.0
    axis: Axis = 0

    def __post_init__(self) -> None:
        _settle(self, "max_value")

    def __call__(self, w: jax.Array) -> jax.Array:
        norm, wide = _norm(w, self.axis)
        return (wide * (jnp.clip(norm, 0, self.max_value) / (EPSILON + norm))).astype(w.dtype)


@dataclass(frozen=True)
class NonNeg(Constraint):
    """max(w, 0)."""

    def __call__(self, w: jax.Array) -> jax.Array:
        return jnp.maximum(w, 0)


@dataclass(frozen=True)
class UnitNorm(Constraint):
    """w / (norm + 1e-7): every vector that is not zero gets the norm 1.

    Args:
        axis: The axis or axes along which a norm is taken; None for all.

    Shapes: any -> the same.
    """

    axis: Axis = 0

    def __post_init__(self) -> None:
        _settle(self)

    def __call__(self, w: jax.Array) -> jax.Array:
        norm, wide = _norm(w, self.axis)
        return (wide / (EPSILON + norm)).astype(w.dtype)


@dataclass(frozen=True)
class MinMaxNorm(Constraint):
    """Moves norms towards the interval from `min_value` to `max_value`.

    w (rate clip(norm, min_value, max_value) + (1 - rate) norm) / (norm + 1e-7)

    Args:
        min_value: The smallest norm.
        max_value: The largest norm.
        rate: How far a norm outside moves at each application, 1 for all the way.
        axis: The axis or axes along which a norm is taken; None for all.

    Shapes: any -> the same.

    Raises:
        ValueError: If a bound is negative, the bounds are in the wrong order, or the rate is not in [0, 1].

    Example:
        >>> MinMaxNorm(0.5, 2.0, rate=0.5)(jnp.array([[4.0], [0.0]])).round(4).tolist()
        [[3.0], [0.0]]
    """

    min_value: float = 0.0
    max_value: float = 1.0
    rate: float = 1.0
    axis: Axis = 0

    def __post_init__(self) -> None:
        _settle(self, "min_value", "max_value", "rate")
        if self.min_value > self.max_value:
            raise ValueError(
                f"`min_value`={self.min_value} of MinMaxNorm must not exceed `max_value`={self.max_value}; swap them."
            )
        if self.rate > 1:
            raise ValueError(f"`rate` of MinMaxNorm must be in [0, 1], but {self.rate} came; use 1 for all the way.")

    def __call__(self, w: jax.Array) -> jax.Array:
        norm, wide = _norm(w, self.axis)
        desired = self.rate * jnp.clip(norm, self.min_value, self.max_value) + (1 - self.rate) * norm
        return (wide * (desired / (EPSILON + norm))).astype(w.dtype)


def _norm(w: jax.Array, axis: Axis) -> tuple[jax.Array, jax.Array]:
    """The Euclidean norms of w along `axis`, kept as dimensions, and w in the type they are computed in."""
    wide = w.astype(np.promote_types(w.dtype, np.float32))
    axes = tuple(axis) if isinstance(axis, Sequence) else axis
    square = jnp.sum(jnp.square(wide), axis=axes, keepdims=True)
    positive = square > 0  # the derivative of the root at zero is infinite, so zeros must not reach it
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0), wide


def _settle(constraint: Constraint, *numbers: str) -> None:
    """Checks the fields `numbers` and stores all fields in one form, so that equal constraints hash alike."""
    for name in numbers:
        value = getattr(constraint, name)
        if not (isinstance(value, (int, float, np.number)) and value >= 0):
            raise ValueError(
                f"`{name}` of {type(constraint).__name__} must be a number that is not negative, "
                f"but {value!r} came; norms are never negative."
            )
        object.__setattr__(constraint, name, float(value))
    axis = getattr(constraint, "axis", None)
    if isinstance(axis, Sequence):
        object.__setattr__(constraint, "axis", tuple(axis))


# --- names

max_norm = MaxNorm
min_max_norm = MinMaxNorm
non_neg = NonNeg
unit_norm = UnitNorm

CONSTRAINTS: dict[str, type[Constraint]] = {
    "Constraint": Constraint,
    "MaxNorm": MaxNorm,
    "MinMaxNorm": MinMaxNorm,
    "NonNeg": NonNeg,
    "UnitNorm": UnitNorm,
    "constraint": Constraint,
    "max_norm": MaxNorm,
    "min_max_norm": MinMaxNorm,
    "non_neg": NonNeg,
    "unit_norm": UnitNorm,
}


def get(constraint: str | Callable | None) -> Callable[[jax.Array], jax.Array] | None:
    """The constraint that a layer's argument means.

    Args:
        constraint: A name in `CONSTRAINTS` or a class, for its default arguments; an instance or any
            function w -> w; or None.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it is neither a name nor callable.

    Example:
        >>> get("unit_norm"), get(NonNeg), get(None)
        (UnitNorm(axis=0), NonNeg(), None)
    """
    if constraint is None:
        return None
    if isinstance(constraint, str):
        return lookup("constraint", constraint, CONSTRAINTS, "Or pass a function w -> w.")()
    found = constraint() if isinstance(constraint, type) else constraint
    if callable(found):
        return found
    raise TypeError(
        f'A constraint must be a name, a function or None, but {constraint!r} came; pass a name such as "max_norm".'
    )
