"""Strict JAX, warnings as errors, a key for whoever asks, one compilation cache for all test processes."""

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
LONGEST_TABLE, STRIDE = 6, 20  # cases; of a longer table every twentieth is run, from an offset that each commit has
REAL_DATA = ROOT.parent / "shared" / "data"

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
# Single operations, too: there are thousands of them, and reading one takes a tenth of the time.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


# Traced programs are millions of long-lived objects; scanning all of them often would take a tenth of the time.
gc.set_threshold(50_000, 20, 50)


@pytest.fixture
def getkey():
    """A fresh random key at each call."""
    counter = itertools.count()
    return lambda: jax.random.key(next(counter))


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and jax.default_backend() != "gpu":
        pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(autouse=True)
def _names_in_examples(doctest_namespace):
    """What the examples in docstrings may use without importing it."""
    doctest_namespace.update(jax=jax, jnp=jax.numpy, np=np)


def pytest_make_parametrize_id(val):
    """Names without addresses, which differ among the processes that share the tests."""
    return re.sub(r" at 0x\w+", "", val) if isinstance(val, str) and " at 0x" in val else None


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run every case; otherwise one twentieth of each long table")
    parser.addoption(
        "--offset", type=int, help=f"which twentieth, 0 to {STRIDE - 1}; by default the commit's hash modulo {STRIDE}"
    )
    parser.addoption("--optimized", action="store_true", help="compile with XLA's usual optimizations, as --all does")


def pytest_configure(config):
    """Most of the time goes into compiling; programs that are run once need not be fast. All cases are compiled as for users."""
    if config.option.offset is None:  # a worker of pytest-xdist receives what the main process has chosen
        config.option.offset = offset_of(commit())
    if not (config.option.all or config.option.optimized):
        jax.config.update("jax_disable_most_optimizations", True)
        # What XLA wrote code with before its emitters of fusions takes 24 ms for a program on average, they take 60; later
        # versions have nothing else, and no such flag.
        if jax.__version_info__ < (0, 11):
            flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


def commit():
    """The hash of the commit that is checked out, "0" where there is no git or no repository."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "0"
    return found.stdout.strip()


def offset_of(sha):
    """Each commit runs another twentieth of the long tables, so that all cases are run again and again."""
    return int(sha, 16) % STRIDE


def pytest_report_header(config):
    if config.option.all:
        return "cases: all"
    compiled = "usual" if config.option.optimized else "hardly any"
    return f"cases: of long tables each {STRIDE}th, --offset {config.option.offset}; {compiled} optimizations of XLA"


def is_taken(index, size, offset, longest=LONGEST_TABLE):
    """Whether a case of a table is run; of a long table at least one is, whatever the offset."""
    return size <= longest or index % STRIDE == offset % min(STRIDE, size)


def pytest_collection_modifyitems(config, items):
    """Of a test over a long table, one case of twenty is run unless all are requested: minutes instead of half an hour.

    Slow tests marked `rotate` are sampled in the same way, even if their tables are short.
    """
    if config.option.all:
        return
    tables = collections.Counter(item.nodeid.split("[")[0] for item in items)
    seen, kept, left_out = collections.Counter(), [], []
    for item in items:
        table = item.nodeid.split("[")[0]
        longest = 1 if item.get_closest_marker("rotate") else LONGEST_TABLE
        taken = is_taken(seen[table], tables[table], config.option.offset, longest) or item.get_closest_marker("spread")
        (kept if taken else left_out).append(item)
        seen[table] += 1
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept
