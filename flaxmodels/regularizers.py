"""Weight penalties with Keras' names and arguments: frozen dataclasses that map an array to a scalar.

bfloat16 and float16 arrays are summed in float32, and their penalty has dtype float32.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.configured import Configured
from flaxmodels.names import lookup

EPSILON = 1e-7  # Keras' `config.epsilon()`


@dataclass(frozen=True, eq=False)
class Regularizer(Configured):
    """Base class of regularizers, whose penalty is 0; a subclass overrides `__call__`.

    Example:
        >>> class Mean(Regularizer):
        ...     def __call__(self, x):
        ...         return jnp.mean(jnp.abs(x))
        >>> float(Mean()(jnp.array([1.0, -3.0])))
        2.0
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the penalty of x, a scalar."""
        return jnp.zeros((), _to_float32(x).dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor.

        Raises:
            NotImplementedError: If a custom class does not override this method.
        """
        if "__dataclass_fields__" not in vars(type(self)):
            raise NotImplementedError(
                f"{type(self).__name__} must define get_config to be described, got a class without it; return the "
                "arguments of its constructor there."
            )
        return super().get_config()


# What a `..._regularizer` argument accepts: a name, an instance, a class, or a function x -> scalar.
RegularizerLike = str | Callable[[jax.Array], jax.Array] | type[Regularizer] | None


@dataclass(frozen=True)
class L1L2(Regularizer):
    """Penalizes absolute values and squares: l1 sum |x| + l2 sum x^2.

    Args:
        l1: Factor of the sum of absolute values; None means 0.
        l2: Factor of the sum of squares; None means 0.

    Shapes: any -> [].

    Raises:
        ValueError: If a factor is not a finite number of at least 0.

    References:
        Keras, `keras.regularizers.L1L2`.

    Example:
        >>> float(L1L2(l1=0.5, l2=2.0)(jnp.array([3.0, -1.0])))
        22.0
    """

    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        _check_and_normalize(self, "l1", default=0.0)
        _check_and_normalize(self, "l2", default=0.0)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = _to_float32(x)
        penalty = jnp.zeros((), x.dtype)
        if self.l1:
            penalty += self.l1 * jnp.sum(jnp.abs(x))
        if self.l2:
            penalty += self.l2 * jnp.sum(jnp.square(x))
        return penalty


@dataclass(frozen=True)
class L1(Regularizer):
    """Penalizes absolute values: l1 sum |x|.

    Args:
        l1: Factor of the sum; None means 0.01.

    Shapes: any -> [].

    Raises:
        ValueError: If the factor is not a finite number of at least 0.

    References:
        Keras, `keras.regularizers.L1`.

    Example:
        >>> float(L1(0.5)(jnp.array([3.0, -1.0])))
        2.0
    """

    l1: float = 0.01

    def __post_init__(self) -> None:
        _check_and_normalize(self, "l1", default=0.01)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.l1 * jnp.sum(jnp.abs(_to_float32(x)))


@dataclass(frozen=True)
class L2(Regularizer):
    """Penalizes squares: l2 sum x^2.

    Args:
        l2: Factor of the sum; None means 0.01.

    Shapes: any -> [].

    Raises:
        ValueError: If the factor is not a finite number of at least 0.

    References:
        Keras, `keras.regularizers.L2`.

    Example:
        >>> float(L2(0.5)(jnp.array([3.0, -1.0])))
        5.0
    """

    l2: float = 0.01

    def __post_init__(self) -> None:
        _check_and_normalize(self, "l2", default=0.01)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.l2 * jnp.sum(jnp.square(_to_float32(x)))


@dataclass(frozen=True)
class OrthogonalRegularizer(Regularizer):
    """Penalizes vectors that are not orthogonal: factor times the mean |cosine| over all pairs of rows or columns.

    A row of zeros has cosine 0 with every other row and gradient 0, and the penalty of a single row is 0. Keras returns
    NaN in both cases.

    Args:
        factor: Factor of the mean.
        mode: "rows" or "columns", the vectors that are compared.

    Shapes: x [N, M] -> [].

    Raises:
        ValueError: If the factor is not a finite number of at least 0, the mode is unknown, or x is not a matrix.

    References:
        Keras, `keras.regularizers.OrthogonalRegularizer`.

    Example:
        >>> OrthogonalRegularizer(factor=3.0)(jnp.array([[2.0, 0.0], [5.0, 0.0], [0.0, 3.0]])).round(4)
        Array(1., dtype=float32)
    """

    factor: float = 0.01
    mode: str = "rows"

    def __post_init__(self) -> None:
        _check_and_normalize(self, "factor")
        if self.mode not in ("rows", "columns"):
            raise ValueError(
                f'`mode` of OrthogonalRegularizer must be "rows" or "columns", got {self.mode!r}; choose one.'
            )

    def __call__(self, x: jax.Array) -> jax.Array:
        if x.ndim != 2:
            raise ValueError(
                "OrthogonalRegularizer compares rows or columns of a matrix, "
                f"got shape {x.shape}; use it on weights of rank 2."
            )
        rows = _to_float32(x) if self.mode == "rows" else _to_float32(x).T
        square = jnp.sum(jnp.square(rows), axis=1, keepdims=True)
        positive = square > 0  # the derivative of 1 / sqrt at 0 is infinite, so 0 must not reach it
        inverse = jax.lax.rsqrt(jnp.where(positive, square, 1))
        unit = rows * jnp.where(positive, jnp.minimum(inverse, 1 / EPSILON), 0)
        n = len(rows)
        cosines = (unit @ unit.T) * (1 - jnp.eye(n, dtype=unit.dtype))
        pairs = max(n * (n - 1) / 2, 1)
        return self.factor * 0.5 * jnp.sum(jnp.abs(cosines)) / pairs


def _check_and_normalize(regularizer: Regularizer, name: str, default: float | None = None) -> None:
    """Checks the field `name` and stores it as a float, so that equal regularizers have equal hashes."""
    value = getattr(regularizer, name)
    value = default if value is None else value
    if not (isinstance(value, (int, float, np.number)) and math.isfinite(value) and value >= 0):
        raise ValueError(
            f"`{name}` of {type(regularizer).__name__} must be a finite number that is not negative, "
            f"got {value!r}; use 0 for no penalty."
        )
    object.__setattr__(regularizer, name, float(value))


def _to_float32(x: jax.Array) -> jax.Array:
    """Returns x as float32, or unchanged if it is float64."""
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


def get(regularizer: RegularizerLike) -> Callable[[jax.Array], jax.Array] | None:
    """Returns the regularizer for a layer's `..._regularizer` argument.

    Args:
        regularizer: A name in `REGULARIZERS` or a class, which is called without arguments; an instance or
            any function w -> scalar, which is returned as is; or None.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If the argument is neither a name, a callable nor None.

    Example:
        >>> get("l2"), get(L1), get(None)
        (L2(l2=0.01), L1(l1=0.01), None)
    """
    if regularizer is None:
        return None
    if isinstance(regularizer, str):
        return lookup("regularizer", regularizer, REGULARIZERS, "Or pass a function w -> scalar.")()
    resolved = regularizer() if isinstance(regularizer, type) else regularizer
    if callable(resolved):
        return resolved
    raise TypeError(f'A regularizer must be a name, a function or None, got {regularizer!r}; pass a name such as "l2".')
