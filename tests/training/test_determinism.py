"""Runs with the same seed are bit-identical: in two processes, for all chunk lengths, and on a GPU with one option."""

import hashlib
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from flaxmodels import Input, Sequential, layers
from training import Trainer, programs

RNG = np.random.default_rng(0)
X = RNG.normal(size=(22, 6, 6, 1)).astype("float32")
Y = RNG.integers(0, 3, 22).astype("int32")


def trained(seed=0, **arguments):
    """Trains with all sources of randomness: initialization, shuffling, dropout and noise in the images."""
    model = Sequential(
        [
            Input((6, 6, 1)),
            layers.GaussianNoise(0.1),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(3, strides=1),  # windows that overlap
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(3, activation="softmax"),
        ]
    )
    trainer = Trainer(model, "adam", "sparse_categorical_crossentropy", ["accuracy"], seed=seed, **arguments)
    trainer.fit(X, Y, batch_size=4, epochs=2, verbose=0, validation_split=0.2)
    return trainer


def bits(trainer):
    """Returns a digest of all results of a run."""
    state = trainer.state.replace(key=jax.random.key_data(trainer.state.key))
    digest = hashlib.sha256(repr(trainer.history.history).encode())
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    digest.update(trainer.predict(X).tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def whole():
    return bits(trained())


def in_a_process(deterministic):
    """Returns the digest of the same run in a separate process with the same compiler options."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from tests.training import test_determinism as t\n"
        f"print(t.bits(t.trained(deterministic={deterministic})))"
    )
    options = {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(jax.config.values["jax_disable_most_optimizations"])),
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    command = [sys.executable, "-c", code, str(pathlib.Path(__file__).parents[2])]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_two_processes_are_bit_identical(whole):
    assert in_a_process(deterministic=False) == whole


@pytest.mark.rotate
@pytest.mark.parametrize("steps", [1, 3, 100])
def test_chunk_lengths_do_not_change_results(steps, whole):
    assert bits(trained(steps_per_execution=steps)) == whole


def test_another_seed_changes_the_results(whole):
    assert bits(trained(seed=1)) != whole


def test_the_option_does_not_change_results_on_a_cpu(whole):
    if jax.default_backend() == "cpu":
        assert programs.compiler_options(True) is None
        assert bits(trained(deterministic=True)) == whole


def test_the_compiler_accepts_the_options(monkeypatch):
    """XLA rejects unknown options, also on a CPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert programs.compiler_options(False) is None
    options = programs.compiler_options(True)
    assert options and jax.jit(lambda x: x + 1, compiler_options=options)(1.0) == 2.0


@pytest.mark.gpu
def test_runs_on_a_gpu_are_bit_identical():
    assert len({in_a_process(deterministic=True) for _ in range(3)} | {bits(trained(deterministic=True))}) == 1


def test_the_option_must_be_a_boolean():
    sentence = "`deterministic` must be True or False, got 'yes'; give True for bit-identical runs."
    with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
        trained(deterministic="yes")
