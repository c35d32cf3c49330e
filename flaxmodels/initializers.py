"""Weight initializers with Keras' names and arguments: frozen dataclasses called as (key, shape, dtype).

Any function of that signature can be used as an initializer, such as those of `jax.nn.initializers`. A random
initializer whose `seed` is not None ignores the key and draws the same numbers as Keras' JAX backend with that seed.
Values of dtypes narrower than float32 are drawn in float32 and rounded.
"""

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from flaxmodels.names import lookup

Shape = Sequence[int]

TRUNCATED_NORMAL_STDDEV = 0.87962566103423978  # standard deviation of a standard normal truncated to [-2, 2]


@dataclass(frozen=True, eq=False)
class Initializer(abc.ABC):
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


# --- constants


@dataclass(frozen=True)
class Zeros(Initializer):
    """Initializes all elements to 0."""

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jnp.zeros(tuple(shape), dtype)


@dataclass(frozen=True)
class Ones(Initializer):
    """Initializes all elements to 1."""

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jnp.ones(tuple(shape), dtype)


@dataclass(frozen=True)
class Constant(Initializer):
    """Initializes all elements to a constant or a given array.

    Args:
        value: A number, or an array that broadcasts to the weight's shape, such as a matrix of pretrained embeddings.

    Raises:
        ValueError: If the value is not a number or an array of numbers, or does not broadcast to the weight's shape.

    Example:
        >>> Constant([1.0, 2.0])(None, (2, 2)).tolist()
        [[1.0, 2.0], [1.0, 2.0]]
    """

    value: ArrayLike | Sequence = 0.0

    def __post_init__(self) -> None:
        value = np.array(self.value)
        if value.dtype.kind not in "biuf" and not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(
                f"`value` of Constant must be a number or an array of numbers, got {self.value!r}; "
                "pass, for example, 0.5."
            )
        value.flags.writeable = False
        object.__setattr__(self, "value", value.item() if value.ndim == 0 else value)

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        try:
            return jnp.broadcast_to(jnp.asarray(self.value, dtype), tuple(shape))
        except ValueError as error:
            raise ValueError(
                f"`value` of Constant must broadcast to the weight's shape {tuple(shape)}, got shape "
                f"{np.shape(self.value)}; pass a number or an array of that shape."
            ) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple:
        """Returns a hashable key of the value; arrays are neither hashable nor comparable to a single boolean."""
        if isinstance(self.value, np.ndarray):
            return self.value.shape, self.value.dtype.name, self.value.tobytes()
        return (self.value,)


