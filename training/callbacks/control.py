"""Callbacks that change the run: its learning rate, its weights while they are measured, its end."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training import optimizers
from training.callbacks.base import Callback, Logs


class LearningRateScheduler(Callback):
    """Sets the learning rate at the begin of each epoch.

    Args:
        schedule: A function (epoch, learning rate) -> learning rate, or (epoch) -> learning rate.
        verbose: 1 prints the rate.

    Raises:
        ValueError: If the function gives something else than a float.

    References:
        Keras, `keras.callbacks.LearningRateScheduler`.
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0):
        if not callable(schedule):
            raise TypeError(
                f"`schedule` of LearningRateScheduler is a function (epoch, rate) -> rate, got {schedule!r}; give one."
            )
        self.schedule, self.verbose = schedule, verbose
        parameters = inspect.signature(schedule).parameters.values()
        needed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self._takes_rate = len(needed) > 1 or any(p.kind == p.VAR_POSITIONAL for p in parameters)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        rate = self.schedule(epoch, self.trainer.learning_rate) if self._takes_rate else self.schedule(epoch)
        if not isinstance(rate, float | np.floating):
            raise ValueError(
                f"`schedule` of LearningRateScheduler gives a float, got {rate!r} for epoch {epoch}; return a float."
            )
        self.trainer.learning_rate = float(rate)
        if self.verbose > 0:
            print(f"Epoch {epoch + 1}: the learning rate is {rate:.6g}")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = self.trainer.learning_rate


class TerminateOnNaN(Callback):
    """Ends a run whose loss is not finite any more.

    Args:
        raise_error: Whether to raise a RuntimeError at once, so that no hook of the end of training runs.

    Raises:
        RuntimeError: If the loss is not finite and `raise_error` asks for it.

    References:
        Keras, `keras.callbacks.TerminateOnNaN`.
    """

    def __init__(self, raise_error: bool = False):
        self.raise_error = raise_error

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        losses = np.atleast_1d((logs or {}).get("loss", 0.0))
        bad = ~np.isfinite(losses)
        if not bad.any():
            return
        first = int(np.argmax(bad))
        step = batch - len(losses) + 1 + first
        if self.raise_error:
            raise RuntimeError(
                f"The loss is {losses[first]} at step {step} of the epoch; lower the learning rate, "
                "or clip the gradients."
            )
        print(f"Step {step}: the loss is {losses[first]}, training ends")
        self.trainer.stop_training = True


class SwapEMAWeights(Callback):
    """Measures the moving average of the weights instead of the weights, of an optimizer with `use_ema`.

    The average takes the weights' place during evaluation and prediction.

    Args:
        swap_on_epoch: Whether the average also stands there at the end of each epoch, for callbacks that come
            after this one, such as `ModelCheckpoint`.

    Raises:
        ValueError: If the optimizer keeps no average.

    References:
        Keras, `keras.callbacks.SwapEMAWeights`.
    """

    STATE = ("_weights",)

    def __init__(self, swap_on_epoch: bool = False):
        self.swap_on_epoch = swap_on_epoch
        self._weights: Any = None

    def set_state(self, state: dict[str, Any]) -> None:
        self._weights = jax.tree.map(jnp.array, state["_weights"])

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._weights = None

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._back()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.swap_on_epoch:
            self._swap()

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._weights = None  # from now on the average is the weights

    def on_test_begin(self, logs: Logs | None = None) -> None:
        self._swap()

    def on_test_end(self, logs: Logs | None = None) -> None:
        self._back()

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        self._swap()

    def on_predict_end(self, logs: Logs | None = None) -> None:
        self._back()

    def _swap(self) -> None:
        state = self.trainer.state
        if self._weights is None and state is not None:
            try:
                average = optimizers.ema_weights(state.opt_state)
            except ValueError as error:
                raise ValueError(
                    "SwapEMAWeights needs an optimizer that keeps the average of the weights, and this one does not; "
                    "make it with use_ema=True."
                ) from error
            self._weights = state.params
            self.trainer.replace_trained(average)

    def _back(self) -> None:
        if self._weights is not None:
            self.trainer.state = self.trainer.state.replace(params=self._weights)
            self._weights = None
