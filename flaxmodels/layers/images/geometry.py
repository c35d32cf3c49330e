"""Layers that move the pixels of images randomly: flips, translations, rotations and zooms."""

import dataclasses
import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels import random
from flaxmodels.layers import checks
from flaxmodels.layers.images.base import Factor, ImageLayer, Transformation, check_choice, factor_range, uniform
from flaxmodels.ops.image.sampling import sample, sample_grid

FILL_MODES = ("reflect", "wrap", "constant", "nearest")
INTERPOLATIONS = ("nearest", "bilinear")
FLIPS = ("horizontal", "vertical", "horizontal_and_vertical")


class RandomFlip(ImageLayer):
    """Flips half of the images in training.

    Args:
        mode: "horizontal", "vertical" or "horizontal_and_vertical". As in Keras, the last one flips an image along
            both axes or along none.
        seed: Integer folded into the "dropout" key; without that key, every call flips the same images.
        data_format: "channels_last" (the default) or "channels_first".

    Shapes: x [H, W, C] or [B, H, W, C] -> the same; also a dictionary with "images".

    Raises:
        ValueError: If an argument is invalid, or there is no "dropout" key in training.

    References:
        Keras, `keras.layers.RandomFlip`.

    Example:
        >>> image = jnp.arange(3.0).reshape(1, 1, 3, 1)
        >>> images = RandomFlip("horizontal", seed=1).apply({}, jnp.tile(image, (100, 1, 1, 1)), train=True)
        >>> sorted({tuple(row) for row in images[:, 0, :, 0].tolist()})
        [(0.0, 1.0, 2.0), (2.0, 1.0, 0.0)]
    """

    mode: str = "horizontal_and_vertical"
    seed: int | None = None
    data_format: str | None = None

    MOVES_PIXELS: ClassVar[bool] = True
    CASTS_MASKS: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice(self, "mode", FLIPS)
        super().__post_init__()

    @nn.nowrap
    def draw(self, batch: int, height: int, width: int, seed: random.Seed) -> Transformation:
        """Draws which images to flip."""
        return {"flips": uniform((batch, 1, 1, 1), 0.0, 1.0, seed) <= 0.5}

    @nn.nowrap
    def change(self, images: jax.Array, transformation: Transformation, interpolation: str | None = None) -> jax.Array:
        """Flips the images."""
        axes = {"horizontal": (2,), "vertical": (1,), "horizontal_and_vertical": (1, 2)}[self.mode]
        flips = jnp.reshape(transformation["flips"], (-1, 1, 1, 1))
        return jnp.where(flips, jnp.flip(images, axes), images)


class Resampling(ImageLayer):
    """Base class of layers that read images at other points."""

    MOVES_PIXELS: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice(self, "fill_mode", FILL_MODES)
        check_choice(self, "interpolation", INTERPOLATIONS)
        if not checks.is_number(self.__dict__["fill_value"]):
            raise ValueError(
                f"`fill_value` of {self.label} must be a number, got {self.__dict__['fill_value']!r}; give one, "
                "such as 0.0."
            )
        super().__post_init__()

    @nn.nowrap
    def read(
        self, images: jax.Array, rows: jax.Array, columns: jax.Array, interpolation: str | None, is_grid: bool = False
    ) -> jax.Array:
        """Reads images [B, H, W, C] at other points, with the layer's arguments.

        Args:
            images: The images.
            rows: Coordinates [B, H, W] along the height, or [B, H] for a grid.
            columns: Coordinates [B, H, W] along the width, or [B, W] for a grid.
            interpolation: "nearest" for masks; None for the layer's own.
            is_grid: Whether the points form a grid parallel to the image.
        """
        options: dict[str, str | float] = vars(self)
        function = sample_grid if is_grid else sample
        mode, value = str(options["fill_mode"]), float(options["fill_value"])
        return function(images, rows, columns, interpolation or str(options["interpolation"]), mode, value)

    @nn.nowrap
    def read_affine(self, images: jax.Array, matrices: jax.Array, interpolation: str | None) -> jax.Array:
        """Reads images at affine points, given by the 8 numbers a0, a1, a2, b0, b1, b2, 0, 0 for each image."""
        a0, a1, a2, b0, b1, b2 = jnp.moveaxis(jnp.reshape(matrices, (-1, 8)), -1, 0)[:6, :, None, None]
        y, x = grid(images, matrices.dtype)
        return self.read(images, b0 * x + b1 * y + b2, a0 * x + a1 * y + a2, interpolation)


