"""Trains linen modules: whole epochs as one compiled program, with Keras' names for losses, metrics and optimizers."""

from typing import TYPE_CHECKING

from flaxmodels import lazy
from training import process as process  # Its hooks must be registered before the process forks.

if TYPE_CHECKING:
    from training import callbacks as callbacks
    from training import checkpoints as checkpoints
    from training import data as data
    from training import datasets as datasets
    from training import keras as keras
    from training import losses as losses
    from training import metrics as metrics
    from training import objective as objective
    from training import optimizers as optimizers
    from training import schedules as schedules
    from training import steps as steps
    from training.cache import compilation_cache as compilation_cache
    from training.checkpoints import Checkpoints as Checkpoints
    from training.memory import retain_heap as retain_heap
    from training.state import TrainState as TrainState
    from training.trainer import Trainer as Trainer

# Names are imported when they are first used, so that the command line starts quickly.
SUBMODULES = "callbacks checkpoints data datasets keras losses metrics objective optimizers schedules steps"
NAMES = {
    "cache": "compilation_cache",
    "checkpoints": "Checkpoints",
    "memory": "retain_heap",
    "state": "TrainState",
    "trainer": "Trainer",
}

__getattr__, __dir__, __all__ = lazy.attach(__name__, NAMES, SUBMODULES)
