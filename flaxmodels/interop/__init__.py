"""Exchange with other libraries: weights in Keras' order."""

from flaxmodels.interop.keras_weights import get_keras_weights as get_keras_weights
from flaxmodels.interop.keras_weights import set_keras_weights as set_keras_weights
