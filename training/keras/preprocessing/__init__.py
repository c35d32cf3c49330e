"""Keras' `keras.preprocessing`: older places of functions of `keras.utils`."""

from training.keras import refused
from training.keras.preprocessing import image as image
from training.keras.preprocessing import sequence as sequence
from training.keras.utils.folders import image_dataset_from_directory as image_dataset_from_directory
from training.keras.utils.folders import text_dataset_from_directory as text_dataset_from_directory
from training.keras.utils.timeseries import timeseries_dataset_from_array as timeseries_dataset_from_array

__all__ = [
    "image", "image_dataset_from_directory", "sequence", "text_dataset_from_directory", "timeseries_dataset_from_array",
]  # fmt: skip
__getattr__, __dir__ = refused.attach(__name__, __all__)
