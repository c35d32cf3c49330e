"""Weight constraints with Keras' names and arguments: frozen dataclasses that project an array onto a set.

Norms are taken along `axis`, which should span the weights that enter one unit: axis 0 for the kernel of `Dense`,
axes (0, 1, 2) for the kernel of `Conv2D`. The gradient at a vector of zeros is finite, whereas Keras' is NaN.
bfloat16 and float16 arrays are computed in float32 and cast back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.configured import Configured
from flaxmodels.names import lookup

EPSILON = 1e-7  # Keras' `config.epsilon()`

Axis = int | Sequence[int] | None


@dataclass(frozen=True, eq=False)
class Constraint(Configured):
    """Base class of constraints, which returns weights unchanged; a subclass overrides `__call__`.

    Example:
        >>> class AtMostOne(Constraint):
        ...     def __call__(self, w):
        ...         return jnp.minimum(w, 1)
        >>> AtMostOne()(jnp.array([0.5, 3.0])).tolist()
        [0.5, 1.0]
    """

    def __call__(self, w: jax.Array) -> jax.Array:
        """Returns the constrained weight, an array of the shape and dtype of w."""
        return w


# What a `..._constraint` argument accepts: a name, an instance, a class, or a function w -> w.
ConstraintLike = str | Callable[[jax.Array], jax.Array] | type[Constraint] | None


@dataclass(frozen=True)
class MaxNorm(Constraint):
    """Rescales vectors whose norm exceeds `max_value` to that norm.

    w min(norm, max_value) / (norm + 1e-7)

    Args:
        max_value: Largest norm.
        axis: Axis or axes along which the norm is taken; None for all.

    Shapes: any -> the same.

    Raises:
        ValueError: If `max_value` is negative or not a number.

    References:
        Keras, `keras.constraints.MaxNorm`.

    Example:
        >>> w = MaxNorm(max_value=1)(jnp.array([[3.0, 0.0], [4.0, 0.5]]))
        >>> print(jnp.linalg.norm(w, axis=0).round(4))
        [1. 0.5]
    """

    max_value: float = 2.0
    axis: Axis = 0

    def __post_init__(self) -> None:
        _check_and_normalize(self, "max_value")

    def __call__(self, w: jax.Array) -> jax.Array:
        w = jnp.asarray(w)
        norm, w_f32 = _norm(w, self.axis)
        return (w_f32 * (jnp.clip(norm, 0, self.max_value) / (EPSILON + norm))).astype(w.dtype)


@dataclass(frozen=True)
class NonNeg(Constraint):
    """Replaces negative weights by 0: max(w, 0).

    References:
        Keras, `keras.constraints.NonNeg`.
    """

    def __call__(self, w: jax.Array) -> jax.Array:
        return jnp.maximum(jnp.asarray(w), 0)


@dataclass(frozen=True)
class UnitNorm(Constraint):
    """Rescales vectors to norm 1; vectors of zeros stay zero.

    w / (norm + 1e-7)

    Args:
        axis: Axis or axes along which the norm is taken; None for all.

    Shapes: any -> the same.

    References:
        Keras, `keras.constraints.UnitNorm`.

    Example:
        >>> UnitNorm()(jnp.array([[0.0, 0.5], [4.0, 0.0]])).round(4).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """

    axis: Axis = 0

    def __post_init__(self) -> None:
        _check_and_normalize(self)

    def __call__(self, w: jax.Array) -> jax.Array:
        w = jnp.asarray(w)
        norm, w_f32 = _norm(w, self.axis)
        return (w_f32 / (EPSILON + norm)).astype(w.dtype)


@dataclass(frozen=True)
class MinMaxNorm(Constraint):
    """Rescales vectors so that their norms move towards the interval from `min_value` to `max_value`.

    w (rate clip(norm, min_value, max_value) + (1 - rate) norm) / (norm + 1e-7)

    Args:
        min_value: Smallest norm.
        max_value: Largest norm.
        rate: Fraction of the distance that a norm outside the interval moves; 1 moves it into the interval at once.
        axis: Axis or axes along which the norm is taken; None for all.

    Shapes: any -> the same.

    Raises:
        ValueError: If a bound is negative, `min_value` exceeds `max_value`, or the rate is not in [0, 1].

    References:
        Keras, `keras.constraints.MinMaxNorm`.

    Example:
        >>> MinMaxNorm(0.5, 2.0, rate=0.5)(jnp.array([[4.0], [0.0]])).round(4).tolist()
        [[3.0], [0.0]]
    """

    min_value: float = 0.0
    max_value: float = 1.0
    rate: float = 1.0
    axis: Axis = 0

    def __post_init__(self) -> None:
        _check_and_normalize(self, "min_value", "max_value", "rate")
        if self.min_value > self.max_value:
            raise ValueError(
                f"`min_value`={self.min_value} of MinMaxNorm must not exceed `max_value`={self.max_value}; swap them."
            )
        if self.rate > 1:
            raise ValueError(f"`rate` of MinMaxNorm must be in [0, 1], got {self.rate}; use 1 for the full correction.")

    def __call__(self, w: jax.Array) -> jax.Array:
        w = jnp.asarray(w)
        norm, w_f32 = _norm(w, self.axis)
        desired = self.rate * jnp.clip(norm, self.min_value, self.max_value) + (1 - self.rate) * norm
        return (w_f32 * (desired / (EPSILON + norm))).astype(w.dtype)


def _norm(w: jax.Array, axis: Axis) -> tuple[jax.Array, jax.Array]:
    """Returns the Euclidean norms of w along `axis`, with reduced axes of size 1, and w in at least float32."""
    w_f32 = w.astype(np.promote_types(w.dtype, np.float32))
    axes = tuple(axis) if isinstance(axis, Sequence) else axis
    square = jnp.sum(jnp.square(w_f32), axis=axes, keepdims=True)
    positive = square > 0  # the derivative of the square root at 0 is infinite, so 0 must not reach it
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0), w_f32


def _check_and_normalize(constraint: Constraint, *numbers: str) -> None:
    """Checks the fields named in `numbers`, and makes all fields canonical, so that equal constraints hash equally."""
    for name in numbers:
        value = getattr(constraint, name)
        if not (isinstance(value, (int, float, np.number)) and value >= 0):
            raise ValueError(
                f"`{name}` of {type(constraint).__name__} must be a number that is not negative, "
                f"got {value!r}; use 0 or more."
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


def get(constraint: ConstraintLike) -> Callable[[jax.Array], jax.Array] | None:
    """Returns the constraint for a layer's `..._constraint` argument.

    Args:
        constraint: A name in `CONSTRAINTS` or a class, which is called without arguments; an instance or
            any function w -> w, which is returned as is; or None.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If the argument is neither a name, a callable nor None.

    Example:
        >>> get("unit_norm"), get(NonNeg), get(None)
        (UnitNorm(axis=0), NonNeg(), None)
    """
    if constraint is None:
        return None
    if isinstance(constraint, str):
        return lookup("constraint", constraint, CONSTRAINTS, "Or pass a function w -> w.")()
    resolved = constraint() if isinstance(constraint, type) else constraint
    if callable(resolved):
        return resolved
    raise TypeError(
        f'A constraint must be a name, a function or None, got {constraint!r}; pass a name such as "max_norm".'
    )
