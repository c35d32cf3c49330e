"""Draws the values of a history over its epochs."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flaxmodels.extras import require_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(epochs: Mapping[str, Sequence[int]], values: Mapping[str, Sequence[Any]], title: str = "") -> "Figure":
    """Draws each value over the epochs, with training and validation in one panel.

    Args:
        epochs: Numbers of the epochs, counted from 0, for each name.
        values: The values at these epochs; `val_loss` shares the panel of `loss`.
        title: Text above the panels.

    Returns:
        A matplotlib figure. It does not belong to pyplot, so nothing has to be closed.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If there is no epoch to draw.
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
    names = [name for name in values if not name.startswith("val_")] or list(values)
    figure = Curves(figsize=(4.2 * len(names), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for i, name in enumerate(names):
        axis: Any = figure.add_subplot(1, len(names), i + 1)
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in values:
                numbers = [epoch + 1 for epoch in epochs[key]]
                axis.plot(numbers, values[key], marker="o", markersize=3, label=label)
        if f"val_{name}" in values:
            axis.legend(frameon=False)
        axis.set(xlabel="epoch", ylabel=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    return figure
