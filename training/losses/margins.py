"""Is each prediction on the right side of the margin?"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from training.losses.base import AveragingLoss, Loss, match


def hinge(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes mean(max(1 - y_true y_pred, 0)) over the last axis.

    Labels are -1 and 1. If every label of the batch is 0 or 1, they are taken as -1 and 1.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Example:
        >>> print(hinge(jnp.array([[-1.0, 1.0]]), jnp.array([[-3.0, 0.5]])))
        [0.25]
    """
    y_true, y_pred = match("hinge", y_true, y_pred)
    return jnp.mean(jnp.maximum(1.0 - _signs(y_true) * y_pred, 0.0), axis=-1)


def squared_hinge(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes mean(max(1 - y_true y_pred, 0)^2) over the last axis; labels as for `hinge`.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Example:
        >>> print(squared_hinge(jnp.array([[-1.0, 1.0]]), jnp.array([[-3.0, 0.5]])))
        [0.125]
    """
    y_true, y_pred = match("squared_hinge", y_true, y_pred)
    return jnp.mean(jnp.square(jnp.maximum(1.0 - _signs(y_true) * y_pred, 0.0)), axis=-1)


def categorical_hinge(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes max(max((1 - y_true) y_pred) - sum(y_true y_pred) + 1, 0) over the last axis.

    Shapes: y_true (0 or 1), y_pred [B, ..., F] -> [B, ...].

    Example:
        >>> print(categorical_hinge(jnp.array([[0.0, 1.0]]), jnp.array([[0.5, 1.0]])))
        [0.5]
    """
    y_true, y_pred = match("categorical_hinge", y_true, y_pred, categorical=True)
    positive = jnp.sum(y_true * y_pred, axis=-1)
    negative = jnp.max((1.0 - y_true) * y_pred, axis=-1)
    return jnp.maximum(negative - positive + 1.0, 0.0)


def _signs(y_true: jax.Array) -> jax.Array:
    binary = jnp.all((y_true == 0) | (y_true == 1))
    return jnp.where(binary, 2.0 * y_true - 1.0, y_true)


@dataclasses.dataclass(frozen=True)
class Hinge(AveragingLoss):
    """The distance by which the margin is missed; see `hinge` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "hinge"
    dtype: Any = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return hinge(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class SquaredHinge(AveragingLoss):
    """The squared distance by which the margin is missed; see `squared_hinge` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "squared_hinge"
    dtype: Any = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return squared_hinge(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class CategoricalHinge(Loss):
    """The margin between the right class and the best wrong one; see `categorical_hinge` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "categorical_hinge"
    dtype: Any = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return categorical_hinge(y_true, y_pred)
