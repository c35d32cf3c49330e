"""A layer that turns texts into sequences of integers, or into vectors of counts."""

import re
import string
from collections.abc import Callable, Sequence
from typing import ClassVar

import flax.linen as nn
import numpy as np

from flaxmodels.layers import checks, host
from flaxmodels.layers.lookup import Vocabulary, VocabularyLayer, Weights
from flaxmodels.layers.vocabulary import Token

Standardize = str | Callable[[np.ndarray], object]
Split = str | Callable[[list[str]], Sequence[Sequence[str]]]

# As in TensorFlow, only ASCII letters become lower case and only ASCII characters are punctuation and whitespace.
LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
PUNCTUATION = str.maketrans("", "", string.punctuation)
WORDS = re.compile(r"[^ \t\n\v\f\r]+")


class TextVectorization(VocabularyLayer):
    r"""Turns texts into integers or vectors: standardizes, splits into tokens, and looks them up in a vocabulary.

    The layer computes on the host. Call it on lists or arrays of strings, or map it over a data source. Give the
    vocabulary, or call `adapt` on texts before the first use. Unknown tokens get 1, and 0 is padding, if
    `output_mode` is "int"; otherwise position 0 counts the unknown tokens.

    Args:
        max_tokens: The largest size of the vocabulary, with the reserved tokens; None for no limit.
        standardize: "lower_and_strip_punctuation", "lower", "strip_punctuation", None, or a function of an array of
            strings. Only ASCII letters and punctuation change, as in Keras.
        split: "whitespace", "character", None, or a function that returns a list of tokens for each text of a list.
        ngrams: The largest size of sequences of tokens that count as one token, or a tuple of sizes; None for none.
        output_mode: "int" for the sequence of positions; "multi_hot", "count" or "tf_idf" for one vector per text.
        output_sequence_length: The length to which sequences are padded or cut; None for the longest of each call.
        pad_to_max_tokens: Whether vectors have the size `max_tokens`.
        vocabulary: Tokens, or the path of a text file with one in each line; None if `adapt` finds them.
        idf_weights: The inverse document frequency of each token, for output_mode="tf_idf".
        sparse: Only False: all arrays are dense.
        ragged: Only False: shorter sequences are padded with 0.
        encoding: Encoding of bytes.

    Shapes: texts [B] or [B, 1] -> integers [B, T], or vectors [B, V].

    Raises:
        ValueError: If an argument is invalid, there is no vocabulary, or an input is not a string.

    References:
        Keras, `keras.layers.TextVectorization`.

    Example:
        >>> layer = TextVectorization(output_sequence_length=4)
        >>> layer.adapt(["A dog ran.", "the dog"])
        >>> print(layer(["The cat ran!"]), layer.get_vocabulary())
        [[3 1 4 0]] ['', '[UNK]', 'dog', 'the', 'ran', 'a']
    """

    max_tokens: int | None = None
    standardize: Standardize | None = "lower_and_strip_punctuation"
    split: Split | None = "whitespace"
    ngrams: int | Sequence[int] | None = None
    output_mode: str = "int"
    output_sequence_length: int | None = None
    pad_to_max_tokens: bool = False
    vocabulary: Vocabulary | None = None
    idf_weights: Weights | None = None
    sparse: bool = False
    ragged: bool = False
    encoding: str = "utf-8"

    MODES: ClassVar[tuple[str, ...]] = ("int", "multi_hot", "count", "tf_idf")

    @nn.nowrap
    def _check_rules(self) -> None:
        for name, choices in (
            ("standardize", ("lower_and_strip_punctuation", "lower", "strip_punctuation")),
            ("split", ("whitespace", "character")),
        ):
            given = getattr(self, name)
            if given is not None and given not in choices and not callable(given):
                raise ValueError(
                    f"`{name}` of {self.label} must be {', '.join(map(repr, choices))}, a function or None, got "
                    f"{given!r}; choose one."
                )
        sizes = (self.ngrams,) if checks.is_integer(self.ngrams) else self.ngrams
        if sizes is not None and not all(checks.is_integer(n) and n > 0 for n in sizes):  # type: ignore[union-attr]
            raise ValueError(
                f"`ngrams` of {self.label} must be a positive integer, a tuple of these, or None, got {self.ngrams!r}; "
                "give, for example, 2."
            )
        if self.ragged:
            raise ValueError(
                f"`ragged` of {self.label} must be False, because all arrays are dense, got True; leave it out, and "
                "shorter sequences are padded with 0."
            )
        if self.output_sequence_length is not None:
            self.check_positive("output_sequence_length")
            if self.output_mode != "int":
                raise ValueError(
                    f"`output_sequence_length` of {self.label} is for output_mode='int', got "
                    f"output_mode={self.output_mode!r}; leave it out."
                )

    @nn.nowrap
    def compute(self, inputs: object) -> np.ndarray:
        """Returns the integers or vectors of texts."""
        tokens, shape = self._tokens(inputs)
        found = [self.table().find(list(document)) for document in tokens]
        if self.output_mode == "int":
            return self._padded(found, shape)
        vectors = [self.encoded(indices) for indices in found]
        return np.array(vectors).reshape(*shape, vectors[0].shape[-1] if vectors else self.table().size)

    @nn.nowrap
    def _padded(self, sequences: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """Returns sequences as one array, padded with 0."""
        length = self.output_sequence_length
        length = max(map(len, sequences), default=0) if length is None else length
        padded = np.zeros((len(sequences), length), np.int64)
        for row, sequence in zip(padded, sequences, strict=True):
            row[: len(sequence)] = sequence[:length]
        return padded.reshape(*shape, length)

    @nn.nowrap
    def documents(self, data: object, is_whole: bool) -> Sequence[Sequence[Token]]:
        """Returns the tokens of each text."""
        flat, shape = host.flatten(self, data)
        if self.split is None and is_whole and len(shape) == 1:
            return self._tokens([[text] for text in flat])[0]
        return self._tokens(data)[0]

    @nn.nowrap
    def _tokens(self, inputs: object) -> tuple[list[list[str]], tuple[int, ...]]:
        """Returns the tokens of each document, and the shape of the documents."""
        flat, shape = host.flatten(self, inputs)
        texts = self._standardized(host.to_text(self, flat, self.encoding), shape)
        if self.split is None:
            size = shape[-1] if shape else 1
            rows = [texts[i : i + size] for i in range(0, len(texts), max(size, 1))]
            return [self._with_ngrams(row) for row in rows], shape[:-1]
        if len(shape) > 1:
            if shape[-1] != 1:
                raise ValueError(
                    f"{self.label} splits texts [B] or [B, 1], got shape {shape}; give one text for each example, or "
                    "split=None for tokens."
                )
            shape = shape[:-1]
        return [self._with_ngrams(row) for row in self._split(texts)], shape

    @nn.nowrap
    def _standardized(self, texts: list[str], shape: tuple[int, ...]) -> list[str]:
        if callable(self.standardize):
            # The user's function gets an array of strings in the shape of the inputs, as in Keras.
            result = self.standardize(np.array(texts).reshape(shape))
            flat, _ = host.flatten(self, result)
            return host.to_text(self, flat, self.encoding)
        if self.standardize in ("lower", "lower_and_strip_punctuation"):
            texts = [text.translate(LOWER) for text in texts]
        if self.standardize in ("strip_punctuation", "lower_and_strip_punctuation"):
            texts = [text.translate(PUNCTUATION) for text in texts]
        return texts

    @nn.nowrap
    def _split(self, texts: list[str]) -> list[list[str]]:
        if callable(self.split):
            return [host.to_text(self, list(tokens), self.encoding) for tokens in self.split(texts)]
        return [list(text) if self.split == "character" else WORDS.findall(text) for text in texts]

    @nn.nowrap
    def _with_ngrams(self, tokens: list[str]) -> list[str]:
        """Returns the sequences of each size, joined by spaces."""
        if self.ngrams is None:
            return tokens
        sizes = range(1, int(self.ngrams) + 1) if checks.is_integer(self.ngrams) else self.ngrams
        return [" ".join(tokens[i : i + n]) for n in sizes for i in range(len(tokens) - n + 1)]  # type: ignore[union-attr]
