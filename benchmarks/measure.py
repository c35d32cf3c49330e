"""What all benchmarks share: the machine's name and peak, versions, results as CSV and tables, interleaved timing."""

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
    """Versions as "jax 0.10.2, flax 0.12.8"; of a package that is not installed "no keras"."""

    def version(name: str) -> str:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            return f"no {name}"

    return ", ".join(map(version, packages))


def surroundings(*packages: str) -> str:
    """What a reader needs beside every number: device, threads, versions, and how busy the machine was before."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    return f"{device()}, {threads} threads, python {platform.python_version()}, {versions(*packages)}{load}"


def matrix_peak(size: int = 2048, rounds: int = 7) -> float:
    """GFLOP/s of the best of some products of two float32 matrices: what this machine can do at all, just now."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        product(a).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times) / 1e9


def results_file(question: str, ending: str = "csv") -> pathlib.Path:
    """The file of a question's results, named by device and version."""
    where = re.sub(r"[^A-Za-z0-9]+", "-", f"{device()} jax {importlib.metadata.version('jax')}").strip("-")
    return RESULTS / f"{question}-{where}.{ending}"


def write_rows(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as CSV, a column per key that occurs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
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


def read_rows(path: pathlib.Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Rows as a table for a README, with all columns or some."""
    columns = columns or list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_shown(row.get(c, "")) for c in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def beside(
    rows: Sequence[Mapping[str, Any]], case: str, competitor: str, value: str, first: str = "ours"
) -> list[dict[str, str]]:
    """A row per case and a column per competitor, with how many times as fast the first one is in brackets.

    Args:
        rows: A row for each competitor in each case.
        case: The column that names a case.
        competitor: The column that names a competitor.
        value: The column that is shown; more is better.
        first: The competitor that the others are compared with.
    """
    names = list(dict.fromkeys(row[competitor] for row in rows))
    names = [first, *(name for name in names if name != first)]
    table = []
    for this in dict.fromkeys(row[case] for row in rows):
        found = {row[competitor]: float(row[value]) for row in rows if row[case] == this}
        line = {case: this}
        for name in names:
            times = (
                f" ({found[first] / found[name]:.2f}x)" if name in found and name != first and first in found else ""
            )
            line[name] = f"{_shown(found[name])}{times}" if name in found else ""
        table.append(line)
    return table


def _shown(value: Any) -> str:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


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
