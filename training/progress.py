"""The line that says how training goes: epoch, loss, metrics, examples per second, time left, compilation apart."""

import sys
import time
from typing import Any

Logs = dict[str, float]

DRAW_SECONDS = 0.1


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


def show(logs: Logs) -> str:
    """Values as short text: "loss 0.1234  accuracy 0.9876"."""
    return "  ".join(
        f"{name} {value:.4g}" if abs(value) < 1e-3 else f"{name} {value:.4f}" for name, value in logs.items()
    )


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

    def line(self, logs: Logs) -> str:
        return (
            f"Epoch {self._epoch + 1}/{self.epochs}  {duration(self.train_seconds)}  "
            f"{self.rate:,.0f} {self.unit}/s  {show(logs)}"
        )


class Lines(Progress):
    """A line for each epoch, for logs and pipes."""

    def compiled(self, what: str, seconds: float) -> None:
        super().compiled(what, seconds)
        print(f"{what} compiled in {duration(seconds)}", flush=True)

    def end_epoch(self, logs: Logs) -> None:
        print(self.line(logs), flush=True)


class Live(Progress):
    """A bar that moves while the epoch runs, and a line that stays for each epoch.

    To draw takes milliseconds, and Python does nothing else meanwhile. So a run that is over in a blink gets its lines
    only, the bar moves at most ten times a second, and what short epochs say is written together, in order.
    """

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._bar: Any = None
        self._task: Any = None
        self._lines: list[str] = []
        self._drawn = time.perf_counter()

    def compiling(self, what: str) -> None:
        self._draw(f"compiling {what}", at_once=True)

    def compiled(self, what: str, seconds: float) -> None:
        super().compiled(what, seconds)
        self._lines.append(f"{what} compiled in {duration(seconds)}")
        self._draw("", at_once=True)

    def chunk(self, step: int, examples: int, seconds: float, logs: Logs) -> None:
        super().chunk(step, examples, seconds, logs)
        parts = [f"{step}/{self.steps or '?'}", f"{self.rate:,.0f} {self.unit}/s"]
        if self.steps:
            left = (self.epochs - self._epoch) * self.steps - step
            parts.append(f"{duration(left * self.train_seconds / step)} left")
        self._draw("  ".join([*parts, show(logs)]))

    def end_epoch(self, logs: Logs) -> None:
        self._lines.append(self.line(logs))
        self._draw("")

    def close(self) -> None:
        self._write_lines()
        if self._bar is not None:
            self._bar.stop()

    def _draw(self, text: str, at_once: bool = False) -> None:
        """Writes the lines that wait, and the bar below them with a text, unless that was done just now."""
        if not at_once and time.perf_counter() - self._drawn < DRAW_SECONDS:
            return
        if self._bar is None:
            self._start()
        self._write_lines()
        self._bar.update(self._task, completed=self._step, description=f"Epoch {self._epoch + 1}/{self.epochs}")
        self._bar.update(self._task, text=text)
        self._bar.refresh()
        self._drawn = time.perf_counter()

    def _write_lines(self) -> None:
        if not self._lines:
            return
        text, self._lines = "\n".join(self._lines), []
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.console.print(text)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = [TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}")]
        # Without its own thread, which would take turns with the one that starts the next chunk.
        self._bar = Progress(*columns, console=Console(highlight=False), transient=True, auto_refresh=False)
        self._bar.start()
        self._task = self._bar.add_task("", total=self.steps, text="")
