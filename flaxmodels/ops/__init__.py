"""Keras' `keras.ops`: functions that compute on arrays, and on symbols add a node to the graph.

The arguments, defaults and dtypes are Keras'. All functions are names of `ops`, except those of images, which are names
of `ops.image` only.
"""

from flaxmodels import lazy
from flaxmodels.ops.numpy import NAMES as _NUMPY

# The names that each module defines. Type checkers read `__init__.pyi`, which a test compares with this table.
NAMES = {
    "core": "",
    "linalg": "",
    "math": "",
    "nn": "",
    "numpy": " ".join(_NUMPY.values()),
}
SUBMODULES = "core image linalg math nn numpy"

__getattr__, __dir__, __all__ = lazy.attach(__name__, NAMES, SUBMODULES)
