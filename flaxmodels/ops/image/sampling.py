"""Reading images between their pixels, which all geometric transformations share."""

import functools

import jax
import jax.numpy as jnp

ORDERS = {"nearest": 0, "bilinear": 1}
FILL_MODES = ("constant", "nearest", "wrap", "mirror", "reflect")
Tap = tuple[jax.Array, jax.Array, jax.Array | None]


def _mirrored(index: jax.Array, size: int) -> jax.Array:
    """Returns indices inside an axis that is extended by mirroring about the centers of its outer pixels."""
    last = size - 1
    return jnp.abs((index + last) % max(2 * last, 1) - last)


def _taps(coordinates: jax.Array, size: int, interpolation: str, fill_mode: str) -> list[Tap]:
    """Returns the pixels that coordinates along an axis are read from: index, weight, and whether it is inside.

    The last value is None if all pixels are inside.
    """
    if ORDERS[interpolation] == 0:
        found = [(jax.lax.round(coordinates).astype(jnp.int32), jnp.ones_like(coordinates))]
    else:
        lower = jnp.floor(coordinates)
        index, share = lower.astype(jnp.int32), coordinates - lower
        found = [(index, 1 - share), (index + 1, share)]
    taps: list[Tap] = []
    for index, weight in found:
        if fill_mode == "constant":
            taps.append((jnp.clip(index, 0, size - 1), weight, (index >= 0) & (index < size)))
        elif fill_mode == "wrap":
            taps.append((index % size, weight, None))
        elif fill_mode == "mirror":
            taps.append((_mirrored(index, size), weight, None))
        elif fill_mode == "reflect":
            taps.append(((_mirrored(2 * index + 1, 2 * size + 1) - 1) // 2, weight, None))
        else:
            taps.append((jnp.clip(index, 0, size - 1), weight, None))
    return taps


@functools.partial(jax.jit, static_argnames=("interpolation", "fill_mode", "fill_value"))
def sample(
    images: jax.Array, rows: jax.Array, columns: jax.Array, interpolation: str, fill_mode: str, fill_value: float
) -> jax.Array:
    """Reads images at any points.

    Args:
        images: The images.
        rows: The coordinates of the points along the height, which broadcast with `columns`.
        columns: Their coordinates along the width.
        interpolation: "bilinear" or "nearest".
        fill_mode: What is outside an image: "constant", "nearest", "wrap", "mirror" or "reflect".
        fill_value: The value outside for "constant".

    Shapes: images [B, H, W, C], points [B, H', W'] -> [B, H', W', C].

    Example:
        >>> image = jnp.array([[0.0, 10.0]])[None, :, :, None]
        >>> sample(image, jnp.zeros((1, 1, 1)), jnp.full((1, 1, 1), 0.5), "bilinear", "constant", 0.0).item()
        5.0
    """
    batch, height, width, channels = images.shape
    pixels = images.reshape(batch, height * width, channels)
    read = jax.vmap(lambda values, where: jnp.take(values, where, axis=0, mode="clip"))
    total: jax.Array | float = 0.0
    for row, row_weight, row_inside in _taps(rows, height, interpolation, fill_mode):
        for column, column_weight, column_inside in _taps(columns, width, interpolation, fill_mode):
            values = read(pixels, row * width + column).astype(row_weight.dtype)
            if row_inside is not None and column_inside is not None:
                values = jnp.where((row_inside & column_inside)[..., None], values, fill_value)
            total = total + (row_weight * column_weight)[..., None] * values
    result = jnp.asarray(total)
    if jnp.issubdtype(images.dtype, jnp.integer):
        result = jax.lax.round(result)
    return result.astype(images.dtype)


@functools.partial(jax.jit, static_argnames=("interpolation", "fill_mode", "fill_value"))
def sample_grid(
    images: jax.Array, rows: jax.Array, columns: jax.Array, interpolation: str, fill_mode: str, fill_value: float
) -> jax.Array:
    """Reads images at the points of grids, whose rows and columns are parallel to those of the images.

    Bilinear interpolation is then a product with one sparse matrix for each axis. Matrix products of this size are
    faster than reading single pixels.

    Args:
        images: The images.
        rows: The coordinates of the rows of each grid.
        columns: The coordinates of its columns.
        interpolation: "bilinear" or "nearest".
        fill_mode: What is outside an image: "constant", "nearest", "wrap", "mirror" or "reflect".
        fill_value: The value outside for "constant".

    Shapes: images [B, H, W, C], rows [B, H'], columns [B, W'] -> [B, H', W', C].

    Example:
        >>> image = jnp.array([[0.0, 10.0]])[None, :, :, None]
        >>> sample_grid(image, jnp.zeros((1, 1)), jnp.full((1, 1), 0.5), "bilinear", "constant", 0.0).item()
        5.0
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        return sample(images, rows[:, :, None], columns[:, None, :], interpolation, fill_mode, fill_value)
    _, height, width, _ = images.shape
    vertical = _matrix(rows, height, interpolation, fill_mode)
    horizontal = _matrix(columns, width, interpolation, fill_mode)
    # The weights of a pixel add up to 1, so pixels outside may count as 0 if the value outside is subtracted first.
    shift = fill_value if fill_mode == "constant" else 0.0
    values = images.astype(vertical.dtype) - shift if shift else images.astype(vertical.dtype)
    precision = jax.lax.Precision.HIGHEST
    values = jnp.einsum("byh,bhwc->bywc", vertical, values, precision=precision)
    values = jnp.einsum("bxw,bywc->byxc", horizontal, values, precision=precision)
    return (values + shift if shift else values).astype(images.dtype)


def _matrix(coordinates: jax.Array, size: int, interpolation: str, fill_mode: str) -> jax.Array:
    """Returns the weights [B, N', N] of the pixels of an axis for coordinates [B, N']."""
    pixels = jnp.arange(size, dtype=jnp.int32)[None, None, :]
    total: jax.Array | float = 0.0
    for index, weight, inside in _taps(coordinates, size, interpolation, fill_mode):
        kept = weight if inside is None else jnp.where(inside, weight, 0)
        total = total + jnp.where(index[..., None] == pixels, kept[..., None], 0)
    return jnp.asarray(total)
