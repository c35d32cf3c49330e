"""Layers that look vectors up by integers."""

import warnings
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels import initializers
from flaxmodels.layers import checks
from flaxmodels.layers.base import Layer
from flaxmodels.layers.tracing import Lookup


class Table(Layer):
    """What Embedding and ReversibleEmbedding share: the matrix `embedding`, with a row for each integer."""

    input_dim: int
    output_dim: int

    ARGUMENTS: ClassVar[dict[str, str]] = {"embedding": "embeddings"}

    def __post_init__(self) -> None:
        self.check_positive("input_dim", "output_dim")
        super().__post_init__()

    def matrix(self) -> jax.Array:
        """The matrix [input_dim, output_dim]."""
        return self.add_weight("embedding", (self.input_dim, self.output_dim))

    def look_up(self, embedding: jax.Array, inputs: jax.Array) -> jax.Array:
        """The rows of the matrix that the inputs name."""
        self._check_range(inputs)
        ids = inputs if jnp.issubdtype(inputs.dtype, jnp.integer) else inputs.astype(jnp.int32)
        return jnp.take(embedding, ids, axis=0, mode="fill", fill_value=jnp.nan)

    @nn.nowrap
    def _note_lookups(
        self, sources: Any, lookups: list[Lookup], path: str, reverse: bool = False, **kwargs: Any
    ) -> frozenset[int]:
        """The `trace_inputs` of both: adds the inputs that are looked up; the outputs hold other values."""
        if not reverse:
            lookups += [Lookup(source, path, type(self).__name__, self.input_dim) for source in sorted(sources)]
        return frozenset()

    @nn.nowrap
    def _check_range(self, inputs: jax.Array) -> None:
        # Inside a compiled program the numbers cannot be seen: there, what is out of range gives NaN.
        if isinstance(inputs, jax.core.Tracer) or not inputs.size:
            return
        ids = np.asarray(inputs)  # first: while a program is traced, jax.Array's own minimum would be traced too
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.input_dim:
            raise ValueError(
                f"{self.label} looks up integers from 0 to {self.input_dim - 1}, got some from {low} to {high}; "
                "give a larger `input_dim`, or map unknown ones to a number of their own."
            )


class Embedding(Table):
    """Turns integers into vectors: row i of a learned matrix for each i.

    Integers out of range are an error where they can be seen: outside of compiled programs, and in the data of a
    `Trainer` where they reach this layer unchanged. Inside a compiled program, integers from `input_dim` on give NaN,
    and negative ones count from the end, as in Keras on JAX.

    Args:
        input_dim: Number of rows: the largest integer plus 1.
        output_dim: Size of each vector.
        embeddings_initializer: Name or initializer of `embedding`.
        embeddings_regularizer: Adds a loss on `embedding`.
        embeddings_constraint: Applied to `embedding` after each update.
        mask_zero: Whether 0 is padding, to be masked; then it is no integer of the vocabulary.
        weights: A matrix [input_dim, output_dim] to start from; it becomes the `embeddings_initializer`.
        input_length: Not used, as in Keras: inputs of any length are taken.

    Shapes: integers [B, ...] -> [B, ..., output_dim], mask [B, ...].

    Raises:
        ValueError: If a dimension is not positive, `weights` has another shape, or an integer is out of range.

    References:
        Keras, `keras.layers.Embedding`.

    Example:
        >>> layer, x = Embedding(1000, 64), jnp.ones((32, 10), int)
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (32, 10, 64)
    """

    embeddings_initializer: Any = "uniform"
    embeddings_regularizer: Any = None
    embeddings_constraint: Any = None
    mask_zero: bool = False
    weights: Any = None
    input_length: int | None = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("embedding",)
    trace_inputs = Table._note_lookups

    def __post_init__(self) -> None:
        if self.input_length is not None:
            warnings.warn(
                "`input_length` of Embedding is not used, because inputs of any length are taken; leave it out.",
                stacklevel=4,
            )
            self.input_length = None  # so that copies and files do not carry it on
        if self.weights is not None:
            matrix = np.asarray(self.weights)
            matrix = matrix[0] if matrix.ndim == 3 and len(matrix) == 1 else matrix
            if matrix.shape != (self.input_dim, self.output_dim):
                raise ValueError(
                    f"`weights` of {self.label} is a matrix of shape {(self.input_dim, self.output_dim)}, got shape "
                    f"{matrix.shape}; change it, or `input_dim` and `output_dim`."
                )
            # From here on one field says what the matrix starts from.
            self.embeddings_initializer, self.weights = initializers.Constant(matrix), None
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        return self.look_up(self.matrix(), inputs)

    def compute_mask(self, inputs: jax.Array, mask: Any) -> Any:
        """Where the integers are not 0, with `mask_zero`."""
        return inputs != 0 if self.mask_zero else None


