"""Maximum-margin losses: hinge, squared hinge and categorical hinge."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from training.losses.base import AveragingLoss, Loss, match_shapes


def hinge(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes mean(max(1 - y_true y_pred, 0)) over the last axis.

    Labels are -1 and 1. If every label of the batch is 0 or 1, they are converted to -1 and 1.

    Args:
        y_true: The labels.
        y_pred: The scores.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(hinge(jnp.array([[-1.0, 1.0]]), jnp.array([[-3.0, 0.5]])))
        [0.25]
    """
    y_true, y_pred = match_shapes("hinge", y_true, y_pred)
    return jnp.mean(jnp.maximum(1.0 - _signs(y_true) * y_pred, 0.0), axis=-1)


def squared_hinge(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes mean(max(1 - y_true y_pred, 0)^2) over the last axis; labels as for `hinge`.

    Args:
        y_true: The labels.
        y_pred: The scores.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(squared_hinge(jnp.array([[-1.0, 1.0]]), jnp.array([[-3.0, 0.5]])))
        [0.125]
    """
    y_true, y_pred = match_shapes("squared_hinge", y_true, y_pred)
    return jnp.mean(jnp.square(jnp.maximum(1.0 - _signs(y_true) * y_pred, 0.0)), axis=-1)


def categorical_hinge(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes max(max((1 - y_true) y_pred) - sum(y_true y_pred) + 1, 0) over the last axis.

    Args:
        y_true: The labels, 0 or 1.
        y_pred: The scores.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(categorical_hinge(jnp.array([[0.0, 1.0]]), jnp.array([[0.5, 1.0]])))
        [0.5]
    """
    y_true, y_pred = match_shapes("categorical_hinge", y_true, y_pred, categorical=True)
    positive = jnp.sum(y_true * y_pred, axis=-1)
    negative = jnp.max((1.0 - y_true) * y_pred, axis=-1)
    return jnp.maximum(negative - positive + 1.0, 0.0)


def _signs(y_true: jax.Array) -> jax.Array:
    binary = jnp.all((y_true == 0) | (y_true == 1))
    return jnp.where(binary, 2.0 * y_true - 1.0, y_true)


@dataclasses.dataclass(frozen=True)
class Hinge(AveragingLoss):
    """Hinge loss for binary labels; see `hinge` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "hinge"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `hinge` of each example."""
        return hinge(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class SquaredHinge(AveragingLoss):
    """Squared hinge loss for binary labels; see `squared_hinge` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "squared_hinge"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `squared_hinge` of each example."""
        return squared_hinge(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class CategoricalHinge(Loss):
    """Margin between the true class and the best other class; see `categorical_hinge` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "categorical_hinge"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `categorical_hinge` of each example."""
        return categorical_hinge(y_true, y_pred)
