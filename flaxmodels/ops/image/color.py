"""Keras' operations between color spaces."""

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.ops.arguments import is_channels_first
from flaxmodels.ops.arrays import Tensor
from flaxmodels.ops.image.layout import checked_images, image_operation

GRAY_WEIGHTS = np.array([0.2989, 0.5870, 0.1140])  # of red, green and blue, as in TensorFlow


def _planes(name: str, images: Tensor, data_format: str | None) -> tuple[list[jax.Array], int]:
    """Returns the three planes of floating-point images, and the axis of the channels."""
    array, axis = checked_images(name, images), -3 if is_channels_first(data_format) else -1
    if not jnp.issubdtype(array.dtype, jnp.floating) or array.shape[axis] != 3:
        raise ValueError(
            f"`{name}` takes floating-point images with 3 channels, got {array.dtype.name} of shape {array.shape}; "
            "cast them and scale them to [0, 1], or change `data_format`."
        )
    return [jnp.squeeze(plane, axis) for plane in jnp.split(array, 3, axis)], axis


@image_operation
def rgb_to_grayscale(images: Tensor, data_format: str | None = None) -> jax.Array:
    """Converts color images to one channel; grayscale images stay as they are.

    Args:
        images: One image or a batch.
        data_format: "channels_last" (also for None) or "channels_first".

    Shapes: images [..., H, W, 3] -> [..., H, W, 1].

    Raises:
        ValueError: If the images have other than 3 or 4 axes, or other than 1 or 3 channels.

    Example:
        >>> rgb_to_grayscale(jnp.ones((2, 2, 3))).shape
        (2, 2, 1)
    """
    array, axis = checked_images("rgb_to_grayscale", images), -3 if is_channels_first(data_format) else -1
    if array.shape[axis] == 1:
        return array
    if array.shape[axis] != 3:
        raise ValueError(
            f"`rgb_to_grayscale` takes images with 1 or 3 channels, got shape {array.shape}; change `data_format`."
        )
    dtype = array.dtype if jnp.issubdtype(array.dtype, jnp.floating) else jnp.float32
    gray = jnp.tensordot(array.astype(dtype), jnp.asarray(GRAY_WEIGHTS, dtype), axes=(axis, 0))
    return jnp.expand_dims(gray, axis).astype(array.dtype)


@image_operation
def rgb_to_hsv(images: Tensor, data_format: str | None = None) -> jax.Array:
    """Converts red, green and blue in [0, 1] to hue, saturation and value in [0, 1].

    Args:
        images: One image or a batch, floating-point.
        data_format: "channels_last" (also for None) or "channels_first".

    Shapes: images [..., H, W, 3] -> the same.

    Raises:
        ValueError: If the images are not floating-point, or have other than 3 channels.

    Example:
        >>> rgb_to_hsv(jnp.array([[[0.5, 0.0, 0.0]]])).tolist()
        [[[0.0, 1.0, 0.5]]]
    """
    (red, green, blue), axis = _planes("rgb_to_hsv", images, data_format)
    # Values below the rounding error count as 0, as in Keras.
    red, green, blue = (jnp.where(jnp.abs(x) < jnp.finfo(x.dtype).eps, 0.0, x) for x in (red, green, blue))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    span = value - jnp.minimum(jnp.minimum(red, green), blue)
    saturation = jnp.where(value > 0, span / jnp.where(value > 0, value, 1.0), 0.0)
    sixth = 1.0 / (6.0 * jnp.where(span > 0, span, 1.0))
    hue = jnp.where(value == green, sixth * (blue - red) + 2.0 / 6.0, sixth * (red - green) + 4.0 / 6.0)
    hue = jnp.where(value == red, sixth * (green - blue), hue)
    hue = jnp.where(span > 0, hue, 0.0) + (hue < 0.0).astype(hue.dtype)
    return jnp.stack([hue, saturation, value], axis=axis)


@image_operation
def hsv_to_rgb(images: Tensor, data_format: str | None = None) -> jax.Array:
    """Converts hue, saturation and value in [0, 1] to red, green and blue; arguments are those of `rgb_to_hsv`.

    Raises:
        ValueError: If the images are not floating-point, or have other than 3 channels.

    Example:
        >>> hsv_to_rgb(jnp.array([[[0.0, 1.0, 0.5]]])).tolist()
        [[[0.5, 0.0, 0.0]]]
    """
    (hue, saturation, value), axis = _planes("hsv_to_rgb", images, data_format)
    angle = jnp.mod(hue, 1.0) * 6.0
    shares = [jnp.abs(angle - 3.0) - 1.0, 2.0 - jnp.abs(angle - 2.0), 2.0 - jnp.abs(angle - 4.0)]
    planes = [value * (1.0 - saturation + saturation * jnp.clip(share, 0.0, 1.0)) for share in shares]
    return jnp.stack(planes, axis=axis)
