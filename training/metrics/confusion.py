"""Metrics of the binary confusion matrix: true and false positives, precision, recall, sensitivity at specificity."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from training.losses.base import EPSILON, LabelShapeError, as_float, divide_no_nan, fill_masked, match_ranks
from training.metrics.base import Metric, RunningSum, as_mask, broadcast

NEG_INF = -1e10  # less than every prediction: the score of classes that are not among the top k

Number = TypeVar("Number", RunningSum, jax.Array)


class Counts(NamedTuple, Generic[Number]):
    """Weighted counts at each threshold, of shape [thresholds] or [thresholds, labels].

    The state of a metric is a `Counts[RunningSum]`. The counts of one batch are a `Counts[jax.Array]`.
    """

    true_positives: Number
    false_positives: Number
    true_negatives: Number
    false_negatives: Number


State = Counts[RunningSum]


def zeros(shape: tuple[int, ...]) -> State:
    """Returns counts of zero."""
    return Counts(*(RunningSum.zeros(shape) for _ in range(4)))


def add(state: State, counts: Counts[jax.Array]) -> State:
    """Returns the state with the counts of a batch added."""
    return Counts(*(s.add(c) for s, c in zip(state, counts, strict=True)))


def totals(state: State) -> Counts[jax.Array]:
    """Returns the counts of a state as arrays."""
    return Counts(*(s.value for s in state))


def count(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    thresholds: Sequence[float],
    sample_weight: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    top_k: int | None = None,
    class_id: int | None = None,
    label_weights: Sequence[float] | None = None,
    evenly_spaced: bool = False,
    per_label: bool = False,
) -> Counts[jax.Array]:
    """Counts true and false positives and negatives at each threshold.

    Args:
        y_true: The labels; every label but 0 is positive.
        y_pred: Probabilities or scores.
        thresholds: Predictions above a threshold are positive; in ascending order.
        sample_weight: Weights per example, or per prediction.
        mask: False for examples, or predictions, to ignore, such as padding.
        top_k: If given, only the k best classes of an example can be positive.
        class_id: If given, only this class is counted.
        label_weights: Weights per class.
        evenly_spaced: Whether the thresholds are evenly spaced in [0, 1]. Predictions are then assigned to
            buckets instead of being compared with every threshold.
        per_label: Whether to count each class separately.

    Shapes: y_true, y_pred [B, ..., C] -> [thresholds], or [B, C] -> [thresholds, C] with `per_label`.

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

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
        y_pred = _keep_top_k(y_pred, top_k)
    if class_id is not None:
        y_true, y_pred = y_true[..., class_id, None], y_pred[..., class_id, None]
    weights = jnp.ones(y_pred.shape, jnp.int32)  # integers, so that the counts of a batch of many pixels are exact
    if sample_weight is not None:
        weights = broadcast("sample_weight", as_float(sample_weight), y_pred.shape)
    if label_weights is not None:
        per_class = jnp.asarray(label_weights, jnp.float32).reshape((1,) * (y_pred.ndim - 1) + (-1,))
        weights = weights.astype(jnp.float32) * jnp.broadcast_to(per_class, y_pred.shape)
    if mask is not None:
        weights = jnp.where(broadcast("mask", mask, y_pred.shape), weights, jnp.zeros_like(weights))
    labels = y_pred.shape[-1] if per_label else 1
    positive, weights, y_pred = (x.reshape(-1, labels) for x in (y_true != 0, weights, y_pred))  # [N, labels]
    count_all = _counts_by_buckets if evenly_spaced else _counts_by_comparison
    zero = jnp.zeros_like(weights)
    counts = count_all(y_pred, jnp.where(positive, weights, zero), jnp.where(positive, zero, weights), thresholds)
    return counts if per_label else Counts(*(c[:, 0] for c in counts))


def _keep_top_k(y_pred: jax.Array, k: int) -> jax.Array:
    """Replaces all but the k largest predictions of an example with `NEG_INF`."""
    _, best = jax.lax.top_k(y_pred, k)
    classes = jnp.arange(y_pred.shape[-1], dtype=jnp.int32).reshape((1,) * best.ndim + (-1,))
    is_best = jnp.any(best[..., None] == classes, axis=-2)
    return jnp.where(is_best, y_pred, NEG_INF)


