"""Reads the batches of a stream: an iterator, an iterable, a sequence of batches, or a function."""

import base64
import inspect
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeAlias, TypeGuard

import jax
import numpy as np

from flaxmodels import threefry
from training.data.examples import Examples, is_array
from training.data.source import IteratorState, StreamPosition
from training.datasets import Split


class BatchSequence(Protocol):
    """Provides batches by index, like `keras.utils.PyDataset` and map-style datasets."""

    def __getitem__(self, index: int, /) -> object: ...


Stream: TypeAlias = BatchSequence | Iterable[object] | Callable[..., Iterable[object]]


def is_stream(x: object) -> TypeGuard[Stream]:
    """Returns whether x is a stream: an iterator, a loader, a sequence of batches, or a function that makes one."""
    if isinstance(x, list | tuple | Mapping | str | bytes | Split | Examples) or is_array(x):
        return False
    return callable(x) or any(hasattr(x, name) for name in ("__next__", "__iter__", "__getitem__"))


def is_sequence(x: object) -> TypeGuard[BatchSequence]:
    """Returns whether x provides its batches by index, like `keras.utils.PyDataset` and map-style datasets.

    An object that can also be iterated is a sequence only if it has Keras' `on_epoch_end`.
    """
    if callable(x) or hasattr(x, "__next__") or not hasattr(x, "__getitem__"):
        return False
    return hasattr(x, "on_epoch_end") or (hasattr(x, "__len__") and not hasattr(x, "__iter__"))


def _is_iterator(x: object) -> TypeGuard[Iterator[object]]:
    return hasattr(x, "__next__") and not callable(x)


def reader_of(x: Stream) -> "Reader":
    """Returns the reader of a stream."""
    if is_sequence(x):
        return SequenceReader(x)
    return IteratorReader(x) if _is_iterator(x) else IterableReader(x)


class Reader:
    """Reads batches in passes.

    Attributes:
        steps: Number of batches in a pass, or None if it is not known.
        restarts: Whether there can be a second pass.
    """

    steps: int | None = None
    restarts = True

    def peek(self) -> list[object]:
        """Returns the first batch in a list, which is empty if there is none, without consuming the batch."""
        raise NotImplementedError

    def open(self, pass_index: int, first: int, key: jax.Array | None) -> Iterator[object]:
        """Returns the batches of a pass from step `first` on; a `key` shuffles a sequence."""
        raise NotImplementedError

    def close(self, used: int, unused: list[object], state: IteratorState | None) -> None:
        """Stops reading.

        Args:
            used: How many batches were used since `open`.
            unused: The batches that were read after the used ones.
            state: The state of the iterator after the used batches, or None if it has none.
        """

    def finish(self) -> None:
        """Notes that a pass is complete."""

    def state(self) -> IteratorState | None:
        """Returns the state of the iterator in use as JSON values, or None if it has none."""
        return None

    def position(self, used: int) -> StreamPosition:
        """Returns the position that a checkpoint stores after `used` batches since `open`."""
        return {}

    def resume(self, pass_index: int, first: int, kept: StreamPosition) -> None:
        """Prepares reading from step `first` of a pass, given what `position` returned."""


