"""Tests the progress display of a run."""

import io
import re
import sys
import types

import numpy as np
import pytest

from training.progress import Lines, Live, Notebook, Progress, format_duration, format_logs, make_progress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0s"),
        (4.25, "4.2s"),
        (59.94, "59.9s"),
        (59.96, "1m00s"),
        (65, "1m05s"),
        (3600, "1h00m"),
        (7380, "2h03m"),
    ],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_logs_as_text():
    assert format_logs({"loss": 0.12345, "lr": 0.0001, "acc": -2.0}) == "loss 0.1235  lr 0.0001  acc -2.0000"


def test_choice_of_the_display(monkeypatch):
    assert type(make_progress(0, 1, 1, "images")) is Progress
    assert type(make_progress(1, 1, 1, "images")) is Live
    assert type(make_progress(2, 1, 1, "images")) is Lines
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert type(make_progress("auto", 1, 1, "images")) is Live
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    assert type(make_progress("auto", 1, 1, "images")) is Lines
    sentence = "`verbose` must be 'auto', 0 (silent), 1 (live) or 2 (a line per epoch), got 'loud'; use 'auto'."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        make_progress("loud", 1, 1, "images")


def drive(progress):
    for epoch in range(2):
        progress.begin_epoch(epoch)
        if epoch == 0:
            progress.compiling("training")
            progress.compiled("training", 3.0)
        progress.chunk(1, 100, 0.5, {"loss": 2.0})
        progress.chunk(2, 50, 0.25, {"loss": 1.5})
        progress.end_epoch({"loss": 1.5, "val_loss": 1.0})
    progress.close()
    return progress


def test_rates_exclude_compile_time():
    progress = drive(Progress(2, 2, "images"))
    assert (progress.rate, progress.train_seconds, progress.compile_seconds) == (200.0, 0.75, 3.0)


@pytest.mark.parametrize("kind", [Lines, Live])
def test_lines_that_remain(kind, capsys):
    drive(kind(2, 2, "images"))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert [line for line in lines if "Epoch" in line or "compiled" in line] == [
        "training compiled in 3.0s",
        "Epoch 1/2  0.8s  200 images/s  loss 1.5000  val_loss 1.0000",
        "Epoch 2/2  0.8s  200 images/s  loss 1.5000  val_loss 1.0000",
    ]


def test_live_display_draws_at_most_ten_times_a_second_and_loses_no_line(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("training.progress.time.perf_counter", lambda: clock[0])
    progress, drawn = Live(100, 1, "images"), set()
    for epoch in range(100):
        progress.begin_epoch(epoch)
        clock[0] += 0.015
        progress.chunk(1, 10, 0.015, {"loss": 1.0})
        progress.end_epoch({"loss": 1.0})
        drawn.add(progress._drawn)
    progress.close()
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line.split()[1] for line in lines if " images/s" in line] == [f"{i + 1}/100" for i in range(100)]
    assert len(drawn) == 1 + 100 // 7  # every 0.105 s


def test_a_very_short_run_prints_its_lines_only(capsys):
    progress = Live(1, 1, "images")
    progress.begin_epoch(0)
    progress.chunk(1, 10, 0.01, {"loss": 1.0})
    progress.end_epoch({"loss": 1.0})
    assert progress._bar is None
    progress.close()
    assert capsys.readouterr().out == "Epoch 1/1  0.0s  1,000 images/s  loss 1.0000\n"


METRICS = {"loss": 0.4321, "sparse_categorical_accuracy": 0.8765, "mean_absolute_error": 12.5}


def recorded(width, logs, monkeypatch, steps=5389):
    """Returns the display's row in a terminal of this width, and everything that was written."""
    import rich.console

    made = []

    def console(**arguments):
        arguments |= {
            "width": width,
            "file": io.StringIO(),
            "force_terminal": True,
            "record": True,
            "color_system": None,
        }
        made.append(consoles(**arguments))
        return made[-1]

    consoles = rich.console.Console
    monkeypatch.setattr("rich.console.Console", console)
    monkeypatch.setattr("training.progress.DRAW_SECONDS", 0.0)
    progress = Live(12, steps, "images")
    progress.begin_epoch(0)
    progress.chunk(2500, 320000, 8.5, logs)
    shown = consoles(width=width, file=io.StringIO(), record=True)
    shown.print(progress._bar.get_renderable())
    progress.end_epoch(logs)
    progress.close()
    made[0].print("")
    return shown.export_text().splitlines(), made[0].file.getvalue()


