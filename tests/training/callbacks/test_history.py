"""Tests how a history is displayed: as curves, and as a table in notebooks."""

import csv
import re
import sys

import numpy as np
import pytest

from flaxmodels import Sequential, layers
from training import Trainer
from training.callbacks import History


def recorded():
    history = History()
    for epoch, loss in enumerate([3.0, 1.0, 2.0]):
        logs = {"loss": loss, "accuracy": 1 / loss, "f1_score": np.array([loss, 0.5])}
        history.on_epoch_end(epoch, logs | ({"val_loss": loss} if epoch else {}))
    history.seconds = [1.0, 1.0, 65.0]
    return history


def test_plot_returns_a_figure_with_a_panel_for_each_value():
    figure = recorded().plot("a run")
    assert [axis.get_ylabel() for axis in figure.axes] == ["loss", "accuracy", "f1_score"]
    training, validation = figure.axes[0].lines
    np.testing.assert_array_equal(training.get_xydata(), [[1, 3], [2, 1], [3, 2]])
    np.testing.assert_array_equal(validation.get_xydata(), [[2, 1], [3, 2]])  # validation started late
    assert figure.get_suptitle() == "a run"
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_plot_does_not_load_pyplot(monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    recorded().plot()
    assert "matplotlib.pyplot" not in sys.modules


def test_plot_without_matplotlib_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    sentence = "Plots of a history need matplotlib, which is not installed; run pip install 'flaxmodels-training[cli]'."
    with pytest.raises(ModuleNotFoundError, match=f"^{re.escape(sentence)}$"):
        recorded().plot()


def test_plot_of_a_run_without_epochs_is_refused():
    sentence = "Plotting a history needs at least one finished epoch, got none; call fit first."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        History().plot()


def test_plot_leaves_out_matrices_and_text():
    history = History()
    for epoch in range(2):
        logs = {"confusion": np.eye(3), "loss": 2.0 - epoch, "phase": "warm-up", "f1_score": np.array([0.5, 1.0])}
        history.on_epoch_end(epoch, logs | {"val_loss": 1.0, "val_confusion": np.eye(3)})
    axes = history.plot().axes
    assert [axis.get_ylabel() for axis in axes] == ["loss", "f1_score"]
    assert [len(axis.lines) for axis in axes] == [2, 2]
    np.testing.assert_array_equal(axes[1].lines[1].get_xydata(), [[1, 1], [2, 1]])


def test_plot_without_numbers_is_refused():
    history = History()
    history.on_epoch_end(0, {"confusion": np.eye(3), "phase": "warm-up"})
    sentence = (
        "Plotting a history needs numbers, or vectors of numbers, got other values for confusion, phase; add a metric "
        "with one value per epoch."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        history.plot()


def test_table_shows_last_lowest_and_highest_values():
    rows = re.findall(r"<tr>(.*?)</tr>", recorded()._repr_html_())
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]
    assert cells == [
        ["", "last", "lowest (epoch)", "highest (epoch)"],
        ["loss", "2.0000", "1.0000 (2)", "3.0000 (1)"],
        ["accuracy", "0.5000", "0.3333 (1)", "1.0000 (2)"],
        ["f1_score", "[2.0000 0.5000]", "", ""],
        ["val_loss", "2.0000", "1.0000 (2)", "2.0000 (3)"],
    ]
    assert "<caption>3 epochs, 1m07s</caption>" in recorded()._repr_html_()


@pytest.mark.parametrize(("epochs", "count"), [(0, "0 epochs"), (1, "1 epoch"), (2, "2 epochs")])
def test_table_counts_the_epochs(epochs, count):
    history = History()
    for epoch in range(epochs):
        history.on_epoch_end(epoch, {"loss": 1.0})
    assert f"<caption>{count}, 0.0s</caption>" in history._repr_html_()


def test_table_of_a_real_run():
    trainer = Trainer(Sequential([layers.Dense(1, input_shape=(1,))]), "sgd", "mse", metrics=["mae"])
    x = np.linspace(-1, 1, 20, dtype="float32")[:, None]
    history = trainer.fit(x, 2 * x, epochs=3, verbose=0)
    last = history.history["mae"][-1]
    assert f"<td>mae</td><td>{last:.4f}</td><td>{last:.4f} (3)</td>" in history._repr_html_()


def test_table_of_a_run_without_epochs_is_empty():
    assert "<td>" not in History()._repr_html_()


def test_values_that_are_not_numbers_are_no_extremes():
    history = History()
    for epoch, loss in enumerate([float("nan"), 2.0]):
        history.on_epoch_end(epoch, {"loss": loss})
    assert "<td>2.0000 (2)</td><td>2.0000 (2)</td>" in history._repr_html_()
    history = History()
    for epoch in range(2):
        history.on_epoch_end(epoch, {"loss": float("nan")})
    assert "<td>nan</td><td></td><td></td>" in history._repr_html_()


def test_logged_text_has_no_lowest_and_highest_value():
    history = History()
    for epoch, name in enumerate(("warm-up", "cosine")):
        history.on_epoch_end(epoch, {"loss": 2.0 - epoch, "phase": name})
    table = history._repr_html_()
    assert "<td>phase</td><td>cosine</td><td></td><td></td>" in table
    assert "<td>loss</td><td>1.0000</td><td>1.0000 (2)</td><td>2.0000 (1)</td>" in table


def test_values_of_some_epochs_stay_with_these_epochs(tmp_path):
    trainer = Trainer(Sequential([layers.Dense(1, input_shape=(1,))]), "sgd", "mse")
    x = np.linspace(-1, 1, 20, dtype="float32")[:, None]
    history = trainer.fit(x, 2 * x, epochs=5, validation_split=0.4, validation_freq=2, verbose=0)
    first, second = history.history["val_loss"]
    assert history.epochs_of["val_loss"] == [1, 3]
    assert (
        f"<td>val_loss</td><td>{second:.4f}</td><td>{first:.4f} (2)</td><td>{second:.4f} (4)</td>"
        in history._repr_html_()
    )
    history.to_csv(tmp_path / "history.csv")
    with open(tmp_path / "history.csv", newline="") as file:
        column = [row["val_loss"] for row in csv.DictReader(file)]
    assert column == ["", str(first), "", str(second), ""]
    line = history.plot().axes[0].get_lines()[1]
    assert line.get_xdata().tolist() == [2, 4] and line.get_ydata().tolist() == [first, second]
