"""Regression losses: squared, absolute, relative and logarithmic errors, Huber, Poisson and cosine similarity."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from training.losses.base import EPSILON, AveragingLoss, Loss, match_shapes


def mean_squared_error(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes mean((y_true - y_pred)^2) over the last axis.

    Args:
        y_true: The targets.
        y_pred: The predictions.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(mean_squared_error(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 3.0]])))
        [5.]
    """
    y_true, y_pred = match_shapes("mean_squared_error", y_true, y_pred)
    return jnp.mean(jnp.square(y_true - y_pred), axis=-1)


def mean_absolute_error(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes mean(|y_true - y_pred|) over the last axis.

    Args:
        y_true: The targets.
        y_pred: The predictions.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(mean_absolute_error(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 3.0]])))
        [2.]
    """
    y_true, y_pred = match_shapes("mean_absolute_error", y_true, y_pred)
    return jnp.mean(jnp.abs(y_true - y_pred), axis=-1)


def mean_absolute_percentage_error(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes 100 mean(|y_true - y_pred| / max(|y_true|, 1e-7)) over the last axis.

    Args:
        y_true: The targets.
        y_pred: The predictions.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(mean_absolute_percentage_error(jnp.array([[2.0, 4.0]]), jnp.array([[1.0, 4.0]])))
        [25.]
    """
    y_true, y_pred = match_shapes("mean_absolute_percentage_error", y_true, y_pred)
    return 100.0 * jnp.mean(jnp.abs((y_true - y_pred) / jnp.maximum(jnp.abs(y_true), EPSILON)), axis=-1)


def mean_squared_logarithmic_error(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes mean((log(1 + y_true) - log(1 + y_pred))^2) over the last axis, both raised to at least 1e-7.

    Args:
        y_true: The targets.
        y_pred: The predictions.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(mean_squared_logarithmic_error(jnp.array([[1.0]]), jnp.array([[1.0]])))
        [0.]
    """
    y_true, y_pred = match_shapes("mean_squared_logarithmic_error", y_true, y_pred)
    log_true = jnp.log(jnp.maximum(y_true, EPSILON) + 1.0)
    log_pred = jnp.log(jnp.maximum(y_pred, EPSILON) + 1.0)
    return jnp.mean(jnp.square(log_pred - log_true), axis=-1)


def huber(y_true: ArrayLike, y_pred: ArrayLike, delta: float = 1.0) -> jax.Array:
    """Computes the mean over the last axis of e^2 / 2 if |e| <= delta, otherwise of delta |e| - delta^2 / 2.

    Args:
        y_true: The targets.
        y_pred: The predictions; e = y_pred - y_true.
        delta: The error at which the loss changes from quadratic to linear.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    References:
        Huber, Robust Estimation of a Location Parameter, 1964.

    Example:
        >>> print(huber(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 3.0]])))
        [1.5]
    """
    y_true, y_pred = match_shapes("huber", y_true, y_pred)
    error = y_pred - y_true
    magnitude = jnp.abs(error)
    linear = delta * magnitude - 0.5 * delta**2
    return jnp.mean(jnp.where(magnitude <= delta, 0.5 * jnp.square(error), linear), axis=-1)


def log_cosh(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes mean(log(cosh(y_pred - y_true))) over the last axis, without overflow.

    Args:
        y_true: The targets.
        y_pred: The predictions.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(log_cosh(jnp.array([[2.0]]), jnp.array([[2.0]])))
        [0.]
    """
    y_true, y_pred = match_shapes("log_cosh", y_true, y_pred)
    error = y_pred - y_true
    return jnp.mean(error + jax.nn.softplus(-2.0 * error) - math.log(2.0), axis=-1)


def poisson(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes mean(y_pred - y_true log(y_pred + 1e-7)) over the last axis.

    Args:
        y_true: The counts.
        y_pred: The expected counts, positive.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(poisson(jnp.array([[0.0]]), jnp.array([[2.0]])))
        [2.]
    """
    y_true, y_pred = match_shapes("poisson", y_true, y_pred)
    return jnp.mean(y_pred - y_true * jnp.log(y_pred + EPSILON), axis=-1)


def cosine_similarity(y_true: ArrayLike, y_pred: ArrayLike, axis: int = -1) -> jax.Array:
    """Computes the negative cosine of the angle between labels and predictions: -1 for the same direction.

    For a zero vector the result is 0 and the gradient is finite.

    Args:
        y_true: The target vectors.
        y_pred: The predictions.
        axis: The axis of the vectors' components.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(cosine_similarity(jnp.array([[1.0, 0.0]]), jnp.array([[3.0, 0.0]])))
        [-1.]
    """
    y_true, y_pred = match_shapes("cosine_similarity", y_true, y_pred)
    return -jnp.sum(_unit(y_true, axis) * _unit(y_pred, axis), axis=axis)


def _unit(x: jax.Array, axis: int) -> jax.Array:
    # The lower bound is applied inside the root; outside, the gradient at zero would be 0 times infinity.
    square = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, EPSILON**2))


@dataclasses.dataclass(frozen=True)
class MeanSquaredError(AveragingLoss):
    """Mean of squared differences; see `mean_squared_error` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "mean_squared_error"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `mean_squared_error` of each example."""
        return mean_squared_error(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class MeanAbsoluteError(AveragingLoss):
    """Mean of absolute differences; see `mean_absolute_error` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "mean_absolute_error"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `mean_absolute_error` of each example."""
        return mean_absolute_error(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class MeanAbsolutePercentageError(AveragingLoss):
    """Mean of relative differences in percent; see `mean_absolute_percentage_error` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "mean_absolute_percentage_error"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `mean_absolute_percentage_error` of each example."""
        return mean_absolute_percentage_error(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class MeanSquaredLogarithmicError(AveragingLoss):
    """Mean of squared differences of logarithms; see `mean_squared_logarithmic_error` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "mean_squared_logarithmic_error"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `mean_squared_logarithmic_error` of each example."""
        return mean_squared_logarithmic_error(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class Huber(AveragingLoss):
    """Squared differences up to `delta`, absolute differences beyond; see `huber` and `Loss`."""

    delta: float = 1.0
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "huber_loss"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `huber` of each example."""
        return huber(y_true, y_pred, self.delta)


@dataclasses.dataclass(frozen=True)
class LogCosh(AveragingLoss):
    """Logarithm of the hyperbolic cosine of the differences; see `log_cosh` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "log_cosh"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `log_cosh` of each example."""
        return log_cosh(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class Poisson(AveragingLoss):
    """Negative log-likelihood of a Poisson distribution, up to a constant; see `poisson` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "poisson"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `poisson` of each example."""
        return poisson(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class CosineSimilarity(Loss):
    """Negative cosine of the angle between label and prediction; see `cosine_similarity` and `Loss`."""

    axis: int = -1
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "cosine_similarity"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `cosine_similarity` of each example."""
        return cosine_similarity(y_true, y_pred, self.axis)
