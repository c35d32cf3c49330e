"""Initial values of weights by Keras' names and arguments: frozen dataclasses called as (key, shape, dtype).

Any function of that signature may stand where an initializer may, such as those of `jax.nn.initializers`.
A random initializer whose `seed` is not None ignores the key, and draws the very numbers that Keras draws
with that seed on its JAX backend. Types narrower than float32 are drawn in float32 and rounded.
"""

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.names import lookup

Shape = Sequence[int]

TRUNCATED_STDDEV = 0.87962566103423978  # of a standard normal variable that is drawn again beyond 2


@dataclass(frozen=True, eq=False)
class Initializer(abc.ABC):
    """The base class; a subclass says in `__call__` which array of `shape` and `dtype` it makes."""

    @abc.abstractmethod
    def __call__(self, key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array: ...


# --- constants


@dataclass(frozen=True)
class Zeros(Initializer):
    """0 everywhere."""

    def __call__(self, key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        return jnp.zeros(tuple(shape), dtype)


@dataclass(frozen=True)
class Ones(Initializer):
    """1 everywhere."""

    def __call__(self, key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        return jnp.ones(tuple(shape), dtype)


@dataclass(frozen=True)
class Constant(Initializer):
    """`value` everywhere.

    Args:
        value: A number, or an array that broadcasts to the shape, such as a matrix of ready-made embeddings.

    Raises:
        ValueError: If the value is no number or array of numbers, or does not broadcast to the shape.

    Example:
        >>> Constant([1.0, 2.0])(None, (2, 2)).tolist()
        [[1.0, 2.0], [1.0, 2.0]]
    """

    value: Any = 0.0

    def __post_init__(self) -> None:
        value = np.array(self.value)
        if value.dtype.kind not in "biuf" and not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(
                f"`value` of Constant must be a number or an array of numbers, but {self.value!r} came; "
                "pass such as 0.5."
            )
        value.flags.writeable = False
        object.__setattr__(self, "value", value.item() if value.ndim == 0 else value)

    def __call__(self, key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        try:
            return jnp.broadcast_to(jnp.asarray(self.value, dtype), tuple(shape))
        except ValueError as error:
            raise ValueError(
                f"`value` of Constant must broadcast to the weight's shape {tuple(shape)}, but has the shape "
                f"{np.shape(self.value)}; pass a number or an array of that shape."
            ) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple:
        """What makes two constants equal; an array has neither a hash nor an equality of its own."""
        if isinstance(self.value, np.ndarray):
            return self.value.shape, self.value.dtype.name, self.value.tobytes()
        return (self.value,)


@dataclass(frozen=True)
class Identity(Initializer):
    """`gain` on the main diagonal of a matrix, 0 elsewhere.

    Args:
        gain: The value on the diagonal.

    Raises:
        ValueError: If the gain is not a finite number or the shape not that of a matrix.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        _settle(self, "gain")

    def __call__(self, key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        if len(shape) != 2:
            raise ValueError(
                f"Identity initializes matrices, but the shape {tuple(shape)} came; use it on weights of rank 2."
            )
        return jnp.eye(shape[0], shape[1], dtype=dtype) * jnp.asarray(self.gain, dtype)


@dataclass(frozen=True)
class STFT(Initializer):
    """Convolution kernels that compute a short-time Fourier transform, its real or its imaginary part.

    kernel[t, 0, f] = cos(-2 pi t f / n) window[t] / scale with n = 2 (F - 1), and sin for the imaginary part;
    scale is sqrt(sum(window^2)) for "density" and sum(|window|) for "spectrum".

    Args:
        side: "real" or "imag".
        window: The name of a window in `scipy.signal.windows`, the T values themselves, or None for none.
        scaling: "density", "spectrum" or None; without a window there is no scaling.
        periodic: Whether a window given by name is periodic instead of symmetric.

    Shapes: [T, 1, F], T the length of a frame and F the number of frequencies.

    Raises:
        ValueError: If an argument is not one of those, or the shape does not fit.

    Example:
        >>> STFT("real", window=None)(None, (2, 1, 3)).round(3).tolist()
        [[[1.0, 1.0, 1.0]], [[1.0, -0.0, -1.0]]]
    """

    side: str = "real"
    window: str | Sequence[float] | None = "hann"
    scaling: str | None = "density"
    periodic: bool = False

    def __post_init__(self) -> None:
        _choose(self, "side", ("real", "imag"))
        _choose(self, "scaling", ("density", "spectrum", None))
        try:
            if isinstance(self.window, str):
                _window(self.window, 1, self.periodic)
            elif self.window is not None:
                object.__setattr__(self, "window", tuple(float(v) for v in self.window))
        except (TypeError, ValueError) as error:
            raise ValueError(
                "`window` of STFT must be the name of a window that needs no parameter, values or None, "
                f'but {self.window!r} came; pass such as "hann".'
            ) from error

    def __call__(self, key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        if len(shape) != 3 or shape[1] != 1 or shape[2] < 2:
            raise ValueError(
                "STFT initializes kernels of shape (frame length, 1, frequencies), 2 frequencies or more, "
                f"but the shape {tuple(shape)} came; use it on such a kernel."
            )
        wide = _drawn(dtype)
        time = jnp.arange(shape[0], dtype=wide).reshape(-1, 1, 1)
        frequency = jnp.arange(shape[2], dtype=wide).reshape(1, 1, -1) / (2 * (shape[2] - 1))
        angle = -2 * time * frequency * math.pi
        kernel = jnp.cos(angle) if self.side == "real" else jnp.sin(angle)
        if self.window is not None:
            kernel = kernel * self._scaled_window(shape[0]).astype(wide)
        return kernel.astype(dtype)

    def _scaled_window(self, length: int) -> np.ndarray:
        window = self.window
        values = _window(window, length, self.periodic) if isinstance(window, str) else np.asarray(window)
        if values.shape != (length,):
            raise ValueError(
                f"`window` of STFT must have one value per step of the frame, {length}, but has the shape "
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
    """Independent normal values.

    Args:
        mean: Their mean.
        stddev: Their standard deviation.
        seed: An integer that decides the values whatever the key is, or None.

    Raises:
        ValueError: If the mean is not finite, the deviation negative, or the seed not in [0, 2^32).
    """

    mean: float = 0.0
    stddev: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        _settle(self, "mean", "stddev")

    def __call__(self, key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        drawn = jax.random.normal(_key(key, self.seed), tuple(shape), _drawn(dtype))
        return (drawn * self.stddev + self.mean).astype(dtype)


@dataclass(frozen=True)
class TruncatedNormal(RandomNormal):
    """Independent normal values, drawn again while they are more than two `stddev` from the mean.

    The standard deviation of what comes out is therefore 0.88 `stddev`. Arguments: see `RandomNormal`.
    """

    def __call__(self, key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        drawn = jax.random.truncated_normal(_key(key, self.seed), -2.0, 2.0, tuple(shape), _drawn(dtype))
        return (drawn * self.stddev + self.mean).astype(dtype)


@dataclass(frozen=True)
class RandomUniform(Initializer):
    """Independent values, uniform between `minval` and `maxval`.

    Args:
        minval: The lower bound.
        maxval: The upper bound.
        seed: An integer that decides the values whatever the key is, or None.

    Raises:
        ValueError: If a bound is not finite, the bounds are swapped, or the seed is not in [0, 2^32).
    """

    minval: float = -0.05
    maxval: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        _settle(self, "minval", "maxval")
        if self.minval > self.maxval:
            raise ValueError(
                f"`minval`={self.minval} of RandomUniform must not exceed `maxval`={self.maxval}; swap them."
            )

    def __call__(self, key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        drawn = jax.random.uniform(_key(key, self.seed), tuple(shape), _drawn(dtype), self.minval, self.maxval)
        return drawn.astype(dtype)


@dataclass(frozen=True)
class VarianceScaling(Initializer):
    """Independent values of mean 0 and variance `scale` / n, n being the inputs or outputs of the weight.

    Args:
        scale: A positive number.
        mode: What n is: "fan_in", "fan_out", or "fan_avg" for their mean.
        distribution: "truncated_normal" (or "normal"), "untruncated_normal" or "uniform".
        seed: An integer that decides the values whatever the key is, or None.
        input_axes: The axes that count as inputs; None for those of `compute_fans`.
        output_axes: The axes that count as outputs; both are given or neither.

    Raises:
        ValueError: If an argument is not one of those.
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"
    seed: int | None = None
    input_axes: Sequence[int] | None = None
    output_axes: Sequence[int] | None = None

    def __post_init__(self) -> None:
        _settle(self, "scale")
        if self.scale <= 0:
            raise ValueError(
                f"`scale` of {type(self).__name__} must be positive, but {self.scale} came; use such as 1."
            )
        distribution = str(self.distribution).lower()
        distribution = "truncated_normal" if distribution == "normal" else distribution
        object.__setattr__(self, "distribution", distribution)
        _choose(self, "mode", ("fan_in", "fan_out", "fan_avg"))
        _choose(self, "distribution", ("truncated_normal", "untruncated_normal", "uniform"))

    def __call__(self, key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        fan_in, fan_out = compute_fans(shape, self.input_axes, self.output_axes)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(1.0, n)
        if self.distribution == "uniform":
            limit = math.sqrt(3.0 * variance)
            return RandomUniform(-limit, limit, self.seed)(key, shape, dtype)
        stddev = math.sqrt(variance)
        if self.distribution == "untruncated_normal":
            return RandomNormal(0.0, stddev, self.seed)(key, shape, dtype)
        return TruncatedNormal(0.0, stddev / TRUNCATED_STDDEV, self.seed)(key, shape, dtype)


# The six below make the first three fields constants of the class, so that their fields are their arguments.


@dataclass(frozen=True)
class GlorotUniform(VarianceScaling):
    """Uniform, variance 2 / (fan_in + fan_out): the default of most kernels.

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
    """Truncated normal, variance 2 / (fan_in + fan_out); see `GlorotUniform`."""

    scale: ClassVar[float] = 1.0
    mode: ClassVar[str] = "fan_avg"
    distribution: ClassVar[str] = "truncated_normal"


@dataclass(frozen=True)
class LecunUniform(VarianceScaling):
    """Uniform, variance 1 / fan_in; see `LecunNormal`."""

    scale: ClassVar[float] = 1.0
    mode: ClassVar[str] = "fan_in"
    distribution: ClassVar[str] = "uniform"


@dataclass(frozen=True)
class LecunNormal(VarianceScaling):
    """Truncated normal, variance 1 / fan_in.

    References:
        Klambauer et al., Self-Normalizing Neural Networks, 2017, https://arxiv.org/abs/1706.02515
    """

    scale: ClassVar[float] = 1.0
    mode: ClassVar[str] = "fan_in"
    distribution: ClassVar[str] = "truncated_normal"


@dataclass(frozen=True)
class HeUniform(VarianceScaling):
    """Uniform, variance 2 / fan_in; see `HeNormal`."""

    scale: ClassVar[float] = 2.0
    mode: ClassVar[str] = "fan_in"
    distribution: ClassVar[str] = "uniform"


@dataclass(frozen=True)
class HeNormal(VarianceScaling):
    """Truncated normal, variance 2 / fan_in.

    References:
        He et al., Delving Deep into Rectifiers, 2015, https://arxiv.org/abs/1502.01852
    """

    scale: ClassVar[float] = 2.0
    mode: ClassVar[str] = "fan_in"
    distribution: ClassVar[str] = "truncated_normal"


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """A random orthogonal matrix: its rows or its columns, whichever are fewer, are orthonormal.

    All such matrices are equally likely. A weight of a higher rank is a matrix [all other axes, last axis].

    Args:
        gain: A factor on the matrix.
        seed: An integer that decides the values whatever the key is, or None.

    Raises:
        ValueError: If the gain is not finite, the seed not in [0, 2^32), or the shape is of rank 0 or 1.

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
        _settle(self, "gain")

    def __call__(self, key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        if len(shape) < 2:
            raise ValueError(
                f"Orthogonal initializes weights of rank 2 or more, but the shape {tuple(shape)} came; "
                "use another initializer."
            )
        rows, columns = math.prod(shape[:-1]), shape[-1]
        tall = (max(rows, columns), min(rows, columns))
        q, r = jnp.linalg.qr(jax.random.normal(_key(key, self.seed), tall, _drawn(dtype)))
        q = q * jnp.where(jnp.diag(r) < 0, -1.0, 1.0).astype(q.dtype)[None, :]  # without it Q is not uniform
        q = q.T if rows < columns else q
        return (self.gain * q.reshape(tuple(shape))).astype(dtype)


def compute_fans(
    shape: Shape, input_axes: Sequence[int] | None = None, output_axes: Sequence[int] | None = None
) -> tuple[int, int]:
    """The numbers of inputs and outputs of one weight.

    Args:
        shape: The weight's shape; a kernel of a convolution is [..., inputs, outputs].
        input_axes: The axes whose sizes multiply to the number of inputs.
        output_axes: The axes whose sizes multiply to the number of outputs; both are given or neither.

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


# --- fields, keys and types


def _settle(initializer: Initializer, *numbers: str) -> None:
    """Checks the fields and stores them in one form, so that equal initializers hash alike."""
    kind = type(initializer).__name__
    for name in numbers:
        value = getattr(initializer, name)
        if not (isinstance(value, (int, float, np.number)) and math.isfinite(value)):
            raise ValueError(f"`{name}` of {kind} must be a finite number, but {value!r} came; pass such as 0.5.")
        if name == "stddev" and value < 0:
            raise ValueError(f"`stddev` of {kind} must not be negative, but {value!r} came; pass {-value!r}.")
        object.__setattr__(initializer, name, float(value))
    seed = getattr(initializer, "seed", None)
    if seed is not None:
        if not (isinstance(seed, (int, np.integer)) and 0 <= seed < 2**32):
            raise ValueError(
                f"`seed` of {kind} must be an integer from 0 to 2**32 - 1 or None, but {seed!r} came; pass such as 0."
            )
        object.__setattr__(initializer, "seed", int(seed))
    axes = [name for name in ("input_axes", "output_axes") if getattr(initializer, name, None) is not None]
    if len(axes) == 1:
        raise ValueError(
            f"`input_axes` and `output_axes` of {kind} must be given together, but only `{axes[0]}` came; "
            "pass both or neither."
        )
    for name in axes:
        object.__setattr__(initializer, name, tuple(int(axis) for axis in getattr(initializer, name)))


def _choose(initializer: Initializer, name: str, known: tuple) -> None:
    """Checks that the field `name` has one of the known values."""
    if getattr(initializer, name) not in known:
        raise ValueError(
            f"`{name}` of {type(initializer).__name__} must be {' or '.join(map(repr, known))}, "
            f"but {getattr(initializer, name)!r} came; choose one."
        )


def _key(key: jax.Array, seed: int | None) -> jax.Array:
    """The key, unless there is a seed: then the one that Keras makes of it."""
    if seed is None:
        return key
    return jax.random.wrap_key_data(jnp.array([seed, 0], jnp.uint32), impl="threefry2x32")


def _drawn(dtype: Any) -> np.dtype:
    """The type in which values of type `dtype` are computed."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"A random or computed weight must be of a floating type, but {jnp.dtype(dtype).name} came; "
            "pass such as float32."
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


def get(initializer: str | Callable | None) -> Callable[..., jax.Array] | None:
    """The initializer that a layer's argument means.

    Args:
        initializer: A name in `INITIALIZERS` or a class, for its default arguments; an instance or any
            function (key, shape, dtype) -> array; or None.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it is neither a name nor callable.

    Example:
        >>> get("zeros"), get(RandomUniform), get(None)
        (Zeros(), RandomUniform(minval=-0.05, maxval=0.05, seed=None), None)
    """
    if initializer is None:
        return None
    if isinstance(initializer, str):
        return lookup("initializer", initializer, INITIALIZERS, "Or pass a function (key, shape, dtype) -> array.")()
    found = initializer() if isinstance(initializer, type) else initializer
    if callable(found):
        return found
    raise TypeError(
        f"An initializer must be a name, a function or None, but {initializer!r} came; "
        'pass a name such as "glorot_uniform", or Constant(values) for an array.'
    )
