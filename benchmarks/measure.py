"""What all benchmarks share: the name of the machine and the versions, results as CSV, interleaved timing."""

import csv
import importlib.metadata
import os
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results"


def device() -> str:
    """The accelerator's name, or the processor's and its number of cores."""
    import jax

    first = jax.devices()[0]
    if first.platform != "cpu":
        return str(first.device_kind)
    name = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        name = found[1] if found else name
    return f"{name} {os.cpu_count()} cores"


def versions(*packages: str) -> str:
    """Versions as "jax 0.10.2, flax 0.12.8"."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def results_file(question: str, ending: str = "csv") -> pathlib.Path:
    """The file of a question's results, named by device and version."""
    where = re.sub(r"[^A-Za-z0-9]+", "-", f"{device()} jax {importlib.metadata.version('jax')}").strip("-")
    return RESULTS / f"{question}-{where}.{ending}"


def write_rows(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as CSV, a column per key of the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def merge_rows(path: pathlib.Path, rows: Sequence[Mapping[str, Any]], by: str) -> None:
    """Writes rows as CSV; rows that are there already stay, unless a new one has the same value of column `by`."""
    new = {str(row[by]) for row in rows}
    old = []
    if path.exists():
        with open(path, newline="") as file:
            old = [row for row in csv.DictReader(file) if row[by] not in new]
    write_rows(path, sorted([*old, *rows], key=lambda row: str(row[by])))


def interleaved(competitors: Mapping[str, Callable[[], Any]], rounds: int = 7) -> dict[str, list[float]]:
    """Seconds of each competitor's runs, taken in turns so that all see the same machine.

    Args:
        competitors: Functions that return when their work is done; each is run once before, uncounted.
        rounds: Counted runs of each.
    """
    for run in competitors.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    for _ in range(rounds):
        for name, run in competitors.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
