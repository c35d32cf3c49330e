"""Data that arrives batch by batch, checked, cut into chunks, and read while the device computes."""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.batches import Chunk, Data, as_data
from training.sources import source_of

# A piece of a stream, moved to the device in one transfer, holds about this many bytes and at most so many steps.
PIECE_BYTES, PIECE_STEPS = 2**25, 64
# The next piece is read while one is computed, so steps whose number is known are read in this many pieces or more.
FEWEST_PIECES = 4


class Stream:
    """Batches (x, y) or (x, y, sample_weight), or x alone.

    Args:
        source: An iterator, which is consumed: each call of `fit`, `evaluate` and `predict` takes the batches that it
            uses and no others. Or an iterable, iterated anew in each pass; or a sequence, whose items are batches,
            taken by number; or a function that returns one of the first two, called with the number of the pass if it
            takes an argument. An iterator with `get_state` and `set_state`, as grain's have, resumes without being
            read again.
        class_weight: Factors of the losses by class.
        name: What an error calls it.

    Attributes:
        example: The first batch.
        source: The source of the batches.
    """

    def __init__(self, source: Any, class_weight: Mapping[int, float] | None = None, name: str = "x"):
        self.source, self.class_weight, self.name = source_of(source), class_weight, name
        self.unlabelled = False
        first = self.source.peek()
        if not first:
            raise ValueError(f"`{name}` is a stream that gave no batch; give at least one.")
        self.example = self.checked(first[0], 0)
        self.batch_size = len(self.example)

    def without_labels(self) -> "Stream":
        """The same batches for a prediction, which takes no labels."""
        self.unlabelled = True
        self.example = replace(self.example, y=None, weight=None)
        return self

    def checked(self, batch: Any, i: int) -> Data:
        """What the source gave as batch `i`, checked, also against the first one."""
        parts = batch if isinstance(batch, tuple | list) else (batch,)
        if not 1 <= len(parts) <= 3:
            raise ValueError(
                f"`{self.name}` is a stream of (x, y) or (x, y, sample_weight), got {len(parts)} entries in batch {i}; "
                "give one of them."
            )
        y = parts[1] if len(parts) > 1 else None
        weight = parts[2] if len(parts) > 2 else None
        if self.unlabelled:
            y = weight = None
        data = as_data(parts[0], y, weight, self.class_weight, whole=False)
        if not hasattr(self, "example"):
            return data
        shapes = [jax.tree.map(lambda a: a.shape[1:], d.batch()) for d in (data, self.example)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"`{self.name}` is a stream of batches with examples of the shapes {_listed(self.example)}, got "
                f"{_listed(data)} in batch {i}; give the same in all."
            )
        if len(data) > self.batch_size:
            raise ValueError(
                f"`{self.name}` is a stream of batches of at most {self.batch_size} examples, the size of its first, "
                f"got {len(data)} in batch {i}; make the first batch as large as any."
            )
        return data


def _listed(data: Data) -> str:
    return ", ".join(str(leaf.shape[1:]) for leaf in jax.tree.leaves(data.batch()))


