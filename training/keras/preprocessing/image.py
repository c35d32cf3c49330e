"""Keras' `keras.preprocessing.image`."""

from training.keras import refused
from training.keras.utils.images import array_to_img as array_to_img
from training.keras.utils.images import img_to_array as img_to_array
from training.keras.utils.images import load_img as load_img
from training.keras.utils.images import save_img as save_img
from training.keras.utils.images import smart_resize as smart_resize

__all__ = ["array_to_img", "img_to_array", "load_img", "save_img", "smart_resize"]
__getattr__, __dir__ = refused.attach(__name__, __all__)
