"""Initializers that draw random values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flaxmodels import threefry
from flaxmodels.initializers.base import Initializer, Shape, check_and_normalize, check_choice, sampling_dtype

TRUNCATED_NORMAL_STDDEV = 0.87962566103423978  # standard deviation of a standard normal truncated to [-2, 2]


@dataclass(frozen=True)
class RandomNormal(Initializer):
    """Draws independent values from a normal distribution.

    Args:
        mean: Mean of the distribution.
        stddev: Standard deviation of the distribution.
        seed: Integer that replaces the key, so that all calls draw the same values; None to use the key.

    Raises:
        ValueError: If the mean is not finite, the deviation is negative, or the seed is not in [0, 2^32).

    References:
        Keras, `keras.initializers.RandomNormal`.

    Example:
        >>> RandomNormal(mean=2.0, stddev=0.0)(jax.random.key(0), (2,)).tolist()
        [2.0, 2.0]
    """

    mean: float = 0.0
    stddev: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        check_and_normalize(self, "mean", "stddev")

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        key = _key_or_seed(key, self.seed)
        samples = threefry.normal(key, tuple(shape), sampling_dtype(dtype))
        return (samples * self.stddev + self.mean).astype(dtype)


@dataclass(frozen=True)
class TruncatedNormal(RandomNormal):
    """Draws independent values from a normal distribution truncated at two standard deviations from the mean.

    The standard deviation of the drawn values is therefore 0.88 `stddev`.

    Args:
        mean: Mean of the normal distribution.
        stddev: Standard deviation of the normal distribution before truncation.
        seed: Integer that replaces the key, so that all calls draw the same values; None to use the key.

    Raises:
        ValueError: If the mean is not finite, the deviation is negative, or the seed is not in [0, 2^32).

    References:
        Keras, `keras.initializers.TruncatedNormal`.

    Example:
        >>> bool(jnp.all(jnp.abs(TruncatedNormal(stddev=1.0)(jax.random.key(0), (100,))) <= 2))
        True
    """

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        key = _key_or_seed(key, self.seed)
        samples = threefry.truncated_normal(key, tuple(shape), sampling_dtype(dtype))
        return (samples * self.stddev + self.mean).astype(dtype)


@dataclass(frozen=True)
class RandomUniform(Initializer):
    """Draws independent values from a uniform distribution.

    Args:
        minval: Lower bound.
        maxval: Upper bound.
        seed: Integer that replaces the key, so that all calls draw the same values; None to use the key.

    Raises:
        ValueError: If a bound is not finite, `minval` exceeds `maxval`, or the seed is not in [0, 2^32).

    References:
        Keras, `keras.initializers.RandomUniform`.

    Example:
        >>> bool(jnp.all(RandomUniform(1.0, 2.0)(jax.random.key(0), (100,)) >= 1))
        True
    """

    minval: float = -0.05
    maxval: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        check_and_normalize(self, "minval", "maxval")
        if self.minval > self.maxval:
            raise ValueError(
                f"`minval`={self.minval} of RandomUniform must not exceed `maxval`={self.maxval}; swap them."
            )

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        key = _key_or_seed(key, self.seed)
        return threefry.uniform(key, tuple(shape), sampling_dtype(dtype), self.minval, self.maxval).astype(dtype)


@dataclass(frozen=True)
class VarianceScaling(Initializer):
    """Draws independent values of mean 0 and variance `scale` / n, where n is the fan-in or fan-out of the weight.

    Args:
        scale: Positive factor by which the variance is multiplied.
        mode: Value of n: "fan_in", "fan_out", or "fan_avg" for their mean.
        distribution: "truncated_normal" (or "normal"), "untruncated_normal" or "uniform".
        seed: Integer that replaces the key, so that all calls draw the same values; None to use the key.
        input_axes: Axes whose sizes multiply to the fan-in; see `compute_fans` for the default.
        output_axes: Axes whose sizes multiply to the fan-out; give both or neither.

    Raises:
        ValueError: If an argument is invalid.

    References:
        Keras, `keras.initializers.VarianceScaling`.

    Example:
        >>> weight = VarianceScaling(scale=3.0, distribution="uniform")(jax.random.key(0), (9, 100))
        >>> bool(jnp.all(jnp.abs(weight) <= 1))  # sqrt(3 scale / fan_in)
        True
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"
    seed: int | None = None
    input_axes: Sequence[int] | None = None
    output_axes: Sequence[int] | None = None

    def __post_init__(self) -> None:
        check_and_normalize(self, "scale")
        if self.scale <= 0:
            raise ValueError(
                f"`scale` of {type(self).__name__} must be positive, got {self.scale}; use, for example, 1."
            )
        distribution = str(self.distribution).lower()
        distribution = "truncated_normal" if distribution == "normal" else distribution
        object.__setattr__(self, "distribution", distribution)
        check_choice(self, "mode", ("fan_in", "fan_out", "fan_avg"))
        check_choice(self, "distribution", ("truncated_normal", "untruncated_normal", "uniform"))

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        fan_in, fan_out = compute_fans(shape, self.input_axes, self.output_axes)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(1.0, n)
        if self.distribution == "uniform":
            limit = math.sqrt(3.0 * variance)
            return RandomUniform(-limit, limit, self.seed)(key, shape, dtype)
        stddev = math.sqrt(variance)
        if self.distribution == "untruncated_normal":
            return RandomNormal(0.0, stddev, self.seed)(key, shape, dtype)
        return TruncatedNormal(0.0, stddev / TRUNCATED_NORMAL_STDDEV, self.seed)(key, shape, dtype)


