"""Runs Keras programs in Keras and with `from training import keras`, and compares all that they return."""

import importlib.util
import os
import pathlib
import warnings

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras as real_keras
import numpy as np
import pytest

from training import keras as ours

FOLDER = pathlib.Path(__file__).parents[2] / "keras_programs"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py"))


def run(name, keras, folder, monkeypatch):
    """Returns what a program returns, as arrays; it runs in a folder of its own."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder.mkdir()
    monkeypatch.chdir(folder)
    # A program runs with JAX's usual settings, and Keras' warnings are not ours.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), warnings.catch_warnings():
        if keras is real_keras:
            warnings.simplefilter("ignore")
        keras.utils.set_random_seed(0)
        keras.backend.clear_session()
        return {key: np.asarray(value) for key, value in module.program(keras).items()}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gives_the_same_results_as_in_keras(name, tmp_path, monkeypatch):
    expected = run(name, real_keras, tmp_path / "keras", monkeypatch)
    got = run(name, ours, tmp_path / "ours", monkeypatch)
    assert list(got) == list(expected)
    for key, value in expected.items():
        assert got[key].shape == value.shape, key
        if value.dtype.kind in "US":
            assert got[key].tolist() == value.tolist(), key
        else:
            np.testing.assert_allclose(got[key], value, rtol=1e-4, atol=1e-5, err_msg=key)
