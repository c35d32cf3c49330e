"""Data that comes batch by batch: generators, loaders and functions that make them, checked and cut into chunks."""

import base64
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training.batches import Chunk, Data, as_data
from training.datasets import Split

# A piece of a stream, moved to the device at once, holds about this much and at most so many steps.
PIECE_BYTES, PIECE_STEPS = 2**25, 64


def is_stream(x: Any) -> bool:
    """Whether x gives batches one by one: an iterator, a loader, or a function that makes one."""
    if isinstance(x, list | tuple | Mapping | str | bytes | Split | Data) or hasattr(x, "__array__"):
        return False
    return callable(x) or hasattr(x, "__next__") or hasattr(x, "__iter__")


class Stream:
    """Batches (x, y) or (x, y, sample_weight), or x alone, from an iterator, a loader or a function that makes one.

    Args:
        source: An iterator, which is gone through once; an iterable, gone through anew in each pass; or a function
            that returns one of these, called with the number of the pass if it takes an argument. An iterator with
            `get_state` and `set_state`, as grain's have, goes on after an interruption without being read again.
        class_weight: Factors of the losses by class.
        name: What an error calls it.

    Attributes:
        example: The first batch.
        restarts: Whether there can be a second pass.
        steps: Batches in a pass, None if it is not known.
    """

    def __init__(self, source: Any, class_weight: Mapping[int, float] | None = None, name: str = "x"):
        self.source, self.class_weight, self.name = source, class_weight, name
        self.unlabelled = False
        self.restarts = callable(source) or not hasattr(source, "__next__")
        self.steps = len(source) if hasattr(source, "__len__") else None
        self._opened, self._started = self._open(0), False
        self._reader = self._opened
        first = next(self._opened, None)
        if first is None:
            raise ValueError(f"`{name}` is a stream that gave no batch; give at least one.")
        self.example = self._batch(first, 0)
        self.batch_size = len(self.example)
        self._opened = itertools.chain([first], self._opened)

    def _open(self, number: int) -> Iterator[Any]:
        source = self.source
        if callable(source):
            source = source(number) if _takes_argument(source) else source()
        return iter(source)

    def batches(self, number: int, first: int = 0, state: Any = None) -> Iterator[Data]:
        """The batches of a pass from the `first` one on, checked; with what `state` gave before it, none is skipped."""
        if state is not None:
            opened = self._reader = self._open(number)
            self._reader.set_state(_restored(state))  # type: ignore[attr-defined]
            self._started = True
        elif not self._started:
            # What was looked at to see the first batch is the first pass of an iterator, and else a waste.
            opened = self._opened if number == 0 or not self.restarts else self._open(number)
            self._reader = opened if opened is not self._opened else self._reader
            self._started = True
        elif self.restarts:
            opened = self._reader = self._open(number)
        else:
            return
        for i, batch in enumerate(opened if state is not None else itertools.islice(opened, first, None), first):
            yield self._batch(batch, i)

    def state(self) -> Any:
        """Where the iterator stands, as JSON can say it; None if it does not tell."""
        if not (hasattr(self._reader, "get_state") and hasattr(self._reader, "set_state")):
            return None
        state = self._reader.get_state()
        return {"bytes": base64.b64encode(state).decode()} if isinstance(state, bytes) else {"value": state}

    def without_labels(self) -> "Stream":
        """The same batches for a prediction, which takes no labels."""
        self.unlabelled = True
        self.example = replace(self.example, y=None, weight=None)
        return self

    def _batch(self, batch: Any, i: int) -> Data:
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
        if i == 0:
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


def _restored(state: Any) -> Any:
    return base64.b64decode(state["bytes"]) if "bytes" in state else state["value"]


def _listed(data: Data) -> str:
    return ", ".join(str(leaf.shape[1:]) for leaf in jax.tree.leaves(data.batch()))


def _takes_argument(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a class of C code does not say
        return False
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters)


class StreamFeed:
    """Brings a stream to the device in pieces of several batches, the next one made ready while the device computes.

    Args:
        stream: The batches.
        check: Called with each batch, to refuse labels that do not fit.
        piece: Batches in a piece; by default by their size.
        pads: Whether a batch that is shorter than the first may be filled up with padding rows: called with its size.
            Otherwise it is a chunk of its own shape.

    Attributes:
        data: The first batch, which says what all look like.
        steps: Batches in a pass, None if it is not known.
        n: Examples in a pass, which is not known.
    """

    n = None

    def __init__(
        self,
        stream: Stream,
        check: Callable[[Data], Any] | None = None,
        piece: int | None = None,
        pads: Callable[[int], bool] = lambda rows: True,
    ):
        self.stream, self.check, self.data, self.pads = stream, check, stream.example, pads
        self.steps, self.batch_size = stream.steps, stream.batch_size
        # Whether a short batch will come is unknown; a program that expects padding rows serves all batches.
        self.padded = self.batch_size > 1 and pads(self.batch_size - 1)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(self.data.batch()))
        piece = piece or int(min(PIECE_STEPS, max(1, PIECE_BYTES // max(size, 1))))
        self.piece = min(piece, self.steps) if self.steps else piece
        self._states: dict[int, Any] = {}  # the stream's, after so many steps of the pass
        self._resumed: tuple[int, int, Any] | None = None

    def state_at(self, first: int) -> Any:
        """Where the stream stood after the `first` steps of the pass; None if it does not tell."""
        return self._states.get(first)

    def go_on(self, number: int, first: int, state: Any) -> None:
        """Has pass `number` begin with its step `first`, where the stream stood so."""
        self._resumed, self._states = (number, first, state), {first: state}

    def chunks(self, number: int = 0, key: jax.Array | None = None, first: int = 0) -> Iterator[Chunk]:
        """The steps of a pass from the `first` on; a stream has its own order, and `key` is not asked."""
        resumed, self._resumed = self._resumed, None
        state = resumed[2] if resumed is not None and resumed[:2] == (number, first) else None
        self._states = {first: state}
        batches = self.stream.batches(number, first, state)
        with ThreadPoolExecutor(1, thread_name_prefix="stream") as pool:
            ahead: Future[list[tuple[Data, Any]]] = pool.submit(self._read, batches)
            while read := ahead.result():
                ahead = pool.submit(self._read, batches)
                self._states = {first: self._states.get(first)}
                self._states |= {first + i: state for i, (_, state) in enumerate(read, 1)}
                for part in self._of_one_shape([data for data, _ in read]):
                    yield self._piece(part, first)
                    first += len(part)

    def _read(self, batches: Iterator[Data]) -> list[tuple[Data, Any]]:
        """Some batches, each with where the stream stands after it."""
        read = []
        for data in itertools.islice(batches, self.piece):
            if self.check is not None:
                self.check(data)
            read.append((data, self.stream.state()))
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
