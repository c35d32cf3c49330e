"""Tests the files that a run leaves in its folder."""

import numpy as np

from training import report
from training.callbacks import History


def test_files_and_picture_of_a_run(tmp_path):
    from matplotlib.image import imread

    history = History()
    for epoch, (loss, mae) in enumerate([(2.0, 1.0), (1.0, 0.5), (0.5, 0.2)]):
        validation = {"val_loss": loss + 0.5, "val_mae": mae + 0.2} if epoch else {}
        history.on_epoch_end(epoch, {"loss": loss, "mae": mae} | validation)
    history.seconds = [0.1, 0.1, 0.1]
    paths = report.write(tmp_path / "run", history, "a run")
    assert [path.name for path in paths] == ["history.csv", "history.json", "curves.png"]
    picture = imread(paths[2])
    assert picture.shape[1] > 900  # two panels
    assert (
        len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 50
    )  # lines in two colours, not an empty plot
