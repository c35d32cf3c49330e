"""The base class of data that computes its batches."""

import itertools
import warnings
from collections.abc import Iterable, Iterator
from typing import Any


class PyDataset:
    """Base class of data whose batches Python computes by index; `fit`, `evaluate` and `predict` take it.

    A subclass defines `__getitem__(index)`, which returns a batch, and `__len__` or `num_batches`.

    Args:
        workers: The number of threads that compute batches; 0 and 1 read one batch after another.
        use_multiprocessing: Processes are not used, because JAX does not survive a fork; True warns, and the workers
            are threads.
        max_queue_size: How many batches the workers compute in advance.

    Raises:
        ValueError: If a number is out of range.

    References:
        Keras, `keras.utils.PyDataset`.

    Example:
        >>> class Squares(PyDataset):
        ...     def __len__(self):
        ...         return 2
        ...     def __getitem__(self, index):
        ...         return [index], [index**2]
        >>> list(Squares())
        [([0], [0]), ([1], [1])]
    """

    # A subclass may leave out super().__init__().
    workers = 1
    use_multiprocessing = False
    max_queue_size = 10

    def __init__(self, workers: int = 1, use_multiprocessing: bool = False, max_queue_size: int = 10):
        for name, value, least in (("workers", workers, 0), ("max_queue_size", max_queue_size, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}; pass {least}.")
        if use_multiprocessing:
            warnings.warn(
                "`use_multiprocessing=True` makes threads, because JAX does not survive a fork; pass `workers` alone.",
                stacklevel=2,
            )
        self.workers, self.use_multiprocessing, self.max_queue_size = workers, use_multiprocessing, max_queue_size

    def __getitem__(self, index: int) -> Any:
        """Returns the batch at an index."""
        raise NotImplementedError(
            f"{type(self).__name__} must define __getitem__(index), got a class without it; return a batch there."
        )

    @property
    def num_batches(self) -> int | None:
        """The number of batches, None if there is no end."""
        if hasattr(self, "__len__"):
            return len(self)
        raise NotImplementedError(
            f"{type(self).__name__} must define __len__ or num_batches, got a class without both; return the number of "
            "batches there."
        )

    def __iter__(self) -> Iterator[Any]:
        number = self.num_batches
        indices: Iterable[int] = itertools.count() if number is None else range(number)
        return (self[i] for i in indices)

    def on_epoch_begin(self) -> None:
        """Runs before each pass through the batches."""

    def on_epoch_end(self) -> None:
        """Runs after each pass through the batches."""


Sequence = PyDataset