def _counts_by_comparison(
    y_pred: jax.Array, positive: jax.Array, negative: jax.Array, thresholds: Sequence[float]
) -> Counts[jax.Array]:
    """Compares every prediction with every threshold; `positive` and `negative` are the weights [N, labels]."""
    limits = jnp.asarray(thresholds, y_pred.dtype)
    above = y_pred[None] > limits[:, None, None]  # [thresholds, N, labels]

    def total(selected: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(selected, weights[None], jnp.zeros_like(weights)[None]), axis=1)

    return Counts(total(above, positive), total(above, negative), total(~above, negative), total(~above, positive))


def _counts_by_buckets(
    y_pred: jax.Array, positive: jax.Array, negative: jax.Array, thresholds: Sequence[float]
) -> Counts[jax.Array]:
    """Assigns each prediction to the bucket above the largest threshold that it exceeds.

    A prediction exceeds a threshold if it is in the bucket of the threshold or in a later one, so the counts are
    cumulative sums over the buckets.
    """
    number, labels = len(thresholds), y_pred.shape[1]
    bucket = jnp.ceil(jnp.clip(y_pred, 0.0, 1.0) * (number - 1)) - 1.0
    if thresholds[0] < 0.0 or thresholds[-1] > 1.0:
        bucket = jnp.maximum(bucket, 0.0)  # the first threshold is below 0, so a prediction of 0 exceeds it
    bucket = bucket.astype(jnp.int32)
    # If the first threshold is 0, a prediction of 0 exceeds no threshold. `segment_sum` drops its segment -1.
    segment = jnp.where(bucket < 0, -1, bucket * labels + jnp.arange(labels, dtype=jnp.int32)[None, :]).reshape(-1)

    def above(weights: jax.Array) -> jax.Array:
        sums = jax.ops.segment_sum(weights.reshape(-1), segment, number * labels).reshape(number, labels)
        return jnp.cumsum(sums[::-1], axis=0)[::-1]

    true_positives, false_positives = above(positive), above(negative)
    negatives, positives = (jnp.sum(x, axis=0, dtype=x.dtype)[None] for x in (negative, positive))
    return Counts(true_positives, false_positives, negatives - false_positives, positives - true_positives)


def as_thresholds(thresholds: float | Sequence[float] | None, default: float) -> tuple[float, ...]:
    """Returns thresholds as a tuple.

    Raises:
        ValueError: If one is not in [0, 1].
    """
    if thresholds is None:
        return (default,)
    values = tuple(map(float, np.atleast_1d(np.asarray(thresholds, float))))
    wrong = [t for t in values if not 0 <= t <= 1]
    if wrong:
        raise ValueError(f"`thresholds` must lie in [0, 1], got {wrong}; apply a sigmoid to logits first.")
    return values


def are_evenly_spaced(thresholds: Sequence[float]) -> bool:
    """Returns whether there are three or more thresholds, evenly spaced from 0 to 1."""
    number = len(thresholds)
    return number >= 3 and np.allclose(thresholds, np.arange(number, dtype=np.float32) / (number - 1), atol=EPSILON)


def even_thresholds(number: int) -> tuple[float, ...]:
    """Returns `number` evenly spaced thresholds in [0, 1] without the ends 0 and 1."""
    return tuple((i + 1) * 1.0 / (number - 1) for i in range(number - 2))