@dataclass(frozen=True)
class Identity(Initializer):
    """Initializes a matrix to `gain` times the identity.

    Args:
        gain: Value on the main diagonal; all other elements are 0.

    Raises:
        ValueError: If the gain is not a finite number, or the weight is not a matrix.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        _check_and_normalize(self, "gain")

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        if len(shape) != 2:
            raise ValueError(f"Identity initializes matrices, got shape {tuple(shape)}; use it on weights of rank 2.")
        return jnp.eye(shape[0], shape[1], dtype=dtype) * jnp.asarray(self.gain, dtype)


@dataclass(frozen=True)
class STFT(Initializer):
    """Initializes a 1D convolution kernel that computes the real or imaginary part of a short-time Fourier transform.

    kernel[t, 0, f] = cos(-2 pi t f / n) window[t] / scale with n = 2 (F - 1); the imaginary part uses sin.
    scale is sqrt(sum(window^2)) for "density" and sum(|window|) for "spectrum".

    Args:
        side: "real" or "imag".
        window: Name of a window in `scipy.signal.windows`, its T values, or None for no window.
        scaling: "density", "spectrum" or None; it has no effect without a window.
        periodic: Whether a window given by name is periodic instead of symmetric.

    Shapes: [T, 1, F], where T is the frame length and F the number of frequencies.

    Raises:
        ValueError: If an argument has another value, or the weight another shape.

    Example:
        >>> STFT("real", window=None)(None, (2, 1, 3)).round(3).tolist()
        [[[1.0, 1.0, 1.0]], [[1.0, -0.0, -1.0]]]
    """

    side: str = "real"
    window: str | Sequence[float] | None = "hann"
    scaling: str | None = "density"
    periodic: bool = False

    def __post_init__(self) -> None:
        _check_choice(self, "side", ("real", "imag"))
        _check_choice(self, "scaling", ("density", "spectrum", None))
        try:
            if isinstance(self.window, str):
                _window(self.window, 1, self.periodic)
            elif self.window is not None:
                object.__setattr__(self, "window", tuple(float(v) for v in self.window))
        except (TypeError, ValueError) as error:
            raise ValueError(
                "`window` of STFT must be the name of a window that needs no parameter, values or None, "
                f'got {self.window!r}; pass, for example, "hann".'
            ) from error

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        if len(shape) != 3 or shape[1] != 1 or shape[2] < 2:
            raise ValueError(
                "STFT initializes kernels of shape (frame length, 1, frequencies), 2 frequencies or more, "
                f"got shape {tuple(shape)}; choose another initializer or such a shape."
            )
        float_dtype = _sampling_dtype(dtype)
        time = jnp.arange(shape[0], dtype=float_dtype).reshape(-1, 1, 1)
        frequency = jnp.arange(shape[2], dtype=float_dtype).reshape(1, 1, -1) / (2 * (shape[2] - 1))
        angle = -2 * time * frequency * math.pi
        kernel = jnp.cos(angle) if self.side == "real" else jnp.sin(angle)
        if self.window is not None:
            kernel = kernel * self._scaled_window(shape[0]).astype(float_dtype)
        return kernel.astype(dtype)

    def _scaled_window(self, length: int) -> np.ndarray:
        window = self.window
        values = _window(window, length, self.periodic) if isinstance(window, str) else np.asarray(window)
        if values.shape != (length,):
            raise ValueError(
                f"`window` of STFT must have one value per step of the frame, {length}, got shape "
                f"{values.shape}; pass {length} values or a name."
            )
        if self.scaling == "density":
            values = values / np.sqrt(np.sum(values**2))
        elif self.scaling == "spectrum":
            values = values / np.sum(np.abs(values))
        return values.reshape(-1, 1, 1)


def _window(name: str, length: int, periodic: bool) -> np.ndarray:
    from scipy.signal import get_window

    return get_window(name, length, fftbins=periodic)


# --- random


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
        _check_and_normalize(self, "mean", "stddev")

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        samples = jax.random.normal(_key_or_seed(key, self.seed), tuple(shape), _sampling_dtype(dtype))
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
        samples = jax.random.truncated_normal(
            _key_or_seed(key, self.seed), -2.0, 2.0, tuple(shape), _sampling_dtype(dtype)
        )
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
        _check_and_normalize(self, "minval", "maxval")
        if self.minval > self.maxval:
            raise ValueError(
                f"`minval`={self.minval} of RandomUniform must not exceed `maxval`={self.maxval}; swap them."
            )

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        samples = jax.random.uniform(
            _key_or_seed(key, self.seed), tuple(shape), _sampling_dtype(dtype), self.minval, self.maxval
        )
        return samples.astype(dtype)


@dataclass(frozen=True)
class VarianceScaling(Initializer):
    """Draws independent values of mean 0 and variance `scale` / n, where n is the fan-in or fan-out of the weight.

    Args:
        scale: Positive factor of the variance.
        mode: Value of n: "fan_in", "fan_out", or "fan_avg" for their mean.
        distribution: "truncated_normal" (or "normal"), "untruncated_normal" or "uniform".
        seed: Integer that replaces the key, so that all calls draw the same values; None to use the key.
        input_axes: Axes whose sizes multiply to the fan-in; by default see `compute_fans`.
        output_axes: Axes whose sizes multiply to the fan-out; give both or neither.

    Raises:
        ValueError: If an argument has another value.

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
        _check_and_normalize(self, "scale")
        if self.scale <= 0:
            raise ValueError(
                f"`scale` of {type(self).__name__} must be positive, got {self.scale}; use, for example, 1."
            )
        distribution = str(self.distribution).lower()
        distribution = "truncated_normal" if distribution == "normal" else distribution
        object.__setattr__(self, "distribution", distribution)
        _check_choice(self, "mode", ("fan_in", "fan_out", "fan_avg"))
        _check_choice(self, "distribution", ("truncated_normal", "untruncated_normal", "uniform"))

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
        input_axes: Axes whose sizes multiply to the fan-in; by default see `compute_fans`.
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
        input_axes: Axes whose sizes multiply to the fan-in; by default see `compute_fans`.
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
        input_axes: Axes whose sizes multiply to the fan-in; by default see `compute_fans`.
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
        input_axes: Axes whose sizes multiply to the fan-in; by default see `compute_fans`.
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
        input_axes: Axes whose sizes multiply to the fan-in; by default see `compute_fans`.
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
        input_axes: Axes whose sizes multiply to the fan-in; by default see `compute_fans`.
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
        ValueError: If the gain is not finite, the seed is not in [0, 2^32), or the weight has less than two axes.

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
        _check_and_normalize(self, "gain")

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        if len(shape) < 2:
            raise ValueError(
                f"Orthogonal initializes weights of rank 2 or more, got shape {tuple(shape)}; use another initializer."
            )
        rows, columns = math.prod(shape[:-1]), shape[-1]
        tall = (max(rows, columns), min(rows, columns))
        q, r = jnp.linalg.qr(jax.random.normal(_key_or_seed(key, self.seed), tall, _sampling_dtype(dtype)))
        # Without this choice of signs, Q would not be distributed uniformly.
        q = q * jnp.where(jnp.diag(r) < 0, -1.0, 1.0).astype(q.dtype)[None, :]
        q = q.T if rows < columns else q
        return (self.gain * q.reshape(tuple(shape))).astype(dtype)


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


