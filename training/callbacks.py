"""What happens around training: early stopping, saving the best model, logs. Keras' names, arguments and decisions."""

import csv
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

Logs = dict[str, float]

# Keras hooks that run once per batch. A compiled run of steps comes back to Python once per chunk, so these can't be
# honoured; `on_chunk_end` takes their place.
PER_BATCH = (
    "on_batch_begin",
    "on_batch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_batch_begin",
    "on_test_batch_end",
    "on_predict_batch_begin",
    "on_predict_batch_end",
)


class Callback:
    """Base of callbacks: override the hooks you need.

    Attributes:
        trainer: The trainer that runs; `trainer.stop_training = True` ends the run after the epoch.
        params: `epochs`, `steps` (per epoch) and `verbose` of the run.

    References:
        Keras, `keras.callbacks.Callback`. Instead of per-batch hooks there is `on_chunk_end`.

    Example:
        >>> class Shout(Callback):
        ...     def on_epoch_end(self, epoch, logs=None):
        ...         print(f"epoch {epoch}: {logs['loss']:.1f}")
        >>> Shout().on_epoch_end(0, {"loss": 0.5})
        epoch 0: 0.5
    """

    trainer: Any = None
    params: dict[str, Any] = {}

    def set_trainer(self, trainer: Any) -> None:
        self.trainer = trainer

    def set_params(self, params: dict[str, Any]) -> None:
        self.params = params

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """After the last epoch."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Before an epoch, counted from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After an epoch and its validation, with the epoch's means."""

    def on_chunk_end(self, step: int, logs: Logs | None = None) -> None:
        """After a chunk of steps; `step` steps of the epoch are done, `logs` holds the means up to here."""


def check(callbacks: Sequence[Any] | Any | None) -> list[Callback]:
    """Returns the callbacks as a list, or says which one can't be honoured.

    Raises:
        TypeError: If one is no callback, or overrides a hook that is never called.
    """
    given: list[Any] = [callbacks]
    if callbacks is None or isinstance(callbacks, list | tuple):
        given = list(callbacks or [])
    for callback in given:
        if isinstance(callback, type):
            raise TypeError(f"A callback is an object, got the class {callback.__name__}; write {callback.__name__}().")
        if not isinstance(callback, Callback):
            raise TypeError(
                f"A callback derives from training.callbacks.Callback, got {callback!r} of type "
                f"{type(callback).__name__}; derive its class from it."
            )
        refused = [hook for hook in PER_BATCH if hasattr(callback, hook)]
        if refused:
            raise TypeError(
                f"{type(callback).__name__} has the hook {refused[0]}, which is never called because many steps run "
                "as one compiled program; use on_chunk_end."
            )
    return given


class History(Callback):
    """Records the logs of every epoch; `fit` returns one.

    Attributes:
        history: A list of values for each name in the logs.
        epoch: The numbers of the epochs, from 0.
        seconds: Seconds of each epoch, validation included, compilation left out.

    References:
        Keras, `keras.callbacks.History`.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []
        self.seconds: list[float] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.history, self.epoch, self.seconds = {}, [], []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Writes epochs, seconds and all values as JSON."""
        import json

        content = {"epoch": self.epoch, "seconds": self.seconds, "history": self.history}
        pathlib.Path(path).write_text(json.dumps(content, indent=1) + "\n")

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes a row per epoch as CSV."""
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "seconds", *self.history])
            for i, (epoch, seconds) in enumerate(zip(self.epoch, self.seconds, strict=True)):
                values = [column[i] if i < len(column) else "" for column in self.history.values()]
                writer.writerow([epoch, f"{seconds:.4f}", *values])


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
        if on is None:
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


class ModelCheckpoint(Monitor):
    """Saves the model after epochs, or only when a value has improved.

    Args:
        filepath: A file; `{epoch}` and the names in the logs are filled in, `"{epoch:02d}-{val_loss:.2f}.safetensors"`.
        monitor: Which value of the logs decides.
        verbose: 1 prints when it saves.
        save_best_only: Whether to save only when the value has improved.
        save_weights_only: Whether to leave the architecture out of the file.
        mode: "min", "max", or "auto": losses go down, metrics go where they say.
        save_freq: "epoch", or a number of steps; a model is then saved at the end of the chunk that reaches it.
        initial_value_threshold: The value to beat at the start.

    References:
        Keras, `keras.callbacks.ModelCheckpoint`.
    """

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
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only, self.save_freq = (
            save_best_only,
            save_weights_only,
            save_freq,
        )
        self._epoch, self._last_step, self._unsaved = 0, 0, 0

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


class CSVLogger(Callback):
    """Writes the logs of every epoch as a row of a CSV file, at once.

    Args:
        filename: The file.
        separator: What stands between values.
        append: Whether to go on in a file that is there.

    References:
        Keras, `keras.callbacks.CSVLogger`.
    """

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False):
        self.filename, self.separator, self.append = os.fspath(filename), separator, append
        self.keys: list[str] | None = None
        self._header = True

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.keys = None
        pathlib.Path(self.filename).parent.mkdir(parents=True, exist_ok=True)
        self._header = not (self.append and os.path.exists(self.filename) and os.path.getsize(self.filename) > 0)
        if not self.append:
            open(self.filename, "w").close()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        if self.keys is None:
            self.keys = sorted(logs)
            # Validation may come later than the first epoch; its columns are there from the start.
            val_keys = [f"val_{key}" for key in self.keys if not key.startswith("val_")]
            if not any(key.startswith("val_") for key in self.keys) and self.params.get("validation"):
                self.keys += val_keys
        with open(self.filename, "a", newline="") as file:
            writer = csv.writer(file, delimiter=self.separator)
            if self._header:
                writer.writerow(["epoch", *self.keys])
                self._header = False
            writer.writerow([epoch, *(logs.get(key, "NA") for key in self.keys)])


class LambdaCallback(Callback):
    """Makes a callback of functions.

    Args:
        on_epoch_begin: Called with (epoch, logs).
        on_epoch_end: Called with (epoch, logs).
        on_train_begin: Called with (logs).
        on_train_end: Called with (logs).
        on_chunk_end: Called with (step, logs).

    References:
        Keras, `keras.callbacks.LambdaCallback`.

    Example:
        >>> LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch)).on_epoch_end(3, {})
        3
    """

    def __init__(
        self,
        on_epoch_begin: Callable[..., Any] | None = None,
        on_epoch_end: Callable[..., Any] | None = None,
        on_train_begin: Callable[..., Any] | None = None,
        on_train_end: Callable[..., Any] | None = None,
        on_chunk_end: Callable[..., Any] | None = None,
    ):
        hooks = {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_chunk_end": on_chunk_end,
        }
        for name, hook in hooks.items():
            if hook is not None:
                setattr(self, name, hook)
