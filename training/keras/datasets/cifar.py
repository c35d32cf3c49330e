"""Reads the files of CIFAR-10 and CIFAR-100."""

import os
from pathlib import Path

import numpy as np

from training.keras import config
from training.keras.datasets.files import read_pickle


def read_batch(path: str | os.PathLike[str], labels: str = "labels") -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and labels of one file.

    Args:
        path: The file.
        labels: The name of the labels in it.

    Returns:
        uint8 arrays: images [N, 32, 32, 3], or [N, 3, 32, 32] if the program's data format is "channels_first", and
        labels [N, 1].
    """
    content = read_pickle(path)
    images = content[b"data"].reshape(-1, 3, 32, 32)
    if config.image_data_format() == "channels_last":
        images = images.transpose(0, 2, 3, 1)
    return images, np.array(content[labels.encode()]).reshape(-1, 1)


def read_batches(folder: Path, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and labels of several files, joined, as uint8."""
    images, labels = zip(*(read_batch(folder / name) for name in names), strict=True)
    return np.concatenate(images), np.concatenate(labels).astype("uint8")
