"""How far off are predicted numbers?"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from training.losses.base import EPSILON, AveragingLoss, Loss, match


def mean_squared_error(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes mean((y_true - y_pred)^2) over the last axis.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Example:
        >>> print(mean_squared_error(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 3.0]])))
        [5.]
    """
    y_true, y_pred = match("mean_squared_error", y_true, y_pred)
    return jnp.mean(jnp.square(y_true - y_pred), axis=-1)


def mean_absolute_error(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes mean(|y_true - y_pred|) over the last axis.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Example:
        >>> print(mean_absolute_error(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 3.0]])))
        [2.]
    """
    y_true, y_pred = match("mean_absolute_error", y_true, y_pred)
    return jnp.mean(jnp.abs(y_true - y_pred), axis=-1)


def mean_absolute_percentage_error(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes 100 mean(|y_true - y_pred| / max(|y_true|, 1e-7)) over the last axis.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Example:
        >>> print(mean_absolute_percentage_error(jnp.array([[2.0, 4.0]]), jnp.array([[1.0, 4.0]])))
        [25.]
    """
    y_true, y_pred = match("mean_absolute_percentage_error", y_true, y_pred)
    return 100.0 * jnp.mean(jnp.abs((y_true - y_pred) / jnp.maximum(jnp.abs(y_true), EPSILON)), axis=-1)


def mean_squared_logarithmic_error(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes mean((log(1 + y_true) - log(1 + y_pred))^2) over the last axis; both at least 1e-7.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Example:
        >>> print(mean_squared_logarithmic_error(jnp.array([[1.0]]), jnp.array([[1.0]])))
        [0.]
    """
    y_true, y_pred = match("mean_squared_logarithmic_error", y_true, y_pred)
    log_true = jnp.log(jnp.maximum(y_true, EPSILON) + 1.0)
    log_pred = jnp.log(jnp.maximum(y_pred, EPSILON) + 1.0)
    return jnp.mean(jnp.square(log_pred - log_true), axis=-1)


def huber(y_true: ArrayLike, y_pred: ArrayLike, delta: float = 1.0) -> jax.Array:
    """Computes the mean over the last axis of e^2 / 2 up to |e| = delta, delta |e| - delta^2 / 2 beyond.

    Args:
        y_true: The numbers to predict.
        y_pred: The predictions; e = y_pred - y_true.
        delta: Where the parabola turns into a line.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    References:
        Huber, Robust Estimation of a Location Parameter, 1964.

    Example:
        >>> print(huber(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 3.0]])))
        [1.5]
    """
    y_true, y_pred = match("huber", y_true, y_pred)
    error = y_pred - y_true
    size = jnp.abs(error)
    line = delta * size - 0.5 * delta**2
    return jnp.mean(jnp.where(size <= delta, 0.5 * jnp.square(error), line), axis=-1)


def log_cosh(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes mean(log(cosh(y_pred - y_true))) over the last axis, without overflow.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Example:
        >>> print(log_cosh(jnp.array([[2.0]]), jnp.array([[2.0]])))
        [0.]
    """
    y_true, y_pred = match("log_cosh", y_true, y_pred)
    error = y_pred - y_true
    return jnp.mean(error + jax.nn.softplus(-2.0 * error) - math.log(2.0), axis=-1)


def poisson(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes mean(y_pred - y_true log(y_pred + 1e-7)) over the last axis.

    Shapes: y_true (counts), y_pred (expected counts, positive) [B, ..., F] -> [B, ...].

    Example:
        >>> print(poisson(jnp.array([[0.0]]), jnp.array([[2.0]])))
        [2.]
    """
    y_true, y_pred = match("poisson", y_true, y_pred)
    return jnp.mean(y_pred - y_true * jnp.log(y_pred + EPSILON), axis=-1)


def cosine_similarity(y_true: ArrayLike, y_pred: ArrayLike, axis: int = -1) -> jax.Array:
    """Computes the negative cosine of the angle between labels and predictions: -1 is the same direction.

    A vector of zeros has the similarity 0 to all, and a finite gradient.

    Args:
        y_true: The directions to predict.
        y_pred: The predictions.
        axis: The axis that holds the vectors.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Example:
        >>> print(cosine_similarity(jnp.array([[1.0, 0.0]]), jnp.array([[3.0, 0.0]])))
        [-1.]
    """
    y_true, y_pred = match("cosine_similarity", y_true, y_pred)
    return -jnp.sum(_unit(y_true, axis) * _unit(y_pred, axis), axis=axis)


def _unit(x: jax.Array, axis: int) -> jax.Array:
    # The floor stands inside the root: outside of it the gradient at zero would be 0 times infinity.
    square = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, EPSILON**2))


@dataclasses.dataclass(frozen=True)
class MeanSquaredError(AveragingLoss):
    """The mean of the squared differences; see `mean_squared_error` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "mean_squared_error"
    dtype: Any = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return mean_squared_error(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class MeanAbsoluteError(AveragingLoss):
    """The mean of the absolute differences; see `mean_absolute_error` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "mean_absolute_error"
    dtype: Any = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return mean_absolute_error(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class MeanAbsolutePercentageError(AveragingLoss):
    """The mean of the relative differences in percent; see `mean_absolute_percentage_error` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "mean_absolute_percentage_error"
    dtype: Any = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return mean_absolute_percentage_error(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class MeanSquaredLogarithmicError(AveragingLoss):
    """The mean of the squared differences of logarithms; see `mean_squared_logarithmic_error` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "mean_squared_logarithmic_error"
    dtype: Any = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return mean_squared_logarithmic_error(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class Huber(AveragingLoss):
    """Squared differences near zero, absolute ones beyond `delta`; see `huber` and `Loss`."""

    delta: float = 1.0
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "huber_loss"
    dtype: Any = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return huber(y_true, y_pred, self.delta)


@dataclasses.dataclass(frozen=True)
class LogCosh(AveragingLoss):
    """The logarithm of the hyperbolic cosine of the differences; see `log_cosh` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "log_cosh"
    dtype: Any = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return log_cosh(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class Poisson(AveragingLoss):
    """The negative logarithm of a Poisson likelihood, but for a constant; see `poisson` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "poisson"
    dtype: Any = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return poisson(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class CosineSimilarity(Loss):
    """The negative cosine of the angle between label and prediction; see `cosine_similarity` and `Loss`."""

    axis: int = -1
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "cosine_similarity"
    dtype: Any = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return cosine_similarity(y_true, y_pred, self.axis)
