"""Keras' operations that pad and crop images, and that cut them into patches."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from flaxmodels.kernels import convolution
from flaxmodels.ops.arguments import is_channels_first, per_axis
from flaxmodels.ops.arrays import Tensor, as_array
from flaxmodels.ops.image.layout import checked_images, choose, image_operation


def _margins(kind: str, axis: str, size: int, low: int | None, high: int | None, target: int | None) -> tuple[int, int]:
    """Returns what is padded or cropped at both ends of an axis, of which two of three arguments are given."""
    first, last = ("top", "bottom") if axis == "height" else ("left", "right")
    given = {f"{first}_{kind}": low, f"{last}_{kind}": high, f"target_{axis}": target}
    if list(given.values()).count(None) != 1 or any(value is not None and value < 0 for value in given.values()):
        names = ", ".join(f"`{name}`" for name in given)
        raise ValueError(f"Exactly two of {names} must be given and not be negative, got {given}; leave one out.")
    # The sum of both margins, if the target is given.
    total = 0 if target is None else target - size if kind == "padding" else size - target
    margins = (total - (high or 0) if low is None else low, total - (low or 0) if high is None else high)
    if min(margins) < 0 or (kind == "cropping" and sum(margins) > size):
        raise ValueError(
            f"The {kind} of the {axis} must not be negative, got {margins} for the size {size} and {given}; "
            f"change `target_{axis}`."
        )
    return margins


def _both_margins(
    kind: str,
    images: jax.Array,
    is_first: bool,
    heights: tuple[int | None, int | None, int | None],
    widths: tuple[int | None, int | None, int | None],
) -> list[tuple[int, int]]:
    """Returns the margins of each axis of images."""
    axis = images.ndim - (2 if is_first else 3)
    both = [
        _margins(kind, "height", images.shape[axis], *heights),
        _margins(kind, "width", images.shape[axis + 1], *widths),
    ]
    return [(0, 0)] * axis + both + [(0, 0)] * (images.ndim - axis - 2)


@image_operation
def pad_images(
    images: Tensor,
    top_padding: int | None = None,
    left_padding: int | None = None,
    bottom_padding: int | None = None,
    right_padding: int | None = None,
    target_height: int | None = None,
    target_width: int | None = None,
    data_format: str | None = None,
) -> jax.Array:
    """Pads images with zeros; give two of the three sizes along each axis.

    Args:
        images: One image or a batch.
        top_padding: Number of zeros above.
        left_padding: Number of zeros to the left.
        bottom_padding: Number of zeros below.
        right_padding: Number of zeros to the right.
        target_height: Height of the result.
        target_width: Width of the result.
        data_format: "channels_last" (also for None) or "channels_first".

    Raises:
        ValueError: If other than two sizes are given along an axis, or one is negative.

    Example:
        >>> pad_images(jnp.ones((2, 2, 1)), top_padding=1, bottom_padding=0, left_padding=2, target_width=5).shape
        (3, 5, 1)
    """
    array = checked_images("pad_images", images)
    heights, widths = (top_padding, bottom_padding, target_height), (left_padding, right_padding, target_width)
    return jnp.pad(array, _both_margins("padding", array, is_channels_first(data_format), heights, widths))


@image_operation
def crop_images(
    images: Tensor,
    top_cropping: int | None = None,
    left_cropping: int | None = None,
    bottom_cropping: int | None = None,
    right_cropping: int | None = None,
    target_height: int | None = None,
    target_width: int | None = None,
    data_format: str | None = None,
) -> jax.Array:
    """Crops images; give two of the three sizes along each axis.

    Args:
        images: One image or a batch.
        top_cropping: Number of rows removed above.
        left_cropping: Number of columns removed to the left.
        bottom_cropping: Number of rows removed below.
        right_cropping: Number of columns removed to the right.
        target_height: Height of the result.
        target_width: Width of the result.
        data_format: "channels_last" (also for None) or "channels_first".

    Raises:
        ValueError: If other than two sizes are given along an axis, or one is negative.

    Example:
        >>> crop_images(jnp.ones((4, 4, 1)), top_cropping=1, bottom_cropping=1, left_cropping=0, target_width=3).shape
        (2, 3, 1)
    """
    array = checked_images("crop_images", images)
    heights, widths = (top_cropping, bottom_cropping, target_height), (left_cropping, right_cropping, target_width)
    margins = _both_margins("cropping", array, is_channels_first(data_format), heights, widths)
    return array[tuple(slice(low, n - high) for n, (low, high) in zip(array.shape, margins, strict=True))]


@image_operation
def extract_patches(
    images: Tensor,
    size: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    dilation_rate: int | Sequence[int] = 1,
    padding: str = "valid",
    data_format: str | None = None,
) -> jax.Array:
    """Cuts images, or volumes if three sizes are given, into patches.

    Args:
        images: One image or a batch.
        size: Size of a patch.
        strides: Distance between two patches; None for the size, so that they do not overlap.
        dilation_rate: Distance between two pixels of a patch.
        padding: "valid", or "same" to pad with zeros.
        data_format: "channels_last" (also for None) or "channels_first".

    Shapes: images [..., H, W, C] -> [..., rows, columns, h * w * C].

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> extract_patches(jnp.ones((2, 8, 8, 3)), size=4).shape
        (2, 2, 2, 48)
    """
    axes = 2 if isinstance(size, int) else len(size)
    if axes not in (2, 3):
        raise ValueError(
            f"`size` of `extract_patches` must be an integer or 2 or 3 integers, got {size!r}; give, for example, 16."
        )
    return _patches(
        "extract_patches", images, per_axis("size", size, axes), strides, dilation_rate, padding, data_format
    )


@image_operation
def extract_patches_3d(
    volumes: Tensor,
    size: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    dilation_rate: int | Sequence[int] = 1,
    padding: str = "valid",
    data_format: str | None = None,
) -> jax.Array:
    """Cuts volumes into patches; arguments and errors are those of `extract_patches`.

    Shapes: volumes [..., D, H, W, C] -> [..., slices, rows, columns, d * h * w * C].

    Example:
        >>> extract_patches_3d(jnp.ones((1, 4, 4, 4, 1)), size=2).shape
        (1, 2, 2, 2, 8)
    """
    sizes = per_axis("size", size, 3)
    return _patches("extract_patches_3d", volumes, sizes, strides, dilation_rate, padding, data_format)


def _patches(
    name: str,
    images: Tensor,
    size: tuple[int, ...],
    strides: int | Sequence[int] | None,
    dilation_rate: int | Sequence[int],
    padding: str,
    data_format: str | None,
) -> jax.Array:
    array, axes = as_array(images), len(size)
    if array.ndim not in (axes + 1, axes + 2):
        raise ValueError(
            f"`{name}` with a size of {axes} numbers takes arrays of {axes + 1} axes, or {axes + 2} with a batch, got "
            f"shape {array.shape}; add or remove an axis."
        )
    steps = size if not strides else per_axis("strides", strides, axes)
    dilation = per_axis("dilation_rate", dilation_rate, axes)
    is_first = is_channels_first(data_format)
    batch = array if array.ndim == axes + 2 else array[None]
    batch = jnp.moveaxis(batch, 1, -1) if is_first else batch
    mode = choose("padding", padding.lower(), ("valid", "same"))
    pads = convolution.padding_pairs(batch.shape[1:-1], size, steps, mode, dilation)
    if steps == size and max(dilation) == 1:
        out = _tiles(convolution.pad(batch, pads), size)
    else:
        out = convolution.extract_patches(batch, size, steps, pads, dilation)
    out = jnp.moveaxis(out, -1, 1) if is_first else out
    return out if array.ndim == axes + 2 else out[0]


def _tiles(images: jax.Array, size: Sequence[int]) -> jax.Array:
    """Returns the patches that do not overlap, which need only a transpose."""
    counts = [n // k for n, k in zip(images.shape[1:-1], size, strict=True)]
    kept = [slice(0, n * k) for n, k in zip(counts, size, strict=True)]
    whole = images[(slice(None), *kept)]
    split = whole.reshape(
        images.shape[0], *(n for pair in zip(counts, size, strict=True) for n in pair), images.shape[-1]
    )
    axes = len(size)
    order = [0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1]
    return split.transpose(order).reshape(images.shape[0], *counts, math.prod(size) * images.shape[-1])
