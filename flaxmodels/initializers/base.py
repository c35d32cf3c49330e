"""The base class of initializers, and the checks of their arguments."""

import abc
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flaxmodels.configured import Configured

Shape = Sequence[int]


@dataclass(frozen=True, eq=False)
class Initializer(Configured, abc.ABC):
    """Base class of initializers; a subclass implements `__call__`.

    Example:
        >>> class Twos(Initializer):
        ...     def __call__(self, key, shape, dtype=jnp.float32):
        ...         return jnp.full(shape, 2, dtype)
        >>> Twos()(jax.random.key(0), (2,)).tolist()
        [2.0, 2.0]
    """

    @abc.abstractmethod
    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Returns an array of the given shape and dtype; `key` is the source of randomness."""


# What an `..._initializer` argument accepts: a name, an instance, a class, or a function (key, shape, dtype) -> array.
InitializerLike = str | Callable[..., jax.Array] | type[Initializer] | None


@dataclass(frozen=True)
class _KeyFirst:
    """An initializer that takes (shape, dtype), called as (key, shape, dtype)."""

    initializer: Callable[..., jax.Array]

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jnp.asarray(self.initializer(shape, dtype=jnp.dtype(dtype).name)).astype(dtype)


def key_first(initializer: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns an initializer that is called as (key, shape, dtype).

    Args:
        initializer: A function or an object with this signature, or with Keras' (shape, dtype).

    References:
        Keras, `keras.initializers.Initializer`.

    Example:
        >>> ramp = key_first(lambda shape, dtype=None: jnp.arange(shape[0], dtype=dtype))
        >>> ramp(jax.random.key(0), (3,), jnp.float32).tolist()
        [0.0, 1.0, 2.0]
    """
    try:
        first = next(iter(inspect.signature(initializer).parameters), None)
    except (TypeError, ValueError):  # some callables written in C have no signature
        return initializer
    return _KeyFirst(initializer) if first == "shape" else initializer


def check_and_normalize(initializer: Initializer, *numbers: str) -> None:
    """Checks the fields and stores them in a canonical form, so that equal initializers have equal hashes."""
    kind = type(initializer).__name__
    for name in numbers:
        value = getattr(initializer, name)
        if not (isinstance(value, (int, float, np.number)) and math.isfinite(value)):
            raise ValueError(f"`{name}` of {kind} must be a finite number, got {value!r}; pass, for example, 0.5.")
        if name == "stddev" and value < 0:
            raise ValueError(f"`stddev` of {kind} must not be negative, got {value!r}; pass {-value!r}.")
        object.__setattr__(initializer, name, float(value))
    seed = getattr(initializer, "seed", None)
    if seed is not None:
        if not (isinstance(seed, (int, np.integer)) and 0 <= seed < 2**32):
            raise ValueError(
                f"`seed` of {kind} must be an integer from 0 to 2**32 - 1 or None, got {seed!r}; pass, for example, 0."
            )
        object.__setattr__(initializer, "seed", int(seed))
    axes = [name for name in ("input_axes", "output_axes") if getattr(initializer, name, None) is not None]
    if len(axes) == 1:
        raise ValueError(
            f"`input_axes` and `output_axes` of {kind} must be given together, got only `{axes[0]}`; "
            "pass both or neither."
        )
    for name in axes:
        object.__setattr__(initializer, name, tuple(int(axis) for axis in getattr(initializer, name)))


def check_choice(initializer: Initializer, name: str, choices: tuple[str | None, ...]) -> None:
    """Raises unless the field `name` has one of the values `choices`."""
    if getattr(initializer, name) not in choices:
        raise ValueError(
            f"`{name}` of {type(initializer).__name__} must be {' or '.join(map(repr, choices))}, "
            f"got {getattr(initializer, name)!r}; choose one."
        )


def sampling_dtype(dtype: DTypeLike) -> np.dtype:
    """Returns the dtype in which values of `dtype` are drawn: at least float32."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"A random or computed weight must have a floating-point dtype, got {jnp.dtype(dtype).name}; "
            "pass, for example, float32."
        )
    return np.promote_types(jnp.dtype(dtype), np.float32)
