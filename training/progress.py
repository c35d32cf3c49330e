"""The line that says how training goes: epoch, loss, metrics, examples per second, time left, compilation apart."""

import sys
import time
from typing import Any

import jax
import numpy as np

Logs = dict[str, Any]  # from names to numbers, or to arrays where a metric has several values

DRAW_SECONDS = 0.1
BAR_WIDTHS = (24, 10)  # the second where not everything fits beside the first


def make_progress(verbose: str | int, epochs: int, steps: int | None, unit: str) -> "Progress":
    """Chooses the display: 0 silent, 1 live, 2 a line per epoch; "auto" is live on a terminal, else lines.

    Raises:
        ValueError: If `verbose` is something else.
    """
    if verbose not in ("auto", 0, 1, 2, True, False):
        raise ValueError(
            f"`verbose` is 'auto', 0 (silent), 1 (live) or 2 (a line per epoch), got {verbose!r}; use 'auto'."
        )
    if verbose == "auto":
        verbose = 1 if sys.stdout.isatty() else 2
    kind = {0: Progress, 1: Live, 2: Lines}[int(verbose)]
    return kind(epochs, steps, unit)


def example_unit(x: Any) -> str:
    """Returns what an example is called in rates: images, sequences, or just examples."""
    leaves = jax.tree.leaves(x)
    return {4: "images", 3: "sequences"}.get(leaves[0].ndim, "examples") if len(leaves) == 1 else "examples"


def show(logs: Logs) -> str:
    """Returns values as short text: "loss 0.1234  accuracy 0.9876"."""
    return "  ".join(f"{name} {_number(value)}" for name, value in logs.items())


def _number(value: Any) -> str:
    if np.ndim(value):
        return f"[{' '.join(map(_number, np.ravel(value)))}]"
    return f"{value:.4g}" if abs(value) < 1e-3 else f"{value:.4f}"


def shortened(name: str, letters: int) -> str:
    """Returns a name of which words of more than four letters are cut.

    Example:
        >>> shortened("val_sparse_categorical_accuracy", 3)
        'val_spa_cat_acc'
    """
    return "_".join(word if len(word) <= 4 else word[:letters] for word in name.split("_"))


def fitted(parts: list[str], logs: Logs, width: int) -> tuple[int, str]:
    """Chooses what fits into one row: the width of the bar, and a text beside it.

    Where there is no room for everything, the words of names are cut first, then the bar is narrower; then values are
    left out from the last to the first, and at last parts are.

    Args:
        parts: Steps, rate and time left.
        logs: The values.
        width: Columns for bar and text, with one between them.
    """
    wide, narrow = BAR_WIDTHS
    names = [logs, *({shortened(name, n): value for name, value in logs.items()} for n in (5, 4, 3))]
    short = list(names[-1].items())
    fewer = [dict(short[:n]) for n in range(len(short) - 1, 0, -1)]
    choices = [(wide, [*parts, show(some)]) for some in names]
    choices += [(narrow, [*parts, show(some)]) for some in names]
    choices += [(narrow, [*parts, show(some), "..."]) for some in fewer]
    choices += [(narrow, [*parts[:n], show(dict(short[:1]))]) for n in range(len(parts) - 1, 0, -1)]
    choices += [(narrow, parts[:n]) for n in range(len(parts), 0, -1)]
    texts = ((bar, "  ".join(filter(None, items))) for bar, items in choices)
    return next(((bar, text) for bar, text in texts if bar + 1 + len(text) <= width), (narrow, ""))


def wrapped(items: list[str], width: int) -> str:
    """Joins items to rows of at most this width, the second and later ones indented; no item is cut in two."""
    rows = [items[0]]
    for item in items[1:]:
        fits = len(rows[-1]) + 2 + len(item) <= width
        rows[-1:] = [f"{rows[-1]}  {item}"] if fits else [rows[-1], f"  {item}"]
    return "\n".join(rows)


