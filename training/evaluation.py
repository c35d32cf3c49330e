"""Evaluates a model, after an epoch of training or separately."""

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from training.callbacks import PER_TEST_STEP, Callback, overrides
from training.caller import caller_stacklevel
from training.data.passes import EpochIterator
from training.data.source import Feed
from training.objective import Objective
from training.progress import Progress
from training.session import Session

# A chunk of steps takes about this long on a CPU, so that progress is shown and Ctrl-C is handled in time.
CHUNK_SECONDS = 0.5


def steps_per_chunk(left: int, steps_per_second: float) -> int:
    """Returns how many of the `left` steps the next chunk has: half a second's worth on a CPU, otherwise all."""
    return left if jax.default_backend() != "cpu" else max(1, min(left, int(steps_per_second * CHUNK_SECONDS)))


def logs_on_host(objective: Objective, logs: dict[str, jax.Array]) -> dict[str, Any]:
    """Returns the logs as Python numbers in the order of the objective; compiled programs sort logs by name."""
    values = jax.device_get(logs)
    names = sorted(values, key=objective.log_names.index)
    return {name: float(values[name]) if np.ndim(values[name]) == 0 else values[name] for name in names}


class Evaluation:
    """Computes loss and metrics over a feed, with the current variables of a session.

    Args:
        session: The model and its programs.
        objective: Losses and metrics.
        feed: The data.
        max_steps: How many batches to evaluate; None for all.
    """

    def __init__(self, session: Session, objective: Objective, feed: Feed, max_steps: int | None = None):
        self.session, self.objective, self.feed, self.max_steps = session, objective, feed, max_steps
        self._program = session.eval_program(feed, objective)
        self._steps_per_second = 0.0

    def __call__(
        self,
        progress: Progress | None = None,
        between: Callable[[], None] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> dict[str, float]:
        """Evaluates one pass.

        Args:
            progress: The display, which shows compilation.
            between: Called about every half second on a CPU, for example to end the run on Ctrl-C.
            callbacks: Callbacks, for their hooks of batches.

        Returns:
            The values keyed by name, `loss` first.

        Raises:
            ValueError: If the stream has no batch left.
        """
        session, program = self.session, self._program
        totals, logs, data = self.objective.empty(), {}, EpochIterator(self.feed)
        watching = [callback for callback in callbacks if overrides(callback, *PER_TEST_STEP)]
        session.stop_evaluating = False
        limit = math.inf if self.max_steps is None else self.max_steps
        with contextlib.closing(data):
            while data.steps_done < limit and not session.stop_evaluating:
                chunk = data.next_chunk(limit - data.steps_done)
                if chunk is None:
                    break
                at, stop = data.steps_done - chunk.first, int(min(chunk.steps, limit - chunk.first))
                args = (session.state.variables, totals, chunk.data, chunk.order, np.int32(at), np.int32(stop))
                if progress is not None and not program.is_compiled(*args):
                    progress.compiling("validation")
                    progress.compiled("validation", program.compile(*args))
                while at < stop and not session.stop_evaluating:
                    start = time.perf_counter()
                    count = stop - at if between is None else steps_per_chunk(stop - at, self._steps_per_second)
                    if watching:
                        count = session.steps_per_hook(stop - at) if session.counts_steps_per_hook else count
                    for callback in watching:
                        callback.on_test_batch_begin(data.steps_done, {})
                    # Layers may assign variables, which then change from chunk to chunk.
                    variables, ends = session.state.variables, (np.int32(at), np.int32(at + count))
                    totals, logs, changed = program(variables, totals, chunk.data, chunk.order, *ends)
                    session.store_assigned(changed)
                    data.steps_done, at = data.steps_done + count, at + count
                    for callback in watching:
                        callback.on_test_batch_end(data.steps_done - 1, logs_on_host(self.objective, logs))
                    if between is not None:
                        jax.block_until_ready(logs)
                        self._steps_per_second = count / (time.perf_counter() - start)
                        between()
            done = data.steps_done
            data.next_pass()
        if not done:
            raise ValueError(
                "An evaluation needs at least one batch, got a stream that is exhausted; give a list, a loader, or a "
                "function that returns a new iterator."
            )
        if done < limit < math.inf and not session.stop_evaluating:
            warnings.warn(
                f"The data ended after {done} of {limit} steps of evaluation; give a longer stream or fewer steps.",
                stacklevel=caller_stacklevel(),
            )
        session.measured = self.objective, totals
        return logs_on_host(self.objective, logs)
