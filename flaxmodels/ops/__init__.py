"""Keras ops."""
