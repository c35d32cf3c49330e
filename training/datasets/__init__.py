"""Loads datasets: `load(name)` returns NumPy arrays for training and test, with a description.

The embedded datasets (`digits`, `digits_sequence`, `airline`) need neither network nor files. tensorflow-datasets
downloads, verifies and prepares the others, without TensorFlow.
"""

from collections.abc import Callable
from pathlib import Path

from flaxmodels.names import lookup
from training.datasets.embedded import airline as airline
from training.datasets.embedded import digits as digits
from training.datasets.embedded import digits_sequence as digits_sequence
from training.datasets.prepared import fashion_mnist as fashion_mnist
from training.datasets.prepared import mnist as mnist
from training.datasets.splits import Dataset as Dataset
from training.datasets.splits import Info as Info
from training.datasets.splits import Split as Split
from training.datasets.windows import from_series as from_series
from training.datasets.windows import windows as windows

EMBEDDED: dict[str, Callable[[], Dataset]] = {
    "airline": airline,
    "digits": digits,
    "digits_sequence": digits_sequence,
}
DATASETS: dict[str, Callable[..., Dataset]] = {**EMBEDDED, "fashion_mnist": fashion_mnist, "mnist": mnist}


def load(name: str, raw_dir: str | Path | None = None, cache_dir: str | Path | None = None) -> Dataset:
    """Returns the dataset of this name.

    Args:
        name: One of `names()`.
        raw_dir: Folder with the original files, which are read instead of a download unless the dataset is prepared
            already. Embedded datasets have no files.
        cache_dir: Folder for prepared datasets; by default $FLAXMODELS_CACHE, or `~/.cache/flaxmodels`.

    Raises:
        ValueError: If the name is unknown, `raw_dir` is given for an embedded dataset, or a file differs from the
            original.
        FileNotFoundError: If a file is missing in `raw_dir`.
        ConnectionError: If the dataset is neither prepared nor downloadable.
        ModuleNotFoundError: If a package of the extra `data` is not installed.

    Example:
        >>> data = load("digits")
        >>> data.train, data.info.input_shape
        (Split(x=uint8[1437, 8, 8, 1] * 0.0625, y=int32[1437]), (8, 8, 1))
    """
    make = lookup("dataset", name, DATASETS, "Or pass arrays: fit(x, y).")
    if name not in EMBEDDED:
        return make(raw_dir, cache_dir)
    if raw_dir is not None:
        raise ValueError(
            f"`raw_dir` must be None for {name!r}, which is embedded and has no files, got {str(raw_dir)!r}; remove it."
        )
    return make()


def names() -> list[str]:
    """Returns the names that `load` takes."""
    return sorted(DATASETS)
