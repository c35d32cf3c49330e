"""Embedding layers, which map integers to learned vectors."""

import warnings
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from flaxmodels import initializers
from flaxmodels.constraints import ConstraintLike
from flaxmodels.initializers import InitializerLike
from flaxmodels.layers import checks
from flaxmodels.layers.base import Layer, Lookup
from flaxmodels.regularizers import RegularizerLike


class EmbeddingBase(Layer):
    """Base class of Embedding and ReversibleEmbedding, with the matrix `embedding` that has a row for each integer."""

    input_dim: int
    output_dim: int

    ARGUMENTS: ClassVar[dict[str, str]] = {"embedding": "embeddings"}

    def __post_init__(self) -> None:
        self.check_positive("input_dim", "output_dim")
        super().__post_init__()

    def matrix(self) -> jax.Array:
        """Returns the parameter `embedding` [input_dim, output_dim]."""
        return self.add_weight("embedding", (self.input_dim, self.output_dim))

    def look_up(self, embedding: jax.Array, inputs: jax.Array) -> jax.Array:
        """Returns the rows of the matrix for the integers `inputs`; raises if they are known to be out of range."""
        self._check_range(inputs)
        ids = inputs if jnp.issubdtype(inputs.dtype, jnp.integer) else inputs.astype(jnp.int32)
        return jnp.take(embedding, ids, axis=0, mode="fill", fill_value=jnp.nan)

    @nn.nowrap
    def _record_lookups(
        self, sources: Any, lookups: list[Lookup], path: str, reverse: bool = False, **kwargs: object
    ) -> frozenset[int]:
        """Implements `trace_inputs`: records the lookup of each source; the outputs hold other values."""
        if not reverse:
            lookups += [Lookup(source, path, type(self).__name__, self.input_dim) for source in sorted(sources)]
        return frozenset()

    @nn.nowrap
    def _check_range(self, inputs: jax.Array) -> None:
        # The values are unknown while a program is traced; there, integers out of range give NaN instead.
        if isinstance(inputs, jax.core.Tracer) or not inputs.size:
            return
        ids = np.asarray(inputs)  # in NumPy, because jax.Array.min would be traced if a program is being traced
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.input_dim:
            raise ValueError(
                f"{self.label} takes integers from 0 to {self.input_dim - 1}, got integers from {low} to {high}; "
                "give a larger `input_dim`, or map unknown values to a reserved integer."
            )


