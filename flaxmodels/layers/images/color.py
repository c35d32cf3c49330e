"""Layers that change the colors of images randomly."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels import random
from flaxmodels.layers.images.base import Factor, ImageLayer, Transformation, factor_range, range_of_values, uniform


class RandomContrast(ImageLayer):
    """Changes the contrast of each image by a random factor in training.

    y = factor (x - mean) + mean, with the mean of the channel of the image, clipped to the range of values.

    Args:
        factor: A number x from 0 to 1 for factors from 1 to 1 + x, or a pair (a, b) for factors from 1 - a to 1 + b.
        value_range: The smallest and the largest value of pixels.
        seed: Integer folded into the "dropout" key; without that key, every call uses the same factors.
        data_format: "channels_last" (the default) or "channels_first".

    Shapes: x [H, W, C] or [B, H, W, C] -> the same; also a dictionary with "images".

    Raises:
        ValueError: If an argument is invalid, or there is no "dropout" key in training.

    References:
        Keras, `keras.layers.RandomContrast`.

    Example:
        >>> image = jnp.array([10.0, 20.0]).reshape(1, 2, 1)
        >>> y = RandomContrast(0.5, seed=1).apply({}, image, train=True)
        >>> bool(y[0, 0, 0] < 10), float(y.mean())
        (True, 15.0)
        >>> RandomContrast(0.5, seed=1).apply({}, image).ravel().tolist()
        [10.0, 20.0]
    """

    factor: Factor
    value_range: Sequence[float] = (0, 255)
    seed: int | None = None
    data_format: str | None = dataclasses.field(default=None, kw_only=True)

    CASTS_IN_INFERENCE: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", factor_range(self, "factor", 0, 1))
        object.__setattr__(self, "value_range", range_of_values(self))
        super().__post_init__()

    @nn.nowrap
    def draw(self, batch: int, height: int, width: int, seed: random.Seed) -> Transformation:
        """Draws the factors."""
        low, high = factor_range(self, "factor", 0, 1)
        return {"contrast_factor": uniform((batch, 1, 1, 1), 1.0 - low, 1.0 + high, seed, self.compute_dtype)}

    @nn.nowrap
    def change(self, images: jax.Array, transformation: Transformation, interpolation: str | None = None) -> jax.Array:
        """Changes the contrast."""
        mean = jnp.mean(images, axis=(1, 2), keepdims=True)
        factor = jnp.reshape(transformation["contrast_factor"], (-1, 1, 1, 1))
        return jnp.clip((images - mean) * factor + mean, *range_of_values(self))


class RandomBrightness(ImageLayer):
    """Adds a random number to each image in training.

    Images are cast to the layer's dtype first, so that integers do not overflow.

    Args:
        factor: Largest number as a fraction of the range of values, or the smallest and the largest one from -1 to 1.
        value_range: The smallest and the largest value of pixels, to which the result is clipped.
        seed: Integer folded into the "dropout" key; without that key, every call adds the same numbers.
        data_format: "channels_last" (the default) or "channels_first".

    Shapes: x [H, W, C] or [B, H, W, C] -> the same; also a dictionary with "images".

    Raises:
        ValueError: If an argument is invalid, or there is no "dropout" key in training.

    References:
        Keras, `keras.layers.RandomBrightness`.

    Example:
        >>> RandomBrightness((0.5, 0.5), value_range=(0, 1), seed=1).apply({}, jnp.zeros((1, 1, 1)), train=True).item()
        0.5
    """

    factor: Factor
    value_range: Sequence[float] = (0, 255)
    seed: int | None = None
    data_format: str | None = dataclasses.field(default=None, kw_only=True)

    CASTS_IN_INFERENCE: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", factor_range(self, "factor", -1, 1))
        object.__setattr__(self, "value_range", tuple(sorted(range_of_values(self))))
        super().__post_init__()

    @nn.nowrap
    def draw(self, batch: int, height: int, width: int, seed: random.Seed) -> Transformation:
        """Draws the numbers to add."""
        low, high = range_of_values(self)
        return {"rgb_delta": uniform((batch, 1, 1, 1), *factor_range(self, "factor", -1, 1), seed) * (high - low)}

    @nn.nowrap
    def change(self, images: jax.Array, transformation: Transformation, interpolation: str | None = None) -> jax.Array:
        """Adds the numbers."""
        delta = jnp.reshape(transformation["rgb_delta"], (-1, 1, 1, 1)).astype(images.dtype)
        return jnp.clip(images + delta, *range_of_values(self))
