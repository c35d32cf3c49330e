"""Runs the README's examples as they stand, each in its own process, and compares the printed output."""

import pathlib
import re
import subprocess
import sys

import pytest

README = pathlib.Path(__file__).parent.parent / "README.md"
TEXT = README.read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)
FIRST_OUTPUT = re.search(r"```text\n(.*?)```", TEXT, re.S)[1]


def as_pattern(output):
    """Returns a pattern that matches the output with any other numbers; "..." matches any lines."""
    pattern = re.escape(output).replace(re.escape("...\n"), r"(?:.*\n)*?")
    return re.sub(r"\d[\d,]*(\\\.\d+)?", r"[\\d.,]+", pattern)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0][:40])
def test_example(block, tmp_path):
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if "digits.safetensors" in block:
        assert re.fullmatch(as_pattern(FIRST_OUTPUT), done.stdout), done.stdout
        assert float(re.findall(r"'accuracy': ([\d.]+)", done.stdout)[-1]) > 0.9
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) <= 150
