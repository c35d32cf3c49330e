"""Initializers that use no randomness."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from flaxmodels.initializers.base import Initializer, Shape, check_and_normalize, check_choice, sampling_dtype


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
        """Returns a hashable key of the value; arrays are not hashable, and comparing them gives no single boolean."""
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
        check_and_normalize(self, "gain")

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
        ValueError: If an argument is invalid, or the weight has the wrong shape.

    Example:
        >>> STFT("real", window=None)(None, (2, 1, 3)).round(3).tolist()
        [[[1.0, 1.0, 1.0]], [[1.0, -0.0, -1.0]]]
    """

    side: str = "real"
    window: str | Sequence[float] | None = "hann"
    scaling: str | None = "density"
    periodic: bool = False

    def __post_init__(self) -> None:
        check_choice(self, "side", ("real", "imag"))
        check_choice(self, "scaling", ("density", "spectrum", None))
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
                "STFT initializes kernels of shape (frame length, 1, frequencies) with at least 2 frequencies, "
                f"got shape {tuple(shape)}; choose another initializer or such a shape."
            )
        float_dtype = sampling_dtype(dtype)
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
                f"`window` of STFT must have one value per step of the frame ({length} values), got shape "
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
