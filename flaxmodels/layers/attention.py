"""Attention layers: each position of one sequence attends to all positions of another."""

import math
import string
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels.constraints import ConstraintLike
from flaxmodels.initializers import InitializerLike
from flaxmodels.layers import attention_masks as masks
from flaxmodels.layers import checks
from flaxmodels.layers.activation import masked_softmax
from flaxmodels.layers.base import Layer, MultiOutputLayer, accumulation_dtype
from flaxmodels.layers.core import EinsumDense
from flaxmodels.layers.regularization import check_rate, dropout, noise_key
from flaxmodels.regularizers import RegularizerLike

Item = TypeVar("Item")
# The outputs, or the outputs and the attention weights.
Outputs = jax.Array | tuple[jax.Array, jax.Array | None]
MaskList = list[jax.Array | None] | tuple[jax.Array | None, ...]


class AttentionBase(MultiOutputLayer):
    """Base class of all attention layers: the outputs have the query's mask."""

    SUPPORTS_MASKING: ClassVar[bool] = True

    def outputs_and_mask(
        self,
        inputs: jax.Array | Sequence[jax.Array],
        *args: object,
        mask: jax.Array | MaskList | None = None,
        train: bool = False,
        **kwargs: object,
    ) -> tuple[Outputs, jax.Array | tuple[jax.Array | None, None] | None]:
        """Computes the outputs and their mask, which is the query's mask; attention scores have no mask."""
        outputs: Any
        query_mask: Any
        outputs, query_mask = super().outputs_and_mask(inputs, *args, mask=mask, train=train, **kwargs)
        return outputs, (query_mask, None) if isinstance(outputs, tuple) else query_mask