class SequenceReader(Reader):
    """Reads the items of a sequence as batches; `open` shuffles them if it has a key.

    A sequence whose `workers` is larger than 1 is read by that many threads, up to `max_queue_size` items ahead.

    Calls the sequence's `on_epoch_begin` before and `on_epoch_end` after each pass, if it has them, as Keras does. A
    sequence whose `num_batches` is None is endless.
    """

    def __init__(self, sequence: BatchSequence):
        self.sequence, self._passes = sequence, 0
        self.steps = _length(sequence)
        self._ahead: Generator[object, None, None] | None = None

    def peek(self) -> list[object]:
        return [] if self.steps == 0 else [self.sequence[0]]

    def open(self, pass_index: int, first: int, key: jax.Array | None) -> Iterator[object]:
        self._call("on_epoch_begin")
        order: Iterable[int]
        if self.steps is None:
            order = itertools.count(first)
        else:
            # A sequence may become shorter at the end of a pass.
            now = _length(self.sequence)
            steps = self.steps if now is None else min(self.steps, now)
            order = np.arange(steps) if key is None else np.asarray(threefry.permutation(key, steps))
            order = order[first:]
        workers = getattr(self.sequence, "workers", 1)
        if isinstance(workers, int) and workers > 1:
            ahead = max(getattr(self.sequence, "max_queue_size", 10), workers)
            self._ahead = _read_ahead(self.sequence, order, workers, ahead)
            return self._ahead
        return (self.sequence[int(i)] for i in order)

    def close(self, used: int, unused: list[object], state: IteratorState | None) -> None:
        if self._ahead is not None:
            self._ahead.close()  # otherwise threads read items while `on_epoch_end` changes the sequence
            self._ahead = None

    def position(self, used: int) -> StreamPosition:
        return {"passes": self._passes}

    def resume(self, pass_index: int, first: int, kept: StreamPosition) -> None:
        # A sequence may change itself at the end of a pass, for example shuffle its items. Repeat these changes.
        for _ in range(kept.get("passes", 0)):
            self._call("on_epoch_begin")
            self.finish()

    def finish(self) -> None:
        self._passes += 1
        self._call("on_epoch_end")

    def _call(self, hook: str) -> None:
        if hasattr(self.sequence, hook):
            getattr(self.sequence, hook)()


def _read_ahead(
    sequence: BatchSequence, order: Iterable[int], workers: int, ahead: int
) -> Generator[object, None, None]:
    """Yields the items of a sequence in order, while several threads compute up to `ahead` later ones."""
    rest = iter(order)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="sequence")
    try:
        waiting = deque(pool.submit(sequence.__getitem__, int(i)) for i in itertools.islice(rest, ahead))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(sequence.__getitem__, int(i)) for i in itertools.islice(rest, 1))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


class IterableReader(Reader):
    """Iterates over an iterable in each pass, or calls a function that returns an iterable or iterator.

    The function receives the index of the pass if it takes an argument.
    """

    def __init__(self, iterable: Stream):
        self.iterable: Any = iterable
        self.steps = len(iterable) if isinstance(iterable, Sized) else None
        self._iterator: Any = None
        self._peeked: Iterator[object] | None = None
        self._resumed: tuple[int, int, IteratorState | None] | None = None

    def _start(self, pass_index: int) -> Iterator[object]:
        made = self.iterable
        if callable(made):
            made = made(pass_index) if _takes_argument(made) else made()
        self._iterator = iter(made)
        return self._iterator

    def peek(self) -> list[object]:
        first = list(itertools.islice(self._start(0), 1))
        self._peeked = itertools.chain(first, self._iterator)
        return first

    def open(self, pass_index: int, first: int, key: jax.Array | None) -> Iterator[object]:
        peeked, self._peeked = self._peeked, None
        resumed, self._resumed = self._resumed, None
        if resumed is not None and resumed[:2] == (pass_index, first) and resumed[2] is not None:
            iterator = self._start(pass_index)
            _set_state(iterator, resumed[2])
            return iterator
        # Pass 0 continues with the iterator that `peek` started.
        iterator = peeked if peeked is not None and pass_index == 0 else self._start(pass_index)
        return itertools.islice(iterator, first, None)

    def state(self) -> IteratorState | None:
        return _state_of(self._iterator)

    def resume(self, pass_index: int, first: int, kept: StreamPosition) -> None:
        self._resumed = pass_index, first, kept.get("state")


