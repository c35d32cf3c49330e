"""Exchange with Keras: weights in Keras' order, `.keras` files and `.weights.h5` files."""

from flaxmodels.interop.keras_files import load_keras as load_keras
from flaxmodels.interop.keras_files import load_keras_weights as load_keras_weights
from flaxmodels.interop.keras_files import save_keras as save_keras
from flaxmodels.interop.keras_files import save_keras_weights as save_keras_weights
from flaxmodels.interop.keras_weights import get_keras_weights as get_keras_weights
from flaxmodels.interop.keras_weights import set_keras_weights as set_keras_weights
