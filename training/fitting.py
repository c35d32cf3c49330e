"""One call of `fit`: the epochs in their order, each a few chunks of compiled steps."""

import math
import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.batches import Chunk, Feed
from training.callbacks import Callback
from training.interrupts import Interrupts
from training.objective import Objective
from training.progress import Progress

# A chunk of steps takes about this long on a CPU, so that progress moves and Ctrl-C is heard.
CHUNK_SECONDS = 0.5


class Program:
    """A jitted function that tells compilation from running."""

    def __init__(self, function: Any, donate: tuple[int, ...] = ()):
        self._jitted = jax.jit(function, donate_argnums=donate)
        self._compiled: dict[Any, Any] = {}

    def compile(self, *args: Any) -> float:
        """Compiles for arguments like these, unless done before; returns the seconds that it took."""
        key = signature(args)
        if key in self._compiled:
            return 0.0
        start = time.perf_counter()
        self._compiled[key] = self._jitted.lower(*args).compile()
        return time.perf_counter() - start

    def is_compiled(self, *args: Any) -> bool:
        return signature(args) in self._compiled

    def __call__(self, *args: Any) -> Any:
        self.compile(*args)
        return self._compiled[signature(args)](*args)


def signature(args: Any) -> Any:
    """What decides whether a compiled program fits arguments: their structure, shapes and dtypes."""
    leaves, structure = jax.tree.flatten(args)
    return structure, tuple(
        (np.shape(leaf), jnp.result_type(leaf), getattr(leaf, "weak_type", False)) for leaf in leaves
    )


class Evaluation:
    """Evaluates a model on data that is on the device.

    Args:
        trainer: Whose variables are used, as they are at each call.
        objective: Losses and metrics.
        feed: The data.
        program: The compiled run of evaluation steps.
    """

    def __init__(self, trainer: Any, objective: Objective, feed: Feed, program: Program):
        self.trainer, self.objective, self.feed, self.program = trainer, objective, feed, program

    def __call__(self, progress: Progress | None = None) -> dict[str, float]:
        """The values by name; compilation is told to the progress display."""
        totals, logs = self.objective.empty(), {}
        for chunk in self.feed.chunks():
            args = (self.trainer.variables, totals, chunk.data, chunk.order, jnp.int32(0), jnp.int32(chunk.steps))
            if progress is not None and not self.program.is_compiled(*args):
                progress.compiling("validation")
                progress.compiled("validation", self.program.compile(*args))
            totals, logs = self.program(*args)
        return floats(self.objective, logs)


