"""F-scores, the harmonic means of precision and recall, per class or over all classes."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from training.losses.base import EPSILON, LabelShapeError, as_float, fill_masked
from training.metrics.base import Metric, RunningSum, as_mask, broadcast


class FState(NamedTuple):
    """State of an F-score: weighted counts per class, or over all classes."""

    true_positives: RunningSum
    false_positives: RunningSum
    false_negatives: RunningSum
    positives: RunningSum


class _FScore(Metric[FState]):
    """Computes (1 + beta^2) precision recall / (beta^2 precision + recall), with 1e-7 added to each divisor."""

    direction: ClassVar[str | None] = "up"
    average: str | None = None
    beta: float = 1.0
    threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        owner, known = type(self).__name__, (None, "micro", "macro", "weighted")
        if self.average not in known:
            raise ValueError(f"`average` of {owner} must be one of {known}, got {self.average!r}.")
        if not isinstance(self.beta, float) or self.beta <= 0.0:
            raise ValueError(
                f"`beta` of {owner} must be a positive float, got {self.beta!r}; "
                "1.0 gives precision and recall the same weight."
            )
        if self.threshold is not None and not (isinstance(self.threshold, float) and 0.0 < self.threshold <= 1.0):
            raise ValueError(
                f"`threshold` of {owner} must be a float in (0, 1], got {self.threshold!r}; "
                "None predicts the best class of each example."
            )

    def empty(self) -> FState:
        """Returns counts of zero."""
        return FState(*(RunningSum.zeros() for _ in range(4)))

    def update(
        self,
        state: FState,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> FState:
        """Returns the counts with a batch added."""
        y_pred = as_float(y_pred)
        y_true, mask = as_float(y_true).astype(y_pred.dtype), as_mask(mask)
        if y_true.ndim != 2 or y_true.shape != y_pred.shape:
            rule = "labels and predictions of the same shape [B, C]"
            raise LabelShapeError(str(self.name), rule, y_true.shape, y_pred.shape, "make the labels one-hot")
        weight = as_float(jnp.ones(y_pred.shape[:1]) if sample_weight is None else sample_weight)
        weight = broadcast("sample_weight", weight.astype(y_pred.dtype), y_pred.shape)
        if mask is not None:
            weight = jnp.where(broadcast("mask", mask, y_pred.shape), weight, 0.0)
            y_true, y_pred = fill_masked(y_true, mask, 0.0), fill_masked(y_pred, mask, 0.0)
        if self.threshold is None:  # every class with the largest prediction, unless that is 0
            chosen = (y_pred >= jnp.max(y_pred, axis=-1, keepdims=True)) & (jnp.abs(y_pred) > 1e-9)
        else:
            chosen = y_pred > self.threshold
        chosen = chosen.astype(y_pred.dtype)
        axis = None if self.average == "micro" else 0
        counts = (chosen * y_true, chosen * (1.0 - y_true), (1.0 - chosen) * y_true, y_true)
        return FState(*(s.add(jnp.sum(c * weight, axis=axis)) for s, c in zip(state, counts, strict=True)))

    def compute(self, state: FState) -> jax.Array:
        """Returns the score of each class, or their average."""
        true_positives, false_positives, false_negatives, positives = (s.value for s in state)
        precision = true_positives / (true_positives + false_positives + EPSILON)
        recall = true_positives / (true_positives + false_negatives + EPSILON)
        score = precision * recall / (self.beta**2 * precision + recall + EPSILON) * (1.0 + self.beta**2)
        if self.average == "weighted":
            score = jnp.sum(score * (positives / (jnp.sum(positives) + EPSILON)))
        elif self.average is not None:
            score = jnp.mean(score)
        return self.cast(score)


@dataclasses.dataclass(frozen=True)
class FBetaScore(_FScore):
    """F-score, (1 + beta^2) precision recall / (beta^2 precision + recall).

    Args:
        average: None for one score per class; `micro` adds up the counts of all classes, `macro` averages the
            scores of the classes, `weighted` averages them with the frequencies of the classes.
        beta: The weight of recall relative to precision.
        threshold: Predictions above it are positive; None predicts the best class of each example.
        name: The name of the metric.
        dtype: The dtype of the result.

    Shapes: y_true, y_pred [B, C] -> [C], or [] with an average. Under `lax.scan`, start from
        `empty_for(y_true, y_pred)`, unless the average is `micro`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> m, y_true = FBetaScore(beta=2.0, threshold=0.5), jnp.array([[1, 1], [1, 0]])
        >>> print(m.compute(m.update(m.empty(), y_true, jnp.array([[0.9, 0.6], [0.2, 0.1]]))).round(4))
        [0.5556 1.    ]
    """

    average: str | None = None
    beta: float = 1.0
    threshold: float | None = None
    name: str | None = "fbeta_score"
    dtype: DTypeLike | None = None


@dataclasses.dataclass(frozen=True)
class F1Score(_FScore):
    """Harmonic mean of precision and recall; arguments as for `FBetaScore`, with beta = 1."""

    average: str | None = None
    threshold: float | None = None
    name: str | None = "f1_score"
    dtype: DTypeLike | None = None
