"""Shows the progress of a run: epoch, loss, metrics, examples per second and time left, which excludes compile time."""

import collections
import html
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

Logs = Mapping[str, Any]  # from names to numbers, or to arrays for metrics with several values

DRAW_SECONDS = 0.1  # between two updates of the display
BAR_WIDTHS = (24, 10)  # the second one is used if not everything fits beside the first
NOTEBOOK_ROWS = 10  # finished epochs that a notebook shows


def make_progress(verbose: str | int, epochs: int, steps: int | None, unit: str) -> "Progress":
    """Chooses the display.

    Args:
        verbose: 0 is silent, 1 is live, 2 prints a line per epoch; "auto" is live on a terminal and in a notebook, and
            prints lines elsewhere.
        epochs: Number of the last epoch, counted from 1.
        steps: Steps in an epoch, or None if unknown.
        unit: Name of an example, such as "images".

    Raises:
        ValueError: If `verbose` is none of these.
    """
    if verbose not in ("auto", 0, 1, 2, True, False):
        raise ValueError(
            f"`verbose` must be 'auto', 0 (silent), 1 (live) or 2 (a line per epoch), got {verbose!r}; use 'auto'."
        )
    notebook = in_notebook()
    if verbose == "auto":
        verbose = 1 if notebook or sys.stdout.isatty() else 2
    kind = {0: Progress, 1: Notebook if notebook else Live, 2: Lines}[int(verbose)]
    return kind(epochs, steps, unit)


