"""Keras' callbacks, whose batch hooks are called once per batch with numbers."""

from typing import Any

import numpy as np

from training.callbacks import PER_STEP, Callback, History, overrides
from training.callbacks import BackupAndRestore as BackupAndRestore
from training.callbacks import CSVLogger as CSVLogger
from training.callbacks import EarlyStopping as EarlyStopping
from training.callbacks import LambdaCallback as LambdaCallback
from training.callbacks import LearningRateScheduler as LearningRateScheduler
from training.callbacks import ModelCheckpoint as ModelCheckpoint
from training.callbacks import ProgbarLogger as ProgbarLogger
from training.callbacks import ReduceLROnPlateau as ReduceLROnPlateau
from training.callbacks import SwapEMAWeights as SwapEMAWeights
from training.callbacks import TensorBoard as TensorBoard
from training.callbacks import TerminateOnNaN as TerminateOnNaN
from training.callbacks.base import Logs
from training.keras import refused

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ProgbarLogger",
    "ReduceLROnPlateau",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
]


def has_batch_hooks(callback: Callback) -> bool:
    """Returns whether a callback of the user overrides a hook that Keras calls once per batch."""
    is_ours = type(callback).__module__.split(".")[0] == "training" and not isinstance(callback, LambdaCallback)
    return not is_ours and overrides(callback, *PER_STEP)


class SortLogs(Callback):
    """Sorts the logs of an epoch by name, as Keras does; it comes before all other callbacks."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Sorts the dictionary in place, because all callbacks get the same one."""
        if logs:
            ordered = sorted(logs.items())
            logs.clear()
            logs.update(ordered)


class PerBatch(Callback):
    """Calls the batch hooks of a callback once per step with numbers, and passes on all other hooks."""

    def __init__(self, inner: Callback):
        self.inner = inner

    def set_trainer(self, trainer: Any) -> None:
        """Passes on the trainer."""
        self.trainer = trainer
        self.inner.set_trainer(trainer)

    def set_params(self, params: dict[str, Any]) -> None:
        """Passes on the parameters of the run."""
        self.inner.set_params(params)

    def get_state(self) -> dict[str, Any]:
        """Returns what a checkpoint saves of the callback."""
        return self.inner.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what a checkpoint saved of the callback."""
        self.inner.set_state(state)

    def on_chunk_end(self, step: int, logs: Logs | None = None) -> None:
        """Passes on the end of a chunk."""
        self.inner.on_chunk_end(step, logs)

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Calls the hook for the first step of a chunk."""
        self.inner.on_train_batch_begin(batch, {})

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Calls the hook with the means after the last step of a chunk, as Keras does with `steps_per_execution`."""
        self.inner.on_train_batch_end(batch, {name: float(np.ravel(value)[-1]) for name, value in (logs or {}).items()})


def _pass_on(hook: str, positions: bool) -> Any:
    """Returns a method that passes on a hook; hooks of epochs also get the number of the epoch."""
    if positions:

        def epoch_method(self: PerBatch, epoch: int, logs: Logs | None = None) -> None:
            getattr(self.inner, hook)(epoch, logs)

        return epoch_method

    def method(self: PerBatch, logs: Logs | None = None) -> None:
        getattr(self.inner, hook)(logs)

    return method


for _hook in ("train_begin", "train_end", "test_begin", "test_end", "predict_begin", "predict_end"):
    setattr(PerBatch, f"on_{_hook}", _pass_on(f"on_{_hook}", positions=False))
for _hook in ("epoch_begin", "epoch_end"):
    setattr(PerBatch, f"on_{_hook}", _pass_on(f"on_{_hook}", positions=True))


__getattr__, __dir__ = refused.attach(__name__, __all__)
