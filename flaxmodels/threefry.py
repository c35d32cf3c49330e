"""The random numbers of JAX for known keys, bit for bit, without a compiled program for each shape.

JAX compiles a program for each shape of random values, which takes 0.2 to 1 s even for a few numbers. A network has
dozens of shapes. For a key that is known, NumPy computes the same values block by block. For a key that a
transformation traces, and for other kinds of keys and dtypes, the functions call `jax.random`.

References:
    Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011, https://doi.org/10.1145/2063384.2063405
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

Words = tuple[np.uint32, np.uint32]

BLOCK = 2**14  # numbers that are computed at once: they stay in the cache
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)
ROOT_OF_TWO = np.float32(math.sqrt(2))


def uniform(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, minval: float = 0.0, maxval: float = 1.0
) -> jax.Array:
    """Draws from a uniform distribution, as `jax.random.uniform` does.

    Args:
        key: The key.
        shape: The shape of the result.
        dtype: Its dtype.
        minval: Lower bound.
        maxval: Upper bound.

    Example:
        >>> key = jax.random.key(0)
        >>> bool((uniform(key, (3,)) == jax.random.uniform(key, (3,))).all())
        True
    """
    words = _words(key, dtype)
    if words is None:
        return jax.random.uniform(key, shape, dtype, minval, maxval)
    return _in_blocks(_uniform, words, shape, np.float32(minval), np.float32(maxval))


def normal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Draws from a standard normal distribution, as `jax.random.normal` does; see `uniform` for the arguments.

    Example:
        >>> key = jax.random.key(0)
        >>> bool((normal(key, (3,)) == jax.random.normal(key, (3,))).all())
        True
    """
    words = _words(key, dtype)
    if words is None:
        return jax.random.normal(key, shape, dtype)
    return _in_blocks(_normal, words, shape)


def truncated_normal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Draws from a standard normal distribution restricted to [-2, 2], as `jax.random.truncated_normal` does.

    See `uniform` for the arguments.

    Example:
        >>> key = jax.random.key(0)
        >>> bool((truncated_normal(key, (3,)) == jax.random.truncated_normal(key, -2, 2, (3,))).all())
        True
    """
    words = _words(key, dtype)
    if words is None:
        return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)
    return _in_blocks(_truncated_normal, words, shape)


def permutation(key: jax.Array, n: int) -> jax.Array | np.ndarray:
    """Returns the numbers from 0 to n - 1 in a random order, that of `jax.random.permutation`.

    Args:
        key: The key.
        n: How many numbers to return.

    Example:
        >>> key = jax.random.key(0)
        >>> bool((permutation(key, 9) == jax.random.permutation(key, 9)).all())
        True
    """
    words = _words(key)
    if words is None:
        return jax.random.permutation(key, n)
    order = np.arange(n, dtype=np.int32)
    # Two numbers with the same bits keep their order, so sorting is repeated until that is improbable in all rounds.
    for _ in range(math.ceil(3 * math.log(max(1, n)) / math.log(2**32 - 1))):
        words, of_bits = zip(*_hash(words, 0, 2), strict=True)
        order = order[np.argsort(_bits(of_bits, n), kind="stable")]
    return order


def fold_in(key: jax.Array, number: int) -> jax.Array:
    """Returns a new key that depends on a key and a number, that of `jax.random.fold_in`.

    Args:
        key: The key.
        number: A number from 0 to 2^32 - 1.

    Example:
        >>> key = jax.random.key(0)
        >>> bool(fold_in(key, 7) == jax.random.fold_in(key, 7))
        True
    """
    words = _words(key)
    if words is None or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return jax.random.fold_in(key, number)
    return jax.random.wrap_key_data(jnp.asarray(np.concatenate(_hash(words, number, 1))), impl="threefry2x32")


def _words(key: jax.Array, dtype: DTypeLike = jnp.float32) -> Words | None:
    """Returns the two words of a key, or None if `jax.random` must draw."""
    partitionable = getattr(jax.config, "jax_threefry_partitionable", True)
    if isinstance(key, jax.core.Tracer) or dtype != jnp.float32 or not partitionable:
        return None
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if str(jax.random.key_impl(key)) != "threefry2x32":
            return None
        key = jax.random.key_data(key)
    words = np.asarray(key)
    return (words[0], words[1]) if words.shape == (2,) else None


def _bits(words: Words, size: int) -> np.ndarray:
    """Returns random bits."""
    result = np.empty(size, np.uint32)
    for start in range(0, size, BLOCK):
        block = result[start : start + BLOCK]
        np.bitwise_xor(*_hash(words, start, block.size), out=block)
    return result


def _hash(words: Words, start: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the Threefry-2x32 hashes of the numbers from `start`: 20 rounds, with the key added every four."""
    positions = np.arange(start, start + size, dtype=np.uint64)
    x0, x1 = (positions >> np.uint64(32)).astype(np.uint32), positions.astype(np.uint32)
    keys = (words[0], words[1], words[0] ^ words[1] ^ PARITY)
    x0 += keys[0]
    x1 += keys[1]
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            x0 += x1
            x1 = (x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))
            x1 ^= x0
        x0 += keys[(group + 1) % 3]
        x1 += keys[(group + 2) % 3]
        x1 += np.uint32(group + 1)
    return x0, x1


def _in_blocks(function: jax.stages.Wrapped, words: Words, shape: tuple[int, ...], *args: np.float32) -> jax.Array:
    """Applies a function of BLOCK random bits, which is compiled once, to the bits of each block."""
    result = np.empty(math.prod(shape), np.float32)
    for start in range(0, result.size, BLOCK):
        block = result[start : start + BLOCK]
        bits = np.zeros(BLOCK, np.uint32)
        np.bitwise_xor(*_hash(words, start, block.size), out=bits[: block.size])
        block[:] = np.asarray(function(bits, *args))[: block.size]
    return jnp.asarray(result.reshape(shape))


# XLA rounds a product and a sum once or twice, as its settings and the processor say, so it computes them here, too.


@jax.jit
def _uniform(bits: jax.Array, minval: jax.Array, maxval: jax.Array) -> jax.Array:
    """Returns uniform values: 23 random bits are the mantissa of a number in [1, 2)."""
    mantissas = lax.shift_right_logical(bits, np.uint32(9)) | np.float32(1).view(np.uint32)
    fractions = lax.bitcast_convert_type(mantissas, jnp.float32) - np.float32(1)
    return lax.max(minval, fractions * (maxval - minval) + minval)


@jax.jit
def _normal(bits: jax.Array) -> jax.Array:
    """Returns standard normal values: the quantiles of uniform values, which stand for probabilities, in (-1, 1)."""
    lowest = np.nextafter(np.float32(-1), np.float32(0))
    return ROOT_OF_TWO * lax.erf_inv(_uniform(bits, lowest, np.float32(1)))


@jax.jit
def _truncated_normal(bits: jax.Array) -> jax.Array:
    low, high = np.float32(-2), np.float32(2)
    samples = ROOT_OF_TWO * lax.erf_inv(_uniform(bits, lax.erf(low / ROOT_OF_TWO), lax.erf(high / ROOT_OF_TWO)))
    return jnp.clip(samples, np.nextafter(low, np.float32(np.inf)), np.nextafter(high, np.float32(-np.inf)))
