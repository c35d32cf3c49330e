"""Where Keras' datasets come from, and readers of their files that run no code."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from training.keras.utils.files import get_file

STORAGE = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"

# The arrays (x, y) for training and those for test.
TrainAndTest: TypeAlias = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Original(NamedTuple):
    """A file as Keras registers it.

    Attributes:
        origin: The URL.
        checksum: The sha256 or md5.
    """

    origin: str
    checksum: str


ORIGINALS = {
    "mnist": Original(f"{STORAGE}mnist.npz", "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"),
    "boston_housing": Original(
        f"{STORAGE}boston_housing.npz", "f553886a1f8d56431e820c5b82552d9d95cfcb96d1e678153f8839538947dff5"
    ),
    "california_housing": Original(
        f"{STORAGE}california_housing.npz", "1a2e3a52e0398de6463aebe6f4a8da34fb21fbb6b934cf88c3425e766f2a1a6f"
    ),
    "cifar10": Original(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
    "cifar100": Original(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    ),
    "imdb": Original(f"{STORAGE}imdb.npz", "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f"),
    "imdb_word_index": Original(f"{STORAGE}imdb_word_index.json", "bfafd718b763782e994055a2d397834f"),
    "reuters": Original(f"{STORAGE}reuters.npz", "d6586e694ee56d7a4e65172e12b3e987c03096cb01eab99753921ef915959916"),
    "reuters_word_index": Original(f"{STORAGE}reuters_word_index.json", "4d44cc38712099c9e383dc6e5f11a921"),
}


def original(name: str, fname: str, extract: bool = False) -> str:
    """Returns the path of a file, or of the folder with its contents; downloads it if it is not in the cache."""
    found = ORIGINALS[name]
    return get_file(fname, found.origin, file_hash=found.checksum, extract=extract)


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles that contain only arrays, lists, dictionaries and plain values; any other class is refused."""

    ALLOWED = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
    }

    def find_class(self, module: str, name: str) -> type | Callable[..., object]:
        """Returns one of the classes of which arrays consist."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(
                f"A file of a dataset must contain only arrays, got {module}.{name}; delete it and download it again."
            )
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Returns the arrays of a pickle of CIFAR; strings are bytes.

    Raises:
        pickle.UnpicklingError: If the file contains anything but arrays and plain values.
    """
    with open(path, "rb") as file:
        return _ArraysOnly(file, encoding="bytes").load()


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the arrays of an `.npz` file, also of lists of different lengths, which NumPy stores as a pickle.

    Raises:
        pickle.UnpicklingError: If the file contains anything but arrays and plain values.
    """
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.endswith(".npy"):
                arrays[member.removesuffix(".npy")] = _read_array(io.BytesIO(archive.read(member)))
    return arrays


def _read_array(file: io.BytesIO) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
    _, _, dtype = header(file)
    if dtype.hasobject:
        return _ArraysOnly(file).load()
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def split_rows(x: np.ndarray, y: np.ndarray, test_split: float, seed: int) -> TrainAndTest:
    """Shuffles rows and splits them into a part for training and one for test.

    Args:
        x: The inputs.
        y: The targets.
        test_split: The fraction of the rows for test.
        seed: The seed of the order.

    Raises:
        ValueError: If the fraction is not at least 0 and less than 1.
    """
    check_fraction(test_split)
    order = np.arange(len(x))
    np.random.RandomState(seed).shuffle(order)  # Keras' order
    x, y = x[order], y[order]
    kept = int(len(x) * (1 - test_split))
    return (x[:kept], y[:kept]), (x[kept:], y[kept:])


def check_fraction(test_split: float) -> None:
    """Raises unless a fraction is at least 0 and less than 1."""
    if not 0 <= test_split < 1:
        raise ValueError(
            f"`test_split` must be at least 0 and less than 1, got {test_split!r}; pass the fraction for test, such as "
            "0.2."
        )
