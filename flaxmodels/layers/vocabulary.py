"""Tables from tokens to integers and back, with reserved integers for unknown and masked tokens."""

import collections
import dataclasses
import os
from collections.abc import Iterable, Sequence

import numpy as np

from flaxmodels.layers import fingerprints

Token = str | int
Salt = tuple[int, int]
# The index of a masked token in encoded outputs, where it counts nowhere.
DROPPED = -1


@dataclasses.dataclass
class Rules:
    """Which integers a table reserves, and how it treats unknown tokens.

    Attributes:
        label: The layer, for error messages.
        max_tokens: The largest size of the vocabulary, with the reserved tokens.
        num_oov_indices: The number of integers for unknown tokens.
        mask_token: The token that is masked, or None.
        oov_token: The token that stands for unknown ones.
        is_encoded: Whether the integers become vectors, in which a masked token counts nowhere.
        invert: Whether the table maps integers to tokens.
        uses_farmhash: Whether unknown integers are hashed, and not divided.
        salt: Key of the hash, or None.
    """

    label: str
    max_tokens: int | None
    num_oov_indices: int
    mask_token: Token | None
    oov_token: Token | None
    is_encoded: bool
    invert: bool = False
    uses_farmhash: bool = False
    salt: Salt | None = None

    @property
    def oov_start(self) -> int:
        """The first integer for unknown tokens."""
        return 1 if self.mask_token is not None and not self.is_encoded else 0

    @property
    def token_start(self) -> int:
        """The integer of the first token."""
        return self.oov_start + self.num_oov_indices

    @property
    def special_tokens(self) -> list[Token | None]:
        """The reserved tokens in the order of their integers."""
        return [self.mask_token] * self.oov_start + [self.oov_token] * self.num_oov_indices


class Table:
    """Maps tokens to integers, or integers to tokens.

    Args:
        rules: The reserved integers.
        vocabulary: The tokens, with or without the reserved ones in front.

    Raises:
        ValueError: If the vocabulary is empty, too long, or has a token twice.
    """

    def __init__(self, rules: Rules, vocabulary: Sequence[Token]):
        self.rules = rules
        special = rules.special_tokens
        self.has_special = list(vocabulary[: len(special)]) == special
        self.tokens = list(vocabulary[len(special) :]) if self.has_special else list(vocabulary)
        self._check(vocabulary)
        self.indices = {token: i + rules.token_start for i, token in enumerate(self.tokens)}
        is_numeric = bool(self.tokens) and not isinstance(self.tokens[0], str)
        self.numbers = np.array(self.tokens, np.int64) if is_numeric else None

    def _check(self, vocabulary: Sequence[Token]) -> None:
        rules = self.rules
        size = len(self.tokens) + rules.token_start
        repeated = [token for token, n in collections.Counter(self.tokens).items() if n > 1]
        if not len(vocabulary) or repeated:
            found = f"{repeated[:5]} more than once" if repeated else "no token"
            raise ValueError(
                f"`vocabulary` of {rules.label} must have different tokens, got {found}; list each token once."
            )
        reserved = [rules.mask_token] + ([rules.oov_token] if rules.invert else [])
        misplaced = [token for token in reserved if token is not None and token in self.tokens]
        if misplaced:
            raise ValueError(
                f"`vocabulary` of {rules.label} may have reserved tokens only at its start, as {rules.special_tokens}, "
                f"got {misplaced[0]!r} at another position; leave the reserved tokens out."
            )
        if rules.max_tokens is not None and size > rules.max_tokens:
            raise ValueError(
                f"`vocabulary` of {rules.label} must have at most `max_tokens`={rules.max_tokens} tokens with the "
                f"reserved ones, got {size}; raise `max_tokens`, or shorten the vocabulary."
            )

    @property
    def size(self) -> int:
        """The number of tokens, with the reserved ones."""
        return len(self.tokens) + self.rules.token_start

    def find(self, tokens: Sequence[Token]) -> np.ndarray:
        """Returns the integers of tokens, as int64 [N]; a masked token is DROPPED if the integers are encoded.

        Raises:
            ValueError: If a token is unknown and no integer is reserved for unknown ones.
        """
        rules = self.rules
        unknown = -2
        if self.numbers is None:
            found = np.fromiter((self.indices.get(token, unknown) for token in tokens), np.int64, len(tokens))
        else:
            found = self._find_numbers(np.asarray(tokens, np.int64), unknown)
        if rules.mask_token is not None:
            is_mask = np.fromiter((token == rules.mask_token for token in tokens), bool, len(tokens))
            found = np.where(is_mask, DROPPED if rules.is_encoded else 0, found)
        missing: list[int] = np.flatnonzero(found == unknown).tolist()
        if not missing:
            return found
        if not rules.num_oov_indices:
            shown = list(dict.fromkeys(tokens[i] for i in missing))[:5]
            raise ValueError(
                f"{rules.label} with num_oov_indices=0 takes only tokens of its vocabulary, got {shown}; set "
                "num_oov_indices=1, or add them to the vocabulary."
            )
        found[missing] = rules.oov_start + self._bucket([tokens[i] for i in missing])
        return found

    def _find_numbers(self, values: np.ndarray, unknown: int) -> np.ndarray:
        """Returns the integers of numeric tokens by a binary search."""
        numbers = self.numbers if self.numbers is not None else np.zeros(0, np.int64)
        order = np.argsort(numbers)
        places = order[np.minimum(np.searchsorted(numbers, values, sorter=order), len(order) - 1)]
        return np.where(numbers[places] == values, places + self.rules.token_start, unknown)

    def _bucket(self, tokens: Sequence[Token]) -> np.ndarray:
        """Returns which of the integers for unknown tokens each token gets."""
        count, salt = self.rules.num_oov_indices, self.rules.salt
        if count == 1:
            return np.zeros(len(tokens), np.int64)
        if self.rules.uses_farmhash or isinstance(tokens[0], str):
            return hash_bins([str(token).encode() for token in tokens], count, salt)
        return np.asarray(tokens, np.int64) % count

    def tokens_at(self, indices: Sequence[int]) -> list[Token | None]:
        """Returns the tokens of integers; the token for unknown ones where there is none."""
        rules = self.rules
        known: dict[int, Token | None] = dict(enumerate(self.tokens, rules.token_start))
        if rules.mask_token is not None:
            known[0] = rules.mask_token
        return [known.get(i, rules.oov_token) for i in indices]