class ReversibleEmbedding(Table):
    """Turns integers into vectors, and with `reverse=True` vectors into a score for each integer.

    The scores are x @ embedding.T, or x @ reverse_embeddings without `tie_weights`.

    Args:
        input_dim: Number of rows: the largest integer plus 1.
        output_dim: Size of each vector.
        tie_weights: Whether both directions share one matrix.
        embeddings_initializer: Name or initializer of both matrices.
        embeddings_regularizer: Adds a loss on `embedding`.
        embeddings_constraint: Applied to `embedding` after each update.
        mask_zero: Whether 0 is padding, to be masked.
        reverse_dtype: Dtype of the scores; by default that of the layer's computation.
        logit_soft_cap: Bounds the scores s as cap tanh(s / cap).

    Shapes: integers [B, ...] -> [B, ..., output_dim]; reversed, x [B, ..., output_dim] -> [B, ..., input_dim].

    Raises:
        ValueError: If a dimension is not positive or an integer is out of range, as for `Embedding`.

    References:
        Press and Wolf, Using the Output Embedding to Improve Language Models, 2016, https://arxiv.org/abs/1608.05859;
        Keras, `keras.layers.ReversibleEmbedding`.

    Example:
        >>> layer, x = ReversibleEmbedding(100, 16), jnp.ones((4, 10, 16))
        >>> layer.apply(layer.init(jax.random.key(0), x, reverse=True), x, reverse=True).shape
        (4, 10, 100)
    """

    tie_weights: bool = True
    embeddings_initializer: Any = "uniform"
    embeddings_regularizer: Any = None
    embeddings_constraint: Any = None
    mask_zero: bool = False
    reverse_dtype: Any = None
    logit_soft_cap: float | None = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("embedding", "reverse_embeddings")
    trace_inputs = Table._note_lookups

    def __post_init__(self) -> None:
        checks.check_dtype(self, "reverse_dtype")
        if self.logit_soft_cap is not None and not (checks.is_number(self.logit_soft_cap) and self.logit_soft_cap > 0):
            raise ValueError(
                f"`logit_soft_cap` of {self.label} is a positive number, got {self.logit_soft_cap!r}; "
                "give None for no cap."
            )
        super().__post_init__()

    @nn.nowrap
    def argument(self, weight: str, kind: str) -> Any:
        """The argument that belongs to a weight; `reverse_embeddings` has the initializer alone, as in Keras."""
        if weight == "reverse_embeddings":
            return self.embeddings_initializer if kind == "initializer" else None
        return super().argument(weight, kind)

    @nn.compact
    def compute(self, inputs: jax.Array, reverse: bool = False) -> jax.Array:
        embedding = self.matrix()
        if self.tie_weights:
            kernel = embedding.T
        else:
            kernel = self.add_weight("reverse_embeddings", (self.output_dim, self.input_dim))
        if not reverse:
            return self.look_up(embedding, inputs)
        if inputs.ndim < 2 or inputs.shape[-1] != self.output_dim:
            raise ValueError(
                f"{self.label} turns vectors of `output_dim`={self.output_dim} numbers into scores, got inputs of "
                f"shape {inputs.shape}; give inputs [B, ..., {self.output_dim}], or leave out `reverse`."
            )
        dtype = self.compute_dtype if self.reverse_dtype is None else self.reverse_dtype
        scores = inputs.astype(dtype) @ kernel.astype(dtype)
        cap = self.logit_soft_cap
        return scores if cap is None else jnp.tanh(scores / cap) * cap

    def outputs_and_mask(
        self, inputs: Any, reverse: bool = False, *, mask: Any = None, train: bool = False
    ) -> tuple[Any, Any]:
        """Computes the outputs and the mask that belongs to them: of integers that are not 0, with `mask_zero`."""
        outputs, _ = super().outputs_and_mask(inputs, reverse, mask=mask, train=train)
        return outputs, inputs != 0 if self.mask_zero and not reverse else None
