"""Losses over sets and sequences: overlap of regions, similarity of pairs, alignment of frames."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from flaxmodels.ops.ctc import negative_log_likelihood
from training.losses.base import EPSILON, LabelShapeError, Loss, align_leading, as_float, match_shapes

Axis = int | tuple[int, ...] | None


def dice(y_true: ArrayLike, y_pred: ArrayLike, axis: Axis = None) -> jax.Array:
    """Computes 1 - 2 sum(y_true y_pred) / (sum(y_true) + sum(y_pred) + 1e-7).

    Args:
        y_true: The labels, 0 or 1.
        y_pred: Probabilities.
        axis: The axes to sum over; None for all axes, including the batch.

    Shapes: y_true, y_pred [B, H, W, C] -> [], or the axes that are not summed over.

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    References:
        Sorensen, 1948; Dice, 1945.

    Example:
        >>> print(dice(jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0]])))
        0.0
    """
    y_true, y_pred = match_shapes("dice", y_true, y_pred)
    overlap = jnp.sum(y_true * y_pred, axis=axis)
    return 1.0 - 2.0 * overlap / (jnp.sum(y_true, axis=axis) + jnp.sum(y_pred, axis=axis) + EPSILON)


def tversky(
    y_true: ArrayLike, y_pred: ArrayLike, alpha: float = 0.5, beta: float = 0.5, axis: Axis = None
) -> jax.Array:
    """Computes 1 - TP / (TP + alpha FN + beta FP + 1e-7), where TP = sum(y_true y_pred).

    Args:
        y_true: The labels, 0 or 1.
        y_pred: Probabilities.
        alpha: The weight of the false negatives, FN = sum(y_true (1 - y_pred)).
        beta: The weight of the false positives, FP = sum((1 - y_true) y_pred).
        axis: The axes to sum over; None for all axes, including the batch.

    Shapes: y_true, y_pred [B, H, W, C] -> [], or the axes that are not summed over.

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    References:
        Salehi et al., Tversky loss function for image segmentation, 2017, https://arxiv.org/abs/1706.05721.

    Example:
        >>> print(tversky(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])))
        1.0
    """
    y_true, y_pred = match_shapes("tversky", y_true, y_pred)
    true_positives = jnp.sum(y_true * y_pred, axis=axis)
    false_negatives = jnp.sum((1.0 - y_pred) * y_true, axis=axis)
    false_positives = jnp.sum(y_pred * (1.0 - y_true), axis=axis)
    return 1.0 - true_positives / (true_positives + false_negatives * alpha + false_positives * beta + EPSILON)


def circle(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    ref_labels: ArrayLike | None = None,
    ref_embeddings: ArrayLike | None = None,
    remove_diagonal: bool = True,
    gamma: float = 80.0,
    margin: float = 0.4,
    ref_mask: ArrayLike | None = None,
) -> jax.Array:
    """Computes softplus(logsumexp over positive pairs + logsumexp over negative pairs).

    Pairs of the same class are positive. With the cosine distance d = max(1 - y_pred . reference, 0), a
    positive pair contributes -gamma (margin + d)(margin - d), a negative pair
    gamma max(1 + margin - d, 0)(1 - margin - d).

    Args:
        y_true: The class indices of the examples.
        y_pred: Their embeddings, of unit length.
        ref_labels: The class indices of the references; by default `y_true`.
        ref_embeddings: The embeddings of the references; by default `y_pred`.
        remove_diagonal: Whether to exclude the positive pairs of example i and reference i. Set it if examples
            and references are the same.
        gamma: The scale.
        margin: The relaxation of the decision boundary between positive and negative pairs.
        ref_mask: False for references to ignore, such as padding.

    Shapes: y_true [B] or [B, 1], y_pred [B, F], references [R] and [R, F] -> [B].

    Raises:
        ValueError: If labels and embeddings do not have the same number of rows.

    References:
        Sun et al., Circle Loss, 2020, https://arxiv.org/abs/2002.10857.

    Example:
        >>> circle(jnp.array([0, 0, 1]), jnp.eye(3)).shape
        (3,)
    """
    y_true, y_pred = jnp.asarray(y_true).astype(jnp.int32).reshape(-1), as_float(y_pred)
    labels = y_true if ref_labels is None else jnp.asarray(ref_labels).astype(jnp.int32).reshape(-1)
    references = y_pred if ref_embeddings is None else jnp.asarray(ref_embeddings).astype(y_pred.dtype)
    for argument, n, x in (("y_pred", y_true.size, y_pred), ("ref_embeddings", labels.size, references)):
        if x.ndim != 2 or x.shape[0] != n:
            raise ValueError(f"`{argument}` of circle must have the shape [{n}, F], one row per label, got {x.shape}.")
    distance = jnp.maximum(1.0 - y_pred @ references.T, 0.0)
    positive = y_true[:, None] == labels[None, :]
    negative = ~positive
    if remove_diagonal:
        positive = positive & ~jnp.eye(y_true.size, labels.size, dtype=bool)
    if ref_mask is not None:
        keep = jnp.asarray(ref_mask).astype(bool)[None, :]
        positive, negative = positive & keep, negative & keep
    positive_logits = -gamma * (margin + distance) * (margin - distance)
    negative_logits = gamma * jnp.maximum(1.0 + margin - distance, 0.0) * (1.0 - margin - distance)
    return jax.nn.softplus(_log_sum_exp(positive_logits, positive) + _log_sum_exp(negative_logits, negative))


def _log_sum_exp(x: jax.Array, where: jax.Array) -> jax.Array:
    """Computes logsumexp over the selected values of the last axis: -inf, with gradient 0, if there are none."""
    return jax.nn.logsumexp(jnp.where(where, x, -jnp.inf), axis=1)


def ctc(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes the connectionist temporal classification loss; class 0 is the blank.

    It is -log(p), where p is the total probability of all alignments of the labels with the frames. Zeros at
    the end of a row of labels are padding. All frames are used.

    Args:
        y_true: Class indices, padded with 0.
        y_pred: Logits per frame.

    Shapes: y_true [B, L], y_pred [B, T, C] -> [B].

    Raises:
        LabelShapeError: If the shapes of labels and predictions are incompatible.

    References:
        Graves et al., Connectionist Temporal Classification, 2006.

    Example:
        >>> print(ctc(jnp.array([[1]]), jnp.zeros((1, 1, 2))).round(4))
        [0.6931]
    """
    y_true, y_pred = jnp.asarray(y_true), as_float(y_pred)
    if y_true.ndim != 2 or y_pred.ndim != 3 or y_true.shape[0] != y_pred.shape[0]:
        rule = "class indices of shape [B, L] and logits of shape [B, T, C]"
        raise LabelShapeError("ctc", rule, y_true.shape, y_pred.shape, "reshape them to these axes")
    labels = y_true.astype(jnp.int32)
    return negative_log_likelihood(jax.nn.log_softmax(y_pred), labels, jnp.sum(labels != 0, axis=1))


