"""Runs one `fit`: epochs in order, each a few chunks of compiled steps, with callbacks, validation and checkpoints."""

import contextlib
import math
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels import threefry
from training.callbacks import PER_STEP, Callback, History, overrides
from training.caller import caller_stacklevel
from training.checkpoints import Checkpoints
from training.data.passes import EpochIterator
from training.data.source import Chunk, Feed
from training.evaluation import Evaluation, logs_on_host, steps_per_chunk
from training.interrupts import Interrupts
from training.objective import Objective
from training.progress import Progress
from training.resuming import Position, Snapshot, packed_snapshot, restore_snapshot, run_signature
from training.session import Session
from training.state import TrainState


class Validation(NamedTuple):
    """An evaluation that is due after some epochs.

    Attributes:
        evaluate: The evaluation.
        freq: Epochs between validations, or the numbers of the epochs, counted from 1.
    """

    evaluate: Evaluation
    freq: int | Sequence[int]

    def is_due(self, epoch: int) -> bool:
        """Returns whether the evaluation is due after this epoch, counted from 0."""
        return (epoch + 1) % self.freq == 0 if isinstance(self.freq, int) else epoch + 1 in self.freq


class FitRun:
    """One call of `fit`.

    Args:
        session: The session to train.
        feed: The data.
        objective: Losses and metrics.
        callbacks: Callbacks in the order in which they are called.
        history: The history. It is called after `callbacks`, unless they include it.
        progress: The display.
        shuffle: Whether each pass has a different order.
        validation: The validation, or None.
        steps_per_epoch: Steps in an epoch; None for a pass through the data.
        checkpoints: Where the run is saved, and where it resumes from.
    """

    def __init__(
        self,
        session: Session,
        feed: Feed,
        objective: Objective,
        callbacks: Sequence[Callback],
        history: History,
        progress: Progress,
        *,
        shuffle: bool = True,
        validation: Validation | None = None,
        steps_per_epoch: int | None = None,
        checkpoints: Checkpoints | None = None,
    ):
        self.session, self.feed, self.objective = session, feed, objective
        # As in Keras, a history among the callbacks is called at its place.
        self.callbacks = [*callbacks] if history in callbacks else [*callbacks, history]
        self.history, self.progress = history, progress
        self.shuffle, self.validation, self.steps_per_epoch = shuffle, validation, steps_per_epoch
        self.checkpoints = checkpoints
        self._interrupts = Interrupts(terminate=checkpoints is not None)
        # The speed of an earlier call determines the length of the first chunk.
        self._speed_key = (objective, feed.batch_size, feed.length)
        self._steps_per_second = session.steps_per_second.get(self._speed_key, 0.0)
        self._watches_chunks = any(overrides(c, "on_chunk_end") for c in self.callbacks)
        self._watches_steps = any(overrides(c, *PER_STEP) for c in self.callbacks)
        self._key = jax.random.key(session.seed)
        self._data = EpochIterator(feed, self._key_of)
        self._epochs, self._epoch, self._step = range(0), 0, 0
        self._totals = objective.empty()
        self._logs: dict[str, Any] = {}
        self._pending_logs: dict[str, np.ndarray] | None = None  # of each step, not yet passed to callbacks
        self._complete = False  # whether a callback or the data has ended the run
        self._chosen_rate: float | None = None  # the learning rate that was set before the first epoch
        self._epoch_start: TrainState | None = None  # the state to which the policy may return
        self._snapshot: tuple[dict[str, Any], dict[str, Any]] | None = None  # the latest content of a checkpoint
        self._signature: dict[str, Any] = {}
        if checkpoints is not None:
            self._signature = run_signature(
                session.model,
                session.optimizer,
                objective,
                seed=session.seed,
                batch_size=feed.batch_size,
                examples=feed.length,
                steps_per_epoch=steps_per_epoch,
                shuffle=shuffle,
            )

    def __call__(self, epochs: range) -> None:
        """Runs the epochs. As in Keras, averages replace the weights at the end, before `on_train_end`."""
        session = self.session
        session.stop_training, self._epochs = False, epochs
        self._epoch = epochs.start
        self._data.pass_index = epochs.start if self.steps_per_epoch is None else 0
        try:
            with self._interrupts, self.checkpoints or contextlib.nullcontext():
                self._call_callbacks("on_train_begin", {})
                self._chosen_rate = session.chosen_rate
                self._resume()
                with self._save_on_error():
                    # A resumed epoch is completed even if a callback has ended the run inside it.
                    while self._epoch < epochs.stop and not self._complete:
                        self._run_epoch()
                        self._complete = session.stop_training
                if len(epochs):
                    session.finish_averages()
                self._call_callbacks("on_train_end", self._logs)
                if self.checkpoints is not None and self.checkpoints.delete:
                    self.checkpoints.clear()
        finally:
            session.chosen_rate = None  # rates that callbacks have set are not the user's choice
            self._data.close()
            self.progress.close()

    def _key_of(self, pass_index: int) -> jax.Array | None:
        """Returns the key that shuffles a pass: a function of the seed and the index of the pass."""
        # The keys of initialization and training fold in 0 and 1.
        return threefry.fold_in(threefry.fold_in(self._key, 2), pass_index) if self.shuffle else None

    def _call_callbacks(self, hook: str, *args: object) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(*args)

    # ------------------------------------------------------------ epochs

    def _run_epoch(self) -> None:
        """Runs an epoch, or the rest of one. A test pins the order of events.

        1. `on_epoch_begin`.
        2. The examples are shuffled, by a key that is a function of seed and epoch.
        3. Chunks of steps run, each between `on_train_batch_begin` and `on_train_batch_end`; then `on_chunk_end`, and
           a checkpoint if one is due.
        4. Validation if it is due, between `on_test_begin` and `on_test_end`.
        5. `on_epoch_end` of the callbacks, the history last, so that it contains what they add to the logs.
        6. The progress line and the checkpoint. Then a pending Ctrl-C ends the run.
        """
        start, compiled_before = time.perf_counter(), self.progress.compile_seconds
        session = self.session
        if not self._step:
            self._call_callbacks("on_epoch_begin", self._epoch, {})
        if session.nonfinite.choice == "restore" and not (self._step and self._epoch_start):
            self._epoch_start = jax.tree.map(jnp.copy, session.state)
        self.progress.begin_epoch(self._epoch)
        self._train()
        session.measured = self.objective, self._totals
        logs = dict(self._logs)
        if self.validation is not None and self.validation.is_due(self._epoch):
            self._call_callbacks("on_test_begin", {})
            measured = self.validation.evaluate(self.progress, self._stop_if_interrupted, self.callbacks)
            self._call_callbacks("on_test_end", measured)
            logs |= {f"val_{name}": value for name, value in measured.items()}
        seconds = time.perf_counter() - start - (self.progress.compile_seconds - compiled_before)
        self.history.seconds.append(seconds)
        measured_logs = dict(logs)
        self._call_callbacks("on_epoch_end", self._epoch, logs)
        self.progress.end_epoch(logs)
        # As in Keras, `on_train_end` does not get what the callbacks added to the logs.
        self._epoch, self._step, self._logs, self._totals = self._epoch + 1, 0, measured_logs, self.objective.empty()
        self._take_snapshot()
        if self.checkpoints is not None:
            last = session.stop_training or self._epoch == self._epochs.stop
            if last or self.checkpoints.every == "epoch" or self.checkpoints.due(int(session.state.step)):
                self._save(self.checkpoints.value_of(logs))
        self._stop_if_interrupted()

    def _train(self) -> None:
        """Runs the training steps of an epoch, or the rest of them."""
        limit = math.inf if self.steps_per_epoch is None else self.steps_per_epoch
        data, exhausted = self._data, False
        # As in Keras, a run that is stopped before the first step of an epoch ends after that step.
        while self._step < limit and not (self._step and self.session.stop_training):
            chunk = data.next_chunk(limit - self._step)
            if chunk is None and not self._step and data.steps_done:
                data.next_pass()  # the previous epoch ended exactly at the end of the data
                chunk = data.next_chunk(limit)
            if chunk is None:
                exhausted = True
                break
            at = data.steps_done - chunk.first
            ends = (chunk.steps, at + self._chunk_length(chunk.steps), at + limit - self._step)
            self._run_chunk(chunk, at, int(min(ends)))
        if not self._step:
            raise ValueError(
                f"Epoch {self._epoch + 1} needs at least one batch, got a stream that is exhausted; give "
                "`steps_per_epoch`, or a list, a loader, or a function that returns a new iterator."
            )
        if exhausted and limit < math.inf:
            warnings.warn(
                f"The data ended after {self._step} of {limit} steps of epoch {self._epoch + 1}; "
                "give a longer stream or a smaller `steps_per_epoch`.",
                stacklevel=caller_stacklevel(),
            )
            if not self.feed.restarts:
                self.session.stop_training = True
        # Without `steps_per_epoch` an epoch is a pass, also if a callback ends it early.
        if exhausted or limit == math.inf or (self.feed.steps is not None and data.steps_done >= self.feed.steps):
            data.next_pass()

    def _chunk_length(self, left: int) -> int:
        """Returns the number of steps in the next chunk."""
        if self.session.steps_per_execution != "auto":
            return int(self.session.steps_per_execution)
        if self._watches_steps and self.session.hooks_per_batch:
            return 1
        return 1 if self.session.stop_training else steps_per_chunk(left, self._steps_per_second)

    def _run_chunk(self, chunk: Chunk, start: int, stop: int) -> None:
        """Runs the steps from `start` to `stop` of a chunk, and reports them to callbacks and display."""
        session, progress = self.session, self.progress
        whole = jax.default_backend() != "cpu" and stop - start == chunk.order.shape[0]
        length = chunk.steps if whole else None
        program = session.train_program(self.feed, self.objective, length, self._watches_steps)
        session.copy_shared_variables()
        args = (session.state, self._totals, chunk.data, chunk.order, np.int32(start), np.int32(stop))
        if not program.is_compiled(*args):
            progress.compiling("training")
            progress.compiled("training", program.compile(*args))
        if self._watches_steps:
            self._call_callbacks("on_train_batch_begin", self._step, {})
            session.copy_shared_variables()
            args = (session.state, *args[1:])
        before = time.perf_counter()
        (session.state, self._totals, values, step_logs), stop = session.nonfinite.run_program(program, args)
        self._logs = logs_on_host(self.objective, values)
        seconds, done = time.perf_counter() - before, stop - start
        self._steps_per_second = session.steps_per_second[self._speed_key] = done / seconds
        self._step, self._data.steps_done = self._step + done, self._data.steps_done + done
        progress.chunk(self._step, int(chunk.sizes[start:stop].sum()), seconds, self._logs)
        self._check_finite()
        if self._watches_chunks or self._watches_steps:
            # A checkpoint that is saved because a callback raises has these logs, so that a resumed run calls the
            # callbacks again.
            self._pending_logs = {name: np.asarray(log)[:done] for name, log in step_logs.items()}
            self._take_snapshot()
            self._notify_chunk_end()
        self._take_snapshot()
        if self.checkpoints is not None and self.checkpoints.due(int(session.state.step)):
            self._save()
        self._stop_if_interrupted()

    def _check_finite(self) -> None:
        """Warns about numbers that are not finite, and stops the run if that was chosen."""
        session, policy = self.session, self.session.nonfinite
        loss = self._logs.get("loss", 0.0)
        state, stops = policy.handle(session.model, session.state, session.frozen, self._step, loss)
        if stops:
            session.stop_training = True
            if policy.choice == "restore" and self._epoch_start is not None:
                state = self._epoch_start
        session.state = state

    def _notify_chunk_end(self) -> None:
        """Calls the callbacks at the end of a chunk."""
        step_logs = self._pending_logs or {}
        if self._watches_steps and step_logs:
            self._call_callbacks("on_train_batch_end", self._step - 1, {name: step_logs[name] for name in self._logs})
        if self._watches_chunks:
            self._call_callbacks("on_chunk_end", self._step, dict(self._logs))
        self._pending_logs = None

    # ------------------------------------------------------------ checkpoints and interrupts

    def _current_snapshot(self) -> Snapshot:
        session, data = self.session, self._data
        return Snapshot(
            Position(self._epoch, self._step, data.pass_index, data.steps_done),
            session.state,
            self._totals,
            self._epoch_start,
            self._logs,
            self._pending_logs,
            session.stop_training,
            self._chosen_rate,
            self.feed.position(data.steps_done),
            self.validation.evaluate.feed.position() if self.validation is not None else None,
        )

    def _take_snapshot(self) -> None:
        """Prepares the content of a checkpoint of this moment."""
        if self.checkpoints is not None:
            self._snapshot = packed_snapshot(self._current_snapshot(), self.callbacks, self._signature)

    def _save(self, value: float | None = None) -> None:
        """Writes a checkpoint of the latest snapshot in the background."""
        if self.checkpoints is not None and self._snapshot is not None:
            self.checkpoints.save(*self._snapshot, value)

    def _resume(self) -> None:
        """Resumes from the newest intact checkpoint, if there is one."""
        if self.checkpoints is None:
            return
        found = restore_snapshot(
            self.checkpoints, self._current_snapshot(), self.callbacks, self._signature, self._epochs.stop
        )
        if found is None:
            return
        session, data = self.session, self._data
        session.state, self._totals, self._epoch_start = found.state, found.totals, found.epoch_start
        self._epoch, self._step, data.pass_index, data.steps_done = found.position
        self._logs, self._pending_logs, self._chosen_rate = found.logs, found.pending_logs, found.chosen_rate
        if found.stop_training:
            session.stop_training, self._complete = True, not self._step
        self.feed.resume(data.pass_index, data.steps_done, found.data or {})
        if self.validation is not None and found.validation:
            self.validation.evaluate.feed.resume(0, 0, found.validation)
        if self._pending_logs is not None:
            self._notify_chunk_end()

    @contextlib.contextmanager
    def _save_on_error(self) -> Iterator[None]:
        """Saves the latest snapshot if a callback or the data raises."""
        self._take_snapshot()
        try:
            yield
        except (Exception, SystemExit) as error:
            # A run that received a request to terminate has already been saved.
            saved = isinstance(error, SystemExit) and self._interrupts.pending
            if not saved and not _was_donated(self._snapshot):
                self._save()
            raise

    def _stop_if_interrupted(self) -> None:
        """Ends the run if Ctrl-C or a request to terminate is pending, after everything is saved."""
        if self._interrupts.pending and self.checkpoints is not None:
            self._save()
            self.checkpoints.wait()
            print(f"saved at epoch {self._epoch + 1}, step {self._step}, in {self.checkpoints.folder}", file=sys.stderr)
        self._interrupts.check()


def _was_donated(tree: object) -> bool:
    """Returns whether arrays were donated to a program that has failed."""
    return any(isinstance(x, jax.Array) and x.is_deleted() for x in jax.tree.leaves(tree))
