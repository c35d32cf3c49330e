"""Optional dependencies: the declared extras, the error for a missing package, and what works without any."""

import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

from flaxmodels.extras import DISTRIBUTION, EXTRAS, require_extra

PROJECT = pathlib.Path(__file__).parents[2] / "pyproject.toml"
# Training with a progress bar needs rich, which flax depends on.
BLOCKED = {*EXTRAS, "array_record", "grain", "importlib_resources", "keras", "tensorflow_datasets", "torch"}
# Python treats a module as missing if its entry in `sys.modules` is None.
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({sorted(BLOCKED)}))"
CORE_PROGRAM = PROJECT.parent / "tests" / "support" / "core_program.py"
MISSING = {
    "trainer.fit(x, y, resume=sys.argv[1])": ("Checkpoints need filelock", "checkpoints"),
    "trainer.save(sys.argv[1] + '.keras')": ("Keras files need h5py", "keras-files"),
    "from training import datasets; datasets.load('digits')": ("The dataset 'digits' needs scikit-learn", "data"),
    "trainer.fit(x, y).plot()": ("Plots of a history need matplotlib", "cli"),
    "from training import callbacks; trainer.fit(x, y, callbacks=[callbacks.TensorBoard(sys.argv[1])])": (
        "The TensorBoard callback needs tensorboardX",
        "tensorboard",
    ),
}
USE = """
import numpy as np
from flaxmodels import Sequential, layers
from training import Trainer

trainer = Trainer(Sequential([layers.Dense(1, input_shape=(2,))]), "sgd", "mse")
x, y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")
trainer.build(x)
"""


def run(code, *args):
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)


def test_models_are_built_trained_and_saved_without_any_extra(tmp_path):
    code = f"import runpy; runpy.run_path({str(CORE_PROGRAM)!r}, run_name='__main__')"
    done = run(f"{BLOCK}; {code}", str(tmp_path / "model.safetensors"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.rotate
@pytest.mark.parametrize("use", MISSING)
def test_a_missing_extra_is_one_sentence_with_the_command(use, tmp_path):
    needed, extra = MISSING[use]
    done = run(f"{BLOCK}\n{USE}{use}", str(tmp_path / "file"))
    sentence = f"{needed}, which is not installed; run pip install 'flaxmodels-training[{extra}]'."
    assert done.stderr.splitlines()[-1] == f"ModuleNotFoundError: {sentence}"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    sentence = "Files need h5py, which is not installed; run pip install 'flaxmodels-training[keras-files]'."
    with pytest.raises(ModuleNotFoundError, match=f"^{re.escape(sentence)}$") as caught:
        require_extra("h5py", "Files need")
    assert caught.value.name == "h5py"


def test_the_project_declares_the_extras():
    project = tomllib.loads(PROJECT.read_text())["project"]
    assert project["name"] == DISTRIBUTION
    declared = {
        extra: [re.match(r"[\w-]+", requirement)[0] for requirement in requirements]
        for extra, requirements in project["optional-dependencies"].items()
    }
    for distribution, extra in EXTRAS.values():
        assert distribution in declared[extra]