class _OverlapLoss(Loss):
    """Base class of losses that are quotients of sums over `axis`; masked values are 0 in every sum."""

    mask_fill: ClassVar[float] = 0.0
    axis: Axis = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.axis, list):
            object.__setattr__(self, "axis", tuple(self.axis))

    def masked_values(
        self, y_true: jax.Array, y_pred: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns the values of unmasked labels and predictions, and which values have unmasked elements."""
        if mask is None:
            return self.values(y_true, y_pred), None
        keep = align_leading(mask, y_pred.ndim)
        y_true, y_pred = (jnp.where(keep, y, jnp.zeros_like(y)) for y in (y_true, y_pred))
        if self.axis is None:
            return self.values(y_true, y_pred), mask
        return self.values(y_true, y_pred), jnp.any(keep, axis=self.axis)


@dataclasses.dataclass(frozen=True)
class Dice(_OverlapLoss):
    """One minus the Dice coefficient, of the whole batch unless `axis` is given; see `dice` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "dice"
    axis: Axis = None
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `dice` over `axis`."""
        return dice(y_true, y_pred, self.axis)


@dataclasses.dataclass(frozen=True)
class Tversky(_OverlapLoss):
    """One minus the Tversky index, of the whole batch unless `axis` is given; see `tversky` and `Loss`."""

    alpha: float = 0.5
    beta: float = 0.5
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "tversky"
    axis: Axis = None
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `tversky` over `axis`."""
        return tversky(y_true, y_pred, self.alpha, self.beta, self.axis)


@dataclasses.dataclass(frozen=True)
class Circle(Loss):
    """Circle loss over the pairs of the batch; see `circle` and `Loss`.

    As in Keras, examples with the loss 0, such as those without a positive pair, are excluded from the mean.
    """

    gamma: float = 80.0
    margin: float = 0.4
    remove_diagonal: bool = True
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "circle"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike, mask: jax.Array | None = None) -> jax.Array:
        """Returns `circle` of each example."""
        return circle(
            y_true,
            y_pred,
            remove_diagonal=self.remove_diagonal,
            gamma=self.gamma,
            margin=self.margin,
            ref_mask=mask,
        )

    def masked_values(
        self, y_true: jax.Array, y_pred: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns the values, and the mask of unmasked examples with a loss above 0."""
        if mask is None:
            values = self.values(y_true, y_pred)
            return values, values > 0
        mask = align_leading(mask, 1)
        # Zero vectors keep masked rows finite; `ref_mask` excludes them as references for the other rows.
        values = self.values(y_true, jnp.where(mask[:, None], y_pred, jnp.zeros_like(y_pred)), mask)
        return values, mask & (values > 0)


@dataclasses.dataclass(frozen=True)
class CTC(Loss):
    """Connectionist temporal classification of label sequences; see `ctc` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "ctc"
    dtype: DTypeLike | None = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns `ctc` of each example."""
        return ctc(y_true, y_pred)
