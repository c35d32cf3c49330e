"""Newswires as lists of word indices."""

import json
from pathlib import Path

import numpy as np

from training.keras.datasets import text
from training.keras.datasets.files import TrainAndTest, check_fraction, original, read_arrays

LABELS = tuple(
    "cocoa grain veg-oil earn acq wheat copper housing money-supply coffee sugar trade reserves ship cotton carcass "
    "crude nat-gas cpi money-fx interest gnp meal-feed alum oilseed gold tin strategic-metal livestock retail ipi "
    "iron-steel "
    "rubber heat jobs lei bop zinc orange pet-chem dlr gas silver wpi hog lead".split()
)


def load_data(
    path: str = "reuters.npz",
    num_words: int | None = None,
    skip_top: int = 0,
    maxlen: int | None = None,
    test_split: float = 0.2,
    seed: int = 113,
    start_char: int | None = 1,
    oov_char: int | None = 2,
    index_from: int | None = 3,
) -> TrainAndTest:
    """Returns newswires and their 46 topics for training and test.

    Args:
        path: The name of the file in `~/.keras/datasets`.
        num_words: Words with this index or a larger one become `oov_char`; None keeps all but the rarest word.
        skip_top: Words with a smaller index become `oov_char`.
        maxlen: Only newswires with fewer words are returned.
        test_split: The fraction for test.
        seed: The seed of the order.
        start_char: The start of each newswire, or None for none.
        oov_char: The index of words outside the vocabulary; None leaves them out.
        index_from: Added to the indices of `get_word_index`.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: arrays of lists of integers, and of the indices of `get_label_names`.

    Raises:
        ValueError: If the fraction is out of range, or no newswire is short enough.
        ConnectionError: If the file is not present and cannot be downloaded.

    References:
        Keras, `keras.datasets.reuters.load_data`.
    """
    check_fraction(test_split)
    arrays = read_arrays(original("reuters", path))
    order = np.arange(len(arrays["x"]))
    np.random.RandomState(seed).shuffle(order)  # Keras' order
    texts = text.with_start(arrays["x"][order], start_char, index_from)
    labels = arrays["y"][order]
    if maxlen:
        texts, short = text.shorter_than(maxlen, texts, labels)
        if not texts:
            raise ValueError(f"`maxlen` must be larger than the shortest newswire, got {maxlen}; pass a larger one.")
        labels = np.array(short)
    texts = text.in_vocabulary(texts, num_words, skip_top, oov_char)
    kept = int(len(texts) * (1 - test_split))
    return (text.as_objects(texts[:kept]), labels[:kept]), (text.as_objects(texts[kept:]), labels[kept:])


def get_word_index(path: str = "reuters_word_index.json") -> dict[str, int]:
    """Returns the index of each word, counted from 1; `load_data` adds `index_from` to it.

    Args:
        path: The name of the file in `~/.keras/datasets`.

    Raises:
        ConnectionError: If the file is not present and cannot be downloaded.

    References:
        Keras, `keras.datasets.reuters.get_word_index`.
    """
    return json.loads(Path(original("reuters_word_index", path)).read_text())


def get_label_names() -> tuple[str, ...]:
    """Returns the names of the topics, in the order of the labels.

    References:
        Keras, `keras.datasets.reuters.get_label_names`.

    Example:
        >>> get_label_names()[:3]
        ('cocoa', 'grain', 'veg-oil')
    """
    return LABELS
