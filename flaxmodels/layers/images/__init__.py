"""Layers that change images: sizes, geometry, colors, and random versions for training."""
