"""The area under the ROC curve and under precision-recall curves."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from training.losses.base import EPSILON, as_float, divide_no_nan
from training.metrics.base import Metric
from training.metrics.confusion import (
    Counts,
    State,
    add,
    are_evenly_spaced,
    count,
    even_thresholds,
    precision,
    recall,
    totals,
    zeros,
)

CURVES = ("ROC", "PR", "PRGAIN")
SUMMATIONS = ("interpolation", "minoring", "majoring")


@dataclasses.dataclass(frozen=True)
class AUC(Metric[State]):
    """Area under the ROC curve or a precision-recall curve, as a Riemann sum over thresholds.

    Args:
        num_thresholds: The number of thresholds in [0, 1].
        curve: `ROC` (recall over false-positive rate), `PR` (precision over recall) or `PRGAIN`.
        summation_method: `interpolation` (trapezoids; for `PR` the interpolation of Davis and Goadrich),
            `minoring` (lower sums) or `majoring` (upper sums).
        name: The name of the metric.
        dtype: The dtype of the result.
        thresholds: Thresholds between 0 and 1, instead of `num_thresholds`.
        multi_label: Whether to compute one area per label and average them.
        num_labels: The number of labels, for `multi_label`; by default taken from the first update.
        label_weights: Weights of the labels: for their areas if `multi_label`, otherwise for their predictions.
        from_logits: Whether predictions are logits.

    Shapes: y_true, y_pred [B, ...]; with `multi_label` [B, labels]. With `multi_label` under `lax.scan`, start
        from `empty_for(y_true, y_pred)` or pass `num_labels`.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Davis and Goadrich, 2006; Flach and Kull, Precision-Recall-Gain Curves, 2015.

    Example:
        >>> m = AUC(num_thresholds=3)
        >>> y_true, y_pred = jnp.array([0, 0, 1, 1]), jnp.array([0.0, 0.5, 0.3, 0.9])
        >>> print(m.compute(m.update(m.empty(), y_true, y_pred)))
        0.75
    """

    direction: ClassVar[str | None] = "up"
    num_thresholds: int = 200
    curve: str = "ROC"
    summation_method: str = "interpolation"
    name: str | None = None
    dtype: DTypeLike | None = None
    thresholds: Sequence[float] | None = None
    multi_label: bool = False
    num_labels: int | None = None
    label_weights: Sequence[float] | None = None
    from_logits: bool = False
    predictions: ClassVar[str] = "probabilities"

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, known, value in (
            ("curve", CURVES, self.curve.upper()),
            ("summation_method", SUMMATIONS, self.summation_method.lower()),
        ):
            if value not in known:
                raise ValueError(f"`{field}` must be one of {known}, got {getattr(self, field)!r}.")
            object.__setattr__(self, field, value)
        if self.thresholds is not None:
            object.__setattr__(self, "thresholds", tuple(sorted(map(float, self.thresholds))))
            object.__setattr__(self, "num_thresholds", len(self.thresholds) + 2)
        if self.num_thresholds <= 1:
            raise ValueError(f"`num_thresholds` must be at least 2, got {self.num_thresholds}; 200 is the default.")
        if self.num_labels and not self.multi_label:
            raise ValueError(
                f"`num_labels` needs multi_label=True, got num_labels={self.num_labels} without it; set it, or remove "
                "`num_labels`."
            )
        if self.label_weights is not None:
            weights = tuple(map(float, np.asarray(self.label_weights).reshape(-1)))
            object.__setattr__(self, "label_weights", weights)

    def _inner_thresholds(self) -> tuple[float, ...]:
        return even_thresholds(self.num_thresholds) if self.thresholds is None else tuple(self.thresholds)

    def empty(self) -> State:
        """Returns counts of zero."""
        return zeros((self.num_thresholds, self.num_labels or 1) if self.multi_label else (self.num_thresholds,))

    def update(
        self,
        state: State,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> State:
        """Returns the counts with a batch added."""
        y_pred = jax.nn.sigmoid(as_float(y_pred)) if self.from_logits else y_pred
        inner = self._inner_thresholds()
        counts = count(
            y_true,
            y_pred,
            (-EPSILON, *inner, 1.0 + EPSILON),  # the outer thresholds enclose the predictions 0 and 1
            sample_weight,
            mask,
            label_weights=None if self.multi_label else self.label_weights,
            evenly_spaced=self.thresholds is None or are_evenly_spaced((0.0, *inner, 1.0)),
            per_label=self.multi_label,
        )
        return add(state, counts)

    def compute(self, state: State) -> jax.Array:
        """Returns the area, or the mean of the labels' areas."""
        c = totals(state)
        if self.curve == "PR" and self.summation_method == "interpolation":
            segments = _davis_goadrich(c)
        else:
            x, y = {"ROC": _roc, "PR": _precision_recall, "PRGAIN": _gain}[self.curve](c)
            heights = {
                "interpolation": (y[:-1] + y[1:]) / 2.0,
                "minoring": jnp.minimum(y[:-1], y[1:]),
                "majoring": jnp.maximum(y[:-1], y[1:]),
            }
            segments = (x[:-1] - x[1:]) * heights[self.summation_method]
        areas = jnp.sum(segments, axis=0)
        if not self.multi_label:
            return self.cast(areas)
        if self.label_weights is None:
            return self.cast(jnp.mean(areas))
        weights = jnp.asarray(self.label_weights, areas.dtype)
        return self.cast(divide_no_nan(jnp.sum(areas * weights), jnp.sum(weights)))


# The curves: the abscissa and the ordinate at each threshold.


def _roc(c: Counts[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return divide_no_nan(c.false_positives, c.false_positives + c.true_negatives), recall(c)


def _precision_recall(c: Counts[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return recall(c), precision(c)


def _gain(c: Counts[jax.Array]) -> tuple[jax.Array, jax.Array]:
    odds = divide_no_nan(c.true_positives + c.false_negatives, c.true_negatives + c.false_positives)
    recall_gain = 1.0 - odds * divide_no_nan(c.false_negatives, c.true_positives)
    precision_gain = 1.0 - odds * divide_no_nan(c.false_positives, c.true_positives)
    none = c.true_positives == 0
    return jnp.maximum(jnp.where(none, 0.0, recall_gain), 0.0), jnp.where(none, 1.0, precision_gain)


def _davis_goadrich(c: Counts[jax.Array]) -> jax.Array:
    """Returns the area of each segment between thresholds.

    Along a segment, the true positives are a linear function of the predicted positives. The precision-recall
    curve is then integrated exactly.
    """
    tp, p = c.true_positives, c.true_positives + c.false_positives
    gained = tp[:-1] - tp[1:]
    slope = divide_no_nan(gained, jnp.maximum(p[:-1] - p[1:], 0.0))
    intercept = tp[1:] - slope * p[1:]
    has_positives = (p[:-1] > 0) & (p[1:] > 0)
    ratio = jnp.where(has_positives, divide_no_nan(p[:-1], jnp.maximum(p[1:], 0.0)), 1.0)
    positives = jnp.maximum(tp[1:] + c.false_negatives[1:], 0.0)
    return divide_no_nan(slope * (gained + intercept * jnp.log(ratio)), positives)
