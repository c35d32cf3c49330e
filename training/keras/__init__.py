"""Keras' API with state: `from training import keras` in the place of `import keras`."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from training.keras import refused

if TYPE_CHECKING:
    from training.keras import activations as activations
    from training.keras import backend as backend
    from training.keras import callbacks as callbacks
    from training.keras import config as config
    from training.keras import constraints as constraints
    from training.keras import datasets as datasets
    from training.keras import dtype_policies as dtype_policies
    from training.keras import initializers as initializers
    from training.keras import layers as layers
    from training.keras import losses as losses
    from training.keras import metrics as metrics
    from training.keras import mixed_precision as mixed_precision
    from training.keras import models as models
    from training.keras import ops as ops
    from training.keras import optimizers as optimizers
    from training.keras import preprocessing as preprocessing
    from training.keras import random as random
    from training.keras import regularizers as regularizers
    from training.keras import saving as saving
    from training.keras import tree as tree
    from training.keras import utils as utils
    from training.keras.config import DTypePolicy as DTypePolicy
    from training.keras.dtype_policies import FloatDTypePolicy as FloatDTypePolicy
    from training.keras.initializers import Initializer as Initializer
    from training.keras.input_specs import InputSpec as InputSpec
    from training.keras.inputs import Input as Input
    from training.keras.layers import Layer as Layer
    from training.keras.losses import Loss as Loss
    from training.keras.metrics import Metric as Metric
    from training.keras.models import Model as Model
    from training.keras.models import Sequential as Sequential
    from training.keras.optimizers import Optimizer as Optimizer
    from training.keras.regularizers import Regularizer as Regularizer

# Modules and names are imported when they are first used, so that `from training import keras` is quick.
MODULES = {
    "activations": "training.keras.activations",
    "backend": "training.keras.backend",
    "callbacks": "training.keras.callbacks",
    "config": "training.keras.config",
    "constraints": "training.keras.constraints",
    "datasets": "training.keras.datasets",
    "dtype_policies": "training.keras.dtype_policies",
    "initializers": "training.keras.initializers",
    "layers": "training.keras.layers",
    "losses": "training.keras.losses",
    "metrics": "training.keras.metrics",
    "mixed_precision": "training.keras.mixed_precision",
    "models": "training.keras.models",
    "ops": "training.keras.ops",
    "optimizers": "training.keras.optimizers",
    "preprocessing": "training.keras.preprocessing",
    "random": "training.keras.random",
    "regularizers": "training.keras.regularizers",
    "saving": "training.keras.saving",
    "tree": "training.keras.tree",
    "utils": "training.keras.utils",
}
NAMES = {
    "Initializer": "initializers",
    "Regularizer": "regularizers",
    "DTypePolicy": "config",
    "FloatDTypePolicy": "dtype_policies",
    "Input": "inputs",
    "InputSpec": "input_specs",
    "Layer": "layers",
    "Loss": "losses",
    "Metric": "metrics",
    "Model": "models",
    "Optimizer": "optimizers",
    "Sequential": "models",
}


def __getattr__(name: str) -> Any:
    if name in MODULES:
        value = importlib.import_module(MODULES[name])
    elif name in NAMES:
        value = getattr(importlib.import_module(f"{__name__}.{NAMES[name]}"), name)
    else:
        refused.raise_missing(__name__, name, sys._getframe(1))
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted([*MODULES, *NAMES])