def duration(seconds: float) -> str:
    """Seconds as people say them: 4.2s, 1m05s, 2h03m."""
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class Progress:
    """Shows nothing, but keeps the time; the base of the displays.

    Args:
        epochs: Number of the last epoch, counted from 1.
        steps: Steps in an epoch, None if that is not known.
        unit: What an example is called, "images".
    """

    def __init__(self, epochs: int, steps: int | None, unit: str):
        self.epochs, self.steps, self.unit = epochs, steps, unit
        self.compile_seconds = 0.0
        self.train_seconds = 0.0
        self._examples_done = 0
        self._epoch, self._step = 0, 0

    def begin_epoch(self, epoch: int) -> None:
        self._epoch, self._step = epoch, 0
        self.train_seconds, self._examples_done = 0.0, 0

    def compiling(self, what: str) -> None:
        """The compilation of `what`, "training" or "validation", starts; it may take a while."""

    def compiled(self, what: str, seconds: float) -> None:
        self.compile_seconds += seconds

    def chunk(self, step: int, examples: int, seconds: float, logs: Logs) -> None:
        """Steps up to `step` are done; the last of them took `seconds` for `examples` examples."""
        self._step = step
        self.train_seconds += seconds
        self._examples_done += examples

    def end_epoch(self, logs: Logs) -> None:
        """The epoch and its validation are done."""

    def close(self) -> None:
        """The display ends, whatever happened."""

    @property
    def rate(self) -> float:
        """Examples per second of the epoch so far, compilation and validation left out."""
        return self._examples_done / self.train_seconds if self.train_seconds else 0.0

    def line(self, logs: Logs) -> list[str]:
        """Returns what is reported of an epoch."""
        epoch, rate = f"Epoch {self._epoch + 1}/{self.epochs}", f"{self.rate:,.0f} {self.unit}/s"
        return [epoch, duration(self.train_seconds), rate, *(show({name: value}) for name, value in logs.items())]


class Lines(Progress):
    """A line for each epoch, for logs and pipes."""

    def compiled(self, what: str, seconds: float) -> None:
        super().compiled(what, seconds)
        print(f"{what} compiled in {duration(seconds)}", flush=True)

    def end_epoch(self, logs: Logs) -> None:
        print("  ".join(self.line(logs)), flush=True)


class Live(Progress):
    """A bar that moves while the epoch runs, and a line that stays for each epoch.

    To draw takes milliseconds, and Python does nothing else meanwhile. So a run that is over in a blink gets its lines
    only, the bar moves at most ten times a second, and what short epochs say is written together, in order.
    """

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._bar: Any = None
        self._task: Any = None
        self._column: Any = None  # of the bar
        self._lines: list[list[str]] = []
        self._drawn = time.perf_counter()

    def compiling(self, what: str) -> None:
        self._draw([f"compiling {what}"], {}, at_once=True)

    def compiled(self, what: str, seconds: float) -> None:
        super().compiled(what, seconds)
        self._lines.append([f"{what} compiled in {duration(seconds)}"])
        self._draw([], {}, at_once=True)

    def chunk(self, step: int, examples: int, seconds: float, logs: Logs) -> None:
        super().chunk(step, examples, seconds, logs)
        parts = [f"{step}/{self.steps or '?'}", f"{self.rate:,.0f} {self.unit}/s"]
        if self.steps:
            left = (self.epochs - self._epoch) * self.steps - step
            parts.append(f"{duration(left * self.train_seconds / step)} left")
        self._draw(parts, logs)

    def end_epoch(self, logs: Logs) -> None:
        self._lines.append(self.line(logs))
        self._draw([], {})

    def close(self) -> None:
        self._write_lines()
        if self._bar is not None:
            self._bar.stop()

    def _draw(self, parts: list[str], logs: Logs, at_once: bool = False) -> None:
        """Writes the lines that wait, and the bar below them with a text, unless that was done just now."""
        if not at_once and time.perf_counter() - self._drawn < DRAW_SECONDS:
            return
        if self._bar is None:
            self._start()
        self._write_lines()
        description = f"Epoch {self._epoch + 1}/{self.epochs}"
        self._column.bar_width, text = fitted(parts, logs, self._bar.console.width - len(description) - 1)
        self._bar.update(self._task, completed=self._step, description=description, text=text)
        self._bar.refresh()
        self._drawn = time.perf_counter()

    def _write_lines(self) -> None:
        lines, self._lines = self._lines, []
        if lines and self._bar is None:
            print("\n".join(map("  ".join, lines)), flush=True)
        elif lines:
            self._bar.console.print("\n".join(wrapped(line, self._bar.console.width) for line in lines))

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._column = BarColumn(bar_width=BAR_WIDTHS[0])
        columns = [TextColumn("{task.description}"), self._column, TextColumn("{task.fields[text]}", markup=False)]
        # Without its own thread, which would take turns with the one that starts the next chunk.
        self._bar = Progress(*columns, console=Console(highlight=False), transient=True, auto_refresh=False)
        self._bar.start()
        self._task = self._bar.add_task("", total=self.steps, text="")
