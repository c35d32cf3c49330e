"""Losses that look at more than one example, pixel or frame at a time: overlap, similarity, alignment."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from training.losses.base import EPSILON, LabelShapeError, Loss, align, as_float, match

Axis = int | tuple[int, ...] | None
LOG_ZERO = -1e5  # stands for log(0) in `ctc`, as in Keras


def dice(y_true: ArrayLike, y_pred: ArrayLike, axis: Axis = None) -> jax.Array:
    """Computes 1 - 2 sum(y_true y_pred) / (sum(y_true) + sum(y_pred) + 1e-7).

    Args:
        y_true: The labels, 0 or 1.
        y_pred: Probabilities.
        axis: The axes summed over; None for all, the batch included.

    Shapes: y_true, y_pred [B, H, W, C] -> [], or what the axes leave.

    References:
        Sorensen, 1948; Dice, 1945.

    Example:
        >>> print(dice(jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0]])))
        0.0
    """
    y_true, y_pred = match("dice", y_true, y_pred)
    overlap = jnp.sum(y_true * y_pred, axis=axis)
    return 1.0 - 2.0 * overlap / (jnp.sum(y_true, axis=axis) + jnp.sum(y_pred, axis=axis) + EPSILON)


def tversky(
    y_true: ArrayLike, y_pred: ArrayLike, alpha: float = 0.5, beta: float = 0.5, axis: Axis = None
) -> jax.Array:
    """Computes 1 - o / (o + alpha m + beta e + 1e-7): o overlap, m labels missed, e predictions in excess.

    Args:
        y_true: The labels, 0 or 1.
        y_pred: Probabilities.
        alpha: The weight of m = sum(y_true (1 - y_pred)).
        beta: The weight of e = sum((1 - y_true) y_pred).
        axis: The axes summed over; None for all, the batch included.

    Shapes: y_true, y_pred [B, H, W, C] -> [], or what the axes leave.

    References:
        Salehi et al., Tversky loss function for image segmentation, 2017, https://arxiv.org/abs/1706.05721.

    Example:
        >>> print(tversky(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])))
        1.0
    """
    y_true, y_pred = match("tversky", y_true, y_pred)
    overlap = jnp.sum(y_true * y_pred, axis=axis)
    missed = jnp.sum((1.0 - y_pred) * y_true, axis=axis)
    excess = jnp.sum(y_pred * (1.0 - y_true), axis=axis)
    return 1.0 - overlap / (overlap + missed * alpha + excess * beta + EPSILON)


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
    """Computes softplus(logsumexp over like pairs + logsumexp over unlike pairs), each pair paced by itself.

    With the cosine distance d = max(1 - y_pred . reference, 0), a like pair contributes
    -gamma (margin + d)(margin - d), an unlike one gamma max(1 + margin - d, 0)(1 - margin - d).

    Args:
        y_true: The class numbers of the examples.
        y_pred: Their embeddings, of length one.
        ref_labels: The class numbers of the references; by default `y_true`.
        ref_embeddings: The references; by default `y_pred`.
        remove_diagonal: Whether example i and reference i make no like pair: set it if they are the same.
        gamma: The scale.
        margin: How far like pairs must be nearer than unlike ones.
        ref_mask: False for references that make no pair, such as padding.

    Shapes: y_true [B] or [B, 1], y_pred [B, F], references [R] and [R, F] -> [B].

    References:
        Sun et al., Circle Loss, 2020, https://arxiv.org/abs/2002.10857.

    Example:
        >>> circle(jnp.array([0, 0, 1]), jnp.eye(3)).shape
        (3,)
    """
    y_true, y_pred = jnp.asarray(y_true).astype(jnp.int32).reshape(-1), as_float(y_pred)
    labels = y_true if ref_labels is None else jnp.asarray(ref_labels).astype(jnp.int32).reshape(-1)
    references = y_pred if ref_embeddings is None else jnp.asarray(ref_embeddings).astype(y_pred.dtype)
    for who, n, x in (("y_pred", y_true.size, y_pred), ("ref_embeddings", labels.size, references)):
        if x.ndim != 2 or x.shape[0] != n:
            raise ValueError(f"circle: {who} must have the shape [{n}, F], one row per label; found {x.shape}")
    distance = jnp.maximum(1.0 - y_pred @ references.T, 0.0)
    like = y_true[:, None] == labels[None, :]
    unlike = ~like
    if remove_diagonal:
        like = like & ~jnp.eye(y_true.size, labels.size, dtype=bool)
    if ref_mask is not None:
        keep = jnp.asarray(ref_mask).astype(bool)[None, :]
        like, unlike = like & keep, unlike & keep
    near = -gamma * (margin + distance) * (margin - distance)
    far = gamma * jnp.maximum(1.0 + margin - distance, 0.0) * (1.0 - margin - distance)
    return jax.nn.softplus(_log_sum_exp(near, like) + _log_sum_exp(far, unlike))


def _log_sum_exp(x: jax.Array, where: jax.Array) -> jax.Array:
    """logsumexp over the last axis where it is allowed: -inf for none, with a gradient of zero."""
    return jax.nn.logsumexp(jnp.where(where, x, -jnp.inf), axis=1)


def ctc(y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
    """Computes -log(probability) of all alignments of the labels with the frames; class 0 is the blank.

    Zeros at the end of a row of labels are padding. Every frame counts.

    Args:
        y_true: Class numbers, padded with 0.
        y_pred: Logits per frame.

    Shapes: y_true [B, L], y_pred [B, T, C] -> [B].

    References:
        Graves et al., Connectionist Temporal Classification, 2006.

    Example:
        >>> print(ctc(jnp.array([[1]]), jnp.zeros((1, 1, 2))).round(4))
        [0.6931]
    """
    y_true, y_pred = jnp.asarray(y_true), as_float(y_pred)
    if y_true.ndim != 2 or y_pred.ndim != 3 or y_true.shape[0] != y_pred.shape[0]:
        rule = "class numbers of shape [B, L] and logits of shape [B, T, C]"
        raise LabelShapeError("ctc", rule, y_true.shape, y_pred.shape, "reshape them to these axes")
    labels = y_true.astype(jnp.int32)
    log_p = jax.nn.log_softmax(y_pred)
    blank = jnp.moveaxis(log_p[:, :, 0], 1, 0)  # [T, B]
    emit = jnp.moveaxis(jnp.take_along_axis(log_p, labels[:, None, :], axis=2), 1, 0)  # [T, B, L]
    # A label equal to the one before it needs a blank between the two.
    repeated = jnp.pad(labels[:, :-1] == labels[:, 1:], ((0, 0), (0, 1)))

    def advance(phi: jax.Array, arrived: jax.Array) -> jax.Array:
        return jnp.concatenate([phi[:, :1], jnp.logaddexp(phi[:, 1:], arrived)], axis=1)

    def frame(carry: tuple[jax.Array, jax.Array], x: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        phi, label = carry  # log-probabilities of ending on a blank after n labels [B, L + 1], on label n [B, L]
        log_blank, log_emit = x
        ready = advance(phi, label + jnp.where(repeated, LOG_ZERO, 0.0).astype(label.dtype))
        next_label = jnp.logaddexp(ready[:, :-1], label) + log_emit
        # The blank state also takes what may go on without a blank, so that `ready` counts nothing twice.
        held = label + log_blank[:, None] + jnp.where(repeated, 0.0, LOG_ZERO).astype(label.dtype)
        next_phi = advance(ready + log_blank[:, None], held)
        return (next_phi, next_label), None

    start = jnp.full((labels.shape[0], labels.shape[1] + 1), LOG_ZERO, log_p.dtype).at[:, 0].set(0.0)
    (phi, label), _ = jax.lax.scan(frame, (start, start[:, 1:]), (blank, emit))
    length = jnp.sum(labels != 0, axis=1)
    return -jnp.take_along_axis(advance(phi, label), length[:, None], axis=1)[:, 0]


class _Overlap(Loss):
    """Sums over whole examples, perhaps over the batch: what the mask hides becomes zero in every sum."""

    filler: ClassVar[float] = 0.0
    axis: Axis = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.axis, list):
            object.__setattr__(self, "axis", tuple(self.axis))

    def masked_values(
        self, y_true: jax.Array, y_pred: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        if mask is None:
            return self.values(y_true, y_pred), None
        hidden = align(mask, y_pred.ndim)
        y_true, y_pred = (jnp.where(hidden, y, jnp.zeros_like(y)) for y in (y_true, y_pred))
        if self.axis is None:
            return self.values(y_true, y_pred), mask
        return self.values(y_true, y_pred), jnp.any(hidden, axis=self.axis)


@dataclasses.dataclass(frozen=True)
class Dice(_Overlap):
    """One minus the Dice coefficient, of the whole batch unless `axis` says else; see `dice` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "dice"
    axis: Axis = None
    dtype: Any = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return dice(y_true, y_pred, self.axis)


