"""What does a threshold let through: true and false positives, precision, recall, areas under curves?"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from training.losses.base import EPSILON, LabelShapeError, as_float, divide_no_nan, fill_masked, match_ranks
from training.metrics.base import Metric, RunningSum, as_mask, broadcast

NEG_INF = -1e10  # below every prediction: the score of classes that are not among the top k


class Counts(NamedTuple):
    """Weighted counts at each threshold, [thresholds] or [thresholds, labels]."""

    true_positives: Any
    false_positives: Any
    true_negatives: Any
    false_negatives: Any


def count(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    thresholds: Sequence[float],
    sample_weight: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    top_k: int | None = None,
    class_id: int | None = None,
    label_weights: Sequence[float] | None = None,
    even: bool = False,
    per_label: bool = False,
) -> Counts:
    """Counts predictions above and below thresholds, right and wrong.

    Args:
        y_true: The labels; all but zero are positive.
        y_pred: Probabilities, or scores if there are no thresholds to speak of.
        thresholds: What a positive prediction must exceed, in ascending order.
        sample_weight: Factors per example, or per prediction.
        mask: False for what does not count, such as padding.
        top_k: Only the k best classes of an example can be positive.
        class_id: Only this class counts.
        label_weights: Factors per class.
        even: Whether the thresholds divide [0, 1] evenly: predictions are then sorted into buckets.
        per_label: Whether each class is counted on its own.

    Shapes: y_true, y_pred [B, ..., C] -> [thresholds], or [B, C] -> [thresholds, C].

    References:
        Keras `metrics.metrics_utils.update_confusion_matrix_variables`.
    """
    y_pred, y_true = match_ranks(as_float(y_pred), as_float(y_true))
    if y_true.shape != y_pred.shape or (class_id is not None and y_pred.ndim < 2) or (per_label and y_pred.ndim != 2):
        axes = " [B, C]" if per_label else " [B, ..., C]" if class_id is not None else ""
        rule = f"labels and predictions of the same shape{axes}"
        raise LabelShapeError("A confusion metric", rule, y_true.shape, y_pred.shape, "make the labels one-hot")
    mask = as_mask(mask)
    if mask is not None:
        y_true, y_pred = fill_masked(y_true, mask, 0.0), fill_masked(y_pred, mask, 0.0)
    if top_k is not None:
        y_pred = _only_top(y_pred, top_k)
    if class_id is not None:
        y_true, y_pred = y_true[..., class_id, None], y_pred[..., class_id, None]
    weights = jnp.ones(y_pred.shape, jnp.int32)  # whole numbers, so that a batch of many pixels is counted exactly
    if sample_weight is not None:
        weights = broadcast("sample_weight", as_float(sample_weight), y_pred.shape)
    if label_weights is not None:
        own = jnp.asarray(label_weights, jnp.float32).reshape((1,) * (y_pred.ndim - 1) + (-1,))
        weights = weights.astype(jnp.float32) * jnp.broadcast_to(own, y_pred.shape)
    if mask is not None:
        weights = jnp.where(broadcast("mask", mask, y_pred.shape), weights, jnp.zeros_like(weights))
    labels = y_pred.shape[-1] if per_label else 1
    positive, weights, y_pred = (x.reshape(-1, labels) for x in (y_true != 0, weights, y_pred))  # [N, labels]
    reach = _bucket_sums if even else _threshold_sums
    none = jnp.zeros_like(weights)
    counts = reach(y_pred, jnp.where(positive, weights, none), jnp.where(positive, none, weights), thresholds)
    return counts if per_label else Counts(*(c[:, 0] for c in counts))


def _only_top(y_pred: jax.Array, k: int) -> jax.Array:
    _, best = jax.lax.top_k(y_pred, k)
    chosen = jnp.any(
        best[..., None] == jnp.arange(y_pred.shape[-1], dtype=jnp.int32).reshape((1,) * best.ndim + (-1,)), axis=-2
    )
    return jnp.where(chosen, y_pred, NEG_INF)


def _threshold_sums(y_pred: jax.Array, positive: jax.Array, negative: jax.Array, thresholds: Sequence[float]) -> Counts:
    """Compares every prediction with every threshold."""
    limits = jnp.asarray(thresholds, y_pred.dtype)
    above = y_pred[None] > limits[:, None, None]  # [thresholds, N, labels]

    def total(chosen: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(chosen, weights[None], jnp.zeros_like(weights)[None]), axis=1)

    return Counts(total(above, positive), total(above, negative), total(~above, negative), total(~above, positive))


def _bucket_sums(y_pred: jax.Array, positive: jax.Array, negative: jax.Array, thresholds: Sequence[float]) -> Counts:
    """Sorts predictions into buckets between even thresholds; what exceeds one lies in the buckets from it on."""
    number, labels = len(thresholds), y_pred.shape[1]
    bucket = jnp.ceil(jnp.clip(y_pred, 0.0, 1.0) * (number - 1)) - 1.0
    if thresholds[0] < 0.0 or thresholds[-1] > 1.0:
        bucket = jnp.maximum(bucket, 0.0)  # the first threshold lies below 0, so a prediction of 0 exceeds it
    bucket = bucket.astype(jnp.int32)
    # A prediction of 0 exceeds no threshold from 0 on: its bucket -1 is out of range for every label and is dropped.
    segment = jnp.where(bucket < 0, -1, bucket * labels + jnp.arange(labels, dtype=jnp.int32)[None, :]).reshape(-1)

    def above(weights: jax.Array) -> jax.Array:
        sums = jax.ops.segment_sum(weights.reshape(-1), segment, number * labels).reshape(number, labels)
        return jnp.cumsum(sums[::-1], axis=0)[::-1]

    tp, fp = above(positive), above(negative)
    totals = [jnp.sum(x, axis=0, dtype=x.dtype)[None] for x in (negative, positive)]
    return Counts(tp, fp, totals[0] - fp, totals[1] - tp)


def as_thresholds(thresholds: float | Sequence[float] | None, default: float) -> tuple[float, ...]:
    """Thresholds as a tuple, within [0, 1]."""
    if thresholds is None:
        return (default,)
    values = tuple(map(float, np.atleast_1d(np.asarray(thresholds, float))))
    wrong = [t for t in values if not 0 <= t <= 1]
    if wrong:
        raise ValueError(f"thresholds must lie in [0, 1]; found {wrong}; apply a sigmoid to logits first")
    return values


def are_even(thresholds: Sequence[float]) -> bool:
    """Whether three or more thresholds divide [0, 1] evenly."""
    number = len(thresholds)
    return number >= 3 and np.allclose(thresholds, np.arange(number, dtype=np.float32) / (number - 1), atol=EPSILON)


def even_thresholds(number: int) -> tuple[float, ...]:
    """The inner of `number` even thresholds, without 0 and 1."""
    return tuple((i + 1) * 1.0 / (number - 1) for i in range(number - 2))


class _ThresholdMetric(Metric):
    """Keeps the four counts at some thresholds."""

    def _limits(self) -> tuple[float, ...]:
        return as_thresholds(getattr(self, "thresholds", None), 0.5)

    def _is_even(self) -> bool:
        return are_even(self._limits())

    def empty(self) -> Counts:
        return Counts(*(RunningSum.zeros((len(self._limits()),)) for _ in range(4)))

    def update(
        self,
        state: Counts,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Counts:
        counts = count(
            y_true,
            y_pred,
            self._limits(),
            sample_weight,
            mask,
            top_k=getattr(self, "top_k", None),
            class_id=getattr(self, "class_id", None),
            even=self._is_even(),
        )
        return Counts(*(s.add(c) for s, c in zip(state, counts, strict=True)))

    def _result(self, x: jax.Array) -> jax.Array:
        return self.cast(x[0] if len(self._limits()) == 1 else x)


class _Count(_ThresholdMetric):
    """One of the four counts."""

    field: ClassVar[str]
    thresholds: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.thresholds is not None:
            object.__setattr__(self, "thresholds", as_thresholds(self.thresholds, 0.5))

    def compute(self, state: Counts) -> jax.Array:
        return self._result(getattr(state, self.field).value)


@dataclasses.dataclass(frozen=True)
class TruePositives(_Count):
    """The (weighted) number of ones predicted as ones.

    Args:
        thresholds: What a prediction of one must exceed: a number, or several, which give one result each.
        name: What the metric is called.
        dtype: The dtype of the result.

    Example:
        >>> m = TruePositives()
        >>> print(m.compute(m.update(m.empty(), jnp.array([1, 1, 0]), jnp.array([0.9, 0.2, 0.8]))))
        1.0
    """

    thresholds: float | Sequence[float] | None = None
    name: str | None = None
    dtype: DTypeLike | None = None
    field: ClassVar[str] = "true_positives"


@dataclasses.dataclass(frozen=True)
class FalsePositives(_Count):
    """The (weighted) number of zeros predicted as ones; arguments as for `TruePositives`."""

    thresholds: float | Sequence[float] | None = None
    name: str | None = None
    dtype: DTypeLike | None = None
    field: ClassVar[str] = "false_positives"


@dataclasses.dataclass(frozen=True)
class TrueNegatives(_Count):
    """The (weighted) number of zeros predicted as zeros; arguments as for `TruePositives`."""

    thresholds: float | Sequence[float] | None = None
    name: str | None = None
    dtype: DTypeLike | None = None
    field: ClassVar[str] = "true_negatives"


@dataclasses.dataclass(frozen=True)
class FalseNegatives(_Count):
    """The (weighted) number of ones predicted as zeros; arguments as for `TruePositives`."""

    thresholds: float | Sequence[float] | None = None
    name: str | None = None
    dtype: DTypeLike | None = None
    field: ClassVar[str] = "false_negatives"


class _Share(_ThresholdMetric):
    """True positives as a share of something."""

    thresholds: Any = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.thresholds is not None:
            object.__setattr__(self, "thresholds", as_thresholds(self.thresholds, 0.5))

    def _limits(self) -> tuple[float, ...]:
        return as_thresholds(self.thresholds, 0.5 if self.top_k is None else NEG_INF)


@dataclasses.dataclass(frozen=True)
class Precision(_Share):
    """The share of true ones among those predicted as ones; 0 if none is.

    Args:
        thresholds: What a prediction of one must exceed: a number, or several, which give one result each.
        top_k: Take the k best classes of each example as ones (above the thresholds, if there are any).
        class_id: Look at this class only.
        name: What the metric is called.
        dtype: The dtype of the result.

    Shapes: y_true, y_pred [B, ...] -> [] or [thresholds].

    Example:
        >>> m = Precision()
        >>> print(m.compute(m.update(m.empty(), jnp.array([1, 1, 0]), jnp.array([0.9, 0.2, 0.8]))))
        0.5
    """

    thresholds: float | Sequence[float] | None = None
    top_k: int | None = None
    class_id: int | None = None
    name: str | None = None
    dtype: DTypeLike | None = None

    def compute(self, state: Counts) -> jax.Array:
        return self._result(precision(Counts(*(s.value for s in state))))


@dataclasses.dataclass(frozen=True)
class Recall(_Share):
    """The share of the true ones that are predicted as ones; 0 if there are none. Arguments as for `Precision`."""

    thresholds: float | Sequence[float] | None = None
    top_k: int | None = None
    class_id: int | None = None
    name: str | None = None
    dtype: DTypeLike | None = None

    def compute(self, state: Counts) -> jax.Array:
        return self._result(recall(Counts(*(s.value for s in state))))


def precision(c: Counts) -> jax.Array:
    """Right positives per predicted positive."""
    return divide_no_nan(c.true_positives, c.true_positives + c.false_positives)


def recall(c: Counts) -> jax.Array:
    """Right positives per true positive; also called sensitivity."""
    return divide_no_nan(c.true_positives, c.true_positives + c.false_negatives)


def specificity(c: Counts) -> jax.Array:
    """Right negatives per true negative."""
    return divide_no_nan(c.true_negatives, c.true_negatives + c.false_positives)


class _AtLeast(_ThresholdMetric):
    """The best value of one share at the thresholds where another reaches a demand."""

    num_thresholds: int = 200
    demand: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = getattr(self, self.demand)
        if not 0 <= wanted <= 1:
            raise ValueError(f"{self.demand} must lie in [0, 1]; found {wanted}; it is a share, not a percentage")
        if self.num_thresholds <= 0:
            raise ValueError(f"num_thresholds must be at least 1; found {self.num_thresholds}; 200 is the default")

    def _limits(self) -> tuple[float, ...]:
        return (0.5,) if self.num_thresholds == 1 else (0.0, *even_thresholds(self.num_thresholds), 1.0)

    def _is_even(self) -> bool:
        return self.num_thresholds > 1

    def _best(self, constrained: jax.Array, wanted: jax.Array) -> jax.Array:
        good = constrained >= getattr(self, self.demand)
        return self.cast(jnp.max(jnp.where(good, wanted, 0.0), initial=0.0))


@dataclasses.dataclass(frozen=True)
class SensitivityAtSpecificity(_AtLeast):
    """The best sensitivity at a threshold where the specificity is at least `specificity`.

    Args:
        specificity: The specificity asked for, TN / (TN + FP).
        num_thresholds: How many thresholds between 0 and 1 are tried.
        class_id: Look at this class only.
        name: What the metric is called.
        dtype: The dtype of the result.

    Example:
        >>> m = SensitivityAtSpecificity(0.5)
        >>> y_true, y_pred = jnp.array([0, 0, 1, 1]), jnp.array([0.1, 0.6, 0.4, 0.9])
        >>> print(m.compute(m.update(m.empty(), y_true, y_pred)))
        1.0
    """

    specificity: float
    num_thresholds: int = 200
    class_id: int | None = None
    name: str | None = None
    dtype: DTypeLike | None = None
    demand: ClassVar[str] = "specificity"

    def compute(self, state: Counts) -> jax.Array:
        c = Counts(*(s.value for s in state))
        return self._best(specificity(c), recall(c))


@dataclasses.dataclass(frozen=True)
class SpecificityAtSensitivity(_AtLeast):
    """The best specificity at a threshold where the sensitivity, TP / (TP + FN), is at least `sensitivity`.

    The other arguments are those of `SensitivityAtSpecificity`.
    """

    sensitivity: float
    num_thresholds: int = 200
    class_id: int | None = None
    name: str | None = None
    dtype: DTypeLike | None = None
    demand: ClassVar[str] = "sensitivity"

    def compute(self, state: Counts) -> jax.Array:
        c = Counts(*(s.value for s in state))
        return self._best(recall(c), specificity(c))


@dataclasses.dataclass(frozen=True)
class PrecisionAtRecall(_AtLeast):
    """The best precision at a threshold where the recall is at least `recall`.

    The other arguments are those of `SensitivityAtSpecificity`.
    """

    recall: float
    num_thresholds: int = 200
    class_id: int | None = None
    name: str | None = None
    dtype: DTypeLike | None = None
    demand: ClassVar[str] = "recall"

    def compute(self, state: Counts) -> jax.Array:
        c = Counts(*(s.value for s in state))
        return self._best(recall(c), precision(c))


@dataclasses.dataclass(frozen=True)
class RecallAtPrecision(_AtLeast):
    """The best recall at a threshold where the precision is at least `precision`.

    The other arguments are those of `SensitivityAtSpecificity`.
    """

    precision: float
    num_thresholds: int = 200
    class_id: int | None = None
    name: str | None = None
    dtype: DTypeLike | None = None
    demand: ClassVar[str] = "precision"

    def compute(self, state: Counts) -> jax.Array:
        c = Counts(*(s.value for s in state))
        return self._best(precision(c), recall(c))
