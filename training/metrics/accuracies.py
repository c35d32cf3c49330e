"""Accuracies: exact matches, thresholds, the best class and the k best classes."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from training.losses.base import LabelShapeError, as_float, match_ranks
from training.metrics.base import MeanMetric


def accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Returns 1 where label and prediction are equal, otherwise 0.

    Args:
        y_true: The labels.
        y_pred: The predictions.

    Shapes: y_true, y_pred [B, ...] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(accuracy(jnp.array([1, 2]), jnp.array([1, 3])))
        [1. 0.]
    """
    y_pred = jnp.asarray(y_pred)
    y_true, y_pred = match_ranks(jnp.asarray(y_true).astype(y_pred.dtype), y_pred)
    return _equal("accuracy", y_true, y_pred)


def binary_accuracy(y_true: ArrayLike, y_pred: ArrayLike, threshold: float = 0.5) -> jax.Array:
    """Returns 1 where `y_pred > threshold` equals the label, otherwise 0.

    Args:
        y_true: The labels, 0 or 1.
        y_pred: Probabilities.
        threshold: Predictions above it are 1, others are 0.

    Shapes: y_true, y_pred [B, ...] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(binary_accuracy(jnp.array([1, 1]), jnp.array([0.9, 0.2])))
        [1. 0.]
    """
    y_true, y_pred = match_ranks(jnp.asarray(y_true), as_float(y_pred))
    return _equal("binary_accuracy", y_true, (y_pred > threshold).astype(y_true.dtype))


def categorical_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Returns 1 where the largest prediction has the index of the largest label (the first if several are equal).

    Args:
        y_true: The labels, such as one-hot labels.
        y_pred: The scores.

    Shapes: y_true, y_pred [B, ..., C] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(categorical_accuracy(jnp.array([[0, 1], [0, 1]]), jnp.array([[0.2, 0.8], [0.7, 0.3]])))
        [1. 0.]
    """
    y_true, y_pred = jnp.argmax(jnp.asarray(y_true), axis=-1), jnp.asarray(y_pred)
    if y_true.ndim == y_pred.ndim and y_true.shape[-1] == 1:
        y_true = y_true[..., 0]
    return _equal("categorical_accuracy", y_true, jnp.argmax(y_pred, axis=-1))


def sparse_categorical_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Returns 1 where the index of the largest prediction is the label, otherwise 0.

    Args:
        y_true: The class indices.
        y_pred: The scores.

    Shapes: y_true [B, ...] or [B, ..., 1], y_pred [B, ..., C] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(sparse_categorical_accuracy(jnp.array([1, 1]), jnp.array([[0.2, 0.8], [0.7, 0.3]])))
        [1. 0.]
    """
    y_true, best = jnp.asarray(y_true), jnp.argmax(jnp.asarray(y_pred), axis=-1)
    if [n for n in y_true.shape if n != 1] == [n for n in best.shape if n != 1]:
        y_true = y_true.reshape(best.shape)
    # Float labels are not cast to integers: 1.5 is not a class index.
    y_true = y_true if jnp.issubdtype(y_true.dtype, jnp.floating) else y_true.astype(jnp.int32)
    return _equal("sparse_categorical_accuracy", y_true, best.astype(y_true.dtype))


def top_k_categorical_accuracy(y_true: ArrayLike, y_pred: ArrayLike, k: int = 5) -> jax.Array:
    """Returns 1 where the class of the largest label is among the `k` largest predictions, otherwise 0.

    Args:
        y_true: One-hot labels.
        y_pred: The scores.
        k: The number of predictions to consider.

    Shapes: y_true, y_pred [B, ..., C] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(top_k_categorical_accuracy(jnp.array([[0, 0, 1]]), jnp.array([[0.2, 0.5, 0.3]]), k=2))
        [1.]
    """
    return sparse_top_k_categorical_accuracy(jnp.argmax(jnp.asarray(y_true), axis=-1), y_pred, k)


