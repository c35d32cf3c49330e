"""Prepares the word indices of texts as Keras' arguments say."""

from collections.abc import Iterable
from typing import TypeVar

import numpy as np

Label = TypeVar("Label")


def with_start(texts: Iterable[Iterable[int]], start_char: int | None, index_from: int | None) -> list[list[int]]:
    """Returns texts as lists: indices are shifted, and a start is put in front.

    Args:
        texts: The indices of words, counted from 1.
        start_char: The start, or None for none.
        index_from: Added to the indices.
    """
    shift = index_from or 0
    front = [] if start_char is None else [start_char]
    return [[*front, *(word + shift for word in text)] for text in texts]


def shorter_than(maxlen: int, texts: list[list[int]], labels: Iterable[Label]) -> tuple[list[list[int]], list[Label]]:
    """Returns the texts with fewer than `maxlen` indices, and their labels."""
    kept = [(text, label) for text, label in zip(texts, labels, strict=True) if len(text) < maxlen]
    return [text for text, _ in kept], [label for _, label in kept]


def in_vocabulary(
    texts: list[list[int]], num_words: int | None, skip_top: int, oov_char: int | None
) -> list[list[int]]:
    """Replaces the indices outside a vocabulary, or leaves them out.

    Args:
        texts: The texts.
        num_words: The first index that is outside, or None for all words.
        skip_top: The first index that is inside.
        oov_char: The replacement, or None to leave the indices out.
    """
    end = num_words or max(max(text) for text in texts)  # As in Keras, the largest index is then outside.
    if oov_char is None:
        return [[word for word in text if skip_top <= word < end] for text in texts]
    return [[word if skip_top <= word < end else oov_char for word in text] for text in texts]


def as_objects(texts: list[list[int]]) -> np.ndarray:
    """Returns an array of lists; like in Keras, a matrix of integers if all lists have one length."""
    return np.array(texts, dtype="object")
