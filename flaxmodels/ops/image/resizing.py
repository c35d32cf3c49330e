"""Keras' operation that resizes images."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from flaxmodels.ops.arguments import is_channels_first
from flaxmodels.ops.arrays import Tensor
from flaxmodels.ops.core import saturate_cast
from flaxmodels.ops.image.layout import checked_images, choose, image_operation, is_integer

INTERPOLATIONS = ("bilinear", "nearest", "lanczos3", "lanczos5", "bicubic")


@image_operation
def resize(
    images: Tensor,
    size: Sequence[int],
    interpolation: str = "bilinear",
    antialias: bool = False,
    crop_to_aspect_ratio: bool = False,
    pad_to_aspect_ratio: bool = False,
    fill_mode: str = "constant",
    fill_value: float = 0.0,
    data_format: str | None = None,
) -> jax.Array:
    """Resizes images.

    Args:
        images: One image or a batch. The result of integers is rounded and has their dtype.
        size: Height and width of the result.
        interpolation: "bilinear", "nearest", "bicubic", "lanczos3" or "lanczos5".
        antialias: Whether to smooth images that become smaller.
        crop_to_aspect_ratio: Whether to crop the middle of the images first, so that they are not distorted.
        pad_to_aspect_ratio: Whether to pad the images first, so that they are not distorted.
        fill_mode: "constant", the only way of padding.
        fill_value: The value of the padding.
        data_format: "channels_last" (also for None) or "channels_first".

    Shapes: images [..., H, W, C] -> [..., *size, C].

    Raises:
        ValueError: If an argument is invalid, or images are to be both cropped and padded.

    Example:
        >>> resize(jnp.ones((2, 8, 8, 3)), (4, 6)).shape
        (2, 4, 6, 3)
    """
    array = checked_images("resize", images)
    choose("interpolation", interpolation, INTERPOLATIONS)
    choose("fill_mode", fill_mode, ("constant",))
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"`size` of `resize` must be two positive integers (height, width), got {tuple(size)}.")
    if crop_to_aspect_ratio and pad_to_aspect_ratio:
        raise ValueError(
            "`resize` crops or pads images to the aspect ratio, got True for both; choose one of "
            "`crop_to_aspect_ratio` and `pad_to_aspect_ratio`."
        )
    height, width = size
    rows = array.ndim - (2 if is_channels_first(data_format) else 3)
    h, w = array.shape[rows : rows + 2]
    resized = array
    if crop_to_aspect_ratio:
        kept_h, kept_w = max(min(h, w * height // width), 1), max(min(w, h * width // height), 1)
        top, left = (h - kept_h) // 2, (w - kept_w) // 2
        resized = array[(slice(None),) * rows + (slice(top, top + kept_h), slice(left, left + kept_w))]
    elif pad_to_aspect_ratio:
        top, left = (max(h, w * height // width) - h) // 2, (max(w, h * width // height) - w) // 2
        # As in Keras, both sides get the same number of pixels, and only one axis is padded.
        both = (top, top) if top else (0, 0), (0, 0) if top else (left, left)
        margins = [(0, 0)] * rows + list(both) + [(0, 0)] * (array.ndim - rows - 2)
        # The padding of integers may be a fraction, so they are resized as floats.
        values = array.astype(jnp.float32) if is_integer(array) else array
        resized = jnp.pad(values, margins, constant_values=fill_value)
    shape = (*array.shape[:rows], height, width, *array.shape[rows + 2 :])
    resized = jax.image.resize(resized, shape, method=interpolation, antialias=antialias)
    if resized.dtype == array.dtype:
        return resized
    return saturate_cast(jnp.round(resized) if is_integer(array) else resized, array.dtype)
