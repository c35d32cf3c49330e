"""Streams of batches as a source: a thread reads, checks and groups batches while the device computes."""

import itertools
import math
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from training.data.examples import Examples, as_examples
from training.data.readers import Stream, reader_of
from training.data.source import DEFAULT_OPTIONS, Chunk, Feed, FeedOptions, IteratorState, StreamPosition

# A chunk of a stream moves to the device in one transfer. It has about this many bytes, and at most this many steps.
CHUNK_BYTES, CHUNK_STEPS = 2**25, 64
# A pass of known length has at least this many chunks, because the next chunk is read while one is computed.
FEWEST_CHUNKS = 4

_BatchAndState = tuple[Examples, IteratorState | None]


class StreamSource:
    """Batches (x, y) or (x, y, sample_weight), or x alone.

    Args:
        stream: One of four kinds. An iterator is consumed: each call of `fit`, `evaluate` and `predict` takes only the
            batches that it uses. An iterable is iterated once per pass. A sequence provides its batches by index. A
            function returns an iterator or iterable; it receives the index of the pass if it takes an argument. An
            iterator with `get_state` and `set_state`, such as grain's, resumes without being read again.
        class_weight: Factors of the losses, keyed by class.
        name: The name of the argument in error messages.

    Attributes:
        example: The first batch.
        reader: Reads the batches.
    """

    length: int | None = None

    def __init__(self, stream: Stream, class_weight: Mapping[int, float] | None = None, name: str = "x"):
        self.reader, self.class_weight, self.name = reader_of(stream), class_weight, name
        self.unlabelled = False
        first = self.reader.peek()
        if not first:
            raise ValueError(
                f"`{name}` must be a stream of at least one batch, got none; give a stream that is not exhausted."
            )
        self.example = self.convert_batch(_copied(first[0]), 0)
        self.batch_size: int | None = len(self.example)

    def feed(self, batch_size: int, options: FeedOptions = DEFAULT_OPTIONS) -> Feed:
        """Makes the feed of these batches; the stream has chosen their size."""
        return StreamFeed(self, options)

    def split_off(self, fraction: float, by_class: bool = False) -> "tuple[StreamSource, StreamSource]":
        """Raises, because a stream cannot be divided."""
        raise ValueError(
            f"`validation_split` divides arrays, got {fraction} for a stream; give `validation_data` instead."
        )

    def without_labels(self) -> "StreamSource":
        """Ignores the labels of all batches, for a prediction."""
        self.unlabelled = True
        self.example = replace(self.example, y=None, weight=None)
        return self

    def convert_batch(self, batch: object, i: int) -> Examples:
        """Returns batch `i` as examples, or raises if it does not match the first batch."""
        parts = batch if isinstance(batch, tuple | list) else (batch,)
        if not 1 <= len(parts) <= 3:
            raise ValueError(
                f"`{self.name}` must be a stream of (x, y) or (x, y, sample_weight), got {len(parts)} entries in "
                f"batch {i}; give one of them."
            )
        y = parts[1] if len(parts) > 1 else None
        weight = parts[2] if len(parts) > 2 else None
        if self.unlabelled:
            y = weight = None
        data = as_examples(parts[0], y, weight, self.class_weight, is_full_dataset=False)
        if not hasattr(self, "example"):
            return data
        shapes = [jax.tree.map(lambda a: a.shape[1:], d.batch()) for d in (data, self.example)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"All batches of `{self.name}` must have examples of the shapes {_format_shapes(self.example)}, got "
                f"{_format_shapes(data)} in batch {i}; give the same shapes in all batches."
            )
        if len(data) > len(self.example):
            raise ValueError(
                f"The first batch of `{self.name}` must be the largest, got {len(self.example)} examples in batch 0 "
                f"and {len(data)} in batch {i}; start with a batch of full size."
            )
        return data


