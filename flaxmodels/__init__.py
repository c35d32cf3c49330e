"""Keras' words, Flax's modules: layers and models that are pure linen modules."""

from flaxmodels import activations as activations
from flaxmodels import constraints as constraints
from flaxmodels import initializers as initializers
from flaxmodels import interop as interop
from flaxmodels import layers as layers
from flaxmodels import models as models
from flaxmodels import regularizers as regularizers
from flaxmodels.building import Input as Input
from flaxmodels.building import Linen as Linen
from flaxmodels.building import Model as Model
from flaxmodels.building import Sequential as Sequential
from flaxmodels.saving import load as load
from flaxmodels.saving import load_weights as load_weights
from flaxmodels.saving import save as save

__version__ = "0.1.0"
