"""One number between precision and recall, per class or over all."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from training.losses.base import EPSILON, LabelShapeError, as_float, fill_masked
from training.metrics.base import Metric, RunningSum, as_mask, broadcast


class FState(NamedTuple):
    """Weighted counts per class, or over all classes."""

    true_positives: RunningSum
    false_positives: RunningSum
    false_negatives: RunningSum
    positives: RunningSum


class _FScore(Metric):
    """(1 + beta^2) precision recall / (beta^2 precision + recall), with 1e-7 in every divisor."""

    average: str | None = None
    beta: float = 1.0
    threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        kind, known = type(self).__name__, (None, "micro", "macro", "weighted")
        if self.average not in known:
            raise ValueError(f"{kind}: average must be one of {known}; found {self.average!r}")
        if not isinstance(self.beta, float) or self.beta <= 0.0:
            raise ValueError(f"{kind}: beta must be a positive float; found {self.beta!r}; 1.0 weighs both alike")
        if self.threshold is not None and not (isinstance(self.threshold, float) and 0.0 < self.threshold <= 1.0):
            raise ValueError(
                f"{kind}: threshold must be a float in (0, 1]; found {self.threshold!r}; None takes the best class"
            )

    def empty(self) -> FState:
        return FState(*(RunningSum.zeros() for _ in range(4)))

    def update(
        self,
        state: FState,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> FState:
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
        if self.threshold is None:  # all the best, but no zeros
            chosen = (y_pred >= jnp.max(y_pred, axis=-1, keepdims=True)) & (jnp.abs(y_pred) > 1e-9)
        else:
            chosen = y_pred > self.threshold
        chosen = chosen.astype(y_pred.dtype)
        axis = None if self.average == "micro" else 0
        parts = (chosen * y_true, chosen * (1.0 - y_true), (1.0 - chosen) * y_true, y_true)
        return FState(*(s.add(jnp.sum(p * weight, axis=axis)) for s, p in zip(state, parts, strict=True)))

    def compute(self, state: FState) -> jax.Array:
        right, wrong, missed, positives = (s.value for s in state)
        precision = right / (right + wrong + EPSILON)
        recall = right / (right + missed + EPSILON)
        score = precision * recall / (self.beta**2 * precision + recall + EPSILON) * (1.0 + self.beta**2)
        if self.average == "weighted":
            score = jnp.sum(score * (positives / (jnp.sum(positives) + EPSILON)))
        elif self.average is not None:
            score = jnp.mean(score)
        return self.cast(score)


@dataclasses.dataclass(frozen=True)
class FBetaScore(_FScore):
    """The F-score, (1 + beta^2) precision recall / (beta^2 precision + recall).

    Args:
        average: None for one score per class; `micro` counts over all classes, `macro` averages the classes'
            scores, `weighted` with their frequencies.
        beta: How many times as important as precision recall is.
        threshold: What a prediction of one must exceed; None takes the best class of each example.
        name: What the metric is called.
        dtype: The dtype of the result.

    Shapes: y_true, y_pred [B, C] -> [C], or [] with an average. Under `lax.scan` start from
        `empty_for(y_true, y_pred)`, unless the average is `micro`.

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
    """The harmonic mean of precision and recall: `FBetaScore` with beta = 1, and its arguments."""

    average: str | None = None
    threshold: float | None = None
    name: str | None = "f1_score"
    dtype: DTypeLike | None = None
