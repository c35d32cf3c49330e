"""Masks of attention: checks, and alignment with the scores [batch axes, heads, query axes, key axes]."""

import jax
import jax.numpy as jnp

from flaxmodels.layers import checks
from flaxmodels.layers.base import Layer


def check_positions(layer: Layer, name: str, mask: jax.Array | None, x: jax.Array) -> None:
    """Raises unless the mask is None or has a boolean for each position of x."""
    if mask is not None:
        checks.check_array(layer, name, mask)
        checks.check_mask(layer, mask, x.shape[:-1], name)


def check_pairs(
    layer: Layer, mask: jax.Array, query: jax.Array, value: jax.Array, axes: tuple[int, ...], heads: int
) -> None:
    """Raises unless the mask has a boolean for each pair of positions; axes of batch and heads may precede them."""
    checks.check_array(layer, "attention_mask", mask)
    others = [n for i, n in enumerate(query.shape[:-1]) if i not in axes]
    pairs = [x.shape[i] for x in (query, value) for i in axes]
    expected = [*[*others, heads][: max(mask.ndim - len(pairs), 0)], *pairs]
    if mask.ndim != len(expected) or any(m not in (1, n) for m, n in zip(mask.shape, expected, strict=True)):
        raise ValueError(
            f"`attention_mask` of {layer.label} must have a boolean for each pair of positions, shape "
            f"{(*others, *pairs)}, got shape {tuple(mask.shape)}; give that shape, or add an axis for the heads "
            "before the pairs."
        )


def pair_masks(
    layer: Layer,
    query: jax.Array,
    value: jax.Array,
    axes: tuple[int, ...],
    attention_mask: jax.Array | None,
    causal_mask: bool,
    window: int | None,
) -> list[jax.Array | None]:
    """Returns the masks of pairs (query, key): `attention_mask`, the causal mask and the sliding window.

    Args:
        layer: The layer, for errors.
        query: The query.
        value: The value.
        axes: Axes of the query along which attention is computed.
        attention_mask: Mask of pairs, checked by `check_pairs`, or None.
        causal_mask: Whether a query attends only to keys that are no later.
        window: A query attends only to keys at a smaller distance; None for no limit.
    """
    rank = query.ndim + len(axes)
    aligned: list[jax.Array | None] = []
    if attention_mask is not None:
        aligned.append(expand_before(attention_mask.astype(bool), rank, 2 * len(axes)))
    if (causal_mask or window) and len(axes) > 1:
        raise ValueError(
            f"`use_causal_mask` and `sliding_window` of {layer.label} work along one attention axis, got the axes "
            f"{axes}; leave both out, or give one attention axis."
        )
    sizes = (query.shape[axes[0]], value.shape[axes[0]])
    if causal_mask:
        aligned.append(expand_before(causal(*sizes), rank))
    if window is not None:
        aligned.append(expand_before(jnp.abs(distance(*sizes)) < window, rank))
    return aligned


def causal(queries: int, keys: int) -> jax.Array:
    """Returns booleans [T, S]: whether each key is no later than each query."""
    return distance(queries, keys) >= 0


def distance(queries: int, keys: int) -> jax.Array:
    """Returns integers [T, S]: the position of each query minus the position of each key."""
    return jnp.arange(queries)[:, None] - jnp.arange(keys)[None, :]


def expand_before(mask: jax.Array, rank: int, last: int = 2) -> jax.Array:
    """Returns the mask with `rank` axes: axes of size 1 are inserted before its `last` axes."""
    at = max(mask.ndim - last, 0)
    return jnp.expand_dims(mask, tuple(range(at, at + rank - mask.ndim)))


def align_query_mask(mask: jax.Array | None, rank: int, axes: tuple[int, ...]) -> jax.Array | None:
    """Aligns a mask of the query's positions with the scores [batch axes, heads, query axes, key axes].

    Args:
        mask: Mask [B, ...] with at most rank - 1 axes, or None.
        rank: Number of axes of the query.
        axes: Axes of the query along which attention is computed.
    """
    if mask is None:
        return None
    mask = _move_attended_axes(mask, rank, axes)
    return jnp.expand_dims(mask, tuple(range(mask.ndim, mask.ndim + len(axes))))


def align_key_mask(mask: jax.Array | None, rank: int, axes: tuple[int, ...]) -> jax.Array | None:
    """Aligns a mask of the keys' positions with the scores; the arguments are those of `align_query_mask`."""
    if mask is None:
        return None
    mask = _move_attended_axes(mask, rank, axes)
    return expand_before(mask, mask.ndim + len(axes), len(axes))


def _move_attended_axes(mask: jax.Array, rank: int, axes: tuple[int, ...]) -> jax.Array:
    """Returns a mask of positions [B, ...] as [batch axes, 1 for the heads, attention axes]."""
    others = [i for i in range(rank - 1) if i not in axes]
    mask = jnp.expand_dims(mask.astype(bool), tuple(range(mask.ndim, rank - 1)))
    return jnp.expand_dims(mask.transpose(*others, *axes), len(others))


def all_of(masks: list[jax.Array | None]) -> jax.Array | None:
    """Returns where all masks are true; None counts as true everywhere. Returns None if all masks are None."""
    keep = None
    for mask in masks:
        keep = mask if keep is None else keep if mask is None else keep & mask
    return keep
