"""Callbacks that monitor a value of the logs: early stopping, checkpoints, learning rate reduction."""

import math
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from flaxmodels import files
from training.callbacks.base import Callback, Logs
from training.caller import caller_stacklevel
from training.checkpoints import Checkpoints, first_nonfinite_path


class Monitor(Callback):
    """Base class of callbacks that monitor a value of the logs.

    Args:
        monitor: The name of the value.
        mode: "min", "max", or "auto", which infers the direction from the name of the value.
        best: The initial best value, if any.
        min_delta: Smaller changes do not count as improvements.

    Raises:
        ValueError: If the mode is unknown.
    """

    def __init__(self, monitor: str, mode: str, best: float | None, min_delta: float):
        if mode not in ("auto", "min", "max"):
            raise ValueError(
                f"`mode` of {type(self).__name__} must be 'auto', 'min' or 'max', got {mode!r}; use one of them."
            )
        self.monitor, self.mode, self.min_delta = monitor, mode, abs(min_delta)
        self.best = best

    def upward(self) -> bool:
        """Returns whether larger values are better.

        Raises:
            ValueError: If the mode is "auto" and the metric has no known direction.
        """
        if self.mode != "auto":
            return self.mode == "max"
        name = self.monitor.removeprefix("val_")
        if name == "loss" or name.endswith("_loss"):
            return False
        direction = self.trainer.metric_direction(name)
        if direction is None:
            raise ValueError(
                f"{type(self).__name__} does not know whether larger values of {self.monitor!r} are better; "
                "pass mode='min' or mode='max'."
            )
        return direction == "up"

    def improves(self, value: float, reference: float | None) -> bool:
        """Returns whether a value is better than a reference by more than `min_delta`; NaN never is."""
        if math.isnan(value):
            return False
        if reference is None or math.isnan(reference):
            return True
        if self.upward():
            return value - self.min_delta > reference
        return value + self.min_delta < reference

    def current(self, logs: Logs | None) -> float | None:
        """Returns the monitored value; warns and returns None if it is not in the logs."""
        if self.monitor not in (logs or {}):
            warnings.warn(
                f"{type(self).__name__} monitors {self.monitor!r}, which is not in the logs; "
                f"there are {', '.join(map(repr, logs or {}))}.",
                stacklevel=caller_stacklevel(),
            )
            return None
        return float((logs or {})[self.monitor])


class EarlyStopping(Monitor):
    """Stops a run when a value has stopped improving.

    Args:
        monitor: The value of the logs to monitor.
        min_delta: Smaller changes do not count as improvements.
        patience: The number of epochs without improvement after which the run stops.
        verbose: 1 prints a message.
        mode: "min", "max", or "auto", which infers the direction from the name of the value.
        baseline: A value that must be exceeded within `patience` epochs.
        restore_best_weights: Whether to restore the weights of the best epoch.
        start_from_epoch: The first epoch to monitor.

    Raises:
        ValueError: If the mode is unknown, or "auto" for a metric without a known direction.

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
        self.best_weights: Mapping[str, Any] | None = None

    def get_monitor_value(self, logs: Logs | None) -> float | None:
        """Returns the value to monitor; a subclass may override it.

        Args:
            logs: The logs of an epoch.

        References:
            Keras, `keras.callbacks.EarlyStopping.get_monitor_value`.
        """
        return self.current(logs)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Resets the best value and the counters."""
        self.wait, self.stopped_epoch, self.best_epoch = 0, 0, 0
        self.best, self.best_weights = None, None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Compares the value with the best one, and stops the run after `patience` epochs without improvement."""
        current = self.get_monitor_value(logs)
        if current is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self._keep_weights(epoch)
        self.wait += 1
        if self.improves(current, self.best):
            self.best = current
            self._keep_weights(epoch)
            # The counter is reset only if the baseline is exceeded too.
            if self.baseline is None or self.improves(current, self.baseline):
                self.wait = 0
            return
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.trainer.stop_training = True

    def _keep_weights(self, epoch: int) -> None:
        self.best_epoch = epoch
        if self.restore_best_weights:
            self.best_weights = jax.tree.map(np.asarray, self.trainer.variables)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Restores the best weights, if `restore_best_weights` is set."""
        if self.stopped_epoch > 0 and self.verbose > 0:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.restore_best_weights and self.best_weights is not None:
            if self.verbose > 0:
                print(f"Restoring the weights of the best epoch: {self.best_epoch + 1}.")
            self.trainer.variables = self.best_weights


