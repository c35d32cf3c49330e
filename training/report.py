"""What a run leaves in its folder: the history as CSV and JSON, and a picture of its curves."""

import os
import pathlib
from typing import Any

from flaxmodels.extras import require_extra
from training.callbacks import History


def write(folder: str | os.PathLike[str], history: History, title: str = "") -> list[pathlib.Path]:
    """Writes `history.csv`, `history.json` and `curves.png`.

    Args:
        folder: Where to; it is made if it is not there.
        history: What `fit` returned.
        title: Stands over the picture.

    Returns:
        The files.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "history.csv", folder / "history.json", folder / "curves.png"]
    history.to_csv(paths[0])
    history.to_json(paths[1])
    draw(history, paths[2], title)
    return paths


def draw(history: History, path: str | os.PathLike[str], title: str = "") -> None:
    """Draws each value over the epochs, training and validation in one panel.

    Args:
        history: What `fit` returned.
        path: Picture to write; the ending decides the format.
        title: Stands over the picture.
    """
    require_extra("matplotlib", "Pictures of a history need")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in history.history if not name.startswith("val_")] or list(history.history)
    figure = Figure(figsize=(4.2 * len(names), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for i, name in enumerate(names):
        axis: Any = figure.add_subplot(1, len(names), i + 1)
        epochs = [epoch + 1 for epoch in history.epoch]
        axis.plot(epochs, history.history[name], marker="o", markersize=3, label="training")
        validation = history.history.get(f"val_{name}", [])
        if validation:
            axis.plot(epochs[-len(validation) :], validation, marker="o", markersize=3, label="validation")
            axis.legend(frameon=False)
        axis.set(xlabel="epoch", title=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
