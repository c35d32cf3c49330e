"""Keras' `keras.ops`: the functions of `flaxmodels.ops`, under the names that programs import."""

import sys

from flaxmodels import ops
from flaxmodels.ops import image, linalg, nn, numpy

# One module with two names: a second copy would have functions of its own.
for _name, _module in (("image", image), ("linalg", linalg), ("nn", nn), ("numpy", numpy)):
    sys.modules[f"{__name__}.{_name}"] = _module
sys.modules[__name__] = ops