class ScoredAttention(AttentionBase):
    """Base class of Attention and AdditiveAttention; a subclass computes the scores."""

    def scores(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """Returns the score of each key [B, ..., S, F] for each query [B, ..., T, F], as [B, ..., T, S]."""
        raise TypeError(f"{type(self).__name__} does not implement `scores`; use Attention or AdditiveAttention.")

    @nn.compact
    def compute(
        self,
        inputs: Sequence[jax.Array],
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
        *,
        mask: MaskList | None = None,
        train: bool = False,
    ) -> Outputs:
        """Computes the weighted values, followed by the attention weights if `return_attention_scores` is True."""
        query, value, *rest = (self.cast(x) for x in self._as_list(inputs, "inputs", "[query, value, key]"))
        self._check_shapes(query, value, rest[0] if rest else value)
        query_mask, value_mask, *_ = (None, None) if mask is None else self._as_list(mask, "masks", "[query, value]")
        for name, m, x in (("query mask", query_mask, query), ("value mask", value_mask, value)):
            if m is not None:
                checks.check_mask(self, m, (*x.shape[: m.ndim - 1], x.shape[-2]), name)
        query_mask, value_mask = (None if m is None else m.astype(bool) for m in (query_mask, value_mask))
        scores = self.scores(query, rest[0] if rest else value)
        keep = None if value_mask is None else masks.expand_before(value_mask[..., None, :], scores.ndim)
        if use_causal_mask:
            causal = jnp.expand_dims(masks.causal(*scores.shape[-2:]), tuple(range(scores.ndim - 2)))
            keep = causal if keep is None else keep & causal
        logits = scores.astype(accumulation_dtype(scores.dtype))
        if keep is not None:
            # As in Keras, masked logits are lowered instead of replaced: if all are masked, the weights are not 0.
            logits = jnp.where(keep, logits, logits - 1e9)
        weights = jax.nn.softmax(logits).astype(scores.dtype)
        settings: Any = self
        if train and settings.dropout > 0:
            weights = dropout(noise_key(self, settings.seed), weights, settings.dropout)
        outputs = weights @ value
        if query_mask is not None:
            outputs = jnp.where(masks.expand_before(query_mask[..., None], outputs.ndim), outputs, 0)
        return (outputs, weights) if return_attention_scores else outputs

    def compute_mask(self, inputs: Sequence[jax.Array], mask: MaskList | None = None) -> jax.Array | None:
        """Returns the query's mask."""
        return None if mask is None else mask[0]

    @nn.nowrap
    def _check_shapes(self, query: jax.Array, value: jax.Array, key: jax.Array) -> None:
        leading = zip(query.shape[:-2], value.shape[:-2], key.shape[:-2], strict=False)
        agree = query.ndim == value.ndim == key.ndim > 2 and all(len({*sizes} - {1}) < 2 for sizes in leading)
        if not agree or query.shape[-1] != key.shape[-1] or value.shape[-2] != key.shape[-2]:
            raise ValueError(
                f"{self.label} takes a query [B, T, F], a value [B, S, G] and a key [B, S, F] (by default the value), "
                f"got shapes {query.shape} for the query, {value.shape} for the value and {key.shape} for the key; "
                "reshape them, or project them to the same size."
            )

    @nn.nowrap
    def _as_list(self, value: Sequence[Item], what: str, names: str) -> list[Item]:
        if not isinstance(value, tuple | list) or not 2 <= len(value) <= 3:
            got = f"{len(value)}" if isinstance(value, tuple | list) else f"{what} of type {type(value).__name__}"
            raise ValueError(f"{self.label} takes a list of 2 or 3 {what}, got {got}; give {names}.")
        return list(value)


class Attention(ScoredAttention):
    """Averages values, weighted by the softmax of dot products of queries and keys (Luong attention).

    outputs = softmax(scores) value, with scores = scale query key^T for "dot", or
    concat_score_weight sum(tanh(scale (query + key))) for "concat".

    The inputs are a list [query, value] or [query, value, key]; the key is the value by default. The mask is a list
    of the same form: a masked value gets no weight, and the outputs of a masked query are 0.

    Args:
        use_scale: Whether `scale` is a learned scalar; otherwise it is 1.
        score_mode: "dot" or "concat"; "concat" adds a learned scalar `concat_score_weight`.
        dropout: Probability that an attention weight is set to 0 in training.
        seed: Integer folded into the "dropout" key; without that key, every call drops the same elements.

    Shapes: query [B, T, F], value [B, S, G], key [B, S, F] -> [B, T, G]; with `return_attention_scores=True` also the
        weights [B, T, S]. With `use_causal_mask=True`, a query does not attend to later positions. Axes of
        size 1 before the last two are broadcast.

    Raises:
        ValueError: If an argument is invalid or the inputs are not a list of 2 or 3 arrays.

    References:
        Luong et al., Effective Approaches to Attention-based Neural Machine Translation, 2015,
        https://arxiv.org/abs/1508.04025; Keras, `keras.layers.Attention`.

    Example:
        >>> query, value = jnp.ones((2, 3, 5)), jnp.ones((2, 4, 5))
        >>> outputs, weights = Attention().apply({}, [query, value], return_attention_scores=True)
        >>> outputs.shape, weights.shape
        ((2, 3, 5), (2, 3, 4))
    """

    use_scale: bool = False
    score_mode: Literal["dot", "concat"] = "dot"
    dropout: float = 0.0
    seed: int | None = None

    scale_initializer: ClassVar[str] = "ones"
    concat_score_weight_initializer: ClassVar[str] = "ones"
    WEIGHTS: ClassVar[tuple[str, ...]] = ("scale", "concat_score_weight")

    def __post_init__(self) -> None:
        if self.score_mode not in ("dot", "concat"):
            raise ValueError(
                f'`score_mode` of {self.label} must be "dot" or "concat", got {self.score_mode!r}; choose one.'
            )
        check_rate(self, "dropout")
        super().__post_init__()

    def scores(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """Returns the score of each key [B, ..., S, F] for each query [B, ..., T, F], as [B, ..., T, S]."""
        scale = self.add_weight("scale", ()) if self.use_scale else None
        if self.score_mode == "dot":
            scores = query @ jnp.swapaxes(key, -2, -1)
            return scores if scale is None else scores * scale
        total = query[..., :, None, :] + key[..., None, :, :]
        return self.add_weight("concat_score_weight", ()) * jnp.sum(
            jnp.tanh(total if scale is None else scale * total), -1
        )


class AdditiveAttention(ScoredAttention):
    """Averages values, weighted by the softmax of a learned sum over query and key (Bahdanau attention).

    outputs = softmax(scores) value, with scores = sum(scale tanh(query + key)).

    The inputs are a list [query, value] or [query, value, key]; the key is the value by default. The mask is a list
    of the same form: a masked value gets no weight, and the outputs of a masked query are 0.

    Args:
        use_scale: Whether `scale` is a learned vector; otherwise it is 1.
        dropout: Probability that an attention weight is set to 0 in training.
        seed: Integer folded into the "dropout" key; without that key, every call drops the same elements.

    Shapes: query [B, T, F], value [B, S, G], key [B, S, F] -> [B, T, G]; with `return_attention_scores=True` also the
        weights [B, T, S]. With `use_causal_mask=True`, a query does not attend to later positions. Axes of
        size 1 before the last two are broadcast.

    Raises:
        ValueError: If `dropout` is not between 0 and 1 or the inputs are not a list of 2 or 3 arrays.

    References:
        Bahdanau et al., Neural Machine Translation by Jointly Learning to Align and Translate, 2014,
        https://arxiv.org/abs/1409.0473; Keras, `keras.layers.AdditiveAttention`.

    Example:
        >>> layer, inputs = AdditiveAttention(), [jnp.ones((2, 3, 5)), jnp.ones((2, 4, 5))]
        >>> layer.apply(layer.init(jax.random.key(0), inputs), inputs).shape
        (2, 3, 5)
    """

    use_scale: bool = True
    dropout: float = 0.0
    seed: int | None = None

    scale_initializer: ClassVar[str] = "glorot_uniform"
    WEIGHTS: ClassVar[tuple[str, ...]] = ("scale",)

    def __post_init__(self) -> None:
        check_rate(self, "dropout")
        super().__post_init__()

    def scores(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """Returns the score of each key [B, ..., S, F] for each query [B, ..., T, F], as [B, ..., T, S]."""
        total = jnp.tanh(query[..., :, None, :] + key[..., None, :, :])
        if self.use_scale:
            scale = self.add_weight("scale", query.shape[-1:])
            total = total * jnp.expand_dims(scale, tuple(range(total.ndim - 1)))
        return jnp.sum(total, -1)


class ProjectedAttention(AttentionBase):
    """Base class of MultiHeadAttention and GroupQueryAttention: projects, masks and attends."""

    def __post_init__(self) -> None:
        settings: Any = self
        check_rate(self, "dropout")
        if settings.sliding_window is not None:
            self.check_positive("sliding_window")
        if settings.flash_attention and settings.dropout > 0:
            raise ValueError(
                f"`flash_attention` of {self.label} requires `dropout`=0, got `dropout`={settings.dropout}; "
                "leave one of them out."
            )
        super().__post_init__()

    @nn.nowrap
    def heads(self) -> tuple[int, int, int, int]:
        """Returns (number of query heads, number of key heads, key size per head, value size per head)."""
        raise TypeError(f"{type(self).__name__} does not implement `heads`; use MultiHeadAttention.")

    @nn.nowrap
    def attended_axes(self, query: jax.Array) -> tuple[int, ...]:
        """Returns the axes of the query along which attention is computed."""
        return (1,)

    @nn.nowrap
    def features(self, query: jax.Array) -> tuple[int, ...]:
        """Returns the shape of the outputs after the query's positions."""
        return query.shape[-1:]

    @nn.nowrap
    def projections(self, features: tuple[int, ...]) -> dict[str, EinsumDense]:
        """Returns the projections, keyed by scope name, in Keras' order."""
        settings: Any = self
        queries, keys, key_size, value_size = self.heads()
        kinds = ("initializer", "regularizer", "constraint")
        shared = [f"{weight}_{kind}" for weight in ("kernel", "bias") for kind in kinds]
        shared += ["activity_regularizer", "dtype", "param_dtype", "trainable"]
        shared_arguments = {name: getattr(self, name) for name in shared}

        def project(inputs: str, outputs: str, shape: tuple[int, ...], activation: str | None = None) -> EinsumDense:
            equation, bias_axes = f"...{inputs},{inputs}{outputs}->...{outputs}", outputs if settings.use_bias else None
            return EinsumDense(equation, shape, activation, bias_axes, parent=None, **shared_arguments)

        layers = {"query": project("f", "hd", (queries, key_size)), "key": project("f", "hd", (keys, key_size))}
        if settings.use_gate:
            layers["gate"] = project("f", "hd", (queries, value_size), "sigmoid")
        layers["value"] = project("f", "hd", (keys, value_size))
        layers["attention_output"] = project("hd", string.ascii_uppercase[: len(features)], features)
        return layers

    @nn.nowrap
    def children(self) -> list[tuple[str, Layer]]:
        """Returns the inner layers, keyed by scope name, in the order of Keras' weights."""
        # The size of the features is known only when the layer is called, but the list of weights doesn't depend on it.
        return list(self.projections((1,)).items())

    @nn.compact
    def compute(
        self,
        query: jax.Array,
        value: jax.Array | None = None,
        key: jax.Array | None = None,
        query_mask: jax.Array | None = None,
        value_mask: jax.Array | None = None,
        key_mask: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
        *,
        mask: jax.Array | MaskList | None = None,
        train: bool = False,
    ) -> Outputs:
        """Computes the outputs, followed by the attention weights if `return_attention_scores` is True."""
        axes = self._checked_axes(query, value, key)
        value = cast(jax.Array, value)  # checked by the line before
        if isinstance(mask, tuple | list):
            query_mask, value_mask, key_mask = (*mask, None)[:3]
        elif query_mask is None:
            query_mask = mask
        named = {"query mask": (query_mask, query), "value mask": (value_mask, value), "key mask": (key_mask, value)}
        for name, (m, x) in named.items():
            masks.check_positions(self, name, m, x)
        visible = [masks.align_query_mask(query_mask, query.ndim, axes)]
        visible += [masks.align_key_mask(m, query.ndim, axes) for m in (value_mask, key_mask)]
        window = getattr(self, "sliding_window", None)
        if attention_mask is not None:
            masks.check_pairs(self, attention_mask, query, value, axes, self.heads()[0])
        visible += masks.pair_masks(self, query, value, axes, attention_mask, use_causal_mask, window)
        layers = self.projections(self.features(query))
        dense = {name: layer.clone(parent=self, name=name) for name, layer in layers.items()}
        queries, keys = dense["query"](query), dense["key"](value if key is None else key)
        gate = dense["gate"](query) if "gate" in dense else None
        outputs, weights = self._attend(
            queries, keys, dense["value"](value), masks.all_of(visible), axes, return_attention_scores, train
        )
        outputs = dense["attention_output"](outputs if gate is None else outputs * gate)
        return (outputs, weights) if return_attention_scores else outputs

    def compute_mask(self, inputs: jax.Array, mask: jax.Array | MaskList | None = None) -> jax.Array | None:
        """Returns the query's mask."""
        return mask[0] if isinstance(mask, tuple | list) else mask

    @nn.nowrap
    def _checked_axes(self, query: jax.Array, value: jax.Array | None, key: jax.Array | None) -> tuple[int, ...]:
        """Returns the axes along which attention is computed; raises unless the arrays agree on the others."""
        for name, x in (("value", value), ("key", key)):
            if x is not None:
                checks.check_array(self, name, x)
        if query.ndim < 3:
            self.check_rank(query, "B T F")
        if value is None:
            raise ValueError(f"{self.label} takes a query and a value, got no value; call layer(query, value).")
        key = value if key is None else key
        axes = self.attended_axes(query)
        others = [i for i in range(query.ndim - 1) if i not in axes]
        agree = query.ndim == value.ndim == key.ndim and value.shape[:-1] == key.shape[:-1]
        if not agree or any(query.shape[i] != value.shape[i] for i in others):
            raise ValueError(
                f"{self.label} takes a value and a key with the same positions, and a query that differs from them "
                f"only on the attention axes {axes}, got shapes {query.shape} for the query, {value.shape} for the "
                f"value and {key.shape} for the key; reshape them."
            )
        return axes

    def _attend(
        self,
        queries: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        keep: jax.Array | None,
        axes: tuple[int, ...],
        return_scores: bool,
        train: bool,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns the weighted values, and the attention weights before dropout."""
        settings: Any = self
        repeats = queries.shape[-2] // keys.shape[-2]
        if repeats > 1:
            keys, values = jnp.repeat(keys, repeats, -2), jnp.repeat(values, repeats, -2)
        scale = 1 / math.sqrt(queries.shape[-1])
        if settings.flash_attention:
            self._check_flash(queries, return_scores)
            return jax.nn.dot_product_attention(
                queries, keys, values, mask=keep, scale=scale, implementation="cudnn"
            ), None
        to_scores, to_outputs = _equations(queries.ndim, axes)
        scores = jnp.einsum(to_scores, queries * scale, keys, preferred_element_type=accumulation_dtype(queries.dtype))
        over = tuple(range(scores.ndim - len(axes), scores.ndim))
        # If all keys of a query are masked, Keras' fused attention gives them equal weights, and its unfused attention
        # gives them weight 0.
        is_fused_in_keras = queries.ndim == 4 and settings.dropout == 0 and not return_scores
        if keep is None or is_fused_in_keras:
            weights = jax.nn.softmax(scores if keep is None else jnp.where(keep, scores, -1e9), over)
        else:
            weights = masked_softmax(scores, keep, over)
        weights = weights.astype(values.dtype)
        dropped = weights
        if train and settings.dropout > 0:
            dropped = dropout(noise_key(self, settings.seed), weights, settings.dropout)
        return jnp.einsum(to_outputs, dropped, values), weights

    @nn.nowrap
    def _check_flash(self, queries: jax.Array, return_scores: bool) -> None:
        is_half = queries.dtype in (jnp.bfloat16, jnp.float16)
        if return_scores or not is_half or queries.ndim != 4 or jax.default_backend() != "gpu":
            raise ValueError(
                f"`flash_attention` of {self.label} works on a GPU, in bfloat16 or float16, along one axis and without "
                f"returning scores, got {jax.default_backend()!r}, {queries.dtype.name}, {queries.ndim - 3} axes and "
                f"`return_attention_scores`={return_scores}; leave `flash_attention` out."
            )


class MultiHeadAttention(ProjectedAttention):
    """Applies multi-head attention: several heads attend in parallel, each with its own projections.

    For each head: outputs = softmax(q k^T / sqrt(key_dim)) v with q, k, v linear in query, key, value. A final
    projection combines the outputs of all heads.

    Called as layer(query, value, key); the key is the value by default. A query attends to a key only if all masks are
    true: `query_mask`, `value_mask` and `key_mask` of positions, `attention_mask` of pairs [B, T, S], and the causal
    mask of `use_causal_mask=True`. As in Keras, a query whose keys are all masked gives all keys equal weights; with
    dropout, returned scores or more than three axes, it gives all keys weight 0.

    Args:
        num_heads: Number of heads.
        key_dim: Size of each head's query and key.
        value_dim: Size of each head's value; `key_dim` by default.
        dropout: Probability that an attention weight is set to 0 in training.
        use_bias: Whether the projections add a bias.
        output_shape: Size of the outputs' last axis, or their shape after the positions; by default the size of the
            query's last axis.
        attention_axes: Axes along which attention is computed; by default all but batch and features.
        sliding_window: Queries attend only to keys at a distance of less than this; None for no limit.
        flash_attention: True for cuDNN's fused attention, which requires bfloat16 or float16 and an NVIDIA GPU; None
            and False for XLA's implementation.
        kernel_initializer: Initializer of the kernels, or its name.
        bias_initializer: Initializer of the biases, or its name.
        kernel_regularizer: Regularizer of each kernel, or its name.
        bias_regularizer: Regularizer of each bias, or its name.
        kernel_constraint: Constraint on the kernels after each update, or its name.
        bias_constraint: Constraint on the biases after each update, or its name.
        use_gate: Whether the heads are multiplied by a sigmoid projection of the query before the final projection.
        seed: Integer folded into the "dropout" key; without that key, every call drops the same elements.
        activity_regularizer: Regularizer of the outputs of each projection.

    Shapes: query [B, T, F], value [B, S, G], key [B, S, H] -> [B, T, F]; with `return_attention_scores=True` also the
        weights [B, num_heads, T, S]. T and S may each be several axes.

    Raises:
        ValueError: If a size is not positive, shapes do not agree, or `flash_attention` is not available.

    References:
        Vaswani et al., Attention Is All You Need, 2017, https://arxiv.org/abs/1706.03762; Keras,
        `keras.layers.MultiHeadAttention`.

    Example:
        >>> layer, query, value = MultiHeadAttention(2, key_dim=4), jnp.ones((5, 8, 16)), jnp.ones((5, 6, 16))
        >>> variables = layer.init(jax.random.key(0), query, value)
        >>> outputs, weights = layer.apply(variables, query, value, return_attention_scores=True)
        >>> outputs.shape, weights.shape
        ((5, 8, 16), (5, 2, 8, 6))
    """

    num_heads: int
    key_dim: int
    value_dim: int | None = None
    dropout: float = 0.0
    use_bias: bool = True
    output_shape: int | Sequence[int] | None = None
    attention_axes: int | Sequence[int] | None = None
    sliding_window: int | None = None
    flash_attention: bool | None = None
    kernel_initializer: InitializerLike = "glorot_uniform"
    bias_initializer: InitializerLike = "zeros"
    kernel_regularizer: RegularizerLike = None
    bias_regularizer: RegularizerLike = None
    kernel_constraint: ConstraintLike = None
    bias_constraint: ConstraintLike = None
    use_gate: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        shape = self.output_shape if isinstance(self.output_shape, list | tuple) else (self.output_shape or 1,)
        if not all(checks.is_integer(n) and n > 0 for n in shape):
            raise ValueError(
                f"`output_shape` of {self.label} must be a positive integer or a tuple of them, got "
                f"{self.output_shape!r}; give the output's sizes after the positions, or None for the query's."
            )
        self.check_positive("num_heads", "key_dim", *(("value_dim",) if self.value_dim is not None else ()))
        super().__post_init__()

    @nn.nowrap
    def heads(self) -> tuple[int, int, int, int]:
        """Returns (number of query heads, number of key heads, key size per head, value size per head)."""
        return self.num_heads, self.num_heads, self.key_dim, self.value_dim or self.key_dim

    @nn.nowrap
    def attended_axes(self, query: jax.Array) -> tuple[int, ...]:
        """Returns `attention_axes` counted from the front, or all axes between batch and features."""
        if self.attention_axes is None:
            return tuple(range(1, query.ndim - 1))
        given: Any = self.attention_axes if isinstance(self.attention_axes, list | tuple) else [self.attention_axes]
        axes = tuple(a + query.ndim if a < 0 else a for a in given) if all(map(checks.is_integer, given)) else ()
        if not axes or any(not 0 < a < query.ndim - 1 for a in axes) or len(set(axes)) < len(axes):
            raise ValueError(
                f"`attention_axes` of {self.label} must be distinct axes between the batch and the features, got "
                f"{self.attention_axes} for a query of shape {query.shape}; give axes from 1 to {query.ndim - 2}."
            )
        return axes

    @nn.nowrap
    def features(self, query: jax.Array) -> tuple[int, ...]:
        """Returns `output_shape` as a tuple, by default the size of the query's last axis."""
        if not self.output_shape:
            return query.shape[-1:]
        return (self.output_shape,) if isinstance(self.output_shape, int) else tuple(self.output_shape)

    def _add_activity_loss(self, outputs: object) -> None:
        """Adds no loss: as in Keras, only the projections add losses on their outputs."""


class GroupQueryAttention(ProjectedAttention):
    """Applies grouped-query attention: several query heads share one head of keys and values.

    For each query head: outputs = softmax(q k^T / sqrt(head_dim)) v, where each group of
    num_query_heads / num_key_value_heads query heads uses the same k and v. A final projection combines the heads.

    Called as layer(query, value, key), where the key is the value by default, with the same masks as
    `MultiHeadAttention`: `query_mask`, `value_mask`, `key_mask`, `attention_mask` and `use_causal_mask`.

    Args:
        head_dim: Size of each head's query, key and value.
        num_query_heads: Number of query heads, a multiple of `num_key_value_heads`.
        num_key_value_heads: Number of key and value heads.
        dropout: Probability that an attention weight is set to 0 in training.
        use_bias: Whether the projections add a bias.
        sliding_window: Queries attend only to keys at a distance of less than this; None for no limit.
        flash_attention: True for cuDNN's fused attention, which requires bfloat16 or float16 and an NVIDIA GPU; None
            and False for XLA's implementation.
        kernel_initializer: Initializer of the kernels, or its name.
        bias_initializer: Initializer of the biases, or its name.
        kernel_regularizer: Regularizer of each kernel, or its name.
        bias_regularizer: Regularizer of each bias, or its name.
        kernel_constraint: Constraint on the kernels after each update, or its name.
        bias_constraint: Constraint on the biases after each update, or its name.
        use_gate: Whether the heads are multiplied by a sigmoid projection of the query before the final projection.
        seed: Integer folded into the "dropout" key; without that key, every call drops the same elements.
        activity_regularizer: Regularizer of the outputs of each projection and of the layer.

    Shapes: query [B, T, F], value [B, S, G], key [B, S, H] -> [B, T, F]; with `return_attention_scores=True` also the
        weights [B, num_query_heads, T, S].

    Raises:
        ValueError: If a size is not positive, `num_query_heads` is not a multiple of `num_key_value_heads`, shapes do
            not agree, or `flash_attention` is not available.

    References:
        Ainslie et al., GQA: Training Generalized Multi-Query Transformer Models, 2023, https://arxiv.org/abs/2305.13245;
        Keras, `keras.layers.GroupQueryAttention`.

    Example:
        >>> layer, x = GroupQueryAttention(4, num_query_heads=6, num_key_value_heads=2), jnp.ones((5, 8, 16))
        >>> layer.apply(layer.init(jax.random.key(0), x, x), x, x, use_causal_mask=True).shape
        (5, 8, 16)
    """

    head_dim: int
    num_query_heads: int
    num_key_value_heads: int
    dropout: float = 0.0
    use_bias: bool = True
    sliding_window: int | None = None
    flash_attention: bool | None = None
    kernel_initializer: InitializerLike = "glorot_uniform"
    bias_initializer: InitializerLike = "zeros"
    kernel_regularizer: RegularizerLike = None
    bias_regularizer: RegularizerLike = None
    kernel_constraint: ConstraintLike = None
    bias_constraint: ConstraintLike = None
    use_gate: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        self.check_positive("head_dim", "num_query_heads", "num_key_value_heads")
        if self.num_query_heads % self.num_key_value_heads:
            raise ValueError(
                f"`num_query_heads` of {self.label} must be a multiple of `num_key_value_heads`, got "
                f"{self.num_query_heads} and {self.num_key_value_heads}; change one of them."
            )
        super().__post_init__()

    @nn.nowrap
    def heads(self) -> tuple[int, int, int, int]:
        """Returns (number of query heads, number of key heads, key size per head, value size per head)."""
        return self.num_query_heads, self.num_key_value_heads, self.head_dim, self.head_dim

    @nn.nowrap
    def attended_axes(self, query: jax.Array) -> tuple[int, ...]:
        """Returns the index of the sequence axis; raises unless the query has three axes."""
        self.check_rank(query, "B T F")
        return (1,)


def _equations(rank: int, axes: tuple[int, ...]) -> tuple[str, str]:
    """Returns the einsum equations (queries, keys -> scores) and (scores, values -> outputs).

    Queries, keys and values are [B, ..., heads, features]; scores are [other axes, heads, query axes, key axes].
    """
    queries = string.ascii_letters[:rank]
    keys = "".join(string.ascii_letters[rank + i] if i in axes else letter for i, letter in enumerate(queries))
    others = [letter for i, letter in enumerate(queries[:-1]) if i not in axes]
    scores = "".join([*others, *(queries[i] for i in axes), *(keys[i] for i in axes)])
    return f"{queries},{keys}->{scores}", f"{scores},{keys}->{queries}"
