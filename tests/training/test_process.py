"""Processes that were forked while JAX was in use, and resuming with another number of threads."""

import os
import re
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest

from flaxmodels import Sequential, layers
from flaxmodels.kernels import native
from training import Checkpoints, Trainer, process

SENTENCE = (
    "This process was forked from one that used JAX, whose threads a fork does not copy, so it would wait forever; start it "
    "with multiprocessing.get_context('spawn'), or fork before the first use of JAX."
)
# The child prints its results. The alarm ends a child that waits forever.
FORKS = """
import os, signal, sys, warnings
import numpy as np
warnings.simplefilter("ignore")
from flaxmodels import Sequential, layers
from training import Trainer

x, y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")
def trainer():
    return Trainer(Sequential([layers.Dense(1)]), "sgd", "mse")

def in_child(*calls):
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        for call in calls:
            try:
                call()
                print("computed", flush=True)
            except RuntimeError as error:
                print(error, flush=True)
        os._exit(0)
    print("exit", os.waitpid(pid, 0)[1], flush=True)

parent = trainer()
in_child(lambda: trainer().fit(x, y, verbose=0))
parent.fit(x, y, verbose=0)
in_child(
    lambda: parent.fit(x, y, verbose=0),
    lambda: parent.evaluate(x, y),
    lambda: parent.predict(x),
    lambda: trainer().build(x),
    lambda: in_child(lambda: parent.predict(x)),
)
print(parent.predict(x).shape)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_children_forked_while_jax_is_in_use_are_rejected():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, env=environment, timeout=180)
    assert done.returncode == 0, done.stderr
    before, refused = ["computed", "exit 0"], [*[SENTENCE] * 5, "exit 0", "computed", "exit 0"]
    assert done.stdout.splitlines() == [*before, *refused, "(8, 1)"]


X = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")


def fit(folder, epochs):
    trainer = Trainer(Sequential([layers.Dense(1)]), "sgd", "mse")
    trainer.fit(X, X[:, :1], batch_size=4, epochs=epochs, verbose=0, resume=Checkpoints(folder))
    return trainer


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="threads matter on a CPU")
def test_resuming_with_another_number_of_threads_warns(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "threads", lambda: 2)
    fit(tmp_path, 1)
    fit(tmp_path, 2)  # the same number: a warning would be an error
    monkeypatch.setattr(native, "threads", lambda: 1)
    sentence = (
        f"The checkpoints in {tmp_path} were written with 2 threads, and this process has 1, so XLA sums in a different "
        "order; the run continues, and its results equal those of an uninterrupted run up to rounding."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(sentence)}$"):
        trainer = fit(tmp_path, 3)
    assert trainer.history.epoch == [0, 1, 2]
    fit(tmp_path, 4)  # warned once: the new checkpoints are from this process


def test_an_unknown_number_of_threads_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        process.warn_of_other_threads(None, "folder")
        process.warn_of_other_threads(process.threads(), "folder")
