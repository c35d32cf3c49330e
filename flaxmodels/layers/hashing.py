"""Layers that map strings and integers to bins by a hash, without a vocabulary."""

from collections.abc import Sequence
from typing import cast

import flax.linen as nn
import jax
import numpy as np

from flaxmodels.layers import categories, checks, fingerprints, host
from flaxmodels.layers.host import HostLayer
from flaxmodels.layers.lookup import salt_of
from flaxmodels.layers.vocabulary import hash_bins

# The first value of a crossing, as in TensorFlow.
CROSSING_SEED = np.uint64(0xDECAFCAFFE)


class Hashing(HostLayer):
    """Maps strings and integers to bins by a hash of their text.

    The layer computes on the host. Call it on lists or arrays, or map it over a data source. The bins are those of
    Keras: FarmHash chooses them, or SipHash with a salt.

    Args:
        num_bins: The number of bins, with the one for `mask_value`.
        mask_value: The value that gets bin 0, which no other value gets then; None for no such value.
        salt: One or two integers, the key of SipHash; None for FarmHash.
        output_mode: "int" for the bin, or "one_hot", "multi_hot" or "count" for vectors; see `CategoryEncoding`.
        sparse: Only False: all arrays are dense.

    Shapes: strings or integers [B, ...] -> integers of the same shape, or vectors of size `num_bins`.

    Raises:
        ValueError: If an argument is invalid, or an input is neither a string nor a number.

    References:
        Keras, `keras.layers.Hashing`.

    Example:
        >>> Hashing(3)([["A"], ["B"], ["C"], ["D"], ["E"]]).ravel().tolist()
        [1, 0, 1, 1, 2]
    """

    num_bins: int
    mask_value: str | int | None = None
    salt: int | Sequence[int] | None = None
    output_mode: str = "int"
    sparse: bool = False

    def __post_init__(self) -> None:
        self.check_positive("num_bins")
        categories.resolve_mode(self, ("int", "one_hot", "multi_hot", "count"))
        categories.check_dense(self)
        salt_of(self, self.salt)
        super().__post_init__()

    @nn.nowrap
    def compute(self, inputs: object) -> np.ndarray:
        """Returns the bins, or their vectors."""
        values, shape = host.flatten(self, inputs)
        masks = self.mask_value is not None and self.num_bins > 1
        bins = hash_bins([as_bytes(self, value) for value in values], self.num_bins - masks, salt_of(self, self.salt))
        if masks:
            is_mask = np.array([value in (self.mask_value, _bytes(self.mask_value)) for value in values], bool)
            bins = np.where(is_mask, 0, bins + 1)
        dtype = np.int64 if self.output_mode == "int" else np.float32
        return categories.encode(bins.reshape(shape), self.output_mode, self.num_bins, dtype)


class HashedCrossing(HostLayer):
    """Maps each combination of the values of several features to a bin, by a hash.

    The layer computes on the host; see `Hashing`. The bins are those of Keras.

    Args:
        num_bins: The number of bins.
        output_mode: "int" for the bin, or "one_hot" for vectors.
        sparse: Only False: all arrays are dense.

    Shapes: a list of strings or integers, each [], [B] or [B, 1] -> integers of the same shape, or vectors.

    Raises:
        ValueError: If an argument is invalid, or the inputs are not at least two arrays of one of these shapes.

    References:
        Keras, `keras.layers.HashedCrossing`.

    Example:
        >>> HashedCrossing(5)((["A", "B", "A", "B", "A"], [101, 101, 101, 102, 102])).tolist()
        [1, 4, 1, 1, 3]
    """

    num_bins: int
    output_mode: str = "int"
    sparse: bool = False

    def __post_init__(self) -> None:
        self.check_positive("num_bins")
        categories.resolve_mode(self, ("int", "one_hot"))
        categories.check_dense(self)
        super().__post_init__()

    @nn.nowrap
    def compute(self, inputs: Sequence[object]) -> np.ndarray:
        """Returns the bins, or their vectors."""
        if not isinstance(inputs, list | tuple) or len(inputs) < 2:
            raise ValueError(
                f"{self.label} takes a list of at least two features, got {checks.describe(inputs)}; call it on "
                "[first, second]."
            )
        features = [host.flatten(self, feature) for feature in inputs]
        shapes = [shape for _, shape in features]
        if len(set(shapes)) > 1 or len(shapes[0]) > 2 or shapes[0][1:] not in ((), (1,)):
            raise ValueError(
                f"{self.label} takes features of one shape, [], [B] or [B, 1], got {shapes}; reshape them."
            )
        crossed = np.full(len(features[0][0]), CROSSING_SEED)
        for values, _ in features:
            crossed = fingerprints.combine(crossed, self._hashes(values))
        bins = (crossed % np.uint64(self.num_bins)).astype(np.int64).reshape(shapes[0])
        dtype = np.int64 if self.output_mode == "int" else np.float32
        return categories.encode(bins, self.output_mode, self.num_bins, dtype)

    @nn.nowrap
    def _hashes(self, values: Sequence[object]) -> np.ndarray:
        """Returns a number for each value of a feature: an integer itself, or the hash of a string."""
        if any(isinstance(value, float) for value in values):
            raise ValueError(
                f"{self.label} takes strings and integers, got floating-point numbers; use Discretization first."
            )
        if any(isinstance(value, str | bytes) for value in values):
            return fingerprints.farmhash([as_bytes(self, value) for value in values])
        return np.array([int(cast(int, value)) for value in values], np.int64).astype(np.uint64)


def _bytes(value: str | int | None) -> object:
    return value.encode() if isinstance(value, str) else value


def as_bytes(layer: HostLayer, value: object) -> bytes:
    """Returns the text of a string or number as bytes; floating-point numbers are truncated, as in Keras."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int | float | np.number | jax.Array):
        return str(int(value)).encode()
    if not isinstance(value, str):
        raise ValueError(
            f"{layer.label} takes strings or numbers, got {value!r} of type {type(value).__name__}; convert the values "
            "with str."
        )
    return value.encode()