# In the six subclasses below, the first three fields are class constants, so their constructors don't take them.


@dataclass(frozen=True)
class GlorotUniform(VarianceScaling):
    """Draws uniform values of variance 2 / (fan_in + fan_out); the default initializer of most kernels.

    Args:
        seed: Integer that replaces the key; None to use the key.
        input_axes: Axes whose sizes multiply to the fan-in; see `compute_fans` for the default.
        output_axes: Axes whose sizes multiply to the fan-out; give both or neither.

    References:
        Glorot and Bengio, 2010, https://proceedings.mlr.press/v9/glorot10a.html

    Example:
        >>> GlorotUniform(seed=1)
        GlorotUniform(seed=1, input_axes=None, output_axes=None)
    """

    scale: ClassVar[float] = 1.0
    mode: ClassVar[str] = "fan_avg"
    distribution: ClassVar[str] = "uniform"


@dataclass(frozen=True)
class GlorotNormal(VarianceScaling):
    """Draws truncated normal values of variance 2 / (fan_in + fan_out).

    Args:
        seed: Integer that replaces the key; None to use the key.
        input_axes: Axes whose sizes multiply to the fan-in; see `compute_fans` for the default.
        output_axes: Axes whose sizes multiply to the fan-out; give both or neither.

    References:
        Glorot and Bengio, 2010, https://proceedings.mlr.press/v9/glorot10a.html
    """

    scale: ClassVar[float] = 1.0
    mode: ClassVar[str] = "fan_avg"
    distribution: ClassVar[str] = "truncated_normal"


@dataclass(frozen=True)
class LecunUniform(VarianceScaling):
    """Draws uniform values of variance 1 / fan_in.

    Args:
        seed: Integer that replaces the key; None to use the key.
        input_axes: Axes whose sizes multiply to the fan-in; see `compute_fans` for the default.
        output_axes: Axes whose sizes multiply to the fan-out; give both or neither.

    References:
        Klambauer et al., Self-Normalizing Neural Networks, 2017, https://arxiv.org/abs/1706.02515
    """

    scale: ClassVar[float] = 1.0
    mode: ClassVar[str] = "fan_in"
    distribution: ClassVar[str] = "uniform"


@dataclass(frozen=True)
class LecunNormal(VarianceScaling):
    """Draws truncated normal values of variance 1 / fan_in.

    Args:
        seed: Integer that replaces the key; None to use the key.
        input_axes: Axes whose sizes multiply to the fan-in; see `compute_fans` for the default.
        output_axes: Axes whose sizes multiply to the fan-out; give both or neither.

    References:
        Klambauer et al., Self-Normalizing Neural Networks, 2017, https://arxiv.org/abs/1706.02515
    """

    scale: ClassVar[float] = 1.0
    mode: ClassVar[str] = "fan_in"
    distribution: ClassVar[str] = "truncated_normal"


@dataclass(frozen=True)
class HeUniform(VarianceScaling):
    """Draws uniform values of variance 2 / fan_in.

    Args:
        seed: Integer that replaces the key; None to use the key.
        input_axes: Axes whose sizes multiply to the fan-in; see `compute_fans` for the default.
        output_axes: Axes whose sizes multiply to the fan-out; give both or neither.

    References:
        He et al., Delving Deep into Rectifiers, 2015, https://arxiv.org/abs/1502.01852
    """

    scale: ClassVar[float] = 2.0
    mode: ClassVar[str] = "fan_in"
    distribution: ClassVar[str] = "uniform"


