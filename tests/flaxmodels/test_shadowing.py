"""A user's own `training` module is recognized by the import of `flaxmodels` and by the command line."""

import os
import pathlib
import subprocess
import sys

import pytest

import flaxmodels
from flaxmodels import shadowing

SOURCES = pathlib.Path(flaxmodels.__file__).parents[1]


def run(folder, *command):
    """Runs Python in a folder that comes before this checkout on the path."""
    environment = os.environ | {"PYTHONPATH": str(SOURCES)}
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)


def sentence_about(path):
    return f"{path} hides the package `training` of flaxmodels-training, so `from training import Trainer` fails; rename it."


@pytest.fixture(params=["training.py", "training/__init__.py"])
def own_module(request, tmp_path):
    path = tmp_path / request.param
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    return path


def test_importing_flaxmodels_warns(own_module, tmp_path):
    done = run(tmp_path, "-c", "import flaxmodels")
    assert done.returncode == 0
    assert sentence_about(own_module) in done.stderr


def test_the_command_line_is_refused(own_module, tmp_path):
    done = run(tmp_path, "-W", "ignore", "-m", "flaxmodels", "models")
    assert (done.returncode, done.stderr) == (2, f"error: {sentence_about(own_module)}\n")


def test_a_script_of_this_name_is_recognized(tmp_path):
    (tmp_path / "training.py").write_text("import flaxmodels\nfrom training import Trainer\n")
    done = run(tmp_path, "training.py")
    assert sentence_about(tmp_path / "training.py") in done.stderr


def test_a_folder_without_python_files_hides_nothing(tmp_path):
    (tmp_path / "training").mkdir()
    done = run(tmp_path, "-W", "error", "-c", "import flaxmodels; from training import Trainer")
    assert done.returncode == 0, done.stderr
    assert shadowing.describe_shadowing() is None


def test_the_command_line_without_typer(tmp_path):
    code = "import sys; sys.modules['typer'] = None; from flaxmodels.__main__ import main; main()"
    done = run(tmp_path, "-c", code)
    sentence = "The command line needs typer, which is not installed; run pip install 'flaxmodels-training[cli]'."
    assert (done.returncode, done.stderr) == (2, f"error: {sentence}\n")


def test_the_command_line_starts_here_too(tmp_path):
    done = run(tmp_path, "-m", "flaxmodels", "models")
    assert done.returncode == 0 and "simple_cnn" in done.stdout, done.stderr
