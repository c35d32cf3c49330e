"""Keras' geometric transformations of images."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.scipy import ndimage
from jax.typing import DTypeLike

from flaxmodels import random
from flaxmodels.ops.arrays import Tensor, as_array, as_float
from flaxmodels.ops.image.filters import filter_channels, gaussian_kernel
from flaxmodels.ops.image.layout import checked_images, choose, image_operation, on_batches
from flaxmodels.ops.image.sampling import FILL_MODES, ORDERS, sample

METHODS = ("linear", "bilinear", "trilinear", "cubic", "bicubic", "tricubic", "lanczos3", "lanczos5")


@image_operation
def map_coordinates(
    inputs: Tensor, coordinates: Tensor, order: int, fill_mode: str = "constant", fill_value: float = 0
) -> jax.Array:
    """Reads an array at any coordinates, by interpolation.

    Args:
        inputs: Any array.
        coordinates: The coordinates along each axis of the array.
        order: 0 for the nearest value, 1 for linear interpolation.
        fill_mode: What is outside the array: "constant", "nearest", "wrap", "mirror" or "reflect".
        fill_value: The value outside for "constant".

    Shapes: inputs of N axes, coordinates [N, ...] -> [...].

    Raises:
        ValueError: If an argument is invalid or the coordinates do not fit.

    Example:
        >>> map_coordinates(jnp.array([0.0, 10.0]), jnp.array([[0.5, 1.0]]), order=1).tolist()
        [5.0, 10.0]
    """
    array, points = as_array(inputs), as_array(coordinates)
    choose("fill_mode", fill_mode, FILL_MODES)
    if order not in (0, 1):
        raise ValueError(f"`order` of `map_coordinates` must be 0 or 1, got {order!r}; choose one.")
    if points.ndim < 2 or points.shape[0] != array.ndim:
        raise ValueError(
            f"`coordinates` must have the shape [{array.ndim}, ...], one row for each axis of the inputs of shape "
            f"{array.shape}, got {points.shape}; stack one array for each axis."
        )
    return ndimage.map_coordinates(array, list(points), order, fill_mode, fill_value)


def _grid(height: int, width: int, dtype: DTypeLike) -> tuple[jax.Array, jax.Array]:
    """Returns the rows [1, H, 1] and the columns [1, 1, W] of pixels."""
    return jnp.arange(height, dtype=dtype)[None, :, None], jnp.arange(width, dtype=dtype)[None, None, :]


@image_operation
def affine_transform(
    images: Tensor,
    transform: Tensor,
    interpolation: str = "bilinear",
    fill_mode: str = "constant",
    fill_value: float = 0,
    data_format: str | None = None,
) -> jax.Array:
    """Applies affine transformations to images.

    The pixel (x, y) of the result is read from (a0 x + a1 y + a2, b0 x + b1 y + b2).

    Args:
        images: One image or a batch.
        transform: The numbers a0, a1, a2, b0, b1, b2, c0, c1 of one transformation or of one for each image. As Keras
            documents for JAX, c0 and c1 count as 0.
        interpolation: "bilinear" or "nearest".
        fill_mode: What is outside an image: "constant", "nearest", "wrap", "mirror" or "reflect".
        fill_value: The value outside for "constant".
        data_format: "channels_last" (also for None) or "channels_first".

    Shapes: images [..., H, W, C], transform [8] or [B, 8] -> the shape of the images.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> image = jnp.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
        >>> affine_transform(image, jnp.array([1.0, 0, 1, 0, 1, 0, 0, 0])).ravel().tolist()
        [2.0, 3.0, 0.0]
    """
    array, numbers = checked_images("affine_transform", images), as_array(as_float(transform))
    choose("interpolation", interpolation, tuple(ORDERS))
    choose("fill_mode", fill_mode, FILL_MODES)
    if numbers.ndim not in (1, 2) or numbers.shape[-1] != 8:
        raise ValueError(
            f"`transform` must be 8 numbers, or 8 for each image of a batch, got shape {numbers.shape}; "
            "give [a0, a1, a2, b0, b1, b2, 0, 0]."
        )

    def apply(batch: jax.Array) -> jax.Array:
        size, height, width, _ = batch.shape
        y, x = _grid(height, width, numbers.dtype)
        a0, a1, a2, b0, b1, b2, _, _ = jnp.moveaxis(jnp.broadcast_to(numbers, (size, 8)), -1, 0)[:, :, None, None]
        return sample(
            batch, b0 * x + b1 * y + b2, a0 * x + a1 * y + a2, interpolation, fill_mode, fill_value
        )  # fmt: skip

    return on_batches(apply, array, data_format)


@image_operation
def perspective_transform(
    images: Tensor,
    start_points: Tensor,
    end_points: Tensor,
    interpolation: str = "bilinear",
    fill_value: float = 0,
    data_format: str | None = None,
) -> jax.Array:
    """Applies the perspective transformations that map four points to four others.

    Args:
        images: One image or a batch.
        start_points: The points (x, y) in the images, in the order top left, top right, bottom left, bottom right.
        end_points: The same points in the result.
        interpolation: "bilinear" or "nearest".
        fill_value: The value outside an image.
        data_format: "channels_last" (also for None) or "channels_first".

    Shapes: images [..., H, W, C], points [4, 2] or [B, 4, 2] -> the shape of the images.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> corners = jnp.array([[0.0, 0], [3, 0], [0, 3], [3, 3]])
        >>> image = jnp.arange(16.0).reshape(4, 4, 1)
        >>> bool(jnp.allclose(perspective_transform(image, corners, corners), image, atol=1e-4))
        True
    """
    array = checked_images("perspective_transform", images)
    start, end = as_array(start_points), as_array(end_points)
    choose("interpolation", interpolation, tuple(ORDERS))
    if start.shape != end.shape or start.ndim not in (2, 3) or start.shape[-2:] != (4, 2):
        raise ValueError(
            "`start_points` and `end_points` must both have the shape (4, 2) or (batch, 4, 2), got "
            f"{start.shape} and {end.shape}; give four points (x, y)."
        )

    def apply(batch: jax.Array) -> jax.Array:
        size, height, width, _ = batch.shape
        numbers = jnp.broadcast_to(_homography(start.astype(jnp.float32), end.astype(jnp.float32)), (size, 8))
        y, x = _grid(height, width, numbers.dtype)
        t = jnp.moveaxis(numbers, -1, 0)[:, :, None, None]
        scale = t[6] * x + t[7] * y + 1.0
        rows, columns = (t[3] * x + t[4] * y + t[5]) / scale, (t[0] * x + t[1] * y + t[2]) / scale
        return sample(batch, rows, columns, interpolation, "constant", fill_value)

    return on_batches(apply, array, data_format)


def _homography(start: jax.Array, end: jax.Array) -> jax.Array:
    """Returns the 8 numbers of the perspective transformations from `end` to `start`, points [..., 4, 2]."""
    (x, y), (to_x, to_y) = jnp.moveaxis(end, -1, 0), jnp.moveaxis(start, -1, 0)
    zero, one = jnp.zeros_like(x), jnp.ones_like(x)
    for_x = jnp.stack([x, y, one, zero, zero, zero, -to_x * x, -to_x * y], axis=-1)
    for_y = jnp.stack([zero, zero, zero, x, y, one, -to_y * x, -to_y * y], axis=-1)
    matrix, right = jnp.concatenate([for_x, for_y], axis=-2), jnp.concatenate([to_x, to_y], axis=-1)
    return jnp.linalg.solve(matrix, right[..., None])[..., 0]


@image_operation
def elastic_transform(
    images: Tensor,
    alpha: Tensor = 20.0,
    sigma: float = 5.0,
    interpolation: str = "bilinear",
    fill_mode: str = "reflect",
    fill_value: float = 0.0,
    seed: random.Seed = None,
    data_format: str | None = None,
) -> jax.Array:
    """Distorts images by random smooth displacements.

    Each pixel is displaced by `alpha` times normal noise of the standard deviation `sigma`, blurred by a Gaussian of
    the same standard deviation. As in Keras, the displacements along x and y are equal.

    Args:
        images: One image or a batch, floating-point.
        alpha: Factor of the displacements.
        sigma: Standard deviation of the noise and of the blur.
        interpolation: "bilinear" or "nearest".
        fill_mode: What is outside an image: "constant", "nearest", "wrap", "mirror" or "reflect".
        fill_value: The value outside for "constant".
        seed: As in `flaxmodels.random`.
        data_format: "channels_last" (also for None) or "channels_first".

    Shapes: images [..., H, W, C] -> the same.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> elastic_transform(jnp.ones((2, 8, 8, 3)), seed=1).shape
        (2, 8, 8, 3)
    """
    array = checked_images("elastic_transform", images)
    choose("interpolation", interpolation, tuple(ORDERS))
    choose("fill_mode", fill_mode, FILL_MODES)
    key = random.draw_key(seed)

    def apply(batch: jax.Array) -> jax.Array:
        size, height, width, _ = batch.shape
        noise = jax.random.normal(key, (size, height, width), batch.dtype) * jnp.asarray(sigma, batch.dtype)
        window = int(6 * sigma) | 1
        kernel = gaussian_kernel((window, window), (sigma, sigma), batch.dtype)
        shift = as_array(alpha) * filter_channels(noise[..., None], kernel)[..., 0]
        y, x = _grid(height, width, shift.dtype)
        return sample(batch, y + shift, x + shift, interpolation, fill_mode, fill_value)

    return on_batches(apply, array, data_format).astype(array.dtype)


@image_operation
def scale_and_translate(
    images: Tensor,
    output_shape: Sequence[int],
    scale: Tensor,
    translation: Tensor,
    spatial_dims: Sequence[int],
    method: str,
    antialias: bool = True,
) -> jax.Array:
    """Scales and moves images: the position p of an image goes to scale * p + translation.

    Args:
        images: Any array.
        output_shape: Shape of the result.
        scale: One factor for each of the `spatial_dims`.
        translation: One distance for each of the `spatial_dims`.
        spatial_dims: The axes to scale.
        method: "linear", "cubic", "lanczos3" or "lanczos5".
        antialias: Whether to smooth images that become smaller.

    Raises:
        ValueError: If `method` is unknown.

    Example:
        >>> image, one = jnp.ones((4, 4)), jnp.ones(2)
        >>> scale_and_translate(image, (8, 8), 2 * one, 0 * one, (0, 1), "linear").shape
        (8, 8)
    """
    choose("method", method, METHODS)
    return jax.image.scale_and_translate(
        as_array(images), tuple(output_shape), tuple(spatial_dims), as_array(scale), as_array(translation), method,
        antialias,
    )  # fmt: skip
