"""Keras' `keras.datasets`: arrays from the files of Keras' cache, which are downloaded once and verified."""

from training.keras import refused
from training.keras.datasets import boston_housing as boston_housing
from training.keras.datasets import california_housing as california_housing
from training.keras.datasets import cifar10 as cifar10
from training.keras.datasets import cifar100 as cifar100
from training.keras.datasets import fashion_mnist as fashion_mnist
from training.keras.datasets import imdb as imdb
from training.keras.datasets import mnist as mnist
from training.keras.datasets import reuters as reuters

__all__ = [
    "boston_housing", "california_housing", "cifar10", "cifar100", "fashion_mnist", "imdb", "mnist", "reuters",
]  # fmt: skip
__getattr__, __dir__ = refused.attach(__name__, __all__)
