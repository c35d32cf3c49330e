"""Classification losses: cross-entropies, focal losses and the Kullback-Leibler divergence."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from training.losses.base import EPSILON, AveragingLoss, LabelShapeError, Loss, align_leading, as_float, match_shapes


def binary_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> jax.Array:
    """Computes mean(-y_true log(p) - (1 - y_true) log(1 - p)) over independent binary labels.

    Args:
        y_true: The labels, 0 or 1.
        y_pred: Probabilities p, clipped to [1e-7, 1 - 1e-7]; outside this range the gradient is 0.
        from_logits: Whether `y_pred` are logits, p = sigmoid(y_pred).
        label_smoothing: Moves labels towards 1/2 by this fraction.
        axis: The axis to average over.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(binary_crossentropy(jnp.array([[1.0, 0.0]]), jnp.array([[0.5, 0.5]])).round(4))
        [0.6931]
    """
    y_true, y_pred = match_shapes("binary_crossentropy", y_true, y_pred)
    y_true = _smooth(y_true, label_smoothing, 2)
    return jnp.mean(_binary(y_true, y_pred, from_logits), axis=axis)


def binary_focal_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> jax.Array:
    """Computes the mean of (1 - q)^gamma times the binary cross-entropy; q is the probability of the true label.

    Args:
        y_true: The labels, 0 or 1.
        y_pred: Probabilities.
        apply_class_balancing: Whether ones have the weight `alpha` and zeros the weight 1 - `alpha`.
        alpha: The weight of the ones.
        gamma: The focusing exponent. Larger values reduce the weight of well-classified examples.
        from_logits: Whether `y_pred` are logits.
        label_smoothing: Moves labels towards 1/2 by this fraction.
        axis: The axis to average over.

    Shapes: y_true, y_pred [B, ..., F] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    References:
        Lin et al., Focal Loss for Dense Object Detection, 2017, https://arxiv.org/abs/1708.02002.

    Example:
        >>> print(binary_focal_crossentropy(jnp.array([[1.0]]), jnp.array([[0.5]])).round(4))
        [0.1733]
    """
    y_true, y_pred = match_shapes("binary_focal_crossentropy", y_true, y_pred)
    y_true = _smooth(y_true, label_smoothing, 2)
    if from_logits:
        y_pred = jax.nn.sigmoid(y_pred)
    q = y_true * y_pred + (1.0 - y_true) * (1.0 - y_pred)
    loss = jnp.power(1.0 - q, gamma) * _binary(y_true, y_pred, from_logits=False)
    if apply_class_balancing:
        loss = (y_true * alpha + (1.0 - y_true) * (1.0 - alpha)) * loss
    return jnp.mean(loss, axis=axis)


def categorical_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> jax.Array:
    """Computes -sum(y_true log(p)) over the classes.

    Args:
        y_true: The probability of each class, such as one-hot labels.
        y_pred: Probabilities p; divided by their sum, then clipped to [1e-7, 1 - 1e-7].
        from_logits: Whether `y_pred` are logits, p = softmax(y_pred). Nothing is clipped then.
        label_smoothing: Spreads this fraction of a label evenly over all classes.
        axis: The class axis.

    Shapes: y_true, y_pred [B, ..., C] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(categorical_crossentropy(jnp.array([[0.0, 1.0]]), jnp.array([[0.5, 0.5]])).round(4))
        [0.6931]
    """
    y_true, y_pred = _one_hot_labels("categorical_crossentropy", y_true, y_pred, label_smoothing)
    return -jnp.sum(y_true * _log_probabilities(y_pred, from_logits, axis), axis=axis)


def categorical_focal_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    alpha: float | Sequence[float] = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> jax.Array:
    """Computes -sum(alpha (1 - p)^gamma y_true log(p)) over the classes.

    Args:
        y_true: The probability of each class, such as one-hot labels.
        y_pred: Probabilities p.
        alpha: A factor, or one factor per class.
        gamma: The focusing exponent. Larger values reduce the weight of well-classified examples.
        from_logits: Whether `y_pred` are logits.
        label_smoothing: Spreads this fraction of a label evenly over all classes.
        axis: The class axis.

    Shapes: y_true, y_pred [B, ..., C] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    References:
        Lin et al., Focal Loss for Dense Object Detection, 2017, https://arxiv.org/abs/1708.02002.

    Example:
        >>> print(categorical_focal_crossentropy(jnp.array([[0.0, 1.0]]), jnp.array([[0.5, 0.5]])).round(4))
        [0.0433]
    """
    y_true, y_pred = _one_hot_labels("categorical_focal_crossentropy", y_true, y_pred, label_smoothing)
    if from_logits:
        y_pred = jax.nn.softmax(y_pred, axis=axis)
    p = _normalize(y_pred, axis)
    factor = jnp.asarray(alpha, p.dtype)
    factor = factor.reshape((1,) * (p.ndim - factor.ndim) + factor.shape)
    return jnp.sum(jnp.power(1.0 - p, gamma) * factor * (-y_true * jnp.log(p)), axis=axis)


def sparse_categorical_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    from_logits: bool = False,
    ignore_class: int | None = None,
    axis: int = -1,
) -> jax.Array:
    """Computes -log(p) of the true class.

    A label outside of 0..C-1 has the loss 0, as in Keras. `check_labels` rejects such labels on the host.

    Args:
        y_true: The class index.
        y_pred: Probabilities p; divided by their sum, then clipped to [1e-7, 1 - 1e-7].
        from_logits: Whether `y_pred` are logits.
        ignore_class: A label whose examples have the loss 0.
        axis: The class axis.

    Shapes: y_true [B, ...] or [B, ..., 1], y_pred [B, ..., C] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(sparse_categorical_crossentropy(jnp.array([1]), jnp.array([[0.5, 0.5]])).round(4))
        [0.6931]
    """
    y_true, y_pred = _index_labels("sparse_categorical_crossentropy", y_true, y_pred, axis)
    if ignore_class is not None:
        valid = jnp.expand_dims(y_true != ignore_class, axis)
        y_pred = jnp.where(valid, y_pred, jnp.ones_like(y_pred))  # predictions to ignore may be NaN
    log_p = _log_probabilities(y_pred, from_logits, axis)
    chosen = _one_hot(y_true, y_pred, axis)
    if ignore_class is not None:
        chosen = chosen & valid
    return -jnp.sum(jnp.where(chosen, log_p, jnp.zeros_like(log_p)), axis=axis)


def categorical_generalized_cross_entropy(y_true: ArrayLike, y_pred: ArrayLike, q: float) -> jax.Array:
    """Computes (1 - p^q) / q for the probability p of the true class.

    It interpolates between cross-entropy (q -> 0) and the mean absolute error 1 - p (q -> 1).

    Args:
        y_true: The class index.
        y_pred: Probabilities. At p = 0 the gradient is set to 0, because the formula's gradient is infinite.
        q: The tolerance to wrong labels.

    Shapes: y_true [B, ...], y_pred [B, ..., C] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    References:
        Zhang and Sabuncu, Generalized Cross Entropy Loss, 2018, https://arxiv.org/abs/1805.07836.

    Example:
        >>> print(categorical_generalized_cross_entropy(jnp.array([1]), jnp.array([[0.75, 0.25]]), q=0.5))
        [1.]
    """
    y_true, y_pred = _index_labels("categorical_generalized_cross_entropy", y_true, y_pred, -1)
    p = jnp.sum(jnp.where(_one_hot(y_true, y_pred, -1), y_pred, jnp.zeros_like(y_pred)), axis=-1)
    power = jnp.where(p == 0, jnp.zeros_like(p), jnp.power(jnp.where(p == 0, jnp.ones_like(p), p), q))
    return (1.0 - power) / q


def kl_divergence(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes sum(y_true log(y_true / y_pred)) over the last axis, both clipped to [1e-7, 1].

    Args:
        y_true: The true probabilities.
        y_pred: The predicted probabilities.

    Shapes: y_true, y_pred [B, ..., C] -> [B, ...].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    Example:
        >>> print(kl_divergence(jnp.array([[0.0, 1.0]]), jnp.array([[0.5, 0.5]])).round(4))
        [0.6931]
    """
    y_true, y_pred = match_shapes("kl_divergence", y_true, y_pred, categorical=True)
    y_true, y_pred = jnp.clip(y_true, EPSILON, 1.0), jnp.clip(y_pred, EPSILON, 1.0)
    return jnp.sum(y_true * jnp.log(y_true / y_pred), axis=-1)


