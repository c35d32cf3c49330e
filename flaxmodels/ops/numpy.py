"""Keras' operations of NumPy."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flaxmodels.ops.base import operation


@operation
def add(x1: ArrayLike, x2: ArrayLike) -> jax.Array:
    """Returns x1 + x2."""
    return jnp.add(x1, x2)


@operation
def get_item(x: ArrayLike, key: object) -> jax.Array:
    """Returns x[key]."""
    return jnp.asarray(x)[tuple(key) if isinstance(key, list) else key]
