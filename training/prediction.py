"""Computes the outputs of a model over a feed."""

import contextlib
import math
from collections.abc import Sequence

import jax
import numpy as np

from training.callbacks import PER_PREDICT_STEP, Callback, overrides
from training.data.examples import ArrayTree
from training.data.passes import EpochIterator
from training.data.source import Feed
from training.session import Session


class Prediction:
    """Computes outputs over a feed, with the current variables of a session.

    Args:
        session: The model and its programs.
        feed: The data.
        max_steps: How many batches to compute; None for all.
    """

    def __init__(self, session: Session, feed: Feed, max_steps: int | None = None):
        self.session, self.feed, self.max_steps = session, feed, max_steps

    def __call__(self, callbacks: Sequence[Callback] = ()) -> list[ArrayTree]:
        """Computes the outputs of one pass.

        Args:
            callbacks: Callbacks, for their hooks of batches.

        Returns:
            The outputs of parts of the data, as NumPy arrays.
        """
        session, program = self.session, self.session.predict_program(self.feed)
        watching = [callback for callback in callbacks if overrides(callback, *PER_PREDICT_STEP)]
        parts: list[ArrayTree] = []
        computing, data = None, EpochIterator(self.feed)
        limit = math.inf if self.max_steps is None else self.max_steps
        session.stop_predicting = False
        with contextlib.closing(data):
            while data.steps_done < limit and not session.stop_predicting:
                chunk = data.next_chunk(limit - data.steps_done)
                if chunk is None:
                    break
                at, stop = data.steps_done - chunk.first, int(min(chunk.steps, limit - chunk.first))
                if watching:
                    stop = at + session.steps_per_hook(stop - at)
                for callback in watching:
                    callback.on_predict_batch_begin(data.steps_done, {})
                outputs, changed = program(
                    session.state.variables, chunk.data, chunk.order, np.int32(at), np.int32(stop)
                )
                session.store_assigned(changed)
                data.steps_done += stop - at
                # Outputs are fetched one chunk later, so that the device computes the next chunk meanwhile.
                parts += _on_host(computing)
                computing = outputs, chunk.sizes[at:stop], at, chunk.order.shape[1]
                if watching:
                    part, computing = _on_host(computing), None
                    parts += part
                    for callback in watching:
                        callback.on_predict_batch_end(data.steps_done - 1, {"outputs": part[0]})
            data.next_pass()
        return parts + _on_host(computing)


def _on_host(computed: tuple[ArrayTree, np.ndarray, int, int] | None) -> list[ArrayTree]:
    """Copies the outputs of a chunk, without padding rows, to the host; returns an empty list if there is no chunk."""
    if computed is None:
        return []
    outputs, sizes, first, batch_size = computed
    padded = np.any(sizes != batch_size)

    def fetch(array: jax.Array) -> np.ndarray:
        rows = np.asarray(array)[first : first + len(sizes)]
        if padded:
            return rows[np.arange(batch_size) < sizes[:, None]]
        return rows.reshape(-1, *rows.shape[2:])

    return [jax.tree.map(fetch, outputs)]