def in_notebook() -> bool:
    """Returns whether this process is the kernel of a notebook, which shows HTML."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def example_unit(x: object) -> str:
    """Returns the unit of rates: images, sequences or examples."""
    leaves = jax.tree.leaves(x)
    return {4: "images", 3: "sequences"}.get(leaves[0].ndim, "examples") if len(leaves) == 1 else "examples"


def format_logs(logs: Logs) -> str:
    """Returns values as short text: "loss 0.1234  accuracy 0.9876"."""
    return "  ".join(f"{name} {format_value(value)}" for name, value in logs.items())


def format_value(value: npt.ArrayLike | None) -> str:
    """Returns a number, or an array of numbers, as short text.

    Example:
        >>> format_value(0.12345), format_value(0.00012345), format_value(np.array([0.5, 1.0]))
        ('0.1235', '0.0001234', '[0.5000 1.0000]')
    """
    if value is None or isinstance(value, str):  # a callback may log text
        return str(value)
    if np.ndim(value):
        return f"[{' '.join(map(format_value, np.ravel(value)))}]"
    number = np.asarray(value).item()
    return f"{number:.4g}" if abs(number) < 1e-3 else f"{number:.4f}"


def shorten_name(name: str, letters: int) -> str:
    """Cuts the words of a name that have more than four letters to `letters` letters.

    Example:
        >>> shorten_name("val_sparse_categorical_accuracy", 3)
        'val_spa_cat_acc'
    """
    return "_".join(word if len(word) <= 4 else word[:letters] for word in name.split("_"))


def fit_to_row(parts: list[str], logs: Logs, width: int) -> tuple[int, str]:
    """Chooses the width of the bar and the text beside it, so that both fit into one row.

    If there is not enough space, first the words of names are cut. Next the bar gets narrower, then values are left
    out from the last to the first, and finally parts are left out.

    Args:
        parts: Steps, rate and time left.
        logs: Values to show.
        width: Columns for the bar, a space and the text.
    """
    wide, narrow = BAR_WIDTHS
    names = [logs, *({shorten_name(name, n): value for name, value in logs.items()} for n in (5, 4, 3))]
    short = list(names[-1].items())
    fewer = [dict(short[:n]) for n in range(len(short) - 1, 0, -1)]
    choices = [(wide, [*parts, format_logs(some)]) for some in names]
    choices += [(narrow, [*parts, format_logs(some)]) for some in names]
    choices += [(narrow, [*parts, format_logs(some), "..."]) for some in fewer]
    choices += [(narrow, [*parts[:n], format_logs(dict(short[:1]))]) for n in range(len(parts) - 1, 0, -1)]
    choices += [(narrow, parts[:n]) for n in range(len(parts), 0, -1)]
    texts = ((bar, "  ".join(filter(None, items))) for bar, items in choices)
    return next(((bar, text) for bar, text in texts if bar + 1 + len(text) <= width), (narrow, ""))


def wrap_items(items: list[str], width: int) -> str:
    """Joins items into lines of at most `width` characters and indents all but the first. Items are never split."""
    rows = [items[0]]
    for item in items[1:]:
        fits = len(rows[-1]) + 2 + len(item) <= width
        rows[-1:] = [f"{rows[-1]}  {item}"] if fits else [rows[-1], f"  {item}"]
    return "\n".join(rows)


def format_duration(seconds: float) -> str:
    """Returns seconds as short text, such as 4.2s, 1m05s or 2h03m."""
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class Progress:
    """Measures times and shows nothing; the base of the displays.

    Args:
        epochs: Number of the last epoch, counted from 1.
        steps: Steps in an epoch, or None if unknown.
        unit: Name of an example, such as "images".
    """

    def __init__(self, epochs: int, steps: int | None, unit: str):
        self.epochs, self.steps, self.unit = epochs, steps, unit
        self.compile_seconds = 0.0
        self.train_seconds = 0.0
        self._examples_done = 0
        self._epoch, self._step = 0, 0

    def begin_epoch(self, epoch: int) -> None:
        """Starts an epoch, counted from 0."""
        self._epoch, self._step = epoch, 0
        self.train_seconds, self._examples_done = 0.0, 0

    def compiling(self, what: str) -> None:
        """Notes that the compilation of `what`, "training" or "validation", starts; it may take a while."""

    def compiled(self, what: str, seconds: float) -> None:
        """Notes that the compilation of `what` took `seconds`."""
        self.compile_seconds += seconds

    def chunk(self, step: int, examples: int, seconds: float, logs: Logs) -> None:
        """Notes that `step` steps of the epoch are done; the last chunk took `seconds` for `examples` examples."""
        self._step = step
        self.train_seconds += seconds
        self._examples_done += examples

    def end_epoch(self, logs: Logs) -> None:
        """Notes that the epoch and its validation are done."""

    def close(self) -> None:
        """Ends the display, also after an error."""

    @property
    def rate(self) -> float:
        """Examples per second of the epoch so far, without compilation and validation."""
        return self._examples_done / self.train_seconds if self.train_seconds else 0.0

    @property
    def title(self) -> str:
        """The epoch, such as "Epoch 1/12"."""
        return f"Epoch {self._epoch + 1}/{self.epochs}"

    def parts(self) -> list[str]:
        """Returns steps, rate and, if the number of steps is known, the time left of the run."""
        parts = [f"{self._step}/{self.steps or '?'}", f"{self.rate:,.0f} {self.unit}/s"]
        if self.steps and self._step:
            left = (self.epochs - self._epoch) * self.steps - self._step
            parts.append(f"{format_duration(left * self.train_seconds / self._step)} left")
        return parts

    def line(self, logs: Logs) -> list[str]:
        """Returns the items of the line about a finished epoch."""
        rate = f"{self.rate:,.0f} {self.unit}/s"
        return [
            self.title,
            format_duration(self.train_seconds),
            rate,
            *(format_logs({name: logs[name]}) for name in logs),
        ]


class Lines(Progress):
    """Prints a line per epoch, for log files and pipes."""

    def compiled(self, what: str, seconds: float) -> None:
        super().compiled(what, seconds)
        print(f"{what} compiled in {format_duration(seconds)}", flush=True)

    def end_epoch(self, logs: Logs) -> None:
        print("  ".join(self.line(logs)), flush=True)


class Live(Progress):
    """Shows a moving bar on a terminal, and leaves a line per epoch.

    Drawing takes milliseconds, in which Python does nothing else. So the bar moves at most ten times a second, lines of
    short epochs are written together in order, and a very short run prints only its lines.
    """

    def __init__(self, epochs: int, steps: int | None, unit: str):
        super().__init__(epochs, steps, unit)
        self._bar: Any = None
        self._task: Any = None
        self._column: Any = None  # of the bar
        self._lines: list[list[str]] = []
        self._drawn = time.perf_counter()

    def compiling(self, what: str) -> None:
        self._draw([f"compiling {what}"], {}, at_once=True)

    def compiled(self, what: str, seconds: float) -> None:
        super().compiled(what, seconds)
        self._lines.append([f"{what} compiled in {format_duration(seconds)}"])
        self._draw([], {}, at_once=True)

    def chunk(self, step: int, examples: int, seconds: float, logs: Logs) -> None:
        super().chunk(step, examples, seconds, logs)
        self._draw(self.parts(), logs)

    def end_epoch(self, logs: Logs) -> None:
        self._lines.append(self.line(logs))
        self._draw([], {})

    def close(self) -> None:
        self._write_lines()
        if self._bar is not None:
            self._bar.stop()

    def _draw(self, parts: list[str], logs: Logs, at_once: bool = False) -> None:
        """Writes the waiting lines, and the bar with its text below them, unless the last update was just now."""
        if not at_once and time.perf_counter() - self._drawn < DRAW_SECONDS:
            return
        if self._bar is None:
            self._start()
        self._write_lines()
        self._column.bar_width, text = fit_to_row(parts, logs, self._bar.console.width - len(self.title) - 1)
        self._bar.update(self._task, completed=self._step, description=self.title, text=text)
        self._bar.refresh()
        self._drawn = time.perf_counter()

    def _write_lines(self) -> None:
        lines, self._lines = self._lines, []
        if lines and self._bar is None:
            print("\n".join(map("  ".join, lines)), flush=True)
        elif lines:
            self._bar.console.print("\n".join(wrap_items(line, self._bar.console.width) for line in lines))

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._column = BarColumn(bar_width=BAR_WIDTHS[0])
        columns = [TextColumn("{task.description}"), self._column, TextColumn("{task.fields[text]}", markup=False)]
        # A refresh thread would compete with the thread that starts the next chunk.
        self._bar = Progress(*columns, console=Console(highlight=False), transient=True, auto_refresh=False)
        self._bar.start()
        self._task = self._bar.add_task("", total=self.steps, text="")


class Notebook(Progress):
    """Shows one element in a notebook and updates it in place: a bar, and a table of the last epochs."""

    def __init__(self, epochs: int, steps: int | None, unit: str):
        super().__init__(epochs, steps, unit)
        self._handle: Any = None
        self._rows: collections.deque[list[str]] = collections.deque(maxlen=NOTEBOOK_ROWS)
        self._status = ""  # of the running epoch; empty when the run is over
        self._drawn = time.perf_counter()

    def compiling(self, what: str) -> None:
        self._draw(f"{self.title}  compiling {what}", at_once=True)

    def compiled(self, what: str, seconds: float) -> None:
        super().compiled(what, seconds)
        self._draw(self.title, at_once=True)

    def chunk(self, step: int, examples: int, seconds: float, logs: Logs) -> None:
        super().chunk(step, examples, seconds, logs)
        self._draw("  ".join([self.title, *self.parts(), format_logs(logs)]))

    def end_epoch(self, logs: Logs) -> None:
        self._rows.append(self.line(logs))
        self._draw(self.title)

    def close(self) -> None:
        if self._rows or self._handle is not None:
            self._draw("", at_once=True)

    def _draw(self, status: str, at_once: bool = False) -> None:
        """Updates the element, unless the last update was just now."""
        self._status = status
        if not at_once and time.perf_counter() - self._drawn < DRAW_SECONDS:
            return
        if self._handle is None:
            from IPython.display import display

            self._handle = display(self, display_id=True)
        else:
            self._handle.update(self)
        self._drawn = time.perf_counter()

    def __repr__(self) -> str:
        lines = ["  ".join(row) for row in self._rows]
        return "\n".join([*lines, *([self._status] if self._status else [self._compile_note()])])

    def _repr_html_(self) -> str:
        rows = "\n".join(f"<tr>{''.join(f'<td>{html.escape(item)}</td>' for item in row)}</tr>" for row in self._rows)
        table = f"<table>\n{rows}\n</table>" if rows else ""
        if not self._status:
            return f"{table}\n<div>{self._compile_note()}</div>"
        value = f' value="{self._step}" max="{self.steps}"' if self.steps else ""
        return f"{table}\n<div><progress{value}></progress> {html.escape(self._status)}</div>"

    def _compile_note(self) -> str:
        return f"compiled in {format_duration(self.compile_seconds)}"
