"""Checks on the host that labels are valid class indices."""

import numpy as np
from numpy.typing import ArrayLike


def check_labels(y: ArrayLike, num_classes: int, ignore_class: int | None = None) -> None:
    """Raises ValueError if a class index is out of range for a model with `num_classes` outputs.

    A compiled step cannot raise for such a label; the loss would silently be 0.

    Args:
        y: The labels, an array on the host.
        num_classes: The number of classes of the model.
        ignore_class: A label that is always valid, because the loss ignores it.

    Raises:
        ValueError: If a label is not a whole number in 0..num_classes-1.

    Example:
        >>> check_labels([0, 9, 255], num_classes=10, ignore_class=255)
    """
    y = np.asarray(y)
    wrong = ~((y >= 0) & (y < num_classes) & (y == np.floor(y)))
    if ignore_class is not None:
        wrong &= y != ignore_class
    if wrong.any():
        index = np.unravel_index(np.argmax(wrong), y.shape)
        where = f" at index {index[0] if len(index) == 1 else tuple(map(int, index))}" if index else ""
        others = np.count_nonzero(wrong) - 1
        more = f" and {others} more" if others else ""
        raise ValueError(
            f"Labels must lie in 0..{num_classes - 1} for {num_classes} classes, "
            f"got {y[index].item()}{where}{more}; "
            "number the classes from 0, give the last layer more units, or exclude a label with `ignore_class`."
        )
