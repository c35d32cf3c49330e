"""The same seed, the same bits: in two processes, with chunks of any length, and on a GPU by one switch."""

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
    """A run with all that is random: initialization, shuffling, dropout, and noise that augments the images."""
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
    """A digest of everything that a run leaves."""
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
    """The digest of the same run in a process of its own, which compiles as this one does."""
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


def test_two_processes(whole):
    assert in_a_process(deterministic=False) == whole


@pytest.mark.rotate
@pytest.mark.parametrize("steps", [1, 3, 100])
def test_chunks_of_any_length(steps, whole):
    assert bits(trained(steps_per_execution=steps)) == whole


def test_another_seed_changes_everything_that_is_random(whole):
    assert bits(trained(seed=1)) != whole


def test_the_switch_changes_nothing_on_a_cpu(whole):
    if jax.default_backend() == "cpu":
        assert programs.compiler_options(True) is None
        assert bits(trained(deterministic=True)) == whole


def test_the_compiler_knows_what_the_switch_asks_for(monkeypatch):
    """XLA refuses the names of options that it does not know, also on a CPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert programs.compiler_options(False) is None
    options = programs.compiler_options(True)
    assert options and jax.jit(lambda x: x + 1, compiler_options=options)(1.0) == 2.0


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits_by_one_switch():
    assert len({in_a_process(deterministic=True) for _ in range(3)} | {bits(trained(deterministic=True))}) == 1


def test_a_switch_is_true_or_false():
    sentence = "`deterministic` is True or False, got 'yes'; give True for the same bits."
    with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
        trained(deterministic="yes")
