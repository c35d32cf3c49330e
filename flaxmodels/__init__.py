"""Keras' words, Flax's modules."""

__version__ = "0.1.0"
