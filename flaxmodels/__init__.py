"""Keras' words, Flax's modules: layers and models that are pure linen modules."""

from typing import TYPE_CHECKING

from flaxmodels import lazy, shadowing

if TYPE_CHECKING:
    from flaxmodels import activations as activations
    from flaxmodels import constraints as constraints
    from flaxmodels import initializers as initializers
    from flaxmodels import interop as interop
    from flaxmodels import layers as layers
    from flaxmodels import models as models
    from flaxmodels import ops as ops
    from flaxmodels import random as random
    from flaxmodels import regularizers as regularizers
    from flaxmodels.building import Input as Input
    from flaxmodels.building import Linen as Linen
    from flaxmodels.building import Model as Model
    from flaxmodels.building import Sequential as Sequential
    from flaxmodels.files import load as load
    from flaxmodels.files import load_weights as load_weights
    from flaxmodels.files import save as save
    from flaxmodels.kernels.dispatch import without_kernels as without_kernels
    from flaxmodels.kernels.native import kernels_info as kernels_info

__version__ = "0.2.0"

# Creating the classes of all layers takes a third of a second, so names are imported when they are first used.
SUBMODULES = "activations constraints initializers interop layers models ops random regularizers"
NAMES = {
    "building": "Input Linen Model Sequential",
    "files": "load load_weights save",
    "kernels.dispatch": "without_kernels",
    "kernels.native": "kernels_info",
}

__getattr__, __dir__, __all__ = lazy.attach(__name__, NAMES, SUBMODULES)

shadowing.warn_if_shadowed()