class RandomTranslation(Resampling):
    """Moves images by random distances in training.

    Args:
        height_factor: Largest distance as a fraction of the height, or the smallest and the largest one from -1 to 1.
            Images move down for positive values.
        width_factor: The same for the width. Images move to the right for positive values.
        fill_mode: What is outside an image: "reflect", "wrap", "constant" or "nearest".
        interpolation: "bilinear" or "nearest".
        seed: Integer folded into the "dropout" key; without that key, every call moves images by the same distances.
        fill_value: The value outside for "constant".
        data_format: "channels_last" (the default) or "channels_first".

    Shapes: x [H, W, C] or [B, H, W, C] -> the same; also a dictionary with "images".

    Raises:
        ValueError: If an argument is invalid, or there is no "dropout" key in training.

    References:
        Keras, `keras.layers.RandomTranslation`.

    Example:
        >>> image = jnp.arange(4.0).reshape(1, 4, 1)
        >>> RandomTranslation(0.0, (0.25, 0.25), "constant", seed=1).apply({}, image, train=True).ravel().tolist()
        [0.0, 0.0, 1.0, 2.0]
    """

    height_factor: Factor
    width_factor: Factor
    fill_mode: str = "reflect"
    interpolation: str = "bilinear"
    seed: int | None = None
    fill_value: float = 0.0
    data_format: str | None = None

    def __post_init__(self) -> None:
        for name in ("height_factor", "width_factor"):
            factor_range(self, name, -1.0, 1.0)
        super().__post_init__()

    @nn.nowrap
    def draw(self, batch: int, height: int, width: int, seed: random.Seed) -> Transformation:
        """Draws the distances."""
        vertical = uniform((batch, 1), *factor_range(self, "height_factor", -1.0, 1.0), seed) * height
        horizontal = uniform((batch, 1), *factor_range(self, "width_factor", -1.0, 1.0), seed) * width
        return {"translations": jnp.concatenate([horizontal, vertical], axis=1)}

    @nn.nowrap
    def change(self, images: jax.Array, transformation: Transformation, interpolation: str | None = None) -> jax.Array:
        """Moves the images."""
        moved = transformation["translations"]
        y, x = grid(images, moved.dtype)
        return self.read(images, y[:, :, 0] - moved[:, 1:], x[:, 0] - moved[:, :1], interpolation, is_grid=True)


class RandomZoom(Resampling):
    """Enlarges or shrinks images randomly in training, about their centers.

    Args:
        height_factor: Largest change of the height, or the smallest and the largest one, above -1 and at most 1.
            Images shrink for positive values.
        width_factor: The same for the width; None to keep the aspect ratio.
        fill_mode: What is outside an image: "reflect", "wrap", "constant" or "nearest".
        interpolation: "bilinear" or "nearest".
        seed: Integer folded into the "dropout" key; without that key, every call zooms by the same factors.
        fill_value: The value outside for "constant".
        data_format: "channels_last" (the default) or "channels_first".

    Shapes: x [H, W, C] or [B, H, W, C] -> the same; also a dictionary with "images".

    Raises:
        ValueError: If an argument is invalid, or there is no "dropout" key in training.

    References:
        Keras, `keras.layers.RandomZoom`.

    Example:
        >>> image = jnp.arange(4.0).reshape(1, 4, 1)
        >>> RandomZoom((-0.5, -0.5), seed=1).apply({}, image, train=True).ravel().tolist()
        [0.75, 1.25, 1.75, 2.25]
    """

    height_factor: Factor
    width_factor: Factor | None = None
    fill_mode: str = "reflect"
    interpolation: str = "bilinear"
    seed: int | None = None
    fill_value: float = 0.0
    data_format: str | None = None

    def __post_init__(self) -> None:
        for name in ("height_factor",) if self.width_factor is None else ("height_factor", "width_factor"):
            factor_range(self, name, -1.0, 1.0, open_low=True)
        super().__post_init__()

    @nn.nowrap
    def draw(self, batch: int, height: int, width: int, seed: random.Seed) -> Transformation:
        """Draws the factors by which coordinates are multiplied."""
        low, high = factor_range(self, "height_factor", -1.0, 1.0, open_low=True)
        vertical = horizontal = uniform((batch, 1), 1.0 + low, 1.0 + high, seed)
        if self.width_factor is not None:
            low, high = factor_range(self, "width_factor", -1.0, 1.0, open_low=True)
            horizontal = uniform((batch, 1), 1.0 + low, 1.0 + high, seed)
        return {"height_zoom": vertical, "width_zoom": horizontal}

    @nn.nowrap
    def change(self, images: jax.Array, transformation: Transformation, interpolation: str | None = None) -> jax.Array:
        """Zooms into the images or out of them."""
        vertical, horizontal = transformation["height_zoom"], transformation["width_zoom"]
        y, x = grid(images, vertical.dtype)
        _, height, width, _ = images.shape
        rows = vertical * y[:, :, 0] + (height - 1.0) / 2.0 * (1.0 - vertical)
        columns = horizontal * x[:, 0] + (width - 1.0) / 2.0 * (1.0 - horizontal)
        return self.read(images, rows, columns, interpolation, is_grid=True)


