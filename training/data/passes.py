"""Iterates over the data, pass after pass, and keeps the position."""

import math
from collections.abc import Callable, Generator
from typing import cast

import jax

from training.data.source import Chunk, Feed


class EpochIterator:
    """Iterates over the chunks of a feed, pass after pass.

    Args:
        feed: The data.
        key_of: Returns the key that shuffles a pass, given its index; None keeps the order.

    Attributes:
        pass_index: Number of complete passes.
        steps_done: Number of steps done in the current pass; the caller advances it.
    """

    def __init__(self, feed: Feed, key_of: Callable[[int], jax.Array | None] = lambda pass_index: None):
        self.feed, self.key_of, self.pass_index, self.steps_done = feed, key_of, 0, 0
        self._chunks: Generator[Chunk, None, None] | None = None
        self._chunk: Chunk | None = None

    def next_chunk(self, max_steps: float = math.inf) -> Chunk | None:
        """Returns the chunk with the next step, None at the end of the pass; at most `max_steps` will be used."""
        self.feed.read_until(self.steps_done + max_steps)
        if self._chunks is None:
            chunks = self.feed.chunks(self.pass_index, self.key_of(self.pass_index), self.steps_done)
            self._chunks = cast(Generator[Chunk, None, None], chunks)
        while self._chunk is None or self.steps_done >= self._chunk.first + self._chunk.steps:
            self._chunk = next(self._chunks, None)
            if self._chunk is None:
                return None
        return self._chunk

    def next_pass(self) -> None:
        """Advances to the start of the next pass."""
        self.close()
        self.feed.finish_pass()
        self.pass_index, self.steps_done = self.pass_index + 1, 0

    def close(self) -> None:
        """Stops reading ahead. A stream keeps the batches that were read and not used."""
        if self._chunks is not None:
            self._chunks.close()
            self.feed.stop_reading(self.steps_done)
        self._chunks = self._chunk = None
