"""Keras' `keras.random`: random numbers from a seed."""

from flaxmodels.random import SeedGenerator as SeedGenerator
from flaxmodels.random import beta as beta
from flaxmodels.random import binomial as binomial
from flaxmodels.random import categorical as categorical
from flaxmodels.random import dropout as dropout
from flaxmodels.random import gamma as gamma
from flaxmodels.random import normal as normal
from flaxmodels.random import randint as randint
from flaxmodels.random import shuffle as shuffle
from flaxmodels.random import truncated_normal as truncated_normal
from flaxmodels.random import uniform as uniform
from training.keras import refused

__all__ = [
    "SeedGenerator", "beta", "binomial", "categorical", "dropout", "gamma", "normal", "randint", "shuffle",
    "truncated_normal", "uniform",
]  # fmt: skip
__getattr__, __dir__ = refused.attach(__name__, __all__)