class Run:
    """One call of `fit`.

    Args:
        trainer: Whose state is trained.
        feed: The data.
        objective: Losses and metrics.
        callbacks: Callbacks in the order they are called; the history is the last.
        progress: The display.
        shuffle: Whether each epoch has its own order.
        validate: What evaluates after an epoch, or None.
        validation_freq: Epochs from one validation to the next, or the numbers of the epochs, counted from 1.
    """

    def __init__(
        self,
        trainer: Any,
        feed: Feed,
        objective: Objective,
        callbacks: list[Callback],
        progress: Progress,
        shuffle: bool,
        validate: Evaluation | None,
        validation_freq: int | list[int],
    ):
        self.trainer, self.feed, self.objective, self.callbacks = trainer, feed, objective, callbacks
        self.progress, self.shuffle = progress, shuffle
        self.validate, self.validation_freq = validate, validation_freq
        self.interrupts = Interrupts()
        self.steps_per_second = 0.0
        hooks = [getattr(c.on_chunk_end, "__func__", None) for c in callbacks]
        self.watches_chunks = any(hook is not Callback.on_chunk_end for hook in hooks)

    def set_params(self, params: dict[str, Any]) -> None:
        for callback in self.callbacks:
            callback.set_trainer(self.trainer)
            callback.set_params(params)

    def hook(self, name: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, name)(*args)

    def __call__(self, epochs: range) -> None:
        self.trainer.stop_training = False
        logs: dict[str, float] = {}
        try:
            with self.interrupts:
                self.hook("on_train_begin", {})
                for epoch in epochs:
                    logs = self.epoch(epoch)
                    if self.trainer.stop_training:
                        break
                self.hook("on_train_end", logs)
        finally:
            self.progress.close()

    def epoch(self, epoch: int) -> dict[str, float]:
        """Runs an epoch; a test pins the order of events.

        1. on_epoch_begin
        2. the examples are shuffled, by a key that is a function of seed and epoch
        3. chunks of steps run; on_chunk_end after each
        4. validation, if it is due
        5. on_epoch_end of the callbacks as given, the history last: it sees what they put into the logs
        6. the progress line; then Ctrl-C, if it came, ends the run
        """
        start, compiled_before = time.perf_counter(), self.progress.compile_seconds
        self.hook("on_epoch_begin", epoch, {})
        self.progress.begin_epoch(epoch)
        logs = self.train(epoch if self.shuffle else None)
        if self.validate is not None and _due(epoch, self.validation_freq):
            logs |= {f"val_{name}": value for name, value in self.validate(self.progress).items()}
        seconds = time.perf_counter() - start - (self.progress.compile_seconds - compiled_before)
        self.trainer.history.seconds.append(seconds)
        self.hook("on_epoch_end", epoch, logs)
        self.progress.end_epoch(logs)
        self.interrupts.check()
        return logs

    def train(self, shuffle_by: int | None) -> dict[str, float]:
        """The steps of one epoch."""
        key = None
        if shuffle_by is not None:
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.trainer.seed), 2), shuffle_by)
        totals, done = self.objective.empty(), 0
        logs: dict[str, float] = {}
        for chunk in self.feed.chunks(key):
            at = 0
            while at < chunk.steps:
                stop = min(chunk.steps, at + self.at_once(chunk.steps))
                totals, logs = self.execute(chunk, totals, at, stop, done)
                at = stop
            done += chunk.steps
        return logs

    def at_once(self, whole: int) -> int:
        """Steps in the next chunk."""
        if self.trainer.steps_per_execution != "auto":
            return int(self.trainer.steps_per_execution)
        if jax.default_backend() != "cpu":
            return whole
        return max(1, min(whole, int(self.steps_per_second * CHUNK_SECONDS)))

    def execute(self, chunk: Chunk, totals: Any, start: int, stop: int, done: int) -> tuple[Any, dict[str, float]]:
        """Runs the steps from `start` to `stop` of a chunk on the device, and tells callbacks and display."""
        trainer, feed, progress = self.trainer, self.feed, self.progress
        whole = jax.default_backend() != "cpu" and stop - start == chunk.order.shape[0]
        program = trainer._train_program(feed, self.objective, chunk.steps if whole else None)
        args = (trainer.state, totals, chunk.data, chunk.order, jnp.int32(start), jnp.int32(stop))
        if not program.is_compiled(*args):
            progress.compiling("training")
            progress.compiled("training", program.compile(*args))
        began = time.perf_counter()
        trainer.state, totals, values = program(*args)
        logs = floats(self.objective, values)
        seconds = time.perf_counter() - began
        self.steps_per_second = (stop - start) / seconds
        first, last = done + start, done + stop
        progress.chunk(last, min(last * feed.batch_size, feed.n) - first * feed.batch_size, seconds, logs)
        if not math.isfinite(logs["loss"]):
            warnings.warn(
                f"The loss is {logs['loss']} after step {last} of the epoch; lower the learning rate, "
                "or clip the gradients.",
                RuntimeWarning,
                stacklevel=6,
            )
        if self.watches_chunks:
            self.hook("on_chunk_end", last, logs)
        self.interrupts.check()
        return totals, logs


def _due(epoch: int, freq: int | list[int]) -> bool:
    return (epoch + 1) % freq == 0 if isinstance(freq, int) else epoch + 1 in freq


def floats(objective: Objective, logs: dict[str, jax.Array]) -> dict[str, Any]:
    """The logs on the host, `loss` first and the metrics as they were asked for; a compiled program sorts them."""
    values = jax.device_get(logs)
    names = sorted(values, key=objective.log_names.index)
    return {name: float(values[name]) if np.ndim(values[name]) == 0 else values[name] for name in names}
