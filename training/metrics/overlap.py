"""Intersection over union, and the confusion matrix."""

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from flaxmodels.extras import require_extra
from training.losses.base import EPSILON, LabelShapeError, as_float
from training.losses.labels import check_labels
from training.metrics.base import Metric, RunningSum, as_mask, broadcast

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class _IoU(Metric[RunningSum]):
    """Base class of means of TP / (TP + FP + FN) over classes.

    The state is the confusion matrix [labels, predictions].
    """

    direction: ClassVar[str | None] = "up"
    num_classes: int
    ignore_class: int | None = None
    sparse_y_true: bool = True
    sparse_y_pred: bool = True
    axis: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        targets = self._targets()
        if targets is None:
            return
        targets = tuple(map(int, targets))
        object.__setattr__(self, "target_class_ids", targets)
        if not targets or not 0 <= min(targets) <= max(targets) < self.num_classes:
            raise ValueError(
                f"`target_class_ids` must lie in 0..{self.num_classes - 1} for {self.num_classes} classes, "
                f"got {list(targets)}; use MeanIoU for all classes."
            )

    def _targets(self) -> Sequence[int] | None:
        return getattr(self, "target_class_ids", None)

    def empty(self) -> RunningSum:
        """Returns a confusion matrix of zeros."""
        return RunningSum.zeros((self.num_classes, self.num_classes))

    def update(
        self,
        state: RunningSum,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> RunningSum:
        """Returns the confusion matrix with a batch added."""
        y_true, y_pred, mask = jnp.asarray(y_true), jnp.asarray(y_pred), as_mask(mask)
        y_true = y_true if self.sparse_y_true else jnp.argmax(y_true, axis=self.axis)
        y_pred = y_pred if self.sparse_y_pred else jnp.argmax(y_pred, axis=self.axis)
        if y_true.size != y_pred.size:
            rule = "labels and predictions with one class per position"
            fix = "set `sparse_y_true` or `sparse_y_pred` to False for arrays with a class axis"
            raise LabelShapeError(str(self.name), rule, y_true.shape, y_pred.shape, fix)
        shape = y_true.shape
        integer = jnp.issubdtype(jnp.dtype(self.dtype or jnp.int32), jnp.integer)
        y_true, y_pred = (y.reshape(-1).astype(jnp.int32 if integer else jnp.float32) for y in (y_true, y_pred))
        weight = jnp.ones(shape, jnp.int32)  # integers, so that the counts of a batch of many pixels are exact
        if sample_weight is not None:
            weight = as_float(sample_weight)
            weight = weight if self.dtype is None or not integer else jnp.trunc(weight)
            weight = broadcast("sample_weight", weight, shape)
        if mask is not None:
            weight = jnp.where(broadcast("mask", mask, shape), weight, jnp.zeros_like(weight))
        valid = (y_true >= 0) & (y_true < self.num_classes) & (y_pred >= 0) & (y_pred < self.num_classes)
        if self.ignore_class is not None:
            valid = valid & (y_true != self.ignore_class)
        weight = jnp.where(valid, weight.reshape(-1), jnp.zeros_like(weight).reshape(-1))
        index = jnp.where(valid, y_true, 0).astype(jnp.int32) * self.num_classes
        index = index + jnp.where(valid, y_pred, 0).astype(jnp.int32)
        matrix = jax.ops.segment_sum(weight, index, self.num_classes**2)
        return state.add(matrix.reshape(self.num_classes, self.num_classes))

    def compute(self, state: RunningSum) -> jax.Array:
        """Returns the mean over the classes that occur in labels or predictions."""
        matrix = state.value
        intersection = jnp.diagonal(matrix)
        union = jnp.sum(matrix, axis=0) + jnp.sum(matrix, axis=1) - intersection
        targets = self._targets()
        if targets is not None:
            indices = jnp.asarray(targets)
            intersection, union = intersection[indices], union[indices]
        occurs = union > 1e-9
        iou = jnp.where(occurs, intersection / (union + EPSILON), 0.0)
        return jnp.sum(iou) / (jnp.sum(occurs, dtype=jnp.float32) + EPSILON)


@dataclasses.dataclass(frozen=True)
class IoU(_IoU):
    """Mean intersection over union, TP / (TP + FP + FN), of selected classes; classes that do not occur are excluded.

    Args:
        num_classes: The number of classes.
        target_class_ids: The classes to average over.
        name: The name of the metric.
        dtype: With an integer type, weights are truncated to integers, as Keras does by default; None keeps
            them. Class indices are truncated to integers unless this is a float type.
        ignore_class: A label whose positions are not counted.
        sparse_y_true: Whether labels are class indices; otherwise they have a class axis.
        sparse_y_pred: Whether predictions are class indices; otherwise they have a class axis.
        axis: The class axis, if not sparse.

    Shapes: y_true, y_pred [B, ...], or [B, ..., C] if not sparse.

    Raises:
        ValueError: If a target class is out of range.

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
    """Mean intersection over union of the classes 0 and 1.

    Args:
        target_class_ids: The classes to average over.
        threshold: Predictions of at least this value are 1, others are 0.
        name: The name of the metric.
        dtype: As for `IoU`.

    Shapes: y_true, y_pred [B, ...].

    Example:
        >>> m = BinaryIoU(target_class_ids=[1])
        >>> print(m.compute(m.update(m.empty(), jnp.array([0, 1, 1]), jnp.array([0.2, 0.4, 0.9]))).round(4))
        0.5
    """

    target_class_ids: Sequence[int] = (0, 1)
    threshold: float = 0.5
    name: str | None = None
    dtype: DTypeLike | None = None

    @property
    def num_classes(self) -> int:
        """Two: the classes 0 and 1."""
        return 2

    def update(
        self,
        state: RunningSum,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> RunningSum:
        """Returns the confusion matrix with a batch added."""
        return super().update(state, y_true, as_float(y_pred) >= self.threshold, sample_weight, mask)


@dataclasses.dataclass(frozen=True)
class MeanIoU(_IoU):
    """Mean intersection over union of all classes that occur; arguments as for `IoU`."""

    num_classes: int
    name: str | None = None
    dtype: DTypeLike | None = None
    ignore_class: int | None = None
    sparse_y_true: bool = True
    sparse_y_pred: bool = True
    axis: int = -1


@dataclasses.dataclass(frozen=True)
class OneHotIoU(_IoU):
    """Mean intersection over union for one-hot labels and scores per class; arguments as for `IoU`."""

    num_classes: int
    target_class_ids: Sequence[int]
    name: str | None = None
    dtype: DTypeLike | None = None
    ignore_class: int | None = None
    sparse_y_pred: bool = False
    axis: int = -1

    @property
    def sparse_y_true(self) -> bool:
        """False: the labels are one-hot."""
        return False


@dataclasses.dataclass(frozen=True)
class OneHotMeanIoU(_IoU):
    """Mean intersection over union of all classes, for one-hot labels and scores; arguments as for `IoU`."""

    num_classes: int
    name: str | None = None
    dtype: DTypeLike | None = None
    ignore_class: int | None = None
    sparse_y_pred: bool = False
    axis: int = -1

    @property
    def sparse_y_true(self) -> bool:
        """False: the labels are one-hot."""
        return False


def confusion_matrix(y_true: ArrayLike, y_pred: ArrayLike, num_classes: int) -> np.ndarray:
    """Counts on the host how often each class (row) was predicted as each class (column).

    Args:
        y_true: Class indices, or one-hot labels with the shape of the scores.
        y_pred: Class indices, or floating-point scores with the classes on the last axis.
        num_classes: The number of classes.

    Raises:
        ValueError: If the numbers of labels and predictions differ, or a class index is out of range.

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
            f"confusion_matrix takes one label for each prediction, got the shapes {true.shape} and {pred.shape}; "
            f"scores need a last axis of size {num_classes}."
        )
    for y in (true, pred):
        check_labels(y, num_classes)
    index = true.reshape(-1).astype(np.int64) * num_classes + pred.reshape(-1).astype(np.int64)
    return np.bincount(index, minlength=num_classes**2).reshape(num_classes, num_classes)


