"""The base class of callbacks with its hooks and its saved state, and the history of a run."""

import csv
import difflib
import inspect
import json
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from flaxmodels import html
from flaxmodels.names import refuse_keras
from training import curves
from training.progress import format_duration, format_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from training.trainer import Trainer

Logs = dict[str, Any]

# Hooks that Keras calls once per batch; here they are called once per chunk of steps.
PER_STEP = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
PER_TEST_STEP = ("on_test_batch_begin", "on_test_batch_end")
PER_PREDICT_STEP = ("on_predict_batch_begin", "on_predict_batch_end")


class Callback:
    """Calls the hooks that a subclass overrides, at their points of a run.

    Many steps run as one compiled program, a chunk. `on_train_batch_begin` and `on_train_batch_end`, also under their
    short names, are therefore called once per chunk. The first gets the number of the chunk's first step. The second
    gets the number of its last step, and each log is an array with a value per step. The hooks of test and predict
    batches are also called once per chunk.

    Attributes:
        trainer: The trainer of the run; `trainer.stop_training = True` ends the run after the chunk.
        model: The model of the run.
        params: A dictionary with `verbose`, `epochs` and `steps` (per epoch) of the run.
        has_validation: Whether the run has validation data.

    References:
        Keras, `keras.callbacks.Callback`.

    Example:
        >>> class Shout(Callback):
        ...     def on_epoch_end(self, epoch, logs=None):
        ...         print(f"epoch {epoch}: {logs['loss']:.1f}")
        >>> Shout().on_epoch_end(0, {"loss": 0.5})
        epoch 0: 0.5
    """

    trainer: Any = None
    model: Any = None
    params: dict[str, Any] = {}
    has_validation: bool = False

    # Names of the attributes that a checkpoint saves: numbers, texts, lists and trees of arrays.
    STATE: ClassVar[tuple[str, ...]] = ()

    def set_trainer(self, trainer: "Trainer") -> None:
        """Sets `trainer`; called before the run."""
        self.trainer = trainer
        if self.model is None:
            self.model = trainer.model

    def set_model(self, model: Any) -> None:
        """Sets `model`; called before the run."""
        self.model = model

    def set_params(self, params: dict[str, object]) -> None:
        """Sets `params`; called before the run."""
        self.params = params

    def get_state(self) -> dict[str, object]:
        """Returns what a checkpoint saves of this callback."""
        return {name: getattr(self, name) for name in self.STATE}

    def set_state(self, state: dict[str, object]) -> None:
        """Restores what a checkpoint saved; called after `on_train_begin` of a resumed run."""
        for name, value in state.items():
            setattr(self, name, value)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Called before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Called after the last epoch."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Called before an epoch; epochs are counted from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Called after an epoch and its validation, with the means of the epoch."""

    def on_chunk_end(self, step: int, logs: Logs | None = None) -> None:
        """Called after a chunk, when `step` steps of the epoch are done; `logs` holds the means of these steps."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before a chunk; `batch` is the number of its first step, counted from 0 in the epoch."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Called after a chunk; `batch` is the number of its last step, `logs` has the means after each step."""
        self.on_batch_end(batch, logs)

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Short name of `on_train_batch_begin`, which calls it."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Short name of `on_train_batch_end`, which calls it."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before a chunk of an evaluation; `batch` is the number of its first step."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Called after a chunk of an evaluation; `batch` is the number of its last step, `logs` has the means."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before a chunk of a prediction; `batch` is the number of its first step."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Called after a chunk of a prediction with `logs["outputs"]`; `batch` is the number of its last step."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Called before an evaluation, including the validation of an epoch."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Called after an evaluation, with its loss and metrics."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Called before a prediction."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Called after a prediction."""


def overrides(callback: Callback, *hooks: str) -> bool:
    """Returns whether a callback overrides one of the hooks."""
    return any(getattr(getattr(callback, hook), "__func__", None) is not getattr(Callback, hook) for hook in hooks)


def check(callbacks: object) -> list[Callback]:
    """Returns the callbacks as a list.

    Raises:
        TypeError: If an element is not a callback, or defines a hook that is unknown or takes the wrong arguments.
    """
    given: list[Any] = [callbacks]
    if callbacks is None or isinstance(callbacks, list | tuple):
        given = list(callbacks or [])
    for callback in given:
        refuse_keras(callback)
        if isinstance(callback, type):
            raise TypeError(
                f"A callback must be an object, got the class {callback.__name__}; write {callback.__name__}()."
            )
        if not isinstance(callback, Callback):
            raise TypeError(
                f"A callback must derive from training.callbacks.Callback, got {callback!r} of type "
                f"{type(callback).__name__}; derive its class from Callback."
            )
        _check_hooks(callback)
    return given


def _check_hooks(callback: Callback) -> None:
    """Raises if a method has the name of an unknown hook, or if a hook takes the wrong arguments."""
    hooks = [name for name in dir(Callback) if name.startswith("on_")]
    for name in dir(callback):
        method = getattr(type(callback), name, None) or vars(callback).get(name)
        if name in hooks and overrides(callback, name):
            _check_signature(callback, name)
        if not name.startswith("on_") or name in hooks or not callable(method):
            continue
        close = difflib.get_close_matches(name, hooks, n=1)
        fix = f"did you mean {close[0]}?" if close else f"the hooks are {', '.join(hooks)}."
        raise TypeError(
            f"{type(callback).__name__} has the method {name}, which is never called because there is no such hook; "
            f"{fix}"
        )


