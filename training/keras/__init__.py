"""Keras' API with state: `from training import keras` in the place of `import keras`."""

from flaxmodels import activations as activations
from flaxmodels import constraints as constraints
from flaxmodels import initializers as initializers
from flaxmodels import ops as ops
from flaxmodels import regularizers as regularizers
from training.keras import callbacks as callbacks
from training.keras import layers as layers
from training.keras import losses as losses
from training.keras import metrics as metrics
from training.keras import models as models
from training.keras import optimizers as optimizers
from training.keras.inputs import Input as Input
from training.keras.models import Model as Model
from training.keras.models import Sequential as Sequential