class _ThresholdMetric(Metric[State]):
    """Base class of metrics that keep the four counts at some thresholds."""

    predictions: ClassVar[str] = "probabilities"

    def _threshold_values(self) -> tuple[float, ...]:
        return as_thresholds(getattr(self, "thresholds", None), 0.5)

    def _is_evenly_spaced(self) -> bool:
        return are_evenly_spaced(self._threshold_values())

    def empty(self) -> State:
        """Returns counts of zero."""
        return zeros((len(self._threshold_values()),))

    def update(
        self,
        state: State,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> State:
        """Returns the counts with a batch added."""
        counts = count(
            y_true,
            y_pred,
            self._threshold_values(),
            sample_weight,
            mask,
            top_k=getattr(self, "top_k", None),
            class_id=getattr(self, "class_id", None),
            evenly_spaced=self._is_evenly_spaced(),
        )
        return add(state, counts)

    def _result(self, x: jax.Array) -> jax.Array:
        """Returns one number per threshold, or a scalar if there is only one threshold."""
        return self.cast(x[0] if len(self._threshold_values()) == 1 else x)


class _Count(_ThresholdMetric):
    """Base class of metrics that return one of the four counts, `field`."""

    field: ClassVar[str]
    thresholds: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.thresholds is not None:
            object.__setattr__(self, "thresholds", as_thresholds(self.thresholds, 0.5))

    def compute(self, state: Counts) -> jax.Array:
        """Returns the count."""
        return self._result(getattr(totals(state), self.field))


@dataclasses.dataclass(frozen=True)
class TruePositives(_Count):
    """Weighted number of true positives.

    Args:
        thresholds: Thresholds above which predictions are positive: a number, or a sequence for one result per
            threshold.
        name: The name of the metric.
        dtype: The dtype of the result.

    Shapes: y_true, y_pred [B, ...] -> [] or [thresholds].

    Raises:
        ValueError: If a threshold is not in [0, 1].

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
    """Weighted number of false positives; arguments as for `TruePositives`."""

    thresholds: float | Sequence[float] | None = None
    name: str | None = None
    dtype: DTypeLike | None = None
    field: ClassVar[str] = "false_positives"


@dataclasses.dataclass(frozen=True)
class TrueNegatives(_Count):
    """Weighted number of true negatives; arguments as for `TruePositives`."""

    thresholds: float | Sequence[float] | None = None
    name: str | None = None
    dtype: DTypeLike | None = None
    field: ClassVar[str] = "true_negatives"


@dataclasses.dataclass(frozen=True)
class FalseNegatives(_Count):
    """Weighted number of false negatives; arguments as for `TruePositives`."""

    thresholds: float | Sequence[float] | None = None
    name: str | None = None
    dtype: DTypeLike | None = None
    field: ClassVar[str] = "false_negatives"


class _PositiveRate(_ThresholdMetric):
    """Base class of precision and recall."""

    direction: ClassVar[str | None] = "up"
    thresholds: float | Sequence[float] | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.thresholds is not None:
            object.__setattr__(self, "thresholds", as_thresholds(self.thresholds, 0.5))

    def _threshold_values(self) -> tuple[float, ...]:
        return as_thresholds(self.thresholds, 0.5 if self.top_k is None else NEG_INF)


@dataclasses.dataclass(frozen=True)
class Precision(_PositiveRate):
    """Precision, TP / (TP + FP); 0 without positive predictions.

    Args:
        thresholds: Thresholds above which predictions are positive: a number, or a sequence for one result per
            threshold.
        top_k: If given, the k best classes of each example are positive (if above the threshold, when given).
        class_id: If given, only this class is counted.
        name: The name of the metric.
        dtype: The dtype of the result.

    Shapes: y_true, y_pred [B, ...] -> [] or [thresholds].

    Raises:
        ValueError: If a threshold is not in [0, 1].

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
        """Returns the precision."""
        return self._result(precision(totals(state)))


@dataclasses.dataclass(frozen=True)
class Recall(_PositiveRate):
    """Recall, TP / (TP + FN); 0 without positive labels. Arguments as for `Precision`."""

    thresholds: float | Sequence[float] | None = None
    top_k: int | None = None
    class_id: int | None = None
    name: str | None = None
    dtype: DTypeLike | None = None

    def compute(self, state: Counts) -> jax.Array:
        """Returns the recall."""
        return self._result(recall(totals(state)))


def precision(c: Counts[jax.Array]) -> jax.Array:
    """Computes TP / (TP + FP)."""
    return divide_no_nan(c.true_positives, c.true_positives + c.false_positives)


def recall(c: Counts[jax.Array]) -> jax.Array:
    """Computes TP / (TP + FN), also called sensitivity."""
    return divide_no_nan(c.true_positives, c.true_positives + c.false_negatives)


def specificity(c: Counts[jax.Array]) -> jax.Array:
    """Computes TN / (TN + FP)."""
    return divide_no_nan(c.true_negatives, c.true_negatives + c.false_positives)


RATES: dict[str, Callable[[Counts[jax.Array]], jax.Array]] = {
    "precision": precision,
    "recall": recall,
    "sensitivity": recall,
    "specificity": specificity,
}


class _BestAtConstraint(_ThresholdMetric):
    """Base class of metrics that maximize one rate over the thresholds at which another rate is large enough.

    Attributes:
        maximized: The rate to maximize, a key of `RATES`.
        constrained: The constrained rate, a key of `RATES`; the field of the same name is its minimum.
    """

    direction: ClassVar[str | None] = "up"
    num_thresholds: int = 200
    maximized: ClassVar[str]
    constrained: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        minimum = getattr(self, self.constrained)
        if not 0 <= minimum <= 1:
            raise ValueError(
                f"`{self.constrained}` must lie in [0, 1], got {minimum}; pass a fraction instead of a percentage."
            )
        if self.num_thresholds <= 0:
            raise ValueError(f"`num_thresholds` must be at least 1, got {self.num_thresholds}; 200 is the default.")

    def _threshold_values(self) -> tuple[float, ...]:
        return (0.5,) if self.num_thresholds == 1 else (0.0, *even_thresholds(self.num_thresholds), 1.0)

    def _is_evenly_spaced(self) -> bool:
        return self.num_thresholds > 1

    def compute(self, state: State) -> jax.Array:
        """Returns the largest rate; 0 if no threshold satisfies the constraint."""
        counts = totals(state)
        feasible = RATES[self.constrained](counts) >= getattr(self, self.constrained)
        return self.cast(jnp.max(jnp.where(feasible, RATES[self.maximized](counts), 0.0), initial=0.0))


@dataclasses.dataclass(frozen=True)
class SensitivityAtSpecificity(_BestAtConstraint):
    """Largest sensitivity over the thresholds at which the specificity is at least `specificity`.

    Args:
        specificity: The minimum specificity, TN / (TN + FP).
        num_thresholds: The number of thresholds in [0, 1].
        class_id: If given, only this class is counted.
        name: The name of the metric.
        dtype: The dtype of the result.

    Shapes: y_true, y_pred [B, ...] -> [].

    Raises:
        ValueError: If an argument is out of range.

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
    maximized: ClassVar[str] = "sensitivity"
    constrained: ClassVar[str] = "specificity"


@dataclasses.dataclass(frozen=True)
class SpecificityAtSensitivity(_BestAtConstraint):
    """Largest specificity over the thresholds at which the sensitivity, TP / (TP + FN), is at least `sensitivity`.

    The other arguments are as in `SensitivityAtSpecificity`.
    """

    sensitivity: float
    num_thresholds: int = 200
    class_id: int | None = None
    name: str | None = None
    dtype: DTypeLike | None = None
    maximized: ClassVar[str] = "specificity"
    constrained: ClassVar[str] = "sensitivity"


@dataclasses.dataclass(frozen=True)
class PrecisionAtRecall(_BestAtConstraint):
    """Largest precision over the thresholds at which the recall is at least `recall`.

    The other arguments are as in `SensitivityAtSpecificity`.
    """

    recall: float
    num_thresholds: int = 200
    class_id: int | None = None
    name: str | None = None
    dtype: DTypeLike | None = None
    maximized: ClassVar[str] = "precision"
    constrained: ClassVar[str] = "recall"


@dataclasses.dataclass(frozen=True)
class RecallAtPrecision(_BestAtConstraint):
    """Largest recall over the thresholds at which the precision is at least `precision`.

    The other arguments are as in `SensitivityAtSpecificity`.
    """

    precision: float
    num_thresholds: int = 200
    class_id: int | None = None
    name: str | None = None
    dtype: DTypeLike | None = None
    maximized: ClassVar[str] = "recall"
    constrained: ClassVar[str] = "precision"
