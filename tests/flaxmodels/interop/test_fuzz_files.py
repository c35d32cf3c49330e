"""Runs a short form of benchmarks/fuzz_files.py: damaged files are read, or refused with a one-sentence error."""

import pathlib
import sys

import pytest

import flaxmodels as fm

sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "benchmarks"))

import fuzz_files  # noqa: E402 - needs the path from the line above


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid")
    return [path for path in fuzz_files.valid_files(folder, keras=False) if not path.name.startswith("graph")]


def test_damaged_files_are_read_or_refused_with_one_sentence(valid, tmp_path):
    models = {path.stem: fm.load(path) for path in valid if path.suffix == ".safetensors"}
    outcomes = []
    for file in fuzz_files.damaged_files(60, "short", valid, tmp_path):
        outcome = fuzz_files.outcome_of(lambda file=file: fuzz_files.read(file.path, file.stem, models))
        assert outcome in fuzz_files.ACCEPTED, f"{file}: {outcome}"
        outcomes.append(outcome)
    assert set(outcomes) == set(fuzz_files.ACCEPTED)


def test_unclear_messages_and_other_errors_are_failures():
    def fail(error):
        raise error

    assert fuzz_files.outcome_of(lambda: None) == "read"
    assert fuzz_files.outcome_of(lambda: fail(ValueError("It is damaged; save it again."))) == "refused"
    assert fuzz_files.outcome_of(lambda: fail(OSError(22, "Invalid argument"))).startswith("unclear message: ")
    assert fuzz_files.outcome_of(lambda: fail(KeyError("x"))).startswith("KeyError: ")
