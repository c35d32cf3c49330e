"""Keras' operation of attention."""

import jax
import jax.numpy as jnp

from flaxmodels.ops.arrays import Tensor, as_array
from flaxmodels.ops.base import operation


@operation
def dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    flash_attention: bool | None = None,
    attn_logits_soft_cap: float | None = None,
) -> jax.Array:
    """Returns softmax(scale query key^T + bias) value, for each head.

    Args:
        query: Queries.
        key: Keys; N is a multiple of K, and each head of keys serves N / K heads of queries.
        value: Values.
        bias: Added to the scores.
        mask: False for the keys that a query must not see.
        scale: Factor of the scores; 1 / sqrt(D) by default.
        is_causal: Whether a query sees only the keys up to its own position.
        flash_attention: True for cuDNN's fused attention, on an NVIDIA GPU and in half precision; None and False for
            XLA's operations.
        attn_logits_soft_cap: Keras supports it on a TPU only; it must be None.

    Shapes: query [B, T, N, D], key and value [B, S, K, D], bias and mask broadcast to [B, N, T, S] -> [B, T, N, D].

    Raises:
        ValueError: If an array has other than 4 axes, `attn_logits_soft_cap` is given, or fused attention is requested
            without an NVIDIA GPU.

    References:
        Keras, `keras.ops.nn.dot_product_attention`.

    Example:
        >>> x = jnp.ones((1, 3, 2, 4))
        >>> dot_product_attention(x, x, x, is_causal=True).shape
        (1, 3, 2, 4)
    """
    arrays = [as_array(x) for x in (query, key, value)]
    if any(x.ndim != 4 for x in arrays):
        raise ValueError(
            "`dot_product_attention` takes arrays of 4 axes [batch, time, heads, features], got shapes "
            f"{', '.join(str(x.shape) for x in arrays)}; add an axis for the heads."
        )
    if attn_logits_soft_cap is not None:
        raise ValueError(
            f"`attn_logits_soft_cap` is available on a TPU only, got {attn_logits_soft_cap!r}; leave it out."
        )
    if flash_attention and jax.default_backend() != "gpu":
        raise ValueError(
            f"`flash_attention` needs an NVIDIA GPU, got the platform {jax.default_backend()!r}; leave it out."
        )
    dtype = jnp.result_type(*arrays)
    queries, keys, values = (x.astype(dtype) for x in arrays)
    return jax.nn.dot_product_attention(
        queries,
        keys,
        values,
        bias=None if bias is None else as_array(bias).astype(dtype),
        mask=None if mask is None else as_array(mask),
        scale=scale,
        is_causal=is_causal,
        implementation="cudnn" if flash_attention else "xla",
    )
