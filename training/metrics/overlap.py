"""Which classes overlap with what was predicted: intersection over union, and the confusion matrix."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from training.losses.base import EPSILON, LabelShapeError, as_float
from training.losses.labels import check_labels
from training.metrics.base import Metric, RunningSum, as_mask, broadcast


class _IoU(Metric):
    """Keeps the confusion matrix [labels, predictions]; the mean of TP / (TP + FP + FN) over some classes."""

    num_classes: int
    ignore_class: int | None = None
    sparse_y_true: bool = True
    sparse_y_pred: bool = True
    axis: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._targets() is None:
            return
        targets = tuple(map(int, self._targets()))
        object.__setattr__(self, "target_class_ids", targets)
        if not targets or not 0 <= min(targets) <= max(targets) < self.num_classes:
            raise ValueError(
                f"target_class_ids must lie in 0..{self.num_classes - 1} for {self.num_classes} classes; "
                f"found {list(targets)}; MeanIoU takes all classes"
            )

    def _targets(self) -> Any:
        return getattr(self, "target_class_ids", None)

    def empty(self) -> RunningSum:
        return RunningSum.zeros((self.num_classes, self.num_classes))

    def update(
        self,
        state: RunningSum,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> RunningSum:
        y_true, y_pred, mask = jnp.asarray(y_true), jnp.asarray(y_pred), as_mask(mask)
        y_true = y_true if self.sparse_y_true else jnp.argmax(y_true, axis=self.axis)
        y_pred = y_pred if self.sparse_y_pred else jnp.argmax(y_pred, axis=self.axis)
        if y_true.size != y_pred.size:
            rule = "labels and predictions that name one class in each place"
            fix = "set `sparse_y_true` and `sparse_y_pred` to False where there is a number for each class"
            raise LabelShapeError(str(self.name), rule, y_true.shape, y_pred.shape, fix)
        shape = y_true.shape
        dtype = jnp.dtype(self.dtype or jnp.int32)
        whole = jnp.issubdtype(dtype, jnp.integer)
        y_true, y_pred = (y.reshape(-1).astype(jnp.int32 if whole else jnp.float32) for y in (y_true, y_pred))
        weight = jnp.ones(shape, jnp.int32)  # whole numbers, so that a batch of many pixels is counted exactly
        if sample_weight is not None:
            weight = as_float(sample_weight)
            weight = weight if self.dtype is None or not whole else jnp.trunc(weight)
            weight = broadcast("sample_weight", weight, shape)
        if mask is not None:
            weight = jnp.where(broadcast("mask", mask, shape), weight, jnp.zeros_like(weight))
        inside = (y_true >= 0) & (y_true < self.num_classes) & (y_pred >= 0) & (y_pred < self.num_classes)
        if self.ignore_class is not None:
            inside = inside & (y_true != self.ignore_class)
        weight = jnp.where(inside, weight.reshape(-1), jnp.zeros_like(weight).reshape(-1))
        place = jnp.where(inside, y_true, 0).astype(jnp.int32) * self.num_classes
        place = place + jnp.where(inside, y_pred, 0).astype(jnp.int32)
        matrix = jax.ops.segment_sum(weight, place, self.num_classes**2)
        return state.add(matrix.reshape(self.num_classes, self.num_classes))

    def compute(self, state: RunningSum) -> jax.Array:
        matrix = state.value
        overlap = jnp.diagonal(matrix)
        union = jnp.sum(matrix, axis=0) + jnp.sum(matrix, axis=1) - overlap
        if self._targets() is not None:
            chosen = jnp.asarray(self._targets())
            overlap, union = overlap[chosen], union[chosen]
        seen = union > 1e-9
        iou = jnp.where(seen, overlap / (union + EPSILON), 0.0)
        return jnp.sum(iou) / (jnp.sum(seen, dtype=jnp.float32) + EPSILON)


@dataclasses.dataclass(frozen=True)
class IoU(_IoU):
    """The mean intersection over union, TP / (TP + FP + FN), of some classes; those never seen are left out.

    Args:
        num_classes: How many classes there are.
        target_class_ids: Which of them count.
        name: What the metric is called.
        dtype: An integer type cuts weights down to whole numbers, as Keras does by default; here the default
            counts weights as they are. Class indices are cut down unless it is a float type.
        ignore_class: A label whose places do not count.
        sparse_y_true: Whether labels are class indices, else one value per class.
        sparse_y_pred: Whether predictions are class indices, else one score per class.
        axis: The axis of the classes, where not sparse.

    Shapes: y_true, y_pred [B, ...], or [B, ..., C] where not sparse.

    Example:
        >>> m = IoU(num_classes=2, target_class_ids=[0])
        >>> print(m.compute(m.update(m.empty(), jnp.array([0, 0, 1, 1]), jnp.array([0, 1, 0, 1]))).round(4))
        0.3333
    """

    num_classes: int
    target_class_ids: Sequence[int]
    name: str | None = None
    dtype: DTypeLike | None = None
    ignore_class: int | None = None
    sparse_y_true: bool = True
    sparse_y_pred: bool = True
    axis: int = -1


@dataclasses.dataclass(frozen=True)
class BinaryIoU(_IoU):
    """The mean intersection over union of zeros and ones.

    Args:
        target_class_ids: Which of the two count.
        threshold: What a prediction of one must reach.
        name: What the metric is called.
        dtype: As for `IoU`.

    Shapes: y_true, y_pred [B, ...].
    """

    target_class_ids: Sequence[int] = (0, 1)
    threshold: float = 0.5
    name: str | None = None
    dtype: DTypeLike | None = None

    @property
    def num_classes(self) -> int:
        return 2

    def update(
        self,
        state: RunningSum,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> RunningSum:
        return super().update(state, y_true, as_float(y_pred) >= self.threshold, sample_weight, mask)


@dataclasses.dataclass(frozen=True)
class MeanIoU(_IoU):
    """The mean intersection over union of all classes seen; arguments as for `IoU`."""

    num_classes: int
    name: str | None = None
    dtype: DTypeLike | None = None
    ignore_class: int | None = None
    sparse_y_true: bool = True
    sparse_y_pred: bool = True
    axis: int = -1


@dataclasses.dataclass(frozen=True)
class OneHotIoU(_IoU):
    """`IoU` for one-hot labels and scores per class; arguments as there."""

    num_classes: int
    target_class_ids: Sequence[int]
    name: str | None = None
    dtype: DTypeLike | None = None
    ignore_class: int | None = None
    sparse_y_pred: bool = False
    axis: int = -1

    @property
    def sparse_y_true(self) -> bool:
        return False


@dataclasses.dataclass(frozen=True)
class OneHotMeanIoU(_IoU):
    """`MeanIoU` for one-hot labels and scores per class; arguments as for `IoU`."""

    num_classes: int
    name: str | None = None
    dtype: DTypeLike | None = None
    ignore_class: int | None = None
    sparse_y_pred: bool = False
    axis: int = -1

    @property
    def sparse_y_true(self) -> bool:
        return False


def confusion_matrix(y_true: ArrayLike, y_pred: ArrayLike, num_classes: int) -> np.ndarray:
    """Counts on the host how often each class (row) was predicted as each (column).

    Args:
        y_true: Class indices, or one-hot labels of the shape of the scores.
        y_pred: Class indices, or scores of a float type with the classes on the last axis.
        num_classes: How many classes there are.

    Raises:
        ValueError: If the shapes differ, or a class index is out of range.

    Example:
        >>> confusion_matrix([0, 0, 1], [0, 1, 1], num_classes=2)
        array([[1, 1],
               [0, 1]])
    """
    true, pred = np.asarray(y_true), np.asarray(y_pred)
    if pred.ndim > 1 and pred.shape[-1] == num_classes and not np.issubdtype(pred.dtype, np.integer):
        true = np.argmax(true, axis=-1) if true.shape == pred.shape else true
        pred = np.argmax(pred, axis=-1)
    if true.size != pred.size:
        raise ValueError(
            f"confusion_matrix: labels and predictions must be as many; found {true.shape} and {pred.shape}; "
            f"scores need {num_classes} on the last axis"
        )
    for y in (true, pred):
        check_labels(y, num_classes)
    place = true.reshape(-1).astype(np.int64) * num_classes + pred.reshape(-1).astype(np.int64)
    return np.bincount(place, minlength=num_classes**2).reshape(num_classes, num_classes)


def plot_confusion_matrix(
    matrix: ArrayLike, class_names: Sequence[str] | None = None, path: str | os.PathLike[str] | None = None
) -> Any:
    """Draws a confusion matrix: colour is the share of the row, text the count.

    Args:
        matrix: Counts [labels, predictions].
        class_names: What the classes are called; by default their numbers.
        path: Where to write the picture; its ending chooses the format.

    Returns:
        The `matplotlib.figure.Figure`, which a notebook shows.

    Raises:
        ValueError: If the matrix is not square, or the names are not as many as the classes.
    """
    from matplotlib.figure import Figure

    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a confusion matrix must be square; found the shape {matrix.shape}; see confusion_matrix")
    size = len(matrix)
    names = [str(i) for i in range(size)] if class_names is None else [str(name) for name in class_names]
    if len(names) != size:
        raise ValueError(f"class_names must be one per class, {size}; found {len(names)}; None numbers them")
    figure = Figure(figsize=(2.5 + 0.45 * size, 2.0 + 0.45 * size), layout="constrained")
    axes = figure.subplots()
    rows = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, rows, out=np.zeros(matrix.shape), where=rows != 0)
    picture = axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(picture, ax=axes, label="share of the class")
    axes.set_xticks(range(size), names, rotation=45 if max(map(len, names)) > 2 else 0, ha="center")
    axes.set_yticks(range(size), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if size <= 40:  # beyond, the numbers would be unreadable
        for (row, column), number in np.ndenumerate(matrix):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, f"{number:g}", ha="center", va="center", color=colour, fontsize=8)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