@dataclass(frozen=True)
class HeNormal(VarianceScaling):
    """Draws truncated normal values of variance 2 / fan_in.

    Args:
        seed: Integer that replaces the key; None to use the key.
        input_axes: Axes whose sizes multiply to the fan-in; see `compute_fans` for the default.
        output_axes: Axes whose sizes multiply to the fan-out; give both or neither.

    References:
        He et al., Delving Deep into Rectifiers, 2015, https://arxiv.org/abs/1502.01852
    """

    scale: ClassVar[float] = 2.0
    mode: ClassVar[str] = "fan_in"
    distribution: ClassVar[str] = "truncated_normal"


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """Draws a random orthogonal matrix, whose rows or columns (whichever are fewer) are orthonormal.

    The distribution is uniform over all such matrices. A weight of rank above 2 is the matrix
    [product of all other axes, last axis], reshaped.

    Args:
        gain: Factor of the matrix.
        seed: Integer that replaces the key, so that all calls draw the same values; None to use the key.

    Raises:
        ValueError: If the gain is not finite, the seed is not in [0, 2^32), or the weight has fewer than two axes.

    References:
        Saxe et al., Exact solutions to the nonlinear dynamics of learning, 2014, https://arxiv.org/abs/1312.6120

    Example:
        >>> w = Orthogonal()(jax.random.key(0), (2, 3, 4))
        >>> bool(jnp.allclose(w.reshape(6, 4).T @ w.reshape(6, 4), jnp.eye(4), atol=1e-5))
        True
    """

    gain: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        check_and_normalize(self, "gain")

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        if len(shape) < 2:
            raise ValueError(
                f"Orthogonal initializes weights of rank 2 or more, got shape {tuple(shape)}; use another initializer."
            )
        rows, columns = math.prod(shape[:-1]), shape[-1]
        tall = (max(rows, columns), min(rows, columns))
        samples = threefry.normal(_key_or_seed(key, self.seed), tall, sampling_dtype(dtype))
        q, signs = _orthonormal(samples)
        # Without this choice of signs, Q would not be distributed uniformly.
        q = q * signs[None, :]
        q = q.T if rows < columns else q
        return jnp.asarray(self.gain * q.reshape(tuple(shape)), dtype)


def compute_fans(
    shape: Shape, input_axes: Sequence[int] | None = None, output_axes: Sequence[int] | None = None
) -> tuple[int, int]:
    """Returns the fan-in and fan-out of a weight.

    Args:
        shape: Shape of the weight; a convolution kernel is [..., inputs, outputs].
        input_axes: Axes whose sizes multiply to the fan-in.
        output_axes: Axes whose sizes multiply to the fan-out; give both or neither.

    Example:
        >>> compute_fans((3, 3, 8, 16)), compute_fans((4, 5, 6), input_axes=(0,), output_axes=(1, 2))
        ((72, 144), (4, 30))
    """
    if input_axes is not None and output_axes is not None:
        return math.prod(shape[a] for a in input_axes), math.prod(shape[a] for a in output_axes)
    if len(shape) < 2:
        size = math.prod(shape)
        return size, size
    window = math.prod(shape[:-2])
    return shape[-2] * window, shape[-1] * window


def _orthonormal(matrix: jax.Array) -> tuple[jax.Array | np.ndarray, jax.Array | np.ndarray]:
    """Returns the factor Q of the QR decomposition of a matrix, and the signs of the diagonal of R."""
    if isinstance(matrix, jax.core.Tracer) or matrix.dtype != jnp.float32 or jax.default_backend() != "cpu":
        q, r = jnp.linalg.qr(matrix)
        return q, jnp.where(jnp.diag(r) < 0, -1.0, 1.0).astype(q.dtype)
    import scipy.linalg  # it has the routines that JAX calls, without a compiled program for each shape

    q, r = scipy.linalg.qr(np.asarray(matrix), mode="economic", check_finite=False)
    return q, np.where(np.diag(r) < 0, np.float32(-1), np.float32(1))


def _key_or_seed(key: jax.Array, seed: int | None) -> jax.Array:
    """Returns the key, or the key that Keras derives from the seed if there is one."""
    if seed is None:
        return key
    return jax.random.wrap_key_data(jnp.array([seed, 0], jnp.uint32), impl="threefry2x32")