def _smooth(y_true: jax.Array, label_smoothing: float, num_classes: int) -> jax.Array:
    return y_true * (1.0 - label_smoothing) + label_smoothing / num_classes if label_smoothing else y_true


def _binary(y_true: jax.Array, y_pred: jax.Array, from_logits: bool) -> jax.Array:
    if from_logits:
        return -y_true * jax.nn.log_sigmoid(y_pred) - (1.0 - y_true) * jax.nn.log_sigmoid(-y_pred)
    p = jnp.clip(y_pred, EPSILON, 1.0 - EPSILON)
    return -(y_true * jnp.log(p) + (1.0 - y_true) * jnp.log(1.0 - p))


def _normalize(y_pred: jax.Array, axis: int) -> jax.Array:
    return jnp.clip(y_pred / jnp.sum(y_pred, axis=axis, keepdims=True), EPSILON, 1.0 - EPSILON)


def _log_probabilities(y_pred: jax.Array, from_logits: bool, axis: int) -> jax.Array:
    return jax.nn.log_softmax(y_pred, axis=axis) if from_logits else jnp.log(_normalize(y_pred, axis))


def _one_hot_labels(
    name: str, y_true: ArrayLike, y_pred: ArrayLike, label_smoothing: float
) -> tuple[jax.Array, jax.Array]:
    y_true, y_pred = match_shapes(name, y_true, y_pred, categorical=True)
    if y_pred.shape[-1:] == (1,):
        warnings.warn(
            f"{name} needs two or more classes to be informative, got y_pred of shape {y_pred.shape}; "
            "use binary_crossentropy for a single binary output.",
            stacklevel=3,
        )
    return _smooth(y_true, label_smoothing, y_true.shape[-1]), y_pred


