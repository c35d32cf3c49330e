"""A dataset: examples for training and test, and their description."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Holds examples and their targets; `x, y = split` returns the inputs of a model and the targets.

    Stored inputs keep their dtype. Images stay uint8, so copying them to a device takes a quarter of the time. A model
    receives `float32(x) * float32(scale)`.

    Args:
        x: Inputs as stored.
        y: Targets: int32 classes, or float32 values.
        scale: Factor from stored inputs to model inputs.
        num_classes: Number of classes, or None if the targets are values.

    Shapes: x [N, ...], y [N] for classes, [N, horizon] for forecasts.

    Raises:
        ValueError: If `x` and `y` differ in length.

    Example:
        >>> split = Split(np.array([[0], [255]], np.uint8), np.array([3, 4], np.int32), scale=1 / 255)
        >>> x, y = split
        >>> x.tolist(), y.tolist(), len(split), split[:1]
        ([[0.0], [1.0]], [3, 4], 2, Split(x=uint8[1, 1] * 0.00392157, y=int32[1]))
    """

    x: np.ndarray
    y: np.ndarray
    scale: float = 1.0
    num_classes: int | None = None

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(
                f"`x` and `y` must have one row per example, got {len(self.x)} and {len(self.y)} rows; "
                "remove the rows without a counterpart."
            )

    def __len__(self) -> int:
        return len(self.y)

    def __iter__(self) -> Iterator[np.ndarray]:
        x = self.x.astype(np.float32, copy=False)
        yield x if self.scale == 1 else x * np.float32(self.scale)
        yield self.y

    def __getitem__(self, index: slice | np.ndarray) -> "Split":
        """Returns a split with the selected examples; the index is a slice, such as `split[:1000]`, or an array."""
        if isinstance(index, int | np.integer):
            raise TypeError(
                f"A Split must be indexed by a slice or an array, which keep the axis of examples, got {index}; "
                f"write [{index}:{index + 1}]."
            )
        return dataclasses.replace(self, x=self.x[index], y=self.y[index])

    def __repr__(self) -> str:
        scale = "" if self.scale == 1 else f" * {self.scale:.6g}"
        return f"Split(x={self.x.dtype}{[*self.x.shape]}{scale}, y={self.y.dtype}{[*self.y.shape]})"


@dataclasses.dataclass(frozen=True)
class Info:
    """Describes a dataset.

    Args:
        name: Name that `load` takes.
        description: One or two sentences.
        task: "classification", "regression" or "forecasting".
        input_shape: Shape of one example.
        source: Origin of the data.
        licence: Terms of the data.
        num_classes: Number of classes, or None if the targets are values.
        class_names: One name per class, in the order of the labels.
        target_scale: Factor from targets to original units; for several targets, one for each.
        target_offset: Added after the factor.
        unit: Original unit of the targets.
    """

    name: str
    description: str
    task: str
    input_shape: tuple[int, ...]
    source: str
    licence: str
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    target_scale: float | tuple[float, ...] = 1.0
    target_offset: float | tuple[float, ...] = 0.0
    unit: str = ""

    def restore(self, y: npt.ArrayLike) -> np.ndarray:
        """Returns targets or forecasts in original units, as float64: `y * target_scale + target_offset`."""
        return np.asarray(y, np.float64) * np.asarray(self.target_scale) + np.asarray(self.target_offset)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Holds a training split, a test split and their description."""

    train: Split
    test: Split
    info: Info
