"""Resizes images on the host, without a compiled program for each size of file."""

import functools
from collections.abc import Callable

import numpy as np


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - x)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -1/2."""
    near, far = ((1.5 * x - 2.5) * x) * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _mitchell(x: np.ndarray) -> np.ndarray:
    """Mitchell and Netravali's cubic with B = C = 1/3."""
    near, far = (7 * x**3 - 12 * x**2 + 16 / 3) / 6, (-7 / 3 * x**3 + 12 * x**2 - 20 * x + 32 / 3) / 6
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _gaussian(x: np.ndarray) -> np.ndarray:
    """A normal density of deviation 1/2 within a radius of 3/2."""
    return np.where(x < 1.5, np.exp(-2 * x**2), 0)


def _lanczos(x: np.ndarray, radius: int) -> np.ndarray:
    return np.where(x < radius, np.sinc(x) * np.sinc(x / radius), 0)


KERNELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bilinear": _triangle,
    "bicubic": _cubic,
    "lanczos3": functools.partial(_lanczos, radius=3),
    "lanczos5": functools.partial(_lanczos, radius=5),
    "gaussian": _gaussian,
    "mitchellcubic": _mitchell,
}
INTERPOLATIONS = (*KERNELS, "nearest", "area")


def resize(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Resizes an image as `keras.ops.image.resize` does, without smoothing.

    Args:
        image: The image [H, W, C].
        size: Height and width of the result.
        interpolation: One of INTERPOLATIONS. "area" averages the pixels that a pixel of the result covers.

    Returns:
        The resized image in float32.
    """
    if image.shape[:2] == size:
        return image.astype(np.float32)
    if interpolation == "nearest":
        rows, columns = (_nearest(n, m) for n, m in zip(image.shape, size, strict=False))
        return image[rows[:, None], columns].astype(np.float32)
    resized = image.astype(np.float32)
    for axis in (0, 1):
        # The weights of "gaussian" and "mitchellcubic" smooth an axis even if it keeps its size.
        weights = _weights(resized.shape[axis], size[axis], interpolation)
        resized = np.moveaxis(np.tensordot(weights, resized, (1, axis)), 0, axis)
    return np.ascontiguousarray(resized)


def _nearest(n: int, m: int) -> np.ndarray:
    """Returns the pixel of n that is nearest to the centre of each of m."""
    return np.minimum(((np.arange(m) + 0.5) * n / m).astype(int), n - 1)


@functools.lru_cache(maxsize=256)
def _weights(n: int, m: int, interpolation: str) -> np.ndarray:
    """Returns the weights [m, n] of n pixels in each of m; the weights of a pixel add up to 1."""
    if interpolation == "area":
        low, high = np.arange(m)[:, None] * n / m, (np.arange(m)[:, None] + 1) * n / m
        weights = np.maximum(0, np.minimum(high, np.arange(n) + 1) - np.maximum(low, np.arange(n)))
    else:
        centres = (np.arange(m)[:, None] + 0.5) * n / m - 0.5
        weights = KERNELS[interpolation](np.abs(centres - np.arange(n)))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
