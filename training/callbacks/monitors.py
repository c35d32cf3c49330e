"""Callbacks that watch a value: they stop, save or slow down by whether it improves. Keras' decisions."""

import math
import os
import pathlib
import warnings
from typing import Any

import jax
import numpy as np

from flaxmodels import files
from training.callbacks.base import Callback, Logs
from training.checkpoints import Checkpoints, not_finite


class Monitor(Callback):
    """Base of callbacks that watch one value of the logs and know which direction is better."""

    def __init__(self, monitor: str, mode: str, best: float | None, min_delta: float):
        if mode not in ("auto", "min", "max"):
            raise ValueError(
                f"`mode` of {type(self).__name__} is 'auto', 'min' or 'max', got {mode!r}; use one of them."
            )
        self.monitor, self.mode, self.min_delta = monitor, mode, abs(min_delta)
        self.best = best

    def upward(self) -> bool:
        """Whether more is better; in mode "auto" a loss goes down and a metric says it itself."""
        if self.mode != "auto":
            return self.mode == "max"
        name = self.monitor.removeprefix("val_")
        if name == "loss" or name.endswith("_loss"):
            return False
        direction = self.trainer.metric_direction(name)
        if direction is None:
            raise ValueError(
                f"{type(self).__name__} can't tell which direction of {self.monitor!r} is better; "
                "pass mode='min' or mode='max'."
            )
        return direction == "up"

    def improves(self, value: float, on: float | None) -> bool:
        if math.isnan(value):
            return False
        if on is None or math.isnan(on):
            return True
        return value - self.min_delta > on if self.upward() else value + self.min_delta < on

    def current(self, logs: Logs | None) -> float | None:
        """The watched value, or None with a warning."""
        if self.monitor not in (logs or {}):
            warnings.warn(
                f"{type(self).__name__} watches {self.monitor!r}, which is not in the logs; "
                f"there are {', '.join(map(repr, logs or {}))}.",
                stacklevel=2,
            )
            return None
        return float((logs or {})[self.monitor])


class EarlyStopping(Monitor):
    """Ends a run when a value has stopped improving.

    Args:
        monitor: Which value of the logs to watch.
        min_delta: Improvements of less than this do not count.
        patience: Epochs without improvement after which the run ends.
        verbose: 1 prints when it acts.
        mode: "min", "max", or "auto": losses go down, metrics go where they say.
        baseline: A value that must be beaten within `patience` epochs.
        restore_best_weights: Whether to go back to the weights of the best epoch.
        start_from_epoch: Epochs to wait before watching.

    References:
        Keras, `keras.callbacks.EarlyStopping`.
    """

    STATE = ("best", "best_epoch", "best_weights", "stopped_epoch", "wait")

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ):
        super().__init__(monitor, mode, None, min_delta)
        self.patience, self.verbose, self.baseline = patience, verbose, baseline
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch
        self.wait, self.stopped_epoch, self.best_epoch = 0, 0, 0
        self.best_weights: Any = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.wait, self.stopped_epoch, self.best_epoch = 0, 0, 0
        self.best, self.best_weights = None, None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        current = self.current(logs)
        if current is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self._remember(epoch)
        self.wait += 1
        if self.improves(current, self.best):
            self.best = current
            self._remember(epoch)
            # The count starts anew only where the baseline is beaten too.
            if self.baseline is None or self.improves(current, self.baseline):
                self.wait = 0
            return
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.trainer.stop_training = True

    def _remember(self, epoch: int) -> None:
        self.best_epoch = epoch
        if self.restore_best_weights:
            self.best_weights = jax.tree.map(np.asarray, self.trainer.variables)

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch > 0 and self.verbose > 0:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.restore_best_weights and self.best_weights is not None:
            if self.verbose > 0:
                print(f"Restoring the weights of the best epoch: {self.best_epoch + 1}.")
            self.trainer.variables = self.best_weights


class ReduceLROnPlateau(Monitor):
    """Lowers the learning rate when a value has stopped improving.

    new rate = max(rate * factor, min_lr)

    Args:
        monitor: Which value of the logs to watch.
        factor: Factor of the learning rate, below 1.
        patience: Epochs without improvement after which the rate is lowered.
        verbose: 1 prints when it acts.
        mode: "min", "max", or "auto": losses go down, metrics go where they say.
        min_delta: Improvements of less than this do not count.
        cooldown: Epochs after a change in which nothing is counted.
        min_lr: The lowest rate.

    Raises:
        ValueError: If `factor` is not below 1.

    References:
        Keras, `keras.callbacks.ReduceLROnPlateau`.
    """

    STATE = ("best", "cooldown_counter", "wait")

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ):
        super().__init__(monitor, mode, None, min_delta)
        if not 0 <= factor < 1:
            raise ValueError(f"`factor` of ReduceLROnPlateau lies between 0 and 1, got {factor!r}; 0.1 is usual.")
        self.factor, self.patience, self.verbose = factor, patience, verbose
        self.cooldown, self.min_lr = cooldown, min_lr
        self.cooldown_counter, self.wait = 0, 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.best, self.cooldown_counter, self.wait = None, 0, 0

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = {} if logs is None else logs
        logs["learning_rate"] = self.trainer.learning_rate
        current = self.current(logs)
        if current is None:
            return
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.improves(current, self.best):
            self.best, self.wait = current, 0
        elif self.cooldown_counter <= 0:
            self.wait += 1
            if self.wait >= self.patience and self.trainer.learning_rate > np.float32(self.min_lr):
                self.trainer.learning_rate = max(self.trainer.learning_rate * self.factor, self.min_lr)
                self.cooldown_counter, self.wait = self.cooldown, 0
                if self.verbose > 0:
                    print(f"Epoch {epoch + 1}: the learning rate is lowered to {self.trainer.learning_rate:.6g}")


