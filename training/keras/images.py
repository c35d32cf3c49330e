"""Layers with state that change images randomly: their generators, and calls without a training flag."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flaxmodels.layers.images.base import ImageLayer
from flaxmodels.layers.images.sizes import RandomCrop
from flaxmodels.random import SeedGenerator
from training.keras import naming, seeds


def trains_by_default(layers: Iterable[object]) -> bool:
    """Returns whether a call on arrays without a training flag runs in training mode, as in Keras.

    In Keras, the flag of a random image layer is True unless a caller sets it. The later layers of a model get it, too.

    Args:
        layers: The layer that is called, and all layers inside it.
    """
    return any(isinstance(layer, ImageLayer) and layer.IS_RANDOM for layer in layers)


# Type checkers see the mixin as an image layer. At run time, the bases of the classes must not repeat.
if TYPE_CHECKING:
    _Base = ImageLayer
else:
    _Base = object


class RandomImages(_Base):
    """Mixin of random image layers, which draw from a generator of their own when they are called on arrays."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if naming.copying.depth or not self.IS_RANDOM:
            return
        given = vars(self).get("seed")
        if isinstance(self, RandomCrop) and given is None:
            object.__setattr__(self, "seed", seeds.draw())
        object.__setattr__(self, "generator", SeedGenerator(given))

    def clone(self, **options: object) -> "RandomImages":
        """Returns a copy without values, which draws from the same generator."""
        copy: RandomImages = super().clone(**options)  # type: ignore[arg-type]
        if "generator" in vars(self):
            object.__setattr__(copy, "generator", vars(self)["generator"])
        return copy

    def call_seed(self) -> SeedGenerator:
        """Returns the generator of the random numbers of one call."""
        generator: SeedGenerator | None = vars(self).get("generator")
        return super().call_seed() if generator is None else generator
