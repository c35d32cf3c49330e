"""Which positions attention may see: masks, checked, and aligned with the scores."""

from typing import Any

import jax
import jax.numpy as jnp

from flaxmodels.layers import checks


def check_positions(layer: Any, name: str, mask: Any, x: Any) -> None:
    """Raises unless a mask, if there is one, has a truth value for each position of x."""
    if mask is not None:
        checks.check_array(layer, name, mask)
        checks.check_mask(layer, mask, x.shape[:-1], name)


def check_pairs(layer: Any, mask: Any, query: Any, value: Any, axes: tuple[int, ...], heads: int) -> None:
    """Raises unless a mask has a truth value for each pair of positions; batch and heads may stand in front."""
    checks.check_array(layer, "attention_mask", mask)
    others = [n for i, n in enumerate(query.shape[:-1]) if i not in axes]
    pairs = [x.shape[i] for x in (query, value) for i in axes]
    wanted = [*[*others, heads][: max(mask.ndim - len(pairs), 0)], *pairs]
    if mask.ndim != len(wanted) or any(m not in (1, n) for m, n in zip(mask.shape, wanted, strict=True)):
        raise ValueError(
            f"`attention_mask` of {layer.label} has a truth value for each pair of positions, of shape "
            f"{(*others, *pairs)}, got shape {tuple(mask.shape)}; give it that shape, or an axis for the heads "
            "before the pairs."
        )


def causal(queries: int, keys: int) -> jax.Array:
    """Which keys are no later than each query: [T, S]."""
    return distance(queries, keys) >= 0


def distance(queries: int, keys: int) -> jax.Array:
    """How much later each query is than each key: [T, S]."""
    return jnp.arange(queries)[:, None] - jnp.arange(keys)[None, :]


def between(mask: jax.Array, rank: int, last: int = 2) -> jax.Array:
    """The mask with axes of size 1 before its `last` axes, up to the rank."""
    at = max(mask.ndim - last, 0)
    return jnp.expand_dims(mask, tuple(range(at, at + rank - mask.ndim)))


def by_query(mask: jax.Array | None, rank: int, axes: tuple[int, ...]) -> jax.Array | None:
    """A mask of the query's positions, aligned with the scores [batch axes, heads, query axes, key axes]."""
    if mask is None:
        return None
    mask = _by_position(mask, rank, axes)
    return jnp.expand_dims(mask, tuple(range(mask.ndim, mask.ndim + len(axes))))


def by_key(mask: jax.Array | None, rank: int, axes: tuple[int, ...]) -> jax.Array | None:
    """A mask of the keys' positions, aligned with the scores [batch axes, heads, query axes, key axes]."""
    if mask is None:
        return None
    mask = _by_position(mask, rank, axes)
    return between(mask, mask.ndim + len(axes), len(axes))


def _by_position(mask: jax.Array, rank: int, axes: tuple[int, ...]) -> jax.Array:
    """A mask of positions [B, ...] as [batch axes, 1 for the heads, attention axes]."""
    others = [i for i in range(rank - 1) if i not in axes]
    mask = jnp.expand_dims(mask.astype(bool), tuple(range(mask.ndim, rank - 1)))
    return jnp.expand_dims(mask.transpose(*others, *axes), len(others))


def all_of(given: list[jax.Array | None]) -> jax.Array | None:
    """Where all of the masks that are there are true."""
    kept = None
    for mask in given:
        kept = mask if kept is None else kept if mask is None else kept & mask
    return kept
