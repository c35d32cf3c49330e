"""Layers that change the size of images."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels import random
from flaxmodels.layers.images.base import ImageLayer, Transformation, check_choice, uniform
from flaxmodels.layers.symbolic import INFERRING
from flaxmodels.ops.image.resizing import INTERPOLATIONS, resize


class Resizing(ImageLayer):
    """Resizes images.

    Args:
        height: Height of the result.
        width: Width of the result.
        interpolation: "bilinear", "nearest", "bicubic", "lanczos3" or "lanczos5".
        crop_to_aspect_ratio: Whether to crop the middle of the images first, so that they are not distorted.
        pad_to_aspect_ratio: Whether to pad the images first, so that they are not distorted.
        fill_mode: "constant", the only way of padding.
        fill_value: The value of the padding.
        antialias: Whether to smooth images that become smaller.
        data_format: "channels_last" (the default) or "channels_first".

    Shapes: x [H, W, C] or [B, H, W, C] -> [..., height, width, C]; also a dictionary with "images". Integers stay
    integers.

    Raises:
        ValueError: If an argument is invalid, or images are to be both cropped and padded.

    References:
        Keras, `keras.layers.Resizing`.

    Example:
        >>> Resizing(2, 3).apply({}, jnp.ones((5, 4, 4, 1))).shape
        (5, 2, 3, 1)
    """

    height: int
    width: int
    interpolation: str = "bilinear"
    crop_to_aspect_ratio: bool = False
    pad_to_aspect_ratio: bool = False
    fill_mode: str = "constant"
    fill_value: float = 0.0
    antialias: bool = False
    data_format: str | None = None

    IS_RANDOM: ClassVar[bool] = False
    MOVES_PIXELS: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_positive("height", "width")
        check_choice(self, "interpolation", INTERPOLATIONS)
        check_choice(self, "fill_mode", ("constant",))
        if self.crop_to_aspect_ratio and self.pad_to_aspect_ratio:
            raise ValueError(
                f"{self.label} crops or pads images to the aspect ratio, got True for both; choose one of "
                "`crop_to_aspect_ratio` and `pad_to_aspect_ratio`."
            )
        super().__post_init__()

    @nn.nowrap
    def transform_images(
        self, images: jax.Array, transformation: Transformation | None = None, training: bool = True
    ) -> jax.Array:
        """Resizes images; the arguments are those of the base class."""
        return self._on_batch(self.cast_floats(images), {})

    @nn.nowrap
    def change(self, images: jax.Array, transformation: Transformation, interpolation: str | None = None) -> jax.Array:
        """Resizes the images."""
        return resize(  # type: ignore[no-any-return]
            images,
            (self.height, self.width),
            interpolation or self.interpolation,
            self.antialias,
            self.crop_to_aspect_ratio,
            self.pad_to_aspect_ratio,
            self.fill_mode,
            self.fill_value,
            "channels_last",
        )


class CenterCrop(ImageLayer):
    """Crops images to their middle; images that are too small are enlarged first.

    Args:
        height: Height of the result.
        width: Width of the result.
        data_format: "channels_last" (the default) or "channels_first".

    Shapes: x [H, W, C] or [B, H, W, C] -> [..., height, width, C]; also a dictionary with "images".

    Raises:
        ValueError: If an argument is invalid.

    References:
        Keras, `keras.layers.CenterCrop`.

    Example:
        >>> CenterCrop(1, 2).apply({}, jnp.arange(12.0).reshape(3, 4, 1)).ravel().tolist()
        [5.0, 6.0]
    """

    height: int
    width: int
    data_format: str | None = None

    IS_RANDOM: ClassVar[bool] = False
    MOVES_PIXELS: ClassVar[bool] = True
    CASTS_MASKS: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_positive("height", "width")
        super().__post_init__()

    @nn.nowrap
    def change(self, images: jax.Array, transformation: Transformation, interpolation: str | None = None) -> jax.Array:
        """Crops the images."""
        _, height, width, _ = images.shape
        if height < self.height or width < self.width:
            return resize_to_fill(images, self.height, self.width)
        top, left = (height - self.height) // 2, (width - self.width) // 2
        return images[:, top : top + self.height, left : left + self.width]


class RandomCrop(ImageLayer):
    """Crops the images of a batch at one random place in training.

    Images that are too small are cropped to the aspect ratio and enlarged. As in Keras, images keep their size in
    inference, although the shape of symbols is that of training.

    Args:
        height: Height of the result.
        width: Width of the result.
        seed: Integer folded into the "dropout" key; without that key, every call crops at the same place.
        data_format: "channels_last" (the default) or "channels_first".

    Shapes: x [H, W, C] or [B, H, W, C] -> [..., height, width, C] in training; also a dictionary with "images".

    Raises:
        ValueError: If an argument is invalid, or there is no "dropout" key in training.

    References:
        Keras, `keras.layers.RandomCrop`.

    Example:
        >>> RandomCrop(2, 2, seed=1).apply({}, jnp.ones((5, 4, 4, 1)), train=True).shape
        (5, 2, 2, 1)
    """

    height: int
    width: int
    seed: int | None = None
    data_format: str | None = None

    CASTS_IN_INFERENCE: ClassVar[bool] = False
    MOVES_PIXELS: ClassVar[bool] = True
    CASTS_MASKS: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_positive("height", "width")
        super().__post_init__()

    @nn.nowrap
    def transform_images(
        self, images: jax.Array, transformation: Transformation | None = None, training: bool = True
    ) -> jax.Array:
        """Crops images in training; the arguments are those of the base class."""
        if INFERRING.get() and not training:
            # The shape of symbols is that of training.
            transformation, training = {}, True
        return super().transform_images(images, transformation, training)

    @nn.nowrap
    def draw(self, batch: int, height: int, width: int, seed: random.Seed) -> Transformation:
        """Draws the upper left corner of the part that is kept."""
        if height <= self.height or width <= self.width:
            corner = largest_window(height, width, self.height, self.width)[:2]
            return {"h_start": jnp.asarray(corner[0]), "w_start": jnp.asarray(corner[1])}
        top = uniform((), 0.0, float(height - self.height + 1), seed).astype(jnp.int32)
        left = uniform((), 0.0, float(width - self.width + 1), seed).astype(jnp.int32)
        return {"h_start": top, "w_start": left}

    @nn.nowrap
    def change(self, images: jax.Array, transformation: Transformation, interpolation: str | None = None) -> jax.Array:
        """Crops the images."""
        batch, height, width, channels = images.shape
        if height > self.height and width > self.width:
            zero = jnp.asarray(0)
            corner = (zero, transformation.get("h_start", zero), transformation.get("w_start", zero), zero)
            return jax.lax.dynamic_slice(images, corner, (batch, self.height, self.width, channels))
        top, left, _, _ = largest_window(height, width, self.height, self.width)
        part = images[:, top : top + self.height, left : left + self.width]
        if part.shape[1:3] == (self.height, self.width):
            return part
        return resize(part, (self.height, self.width)).astype(images.dtype)  # type: ignore[no-any-return]


def largest_window(height: int, width: int, to_height: int, to_width: int) -> tuple[int, int, int, int]:
    """Returns the largest part in the middle of an image with the aspect ratio of a size: top, left, height, width."""
    kept_height = max(min(height, int(float(width * to_height) / to_width)), 1)
    kept_width = max(min(width, int(float(height * to_width) / to_height)), 1)
    return int(float(height - kept_height) / 2), int(float(width - kept_width) / 2), kept_height, kept_width


def resize_to_fill(images: jax.Array, height: int, width: int) -> jax.Array:
    """Crops images [B, H, W, C] to the aspect ratio of a size, and resizes them to it."""
    top, left, kept_height, kept_width = largest_window(images.shape[1], images.shape[2], height, width)
    part = images[:, top : top + kept_height, left : left + kept_width]
    return resize(part, (height, width))  # type: ignore[no-any-return]
