"""How often is the prediction right?"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from training.losses.base import LabelShapeError, as_float, match_ranks
from training.metrics.base import MeanMetric


def accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Tells where labels and predictions are equal.

    Shapes: y_true, y_pred [B, ...] -> [B, ...].

    Example:
        >>> print(accuracy(jnp.array([1, 2]), jnp.array([1, 3])))
        [1. 0.]
    """
    y_pred = jnp.asarray(y_pred)
    y_true, y_pred = match_ranks(jnp.asarray(y_true).astype(y_pred.dtype), y_pred)
    return _equal("accuracy", y_true, y_pred)


def binary_accuracy(y_true: ArrayLike, y_pred: ArrayLike, threshold: float = 0.5) -> jax.Array:
    """Tells where `y_pred > threshold` agrees with a label of 0 or 1.

    Args:
        y_true: The labels.
        y_pred: Probabilities.
        threshold: What a prediction of 1 must exceed.

    Shapes: y_true, y_pred [B, ...] -> [B, ...].

    Example:
        >>> print(binary_accuracy(jnp.array([1, 1]), jnp.array([0.9, 0.2])))
        [1. 0.]
    """
    y_true, y_pred = match_ranks(jnp.asarray(y_true), as_float(y_pred))
    return _equal("binary_accuracy", y_true, (y_pred > threshold).astype(y_true.dtype))


def categorical_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Tells where the largest prediction stands at the largest label, the first of equals.

    Shapes: y_true, y_pred [B, ..., C] -> [B, ...].

    Example:
        >>> print(categorical_accuracy(jnp.array([[0, 1], [0, 1]]), jnp.array([[0.2, 0.8], [0.7, 0.3]])))
        [1. 0.]
    """
    y_true, y_pred = jnp.argmax(jnp.asarray(y_true), axis=-1), jnp.asarray(y_pred)
    if y_true.ndim == y_pred.ndim and y_true.shape[-1] == 1:
        y_true = y_true[..., 0]
    return _equal("categorical_accuracy", y_true, jnp.argmax(y_pred, axis=-1))


def sparse_categorical_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Tells where the largest prediction stands at the class that the label names.

    Shapes: y_true [B, ...] or [B, ..., 1], y_pred [B, ..., C] -> [B, ...].

    Example:
        >>> print(sparse_categorical_accuracy(jnp.array([1, 1]), jnp.array([[0.2, 0.8], [0.7, 0.3]])))
        [1. 0.]
    """
    y_true, best = jnp.asarray(y_true), jnp.argmax(jnp.asarray(y_pred), axis=-1)
    if [n for n in y_true.shape if n != 1] == [n for n in best.shape if n != 1]:
        y_true = y_true.reshape(best.shape)
    whole = not jnp.issubdtype(y_true.dtype, jnp.floating)  # a label of 1.5 is no class
    y_true = y_true.astype(jnp.int32) if whole else y_true
    return _equal("sparse_categorical_accuracy", y_true, best.astype(y_true.dtype))


def top_k_categorical_accuracy(y_true: ArrayLike, y_pred: ArrayLike, k: int = 5) -> jax.Array:
    """Tells where the class of the largest label is among the `k` best predictions.

    Args:
        y_true: One-hot labels.
        y_pred: Scores.
        k: How many predictions count.

    Shapes: y_true, y_pred [B, ..., C] -> [B, ...].

    Example:
        >>> print(top_k_categorical_accuracy(jnp.array([[0, 0, 1]]), jnp.array([[0.2, 0.5, 0.3]]), k=2))
        [1.]
    """
    return sparse_top_k_categorical_accuracy(jnp.argmax(jnp.asarray(y_true), axis=-1), y_pred, k)