class ReduceLROnPlateau(Monitor):
    """Reduces the learning rate to max(rate * factor, min_lr) when a value has stopped improving.

    Args:
        monitor: The value of the logs to monitor.
        factor: The factor of the learning rate, at least 0 and less than 1.
        patience: The number of epochs without improvement after which the learning rate is reduced.
        verbose: 1 prints a message.
        mode: "min", "max", or "auto", which infers the direction from the name of the value.
        min_delta: Smaller changes do not count as improvements.
        cooldown: The number of epochs after a reduction that are not counted.
        min_lr: The lowest learning rate.

    Raises:
        ValueError: If `factor` is out of range, the mode is unknown, or it is "auto" for a metric without a known
            direction.

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
            raise ValueError(
                f"`factor` of ReduceLROnPlateau must be at least 0 and less than 1, got {factor!r}; 0.1 is the default."
            )
        self.factor, self.patience, self.verbose = factor, patience, verbose
        self.cooldown, self.min_lr = cooldown, min_lr
        self.cooldown_counter, self.wait = 0, 0

    def in_cooldown(self) -> bool:
        """Returns whether epochs are not counted, because the rate was reduced a short while ago."""
        return self.cooldown_counter > 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Resets the best value and the counters."""
        self.best, self.cooldown_counter, self.wait = None, 0, 0

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Compares the value with the best one, and reduces the rate after `patience` epochs without improvement."""
        logs = {} if logs is None else logs
        logs["learning_rate"] = self.trainer.learning_rate
        current = self.current(logs)
        if current is None:
            return
        if self.in_cooldown():
            self.cooldown_counter -= 1
            self.wait = 0
        if self.improves(current, self.best):
            self.best, self.wait = current, 0
        elif not self.in_cooldown():
            self.wait += 1
            if self.wait >= self.patience and self.trainer.learning_rate > np.float32(self.min_lr):
                self.trainer.learning_rate = max(self.trainer.learning_rate * self.factor, self.min_lr)
                self.cooldown_counter, self.wait = self.cooldown, 0
                if self.verbose > 0:
                    print(f"Epoch {epoch + 1}: the learning rate is reduced to {self.trainer.learning_rate:.6g}")


@runtime_checkable
class KerasModel(Protocol):
    """A model of `training.keras`, which saves itself."""

    def get_compile_config(self) -> dict[str, Any]:
        """Returns the arguments of `compile`."""

    def check_can_save(self, filepath: str, architecture: bool) -> None:
        """Raises if the format of a file does not support the model."""

    def save(self, filepath: str) -> None:
        """Writes the model."""

    def save_weights(self, filepath: str) -> None:
        """Writes the weights."""


class ModelCheckpoint(Monitor):
    """Saves the model after each epoch or some steps, optionally only if a value has improved.

    Args:
        filepath: The file. Its suffix determines the format, as in `flaxmodels.save`: ".safetensors", ".keras", or
            ".weights.h5" for weights only. `{epoch}` and the names in the logs are replaced by their values:
            `"{epoch:02d}-{val_loss:.2f}.keras"`.
        monitor: The value of the logs to monitor.
        verbose: 1 prints a message.
        save_best_only: Whether to save only if the value has improved.
        save_weights_only: Whether to omit the architecture; needs ".weights.h5" or ".safetensors".
        mode: "min", "max", or "auto", which infers the direction from the name of the value.
        save_freq: "epoch", or a number of steps; the model is then saved at the end of the chunk that reaches it.
        initial_value_threshold: The initial best value.

    Raises:
        ValueError: If an argument is out of range, the suffix is unknown, or the format does not support
            `save_weights_only`; at the start of training, if the format does not support the model.

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
            raise ValueError(f"`save_freq` must be 'epoch' or a number of steps, got {save_freq!r}.")
        files.check_architecture(filepath, not save_weights_only, f"save_weights_only={save_weights_only}")
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only, self.save_freq = (
            save_best_only,
            save_weights_only,
            save_freq,
        )
        self._epoch, self._last_step, self._unsaved = 0, 0, 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Checks that the format supports the model."""
        if self._keras_model is not None:
            self._keras_model.check_can_save(self.filepath, architecture=not self.save_weights_only)
        else:
            files.check_can_save(self.filepath, self.trainer.model, architecture=not self.save_weights_only)

    @property
    def _keras_model(self) -> KerasModel | None:
        """The model of `training.keras`, whose files also hold the arguments of `compile` and the optimizer."""
        return self.model if isinstance(self.model, KerasModel) else None

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Resets the number of steps of the epoch."""
        self._epoch, self._last_step = epoch, 0

    def on_chunk_end(self, step: int, logs: Logs | None = None) -> None:
        """Saves the model if `save_freq` steps are reached."""
        if isinstance(self.save_freq, str):
            return
        self._unsaved += step - self._last_step
        self._last_step = step
        if self._unsaved >= self.save_freq:
            self._unsaved = 0
            self._save(self._epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Saves the model if `save_freq` is "epoch"."""
        if self.save_freq == "epoch":
            self._save(epoch, logs)

    def _save(self, epoch: int, logs: Logs | None) -> None:
        path = self._path(epoch, logs or {})
        bad = first_nonfinite_path(self.trainer.variables)
        if bad is not None:
            warnings.warn(
                f"The model of epoch {epoch + 1} is not saved to {path}, because {bad} is not finite; "
                "lower the learning rate, or clip the gradients.",
                RuntimeWarning,
                stacklevel=caller_stacklevel(),
            )
            return
        if self.save_best_only:
            current = self.current(logs)
            if current is not None:
                if not self.improves(current, self.best):
                    return
                self.best = current
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        if self._keras_model is None:
            self.trainer.save(path, architecture=not self.save_weights_only)
        elif self.save_weights_only:
            self._keras_model.save_weights(path)
        else:
            self._keras_model.save(path)
        if self.verbose > 0:
            print(f"Epoch {epoch + 1}: model saved to {path}")

    def _path(self, epoch: int, logs: Logs) -> str:
        try:
            return self.filepath.format(epoch=epoch + 1, **logs)
        except KeyError as error:
            raise ValueError(
                f"`filepath` must contain names of the logs, got {error} in {self.filepath!r}; there are 'epoch', "
                f"{', '.join(map(repr, logs))}."
            ) from error


class BackupAndRestore(Callback):
    """Saves the complete state of a run, and resumes it when `fit` is called again after an interruption.

    This is the same as `fit(..., resume=Checkpoints(backup_dir, ...))`. Unlike Keras' callback, it can resume within an
    epoch, and restores the optimizer, the order of the data, the history and the callbacks.

    Args:
        backup_dir: The folder of the checkpoints.
        save_freq: "epoch", or a number of steps.
        double_checkpoint: Whether to keep the previous checkpoint too, in case the newest one is damaged.
        delete_checkpoint: Whether to remove the checkpoints when the run is complete.

    Raises:
        ValueError: If an argument is out of range.

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
            raise ValueError("`backup_dir` of BackupAndRestore must be a folder, got an empty string.")
        self.checkpoints = Checkpoints(
            backup_dir, save_freq, keep=2 if double_checkpoint else 1, delete=delete_checkpoint
        )
