"""Keras' layers as linen modules."""

from flaxmodels.layers.base import Layer as Layer
from flaxmodels.layers.dense import Dense as Dense
from flaxmodels.layers.symbolic import Input as Input
