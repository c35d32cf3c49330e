"""Layers that turn sound waves into spectrograms."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels import initializers
from flaxmodels.kernels import convolution
from flaxmodels.layers import checks
from flaxmodels.layers.base import Layer
from flaxmodels.ops import spectral

EPSILON = 1e-7  # below the logarithm and the square root, as in Keras
Window = str | Sequence[float] | np.ndarray


def check_choice(layer: Layer, name: str, choices: Sequence[str | None]) -> None:
    """Raises unless an argument of a layer is one of the choices."""
    given = vars(layer)[name]
    if given not in choices:
        raise ValueError(
            f"`{name}` of {layer.label} must be one of {', '.join(map(repr, choices))}, got {given!r}; choose one."
        )


class STFTSpectrogram(Layer):
    """Computes the spectrogram of each channel by a convolution, whose kernels can be trained.

    The kernels are initialized to those of the short-time Fourier transform.

    Args:
        mode: "log" for the logarithm of the magnitude, "magnitude", "psd" for the power of each frequency, "real",
            "imag", "angle", or "stft" for the real and the imaginary part.
        frame_length: Size of a frame.
        frame_step: Distance between frames; None for half of `frame_length`.
        fft_length: Size of the Fourier transform; None for the next power of two.
        window: "hann", "hamming", another window of SciPy, factors, or None.
        periodic: Whether the window is periodic.
        scaling: "density", "spectrum" or None.
        padding: "valid" or "same".
        expand_dims: Whether the channels have an axis of their own.
        data_format: "channels_last" (the default) or "channels_first".

    Shapes: x [B, T, C] -> [B, T', C * F], or [B, T', F, C] with `expand_dims`; F is fft_length // 2 + 1, twice as
    many for "stft". With "channels_first", [B, C, T] -> [B, C * F, T'] or [B, C, T', F].

    Raises:
        ValueError: If an argument is invalid.
        TypeError: If the inputs are not floating-point numbers.

    References:
        Keras, `keras.layers.STFTSpectrogram`.

    Example:
        >>> layer, x = STFTSpectrogram(frame_length=8), jnp.ones((2, 32, 1))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (2, 7, 5)
    """

    mode: str = "log"
    frame_length: int = 256
    frame_step: int | None = None
    fft_length: int | None = None
    window: Window | None = "hann"
    periodic: bool = False
    scaling: str | None = "density"
    padding: str = "valid"
    expand_dims: bool = False
    data_format: str | None = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("real_kernel", "imag_kernel")
    MODES: ClassVar[tuple[str, ...]] = ("log", "magnitude", "psd", "real", "imag", "angle", "stft")

    def __post_init__(self) -> None:
        self.check_positive("frame_length")
        check_choice(self, "mode", self.MODES)
        check_choice(self, "scaling", ("density", "spectrum", None))
        check_choice(self, "padding", ("valid", "same"))
        check_choice(self, "data_format", ("channels_last", "channels_first", None))
        if isinstance(self.window, np.ndarray | list):
            object.__setattr__(self, "window", tuple(np.asarray(self.window, np.float64).tolist()))
        step, size = self.frame_step, self.fft_length
        if step is not None and not (checks.is_integer(step) and 1 <= step <= self.frame_length):
            raise ValueError(
                f"`frame_step` of {self.label} must be an integer from 1 to `frame_length`={self.frame_length}, got "
                f"{step!r}; give a smaller one, or None."
            )
        if size is not None and not (checks.is_integer(size) and size >= self.frame_length):
            raise ValueError(
                f"`fft_length` of {self.label} must be an integer of at least `frame_length`={self.frame_length}, got "
                f"{size!r}; give a larger one, or None."
            )
        self._initializer("real")
        super().__post_init__()

    @nn.nowrap
    def _initializer(self, side: str) -> initializers.STFT:
        given = self.window
        window = given if given is None or isinstance(given, str) else tuple(np.asarray(given).tolist())
        return initializers.STFT(side, window, self.scaling, self.periodic)

    @nn.nowrap
    def argument(self, weight: str, kind: str) -> Any:
        """Returns the argument of a kind for a weight; the initializers are those of the Fourier transform."""
        if kind == "initializer" and weight in self.WEIGHTS:
            return self._initializer(weight.removesuffix("_kernel"))
        return super().argument(weight, kind)

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Returns the spectrograms."""
        self.check_rank(inputs, "B C T" if self._channels_first else "B T C")
        if not jnp.issubdtype(inputs.dtype, jnp.floating):
            raise TypeError(f"{self.label} takes floating-point numbers, got {inputs.dtype.name}; cast the inputs.")
        real = self._convolve(inputs, "real_kernel") if self.mode != "imag" else jnp.zeros(())
        imag = self._convolve(inputs, "imag_kernel") if self.mode != "real" else jnp.zeros(())
        if self.mode in ("real", "imag"):
            return self._arrange(real if self.mode == "real" else imag)
        if self.mode == "angle":
            return self._arrange(jnp.arctan2(imag, real))
        if self.mode == "stft":
            return self._arrange(jnp.concatenate([real, imag], axis=2))
        power = jnp.square(real) + jnp.square(imag)
        if self.mode == "psd":  # all frequencies but the first and the last stand for two
            return self._arrange(power.at[:, :, 1:-1].multiply(2))
        magnitude = self._arrange(jnp.sqrt(jnp.maximum(power, EPSILON)))
        return magnitude if self.mode == "magnitude" else jnp.log(jnp.maximum(magnitude, EPSILON))

    @property
    @nn.nowrap
    def _channels_first(self) -> bool:
        return self.data_format == "channels_first"

    def _convolve(self, inputs: jax.Array, name: str) -> jax.Array:
        """Returns one part of the transform, as [B, C, F, T']."""
        size = self.fft_length or 2 ** math.ceil(math.log2(self.frame_length))
        kernel = self.add_weight(name, (self.frame_length, 1, size // 2 + 1))
        x = self.cast(inputs)
        x = x if self._channels_first else jnp.swapaxes(x, 1, 2)
        batch, channels, time = x.shape
        outputs = convolution.conv(
            x.reshape(batch * channels, time, 1),
            kernel,
            strides=(self.frame_step or self.frame_length // 2,),
            padding=self.padding,
            dilation=(1,),
        )
        return jnp.swapaxes(outputs, 1, 2).reshape(batch, channels, outputs.shape[2], outputs.shape[1])

    @nn.nowrap
    def _arrange(self, outputs: jax.Array) -> jax.Array:
        """Returns [B, C, F, T'] in the layout of the arguments."""
        batch, channels, frequencies, time = outputs.shape
        if self.expand_dims:
            return outputs.transpose((0, 1, 3, 2) if self._channels_first else (0, 3, 2, 1))
        joined = outputs.reshape(batch, channels * frequencies, time)
        return joined if self._channels_first else jnp.swapaxes(joined, 1, 2)


class MelSpectrogram(Layer):
    """Computes the power of sound in bands of the mel scale, by default in decibels.

    As in Keras, `top_db` is relative to the largest power of the whole batch.

    Args:
        fft_length: Size of the Fourier transform.
        sequence_stride: Distance between frames.
        sequence_length: Size of the window; None for `fft_length`.
        window: "hann", "hamming", or an array of factors.
        sampling_rate: Number of samples per second.
        num_mel_bins: Number of bands.
        min_freq: Lowest frequency in Hz.
        max_freq: Highest frequency in Hz; None for half of `sampling_rate`.
        power_to_db: Whether to return decibels.
        top_db: The largest difference in decibels; smaller values are raised.
        mag_exp: Exponent of the magnitude, 2 for the power.
        min_power: Smallest power below the logarithm.
        ref_power: Power of 0 decibels.

    Shapes: x [B, T] or [T] -> [B, M, T'] or [M, T'].

    Raises:
        ValueError: If `fft_length` is smaller than `sequence_length`, or a size is not positive.

    References:
        Stevens, Volkmann and Newman, A Scale for the Measurement of the Psychological Magnitude Pitch, 1937; Keras,
        `keras.layers.MelSpectrogram`.

    Example:
        >>> layer = MelSpectrogram(fft_length=64, sequence_stride=16, num_mel_bins=4)
        >>> layer.apply({}, jnp.ones((2, 128))).shape
        (2, 4, 9)
    """

    fft_length: int = 2048
    sequence_stride: int = 512
    sequence_length: int | None = None
    window: Window | None = "hann"
    sampling_rate: int = 16000
    num_mel_bins: int = 128
    min_freq: float = 20.0
    max_freq: float | None = None
    power_to_db: bool = True
    top_db: float = 80.0
    mag_exp: float = 2.0
    min_power: float = 1e-10
    ref_power: float = 1.0

    def __post_init__(self) -> None:
        self.check_positive("fft_length", "sequence_stride", "sampling_rate", "num_mel_bins")
        if self.sequence_length is not None:
            self.check_positive("sequence_length")
            if self.sequence_length > self.fft_length:
                raise ValueError(
                    f"`sequence_length` of {self.label} must be at most `fft_length`={self.fft_length}, got "
                    f"{self.sequence_length}; give a smaller one."
                )
        if isinstance(self.window, np.ndarray | list):
            object.__setattr__(self, "window", tuple(np.asarray(self.window, np.float64).tolist()))
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Returns the spectrograms."""
        x = inputs.astype(jnp.float64 if self.compute_dtype == jnp.float64 else jnp.float32)
        window = self.window if self.window is None or isinstance(self.window, str) else np.asarray(self.window)
        length = self.sequence_length or self.fft_length
        real, imag = spectral.stft(x, length, self.sequence_stride, self.fft_length, window, True)
        magnitude = jnp.sqrt(jnp.square(real) + jnp.square(imag))
        power = magnitude**self.mag_exp @ jnp.asarray(self._bands(magnitude.shape[-1]), magnitude.dtype)
        if self.power_to_db:
            reference = 10 * math.log10(max(abs(self.ref_power), self.min_power))
            power = 10 * jnp.log10(jnp.maximum(power, self.min_power)) - reference
            power = jnp.maximum(power, jnp.max(power) - self.top_db)
        return self.cast(jnp.swapaxes(power, -1, -2))

    @nn.nowrap
    def _bands(self, frequencies: int) -> np.ndarray:
        """Returns how much each frequency counts in each band: triangles on the mel scale with height 1."""
        highest = self.max_freq or int(self.sampling_rate / 2)
        hertz = np.linspace(0, self.sampling_rate / 2, frequencies)[1:]  # without the constant part
        edges = np.linspace(_mel(self.min_freq), _mel(highest), self.num_mel_bins + 2)
        low, center, high = edges[:-2], edges[1:-1], edges[2:]
        mels = _mel(hertz)[:, None]
        weights = np.minimum((mels - low) / (center - low), (high - mels) / (high - center))
        return np.pad(np.maximum(weights, 0), ((1, 0), (0, 0)))


def _mel(hertz: float | np.ndarray) -> np.ndarray:
    return np.asarray(1127.0 * np.log(1 + np.asarray(hertz) / 700.0))