def hash_bins(texts: Sequence[bytes], count: int, salt: Salt | None) -> np.ndarray:
    """Returns the bin of each text, by FarmHash, or by SipHash with a salt."""
    hashes = fingerprints.farmhash(texts) if salt is None else fingerprints.siphash(texts, salt)
    return (hashes % np.uint64(count)).astype(np.int64)


class Counter:
    """Counts tokens, and the documents that contain each of them."""

    def __init__(self) -> None:
        self.tokens: collections.Counter[Token] = collections.Counter()
        self.documents: collections.Counter[Token] = collections.Counter()
        self.document_count = 0

    def add(self, documents: Iterable[Sequence[Token]]) -> None:
        """Counts the tokens of documents."""
        for document in documents:
            self.tokens.update(document)
            self.documents.update(set(document))
            self.document_count += 1

    def vocabulary(self, rules: Rules) -> list[Token]:
        """Returns the tokens, the most frequent ones first, and the greatest ones first among equally frequent ones."""
        counts = dict(self.tokens)
        for special in (rules.mask_token, rules.oov_token):
            if special is not None:
                counts.pop(special, None)
        tokens = sorted(counts, reverse=True)
        tokens.sort(key=counts.__getitem__, reverse=True)
        # A stable sort keeps the order of equally frequent tokens also if it is reversed.
        return tokens if rules.max_tokens is None else tokens[: max(rules.max_tokens - rules.token_start, 0)]

    def weights(self, tokens: Sequence[Token]) -> list[float]:
        """Returns the inverse document frequency log(1 + documents / (1 + documents with the token)) of each token."""
        counts = np.array([self.documents[token] for token in tokens])
        return np.log(1 + self.document_count / (1 + counts)).astype(np.float32).tolist()  # type: ignore[no-any-return]


def read_file(label: str, path: str | os.PathLike[str], numeric: bool, encoding: str = "utf-8") -> list[Token]:
    """Returns the tokens in the lines of a text file that the user names.

    Raises:
        ValueError: If there is no such file, or a line is no integer where integers are expected.
    """
    if not os.path.isfile(path):
        raise ValueError(f"`vocabulary` of {label} must be a list or an existing text file, got {os.fspath(path)!r}.")
    with open(path, encoding=encoding, newline="\n") as file:
        lines = [line.removesuffix("\n").removesuffix("\r") for line in file]
    if not numeric:
        return list(lines)
    try:
        return [int(line) for line in lines]
    except ValueError as error:
        raise ValueError(
            f"The vocabulary {os.fspath(path)!r} of {label} must have one integer per line, got: {error}."
        ) from error