def plot_confusion_matrix(
    matrix: ArrayLike, class_names: Sequence[str] | None = None, path: str | os.PathLike[str] | None = None
) -> "Figure":
    """Draws a confusion matrix; the colour shows the fraction of the row, the text shows the count.

    Args:
        matrix: Counts [labels, predictions], such as `confusion_matrix` returns.
        class_names: The names of the classes; by default their indices.
        path: The image file to write, if any; its suffix determines the format.

    Returns:
        The `matplotlib.figure.Figure`, which a notebook displays.

    Raises:
        ValueError: If the matrix is not square, or there is not one name per class.
    """
    require_extra("matplotlib", "Plots of a confusion matrix need")
    from matplotlib.figure import Figure

    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"A confusion matrix must be square, got shape {matrix.shape}; use confusion_matrix.")
    size = len(matrix)
    names = [str(i) for i in range(size)] if class_names is None else [str(name) for name in class_names]
    if len(names) != size:
        raise ValueError(f"`class_names` must have one name for each of {size} classes, got {len(names)}.")
    figure = Figure(figsize=(2.5 + 0.45 * size, 2.0 + 0.45 * size), layout="constrained")
    axes = figure.subplots()
    rows = matrix.sum(axis=1, keepdims=True)
    fraction = np.divide(matrix, rows, out=np.zeros(matrix.shape), where=rows != 0)
    image = axes.imshow(fraction, cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(image, ax=axes, label="fraction of the class")
    axes.set_xticks(range(size), names, rotation=45 if max(map(len, names)) > 2 else 0, ha="center")
    axes.set_yticks(range(size), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if size <= 40:  # the counts of larger matrices would be unreadable
        for (row, column), count in np.ndenumerate(matrix):
            color = "white" if fraction[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:g}", ha="center", va="center", color=color, fontsize=8)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
