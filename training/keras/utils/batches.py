"""Data sets that are read in passes and changed step by step, with the methods of the data sets of TensorFlow."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import jax
import numpy as np

from training.keras import seeds

# An array, or a tuple, list or dictionary of arrays.
Element: TypeAlias = Any

INFINITE_CARDINALITY, UNKNOWN_CARDINALITY = -1, -2


class Dataset:
    """Yields the elements of a data set in passes.

    Training calls the data set with the index of a pass, so that a resumed run reads the same elements. A loop over the
    data set reads pass 0 first, then pass 1, and so on. Methods such as `map`, `batch` and `shuffle` return a new data
    set and have the meaning that they have in `tf.data`.

    Args:
        read: Returns the elements of a pass, given the pass's index.
        length: The number of elements in a pass; None if it is not known, -1 if passes have no end.
        batch_size: The number of examples in an element that is a batch, otherwise None.

    Example:
        >>> numbers = Dataset(lambda pass_index: iter(range(5)), 5)
        >>> [element.tolist() for element in numbers.map(lambda x: 2 * x).batch(2)]
        [[0, 2], [4, 6], [8]]
    """

    def __init__(self, read: Callable[[int], Iterator[Element]], length: int | None, batch_size: int | None = None):
        self._read, self._length, self.batch_size, self._passes = read, length, batch_size, 0

    @classmethod
    def from_tensor_slices(cls, tensors: Element) -> "Dataset":
        """Returns a data set of the rows of arrays, which have a common first axis."""
        arrays = jax.tree.map(np.asarray, tensors)
        lengths = {len(leaf) for leaf in jax.tree.leaves(arrays)}
        if len(lengths) != 1:
            raise ValueError(
                f"The arrays of a data set must have the same length, got {sorted(lengths)}; cut the longer ones."
            )
        (length,) = lengths

        def rows(pass_index: int) -> Iterator[Element]:
            return (jax.tree.map(lambda leaf, i=i: leaf[i], arrays) for i in range(length))

        return Dataset(rows, length)

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        if self._length is None or self._length < 0:
            raise TypeError(
                "The length of this data set is unknown, because a step such as `unbatch` or `repeat` hides it; "
                "count the elements in a loop."
            )
        return self._length

    @property
    def num_batches(self) -> int | None:
        """The number of elements in a pass, or None if it is not known or there is no end."""
        return None if self._length is None or self._length < 0 else self._length

    def __iter__(self) -> Iterator[Element]:
        self._passes += 1
        return self(self._passes - 1)

    def __call__(self, pass_index: int) -> Iterator[Element]:
        """Returns the elements of a pass."""
        return self._read(pass_index)

    def as_numpy_iterator(self) -> Iterator[Element]:
        """Returns the elements of the next pass, which are arrays of NumPy already."""
        return iter(self)

    def cardinality(self) -> int:
        """Returns the number of elements: -1 if there is no end, -2 if it is not known."""
        return UNKNOWN_CARDINALITY if self._length is None else self._length

    def map(
        self,
        map_func: Callable[..., Element],
        num_parallel_calls: int | None = None,
        deterministic: bool | None = None,
    ) -> "Dataset":
        """Applies a function to each element; a tuple becomes the arguments of the function.

        Args:
            map_func: The function.
            num_parallel_calls: How many threads map elements ahead; None maps them one by one, -1 chooses.
            deterministic: Only True or None: the order of the elements is always kept.

        Raises:
            ValueError: If `deterministic` is False.
        """
        if deterministic is False:
            raise ValueError("`deterministic` must be True, got False: the elements keep their order; leave it out.")
        read = self._read

        def one(element: Element) -> Element:
            return _as_numpy(map_func(*element) if isinstance(element, tuple) else map_func(element))

        return self._like(lambda pass_index: map_ahead(one, read(pass_index), num_parallel_calls), self._length)

    def batch(self, batch_size: int, drop_remainder: bool = False) -> "Dataset":
        """Stacks consecutive elements.

        Args:
            batch_size: Elements in a batch.
            drop_remainder: Whether to leave out a last batch that is not full.

        Raises:
            ValueError: If `batch_size` is not positive.
        """
        check_positive("batch_size", batch_size)
        read = self._read

        def batched(pass_index: int) -> Iterator[Element]:
            elements = read(pass_index)
            while batch := tuple(itertools.islice(elements, batch_size)):
                if len(batch) == batch_size or not drop_remainder:
                    yield stack(batch)

        length = self._length
        if length is not None and length >= 0:
            length = length // batch_size if drop_remainder else -(-length // batch_size)
        return Dataset(batched, length, batch_size)

    def unbatch(self) -> "Dataset":
        """Returns a data set of the rows of the elements."""
        read = self._read

        def rows(pass_index: int) -> Iterator[Element]:
            for element in read(pass_index):
                for i in range(len(jax.tree.leaves(element)[0])):
                    yield jax.tree.map(lambda leaf, i=i: leaf[i], element)

        return Dataset(rows, None)

    def shuffle(self, buffer_size: int, seed: int | None = None, reshuffle_each_iteration: bool = True) -> "Dataset":
        """Takes each element at random from the next `buffer_size` ones.

        Args:
            buffer_size: The number of elements to choose from.
            seed: The seed; by default from `set_random_seed`.
            reshuffle_each_iteration: Whether each pass has another order.

        Raises:
            ValueError: If `buffer_size` is not positive.
        """
        check_positive("buffer_size", buffer_size)
        read, chosen = self._read, seeds.next_seed() if seed is None else seed

        def shuffled(pass_index: int) -> Iterator[Element]:
            random = np.random.default_rng([chosen, pass_index if reshuffle_each_iteration else 0])
            elements = read(pass_index)
            held = list(itertools.islice(elements, buffer_size))
            for element in elements:
                i = int(random.integers(len(held)))
                yield held[i]
                held[i] = element
            for i in random.permutation(len(held)):
                yield held[i]

        return self._like(shuffled, self._length)

    def take(self, count: int) -> "Dataset":
        """Returns a data set of the first `count` elements; -1 takes all."""
        read = self._read
        if count < 0:
            return self._like(read, self._length)
        length = self._length
        if length is not None:
            length = count if length < 0 else min(count, length)
        return self._like(lambda pass_index: itertools.islice(read(pass_index), count), length)

    def skip(self, count: int) -> "Dataset":
        """Returns a data set without the first `count` elements; -1 leaves none."""
        read, length = self._read, self._length
        if count < 0:
            return self.take(0)
        if length is not None and length >= 0:
            length = max(length - count, 0)
        return self._like(lambda pass_index: itertools.islice(read(pass_index), count, None), length)

    def repeat(self, count: int | None = None) -> "Dataset":
        """Returns a data set whose pass consists of `count` passes; None and -1 have no end."""
        read = self._read
        endless = count is None or count < 0

        def repeated(pass_index: int) -> Iterator[Element]:
            times = itertools.count() if endless else range(count or 0)
            for i in times:
                yield from read(i if endless else pass_index * (count or 0) + i)

        length = self._length
        if endless:
            length = INFINITE_CARDINALITY
        elif length is not None and length >= 0:
            length *= count or 0
        return self._like(repeated, length)

    def cache(self) -> "Dataset":
        """Keeps the elements of the first complete pass in memory; later passes have the same elements and order."""
        read = self._read
        kept: list[Element] = []
        complete = False

        def cached(pass_index: int) -> Iterator[Element]:
            nonlocal complete
            if complete:
                yield from kept
                return
            seen = []
            for element in read(0):
                seen.append(element)
                yield element
            kept[:], complete = seen, True

        return self._like(cached, self._length)

    def prefetch(self, buffer_size: int | None = None) -> "Dataset":
        """Returns the data set itself: training reads the next elements while the device computes.

        Args:
            buffer_size: Without effect, because training chooses how far it reads ahead.
        """
        return self

    def _like(self, read: Callable[[int], Iterator[Element]], length: int | None) -> "Dataset":
        return Dataset(read, length, self.batch_size)


def map_ahead(function: Callable[[Any], Element], inputs: Iterator[Any], workers: int | None) -> Iterator[Element]:
    """Yields the results of a function in order, while threads compute the next ones.

    Args:
        function: The function.
        inputs: Its inputs.
        workers: Number of threads, which are two results per thread ahead; None for no thread, -1 for one per core.
    """
    if workers is None:
        yield from map(function, inputs)
        return
    count = min(os.cpu_count() or 1, 16) if workers < 1 else workers
    with ThreadPoolExecutor(count, thread_name_prefix="map") as pool:
        ahead = deque(pool.submit(function, x) for x in itertools.islice(inputs, 2 * count))
        try:
            while ahead:
                result = ahead.popleft().result()
                ahead.extend(pool.submit(function, x) for x in itertools.islice(inputs, 1))
                yield result
        finally:  # the reader may stop before the end
            for future in ahead:
                future.cancel()


def stack(elements: tuple[Element, ...]) -> Element:
    """Stacks elements of equal structure; texts become an array of objects."""

    def joined(*leaves: Any) -> np.ndarray:
        return np.array(leaves, object) if isinstance(leaves[0], str) else np.stack(leaves)

    return jax.tree.map(joined, *elements)


def check_positive(name: str, value: object) -> None:
    """Raises unless a value is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, got {value!r}; choose another one.")


def _as_numpy(element: Element) -> Element:
    return jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, element)
