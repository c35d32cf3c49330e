"""Functions shared by all benchmarks: device name, versions, interleaved timing, tables and CSV files."""

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
    """Returns the name of the accelerator, or of the processor with its number of cores."""
    import jax

    first = jax.devices()[0]
    if first.platform != "cpu":
        return str(first.device_kind)
    name = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        match = re.search(r"model name\s*:\s*(.+)", info.read_text())
        name = match[1] if match else name
    return f"{name} {os.cpu_count()} cores"


def versions(*packages: str) -> str:
    """Returns versions as "jax 0.10.2, flax 0.12.8"; "no keras" for a package that is not installed."""

    def version(name: str) -> str:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            return f"no {name}"

    return ", ".join(map(version, packages))


def environment(*packages: str) -> str:
    """Returns device, number of threads, versions and the machine's load, to print above all results."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{device()}, {threads} threads, python {platform.python_version()}, {versions(*packages)}{load}"


def matrix_peak(size: int = 2048, rounds: int = 7) -> float:
    """Returns the GFLOP/s of the fastest of some products of two float32 matrices."""
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


def results_file(name: str, suffix: str = "csv") -> pathlib.Path:
    """Returns the path of a results file, with device and JAX version in its name."""
    where = re.sub(r"[^A-Za-z0-9]+", "-", f"{device()} jax {importlib.metadata.version('jax')}").strip("-")
    return RESULTS / f"{name}-{where}.{suffix}"


def write_rows(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as CSV, with a column for each key that occurs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: pathlib.Path) -> list[dict[str, str]]:
    """Reads the rows of a CSV file; no rows if the file does not exist."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def merge_rows(
    path: pathlib.Path,
    rows: Sequence[Mapping[str, Any]],
    by: str,
    read: Callable[[pathlib.Path], Sequence[Mapping[str, Any]]] = read_rows,
) -> None:
    """Adds rows to a CSV file.

    Args:
        path: The CSV file.
        rows: The new rows.
        by: The column that identifies a row; a new row replaces an existing row with the same value.
        read: Reads the existing rows.
    """
    new = {str(row[by]) for row in rows}
    existing = [row for row in read(path) if row[by] not in new]
    write_rows(path, sorted([*existing, *rows], key=lambda row: str(row[by])))


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Returns rows as a Markdown table, with all columns or the given ones."""
    columns = columns or list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_format(row.get(c, "")) for c in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def comparison(
    rows: Sequence[Mapping[str, Any]], case: str, competitor: str, value: str, reference: str = "flaxmodels"
) -> list[dict[str, str]]:
    """Returns a row per case with a column per competitor; the speed-up of the reference over it is in brackets.

    Args:
        rows: A row for each competitor in each case.
        case: The column with the name of the case.
        competitor: The column with the name of the competitor.
        value: The column with the speed; higher is better.
        reference: The competitor that all others are compared with.
    """
    names = list(dict.fromkeys(row[competitor] for row in rows))
    names = [reference, *(name for name in names if name != reference)]
    table = []
    for current in dict.fromkeys(row[case] for row in rows):
        speeds = {row[competitor]: float(row[value]) for row in rows if row[case] == current}
        line = {case: current}
        for name in names:
            line[name] = _format(speeds[name]) if name in speeds else ""
            if name in speeds and reference in speeds and name != reference:
                line[name] += f" ({speeds[reference] / speeds[name]:.2f}x)"
        table.append(line)
    return table


def _format(value: Any) -> str:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def interleaved(competitors: Mapping[str, Callable[[], Any]], rounds: int = 7) -> dict[str, list[float]]:
    """Returns the seconds of each competitor's runs, which take turns so that all see the same load.

    Args:
        competitors: Functions that return when their work is done; each has one warm-up run that is not timed.
        rounds: Timed runs of each competitor.
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
    """Returns the median."""
    return statistics.median(values)
