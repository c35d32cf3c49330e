"""Means of classification losses as metrics: cross-entropies, hinge losses, divergence."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from training.losses import classification, margins, regression
from training.losses.base import align_leading
from training.metrics.base import MeanMetric, MeanState, add_values, as_mask


@dataclasses.dataclass(frozen=True)
class BinaryCrossentropy(MeanMetric):
    """Mean cross-entropy of binary labels; see the loss of the same name and `Metric`."""

    direction: ClassVar[str | None] = "down"
    name: str | None = "binary_crossentropy"
    dtype: DTypeLike | None = None
    from_logits: bool = False
    label_smoothing: float = 0
    over_features: ClassVar[bool] = True

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `binary_crossentropy` of each example."""
        return classification.binary_crossentropy(y_true, y_pred, self.from_logits, self.label_smoothing)


@dataclasses.dataclass(frozen=True)
class CategoricalCrossentropy(MeanMetric):
    """Mean cross-entropy of one-hot labels; see the loss of the same name and `Metric`."""

    direction: ClassVar[str | None] = "down"
    name: str | None = "categorical_crossentropy"
    dtype: DTypeLike | None = None
    from_logits: bool = False
    label_smoothing: float = 0
    axis: int = -1

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `categorical_crossentropy` of each example."""
        return classification.categorical_crossentropy(
            y_true, y_pred, self.from_logits, self.label_smoothing, self.axis
        )


@dataclasses.dataclass(frozen=True)
class SparseCategoricalCrossentropy(MeanMetric):
    """Mean cross-entropy of class indices; see the loss of the same name and `Metric`.

    As in Keras, labels of `ignore_class` count as 0 in the mean without sample weights, and are excluded from
    it with sample weights.

    Example:
        >>> m = SparseCategoricalCrossentropy(from_logits=True)
        >>> print(m.compute(m.update(m.empty(), jnp.array([1]), jnp.array([[0.0, 0.0]]))).round(4))
        0.6931
    """

    direction: ClassVar[str | None] = "down"
    name: str | None = "sparse_categorical_crossentropy"
    dtype: DTypeLike | None = None
    from_logits: bool = False
    ignore_class: int | None = None
    axis: int = -1

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `sparse_categorical_crossentropy` of each example."""
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
        """Returns the state with a batch added."""
        if self.ignore_class is None or sample_weight is None:
            return super().update(state, y_true, y_pred, sample_weight, mask)
        values = self.values(y_true, y_pred)
        valid = jnp.asarray(y_true).reshape(values.shape) != self.ignore_class
        mask = as_mask(mask)
        return add_values(
            state, values, sample_weight, valid if mask is None else valid & align_leading(mask, valid.ndim)
        )


@dataclasses.dataclass(frozen=True)
class KLDivergence(MeanMetric):
    """Mean divergence of the predicted from the true distribution; see the loss of the same name and `Metric`."""

    direction: ClassVar[str | None] = "down"
    name: str | None = "kl_divergence"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `kl_divergence` of each example."""
        return classification.kl_divergence(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class Poisson(MeanMetric):
    """Mean of y_pred - y_true log(y_pred + 1e-7); see `Metric`."""

    direction: ClassVar[str | None] = "down"
    name: str | None = "poisson"
    dtype: DTypeLike | None = None
    over_features: ClassVar[bool] = True

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `poisson` of each example."""
        return regression.poisson(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class Hinge(MeanMetric):
    """Mean hinge loss of binary labels; see the loss of the same name and `Metric`."""

    direction: ClassVar[str | None] = "down"
    name: str | None = "hinge"
    dtype: DTypeLike | None = None
    over_features: ClassVar[bool] = True

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `hinge` of each example."""
        return margins.hinge(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class SquaredHinge(MeanMetric):
    """Mean squared hinge loss of binary labels; see the loss of the same name and `Metric`."""

    direction: ClassVar[str | None] = "down"
    name: str | None = "squared_hinge"
    dtype: DTypeLike | None = None
    over_features: ClassVar[bool] = True

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `squared_hinge` of each example."""
        return margins.squared_hinge(y_true, y_pred)


@dataclasses.dataclass(frozen=True)
class CategoricalHinge(MeanMetric):
    """Mean margin between the true class and the best other class; see the loss of the same name and `Metric`."""

    direction: ClassVar[str | None] = "down"
    name: str | None = "categorical_hinge"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `categorical_hinge` of each example."""
        return margins.categorical_hinge(y_true, y_pred)