class Embedding(EmbeddingBase):
    """Maps each integer i to row i of a learned matrix.

    Integers out of range raise an error outside of compiled programs, and in the data of a `Trainer` if they reach
    this layer unchanged. Inside a compiled program, integers of `input_dim` or more give NaN, and negative ones count
    from the end, as in Keras' JAX backend.

    Args:
        input_dim: Number of rows, the largest integer plus 1.
        output_dim: Size of each vector.
        embeddings_initializer: Initializer of `embedding`, or its name.
        embeddings_regularizer: Regularizer of `embedding`, or its name.
        embeddings_constraint: Constraint on `embedding` after each update, or its name.
        mask_zero: Whether 0 is padding that is masked; the vocabulary then starts at 1.
        weights: Initial matrix [input_dim, output_dim]; it replaces `embeddings_initializer`.
        input_length: Ignored, as in Keras; inputs of any length are accepted.

    Shapes: integers [B, ...] -> [B, ..., output_dim], mask [B, ...].

    Raises:
        ValueError: If a dimension is not positive, `weights` has the wrong shape, or an integer is out of range.

    References:
        Keras, `keras.layers.Embedding`.

    Example:
        >>> layer, x = Embedding(1000, 64), jnp.ones((32, 10), int)
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (32, 10, 64)
    """

    embeddings_initializer: InitializerLike = "uniform"
    embeddings_regularizer: RegularizerLike = None
    embeddings_constraint: ConstraintLike = None
    mask_zero: bool = False
    weights: ArrayLike | None = None
    input_length: int | None = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("embedding",)
    trace_inputs = EmbeddingBase._record_lookups

    def __post_init__(self) -> None:
        if self.input_length is not None:
            warnings.warn(
                "`input_length` of Embedding is ignored, because inputs of any length are accepted; leave it out.",
                stacklevel=4,
            )
            self.input_length = None  # so that copies and saved files don't contain it
        if self.weights is not None:
            matrix = np.asarray(self.weights)
            matrix = matrix[0] if matrix.ndim == 3 and len(matrix) == 1 else matrix
            if matrix.shape != (self.input_dim, self.output_dim):
                raise ValueError(
                    f"`weights` of {self.label} must have shape {(self.input_dim, self.output_dim)}, got shape "
                    f"{matrix.shape}; change `weights`, or `input_dim` and `output_dim`."
                )
            # From here on, only the initializer defines the initial matrix.
            self.embeddings_initializer, self.weights = initializers.Constant(matrix), None
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Returns the vectors of the integers."""
        return self.look_up(self.matrix(), inputs)

    def compute_mask(self, inputs: jax.Array, mask: jax.Array | None = None) -> jax.Array | None:
        """Returns where the integers are not 0 if `mask_zero` is True, else None."""
        return inputs != 0 if self.mask_zero else None


class ReversibleEmbedding(EmbeddingBase):
    """Maps integers to vectors and, with `reverse=True`, vectors to a score for each integer.

    The scores are x @ embedding.T, or x @ reverse_embeddings without `tie_weights`.

    Args:
        input_dim: Number of rows, the largest integer plus 1.
        output_dim: Size of each vector.
        tie_weights: Whether both directions share one matrix.
        embeddings_initializer: Initializer of both matrices, or its name.
        embeddings_regularizer: Regularizer of `embedding`, or its name.
        embeddings_constraint: Constraint on `embedding` after each update, or its name.
        mask_zero: Whether 0 is padding that is masked.
        reverse_dtype: Dtype of the scores; by default the layer's compute dtype.
        logit_soft_cap: Bound of the scores s, which become cap tanh(s / cap); None for no bound.

    Shapes: integers [B, ...] -> [B, ..., output_dim]; reversed, x [B, ..., output_dim] -> [B, ..., input_dim].

    Raises:
        ValueError: If a dimension is not positive, or an integer is known to be out of range; see `Embedding`.

    References:
        Press and Wolf, Using the Output Embedding to Improve Language Models, 2016, https://arxiv.org/abs/1608.05859;
        Keras, `keras.layers.ReversibleEmbedding`.

    Example:
        >>> layer, x = ReversibleEmbedding(100, 16), jnp.ones((4, 10, 16))
        >>> layer.apply(layer.init(jax.random.key(0), x, reverse=True), x, reverse=True).shape
        (4, 10, 100)
    """

    tie_weights: bool = True
    embeddings_initializer: InitializerLike = "uniform"
    embeddings_regularizer: RegularizerLike = None
    embeddings_constraint: ConstraintLike = None
    mask_zero: bool = False
    reverse_dtype: DTypeLike | None = None
    logit_soft_cap: float | None = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("embedding", "reverse_embeddings")
    trace_inputs = EmbeddingBase._record_lookups

    def __post_init__(self) -> None:
        checks.check_dtype(self, "reverse_dtype")
        if self.logit_soft_cap is not None and not (checks.is_number(self.logit_soft_cap) and self.logit_soft_cap > 0):
            raise ValueError(
                f"`logit_soft_cap` of {self.label} must be a positive number, got {self.logit_soft_cap!r}; "
                "give None for no cap."
            )
        super().__post_init__()

    @nn.nowrap
    def argument(self, weight: str, kind: str) -> InitializerLike | RegularizerLike | ConstraintLike:
        """Returns the argument for a weight; as in Keras, `reverse_embeddings` has only an initializer."""
        if weight == "reverse_embeddings":
            return self.embeddings_initializer if kind == "initializer" else None
        return super().argument(weight, kind)

    @nn.compact
    def compute(self, inputs: jax.Array, reverse: bool = False) -> jax.Array:
        """Returns the vectors of the integers or, with `reverse`, the scores of the vectors."""
        embedding = self.matrix()
        if self.tie_weights:
            kernel = embedding.T
        else:
            kernel = self.add_weight("reverse_embeddings", (self.output_dim, self.input_dim))
        if not reverse:
            return self.look_up(embedding, inputs)
        if inputs.ndim < 2 or inputs.shape[-1] != self.output_dim:
            raise ValueError(
                f"{self.label} maps vectors of `output_dim`={self.output_dim} numbers to scores, got inputs of "
                f"shape {inputs.shape}; give inputs [B, ..., {self.output_dim}], or leave out `reverse`."
            )
        dtype = self.compute_dtype if self.reverse_dtype is None else self.reverse_dtype
        scores = inputs.astype(dtype) @ kernel.astype(dtype)
        cap = self.logit_soft_cap
        return scores if cap is None else jnp.tanh(scores / cap) * cap

    def outputs_and_mask(
        self, inputs: jax.Array, reverse: bool = False, *, mask: jax.Array | None = None, train: bool = False
    ) -> tuple[jax.Array, jax.Array | None]:
        """Computes the outputs and their mask: where the integers are not 0 if `mask_zero` is True, else None."""
        outputs: Any
        outputs, _ = super().outputs_and_mask(inputs, reverse, mask=mask, train=train)
        return outputs, inputs != 0 if self.mask_zero and not reverse else None
