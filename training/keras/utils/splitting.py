"""Splits data sets into two parts."""

import random
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from training.keras.utils.batches import Dataset, stack


def split_dataset(
    dataset: Any,
    left_size: float | None = None,
    right_size: float | None = None,
    shuffle: bool = False,
    seed: int | None = None,
    preferred_backend: str | None = None,
) -> tuple[Dataset, Dataset]:
    """Splits examples into a left and a right part, such as training and test data.

    Args:
        dataset: An array, a tuple, list or dictionary of arrays of equal length, a data set of `keras.utils`, or any
            object with `__len__` and `__getitem__`, or an iterable, that yields examples.
        left_size: The number of examples on the left, or their part as a number between 0 and 1; by default the rest.
        right_size: Likewise on the right. Without either one, the call raises.
        shuffle: Whether to shuffle the examples first.
        seed: The seed of the shuffling, as in Keras; by default from Python's generator.
        preferred_backend: Only None or "jax": the parts yield arrays of NumPy.

    Returns:
        Two data sets. They yield single examples, or batches of the size that `dataset` has.

    Raises:
        ValueError: If the sizes are not possible.
        TypeError: If `dataset` holds no examples.

    References:
        Keras, `keras.utils.split_dataset`.

    Example:
        >>> left, right = split_dataset(np.arange(10), left_size=0.8)
        >>> len(left), [int(x) for x in right]
        (8, [8, 9])
    """
    if preferred_backend not in (None, "jax"):
        raise ValueError(f"`preferred_backend` must be None or 'jax', got {preferred_backend!r}; leave it out.")
    examples = _examples(dataset)
    left, right = _sizes(left_size, right_size, len(examples))
    if shuffle:
        # Python's generator, as in Keras: the same seed gives the same parts.
        random.seed(random.randint(0, 1_000_000) if seed is None else seed)
        random.shuffle(examples)
    batch_size = dataset.batch_size if isinstance(dataset, Dataset) else None
    parts = (
        Dataset.from_tensor_slices(stack(tuple(part))) for part in (examples[:left], examples[len(examples) - right :])
    )
    first, second = (part if batch_size is None else part.batch(batch_size) for part in parts)
    return first, second


def _examples(dataset: Any) -> list[Any]:
    """Returns the list of all examples."""
    if isinstance(dataset, Dataset):
        return list(dataset if dataset.batch_size is None else dataset.unbatch())
    if isinstance(dataset, np.ndarray | jax.Array | tuple | list | dict):
        return list(Dataset.from_tensor_slices(dataset))
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        return [dataset[i] for i in range(len(dataset))]
    if isinstance(dataset, Iterable):
        return list(dataset)
    raise TypeError(f"`dataset` must hold examples, got {type(dataset).__name__}; pass arrays or a data set.")


def _sizes(left: float | None, right: float | None, total: int) -> tuple[int, int]:
    """Returns the numbers of examples of both parts."""
    if left is None and right is None:
        raise ValueError("A split needs `left_size` or `right_size`, got None for both; pass one, such as 0.8.")
    counts = [_count(name, size, total) for name, size in (("left_size", left), ("right_size", right))]
    first, second = counts
    if first is None:
        first = total - (second or 0)
    if second is None:
        second = total - first
    if first + second > total or min(first, second) < 1:
        raise ValueError(
            f"Both parts of {total} examples must hold at least one, got {first} on the left and {second} on the "
            "right; change `left_size` or `right_size`."
        )
    return first, second


def _count(name: str, size: float | None, total: int) -> int | None:
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int | float):
        raise TypeError(f"`{name}` must be an integer or a float, got {type(size).__name__}; convert it.")
    if not (0 < size < (total if isinstance(size, int) else 1)):
        raise ValueError(
            f"`{name}` must be an integer from 1 to {total - 1}, or a float between 0 and 1, got {size}; correct it."
        )
    return size if isinstance(size, int) else round(size * total)