def _copied(batch: object) -> object:
    """Returns a batch with own arrays, because a stream may write the next batch into the same ones."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, batch)


def _format_shapes(data: Examples) -> str:
    return ", ".join(str(leaf.shape[1:]) for leaf in jax.tree.leaves(data.batch()))


class StreamFeed(Feed):
    """Moves a stream to the device in chunks of several batches, while a thread reads the next chunk.

    Args:
        source: The batches.
        options: How the call reads the batches.
    """

    def __init__(self, source: StreamSource, options: FeedOptions = DEFAULT_OPTIONS):
        self.source, self.reader, self.options = source, source.reader, options
        self.example, self.batch_size, self.length = source.example, len(source.example), None
        self.steps, self.restarts = self.reader.steps, self.reader.restarts
        # Short batches may follow; a program that expects padding rows serves all batches.
        self.padded = self.batch_size > 1 and options.may_pad(self.batch_size - 1)
        self._limit: float = math.inf if options.max_steps is None else options.max_steps
        known = min(self._limit, math.inf if self.steps is None else self.steps)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(self.example.batch()))
        if options.steps_per_chunk is not None:
            most = min(options.steps_per_chunk, known)
        else:
            most = min(CHUNK_STEPS, CHUNK_BYTES // max(size, 1), -(-known // FEWEST_CHUNKS))
        self.steps_per_chunk = int(max(1, most))
        self._opened_at: int | None = None  # the step of the pass at which reading started; None if nothing is read
        self._unused: deque[tuple[int, object]] = deque()  # batches that were read, with their steps
        self._states: dict[int, IteratorState | None] = {}  # states of the iterator after a number of steps of the pass

    def position(self, steps_done: int = 0) -> StreamPosition:
        """Returns what a checkpoint needs to resume the stream."""
        used, state = 0, self._states.get(steps_done)
        if self._opened_at is not None:
            used = steps_done - self._opened_at
        elif not self.restarts:
            state = self.reader.state()
        return {**self.reader.position(used), "state": state}

    def resume(self, pass_index: int, steps_done: int, kept: StreamPosition) -> None:
        """Prepares the next pass to start at a position that `position` described."""
        self.reader.resume(pass_index, steps_done, kept)
        self._states = {steps_done: kept.get("state")}

    def read_until(self, step: float) -> None:
        """Limits reading ahead to the steps of the pass before `step`."""
        self._limit = step

    def finish_pass(self) -> None:
        """Notes that a pass is complete, and calls `on_epoch_end` of a sequence."""
        self.reader.finish()

    def chunks(self, pass_index: int = 0, key: jax.Array | None = None, first: int = 0) -> Iterator[Chunk]:
        """Yields the steps of a pass from step `first` on; a `key` shuffles a sequence."""
        given = self.reader.open(pass_index, first, key)
        self._opened_at, self._states = first, {first: self._states.get(first)}
        ahead: Future[list[_BatchAndState]] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="stream") as pool:
            while True:
                read = (ahead or pool.submit(self._read, given, first)).result()
                if not read:
                    return
                after = first + len(read)
                ahead = pool.submit(self._read, given, after) if after < self._limit else None
                self._states = {first: self._states.get(first)}
                self._states |= {first + i: state for i, (_, state) in enumerate(read, 1)}
                for part in self._group_by_shape([examples for examples, _ in read]):
                    yield self._load_chunk(part, first)
                    first += len(part)
                    while self._unused and self._unused[0][0] < first:
                        self._unused.popleft()

    def _read(self, given: Iterator[object], first: int) -> list[_BatchAndState]:
        """Reads the batches of the chunk that starts at step `first`, each with the iterator's state after it."""
        read = []
        count = int(min(self.steps_per_chunk, max(self._limit - first, 1)))
        for step, given_batch in enumerate(itertools.islice(given, count), first):
            batch = _copied(given_batch)
            self._unused.append((step, batch))
            examples = self.source.convert_batch(batch, step)
            if self.options.check is not None:
                self.options.check(examples)
            read.append((examples, self.reader.state()))
        return read

    def _group_by_shape(self, read: list[Examples]) -> list[list[Examples]]:
        """Groups batches that can share a chunk. A short batch that cannot be padded gets a separate group."""
        parts: list[list[Examples]] = []
        for examples in read:
            if not parts or self._is_alone(examples) or self._is_alone(parts[-1][0]):
                parts.append([])
            parts[-1].append(examples)
        return parts

    def _is_alone(self, examples: Examples) -> bool:
        return len(examples) < self.batch_size and not (self.padded and self.options.may_pad(len(examples)))

    def stop_reading(self, steps_done: int) -> None:
        """Stops reading after `steps_done` steps of the pass; the reader keeps the batches that were not used."""
        if self._opened_at is not None:
            unused = [batch for step, batch in self._unused if step >= steps_done]
            self.reader.close(steps_done - self._opened_at, unused, self._states.get(steps_done))
        self._opened_at = None
        self._unused.clear()
        self._states.clear()

    def _load_chunk(self, read: list[Examples], first: int) -> Chunk:
        """Moves batches to the device as one array. Padding rows fill short batches and a shorter last chunk."""
        sizes = np.array([len(examples) for examples in read], np.int32)
        alone = self._is_alone(read[0])
        steps, batch_size = (1, len(read[0])) if alone else (self.steps_per_chunk, self.batch_size)
        order = np.full((steps, batch_size), -1, np.int32)
        for i, size in enumerate(sizes):
            order[i, :size] = i * batch_size + np.arange(size)

        def concatenated(*leaves: np.ndarray | jax.Array) -> np.ndarray:
            whole = np.zeros((steps * batch_size, *leaves[0].shape[1:]), leaves[0].dtype)
            for i, leaf in enumerate(leaves):
                whole[i * batch_size : i * batch_size + len(leaf)] = leaf
            return whole

        batch = jax.tree.map(concatenated, *(examples.batch() for examples in read))
        return Chunk(jax.device_put(batch), jnp.asarray(order), len(read), first, sizes)
