"""Keras' operations on signals: Fourier transforms and frames."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flaxmodels.ops.arrays import Tensor, as_array
from flaxmodels.ops.base import operation

# The real and the imaginary part of a complex array.
RealAndImaginary = tuple[jax.Array, jax.Array]

# --- complex numbers


@operation
def view_as_complex(x: Tensor) -> jax.Array:
    """Returns the complex array of the real and imaginary parts along the last axis.

    Shapes: x [..., 2] -> [...].

    Raises:
        ValueError: If the size of the last axis is not 2.

    Example:
        >>> view_as_complex([[3.0, 4.0]]).tolist()
        [(3+4j)]
    """
    array = as_array(x)
    if array.shape[-1:] != (2,):
        raise ValueError(
            f"The last axis of x must hold a real and an imaginary part, got shape {array.shape}; stack two arrays."
        )
    real, imaginary = (array[..., i].astype(jnp.float32) for i in (0, 1))
    return jax.lax.complex(real, imaginary)


@operation
def view_as_real(x: Tensor) -> jax.Array:
    """Returns the real and imaginary parts of a complex array along a new last axis.

    Shapes: x [...] -> [..., 2].

    Example:
        >>> view_as_real([3 + 4j]).tolist()
        [[3.0, 4.0]]
    """
    array = as_array(x)
    return jnp.stack([jnp.real(array), jnp.imag(array)], axis=-1)


def as_complex(name: str, x: object) -> jax.Array:
    """Returns the complex array of a pair of real and imaginary parts; `name` is the operation in errors."""
    if not isinstance(x, tuple | list) or len(x) != 2:
        raise ValueError(
            f"`{name}` takes a pair (real part, imaginary part), got {type(x).__name__}; give two arrays in a tuple."
        )
    real, imaginary = map(as_array, x)
    if real.shape != imaginary.shape or not all(jnp.issubdtype(part.dtype, jnp.floating) for part in (real, imaginary)):
        raise ValueError(
            f"`{name}` takes real and imaginary parts of the same shape and of a floating-point dtype, got "
            f"{real.dtype.name} {real.shape} and {imaginary.dtype.name} {imaginary.shape}; reshape or cast them."
        )
    return jax.lax.complex(real, imaginary)


def _parts(x: jax.Array) -> RealAndImaginary:
    return jnp.real(x), jnp.imag(x)


# --- Fourier transforms


@operation
def fft(x: tuple[Tensor, Tensor]) -> RealAndImaginary:
    """Returns the discrete Fourier transform along the last axis.

    Args:
        x: The real and the imaginary part.

    Returns:
        The real and the imaginary part, of the same shape.

    Raises:
        ValueError: If x is not a pair of floating-point arrays of the same shape.

    Example:
        >>> real, imaginary = fft((jnp.ones(4), jnp.zeros(4)))
        >>> real.tolist()
        [4.0, 0.0, 0.0, 0.0]
    """
    return _parts(jnp.fft.fft(as_complex("fft", x)))


@operation
def fft2(x: tuple[Tensor, Tensor]) -> RealAndImaginary:
    """Returns the discrete Fourier transform over the last two axes; arguments and errors are those of `fft`."""
    return _parts(jnp.fft.fft2(as_complex("fft2", x)))


@operation
def ifft2(x: tuple[Tensor, Tensor]) -> RealAndImaginary:
    """Returns the inverse transform over the last two axes; arguments and errors are those of `fft`."""
    return _parts(jnp.fft.ifft2(as_complex("ifft2", x)))


@operation
def rfft(x: Tensor, fft_length: int | None = None) -> RealAndImaginary:
    """Returns the discrete Fourier transform of a real array along the last axis.

    Args:
        x: A real array.
        fft_length: The axis is cropped or padded with zeros to this size; None for its own size.

    Returns:
        The real and the imaginary part, with fft_length // 2 + 1 frequencies.

    Example:
        >>> real, imaginary = rfft(jnp.ones(4))
        >>> real.tolist()
        [4.0, 0.0, 0.0]
    """
    return _parts(jnp.fft.rfft(as_array(x), n=fft_length))


@operation
def irfft(x: tuple[Tensor, Tensor], fft_length: int | None = None) -> jax.Array:
    """Returns the real array whose `rfft` is x.

    Args:
        x: The real and the imaginary part.
        fft_length: The size of the last axis of the result; None for 2 (n - 1) with n frequencies.

    Raises:
        ValueError: If x is not a pair of floating-point arrays of the same shape.

    Example:
        >>> irfft(rfft(jnp.array([1.0, 2.0, 3.0, 4.0]))).tolist()
        [1.0, 2.0, 3.0, 4.0]
    """
    return jnp.fft.irfft(as_complex("irfft", x), n=fft_length)


# --- frames


@operation
def extract_sequences(x: Tensor, sequence_length: int, sequence_stride: int) -> jax.Array:
    """Returns the frames of a signal that fit into it completely.

    Args:
        x: Signals along the last axis.
        sequence_length: Size of a frame.
        sequence_stride: Distance between the starts of two frames.

    Shapes: x [..., T] -> [..., (T - sequence_length) // sequence_stride + 1, sequence_length].

    Example:
        >>> extract_sequences([1.0, 2.0, 3.0, 4.0], 2, 1).tolist()
        [[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]
    """
    return _frames(as_array(x), sequence_length, sequence_stride)


def _frames(x: jax.Array, length: int, stride: int) -> jax.Array:
    starts = np.arange(0, x.shape[-1] - length + 1, stride)
    return jnp.take(x, starts[:, None] + np.arange(length), axis=-1)


@operation
def stft(
    x: Tensor,
    sequence_length: int,
    sequence_stride: int,
    fft_length: int,
    window: str | Tensor | None = "hann",
    center: bool = True,
) -> RealAndImaginary:
    """Returns the short-time Fourier transform of real signals along the last axis.

    Args:
        x: Signals, float32 or float64.
        sequence_length: Size of the window.
        sequence_stride: Distance between the starts of two frames.
        fft_length: Size of a frame, at least that of the window, which is in its middle.
        window: "hann", "hamming", an array of `sequence_length` factors, or None for no window.
        center: Whether the first frame is centered on the first element, by reflecting both ends of the signals.

    Returns:
        The real and the imaginary part, of shape [..., frames, fft_length // 2 + 1].

    Raises:
        TypeError: If x is not float32 or float64.
        ValueError: If another argument is invalid.

    Example:
        >>> real, imaginary = stft(jnp.ones((2, 64)), 16, 8, 16)
        >>> real.shape
        (2, 9, 9)
    """
    signal = as_array(x)
    if signal.dtype not in (jnp.float32, jnp.float64):
        raise TypeError(f"`stft` takes float32 or float64 signals, got {signal.dtype.name}; cast x.")
    factors = _window("stft", window, sequence_length, sequence_stride, fft_length, signal.dtype)
    if center:
        half = fft_length // 2
        signal = jnp.pad(signal, [(0, 0)] * (signal.ndim - 1) + [(half, half)], mode="reflect")
    frames = _frames(signal, fft_length, sequence_stride)
    return _parts(jnp.fft.rfft(frames * jnp.asarray(factors).reshape((1,) * (frames.ndim - 1) + (-1,))))


@operation
def istft(
    x: tuple[Tensor, Tensor],
    sequence_length: int,
    sequence_stride: int,
    fft_length: int,
    length: int | None = None,
    window: str | Tensor | None = "hann",
    center: bool = True,
) -> jax.Array:
    """Returns the real signals whose `stft` is x, by overlapping and adding the frames.

    Args:
        x: The real and the imaginary part, of shape [..., frames, fft_length // 2 + 1].
        sequence_length: Size of the window.
        sequence_stride: Distance between the starts of two frames.
        fft_length: Size of a frame.
        length: Size of the result; None for all that the frames determine.
        window: The window of `stft`. With None, frames are added up without dividing by their number, as in Keras.
        center: Whether `stft` was centered.

    Raises:
        ValueError: If x is not a pair of arrays with at least two axes, or another argument is invalid.

    Example:
        >>> signal = jnp.sin(jnp.arange(64.0))
        >>> restored = istft(stft(signal, 16, 8, 16), 16, 8, 16)
        >>> bool(jnp.allclose(restored, signal, atol=1e-5))
        True
    """
    spectrum = as_complex("istft", x)
    if spectrum.ndim < 2:
        raise ValueError(
            f"`istft` takes a spectrum of shape [..., frames, frequencies], got shape {spectrum.shape}; add an axis."
        )
    dtype = jnp.real(spectrum).dtype
    factors = _window("istft", window, sequence_length, sequence_stride, fft_length, dtype)
    frames = jnp.fft.irfft(spectrum, n=fft_length) * jnp.asarray(factors).reshape(
        (1,) * (spectrum.ndim - 1) + (-1,)
    ).astype(dtype)
    count = spectrum.shape[-2]
    size = fft_length + sequence_stride * (count - 1)
    places = np.arange(count)[:, None] * sequence_stride + np.arange(fft_length)

    def overlap(parts: jax.Array) -> jax.Array:
        total = jnp.zeros((*parts.shape[:-2], size), parts.dtype)
        return total.at[..., places].add(parts)

    weight = overlap(jnp.broadcast_to(jnp.square(jnp.asarray(factors, dtype)), (count, fft_length)))
    weight = jnp.where(weight > 1e-10, weight, 1.0)
    signal = overlap(frames) / weight.reshape((1,) * (frames.ndim - 2) + (-1,))
    if window is None:
        signal = signal * (fft_length / sequence_stride)
    start = fft_length // 2 if center else 0
    end = start + length if length is not None else size - fft_length // 2 if center else size
    return signal[..., start:end]


def _window(
    name: str, window: Tensor | str | None, length: int, stride: int, fft_length: int, dtype: DTypeLike
) -> np.ndarray | jax.Array:
    """Returns the window of `length` factors, padded with zeros to `fft_length`, after a check of the arguments."""
    if not isinstance(stride, int) or stride < 1:
        raise ValueError(f"`sequence_stride` of `{name}` must be a positive integer, got {stride!r}; give 1 or more.")
    if fft_length < length:
        raise ValueError(
            f"`fft_length` of `{name}` must be at least `sequence_length`={length}, got {fft_length}; "
            "give a larger one."
        )
    if window is None:
        return np.ones(fft_length, dtype)
    if isinstance(window, str):
        # Each window is a + b cos(2 pi i / n): the periodic forms, which overlap to constant sums.
        offsets = {"hann": 0.5, "hamming": 0.54}
        if window not in offsets:
            raise ValueError(
                f'`window` of `{name}` must be "hann", "hamming", an array or None, got {window!r}; choose one.'
            )
        a = offsets[window]
        angles = [2 * math.pi * i / length for i in range(length)]
        factors: np.ndarray | jax.Array = np.array(
            [a - (1 - a) * math.cos(angle) if length > 1 else 1.0 for angle in angles], dtype
        )
    else:
        factors = as_array(window).astype(dtype)
    if factors.shape != (length,):
        raise ValueError(
            f"`window` of `{name}` must have the shape ({length},) of `sequence_length`, got {factors.shape}; "
            "give one factor per element."
        )
    left = (fft_length - length) // 2
    pad = np.pad if isinstance(factors, np.ndarray) else jnp.pad
    return pad(factors, (left, fft_length - length - left))
