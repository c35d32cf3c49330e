"""Keras' `keras.ops`: the functions of `flaxmodels.ops`, under the names that programs import."""

import sys
from typing import Any

from flaxmodels import ops
from flaxmodels.ops import image, linalg, nn, numpy
from training.keras import refused

__all__ = ops.__all__

# `from training.keras.ops.nn import relu` finds the module of flaxmodels: a second copy would have its own functions.
for _name, _module in (("image", image), ("linalg", linalg), ("nn", nn), ("numpy", numpy)):
    sys.modules[f"{__name__}.{_name}"] = _module


def __getattr__(name: str) -> Any:
    if name not in __all__:
        refused.raise_missing(__name__, name, sys._getframe(1))
    value = globals()[name] = getattr(ops, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
