"""Writes the history of a run to its folder: as CSV, JSON and a plot of the curves."""

import os
import pathlib

from training.callbacks import History


def write(folder: str | os.PathLike[str], history: History, title: str = "") -> list[pathlib.Path]:
    """Writes `history.csv`, `history.json` and `curves.png`.

    Args:
        folder: Folder of the run; created if it does not exist.
        history: History that `fit` returned.
        title: Text above the curves.

    Returns:
        The paths of the three files.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "history.csv", folder / "history.json", folder / "curves.png"]
    history.to_csv(paths[0])
    history.to_json(paths[1])
    history.plot(title).savefig(paths[2], dpi=120)
    return paths