class RandomRotation(Resampling):
    """Rotates images by random angles in training, about their centers.

    Args:
        factor: Largest angle as a fraction of a full turn, or the smallest and the largest one from -1 to 1. Images
            turn counter-clockwise for positive values.
        fill_mode: What is outside an image: "reflect", "wrap", "constant" or "nearest".
        interpolation: "bilinear" or "nearest".
        seed: Integer folded into the "dropout" key; without that key, every call rotates by the same angles.
        fill_value: The value outside for "constant".
        data_format: "channels_last" (the default) or "channels_first".

    Shapes: x [H, W, C] or [B, H, W, C] -> the same; also a dictionary with "images".

    Raises:
        ValueError: If an argument is invalid, or there is no "dropout" key in training.

    References:
        Keras, `keras.layers.RandomRotation`.

    Example:
        >>> image = jnp.arange(4.0).reshape(2, 2, 1)
        >>> RandomRotation((0.25, 0.25), seed=1).apply({}, image, train=True).round().astype(int).ravel().tolist()
        [1, 3, 0, 2]
    """

    factor: Factor
    fill_mode: str = "reflect"
    interpolation: str = "bilinear"
    seed: int | None = None
    fill_value: float = 0.0
    data_format: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", factor_range(self, "factor", -1.0, 1.0))
        super().__post_init__()

    @nn.nowrap
    def draw(self, batch: int, height: int, width: int, seed: random.Seed) -> Transformation:
        """Draws the angles in degrees."""
        low, high = factor_range(self, "factor", -1.0, 1.0)
        angle = uniform((batch,), low * 360.0, high * 360.0, seed)
        return {"angle": angle, "rotation_matrix": affine_matrices(Affine(angle), height, width)}

    @nn.nowrap
    def change(self, images: jax.Array, transformation: Transformation, interpolation: str | None = None) -> jax.Array:
        """Rotates the images."""
        return self.read_affine(images, transformation["rotation_matrix"], interpolation)


@dataclasses.dataclass(frozen=True)
class Affine:
    """Parameters of affine transformations, one number for each image; angles are in degrees."""

    angle: jax.Array
    translate_x: jax.Array | float = 0.0
    translate_y: jax.Array | float = 0.0
    scale: jax.Array | float = 1.0
    shear_x: jax.Array | float = 0.0
    shear_y: jax.Array | float = 0.0
    center_x: float = 0.5
    center_y: float = 0.5


def affine_matrices(by: Affine, height: int, width: int) -> jax.Array:
    """Returns the 8 numbers of affine transformations [B, 8] for images of a size.

    Args:
        by: The parameters.
        height: Height of the images.
        width: Width of the images.
    """
    dtype = by.angle.dtype
    turn = by.angle * jnp.asarray(math.pi / 180.0, dtype)
    slope_x, slope_y = (jnp.tan(jnp.asarray(s, dtype) * (math.pi / 180.0)) for s in (by.shear_x, by.shear_y))
    cx, cy = by.center_x * (width - 1), by.center_y * (height - 1)
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    a0, a1 = by.scale * (cos + slope_x * sin), by.scale * (-sin + slope_x * cos)
    b0, b1 = by.scale * (slope_y * cos + sin), by.scale * (slope_y * -sin + cos)
    a2 = by.translate_x + cx - cx * a0 - cy * a1
    b2 = by.translate_y + cy - cx * b0 - cy * b1
    zero = jnp.zeros_like(a0)
    return jnp.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1)


def grid(images: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Returns the rows [1, H, 1] and the columns [1, 1, W] of the pixels of images [B, H, W, C]."""
    _, height, width, _ = images.shape
    return jnp.arange(height, dtype=dtype)[None, :, None], jnp.arange(width, dtype=dtype)[None, None, :]