@dataclasses.dataclass(frozen=True)
class Tversky(_Overlap):
    """One minus the Tversky index, of the whole batch unless `axis` says else; see `tversky` and `Loss`."""

    alpha: float = 0.5
    beta: float = 0.5
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "tversky"
    axis: Axis = None
    dtype: Any = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return tversky(y_true, y_pred, self.alpha, self.beta, self.axis)


@dataclasses.dataclass(frozen=True)
class Circle(Loss):
    """Like pairs in the batch nearer than unlike ones; see `circle` and `Loss`.

    As in Keras, the mean leaves examples with the loss 0 out, such as those without a like pair.
    """

    gamma: float = 80.0
    margin: float = 0.4
    remove_diagonal: bool = True
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "circle"
    dtype: Any = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike, mask: jax.Array | None = None) -> jax.Array:
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
        if mask is None:
            values = self.values(y_true, y_pred)
            return values, values > 0
        mask = align(mask, 1)
        # A zero vector keeps the hidden rows harmless: they are also no reference to the others.
        values = self.values(y_true, jnp.where(mask[:, None], y_pred, jnp.zeros_like(y_pred)), mask)
        return values, mask & (values > 0)


@dataclasses.dataclass(frozen=True)
class CTC(Loss):
    """The alignment of labels with frames; see `ctc` and `Loss`."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "ctc"
    dtype: Any = None

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return ctc(y_true, y_pred)
