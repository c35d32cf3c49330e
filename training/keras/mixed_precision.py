"""Keras' `keras.mixed_precision`: the dtype policy of layers."""

from training.keras import refused
from training.keras.config import DTypePolicy as DTypePolicy
from training.keras.config import dtype_policy as dtype_policy
from training.keras.config import set_dtype_policy as set_dtype_policy
from training.keras.optimizers import LossScaleOptimizer as LossScaleOptimizer

Policy = DTypePolicy
global_policy = dtype_policy
set_global_policy = set_dtype_policy

__all__ = [
    "DTypePolicy", "LossScaleOptimizer", "Policy", "dtype_policy", "global_policy", "set_dtype_policy",
    "set_global_policy",
]  # fmt: skip
__getattr__, __dir__ = refused.attach(__name__, __all__)
