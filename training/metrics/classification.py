"""How surprised is the model by the true classes, and how wide is its margin?"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from training.losses import classification, margins, regression
from training.losses.base import align_leading
from training.metrics.base import MeanMetric, MeanState, add_values, as_mask


@dataclasses.dataclass(frozen=True)
class BinaryCrossentropy(MeanMetric):
    """The mean cross-entropy of yes-or-no labels; see the loss of this name and `Metric`."""

    name: str | None = "binary_crossentropy"
    dtype: DTypeLike | None = None
    from_logits: bool = False
    label_smoothing: float = 0
    over_features: ClassVar[bool] = True

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return classification.binary_crossentropy(y_true, y_pred, self.from_logits, self.label_smoothing)


@dataclasses.dataclass(frozen=True)
class CategoricalCrossentropy(MeanMetric):
    """The mean cross-entropy of one-hot labels; see the loss of this name and `Metric`."""

    name: str | None = "categorical_crossentropy"
    dtype: DTypeLike | None = None
    from_logits: bool = False
    label_smoothing: float = 0
    axis: int = -1

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return classification.categorical_crossentropy(
            y_true, y_pred, self.from_logits, self.label_smoothing, self.axis
        )


@dataclasses.dataclass(frozen=True)
class SparseCategoricalCrossentropy(MeanMetric):
    """The mean cross-entropy of class indices; see the loss of this name and `Metric`.

    As in Keras, labels of `ignore_class` count as 0 in the mean, and are left out of it if there are sample
    weights.

    Example:
        >>> m = SparseCategoricalCrossentropy(from_logits=True)
        >>> print(m.compute(m.update(m.empty(), jnp.array([1]), jnp.array([[0.0, 0.0]]))).round(4))
        0.6931
    """

    name: str | None = "sparse_categorical_crossentropy"
    dtype: DTypeLike | None = None
    from_logits: bool = False
    ignore_class: int | None = None
    axis: int = -1

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return classification.sparse_categorical_crossentropy(
            y_true, y_pred, self.from_logits, self.ignore_class, self.axis
        )

    def update(
        self,
        state: MeanState,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> MeanState:
        if self.ignore_class is None or sample_weight is None:
            return super().update(state, y_true, y_pred, sample_weight, mask)
        values = self.values(y_true, y_pred)
        valid = jnp.asarray(y_true).reshape(values.shape) != self.ignore_class
        mask = as_mask(mask)
        return add_values(state, values, sample_weight, valid if mask is None else valid & align_leading(mask, valid.ndim))


@dataclasses.dataclass(frozen=True)
class KLDivergence(MeanMetric):
    """The mean divergence of the predicted from the true distribution; see the loss of this name and `Metric`."""

    name: str | None = "kl_divergence"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return classification.kl_divergence(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class Poisson(MeanMetric):
    """The mean of y_pred - y_true log(y_pred + 1e-7); see `Metric`."""

    name: str | None = "poisson"
    dtype: DTypeLike | None = None
    over_features: ClassVar[bool] = True

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return regression.poisson(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class Hinge(MeanMetric):
    """The mean distance by which the margin is missed; see the loss of this name and `Metric`."""

    name: str | None = "hinge"
    dtype: DTypeLike | None = None
    over_features: ClassVar[bool] = True

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return margins.hinge(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class SquaredHinge(MeanMetric):
    """The mean squared distance by which the margin is missed; see the loss of this name and `Metric`."""

    name: str | None = "squared_hinge"
    dtype: DTypeLike | None = None
    over_features: ClassVar[bool] = True

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return margins.squared_hinge(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class CategoricalHinge(MeanMetric):
    """The mean margin between the right class and the best wrong one; see the loss of this name and `Metric`."""

    name: str | None = "categorical_hinge"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return margins.categorical_hinge(y_true, y_pred)
