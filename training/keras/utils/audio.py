"""Reads audio files."""

import math
import wave

import numpy as np

TYPES = {1: "u1", 2: "<i2", 4: "<i4"}  # by the bytes of a sample


def read_wav(path: str, sampling_rate: int | None = None) -> np.ndarray:
    """Reads a .wav file.

    Args:
        path: The file.
        sampling_rate: Samples per second to convert to, by SciPy's polyphase filter; None keeps the file's.

    Returns:
        The samples [T, C] in float32, from -1 to 1.

    Raises:
        ValueError: If the file is not a .wav file of 8-, 16- or 32-bit integers.
    """
    try:
        with wave.open(path, "rb") as file:
            channels, width, rate, frames = file.getparams()[:4]
            data = file.readframes(frames)
    except (wave.Error, EOFError) as error:
        raise ValueError(f"A sound must be a .wav file of integers, got {path}: {error}; convert it.") from error
    if width not in TYPES:
        raise ValueError(f"A sound must have samples of 8, 16 or 32 bits, got {8 * width} in {path}; convert it.")
    numbers = np.frombuffer(data, np.dtype(TYPES[width])).reshape(-1, channels).astype(np.float32)
    half = np.float32(2 ** (8 * width - 1))
    samples: np.ndarray = (numbers - half) / half if width == 1 else numbers / half
    if sampling_rate is None or sampling_rate == rate:
        return samples
    import scipy.signal

    divisor = math.gcd(sampling_rate, rate)
    resampled = scipy.signal.resample_poly(samples, sampling_rate // divisor, rate // divisor, axis=0)
    return np.asarray(resampled, np.float32)
