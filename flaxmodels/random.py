"""Keras' random functions, `keras.random`: their `seed` is an integer, a `SeedGenerator`, a JAX key or None.

An integer gives the same values at each call. A `SeedGenerator` gives new ones, and None uses a generator that all
calls share. A generator draws its key from one of two sources:

- Inside a layer that is being initialized or applied, from the layer's "dropout" stream. The values are then a function
  of the `rngs` of `init` or `apply`, as for `layers.Dropout`, and a compiled program draws new ones at each call.
- Otherwise from its seed and a counter, which increases with each draw. Compiled code outside of a layer is refused,
  because it would reuse the values of its first call. Inside a layer that is applied without a "dropout" stream, such
  as in inference, a compiled program does reuse them.
"""

import random as python_random
import threading
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from flaxmodels.layers.keras_state import CURRENT_LAYER
from flaxmodels.layers.symbolic import INFERRING
from flaxmodels.ops.arrays import Tensor, as_array, as_dtype

__all__ = [
    "SeedGenerator",
    "beta",
    "binomial",
    "categorical",
    "dropout",
    "gamma",
    "normal",
    "randint",
    "shuffle",
    "truncated_normal",
    "uniform",
]


class SeedGenerator:
    """Generates a new random key at each use as the `seed` of a random function.

    Args:
        seed: The first part of the keys; None to choose it randomly. Inside a layer that has a "dropout" stream, a seed
            is folded into the keys of the stream.
        name: A name for the user's own use.

    Raises:
        ValueError: If `seed` is neither an integer nor None.

    References:
        Keras, `keras.random.SeedGenerator`.

    Example:
        >>> generator = SeedGenerator(1)
        >>> a, b = normal((3,), seed=generator), normal((3,), seed=generator)
        >>> bool((a == b).any()), bool((a == normal((3,), seed=SeedGenerator(1))).all())
        (False, True)
    """

    def __init__(self, seed: int | None = None, name: str | None = None):
        if seed is not None and (not isinstance(seed, int | np.integer) or isinstance(seed, bool)):
            raise ValueError(f"`seed` of SeedGenerator must be an integer or None, got {seed!r}; give, for example, 1.")
        self.seed, self.name = seed, name or "seed_generator"
        self._state = _first_state(seed)

    @property
    def state(self) -> np.ndarray:
        """The seed and the counter, from which the next key is made."""
        return np.array(self._state, np.uint32)

    def next(self, ordered: bool = True) -> jax.Array:
        """Returns a new random key.

        Args:
            ordered: Whether the next key has the same seed and the next counter. Otherwise both numbers change, as for
                the generator that all calls share.

        Raises:
            ValueError: If compiled code outside of a layer would reuse the key.
        """
        if INFERRING.get():
            return _key(0, 0)
        stream = _layer_key()
        if stream is not None:
            return stream if self.seed is None else jax.random.fold_in(stream, int(self.seed) & 0xFFFFFFFF)
        with _lock:
            first, counter = self._state
            self._state = (first, counter + 1) if ordered else (_jump(first), _jump(counter))
        key = _key(first, counter)
        if isinstance(key, jax.core.Tracer) and CURRENT_LAYER.get() is None:
            with _lock:
                self._state = first, counter
            raise ValueError(
                "In compiled code outside of a layer, the `seed` of a random function must be an integer or a key, got "
                f"{'a SeedGenerator' if self is not _shared else None}, whose values the compiled program would reuse; "
                "pass a key as an argument of the compiled function, and give `seed=key`."
            )
        return key

    def get_config(self) -> dict[str, int | str | None]:
        """Returns the arguments."""
        return {"seed": self.seed, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SeedGenerator":
        """Makes a generator from its arguments."""
        return cls(**config)


Seed: TypeAlias = int | SeedGenerator | jax.Array | None
Shape: TypeAlias = Sequence[int]

# Draws for `seed=None`; None before its first draw.
_shared: SeedGenerator | None = None
_lock = threading.RLock()


def _first_state(seed: int | None) -> tuple[int, int]:
    return (python_random.randint(1, 10**9) if seed is None else int(seed) & 0xFFFFFFFF), 0


def _jump(number: int) -> int:
    """Returns the number after another one in Keras' sequence for draws without an order."""
    return ((number + 1) * 5387 & 0xFFFFFFFF) % 933199


def _shared_key() -> jax.Array:
    """Returns a new key for `seed=None`; as in Keras, the first draw outside of a layer chooses the seed."""
    global _shared
    if _shared is None:
        stream = _key(0, 0) if INFERRING.get() else _layer_key()
        if stream is not None:
            return stream
        with _lock:
            _shared = _shared or SeedGenerator()
    return _shared.next(ordered=False)


def set_shared_seed(seed: int | None) -> None:
    """Restarts the generator that draws for `seed=None`.

    Args:
        seed: Its seed; with None, Python's generator chooses it at the first draw.

    Example:
        >>> set_shared_seed(1)
        >>> a = normal((3,))
        >>> set_shared_seed(1)
        >>> bool((a == normal((3,))).all())
        True
    """
    global _shared
    _shared = None if seed is None else SeedGenerator(seed)


def draw_key(seed: Seed) -> jax.Array:
    """Returns the random key of the `seed` argument of a random function.

    Raises:
        ValueError: If the argument is none of an integer, a SeedGenerator, a key and None, or compiled code outside of
            a layer would reuse the key.
    """
    if seed is None:
        return _shared_key()
    if isinstance(seed, SeedGenerator):
        return seed.next()
    if isinstance(seed, jax.Array):
        return seed
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
        return _key(int(seed), 0)
    raise ValueError(
        f"`seed` must be an integer, a SeedGenerator, a JAX key or None, got {seed!r}; give, for example, 1."
    )


def _key(seed: int, counter: int) -> jax.Array:
    """Returns the key that Keras makes of a seed and a counter."""
    return jax.random.wrap_key_data(jnp.asarray(np.array([seed & 0xFFFFFFFF, counter], np.uint32)), impl="threefry2x32")


def _layer_key() -> jax.Array | None:
    """Returns a new key of the "dropout" stream of the layer that is being applied, or None if there is none."""
    layer = CURRENT_LAYER.get()
    if layer is None or layer.scope is None or not (layer.has_rng("dropout") or layer.has_rng("params")):
        return None
    return layer.make_rng("dropout")


def _float_dtype(name: str, dtype: DTypeLike | None) -> np.dtype:
    chosen = as_dtype("float32" if dtype is None else dtype)
    if not jnp.issubdtype(chosen, jnp.floating):
        raise ValueError(f'`dtype` of `{name}` must be floating-point, got {dtype!r}; give, for example, "float32".')
    return chosen


# --- distributions


def normal(
    shape: Shape, mean: float = 0.0, stddev: float = 1.0, dtype: DTypeLike | None = None, seed: Seed = None
) -> jax.Array:
    """Draws from a normal distribution.

    Args:
        shape: Shape of the result.
        mean: Mean of the distribution.
        stddev: Its standard deviation.
        dtype: A floating-point dtype, float32 by default.
        seed: An integer, a `SeedGenerator`, a key or None.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> normal((2, 3), seed=1).shape
        (2, 3)
    """
    chosen = _float_dtype("normal", dtype)
    return jax.random.normal(draw_key(seed), tuple(shape), chosen) * stddev + mean


def truncated_normal(
    shape: Shape, mean: float = 0.0, stddev: float = 1.0, dtype: DTypeLike | None = None, seed: Seed = None
) -> jax.Array:
    """Draws from a normal distribution without the values more than two standard deviations from its mean.

    The arguments and errors are those of `normal`; mean and standard deviation are those before the truncation.

    Example:
        >>> bool((abs(truncated_normal((1000,), stddev=3.0, seed=1)) <= 6.0).all())
        True
    """
    chosen = _float_dtype("truncated_normal", dtype)
    return jax.random.truncated_normal(draw_key(seed), -2.0, 2.0, tuple(shape), chosen) * stddev + mean


def uniform(
    shape: Shape, minval: float = 0.0, maxval: float = 1.0, dtype: DTypeLike | None = None, seed: Seed = None
) -> jax.Array:
    """Draws uniformly from [minval, maxval).

    Args:
        shape: Shape of the result.
        minval: The smallest value.
        maxval: The end of the range.
        dtype: A floating-point dtype, float32 by default.
        seed: An integer, a `SeedGenerator`, a key or None.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> bool((uniform((100,), 2.0, 3.0, seed=1) >= 2.0).all())
        True
    """
    chosen = _float_dtype("uniform", dtype)
    return jax.random.uniform(draw_key(seed), tuple(shape), chosen, minval, maxval)


def randint(
    shape: Shape, minval: ArrayLike, maxval: ArrayLike, dtype: DTypeLike = "int32", seed: Seed = None
) -> jax.Array:
    """Draws integers uniformly from minval to maxval - 1.

    Args:
        shape: Shape of the result.
        minval: The smallest value.
        maxval: The end of the range.
        dtype: An integer dtype.
        seed: An integer, a `SeedGenerator`, a key or None.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> sorted(set(randint((100,), 0, 3, seed=1).tolist()))
        [0, 1, 2]
    """
    chosen = as_dtype(dtype)
    if not jnp.issubdtype(chosen, jnp.integer):
        raise ValueError(f'`dtype` of `randint` must be an integer dtype, got {dtype!r}; give, for example, "int32".')
    return jax.random.randint(draw_key(seed), tuple(shape), minval, maxval, chosen)


def gamma(shape: Shape, alpha: Tensor, dtype: DTypeLike | None = None, seed: Seed = None) -> jax.Array:
    """Draws from a gamma distribution of scale 1.

    Args:
        shape: Shape of the result.
        alpha: The shape parameter, which is also the mean, broadcast to `shape`.
        dtype: A floating-point dtype, float32 by default.
        seed: An integer, a `SeedGenerator`, a key or None.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> gamma((2, 3), alpha=0.5, seed=1).shape
        (2, 3)
    """
    chosen = _float_dtype("gamma", dtype)
    return jax.random.gamma(draw_key(seed), as_array(alpha), tuple(shape), chosen)


def beta(shape: Shape, alpha: Tensor, beta: Tensor, dtype: DTypeLike | None = None, seed: Seed = None) -> jax.Array:
    """Draws from a beta distribution.

    Args:
        shape: Shape of the result.
        alpha: The first parameter, broadcast to `shape`.
        beta: The second parameter, broadcast to `shape`.
        dtype: A floating-point dtype, float32 by default.
        seed: An integer, a `SeedGenerator`, a key or None.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> beta((2, 3), alpha=0.5, beta=2.0, seed=1).shape
        (2, 3)
    """
    chosen = _float_dtype("beta", dtype)
    return jax.random.beta(draw_key(seed), as_array(alpha), as_array(beta), tuple(shape), chosen)


def binomial(
    shape: Shape, counts: Tensor, probabilities: Tensor, dtype: DTypeLike | None = None, seed: Seed = None
) -> jax.Array:
    """Draws numbers of successes.

    Args:
        shape: Shape of the result.
        counts: Number of trials, broadcast to `shape`.
        probabilities: Probability of success of a trial, broadcast to `shape`.
        dtype: A floating-point dtype, float32 by default.
        seed: An integer, a `SeedGenerator`, a key or None.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> binomial((2, 3), counts=10, probabilities=0.5, seed=1).shape
        (2, 3)
    """
    chosen = _float_dtype("binomial", dtype)
    return jax.random.binomial(draw_key(seed), as_array(counts), as_array(probabilities), tuple(shape), chosen)


def categorical(logits: Tensor, num_samples: int, dtype: DTypeLike = "int32", seed: Seed = None) -> jax.Array:
    """Draws class indices.

    Args:
        logits: Log-probabilities of the classes, up to a constant.
        num_samples: Number of samples for each row.
        dtype: The dtype of the indices.
        seed: An integer, a `SeedGenerator`, a key or None.

    Shapes: logits [B, C] -> [B, num_samples].

    Raises:
        ValueError: If the logits do not have two axes.

    Example:
        >>> categorical(jnp.array([[-100.0, 0.0]]), 3, seed=1).tolist()
        [[1, 1, 1]]
    """
    rows = as_array(logits)
    if rows.ndim != 2:
        raise ValueError(f"`categorical` takes logits of shape [batch, classes], got shape {rows.shape}; add an axis.")
    drawn = jax.random.categorical(draw_key(seed), rows[..., None], axis=1, shape=(rows.shape[0], num_samples))
    return drawn.astype(as_dtype(dtype))


# --- noise on arrays


def dropout(
    inputs: Tensor, rate: float, noise_shape: Sequence[int | None] | None = None, seed: Seed = None
) -> jax.Array:
    """Sets elements to 0 with probability `rate`, and scales the others by 1 / (1 - rate).

    Args:
        inputs: Any array.
        rate: Probability of dropping an element, from 0 to 1.
        noise_shape: Shape of the dropout mask, which is broadcast to the inputs: None for the inputs' size, 1 to drop
            or keep all elements along the axis together.
        seed: An integer, a `SeedGenerator`, a key or None.

    Example:
        >>> sorted(set(dropout(jnp.ones(1000), 0.5, seed=1).tolist()))
        [0.0, 2.0]
    """
    x = as_array(inputs)
    if rate == 0:
        return x
    sizes = x.shape if noise_shape is None else noise_shape
    shape = tuple(n if size is None else size for size, n in zip(sizes, x.shape, strict=True))
    if rate == 1:
        return jnp.zeros_like(x)
    # The dropout of layers needs fewer random bits; this one drops the elements that Keras drops.
    keep = jax.random.bernoulli(draw_key(seed), 1 - rate, shape)
    return jnp.where(jnp.broadcast_to(keep, x.shape), x / (1 - rate), 0)


def shuffle(x: Tensor, axis: int = 0, seed: Seed = None) -> jax.Array:
    """Returns the elements along an axis in random order; as in Keras, each slice gets an order of its own.

    Args:
        x: Any array.
        axis: The axis.
        seed: An integer, a `SeedGenerator`, a key or None.

    Example:
        >>> sorted(shuffle([1, 2, 3], seed=1).tolist())
        [1, 2, 3]
    """
    return jax.random.permutation(draw_key(seed), as_array(x), axis, independent=True)
