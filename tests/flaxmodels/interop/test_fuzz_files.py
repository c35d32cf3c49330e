"""A short form of benchmarks/fuzz_files.py: damaged files of each format are read or refused by a sentence."""

import pathlib
import sys

import pytest

import flaxmodels as fm

sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "benchmarks"))

import fuzz_files  # noqa: E402 - found by the line above


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid")
    return [path for path in fuzz_files.valid_files(folder, keras=False) if not path.name.startswith("graph")]


def test_damaged_files_are_read_or_refused_by_a_sentence(valid, tmp_path):
    models = {path.stem: fm.load(path) for path in valid if path.suffix == ".safetensors"}
    outcomes = []
    for file in fuzz_files.made(60, "short", valid, tmp_path):
        outcome = fuzz_files.outcome_of(lambda file=file: fuzz_files.read(file.path, file.stem, models))
        assert outcome in fuzz_files.GOOD, f"{file}: {outcome}"
        outcomes.append(outcome)
    assert set(outcomes) == set(fuzz_files.GOOD)


def test_the_script_knows_what_is_no_sentence():
    def fail(error):
        raise error

    assert fuzz_files.outcome_of(lambda: None) == "read"
    assert fuzz_files.outcome_of(lambda: fail(ValueError("It is damaged; save it again."))) == "refused"
    assert fuzz_files.outcome_of(lambda: fail(OSError(22, "Invalid argument"))).startswith("no sentence: ")
    assert fuzz_files.outcome_of(lambda: fail(KeyError("x"))).startswith("KeyError: ")
