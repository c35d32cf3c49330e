"""Draws the values of a history over its epochs."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flaxmodels.extras import require_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(
    epochs: Mapping[str, Sequence[int]], values: Mapping[str, Sequence[npt.ArrayLike]], title: str = ""
) -> "Figure":
    """Draws each value over the epochs, with training and validation in one panel.

    A metric with a value per class has a line per class. Matrices and text are left out, because they have no curves.

    Args:
        epochs: Numbers of the epochs, counted from 0, for each name.
        values: The values at these epochs; `val_loss` shares the panel of `loss`.
        title: Text above the panels.

    Returns:
        A matplotlib figure. It does not belong to pyplot, so nothing has to be closed.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If there is no epoch to draw, or no value has curves.
    """
    require_extra("matplotlib", "Plots of a history need")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Curves(Figure):
        """A figure that notebooks show without pyplot."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    if not epochs:
        raise ValueError("Plotting a history needs at least one finished epoch, got none; call fit first.")
    drawn = [name for name, found in values.items() if _has_curves(found)]
    if not drawn:
        raise ValueError(
            f"Plotting a history needs numbers, or vectors of numbers, got other values for {', '.join(values)}; add a "
            "metric with one value per epoch."
        )
    names = [name for name in drawn if not name.startswith("val_")] or drawn
    figure = Curves(figsize=(4.2 * len(names), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for i, name in enumerate(names):
        axis: Any = figure.add_subplot(1, len(names), i + 1)
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in drawn:
                numbers = [epoch + 1 for epoch in epochs[key]]
                axis.plot(numbers, values[key], marker="o", markersize=3, label=label)
        if f"val_{name}" in drawn:
            axis.legend(frameon=False)
        axis.set(xlabel="epoch", ylabel=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    return figure


def _has_curves(values: Sequence[npt.ArrayLike]) -> bool:
    """Returns whether the values of all epochs are numbers, or vectors of numbers of one length."""
    shapes = {np.shape(value) for value in values}
    return len(shapes) == 1 and len(shapes.pop()) < 2 and np.asarray(values).dtype.kind in "biuf"