def _index_labels(name: str, y_true: ArrayLike, y_pred: ArrayLike, axis: int) -> tuple[jax.Array, jax.Array]:
    """Returns labels as int32 without a class axis, and predictions as float32 or float64."""
    y_true, y_pred = jnp.asarray(y_true), as_float(y_pred)
    if y_true.ndim == y_pred.ndim > 0 and y_true.shape[axis] == 1:
        y_true = jnp.squeeze(y_true, axis)
    class_axis = axis % max(y_pred.ndim, 1)
    expected = y_pred.shape[:class_axis] + y_pred.shape[class_axis + 1 :]
    if y_pred.ndim == 0 or y_true.shape != expected:
        fix = "pass one class index for each row of the predictions"
        if y_true.shape == y_pred.shape:
            fix = "use categorical_crossentropy for one-hot labels"
        raise LabelShapeError(name, "one class index for each row of predictions", y_true.shape, y_pred.shape, fix)
    return y_true.astype(jnp.int32), y_pred


def _one_hot(labels: jax.Array, y_pred: jax.Array, axis: int) -> jax.Array:
    classes = jax.lax.broadcasted_iota(jnp.int32, y_pred.shape, axis % y_pred.ndim)
    return jnp.expand_dims(labels, axis) == classes


@dataclasses.dataclass(frozen=True)
class BinaryCrossentropy(AveragingLoss):
    """Cross-entropy of binary labels; see `binary_crossentropy` and `Loss`.

    Example:
        >>> print(BinaryCrossentropy(from_logits=True)(jnp.array([[1.0]]), jnp.array([[0.0]])).round(4))
        0.6931
    """

    from_logits: bool = False
    label_smoothing: float = 0.0
    axis: int = -1
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "binary_crossentropy"
    dtype: DTypeLike | None = None
    labels: ClassVar[str] = "unit"
    predictions: ClassVar[str] = "probabilities"

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `binary_crossentropy` of each example."""
        return binary_crossentropy(y_true, y_pred, self.from_logits, self.label_smoothing, self.axis)


@dataclasses.dataclass(frozen=True)
class BinaryFocalCrossentropy(AveragingLoss):
    """Binary cross-entropy that gives well classified examples little weight; see `binary_focal_crossentropy`."""

    apply_class_balancing: bool = False
    alpha: float = 0.25
    gamma: float = 2.0
    from_logits: bool = False
    label_smoothing: float = 0.0
    axis: int = -1
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "binary_focal_crossentropy"
    dtype: DTypeLike | None = None
    labels: ClassVar[str] = "unit"
    predictions: ClassVar[str] = "probabilities"

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `binary_focal_crossentropy` of each example."""
        return binary_focal_crossentropy(
            y_true,
            y_pred,
            self.apply_class_balancing,
            self.alpha,
            self.gamma,
            self.from_logits,
            self.label_smoothing,
            self.axis,
        )


