"""Arrays as a source: they move to the device once if they fit, otherwise in chunks while the device computes."""

import functools
import math
from collections.abc import Iterator
from dataclasses import replace

import jax
import numpy as np

from training.data.examples import Examples
from training.data.source import DEFAULT_OPTIONS, Chunk, Feed, FeedOptions
from training.steps import make_order

# Device memory that a prediction may use for its inputs: the previous, the current and the next chunk.
PREDICTION_BYTES = 3 * 2**24


class ArraySource:
    """Examples in memory; the caller chooses the batch size.

    Args:
        examples: The examples.
    """

    batch_size: int | None = None

    def __init__(self, examples: Examples):
        self.example = examples
        self.length: int | None = len(examples)

    def feed(self, batch_size: int, options: FeedOptions = DEFAULT_OPTIONS) -> Feed:
        """Makes the feed of these examples in batches of `batch_size` rows; the last batch may be shorter."""
        limit = _memory_for_data() if options.resident else PREDICTION_BYTES
        return ArrayFeed(self.example, batch_size, options, limit)

    def split_off(self, fraction: float, by_class: bool = False) -> "tuple[ArraySource, ArraySource]":
        """Splits off the last part of the examples for validation, before any shuffling, as Keras does.

        Args:
            fraction: Fraction of the examples for validation.
            by_class: Whether the weights are class weights, which count only in training.

        Raises:
            ValueError: If the fraction is not between 0 and 1, or leaves one part empty.
        """
        if not isinstance(fraction, int | float | np.number) or not 0 < fraction < 1:
            raise ValueError(
                f"`validation_split` must lie between 0 and 1, got {fraction!r}; 0.2 takes the last fifth."
            )
        examples = self.example
        at = math.floor(len(examples) * (1 - fraction))
        if at in (0, len(examples)):
            raise ValueError(
                f"`validation_split` must leave at least one example on each side, got {fraction} for {len(examples)} "
                "examples; choose another fraction."
            )
        rest = examples[at:]
        return ArraySource(examples[:at]), ArraySource(replace(rest, weight=None) if by_class else rest)

    def without_labels(self) -> "ArraySource":
        """Returns a source of the inputs without labels, for a prediction."""
        return ArraySource(Examples(self.example.x, scale=self.example.scale))


def _memory_for_data() -> float:
    """Returns how many bytes of examples may stay on the device: half of its memory, or all of them on a CPU."""
    if jax.default_backend() == "cpu":
        return math.inf
    memory = jax.local_devices()[0].memory_stats() or {}
    return 0.5 * memory.get("bytes_limit", math.inf)


class ArrayFeed(Feed):
    """Moves arrays to the device: once if they fit and are read more than once, otherwise chunk by chunk.

    A prediction has chunks of 1, 8, 64 ... steps, so that few programs serve data of any length. Two to seven steps
    form a partially filled chunk of 8.

    Args:
        examples: The examples.
        batch_size: Rows in a full batch.
        options: How the call reads the data.
        limit_bytes: Data above this size moves in chunks.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        options: FeedOptions = DEFAULT_OPTIONS,
        limit_bytes: float = math.inf,
    ):
        self.example, self.batch_size = examples, batch_size
        n = self._n = self.length = len(examples)
        self._steps = self.steps = -(-n // batch_size)
        short = n % batch_size
        self.padded = short != 0 and options.may_pad(short)
        # The number of steps with the full shape; a short batch without padding comes after them.
        self.full_steps = n // batch_size if short and not self.padded else self._steps
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(examples.batch()))
        self.on_device = jax.device_put(examples.batch()) if options.resident and size <= limit_bytes else None
        self.steps_per_chunk = self._steps
        if self.on_device is None:
            bytes_per_step = max(1, size // self._steps)
            most = max(8, self._steps) if not options.resident and self._steps > 1 else self._steps
            self.steps_per_chunk = int(max(1, min(most, limit_bytes // (3 * bytes_per_step))))
        if not options.resident:
            self.steps_per_chunk = 8 ** ((self.steps_per_chunk.bit_length() - 1) // 3)

    @functools.cached_property
    def _unshuffled_order(self) -> jax.Array:
        """The rows of each step without shuffling."""
        return jax.device_put(make_order(None, self._n, self.batch_size))

    def chunks(self, pass_index: int = 0, key: jax.Array | None = None, first: int = 0) -> Iterator[Chunk]:
        """Yields the steps of a pass, from the chunk that contains step `first`; a `key` shuffles them."""
        rows = None if key is None else make_order(key, self._n, self.batch_size)
        sizes = np.full(self._steps, self.batch_size, np.int32)
        sizes[-1] = self._n - (self._steps - 1) * self.batch_size
        full = self.full_steps
        if self.on_device is not None:
            order = self._unshuffled_order if rows is None else jax.device_put(rows)
            if full == self._steps:
                yield Chunk(self.on_device, order, full, 0, sizes)
                return
            if full:
                yield Chunk(self.on_device, order[:full], full, 0, sizes[:full])
            yield Chunk(self.on_device, order[full:, : sizes[-1]], 1, full, sizes[full:])
            return
        starts = [*range(min(first, full) // self.steps_per_chunk * self.steps_per_chunk, full, self.steps_per_chunk)]
        starts += [full] if full < self._steps else []
        # One chunk ahead: its transfer runs while the device computes the chunk before it.
        ahead = self._load_chunk(rows, starts[0], sizes)
        for start in starts[1:]:
            chunk, ahead = ahead, self._load_chunk(rows, start, sizes)
            yield chunk
        yield ahead

    def _load_chunk(self, rows: np.ndarray | None, start: int, sizes: np.ndarray) -> Chunk:
        """Starts moving the rows of some steps. Padding fills a shorter last chunk, so that one shape is compiled.

        Args:
            rows: The rows of all steps. None if they are in order; each step is then a slice and is not gathered.
            start: The first step.
            sizes: Examples in each step.
        """
        short = start >= self.full_steps  # the short batch is a separate chunk
        steps, batch_size = (1, int(sizes[-1])) if short else (self.steps_per_chunk, self.batch_size)
        sizes = sizes[start:] if short else sizes[start : min(start + steps, self.full_steps)]
        count, full = int(sizes.sum()), steps * batch_size
        first = start * self.batch_size
        taken = slice(first, first + count) if rows is None else rows[start : start + steps].reshape(-1)[:count]

        def padded(a: np.ndarray | jax.Array) -> np.ndarray:
            part = np.asarray(a)[taken]
            return part if count == full else np.resize(part, (full, *part.shape[1:]))

        numbers = np.arange(full, dtype=np.int32)
        order = np.where(numbers < count, numbers, np.int32(-1)).reshape(steps, batch_size)
        batch = jax.device_put(jax.tree.map(padded, self.example.batch()))
        return Chunk(batch, jax.device_put(order), len(sizes), start, sizes)
