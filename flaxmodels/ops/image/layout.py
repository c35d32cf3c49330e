"""Checks and layouts that the operations on images share."""

from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp

from flaxmodels.ops.arguments import is_channels_first
from flaxmodels.ops.arrays import Tensor, as_array
from flaxmodels.ops.base import operation

P = ParamSpec("P")


def image_operation(function: Callable[P, object]) -> Callable[P, Any]:
    """Makes an operation whose name in graphs and files starts with "image."."""
    return operation(function, f"image.{function.__name__}")


def checked_images(name: str, images: Tensor) -> jax.Array:
    """Returns images as an array.

    Raises:
        ValueError: If it has other than 3 axes (one image) or 4 (a batch).
    """
    array = as_array(images)
    if array.ndim not in (3, 4):
        raise ValueError(
            f"`{name}` takes one image with 3 axes or a batch with 4, got shape {array.shape}; "
            "reshape it to [B, H, W, C]."
        )
    return array


def on_batches(function: Callable[[jax.Array], jax.Array], images: jax.Array, data_format: str | None) -> jax.Array:
    """Applies a function of images [B, H, W, C] to one image or a batch in any data format."""
    first = is_channels_first(data_format)
    batch = images[None] if images.ndim == 3 else images
    out = function(jnp.moveaxis(batch, 1, -1) if first else batch)
    out = jnp.moveaxis(out, 3, 1) if first else out
    return out[0] if images.ndim == 3 else out


def choose(argument: str, value: str, names: tuple[str, ...]) -> str:
    """Returns a value after a check that it is one of the names.

    Raises:
        ValueError: If it is not.
    """
    if value not in names:
        known = ", ".join(map(repr, names))
        raise ValueError(f"`{argument}` must be one of {known}, got {value!r}; choose one of them.")
    return value


def is_integer(images: jax.Array) -> bool:
    """Returns whether images hold integers."""
    return bool(jnp.issubdtype(images.dtype, jnp.integer))