@pytest.mark.parametrize(
    ("width", "bar", "text"),
    [
        (
            160,
            24,
            "2500/5389  37,647 images/s  3m31s left  loss 0.4321  sparse_categorical_accuracy 0.8765  "
            "mean_absolute_error 12.5000",
        ),
        (
            120,
            10,
            "2500/5389  37,647 images/s  3m31s left  loss 0.4321  spar_cate_accu 0.8765  mean_abso_erro 12.5000",
        ),
        (80, 10, "2500/5389  37,647 images/s  3m31s left  loss 0.4321  ..."),
        (60, 10, "2500/5389  loss 0.4321"),
        (40, 10, "2500/5389"),
        (20, 10, ""),
    ],
)
def test_the_bar_and_its_text_fit_into_one_row(width, bar, text, monkeypatch):
    (row,), _ = recorded(width, METRICS, monkeypatch)
    assert row.startswith("Epoch 1/12 ━")
    assert "━" not in row[11 + bar :]
    assert row[11 + bar + 1 :].rstrip() == text


def test_lines_are_wrapped_between_values(monkeypatch):
    _, written = recorded(60, METRICS, monkeypatch)
    assert (
        "Epoch 1/12  8.5s  37,647 images/s  loss 0.4321\n"
        "  sparse_categorical_accuracy 0.8765\n"
        "  mean_absolute_error 12.5000\n"
    ) in re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]|\r", "", written)


def test_metrics_with_several_values():
    assert format_logs({"f1_score": np.array([0.25, 0.0001], "float32")}) == "f1_score [0.2500 0.0001]"


class FakeIPython(types.ModuleType):
    """Replaces IPython in the kernel of a notebook, and records what is displayed."""

    def __init__(self):
        super().__init__("IPython")
        self.get_ipython = lambda: types.SimpleNamespace(kernel=object())
        self.shown, self.display = [], types.ModuleType("IPython.display")

        def display(thing, display_id=False):
            assert display_id  # an element that can be updated
            self.shown.append([thing._repr_html_()])
            return types.SimpleNamespace(update=lambda thing: self.shown[-1].append(thing._repr_html_()))

        self.display.display = display


@pytest.fixture
def notebook(monkeypatch):
    fake = FakeIPython()
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", fake.display)
    return fake


def test_choice_of_the_display_in_a_notebook(notebook):
    kinds = [type(make_progress(verbose, 1, 1, "images")) for verbose in ("auto", 0, 1, 2)]
    assert kinds == [Notebook, Progress, Notebook, Lines]
    notebook.get_ipython = lambda: types.SimpleNamespace()  # IPython in a terminal has no kernel
    assert type(make_progress(1, 1, 1, "images")) is Live


def test_a_notebook_shows_one_element_that_is_updated(notebook, capsys, monkeypatch):
    monkeypatch.setattr("training.progress.DRAW_SECONDS", 0.0)
    progress = drive(Notebook(2, 2, "images"))
    (updates,) = notebook.shown
    assert updates[0].endswith('<div><progress value="0" max="2"></progress> Epoch 1/2  compiling training</div>')
    assert "Epoch 1/2  1/2  200 images/s  1.5s left  loss 2.0000</div>" in updates[2]
    row = "<td>{}</td><td>0.8s</td><td>200 images/s</td><td>loss 1.5000</td><td>val_loss 1.0000</td>"
    rows = "\n".join(f"<tr>{row.format(f'Epoch {epoch}/2')}</tr>" for epoch in (1, 2))
    assert updates[-1] == f"<table>\n{rows}\n</table>\n<div>compiled in 3.0s</div>"
    assert repr(progress).splitlines()[1:] == [
        "Epoch 2/2  0.8s  200 images/s  loss 1.5000  val_loss 1.0000",
        "compiled in 3.0s",
    ]
    assert capsys.readouterr().out == ""


def test_a_notebook_shows_the_last_epochs_only_and_updates_ten_times_a_second(notebook, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("training.progress.time.perf_counter", lambda: clock[0])
    progress = Notebook(100, None, "images")
    for epoch in range(100):
        progress.begin_epoch(epoch)
        clock[0] += 0.015
        progress.chunk(1, 10, 0.015, {"loss": 1.0})
        progress.end_epoch({"loss": 1.0})
    progress.close()
    (updates,) = notebook.shown
    assert len(updates) == 1 + 100 // 7
    assert "<progress></progress> Epoch 7/100  1/?  667 images/s  loss 1.0000" in updates[0]
    assert re.findall(r"<td>Epoch (\d+)/100</td>", updates[-1]) == [str(n) for n in range(91, 101)]