class StreamFeed:
    """Brings a stream to the device in pieces of several batches, the next one made ready while the device computes.

    Args:
        stream: The batches.
        check: Called with each batch, to refuse labels that do not fit.
        piece: Batches in a piece; by default by their size.
        pads: Whether a batch that is shorter than the first may be filled up with padding rows: called with its size.
            Otherwise it is a chunk of its own shape.
        limit: How many batches of a pass are used at most, if that is known; no more are read.

    Attributes:
        data: The first batch, which says what all look like.
        steps: Batches in a pass, None if it is not known.
        n: Examples in a pass, which is not known.
        limit: Up to which step of the pass batches may be read.
    """

    n = None

    def __init__(
        self,
        stream: Stream,
        check: Callable[[Data], Any] | None = None,
        piece: int | None = None,
        pads: Callable[[int], bool] = lambda rows: True,
        limit: int | None = None,
    ):
        self.stream, self.check, self.data, self.pads = stream, check, stream.example, pads
        self.source, self.batch_size = stream.source, stream.batch_size
        self.steps = self.source.steps
        # Whether a short batch will come is unknown; a program that expects padding rows serves all batches.
        self.padded = self.batch_size > 1 and pads(self.batch_size - 1)
        self.limit: float = math.inf if limit is None else limit
        known = min(self.limit, math.inf if self.steps is None else self.steps)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(self.data.batch()))
        most = min(PIECE_STEPS, PIECE_BYTES // max(size, 1), known if piece else -(-known // FEWEST_PIECES))
        self.piece = int(max(1, min(piece or math.inf, known) if piece else most))
        self._opened_at: int | None = None  # the step of the pass that reading started with; None if nothing is read
        self._unused: deque[tuple[int, Any]] = deque()  # what the source gave, by its step
        self._states: dict[int, Any] = {}  # of the source's iterator, after so many steps of the pass

    def position(self, first: int = 0) -> dict[str, Any]:
        """What a checkpoint keeps of the stream after `first` steps of the pass."""
        used, state = 0, self._states.get(first)
        if self._opened_at is not None:
            used = first - self._opened_at
        elif not self.source.restarts:
            state = self.source.state()
        return self.source.position(used) | {"state": state}

    def resume(self, number: int, first: int, kept: Mapping[str, Any]) -> None:
        """Prepares the stream to continue with step `first` of pass `number`, by what a checkpoint kept of it."""
        self.source.resume(number, first, kept)
        self._states = {first: kept.get("state")}

    def chunks(self, number: int = 0, key: jax.Array | None = None, first: int = 0) -> Iterator[Chunk]:
        """The steps of a pass from step `first` on; `key` shuffles what has no order of its own.

        No batch is read beyond `limit`, which may be raised between two chunks.
        """
        given = self.source.open(number, first, key)
        self._opened_at, self._states = first, {first: self._states.get(first)}
        ahead: Future[list[tuple[Data, Any]]] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="stream") as pool:
            while True:
                read = (ahead or pool.submit(self._read, given, first)).result()
                if not read:
                    return
                after = first + len(read)
                ahead = pool.submit(self._read, given, after) if after < self.limit else None
                self._states = {first: self._states.get(first)}
                self._states |= {first + i: state for i, (_, state) in enumerate(read, 1)}
                for part in self._of_one_shape([data for data, _ in read]):
                    yield self._piece(part, first)
                    first += len(part)
                    while self._unused and self._unused[0][0] < first:
                        self._unused.popleft()

    def _read(self, given: Iterator[Any], first: int) -> list[tuple[Data, Any]]:
        """Some batches from step `first` on, each with the state of the source's iterator after it."""
        read = []
        count = int(min(self.piece, max(self.limit - first, 1)))
        for step, batch in enumerate(itertools.islice(given, count), first):
            self._unused.append((step, batch))
            data = self.stream.checked(batch, step)
            if self.check is not None:
                self.check(data)
            read.append((data, self.source.state()))
        return read

    def _of_one_shape(self, read: list[Data]) -> list[list[Data]]:
        """The batches in order, in lists that can share a chunk: a short batch that can't be padded is alone."""
        parts: list[list[Data]] = []
        for data in read:
            if not parts or self._is_alone(data) or self._is_alone(parts[-1][0]):
                parts.append([])
            parts[-1].append(data)
        return parts

    def _is_alone(self, data: Data) -> bool:
        return len(data) < self.batch_size and not (self.padded and self.pads(len(data)))

    def close(self, first: int) -> None:
        """Ends the reading of a pass after `first` of its steps; what was read beyond goes back to the source."""
        if self._opened_at is not None:
            unused = [batch for step, batch in self._unused if step >= first]
            self.source.close(first - self._opened_at, unused, self._states.get(first))
        self._opened_at = None
        self._unused.clear()
        self._states.clear()

    def _piece(self, read: list[Data], first: int) -> Chunk:
        """One array of all rows; shorter batches, and a shorter last piece, are filled up with what never counts."""
        sizes = np.array([len(data) for data in read], np.int32)
        alone = self._is_alone(read[0])
        steps, batch_size = (1, len(read[0])) if alone else (self.piece, self.batch_size)
        order = np.full((steps, batch_size), -1, np.int32)
        for i, size in enumerate(sizes):
            order[i, :size] = i * batch_size + np.arange(size)

        def joined(*leaves: Any) -> np.ndarray:
            whole = np.zeros((steps * batch_size, *leaves[0].shape[1:]), leaves[0].dtype)
            for i, leaf in enumerate(leaves):
                whole[i * batch_size : i * batch_size + len(leaf)] = leaf
            return whole

        batch = jax.tree.map(joined, *(data.batch() for data in read))
        return Chunk(jax.device_put(batch), jnp.asarray(order), len(read), first, sizes)
