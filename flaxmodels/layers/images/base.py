"""The base class of the layers that change images."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels import random
from flaxmodels.layers import checks
from flaxmodels.layers.base import Layer

# Images, or a dictionary with images and what belongs to them.
ImageData: TypeAlias = jax.Array | Mapping[str, jax.Array]
# Random numbers of one call by Keras' names.
Transformation: TypeAlias = Mapping[str, jax.Array]
# One number, or the smallest and the largest one.
Factor: TypeAlias = float | Sequence[float]

PARTS = ("images", "labels", "segmentation_masks")


class ImageLayer(Layer):
    """A layer that takes one image or a batch of images, alone or in a dictionary.

    A dictionary has the key "images" and may have "labels" and "segmentation_masks", which change together with the
    images. A random layer changes images in training only.
    """

    # Whether the layer draws random numbers, and leaves images as they are in inference.
    IS_RANDOM: ClassVar[bool] = True
    # Whether the layer casts images to its dtype in inference, too.
    CASTS_IN_INFERENCE: ClassVar[bool] = True
    # Whether the positions of pixels change, so that segmentation masks must change with the images.
    MOVES_PIXELS: ClassVar[bool] = False
    # Whether segmentation masks are cast to the layer's dtype, as images are.
    CASTS_MASKS: ClassVar[bool] = False

    def __post_init__(self) -> None:
        data_format = vars(self).get("data_format")
        if data_format not in (None, "channels_last", "channels_first"):
            raise ValueError(
                f'`data_format` of {self.label} must be "channels_last" or "channels_first", got {data_format!r}; '
                "choose one."
            )
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: ImageData, *, train: bool = False) -> ImageData:
        """Changes the images, and what belongs to them."""
        parts = self._checked_parts(inputs)
        active = train or not self.IS_RANDOM
        draws = self.call_seed() if active and self.IS_RANDOM else None
        transformation = self.get_random_transformation(parts["images"], training=train, seed=draws) if active else None
        outputs = {"images": self.transform_images(parts["images"], transformation, training=train)}
        if "labels" in parts:
            outputs["labels"] = self.transform_labels(parts["labels"], transformation, training=train)
        if "segmentation_masks" in parts:
            masks = parts["segmentation_masks"]
            outputs["segmentation_masks"] = self.transform_segmentation_masks(masks, transformation, training=train)
        return outputs if isinstance(inputs, Mapping) else outputs["images"]

    @nn.nowrap
    def call_seed(self) -> random.SeedGenerator:
        """Returns the generator of the random numbers of one call: the "dropout" stream, or the layer's seed.

        Raises:
            ValueError: If there is neither a "dropout" key nor a seed.
        """
        seed = vars(self).get("seed")
        if seed is None and not (self.has_rng("dropout") or self.has_rng("params")):
            raise ValueError(
                f"{self.label} needs a random key in training, got none; "
                'pass `rngs={"dropout": key}` to `apply`, or give the layer a `seed`.'
            )
        # A generator without a seed would take one from Python's generator, although the stream replaces it here.
        generator = random.SeedGenerator(0 if seed is None else seed)
        generator.seed = seed
        return generator

    @nn.nowrap
    def get_random_transformation(
        self, data: ImageData, training: bool = True, seed: random.Seed = None
    ) -> Transformation | None:
        """Draws the random numbers of one call.

        Args:
            data: The images.
            training: Whether to draw; a random layer does nothing in inference.
            seed: As in `flaxmodels.random`.
        """
        images = data["images"] if isinstance(data, Mapping) else data
        batch = 1 if images.ndim == 3 else images.shape[0]
        return self.draw(batch, *self._sizes(images), seed=seed) if training or not self.IS_RANDOM else None

    @nn.nowrap
    def draw(self, batch: int, height: int, width: int, seed: random.Seed) -> Transformation | None:
        """Draws the random numbers for images of a size; None for a layer without any."""
        return None

    @nn.nowrap
    def change(self, images: jax.Array, transformation: Transformation, interpolation: str | None = None) -> jax.Array:
        """Changes images [B, H, W, C] as the random numbers determine.

        Args:
            images: The images.
            transformation: What `draw` returned.
            interpolation: "nearest" for masks; None for the layer's own.
        """
        raise NotImplementedError

    @nn.nowrap
    def transform_images(
        self, images: jax.Array, transformation: Transformation | None, training: bool = True
    ) -> jax.Array:
        """Changes images.

        Args:
            images: One image or a batch.
            transformation: What `get_random_transformation` returned.
            training: Whether the layer is in training.
        """
        active = training or not self.IS_RANDOM
        images = self.cast(images) if active or self.CASTS_IN_INFERENCE else self.cast_floats(images)
        return self._on_batch(images, transformation or {}) if active else images

    @nn.nowrap
    def transform_labels(
        self, labels: jax.Array, transformation: Transformation | None, training: bool = True
    ) -> jax.Array:
        """Changes labels with their images; the arguments are those of `transform_images`."""
        return jnp.asarray(labels)

    @nn.nowrap
    def transform_segmentation_masks(
        self, segmentation_masks: jax.Array, transformation: Transformation | None, training: bool = True
    ) -> jax.Array:
        """Changes masks of pixels with their images; the arguments are those of `transform_images`."""
        if self.CASTS_MASKS:
            return self.transform_images(segmentation_masks, transformation, training)
        masks = jnp.asarray(segmentation_masks)
        if not self.MOVES_PIXELS or not (training or not self.IS_RANDOM):
            return masks
        return self._on_batch(masks, transformation or {}, "nearest")

    @property
    @nn.nowrap
    def channels_first(self) -> bool:
        """Whether the axis of the channels is in front of height and width."""
        return vars(self).get("data_format") == "channels_first"

    @nn.nowrap
    def _sizes(self, images: jax.Array) -> tuple[int, int]:
        height, width = images.shape[-2:] if self.channels_first else images.shape[-3:-1]
        return height, width

    @nn.nowrap
    def _on_batch(self, images: jax.Array, transformation: Transformation, *options: str) -> jax.Array:
        """Applies `change` to one image or a batch in any data format."""
        batch = images[None] if images.ndim == 3 else images
        outputs = self.change(jnp.moveaxis(batch, 1, -1) if self.channels_first else batch, transformation, *options)
        outputs = jnp.moveaxis(outputs, -1, 1) if self.channels_first else outputs
        return outputs[0] if images.ndim == 3 else outputs

    @nn.nowrap
    def _checked_parts(self, inputs: ImageData) -> dict[str, jax.Array]:
        """Returns the images and what belongs to them by name.

        Raises:
            ValueError: If a part is unknown, the images are missing, or their number of axes is wrong.
        """
        parts = dict(inputs) if isinstance(inputs, Mapping) else {"images": inputs}
        unknown = sorted(set(parts) - set(PARTS))
        if unknown or "images" not in parts:
            raise ValueError(
                f"A dictionary of {self.label} must have 'images' and may have 'labels' and 'segmentation_masks', got "
                f"the keys {sorted(parts)}; rename or remove the others, because bounding boxes are not supported."
            )
        for name, value in parts.items():
            checks.check_array(self, name, jnp.asarray(value))
        parts = {name: jnp.asarray(value) for name, value in parts.items()}
        if parts["images"].ndim not in (3, 4):
            raise ValueError(
                f"{self.label} takes one image [H, W, C] or a batch [B, H, W, C], got shape {parts['images'].shape}; "
                "add or remove an axis."
            )
        return parts


def factor_range(layer: Layer, name: str, low: float, high: float, open_low: bool = False) -> tuple[float, float]:
    """Returns the smallest and the largest value of a factor, which is one number or a pair.

    A number x stands for the range from -x to x, cut off at `low`.

    Args:
        layer: The layer.
        name: The name of the argument.
        low: The smallest valid number.
        high: The largest valid number.
        open_low: Whether `low` itself is not valid.

    Raises:
        ValueError: If the factor is neither a valid number nor a pair of numbers.
    """
    given = getattr(layer, name)
    values = list(given) if isinstance(given, list | tuple) else [given]
    is_valid = len(values) in ((2,) if isinstance(given, list | tuple) else (1,)) and all(
        checks.is_number(value) and (low < value if open_low else low <= value) and value <= high for value in values
    )
    if not is_valid:
        bounds = f"above {low} and at most {high}" if open_low else f"from {low} to {high}"
        raise ValueError(
            f"`{name}` of {layer.label} must be a number or a pair of numbers {bounds}, got {given!r}; "
            f"give one of these, such as {high / 5}."
        )
    if len(values) == 2:
        lower, upper = sorted(values)
        return lower, upper
    size = abs(values[0])
    return max(-size, low), size


def range_of_values(layer: Layer) -> tuple[float, float]:
    """Returns the argument `value_range` of a layer.

    Raises:
        ValueError: If it is not a pair of different numbers.
    """
    given = layer.__dict__["value_range"]
    is_pair = isinstance(given, list | tuple) and len(given) == 2 and all(checks.is_number(value) for value in given)
    if not is_pair or given[0] == given[1]:
        raise ValueError(
            f"`value_range` of {layer.label} must be the smallest and the largest value of pixels, got {given!r}; "
            "give, for example, (0, 255)."
        )
    return given[0], given[1]


def check_choice(layer: Layer, name: str, names: tuple[str, ...]) -> None:
    """Raises unless the named argument of a layer is one of some names."""
    value = getattr(layer, name)
    if value not in names:
        known = ", ".join(map(repr, names))
        raise ValueError(f"`{name}` of {layer.label} must be one of {known}, got {value!r}; choose one of them.")


def uniform(
    shape: tuple[int, ...], low: float, high: float, seed: random.Seed, dtype: np.dtype | None = None
) -> jax.Array:
    """Draws uniformly from a range, in float32 by default."""
    return random.uniform(shape, low, high, dtype=dtype, seed=seed)
