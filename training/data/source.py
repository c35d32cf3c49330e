"""The protocol between data and training: a `Source` makes a `Feed`, and a feed moves chunks to the device."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypedDict

import jax
import numpy as np

from training.data.examples import Examples
from training.state import Batch


class Chunk(NamedTuple):
    """Steps that run on one transfer of data to the device.

    Attributes:
        data: The examples.
        order: The rows of each step [steps or more, B]; -1 is a padding row.
        steps: Number of steps.
        first: Number of the first step in the pass through the data.
        sizes: Examples in each step.
    """

    data: Batch
    order: jax.Array
    steps: int
    first: int
    sizes: np.ndarray


class FeedOptions(NamedTuple):
    """How a call of `fit`, `evaluate` or `predict` reads a feed.

    Attributes:
        may_pad: Returns whether padding rows may fill up a short batch of the given size. Otherwise the short batch
            is a separate chunk.
        check: Called with each batch of a stream; raises if labels or integers are out of range.
        max_steps: Number of batches to read in each pass; None for all.
        steps_per_chunk: Steps in a chunk of a stream; None chooses the number by the size of the batches.
        resident: Whether the data stays on the device if it fits, because it is read more than once.
    """

    may_pad: Callable[[int], bool] = lambda rows: True
    check: Callable[[Examples], object] | None = None
    max_steps: int | None = None
    steps_per_chunk: int | None = None
    resident: bool = True


DEFAULT_OPTIONS = FeedOptions()


class IteratorState(TypedDict, total=False):
    """The state of an iterator as a JSON value: its bytes in base64, or another value."""

    bytes: str
    value: object


class StreamPosition(TypedDict, total=False):
    """What a checkpoint stores to resume a stream.

    Attributes:
        passes: How many passes through a sequence are complete.
        used: How many batches of an iterator were used.
        state: The state of the iterator, None if it has none.
    """

    passes: int
    used: int
    state: IteratorState | None


class Feed:
    """Moves batches to the device, pass after pass.

    Attributes:
        example: Examples that show shapes and dtypes.
        batch_size: Rows in a full batch.
        length: Number of examples in a pass, or None if it is not known.
        steps: Number of batches in a pass, or None if it is not known.
        padded: Whether programs must expect padding rows.
        restarts: Whether there can be a second pass.
    """

    example: Examples
    batch_size: int
    length: int | None
    steps: int | None
    padded: bool
    restarts: bool = True

    def chunks(self, pass_index: int = 0, key: jax.Array | None = None, first: int = 0) -> Iterator[Chunk]:
        """Yields the steps of a pass, from the chunk that contains step `first`; a `key` shuffles them."""
        raise NotImplementedError

    def read_until(self, step: float) -> None:
        """Limits reading ahead to the steps of the pass before `step`. Arrays need no limit."""

    def stop_reading(self, steps_done: int) -> None:
        """Stops reading after `steps_done` steps of the pass. A stream keeps the batches that were not used."""

    def finish_pass(self) -> None:
        """Notes that a pass is complete, and calls `on_epoch_end` of a sequence."""

    def position(self, steps_done: int = 0) -> StreamPosition | None:
        """Returns what a checkpoint needs to resume the data, or None if the position in the pass suffices."""
        return None

    def resume(self, pass_index: int, steps_done: int, kept: StreamPosition) -> None:
        """Prepares the next pass to start at a position that `position` described."""


class Source(Protocol):
    """The source of the examples of a call: arrays in memory, or a stream of batches.

    Attributes:
        example: Examples that show shapes and dtypes: all of them for arrays, the first batch for a stream.
        length: Number of examples, or None if it is not known.
        batch_size: The size of batches that the source prescribes, or None if the caller chooses it.
    """

    example: Examples
    length: int | None
    batch_size: int | None

    def feed(self, batch_size: int, options: FeedOptions = DEFAULT_OPTIONS) -> Feed:
        """Makes the feed of these examples in batches of `batch_size` rows; the last batch may be shorter."""

    def split_off(self, fraction: float, by_class: bool = False) -> "tuple[Source, Source]":
        """Splits off the last part of the examples for validation; see `ArraySource.split_off`."""

    def without_labels(self) -> "Source":
        """Returns a source of the inputs without labels, for a prediction."""
