"""Keras' `keras.preprocessing.sequence`."""

from training.keras import refused
from training.keras.utils.numerical import pad_sequences as pad_sequences

__all__ = ["pad_sequences"]
__getattr__, __dir__ = refused.attach(__name__, __all__)