class ModelCheckpoint(Monitor):
    """Saves the model after epochs, or only when a value has improved.

    Args:
        filepath: A file, whose ending says the format as in `flaxmodels.save`: ".safetensors", ".keras", or
            ".weights.h5" for weights alone. `{epoch}` and the names in the logs are filled in,
            `"{epoch:02d}-{val_loss:.2f}.keras"`.
        monitor: Which value of the logs decides.
        verbose: 1 prints when it saves.
        save_best_only: Whether to save only when the value has improved.
        save_weights_only: Whether to leave the architecture out of the file; needs ".weights.h5" or ".safetensors".
        mode: "min", "max", or "auto": losses go down, metrics go where they say.
        save_freq: "epoch", or a number of steps; a model is then saved at the end of the chunk that reaches it.
        initial_value_threshold: The value to beat at the start.

    Raises:
        ValueError: If the ending says no format, or the format does not go with `save_weights_only`; at the start of
            training, if the format cannot describe the model.

    References:
        Keras, `keras.callbacks.ModelCheckpoint`.
    """

    STATE = ("best", "_epoch", "_last_step", "_unsaved")

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ):
        super().__init__(monitor, mode, initial_value_threshold, 0)
        if save_freq != "epoch" and (not isinstance(save_freq, int) or save_freq < 1):
            raise ValueError(f"`save_freq` is 'epoch' or a number of steps, got {save_freq!r}; use one of them.")
        files.check_architecture(filepath, not save_weights_only, f"save_weights_only={save_weights_only}")
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only, self.save_freq = (
            save_best_only,
            save_weights_only,
            save_freq,
        )
        self._epoch, self._last_step, self._unsaved = 0, 0, 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        files.check_can_save(self.filepath, self.trainer.model, architecture=not self.save_weights_only)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch, self._last_step = epoch, 0

    def on_chunk_end(self, step: int, logs: Logs | None = None) -> None:
        if isinstance(self.save_freq, str):
            return
        self._unsaved += step - self._last_step
        self._last_step = step
        if self._unsaved >= self.save_freq:
            self._unsaved = 0
            self._save(self._epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            self._save(epoch, logs)

    def _save(self, epoch: int, logs: Logs | None) -> None:
        path = self._path(epoch, logs or {})
        bad = not_finite(self.trainer.variables)
        if bad is not None:
            warnings.warn(
                f"The model of epoch {epoch + 1} holds numbers that are not finite, first in {bad}, and is not saved "
                f"to {path}; lower the learning rate, or clip the gradients.",
                RuntimeWarning,
                stacklevel=2,
            )
            return
        if self.save_best_only:
            current = self.current(logs)
            if current is not None:
                if not self.improves(current, self.best):
                    return
                self.best = current
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.trainer.save(path, architecture=not self.save_weights_only)
        if self.verbose > 0:
            print(f"Epoch {epoch + 1}: model saved to {path}")

    def _path(self, epoch: int, logs: Logs) -> str:
        try:
            return self.filepath.format(epoch=epoch + 1, **logs)
        except KeyError as error:
            raise ValueError(
                f"`filepath`={self.filepath!r} names {error}, which is not in the logs; there are 'epoch', "
                f"{', '.join(map(repr, logs))}."
            ) from error


class BackupAndRestore(Callback):
    """Saves the whole state of a run, and goes on from there when `fit` is called again after an interruption.

    The same as `fit(..., resume=Checkpoints(backup_dir, ...))`, in Keras' words. Unlike Keras' own, it goes on inside
    an epoch too, with optimizer, order of the data, history and callbacks as they were.

    Args:
        backup_dir: The folder.
        save_freq: "epoch", or a number of steps.
        double_checkpoint: Whether to keep the one before the newest too, in case that the newest is damaged.
        delete_checkpoint: Whether to remove them when the run is complete.

    Raises:
        ValueError: If an argument is none of these.

    References:
        Keras, `keras.callbacks.BackupAndRestore`.
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ):
        if not os.fspath(backup_dir):
            raise ValueError("`backup_dir` of BackupAndRestore is a folder, got an empty text; name one.")
        self.checkpoints = Checkpoints(
            backup_dir, save_freq, keep=2 if double_checkpoint else 1, delete=delete_checkpoint
        )