class IteratorReader(Reader):
    """Reads the rest of an iterator: there is one pass, and every batch is used once.

    Batches that were read and not used are kept for the next call with the same iterator. An iterator with `get_state`
    and `set_state` is reset to its state after the used batches instead.
    """

    restarts = False

    def __init__(self, iterator: Iterator[object]):
        self.iterator, self._ledger, self._skipped = iterator, _ledger_of(iterator), 0

    def peek(self) -> list[object]:
        if not self._ledger.unread:
            self._ledger.unread.extend(itertools.islice(self._rest(), 1))
        return list(itertools.islice(self._ledger.unread, 1))

    def open(self, pass_index: int, first: int, key: jax.Array | None) -> Iterator[object]:
        skipped, self._skipped = self._skipped, 0
        self._ledger.used += skipped
        return itertools.islice(self._left(), skipped, None)

    def _left(self) -> Iterator[object]:
        while self._ledger.unread:
            yield self._ledger.unread.popleft()
        # `yield from` would close `rest` together with this generator.
        for batch in self._rest():  # noqa: UP028
            yield batch

    def _rest(self) -> Iterator[object]:
        """Yields the batches not read yet; calls `next` only, because `iter` would restart many loaders."""
        while True:
            try:
                batch = next(self.iterator)
            except StopIteration:
                return
            yield batch

    def close(self, used: int, unused: list[object], state: IteratorState | None) -> None:
        self._ledger.used += used
        if unused and state is not None:
            self._ledger.unread.clear()
            _set_state(self.iterator, state)
        else:
            self._ledger.unread.extendleft(reversed(unused))
        _remove_ledger(self.iterator)

    def state(self) -> IteratorState | None:
        return None if self._ledger.unread else _state_of(self.iterator)

    def position(self, used: int) -> StreamPosition:
        return {"used": self._ledger.used + self._skipped + used}

    def resume(self, pass_index: int, first: int, kept: StreamPosition) -> None:
        used = kept.get("used", first)
        state = kept.get("state")
        if state is not None:
            self._ledger.unread.clear()
            _set_state(self.iterator, state)
            self._ledger.used = used
            return
        self._skipped = used - self._ledger.used
        if self._skipped < 0:
            raise ValueError(
                f"The run continues after {used} batches of its iterator, got an iterator that has already yielded "
                f"{self._ledger.used}; give a new one."
            )


class _Ledger:
    """The record of how far an iterator was read, shared by all calls that use it.

    Attributes:
        unread: Batches that were read and not used.
        used: Number of batches that were used.
    """

    def __init__(self) -> None:
        self.unread: deque[object] = deque()
        self.used = 0


# Ledgers by the identity of the iterator, with a reference that shows whether the iterator still exists.
_LEDGERS: dict[int, tuple[Callable[[], object], _Ledger]] = {}


def _ledger_of(iterator: Iterator[object]) -> _Ledger:
    key = id(iterator)
    if key not in _LEDGERS:
        try:
            reference: Callable[[], object] = weakref.ref(iterator, lambda _: _LEDGERS.pop(key, None))
        except TypeError:  # zip, map and other iterators written in C
            reference = _StrongReference(iterator)
        iter(iterator)  # only once: for many loaders this starts or restarts the iteration
        _LEDGERS[key] = reference, _Ledger()
    return _LEDGERS[key][1]


def _remove_ledger(iterator: Iterator[object]) -> None:
    """Removes a ledger without unread batches if it holds the iterator by a strong reference."""
    reference, ledger = _LEDGERS.get(id(iterator), (None, None))
    if isinstance(reference, _StrongReference) and not ledger.unread:  # type: ignore[union-attr]
        del _LEDGERS[id(iterator)]


class _StrongReference:
    """A strong reference with the interface of a weak one."""

    def __init__(self, referent: object):
        self.referent = referent

    def __call__(self) -> object:
        return self.referent


def _length(sequence: Any) -> int | None:
    try:
        return sequence.num_batches
    except (AttributeError, NotImplementedError):
        return len(sequence) if hasattr(sequence, "__len__") else None


def _state_of(iterator: object) -> IteratorState | None:
    if not (hasattr(iterator, "get_state") and hasattr(iterator, "set_state")):
        return None
    state = iterator.get_state()
    return {"bytes": base64.b64encode(state).decode()} if isinstance(state, bytes) else {"value": state}


def _set_state(iterator: Iterator[object], state: IteratorState) -> None:
    """Sets a state that `_state_of` returned."""
    decoded = base64.b64decode(state["bytes"]) if "bytes" in state else state["value"]
    iterator.set_state(decoded)  # type: ignore[attr-defined]


def _takes_argument(function: Callable[..., object]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a class written in C may have no signature
        return False
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters)
