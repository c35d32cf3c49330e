"""Regression metrics: means of errors, correlations and the coefficient of determination."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from training.losses import regression as losses
from training.losses.base import EPSILON, LabelShapeError, as_float, fill_masked, match_shapes
from training.metrics.base import MeanMetric, MeanState, Metric, RunningSum, as_mask, broadcast, mean


def pearson_correlation(y_true: ArrayLike, y_pred: ArrayLike, axis: int = -1) -> jax.Array:
    """Computes cov(y_true, y_pred) / (std(y_true) std(y_pred)) along an axis; NaN if one of them is constant.

    Args:
        y_true: The targets.
        y_pred: The predictions.
        axis: The axis of the samples.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(pearson_correlation(jnp.array([[0.0, 1.0]]), jnp.array([[0.0, 5.0]])))
        [1.]
    """
    y_true, y_pred = match_shapes("pearson_correlation", y_true, y_pred)
    return jnp.mean(_standardize(y_true, axis) * _standardize(y_pred, axis), axis=axis)


def _standardize(y: jax.Array, axis: int) -> jax.Array:
    centered = y - jnp.mean(y, axis=axis, keepdims=True)
    return centered / jnp.std(centered, axis=axis, keepdims=True)


def concordance_correlation(y_true: ArrayLike, y_pred: ArrayLike, axis: int = -1) -> jax.Array:
    """Computes 2 cov / (var(y_true) + var(y_pred) + (difference of means)^2 + 1e-7) along an axis.

    Unlike Pearson's correlation, it is 1 only if the predictions equal the targets.

    Args:
        y_true: The targets.
        y_pred: The predictions.
        axis: The axis of the samples.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    References:
        Lin, A Concordance Correlation Coefficient to Evaluate Reproducibility, 1989.

    Example:
        >>> print(concordance_correlation(jnp.array([[0.0, 2.0]]), jnp.array([[1.0, 3.0]])).round(4))
        [0.6667]
    """
    y_true, y_pred = match_shapes("concordance_correlation", y_true, y_pred)
    mean_true, mean_pred = (jnp.mean(y, axis=axis, keepdims=True) for y in (y_true, y_pred))
    variances = jnp.var(y_true, axis=axis, keepdims=True) + jnp.var(y_pred, axis=axis, keepdims=True)
    # As in Keras, mean_pred is subtracted from y_true too. The mean of the other factor is zero, so the mean of the
    # products is still the covariance.
    products = (y_true - mean_pred) * (y_pred - mean_pred)
    return jnp.mean(2.0 * products / (variances + jnp.square(mean_true - mean_pred) + EPSILON), axis=axis)


@dataclasses.dataclass(frozen=True)
class MeanSquaredError(MeanMetric):
    """Mean of squared differences; see `Metric`.

    Example:
        >>> m = MeanSquaredError()
        >>> print(m.compute(m.update(m.empty(), jnp.zeros((2, 1)), jnp.array([[1.0], [3.0]]))))
        5.0
    """

    direction: ClassVar[str | None] = "down"
    name: str | None = "mean_squared_error"
    dtype: DTypeLike | None = None
    over_features: ClassVar[bool] = True

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `mean_squared_error` of each example."""
        return losses.mean_squared_error(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class MeanAbsoluteError(MeanMetric):
    """Mean of absolute differences; see `Metric`."""

    direction: ClassVar[str | None] = "down"
    name: str | None = "mean_absolute_error"
    dtype: DTypeLike | None = None
    over_features: ClassVar[bool] = True

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `mean_absolute_error` of each example."""
        return losses.mean_absolute_error(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class MeanAbsolutePercentageError(MeanMetric):
    """Mean of relative differences in percent; see `Metric`."""

    direction: ClassVar[str | None] = "down"
    name: str | None = "mean_absolute_percentage_error"
    dtype: DTypeLike | None = None
    over_features: ClassVar[bool] = True

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `mean_absolute_percentage_error` of each example."""
        return losses.mean_absolute_percentage_error(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class MeanSquaredLogarithmicError(MeanMetric):
    """Mean of squared differences of logarithms; see `Metric`."""

    direction: ClassVar[str | None] = "down"
    name: str | None = "mean_squared_logarithmic_error"
    dtype: DTypeLike | None = None
    over_features: ClassVar[bool] = True

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `mean_squared_logarithmic_error` of each example."""
        return losses.mean_squared_logarithmic_error(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class LogCoshError(MeanMetric):
    """Mean of log(cosh(y_pred - y_true)); see `Metric`."""

    direction: ClassVar[str | None] = "down"
    name: str | None = "logcosh"
    dtype: DTypeLike | None = None
    over_features: ClassVar[bool] = True

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `log_cosh` of each example."""
        return losses.log_cosh(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class RootMeanSquaredError(MeanMetric):
    """Root of the mean of squared differences; see `Metric`.

    Example:
        >>> m = RootMeanSquaredError()
        >>> print(m.compute(m.update(m.empty(), jnp.zeros(2), jnp.array([5.0, 5.0]))))
        5.0
    """

    direction: ClassVar[str | None] = "down"
    name: str | None = "root_mean_squared_error"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns the squared differences."""
        y_true, y_pred = match_shapes("root_mean_squared_error", y_true, y_pred)
        return jnp.square(y_pred - y_true)

    def compute(self, state: MeanState) -> jax.Array:
        """Returns the root of the mean."""
        return self.cast(jnp.sqrt(mean(state)))


@dataclasses.dataclass(frozen=True)
class CosineSimilarity(MeanMetric):
    """Mean cosine of the angle between labels and predictions: 1 for the same direction; see `Metric`."""

    direction: ClassVar[str | None] = "up"
    name: str | None = "cosine_similarity"
    dtype: DTypeLike | None = None
    axis: int = -1

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns the negative of `cosine_similarity` of each example."""
        return -losses.cosine_similarity(y_true, y_pred, self.axis)


@dataclasses.dataclass(frozen=True)
class PearsonCorrelation(MeanMetric):
    """Mean of the examples' Pearson correlations; see `pearson_correlation` and `Metric`."""

    direction: ClassVar[str | None] = "up"
    name: str | None = "pearson_correlation"
    dtype: DTypeLike | None = None
    axis: int = -1

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `pearson_correlation` of each example."""
        return pearson_correlation(y_true, y_pred, self.axis)


@dataclasses.dataclass(frozen=True)
class ConcordanceCorrelation(MeanMetric):
    """Mean of the examples' concordance correlations; see `concordance_correlation` and `Metric`."""

    direction: ClassVar[str | None] = "up"
    name: str | None = "concordance_correlation"
    dtype: DTypeLike | None = None
    axis: int = -1

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `concordance_correlation` of each example."""
        return concordance_correlation(y_true, y_pred, self.axis)


class R2State(NamedTuple):
    """State of `R2Score`: weighted sums per output, and the number of targets."""

    squares: RunningSum
    sums: RunningSum
    residuals: RunningSum
    weights: RunningSum
    num_targets: RunningSum


@dataclasses.dataclass(frozen=True)
class R2Score(Metric[R2State]):
    """Coefficient of determination, 1 - residual sum of squares / total sum of squares.

    Args:
        class_aggregation: `uniform_average` or `variance_weighted_average` over the outputs; None for one score
            per output.
        num_regressors: The number p of independent variables, for the adjusted score
            1 - (1 - R2)(n - 1) / (n - p - 1). As in Keras, n is the number of targets of all outputs. If
            n - p - 1 is not positive, the score is not adjusted.
        name: The name of the metric.
        dtype: The dtype of the result.

    Shapes: y_true, y_pred [B, F] -> [], or [F] without aggregation. Under `lax.scan`, start from
        `empty_for(y_true, y_pred)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> m, y = R2Score(), jnp.array([[1.0], [2.0], [3.0]])
        >>> print(m.compute(m.update(m.empty(), y, y)))
        1.0
    """

    direction: ClassVar[str | None] = "up"
    class_aggregation: str | None = "uniform_average"
    num_regressors: int = 0
    name: str | None = "r2_score"
    dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        known = ("uniform_average", "variance_weighted_average", None)
        if self.class_aggregation not in known:
            raise ValueError(f"`class_aggregation` must be one of {known}, got {self.class_aggregation!r}.")
        if self.num_regressors < 0:
            raise ValueError(
                f"`num_regressors` must be at least 0, got {self.num_regressors}; 0 does not adjust the score."
            )

    def empty(self) -> R2State:
        """Returns sums of zero."""
        return R2State(*(RunningSum.zeros() for _ in range(5)))

    def update(
        self,
        state: R2State,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> R2State:
        """Returns the sums with a batch added."""
        y_true, y_pred = match_shapes("R2Score", y_true, y_pred)
        if y_true.ndim != 2:
            rule, fix = "labels and predictions of shape [B, F]", "reshape them to (-1, 1) for a single output"
            raise LabelShapeError("r2_score", rule, y_true.shape, y_pred.shape, fix)
        weight = as_float(jnp.ones(y_true.shape[:1]) if sample_weight is None else sample_weight).astype(y_true.dtype)
        weight, num_targets = broadcast("sample_weight", weight, y_true.shape), jnp.float32(y_true.size)
        mask = as_mask(mask)
        if mask is not None:
            keep = broadcast("mask", mask, y_true.shape)
            weight, num_targets = jnp.where(keep, weight, 0.0), jnp.sum(keep, dtype=jnp.float32)
            y_true, y_pred = fill_masked(y_true, mask, 0.0), fill_masked(y_pred, mask, 0.0)
        weighted = y_true * weight
        residual = jnp.square(y_true - y_pred) * weight
        return R2State(
            state.squares.add(jnp.sum(y_true * weighted, axis=0)),
            state.sums.add(jnp.sum(weighted, axis=0)),
            state.residuals.add(jnp.sum(residual, axis=0)),
            state.weights.add(jnp.sum(weight, axis=0)),
            state.num_targets.add(num_targets),
        )

    def compute(self, state: R2State) -> jax.Array:
        """Returns the score."""
        squares, sums, residuals, weights, num_targets = (s.value for s in state)
        total = squares - sums * (sums / weights)
        score = 1.0 - residuals / total
        score = jnp.where(jnp.isinf(score), jnp.zeros_like(score), score)
        if self.class_aggregation == "uniform_average":
            score = jnp.mean(score)
        elif self.class_aggregation == "variance_weighted_average":
            score = jnp.sum(total * score) / jnp.sum(total)
        if self.num_regressors:
            freedom = num_targets - self.num_regressors - 1.0
            adjusted = 1.0 - (1.0 - score) * (num_targets - 1.0) / jnp.where(
                freedom > 0, freedom, jnp.ones_like(freedom)
            )
            score = jnp.where(freedom > 0, adjusted, score)
        return self.cast(score)