@dataclasses.dataclass(frozen=True)
class CategoricalCrossentropy(Loss):
    """Cross-entropy of one-hot labels; see `categorical_crossentropy` and `Loss`.

    Example:
        >>> print(CategoricalCrossentropy()(jnp.array([[0.0, 1.0]]), jnp.array([[0.5, 0.5]])).round(4))
        0.6931
    """

    from_logits: bool = False
    label_smoothing: float = 0.0
    axis: int = -1
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "categorical_crossentropy"
    dtype: DTypeLike | None = None
    predictions: ClassVar[str] = "probabilities"

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `categorical_crossentropy` of each example."""
        return categorical_crossentropy(y_true, y_pred, self.from_logits, self.label_smoothing, self.axis)


@dataclasses.dataclass(frozen=True)
class CategoricalFocalCrossentropy(Loss):
    """Cross-entropy that gives well classified examples little weight; see `categorical_focal_crossentropy`."""

    alpha: float | Sequence[float] = 0.25
    gamma: float = 2.0
    from_logits: bool = False
    label_smoothing: float = 0.0
    axis: int = -1
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "categorical_focal_crossentropy"
    dtype: DTypeLike | None = None
    predictions: ClassVar[str] = "probabilities"

    def __post_init__(self) -> None:
        super().__post_init__()
        alpha = self.alpha
        object.__setattr__(self, "alpha", alpha if isinstance(alpha, float | int) else tuple(map(float, alpha)))

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `categorical_focal_crossentropy` of each example."""
        return categorical_focal_crossentropy(
            y_true, y_pred, self.alpha, self.gamma, self.from_logits, self.label_smoothing, self.axis
        )


@dataclasses.dataclass(frozen=True)
class SparseCategoricalCrossentropy(Loss):
    """Cross-entropy of class indices; see `sparse_categorical_crossentropy` and `Loss`.

    Examples of `ignore_class` are excluded from the mean.

    Example:
        >>> loss = SparseCategoricalCrossentropy(ignore_class=255)
        >>> print(loss(jnp.array([1, 255]), jnp.array([[0.5, 0.5], [0.9, 0.1]])).round(4))
        0.6931
    """

    from_logits: bool = False
    ignore_class: int | None = None
    reduction: str | None = "sum_over_batch_size"
    axis: int = -1
    name: str | None = "sparse_categorical_crossentropy"
    dtype: DTypeLike | None = None
    labels: ClassVar[str] = "index"
    predictions: ClassVar[str] = "probabilities"

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `sparse_categorical_crossentropy` of each example."""
        return sparse_categorical_crossentropy(y_true, y_pred, self.from_logits, self.ignore_class, self.axis)

    def masked_values(
        self, y_true: jax.Array, y_pred: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns the values and their mask, which excludes `ignore_class`."""
        values, mask = super().masked_values(y_true, y_pred, mask)
        if self.ignore_class is None:
            return values, mask
        valid = y_true.reshape(values.shape) != self.ignore_class
        return values, valid if mask is None else valid & align_leading(mask, values.ndim)


@dataclasses.dataclass(frozen=True)
class CategoricalGeneralizedCrossEntropy(Loss):
    """Cross-entropy that tolerates wrong labels; see `categorical_generalized_cross_entropy`."""

    q: float = 0.5
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "categorical_generalized_cross_entropy"
    dtype: DTypeLike | None = None
    labels: ClassVar[str] = "index"
    predictions: ClassVar[str] = "probabilities"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.q < 1:
            raise ValueError(f"`q` must be more than 0 and less than 1, got {self.q}; 0.7 is a common choice.")

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `categorical_generalized_cross_entropy` of each example."""
        return categorical_generalized_cross_entropy(y_true, y_pred, self.q)


@dataclasses.dataclass(frozen=True)
class KLDivergence(Loss):
    """Divergence of the predicted from the true distribution; see `kl_divergence` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "kl_divergence"
    dtype: DTypeLike | None = None
    predictions: ClassVar[str] = "probabilities"

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `kl_divergence` of each example."""
        return kl_divergence(y_true, y_pred)
