"""Shared set-up: strict JAX, one compilation cache for all test processes, fixtures, and the selection of cases."""

import collections
import gc
import itertools
import os
import pathlib
import re
import subprocess

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("MPLBACKEND", "agg")

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
# Every STRIDE-th case of a table with more than LONGEST_TABLE cases is run, starting at an offset that depends on the
# commit.
LONGEST_TABLE, STRIDE = 6, 20
REAL_DATA = ROOT.parent / "shared" / "data"

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
# Cache single operations, too: there are thousands of them, and reading one takes a tenth of the time to compile it.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
# Traced programs are millions of long-lived objects. Frequent garbage collection would take a tenth of the time.
gc.set_threshold(50_000, 20, 50)


@pytest.fixture
def getkey():
    """Returns a function that returns a new random key at each call."""
    counter = itertools.count()
    return lambda: jax.random.key(next(counter))


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and jax.default_backend() != "gpu":
        pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(autouse=True)
def _names_in_examples(doctest_namespace):
    """Adds the names that examples in docstrings use without an import."""
    doctest_namespace.update(jax=jax, jnp=jax.numpy, np=np)


def pytest_make_parametrize_id(val):
    """Removes addresses from the names of cases, because they differ between test processes."""
    return re.sub(r" at 0x\w+", "", val) if isinstance(val, str) and " at 0x" in val else None


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run every case, not only one twentieth of each long table")
    parser.addoption(
        "--offset", type=int, help=f"which twentieth, 0 to {STRIDE - 1}; by default the commit's hash modulo {STRIDE}"
    )
    parser.addoption("--optimized", action="store_true", help="compile with XLA's usual optimizations, as --all does")


def pytest_configure(config):
    """Turns off most optimizations unless all cases run, because most of the time goes into compiling programs that run once."""
    if config.option.offset is None:  # a worker of pytest-xdist receives the choice of the main process
        config.option.offset = offset_of(commit())
    if not (config.option.all or config.option.optimized):
        jax.config.update("jax_disable_most_optimizations", True)
        # A program compiles in 24 ms on average without XLA's fusion emitters, and in 60 ms with them. Later versions always
        # use them and have no such flag.
        if jax.__version_info__ < (0, 11):
            flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


def commit():
    """Returns the hash of the current commit, or "0" without git or a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "0"
    return done.stdout.strip()


def offset_of(sha):
    """Returns the offset of a commit. Commits have different offsets, so all cases are run over time."""
    return int(sha, 16) % STRIDE


def pytest_report_header(config):
    if config.option.all:
        return "cases: all"
    optimizations = "all" if config.option.optimized else "few"
    return (
        f"cases: every {STRIDE}th of long tables, --offset {config.option.offset}; {optimizations} optimizations of XLA"
    )


def is_selected(index, size, offset, longest=LONGEST_TABLE):
    """Returns whether to run a case of a table. At least one case of a long table is run for any offset."""
    return size <= longest or index % STRIDE == offset % min(STRIDE, size)


def pytest_collection_modifyitems(config, items):
    """Selects one case of twenty of each long table unless all are requested, which saves half an hour.

    Slow tests marked `rotate` are sampled in the same way, even if their tables are short.
    """
    if config.option.all:
        return
    tables = collections.Counter(item.nodeid.split("[")[0] for item in items)
    seen, selected, deselected = collections.Counter(), [], []
    for item in items:
        table = item.nodeid.split("[")[0]
        longest = 1 if item.get_closest_marker("rotate") else LONGEST_TABLE
        runs = is_selected(seen[table], tables[table], config.option.offset, longest) or item.get_closest_marker(
            "spread"
        )
        (selected if runs else deselected).append(item)
        seen[table] += 1
    config.hook.pytest_deselected(items=deselected)
    items[:] = selected
