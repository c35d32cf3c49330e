"""Keras' callbacks, whose batch hooks are called once per batch with numbers."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from training.callbacks import PER_PREDICT_STEP, PER_STEP, PER_TEST_STEP, Callback, History, check, overrides
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
from training.keras.progbar import Progbar
from training.objective import flat_logs
from training.session import Session

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackList",
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
    return not is_ours and overrides(callback, *PER_STEP, *PER_TEST_STEP, *PER_PREDICT_STEP)


def as_numbers(logs: Mapping[str, object] | None) -> Logs:
    """Returns logs as numbers, sorted by name as in Keras; values that are no numbers stay.

    Example:
        >>> as_numbers({"b": np.float32(1), "a": {"d": np.ones(1), "c": 2}})
        {'c': 2.0, 'd': 1.0, 'b': 1.0}
    """
    found = flat_logs(logs or {})
    for name, value in found.items():
        with contextlib.suppress(TypeError, ValueError):
            found[name] = float(value.item() if np.size(value) == 1 and hasattr(value, "item") else value)
    return found


class SortLogs(Callback):
    """Sorts the logs of an epoch as Keras does; it comes before all other callbacks.

    Args:
        session: The session that trains.
    """

    def __init__(self, session: Session):
        self.session = session

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Sorts the dictionary in place, because all callbacks get the same one."""
        if logs:
            ordered = sorted_logs(logs, self.session)
            logs.clear()
            logs.update(ordered)


def sorted_logs(logs: Logs, session: Session) -> Logs:
    """Returns logs sorted by name; the entries of a metric whose result is a dictionary follow one another."""
    objective = None if session.measured is None else session.measured[0]
    if objective is None or not any(metric.entries for metric in objective.metrics):
        return dict(sorted(logs.items()))
    return dict(sorted(logs.items(), key=lambda item: (objective.place_of(item[0]), item[0])))


class PerBatch(Callback):
    """Calls the hooks of batches of a callback with numbers, and passes on all other hooks.

    Args:
        inner: The callback.
    """

    def __init__(self, inner: Callback):
        self.inner = inner
        # A run returns to Python after each step only if hooks are overridden, so only these are passed on.
        if overrides(inner, *PER_STEP):
            self.__dict__["on_train_batch_begin"] = lambda batch, logs=None: inner.on_train_batch_begin(batch, {})
            self.__dict__["on_train_batch_end"] = self._end_train_batch
        for hooks in (PER_TEST_STEP, PER_PREDICT_STEP, ("on_chunk_end",)):
            if overrides(inner, *hooks):
                self.__dict__.update({hook: getattr(inner, hook) for hook in hooks})
        if overrides(inner, *PER_TEST_STEP):
            self.__dict__["on_test_batch_end"] = lambda batch, logs=None: inner.on_test_batch_end(
                batch, as_numbers(logs)
            )

    def _end_train_batch(self, batch: int, logs: Logs | None = None) -> None:
        """Calls the hook with the means after the last step of a chunk, as Keras does with `steps_per_execution`."""
        self.inner.on_train_batch_end(batch, as_numbers({name: value[-1] for name, value in (logs or {}).items()}))

    def set_trainer(self, trainer: Any) -> None:
        """Passes on the trainer."""
        self.trainer = trainer
        self.inner.set_trainer(trainer)

    def set_params(self, params: dict[str, object]) -> None:
        """Passes on the parameters of the run."""
        self.inner.set_params(params)

    def get_state(self) -> dict[str, object]:
        """Returns what a checkpoint saves of the callback."""
        return self.inner.get_state()

    def set_state(self, state: dict[str, object]) -> None:
        """Restores what a checkpoint saved of the callback."""
        self.inner.set_state(state)


def _pass_on(hook: str, positions: bool) -> Callable[..., None]:
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


class _EpochBar(Callback):
    """Shows the progress of a loop of the user that calls the hooks of a `CallbackList`."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        if self.params.get("verbose", 1):
            print(f"Epoch {epoch + 1}/{self.params.get('epochs', '?')}")
        verbose = self.params.get("verbose", 1)
        self._bar = Progbar(self.params.get("steps"), verbose=1 if verbose == "auto" else verbose, unit_name="step")

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._bar.update(batch + 1, list((logs or {}).items()), finalize=False)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._bar.update(self.params.get("steps") or 0, list((logs or {}).items()), finalize=True)


class CallbackList(Callback):
    """Calls the hooks of several callbacks, for a training loop of the user.

    Args:
        callbacks: Callbacks, or lists of them.
        add_history: Whether to add a `History`, unless there is one.
        add_progbar: Whether to add a progress bar, unless there is a `ProgbarLogger`.
        model: The model of the callbacks.
        **params: The parameters of the run that the callbacks get, such as `epochs`, `steps` and `verbose`.

    References:
        Keras, `keras.callbacks.CallbackList`.

    Example:
        >>> calls = CallbackList([LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs))], epochs=1)
        >>> calls.on_epoch_end(0, {"loss": np.float32(0.5)})
        0 {'loss': 0.5}
    """

    def __init__(
        self,
        callbacks: object = None,
        add_history: bool = False,
        add_progbar: bool = False,
        model: object = None,
        **params: object,
    ):
        self.callbacks: list[Callback] = check(jax.tree.leaves(callbacks))
        history = [callback for callback in self.callbacks if isinstance(callback, History)]
        if add_history and not history:
            history = [History()]
            self.callbacks += history
        if add_progbar and not any(isinstance(callback, ProgbarLogger) for callback in self.callbacks):
            self.callbacks.append(_EpochBar())
        self._history = history[0] if history else None
        self.set_model(model)
        self.set_params(params)

    def set_model(self, model: Any) -> None:
        """Sets the model of all callbacks; the model gets the history, as in Keras."""
        if model is None:
            return
        self.model = model
        if self._history is not None:
            model.history = self._history
        for callback in self.callbacks:
            callback.set_model(model)

    def set_params(self, params: dict[str, object]) -> None:
        """Sets the parameters of all callbacks."""
        self.params = params
        for callback in self.callbacks if params else ():
            callback.set_params(params)


def _call_all(hook: str, has_position: bool) -> Callable[..., None]:
    """Returns a method that calls a hook of all callbacks with logs as numbers."""

    def with_position(self: CallbackList, position: int, logs: Logs | None = None) -> None:
        shared = as_numbers(logs)  # one dictionary, to which a callback may add for the next ones
        for callback in self.callbacks:
            getattr(callback, hook)(position, shared)

    def method(self: CallbackList, logs: Logs | None = None) -> None:
        shared = as_numbers(logs)
        for callback in self.callbacks:
            getattr(callback, hook)(shared)

    return with_position if has_position else method


for _stage in ("train", "test", "predict"):
    for _end in ("begin", "end"):
        setattr(CallbackList, f"on_{_stage}_{_end}", _call_all(f"on_{_stage}_{_end}", has_position=False))
        setattr(CallbackList, f"on_{_stage}_batch_{_end}", _call_all(f"on_{_stage}_batch_{_end}", has_position=True))
for _hook in ("on_batch_begin", "on_batch_end", "on_epoch_begin", "on_epoch_end"):
    setattr(CallbackList, _hook, _call_all(_hook, has_position=True))


__getattr__, __dir__ = refused.attach(__name__, __all__)
