"""Callbacks that change a run: learning rate schedules, averaged weights, termination on NaN."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from training import optimizers
from training.callbacks.base import Callback, Logs


class LearningRateScheduler(Callback):
    """Sets the learning rate at the start of each epoch.

    Args:
        schedule: A function (epoch, learning rate) -> learning rate, or (epoch) -> learning rate.
        verbose: 1 prints the learning rate.

    Raises:
        TypeError: If `schedule` is not a function.
        ValueError: If the function does not return a float.

    References:
        Keras, `keras.callbacks.LearningRateScheduler`.

    Example:
        >>> callback = LearningRateScheduler(lambda epoch, rate: rate * 0.9)
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0):
        if not callable(schedule):
            raise TypeError(
                f"`schedule` of LearningRateScheduler must be a function (epoch, rate) -> rate, got {schedule!r}."
            )
        self.schedule, self.verbose = schedule, verbose
        parameters = inspect.signature(schedule).parameters.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self._takes_rate = len(positional) > 1 or any(p.kind == p.VAR_POSITIONAL for p in parameters)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Sets the learning rate of the epoch."""
        rate = self.schedule(epoch, self.trainer.learning_rate) if self._takes_rate else self.schedule(epoch)
        if not isinstance(rate, float | np.floating):
            raise ValueError(
                f"`schedule` of LearningRateScheduler must return a float, got {rate!r} for epoch {epoch}."
            )
        self.trainer.learning_rate = float(rate)
        if self.verbose > 0:
            print(f"Epoch {epoch + 1}: the learning rate is {rate:.6g}")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Adds the learning rate to the logs."""
        if logs is not None:
            logs["learning_rate"] = self.trainer.learning_rate


class TerminateOnNaN(Callback):
    """Stops a run when the loss is NaN or infinite.

    Args:
        raise_error: Whether to raise a RuntimeError immediately, so that `on_train_end` hooks do not run.

    Raises:
        RuntimeError: If the loss is not finite and `raise_error` is set.

    References:
        Keras, `keras.callbacks.TerminateOnNaN`.
    """

    def __init__(self, raise_error: bool = False):
        self.raise_error = raise_error

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Checks the loss of each step of the chunk."""
        losses = np.atleast_1d((logs or {}).get("loss", 0.0))
        nonfinite = ~np.isfinite(losses)
        if not nonfinite.any():
            return
        first = int(np.argmax(nonfinite))
        step = batch - len(losses) + 1 + first
        if self.raise_error:
            raise RuntimeError(
                f"The loss is {losses[first]} at step {step} of the epoch; lower the learning rate, "
                "or clip the gradients."
            )
        print(f"Step {step}: the loss is {losses[first]}, training stops")
        self.trainer.stop_training = True


class SwapEMAWeights(Callback):
    """Evaluates with the moving average of the weights; the optimizer needs `use_ema=True`.

    The average replaces the weights during evaluation and prediction.

    Args:
        swap_on_epoch: Whether the average also replaces the weights at the end of each epoch, for later callbacks in
            the list, such as `ModelCheckpoint`.

    Raises:
        ValueError: If the optimizer keeps no average.

    References:
        Keras, `keras.callbacks.SwapEMAWeights`.
    """

    STATE = ("_weights",)

    def __init__(self, swap_on_epoch: bool = False):
        self.swap_on_epoch = swap_on_epoch
        self._weights: optax.Params | None = None  # the weights while the average replaces them

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the weights that the average replaces."""
        self._weights = jax.tree.map(jnp.array, state["_weights"])

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Forgets the weights of a previous run."""
        self._weights = None

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Restores the weights."""
        self._restore()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Replaces the weights with their average, if `swap_on_epoch` is set."""
        if self.swap_on_epoch:
            self._swap()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Keeps the average as the final weights, if it has replaced them."""
        self._weights = None

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Replaces the weights with their average."""
        self._swap()

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Restores the weights."""
        self._restore()

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Replaces the weights with their average."""
        self._swap()

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Restores the weights."""
        self._restore()

    def _swap(self) -> None:
        state = self.trainer.state
        if self._weights is None and state is not None:
            try:
                average = optimizers.ema_weights(state.opt_state)
            except ValueError as error:
                raise ValueError(
                    "SwapEMAWeights needs an optimizer that averages the weights, got one that does not; "
                    "create it with use_ema=True."
                ) from error
            self._weights = state.params
            self.trainer.replace_trained(average)

    def _restore(self) -> None:
        if self._weights is not None:
            self.trainer.state = self.trainer.state.replace(params=self._weights)
            self._weights = None
