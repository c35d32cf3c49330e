"""Trains linen modules: whole epochs as one compiled program, with Keras' words for losses, metrics and optimizers."""

import importlib
from typing import TYPE_CHECKING, Any

from training import process as process  # its hooks have to be there before a process forks

if TYPE_CHECKING:
    from training import callbacks as callbacks
    from training import checkpoints as checkpoints
    from training import data as data
    from training import datasets as datasets
    from training import losses as losses
    from training import metrics as metrics
    from training import objective as objective
    from training import optimizers as optimizers
    from training import schedules as schedules
    from training import steps as steps
    from training.cache import compilation_cache as compilation_cache
    from training.cache import keep_memory as keep_memory
    from training.checkpoints import Checkpoints as Checkpoints
    from training.state import TrainState as TrainState
    from training.trainer import Trainer as Trainer

MODULES = (
    "data",
    "callbacks",
    "checkpoints",
    "datasets",
    "losses",
    "metrics",
    "objective",
    "optimizers",
    "schedules",
    "steps",
)
NAMES = {
    "compilation_cache": "cache",
    "keep_memory": "cache",
    "Checkpoints": "checkpoints",
    "Trainer": "trainer",
    "TrainState": "state",
}

__all__ = [*NAMES, *MODULES]


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is asked for, so that the command line answers at once."""
    if name in MODULES:
        return importlib.import_module(f"training.{name}")
    if name in NAMES:
        return getattr(importlib.import_module(f"training.{NAMES[name]}"), name)
    raise AttributeError(f"module 'training' has no attribute {name!r}; it has {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