# --- checks, keys and dtypes


def _check_and_normalize(initializer: Initializer, *numbers: str) -> None:
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


def _check_choice(initializer: Initializer, name: str, choices: tuple[str | None, ...]) -> None:
    """Raises unless the field `name` has one of the values `choices`."""
    if getattr(initializer, name) not in choices:
        raise ValueError(
            f"`{name}` of {type(initializer).__name__} must be {' or '.join(map(repr, choices))}, "
            f"got {getattr(initializer, name)!r}; choose one."
        )


def _key_or_seed(key: jax.Array, seed: int | None) -> jax.Array:
    """Returns the key, or the key that Keras derives from the seed if there is one."""
    if seed is None:
        return key
    return jax.random.wrap_key_data(jnp.array([seed, 0], jnp.uint32), impl="threefry2x32")


def _sampling_dtype(dtype: DTypeLike) -> np.dtype:
    """Returns the dtype in which values of `dtype` are drawn: at least float32."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"A random or computed weight must have a floating-point dtype, got {jnp.dtype(dtype).name}; "
            "pass, for example, float32."
        )
    return np.promote_types(jnp.dtype(dtype), np.float32)


# --- names

constant = Constant
glorot_normal = GlorotNormal
glorot_uniform = GlorotUniform
he_normal = HeNormal
he_uniform = HeUniform
identity = IdentityInitializer = Identity
lecun_normal = LecunNormal
lecun_uniform = LecunUniform
ones = Ones
orthogonal = OrthogonalInitializer = Orthogonal
random_normal = RandomNormal
random_uniform = RandomUniform
stft = STFTInitializer = STFT
truncated_normal = TruncatedNormal
variance_scaling = VarianceScaling
zeros = Zeros

SHORT_NAMES: dict[str, type[Initializer]] = {
    "constant": Constant,
    "glorot_normal": GlorotNormal,
    "glorot_uniform": GlorotUniform,
    "he_normal": HeNormal,
    "he_uniform": HeUniform,
    "identity": Identity,
    "lecun_normal": LecunNormal,
    "lecun_uniform": LecunUniform,
    "normal": RandomNormal,
    "one": Ones,
    "ones": Ones,
    "orthogonal": Orthogonal,
    "random_normal": RandomNormal,
    "random_uniform": RandomUniform,
    "stft": STFT,
    "truncated_normal": TruncatedNormal,
    "uniform": RandomUniform,
    "variance_scaling": VarianceScaling,
    "zero": Zeros,
    "zeros": Zeros,
}

INITIALIZERS: dict[str, type[Initializer]] = {
    "IdentityInitializer": Identity,
    "OrthogonalInitializer": Orthogonal,
    "STFTInitializer": STFT,
    **{cls.__name__: cls for cls in SHORT_NAMES.values()},
    **SHORT_NAMES,
}


def get(initializer: InitializerLike) -> Callable[..., jax.Array] | None:
    """Returns the initializer for a layer's `..._initializer` argument.

    Args:
        initializer: A name in `INITIALIZERS` or a class, both for an instance with default arguments; an instance or
            any function (key, shape, dtype) -> array, which is returned as is; or None.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If the argument is neither a name, a callable nor None.

    Example:
        >>> get("zeros"), get(RandomUniform), get(None)
        (Zeros(), RandomUniform(minval=-0.05, maxval=0.05, seed=None), None)
    """
    if initializer is None:
        return None
    if isinstance(initializer, str):
        return lookup("initializer", initializer, INITIALIZERS, "Or pass a function (key, shape, dtype) -> array.")()
    resolved = initializer() if isinstance(initializer, type) else initializer
    if callable(resolved):
        return resolved
    raise TypeError(
        f"An initializer must be a name, a function or None, got {initializer!r}; "
        'pass a name such as "glorot_uniform", or Constant(values) for an array.'
    )