def _check_signature(callback: Callback, hook: str) -> None:
    """Raises before the run if a hook takes the wrong arguments, because its call would fail late in the run."""
    taken = list(inspect.signature(getattr(Callback, hook)).parameters)[1:]
    try:
        given = inspect.signature(getattr(callback, hook))
    except (TypeError, ValueError):  # functions written in C have no signature
        return
    try:
        given.bind(*taken)
    except TypeError as error:
        raise TypeError(
            f"{type(callback).__name__}.{hook} is called with ({', '.join(taken)}), got a function of {given}; "
            f"write def {hook}(self, {', '.join(taken[:-1] + ['logs=None'])})."
        ) from error


class History(Callback):
    """Records the logs of every epoch; `fit` returns one.

    A notebook shows it as a table of the last, the lowest and the highest value of each log.

    Attributes:
        history: A list of values for each name in the logs.
        epoch: Numbers of the epochs, counted from 0.
        epochs_of: The numbers of the epochs that logged each name; validation may run only after some epochs.
        seconds: Seconds of each epoch, including validation but not compilation.

    References:
        Keras, `keras.callbacks.History`.
    """

    STATE = ("history", "epoch", "epochs_of", "seconds")

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []
        self.epochs_of: dict[str, list[int]] = {}
        self.seconds: list[float] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.history, self.epoch, self.epochs_of, self.seconds = {}, [], {}, []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)
            self.epochs_of.setdefault(name, []).append(epoch)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Writes epochs, seconds and all values as JSON."""
        content = {"epoch": self.epoch, "seconds": self.seconds, "history": self.history}
        text = json.dumps(content, indent=1, default=lambda array: array.tolist())  # metrics with several values
        pathlib.Path(path).write_text(text + "\n")

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes one row per epoch as CSV."""
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "seconds", *self.history])
            columns = [dict(zip(self.epochs_of[name], values, strict=True)) for name, values in self.history.items()]
            for epoch, seconds in zip(self.epoch, self.seconds, strict=True):
                values = [column.get(epoch, "") for column in columns]
                writer.writerow([epoch, f"{seconds:.4f}", *values])

    def plot(self, title: str = "") -> "Figure":
        """Draws each value over the epochs, with training and validation in one panel.

        A metric with a value per class has a line per class. Matrices and text are left out.

        Args:
            title: Text above the panels.

        Returns:
            A matplotlib figure: a notebook shows it, and `savefig(path)` writes it to a file.

        Raises:
            ModuleNotFoundError: If matplotlib is not installed.
            ValueError: If no epoch was finished, or no value has curves.

        Example:
            >>> history = History()
            >>> history.on_epoch_end(0, {"loss": 2.0, "val_loss": 2.5})
            >>> history.on_epoch_end(1, {"loss": 1.0, "val_loss": 1.5})
            >>> [axis.get_ylabel() for axis in history.plot().axes]
            ['loss']
        """
        return curves.plot(self.epochs_of, self.history, title)

    def _repr_html_(self) -> str:
        """Returns a table of the last, the lowest and the highest value of each log."""
        header = ["", "last", "lowest (epoch)", "highest (epoch)"]
        rows = [[name, format_value(values[-1]), *self._extremes(name)] for name, values in self.history.items()]
        count = f"{len(self.epoch)} {'epoch' if len(self.epoch) == 1 else 'epochs'}"
        return html.table(header, rows, caption=f"{count}, {format_duration(sum(self.seconds))}")

    def _extremes(self, name: str) -> list[str]:
        """Returns the lowest and the highest value with their epochs; empty texts for values that have no order."""
        values, epochs = self.history[name], self.epochs_of[name]
        array = np.asarray(values)
        if array.ndim != 1 or array.dtype.kind not in "biuf" or np.all(np.isnan(array)):
            return ["", ""]
        indices = int(np.nanargmin(values)), int(np.nanargmax(values))
        return [f"{format_value(values[i])} ({epochs[i] + 1})" for i in indices]


class LambdaCallback(Callback):
    """Calls functions at the hooks.

    Args:
        on_epoch_begin: Called with (epoch, logs).
        on_epoch_end: Called with (epoch, logs).
        on_train_begin: Called with (logs).
        on_train_end: Called with (logs).
        on_train_batch_begin: Called with (batch, logs) before each chunk of steps.
        on_train_batch_end: Called with (batch, logs) after each chunk of steps, with a value per step of each log.
        **hooks: Functions for other hooks, such as `on_chunk_end` with (step, logs).

    Raises:
        TypeError: If there is no such hook, or its value is not callable.

    References:
        Keras, `keras.callbacks.LambdaCallback`.

    Example:
        >>> LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch)).on_epoch_end(3, {})
        3
    """

    def __init__(
        self,
        on_epoch_begin: Callable[..., object] | None = None,
        on_epoch_end: Callable[..., object] | None = None,
        on_train_begin: Callable[..., object] | None = None,
        on_train_end: Callable[..., object] | None = None,
        on_train_batch_begin: Callable[..., object] | None = None,
        on_train_batch_end: Callable[..., object] | None = None,
        **hooks: Callable[..., object] | None,
    ):
        hooks |= {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
        }
        known = [name for name in vars(Callback) if name.startswith("on_")]
        for name, hook in hooks.items():
            if hook is None:
                continue
            if name not in known or not callable(hook):
                raise TypeError(
                    f"LambdaCallback takes functions for the hooks {', '.join(known)}, got {name}={hook!r}; "
                    "give a function for one of them."
                )
            setattr(self, name, hook)
