"""The selection of cases of long tables."""

import shutil
import subprocess
import sys

import pytest

from tests import conftest
from tests.conftest import LONGEST_TABLE, ROOT, STRIDE, is_selected, offset_of


@pytest.mark.parametrize("longest", [1, LONGEST_TABLE])
@pytest.mark.parametrize("size", [1, 2, LONGEST_TABLE, LONGEST_TABLE + 1, STRIDE - 1, STRIDE, STRIDE + 1, 157])
@pytest.mark.spread
def test_twenty_offsets_run_every_case_and_each_runs_some(size, longest):
    selected = [{i for i in range(size) if is_selected(i, size, offset, longest)} for offset in range(STRIDE)]
    assert set().union(*selected) == set(range(size))
    assert all(selected)
    most = size if size <= longest else -(-size // STRIDE)
    assert max(map(len, selected)) == most


def test_the_offset_depends_on_the_commit():
    assert offset_of("0") == 0
    assert offset_of("cb3bac4f") == 0xCB3BAC4F % 20
    if shutil.which("git") and (ROOT / ".git").exists():
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert conftest.commit() == done.stdout.strip()


def test_without_git_the_offset_is_zero(monkeypatch, tmp_path):
    monkeypatch.setattr(conftest, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert conftest.commit() == "0"
    monkeypatch.setenv("PATH", "")
    assert conftest.commit() == "0"


def test_the_header_shows_the_offset_that_repeats_a_run():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "--offset",
        "7",
        "tests/flaxmodels/layers/test_masking.py",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "cases: every 20th of long tables, --offset 7; few optimizations of XLA" in done.stdout