def sparse_top_k_categorical_accuracy(
    y_true: ArrayLike, y_pred: ArrayLike, k: int = 5, from_sorted_ids: bool = False
) -> jax.Array:
    """Tells where the class that the label names is among the `k` best predictions; equals share a rank.

    Args:
        y_true: Class indices.
        y_pred: Scores, or class indices from best to worst.
        k: How many predictions count.
        from_sorted_ids: Whether `y_pred` are class indices.

    Shapes: y_true [B, ...], y_pred [B, ..., C] -> [B, ...].

    Example:
        >>> print(sparse_top_k_categorical_accuracy(jnp.array([2]), jnp.array([[0.2, 0.5, 0.3]]), k=2))
        [1.]
    """
    y_true, y_pred = jnp.asarray(y_true), jnp.asarray(y_pred)
    if y_true.size * y_pred.shape[-1] != y_pred.size:
        fix = "give one class index for each row of the predictions"
        if y_true.shape == y_pred.shape:
            fix = "use top_k_categorical_accuracy for one-hot labels"
        rule = "one class index for each row of predictions"
        raise LabelShapeError("sparse_top_k_categorical_accuracy", rule, y_true.shape, y_pred.shape, fix)
    labels, scores = y_true.reshape(-1), y_pred.reshape(-1, y_pred.shape[-1])
    if from_sorted_ids:
        hits = jnp.any(labels.astype(scores.dtype)[:, None] == scores[:, :k], axis=1)
    else:
        own = jnp.take_along_axis(scores, labels.astype(jnp.int32)[:, None], axis=1)
        own = jnp.where(jnp.isnan(own), -jnp.inf, own)  # a NaN is not the best of all
        hits = jnp.sum(scores > own, axis=1) < k
    return hits.astype(jnp.float32).reshape(y_true.shape)


def _equal(name: str, y_true: jax.Array, y_pred: jax.Array) -> jax.Array:
    if y_true.shape != y_pred.shape:
        fix = "use sparse_categorical_accuracy for class indices and categorical_accuracy for one-hot labels"
        rule = "labels and predictions that name one class in each place"
        raise LabelShapeError(name, rule, y_true.shape, y_pred.shape, fix)
    return (y_true == y_pred).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Accuracy(MeanMetric):
    """How often predictions equal labels; see `accuracy` and `Metric`.

    Example:
        >>> m = Accuracy()
        >>> print(m.compute(m.update(m.empty(), jnp.array([1, 2]), jnp.array([1, 3]))))
        0.5
    """

    name: str | None = "accuracy"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return accuracy(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class BinaryAccuracy(MeanMetric):
    """How often probabilities are on the right side of the threshold; see `binary_accuracy` and `Metric`."""

    name: str | None = "binary_accuracy"
    dtype: DTypeLike | None = None
    threshold: float = 0.5

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return binary_accuracy(y_true, y_pred, self.threshold)


@dataclasses.dataclass(frozen=True)
class CategoricalAccuracy(MeanMetric):
    """How often the best class is the one-hot label's; see `categorical_accuracy` and `Metric`."""

    name: str | None = "categorical_accuracy"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return categorical_accuracy(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class SparseCategoricalAccuracy(MeanMetric):
    """How often the best class is the label; see `sparse_categorical_accuracy` and `Metric`."""

    name: str | None = "sparse_categorical_accuracy"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return sparse_categorical_accuracy(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class TopKCategoricalAccuracy(MeanMetric):
    """How often the one-hot label's class is among the k best; see `top_k_categorical_accuracy` and `Metric`."""

    k: int = 5
    name: str | None = "top_k_categorical_accuracy"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return top_k_categorical_accuracy(y_true, y_pred, self.k)


@dataclasses.dataclass(frozen=True)
class SparseTopKCategoricalAccuracy(MeanMetric):
    """How often the label is among the k best; see `sparse_top_k_categorical_accuracy` and `Metric`."""

    k: int = 5
    name: str | None = "sparse_top_k_categorical_accuracy"
    dtype: DTypeLike | None = None
    from_sorted_ids: bool = False

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return sparse_top_k_categorical_accuracy(y_true, y_pred, self.k, self.from_sorted_ids)
