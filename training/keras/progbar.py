"""Shows the progress of a loop."""

import math
import time
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from training.progress import format_duration

BAR, REST = "━", "─"


class Progbar:
    """Shows the progress of a loop with averages of its values.

    Args:
        target: The number of steps, None if it is not known.
        width: The columns of the bar.
        verbose: 0 is silent, 1 updates a bar, 2 prints one line at the end.
        interval: The least seconds between two updates.
        stateful_metrics: Names of values that are shown as they are; others are averaged over the steps.
        stateless_metrics: Names of values that are averaged, all others being shown as they are; only one of the two
            lists may be given.
        unit_name: The name of a step.

    Raises:
        ValueError: If `verbose` is unknown, or both lists are given.

    References:
        Keras, `keras.utils.Progbar`.

    Example:
        >>> bar = Progbar(2, verbose=2)
        >>> bar.update(1, [("loss", 3.0)])
        >>> bar.add(1, [("loss", 1.0)])  # doctest: +ELLIPSIS
        2/2 - 0s - ...
    """

    def __init__(
        self,
        target: int | None,
        width: int = 20,
        verbose: int = 1,
        interval: float = 0.05,
        stateful_metrics: Iterable[str] | None = None,
        stateless_metrics: Iterable[str] | None = None,
        unit_name: str = "step",
    ):
        if verbose not in (0, 1, 2):
            raise ValueError(
                f"`verbose` must be 0 (silent), 1 (a bar) or 2 (a line at the end), got {verbose!r}; choose one."
            )
        if stateful_metrics is not None and stateless_metrics is not None:
            raise ValueError(
                f"Progbar takes `stateful_metrics` or `stateless_metrics`, got {list(stateful_metrics)} and "
                f"{list(stateless_metrics)}; leave one out."
            )
        self.target, self.width, self.verbose, self.interval = target, width, verbose, interval
        self.unit_name = unit_name
        self.stateful_metrics = None if stateless_metrics is not None else {*(stateful_metrics or ())}
        self.stateless_metrics = None if stateless_metrics is None else {*stateless_metrics}
        self._start = time.perf_counter()
        self._after_first: float | None = None
        self._drawn = -math.inf
        self._seen = 0
        self._row = 0  # columns of the last row
        self._sums: dict[str, tuple[float | np.floating, int]] = {}

    def update(
        self, current: int, values: Sequence[tuple[str, npt.ArrayLike]] | None = None, finalize: bool | None = None
    ) -> None:
        """Shows the progress after a step.

        Args:
            current: The number of steps so far.
            values: Names and values of the last steps.
            finalize: Whether this is the last update; by default, whether the target is reached. The values of a last
                update are shown as they are.
        """
        if finalize is None:
            finalize = self.target is not None and current >= self.target
        for name, value in values or ():
            self._add(name, value, current, finalize)
        self._seen = current
        now = time.perf_counter()
        per_step = self._seconds_per_step(current, now)
        if self.verbose == 1 and (finalize or now - self._drawn >= self.interval):
            self._draw(current, now, per_step, finalize)
            self._drawn = now
        elif self.verbose == 2 and finalize and self.target:
            spent = f"{now - self._start:.0f}s"
            print(f"{self._count(current)} - {spent} - {self._rate(per_step)}{self._shown()}", flush=True)

    def add(self, n: int, values: Sequence[tuple[str, npt.ArrayLike]] | None = None) -> None:
        """Shows the progress after `n` more steps."""
        self.update(self._seen + n, values)

    def _add(self, name: str, value: npt.ArrayLike, current: int, finalize: bool) -> None:
        averaged = name not in self.stateful_metrics if self.stateful_metrics is not None else name in (
            self.stateless_metrics or ()
        )  # fmt: skip
        mean = np.mean(np.asarray(value))
        if not averaged or finalize:
            self._sums[name] = mean, 1
            return
        # Without new steps since the last update, the values count as those of one step.
        steps = max(current - self._seen, 1)
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = total + mean * steps, count + steps

    def _seconds_per_step(self, current: int, now: float) -> float:
        """Returns the mean time of a step, without the first one, which often compiles."""
        if not current:
            return 0.0
        if self._after_first is not None and current > 1:
            seconds = (now - self._after_first) / (current - 1)
        else:
            seconds = (now - self._start) / current
        if current == 1:
            self._after_first = now
        return seconds

    def _draw(self, current: int, now: float, per_step: float, finalize: bool) -> None:
        if self.target:
            done = min(int(self.width * current / self.target), self.width)
            bar = f"{self._count(current)} {BAR * done}{REST * (self.width - done)}"
        else:
            bar = f"{current:7d}/Unknown"
        if self.target and not finalize:
            spent = format_duration(per_step * (self.target - current))
        else:
            spent = f"{now - self._start:.0f}s"
        row = f"{bar} {spent} {self._rate(per_step)}{self._shown()}"
        end = "\n" if finalize else ""
        print(f"\r{row}{' ' * (self._row - len(row))}{end}", end="", flush=True)
        self._row = len(row)

    def _count(self, current: int) -> str:
        return f"{current:{len(str(self.target))}d}/{self.target}"

    def _rate(self, seconds: float) -> str:
        if seconds >= 1 or seconds == 0:
            return f"{seconds:.0f}s/{self.unit_name}"
        if seconds >= 1e-3:
            return f"{seconds * 1e3:.0f}ms/{self.unit_name}"
        return f"{seconds * 1e6:.0f}us/{self.unit_name}"

    def _shown(self) -> str:
        means = {name: float(total / max(count, 1)) for name, (total, count) in self._sums.items()}
        return "".join(
            f" - {name}: {mean:.4f}" if abs(mean) > 1e-3 else f" - {name}: {mean:.4e}" for name, mean in means.items()
        )
