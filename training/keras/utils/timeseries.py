"""Cuts time series into batches of windows."""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from training.keras import seeds
from training.keras.utils.batches import Dataset

# Windows, and their targets if there are any.
Batch: TypeAlias = np.ndarray | tuple[np.ndarray, np.ndarray]


class WindowDataset(Dataset):
    """Iterates over batches of windows of a series; if they are shuffled, each pass has another order.

    Args:
        data: The series [T, ...].
        targets: The targets of the windows by their first steps, or None.
        starts: The first steps of the windows.
        steps: The steps of a window, relative to its first one.
        batch_size: Windows in a batch; None yields single windows.
        seed: The seed of the order, or None to keep the order.
    """

    def __init__(
        self,
        data: np.ndarray,
        targets: np.ndarray | None,
        starts: np.ndarray,
        steps: np.ndarray,
        batch_size: int | None,
        seed: int | None,
    ):
        self._data, self._targets, self._starts, self._steps = data, targets, starts, steps
        self._seed = seed
        super().__init__(self._read_pass, -(-len(starts) // (batch_size or 1)), batch_size)

    def _read_pass(self, pass_index: int) -> Iterator[Batch]:
        starts = self._starts
        if self._seed is not None:
            starts = np.random.default_rng([self._seed, pass_index]).permutation(starts)
        for i in range(len(self)):
            if self.batch_size is None:
                yield self._windows(starts[i])
            else:
                yield self._windows(starts[i * self.batch_size : (i + 1) * self.batch_size])

    def _windows(self, starts: np.ndarray) -> Batch:
        x = self._data[starts[..., None] + self._steps]
        return x if self._targets is None else (x, self._targets[starts])


def timeseries_dataset_from_array(
    data: npt.ArrayLike,
    targets: npt.ArrayLike | None,
    sequence_length: int,
    sequence_stride: int = 1,
    sampling_rate: int = 1,
    batch_size: int | None = 128,
    shuffle: bool = False,
    seed: int | None = None,
    start_index: int | None = None,
    end_index: int | None = None,
    format: str | None = None,  # noqa: A002 - Keras' name
) -> WindowDataset:
    """Returns the batches of the windows of a series, which `fit`, `evaluate` and `predict` take.

    As in Keras, window i starts at step i * sequence_stride, and `targets[i * sequence_stride]` belongs to it. Unlike
    in Keras, each pass shuffles all windows again, and the memory for windows is that of one batch.

    Args:
        data: The series [T, ...] in chronological order.
        targets: One target for each possible first step of a window; None for windows without targets.
        sequence_length: Steps in a window.
        sequence_stride: Steps between the starts of two windows.
        sampling_rate: Steps between two consecutive steps of a window.
        batch_size: Windows in a batch; None yields single windows.
        shuffle: Whether to shuffle the windows.
        seed: The seed of the shuffling; by default from `set_random_seed`.
        start_index: Steps before this one are not used.
        end_index: This step and later ones are not used.
        format: Only None: the batches are arrays of NumPy, never a dataset of TensorFlow or Grain.

    Returns:
        An iterable of batches (x, y), or of x, with a length.

    Raises:
        ValueError: If a number is out of range.

    References:
        Keras, `keras.utils.timeseries_dataset_from_array`.

    Example:
        >>> batches = timeseries_dataset_from_array(np.arange(6), np.arange(6) * 10, sequence_length=3, batch_size=2)
        >>> [(x.tolist(), y.tolist()) for x, y in batches]
        [([[0, 1, 2], [1, 2, 3]], [0, 10]), ([[2, 3, 4], [3, 4, 5]], [20, 30])]
    """
    data = np.asarray(data)
    length = len(data)
    _check("start_index", start_index or 0, 0, length)
    if end_index is not None:
        _check("end_index", end_index, (start_index or 0) + 1, length)
    for name, value in (("sampling_rate", sampling_rate), ("sequence_stride", sequence_stride)):
        _check(name, value, 1, length)
    _check("sequence_length", sequence_length, 1, None)
    if batch_size is not None:
        _check("batch_size", batch_size, 1, None)
    if format is not None:
        raise ValueError(
            f"`format` must be None, because the batches are arrays of NumPy, got {format!r}; leave it out."
        )
    start, end = start_index or 0, length if end_index is None else end_index
    count = end - start - (sequence_length - 1) * sampling_rate
    if targets is not None:
        targets = np.asarray(targets)
        # As in Keras, the number of all targets bounds the windows, although the first ones are not used.
        count = min(count, len(targets))
        targets = targets[start:end]
        count = min(count, len(targets))
    return WindowDataset(
        data[start:end],
        targets,
        np.arange(0, max(count, 0), sequence_stride),
        np.arange(0, sequence_length * sampling_rate, sampling_rate),
        batch_size,
        (seeds.next_seed() if seed is None else seed) if shuffle else None,
    )


def _check(name: str, value: object, least: int, below: int | None) -> None:
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        if value >= least and (below is None or value < below):
            return
    upper = "" if below is None else f" and less than {below}, the length of the data"
    raise ValueError(f"`{name}` must be an integer of at least {least}{upper}, got {value!r}; choose another one.")