def sparse_top_k_categorical_accuracy(
    y_true: ArrayLike, y_pred: ArrayLike, k: int = 5, from_sorted_ids: bool = False
) -> jax.Array:
    """Returns 1 where the label is among the `k` largest predictions, otherwise 0; equal predictions share a rank.

    Args:
        y_true: Class indices.
        y_pred: The scores, or class indices in the order of descending scores.
        k: The number of predictions to consider.
        from_sorted_ids: Whether `y_pred` are class indices.

    Shapes: y_true [B, ...], y_pred [B, ..., C] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(sparse_top_k_categorical_accuracy(jnp.array([2]), jnp.array([[0.2, 0.5, 0.3]]), k=2))
        [1.]
    """
    y_true, y_pred = jnp.asarray(y_true), jnp.asarray(y_pred)
    if y_true.size * y_pred.shape[-1] != y_pred.size:
        fix = "pass one class index for each row of the predictions"
        if y_true.shape == y_pred.shape:
            fix = "use top_k_categorical_accuracy for one-hot labels"
        rule = "one class index for each row of predictions"
        raise LabelShapeError("sparse_top_k_categorical_accuracy", rule, y_true.shape, y_pred.shape, fix)
    labels, scores = y_true.reshape(-1), y_pred.reshape(-1, y_pred.shape[-1])
    if from_sorted_ids:
        hits = jnp.any(labels.astype(scores.dtype)[:, None] == scores[:, :k], axis=1)
    else:
        label_scores = jnp.take_along_axis(scores, labels.astype(jnp.int32)[:, None], axis=1)
        # No score exceeds NaN, so a label with the score NaN would get the best rank.
        label_scores = jnp.where(jnp.isnan(label_scores), -jnp.inf, label_scores)
        hits = jnp.sum(scores > label_scores, axis=1) < k
    return hits.astype(jnp.float32).reshape(y_true.shape)


def _equal(name: str, y_true: jax.Array, y_pred: jax.Array) -> jax.Array:
    if y_true.shape != y_pred.shape:
        fix = "use sparse_categorical_accuracy for class indices and categorical_accuracy for one-hot labels"
        rule = "labels and predictions with one class per position"
        raise LabelShapeError(name, rule, y_true.shape, y_pred.shape, fix)
    return (y_true == y_pred).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Accuracy(MeanMetric):
    """Fraction of predictions that equal the labels; see `accuracy` and `Metric`.

    Example:
        >>> m = Accuracy()
        >>> print(m.compute(m.update(m.empty(), jnp.array([1, 2]), jnp.array([1, 3]))))
        0.5
    """

    direction: ClassVar[str | None] = "up"
    name: str | None = "accuracy"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `accuracy` of each example."""
        return accuracy(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class BinaryAccuracy(MeanMetric):
    """Fraction of correct binary predictions; see `binary_accuracy` and `Metric`."""

    direction: ClassVar[str | None] = "up"
    name: str | None = "binary_accuracy"
    dtype: DTypeLike | None = None
    threshold: float = 0.5

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `binary_accuracy` of each example."""
        return binary_accuracy(y_true, y_pred, self.threshold)


@dataclasses.dataclass(frozen=True)
class CategoricalAccuracy(MeanMetric):
    """Fraction of correct predictions for one-hot labels; see `categorical_accuracy` and `Metric`."""

    direction: ClassVar[str | None] = "up"
    name: str | None = "categorical_accuracy"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `categorical_accuracy` of each example."""
        return categorical_accuracy(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class SparseCategoricalAccuracy(MeanMetric):
    """Fraction of correct predictions for class indices; see `sparse_categorical_accuracy` and `Metric`."""

    direction: ClassVar[str | None] = "up"
    name: str | None = "sparse_categorical_accuracy"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `sparse_categorical_accuracy` of each example."""
        return sparse_categorical_accuracy(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class TopKCategoricalAccuracy(MeanMetric):
    """Fraction of one-hot labels among the k best classes; see `top_k_categorical_accuracy` and `Metric`."""

    direction: ClassVar[str | None] = "up"
    k: int = 5
    name: str | None = "top_k_categorical_accuracy"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `top_k_categorical_accuracy` of each example."""
        return top_k_categorical_accuracy(y_true, y_pred, self.k)


@dataclasses.dataclass(frozen=True)
class SparseTopKCategoricalAccuracy(MeanMetric):
    """Fraction of class indices among the k best classes; see `sparse_top_k_categorical_accuracy` and `Metric`."""

    direction: ClassVar[str | None] = "up"
    k: int = 5
    name: str | None = "sparse_top_k_categorical_accuracy"
    dtype: DTypeLike | None = None
    from_sorted_ids: bool = False

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `sparse_top_k_categorical_accuracy` of each example."""
        return sparse_top_k_categorical_accuracy(y_true, y_pred, self.k, self.from_sorted_ids)
