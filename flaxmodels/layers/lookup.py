"""Layers that map strings and integers to their positions in a vocabulary."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

import flax.linen as nn
import numpy as np

from flaxmodels.layers import categories, checks, host
from flaxmodels.layers.host import HostLayer
from flaxmodels.layers.vocabulary import Counter, Rules, Salt, Table, Token, read_file

Vocabulary = Sequence[str] | Sequence[int] | np.ndarray | str | os.PathLike[str]
Weights = Sequence[float] | np.ndarray
MODES = ("int", "one_hot", "multi_hot", "count", "tf_idf")


class VocabularyLayer(HostLayer):
    """Base class of layers with a vocabulary, which the user gives or `adapt` finds."""

    if TYPE_CHECKING:  # The arguments of each class, which have another order in each.

        @property
        def max_tokens(self) -> int | None: ...
        @property
        def vocabulary(self) -> Vocabulary | None: ...
        @property
        def idf_weights(self) -> Weights | None: ...
        @property
        def output_mode(self) -> str: ...
        @property
        def pad_to_max_tokens(self) -> bool: ...

    MODES: ClassVar[tuple[str, ...]] = MODES
    NUMERIC: ClassVar[bool] = False

    def __post_init__(self) -> None:
        categories.resolve_mode(self, self.MODES)
        categories.check_dense(self)
        if self.max_tokens is not None and (not checks.is_integer(self.max_tokens) or self.max_tokens < 2):
            raise ValueError(
                f"`max_tokens` of {self.label} must be an integer of at least 2, or None, got {self.max_tokens!r}; "
                "give the size of the vocabulary."
            )
        if self.pad_to_max_tokens and self.max_tokens is None:
            raise ValueError(f"`pad_to_max_tokens` of {self.label} needs `max_tokens`, got None; give `max_tokens`.")
        if self.idf_weights is not None and self.output_mode != "tf_idf":
            raise ValueError(
                f"`idf_weights` of {self.label} are for output_mode='tf_idf', got output_mode={self.output_mode!r}; "
                "leave them out, or choose the mode 'tf_idf'."
            )
        object.__setattr__(self, "_is_given", self.vocabulary is not None)
        object.__setattr__(self, "_is_listed", self.vocabulary is not None and not _is_path(self.vocabulary))
        self._check_rules()
        super().__post_init__()
        if self.vocabulary is not None:
            self._set(self.vocabulary, self.idf_weights)

    @nn.nowrap
    def _check_rules(self) -> None:
        """Checks further arguments."""

    @nn.nowrap
    def rules(self) -> Rules:
        """Returns which integers are reserved."""
        return Rules(self.label, self.max_tokens, 1, "", "[UNK]", self.output_mode != "int")

    # ------------------------------------------------------------ the vocabulary

    @nn.nowrap
    def set_vocabulary(self, vocabulary: Vocabulary, idf_weights: Weights | None = None) -> None:
        """Replaces the vocabulary.

        Args:
            vocabulary: Tokens, with or without the reserved ones in front, or the path of a text file with one token
                in each line.
            idf_weights: The inverse document frequency of each token, for output_mode="tf_idf".

        Raises:
            ValueError: If the vocabulary is empty, too long, or has a token twice, or the weights do not fit.

        References:
            Keras, `keras.layers.StringLookup.set_vocabulary`.
        """
        if idf_weights is not None and self.output_mode != "tf_idf":
            raise ValueError(
                f"`idf_weights` of {self.label} are for output_mode='tf_idf', got output_mode={self.output_mode!r}; "
                "leave them out, or choose the mode 'tf_idf'."
            )
        self._set(vocabulary, idf_weights)

    @nn.nowrap
    def _set(self, vocabulary: Vocabulary, idf_weights: Weights | None) -> None:
        rules, is_file = self.rules(), _is_path(vocabulary)
        if is_file:
            lines = read_file(self.label, cast(str, vocabulary), self.NUMERIC, getattr(self, "encoding", "utf-8"))
            tokens = cast("list[Token]", [*rules.special_tokens, *lines]) if lines else []
        else:
            tokens = [_as_token(token) for token in cast("Sequence[Token]", vocabulary)]
        table = Table(rules, tokens)
        weights = None if idf_weights is None else tuple(np.asarray(idf_weights, np.float64).ravel().tolist())
        if self.output_mode == "tf_idf" and (weights is None or is_file or len(weights) != len(tokens)):
            given = "a file" if is_file else "none" if weights is None else f"{len(weights)} for {len(tokens)} tokens"
            raise ValueError(
                f"{self.label} with output_mode='tf_idf' needs `idf_weights`, one number for each token of a list, got "
                f"{given}; give both lists, or call adapt."
            )
        object.__setattr__(self, "vocabulary", tuple(tokens))
        object.__setattr__(self, "idf_weights", weights)
        object.__setattr__(self, "_table", table)

    @nn.nowrap
    def table(self) -> Table:
        """Returns the table from tokens to integers; raises if there is no vocabulary yet."""
        table: Table | None = vars(self).get("_table")
        if table is None:
            raise ValueError(f"{self.label} has no vocabulary yet, got None; call adapt on data, or give `vocabulary`.")
        return table

    @nn.nowrap
    def get_vocabulary(self, include_special_tokens: bool = True) -> list[Token | None]:
        """Returns the tokens in the order of their integers.

        Args:
            include_special_tokens: Whether the reserved tokens are in the list, so that a token's position is its
                integer.

        References:
            Keras, `keras.layers.StringLookup.get_vocabulary`.
        """
        table: Table | None = vars(self).get("_table")
        tokens: list[Token | None] = [] if table is None else [*table.tokens]
        return [*self.rules().special_tokens, *tokens] if include_special_tokens else tokens

    @nn.nowrap
    def vocabulary_size(self) -> int:
        """Returns the number of tokens, with the reserved ones."""
        return len(self.get_vocabulary())

    # ------------------------------------------------------------ adapting

    @nn.nowrap
    def adapt(self, data: object, steps: int | None = None) -> None:
        """Finds the vocabulary of data: the most frequent tokens first.

        Among equally frequent tokens, the greatest ones are first, as in Keras.

        Args:
            data: An array, a list, or an iterable of batches.
            steps: The largest number of batches; None for all.

        Raises:
            ValueError: If the layer has a given vocabulary.

        References:
            Keras, `keras.layers.StringLookup.adapt`.
        """
        self.reset_state()
        for batch in host.batches(data, steps):
            is_data = batch is data
            self._count(self.documents(batch, is_data))
        self.finalize_state()

    @nn.nowrap
    def update_state(self, data: object) -> None:
        """Counts the tokens of one batch, for `finalize_state`."""
        self._count(self.documents(data, False))

    @nn.nowrap
    def _count(self, documents: Sequence[Sequence[Token]]) -> None:
        if vars(self)["_is_given"]:
            raise ValueError(
                f"{self.label} cannot adapt to data, because it got a `vocabulary`; leave `vocabulary` out, or call "
                "set_vocabulary."
            )
        counter: Counter | None = vars(self).get("_counter")
        if counter is None:
            counter = Counter()
            object.__setattr__(self, "_counter", counter)
        counter.add(documents)

    @nn.nowrap
    def documents(self, data: object, is_whole: bool) -> Sequence[Sequence[Token]]:
        """Returns the tokens of each document in data.

        Args:
            data: The data.
            is_whole: Whether the data has one axis of documents, not one axis of the tokens of a document.
        """
        flat, shape = host.flatten(self, data)
        tokens = self.to_tokens(flat)
        size = 1 if is_whole and len(shape) == 1 else shape[-1] if shape else 1
        return [tokens[i : i + size] for i in range(0, len(tokens), max(size, 1))]

    @nn.nowrap
    def to_tokens(self, values: Sequence[object]) -> list[Token]:
        """Returns values as tokens."""
        return list(host.to_text(self, values))

    @nn.nowrap
    def finalize_state(self) -> None:
        """Sets the vocabulary from the tokens of all calls of `update_state`."""
        counter: Counter | None = vars(self).get("_counter")
        if counter is None or not counter.tokens:
            return
        rules = self.rules()
        tokens = counter.vocabulary(rules)
        if not tokens:
            raise ValueError(
                f"{self.label} adapts to data with at least one token that is not reserved, got none; give other data."
            )
        self._set(cast("Sequence[str]", tokens), counter.weights(tokens) if self.output_mode == "tf_idf" else None)
        self.reset_state()

    @nn.nowrap
    def reset_state(self) -> None:
        """Forgets the tokens of earlier calls of `update_state`."""
        vars(self).pop("_counter", None)

    # ------------------------------------------------------------ outputs

    @nn.nowrap
    def encoded(self, indices: np.ndarray) -> np.ndarray:
        """Returns integers as the outputs of the mode."""
        if self.output_mode == "int":
            return indices
        mode = "count" if self.output_mode == "tf_idf" else self.output_mode
        size = self.table().size
        depth = self.max_tokens if self.pad_to_max_tokens and self.max_tokens else size
        vectors = categories.encode(indices, mode, depth, np.float32 if self.floats else np.int64)
        return vectors * self._weights(depth) if self.output_mode == "tf_idf" else vectors

    @property
    @nn.nowrap
    def floats(self) -> bool:
        """Whether vectors are float32, not integers, as in Keras."""
        return self.output_mode == "tf_idf"

    @nn.nowrap
    def _weights(self, depth: int) -> np.ndarray:
        """Returns the inverse document frequency at each position; reserved tokens get the mean."""
        table, given = self.table(), np.asarray(self.idf_weights, np.float32)
        front = 0 if table.has_special else self.rules().token_start
        padded = np.concatenate([np.full(front, given.mean(), np.float32), given])
        return np.pad(padded, (0, depth - len(padded)))


def refuse_path(cls: type, vocabulary: object) -> None:
    """Raises if a description names a file as the vocabulary: only a program may name files that are read."""
    if issubclass(cls, VocabularyLayer) and _is_path(vocabulary):
        raise ValueError(
            f"The description of a {cls.__name__} must hold the tokens of its vocabulary, got the path {vocabulary!r}; "
            f"make the layer in the program, {cls.__name__}(vocabulary=path)."
        )


def _is_path(vocabulary: object) -> bool:
    return isinstance(vocabulary, str | os.PathLike)


def _as_token(token: object) -> Token:
    if isinstance(token, bytes):
        return token.decode()
    return token.item() if isinstance(token, np.generic) else cast(Token, token)


class IndexLookup(VocabularyLayer):
    """Base class of StringLookup and IntegerLookup."""

    if TYPE_CHECKING:

        @property
        def num_oov_indices(self) -> int: ...
        @property
        def mask_token(self) -> Token | None: ...
        @property
        def oov_token(self) -> Token | None: ...
        @property
        def invert(self) -> bool: ...
        @property
        def oov_method(self) -> str: ...
        @property
        def salt(self) -> int | Sequence[int] | None: ...

    @nn.nowrap
    def _check_rules(self) -> None:
        if not checks.is_integer(self.num_oov_indices) or self.num_oov_indices < 0:
            raise ValueError(
                f"`num_oov_indices` of {self.label} must be an integer of at least 0, got {self.num_oov_indices!r}; "
                "give, for example, 1."
            )
        if self.invert and self.output_mode != "int":
            raise ValueError(
                f"`output_mode` of {self.label} must be 'int' with invert=True, got {self.output_mode!r}; leave it out."
            )
        if self.oov_method not in ("floormod", "farmhash"):
            raise ValueError(
                f"`oov_method` of {self.label} must be 'floormod' or 'farmhash', got {self.oov_method!r}; choose one."
            )
        if self.salt is not None and self.NUMERIC and self.oov_method != "farmhash":
            raise ValueError(
                f"`salt` of {self.label} needs oov_method='farmhash', got {self.oov_method!r}; change it, or leave "
                "`salt` out."
            )
        salt_of(self, self.salt)

    @nn.nowrap
    def rules(self) -> Rules:
        """Returns which integers are reserved."""
        hashes = not self.NUMERIC or self.oov_method == "farmhash"
        return Rules(
            self.label, self.max_tokens, self.num_oov_indices, self.mask_token, self.oov_token,
            self.output_mode != "int", self.invert, hashes, salt_of(self, self.salt),
        )  # fmt: skip

    @nn.nowrap
    def compute(self, inputs: object) -> np.ndarray:
        """Returns the integers of tokens, their vectors, or the tokens of integers."""
        flat, shape = host.flatten(self, inputs)
        if self.invert:
            found = self.table().tokens_at([int(cast(int, i)) for i in flat])
            return np.array(found).reshape(shape)
        return self.encoded(self.table().find(self.to_tokens(flat)).reshape(shape))


def salt_of(layer: HostLayer, salt: int | Sequence[int] | None) -> Salt | None:
    """Returns the key of a hash as two integers; raises if it is neither one nor two integers."""
    parts = (salt, salt) if checks.is_integer(salt) else salt
    if parts is None:
        return None
    if not isinstance(parts, list | tuple) or len(parts) != 2 or not all(map(checks.is_integer, parts)):
        raise ValueError(
            f"`salt` of {layer.label} must be an integer or two integers, got {salt!r}; give, for example, 133."
        )
    return int(parts[0]), int(parts[1])


class StringLookup(IndexLookup):
    """Maps strings to their positions in a vocabulary, or back.

    The layer computes on the host. Call it on lists or arrays of strings, or map it over a data source. Give the
    vocabulary, or call `adapt` before the first use. Position 0 is for `mask_token` if there is one, then there are
    `num_oov_indices` positions for unknown strings.

    Args:
        max_tokens: The largest size of the vocabulary, with the reserved positions; None for no limit.
        num_oov_indices: The number of positions for unknown strings, which a hash distributes over them.
        mask_token: The string that is padding: it gets 0, and counts nowhere in vectors. None for no such string.
        oov_token: The string that unknown positions give with `invert`.
        vocabulary: Strings, or the path of a text file with one in each line; None if `adapt` finds them.
        idf_weights: The inverse document frequency of each string, for output_mode="tf_idf".
        invert: Whether to map positions to strings.
        output_mode: "int" for positions; "one_hot", "multi_hot" or "count" for vectors, see `CategoryEncoding`; or
            "tf_idf" for counts multiplied by the inverse document frequency.
        pad_to_max_tokens: Whether vectors have the size `max_tokens`.
        sparse: Only False: all arrays are dense.
        encoding: Encoding of bytes.
        oov_method: "floormod" or "farmhash"; strings are always hashed.
        salt: One or two integers, the key of SipHash, which then distributes the unknown strings; None for FarmHash.

    Shapes: strings [B, ...] -> integers of the same shape, or vectors of the size of the vocabulary.

    Raises:
        ValueError: If an argument is invalid, there is no vocabulary, or an input is not a string.

    References:
        Keras, `keras.layers.StringLookup`.

    Example:
        >>> layer = StringLookup()
        >>> layer.adapt(["Rome", "Oslo", "Rome"])
        >>> print(layer(["Oslo", "Bonn"]), layer.get_vocabulary())
        [2 0] ['[UNK]', 'Rome', 'Oslo']
    """

    max_tokens: int | None = None
    num_oov_indices: int = 1
    mask_token: Token | None = None
    oov_token: Token | None = "[UNK]"
    vocabulary: Vocabulary | None = None
    idf_weights: Weights | None = None
    invert: bool = False
    output_mode: str = "int"
    pad_to_max_tokens: bool = False
    sparse: bool = False
    encoding: str = "utf-8"
    salt: int | Sequence[int] | None = None
    oov_method: str = "floormod"

    @nn.nowrap
    def to_tokens(self, values: Sequence[object]) -> list[Token]:
        """Returns strings; bytes are decoded."""
        return list(host.to_text(self, values, self.encoding))


class IntegerLookup(IndexLookup):
    """Maps integers to their positions in a vocabulary, or back.

    The layer computes on the host; see `StringLookup`.

    Args:
        max_tokens: The largest size of the vocabulary, with the reserved positions; None for no limit.
        num_oov_indices: The number of positions for unknown integers.
        mask_token: The integer that is padding: it gets 0, and counts nowhere in vectors. None for no such integer.
        oov_token: The integer that unknown positions give with `invert`.
        vocabulary: Integers, or the path of a text file with one in each line; None if `adapt` finds them.
        vocabulary_dtype: Only "int64".
        idf_weights: The inverse document frequency of each integer, for output_mode="tf_idf".
        invert: Whether to map positions to integers.
        output_mode: "int", "one_hot", "multi_hot", "count" or "tf_idf"; see `StringLookup`.
        sparse: Only False: all arrays are dense.
        pad_to_max_tokens: Whether vectors have the size `max_tokens`.
        oov_method: How unknown integers get one of several positions: "floormod" for the remainder of a division, or
            "farmhash" for a hash.
        salt: One or two integers, the key of SipHash, for oov_method="farmhash".

    Shapes: integers [B, ...] -> integers of the same shape, or vectors of the size of the vocabulary.

    Raises:
        ValueError: If an argument is invalid, there is no vocabulary, or an input is not an integer.

    References:
        Keras, `keras.layers.IntegerLookup`.

    Example:
        >>> IntegerLookup(vocabulary=[10, 20])([[20, 7]]).tolist()
        [[2, 0]]
    """

    max_tokens: int | None = None
    num_oov_indices: int = 1
    mask_token: Token | None = None
    oov_token: Token | None = -1
    vocabulary: Vocabulary | None = None
    vocabulary_dtype: str = "int64"
    idf_weights: Weights | None = None
    invert: bool = False
    output_mode: str = "int"
    sparse: bool = False
    pad_to_max_tokens: bool = False
    oov_method: str = "floormod"
    salt: int | Sequence[int] | None = None

    NUMERIC: ClassVar[bool] = True

    @nn.nowrap
    def _check_rules(self) -> None:
        if self.vocabulary_dtype != "int64":
            raise ValueError(
                f"`vocabulary_dtype` of {self.label} must be 'int64', got {self.vocabulary_dtype!r}; leave it out."
            )
        super()._check_rules()

    @nn.nowrap
    def to_tokens(self, values: Sequence[object]) -> list[Token]:
        """Returns integers."""
        wrong = [value for value in values if not isinstance(value, int | float | np.generic)]
        if wrong:
            raise ValueError(
                f"{self.label} takes integers, got {wrong[0]!r} of type {type(wrong[0]).__name__}; "
                "use StringLookup for strings."
            )
        return [int(cast(int, value)) for value in values]
