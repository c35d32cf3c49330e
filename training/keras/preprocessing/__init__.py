"""Keras' `keras.preprocessing`: older places of functions of `keras.utils`."""

from training.keras import refused
from training.keras.preprocessing import image as image
from training.keras.preprocessing import sequence as sequence
from training.keras.utils.timeseries import timeseries_dataset_from_array as timeseries_dataset_from_array

__all__ = ["image", "sequence", "timeseries_dataset_from_array"]
__getattr__, __dir__ = refused.attach(__name__, __all__)
