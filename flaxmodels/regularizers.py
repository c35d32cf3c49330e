"""Penalties on weights by Keras' names and arguments: frozen dataclasses that map an array to a scalar.

bfloat16 and float16 arrays are summed in float32, and their penalty is a float32.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.names import lookup

EPSILON = 1e-7  # Keras' `config.epsilon()`


@dataclass(frozen=True, eq=False)
class Regularizer:
    """The base class: no penalty. A subclass overrides `__call__`."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.zeros((), _widened(x).dtype)


@dataclass(frozen=True)
class L1L2(Regularizer):
    """l1 sum |x| + l2 sum x^2.

    Args:
        l1: The factor of the absolute values; None means 0.
        l2: The factor of the squares; None means 0.

    Shapes: any -> [].

    Raises:
        ValueError: If a factor is not a non-negative number.

    Example:
        >>> float(L1L2(l1=0.5, l2=2.0)(jnp.array([3.0, -1.0])))
        22.0
    """

    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        _settle_factor(self, "l1", default=0.0)
        _settle_factor(self, "l2", default=0.0)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = _widened(x)
        penalty = jnp.zeros((), x.dtype)
        if self.l1:
            penalty += self.l1 * jnp.sum(jnp.abs(x))
        if self.l2:
            penalty += self.l2 * jnp.sum(jnp.square(x))
        return penalty


@dataclass(frozen=True)
class L1(Regularizer):
    """l1 sum |x|.

    Args:
        l1: The factor; None means 0.01.

    Shapes: any -> [].

    Raises:
        ValueError: If the factor is not a non-negative number.
    """

    l1: float = 0.01

    def __post_init__(self) -> None:
        _settle_factor(self, "l1", default=0.01)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.l1 * jnp.sum(jnp.abs(_widened(x)))


@dataclass(frozen=True)
class L2(Regularizer):
    """l2 sum x^2.

    Args:
        l2: The factor; None means 0.01.

    Shapes: any -> [].

    Raises:
        ValueError: If the factor is not a non-negative number.
    """

    l2: float = 0.01

    def __post_init__(self) -> None:
        _settle_factor(self, "l2", default=0.01)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.l2 * jnp.sum(jnp.square(_widened(x)))


@dataclass(frozen=True)
class OrthogonalRegularizer(Regularizer):
    """factor times the mean |cosine| over all pairs of rows, or of columns.

    A row of zeros has a cosine of 0 with every other and a gradient of 0, and a single row has no penalty; Keras'
    are NaN there.

    Args:
        factor: The factor of the mean.
        mode: "rows" or "columns": what should be orthogonal to each other.

    Shapes: x [N, M] -> [].

    Raises:
        ValueError: If the factor is not a non-negative number, the mode is unknown or x is not a matrix.

    Example:
        >>> OrthogonalRegularizer(factor=3.0)(jnp.array([[2.0, 0.0], [5.0, 0.0], [0.0, 3.0]])).round(4)
        Array(1., dtype=float32)
    """

    factor: float = 0.01
    mode: str = "rows"

    def __post_init__(self) -> None:
        _settle_factor(self, "factor")
        if self.mode not in ("rows", "columns"):
            raise ValueError(
                f'`mode` of OrthogonalRegularizer must be "rows" or "columns", but {self.mode!r} came; choose one.'
            )

    def __call__(self, x: jax.Array) -> jax.Array:
        if x.ndim != 2:
            raise ValueError(
                "OrthogonalRegularizer compares rows or columns of a matrix, "
                f"but the shape {x.shape} came; use it on weights of rank 2."
            )
        rows = _widened(x) if self.mode == "rows" else _widened(x).T
        square = jnp.sum(jnp.square(rows), axis=1, keepdims=True)
        positive = square > 0  # the derivatives at zero are infinite, so zeros must not reach them
        inverse = jax.lax.rsqrt(jnp.where(positive, square, 1))
        unit = rows * jnp.where(positive, jnp.minimum(inverse, 1 / EPSILON), 0)
        n = len(rows)
        cosines = (unit @ unit.T) * (1 - jnp.eye(n, dtype=unit.dtype))
        pairs = max(n * (n - 1) / 2, 1)
        return self.factor * 0.5 * jnp.sum(jnp.abs(cosines)) / pairs


def _settle_factor(regularizer: Regularizer, name: str, default: float | None = None) -> None:
    """Checks the field `name` and stores it as a float, so that equal penalties are equal and hash alike."""
    value: Any = getattr(regularizer, name)
    value = default if value is None else value
    number = isinstance(value, (int, float, np.number)) and math.isfinite(value) and value >= 0
    if not number:
        raise ValueError(
            f"`{name}` of {type(regularizer).__name__} must be a finite number that is not negative, "
            f"but {value!r} came; use 0 for no penalty."
        )
    object.__setattr__(regularizer, name, float(value))


def _widened(x: jax.Array) -> jax.Array:
    """x in float32, or in float64 where it is."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


# --- names

l1 = L1
l2 = L2
l1_l2 = L1L2
orthogonal_regularizer = OrthogonalRegularizer

REGULARIZERS: dict[str, type[Regularizer]] = {
    "L1": L1,
    "L1L2": L1L2,
    "L2": L2,
    "OrthogonalRegularizer": OrthogonalRegularizer,
    "Regularizer": Regularizer,
    "l1": L1,
    "l1_l2": L1L2,
    "l1l2": L1L2,
    "l2": L2,
    "orthogonal_regularizer": OrthogonalRegularizer,
    "regularizer": Regularizer,
}


def get(regularizer: str | Callable | None) -> Callable[[jax.Array], jax.Array] | None:
    """The penalty that a layer's argument means.

    Args:
        regularizer: A name in `REGULARIZERS` or a class, for its default arguments; an instance or any
            function w -> scalar; or None.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it is neither a name nor callable.

    Example:
        >>> get("l2"), get(L1), get(None)
        (L2(l2=0.01), L1(l1=0.01), None)
    """
    if regularizer is None:
        return None
    if isinstance(regularizer, str):
        return lookup("regularizer", regularizer, REGULARIZERS, "Or pass a function w -> scalar.")()
    found = regularizer() if isinstance(regularizer, type) else regularizer
    if callable(found):
        return found
    raise TypeError(
        f'A regularizer must be a name, a function or None, but {regularizer!r} came; pass a name such as "l2".'
    )
