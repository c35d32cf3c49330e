"""Reviews of films as lists of word indices."""

import json
from pathlib import Path

import numpy as np

from training.keras.datasets import text
from training.keras.datasets.files import TrainAndTest, original, read_arrays


def load_data(
    path: str = "imdb.npz",
    num_words: int | None = None,
    skip_top: int = 0,
    maxlen: int | None = None,
    seed: int = 113,
    start_char: int | None = 1,
    oov_char: int | None = 2,
    index_from: int | None = 3,
    **kwargs: object,
) -> TrainAndTest:
    """Returns reviews of films, and whether they are positive, for training and test.

    Args:
        path: The name of the file in `~/.keras/datasets`.
        num_words: Words with this index or a larger one become `oov_char`; None keeps all but the rarest word.
        skip_top: Words with a smaller index become `oov_char`.
        maxlen: Only reviews with fewer words are returned.
        seed: The seed of the order.
        start_char: The index that is put at the start of each review; None adds no such index.
        oov_char: The index of words outside the vocabulary; None leaves them out.
        index_from: Added to the indices of `get_word_index`.
        **kwargs: None is known.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: arrays of lists of integers, and of 0 or 1.

    Raises:
        ValueError: If no review is short enough.
        TypeError: If another argument is given.
        ConnectionError: If the file is not present and cannot be downloaded.

    References:
        Keras, `keras.datasets.imdb.load_data`.
    """
    if kwargs:
        raise TypeError(f"load_data takes no argument {next(iter(kwargs))!r}; remove it.")
    arrays = read_arrays(original("imdb", path))
    random = np.random.RandomState(seed)  # Keras' order
    parts = []
    for part in ("train", "test"):
        order = np.arange(len(arrays[f"x_{part}"]))
        random.shuffle(order)
        texts = text.with_start(arrays[f"x_{part}"][order], start_char, index_from)
        labels = arrays[f"y_{part}"][order]
        if maxlen:
            texts, kept = text.shorter_than(maxlen, texts, labels)
            if not texts:
                raise ValueError(f"`maxlen` must be larger than the shortest review, got {maxlen}; pass a larger one.")
            labels = np.array(kept)
        parts.append((texts, labels))
    (x_train, y_train), (x_test, y_test) = parts
    texts = text.in_vocabulary(x_train + x_test, num_words, skip_top, oov_char)
    count = len(x_train)
    return (text.as_objects(texts[:count]), y_train), (text.as_objects(texts[count:]), y_test)


def get_word_index(path: str = "imdb_word_index.json") -> dict[str, int]:
    """Returns the index of each word, counted from 1; `load_data` adds `index_from` to it.

    Args:
        path: The name of the file in `~/.keras/datasets`.

    Raises:
        ConnectionError: If the file is not present and cannot be downloaded.

    References:
        Keras, `keras.datasets.imdb.get_word_index`.
    """
    return json.loads(Path(original("imdb_word_index", path)).read_text())
