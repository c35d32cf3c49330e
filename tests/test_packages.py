"""The two packages: what importing them loads, and that every way to ask for a name gives the same thing."""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

from flaxmodels import layers

# Modules that take long to import, and that nobody needs who only imports the packages.
HEAVY = [
    "absl.testing", "array_record", "grain", "h5py", "jax", "flax", "optax", "numpy", "matplotlib", "orbax", "PIL", "rich",
    "safetensors", "scipy", "sklearn", "tensorboardX", "tensorflow", "tensorflow_datasets", "tensorstore", "torch", "typer",
]  # fmt: skip
# What models and trainers are made of.
NEEDED = {"jax", "flax", "optax", "numpy", "rich"}  # rich by flax.linen
MODEL = """
from flaxmodels import Sequential, layers
from training import Trainer
import numpy as np
model = Sequential([layers.Flatten(input_shape=(8, 8, 1)), layers.Dense(10, activation="softmax")])
trainer = Trainer(model, "adam", "categorical_crossentropy", ["accuracy"])
"""
FIT = "trainer.fit(np.zeros((32, 8, 8, 1), 'float32'), np.eye(10, dtype='float32')[[3] * 32], verbose=0)"
DIGITS = "from training import datasets; datasets.load('digits')"


def loaded(code):
    """Heavy modules that a fresh process has after some code."""
    code += f"\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(ast.literal_eval(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("code", ["import flaxmodels", "import training", "import training.cache"])
def test_importing_a_package_loads_nothing_heavy(code):
    assert loaded(code) == set()


@pytest.mark.rotate
@pytest.mark.parametrize("code", [MODEL, MODEL + FIT, DIGITS], ids=["model and trainer", "fit", "digits"])
def test_first_training_loads_only_what_it_computes_with(code):
    assert loaded(code) <= NEEDED


PACKAGES = ["flaxmodels", "training"]


def for_type_checkers(package):
    """The names that type checkers see, and where from."""
    tree = ast.parse(pathlib.Path(package.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {alias.name: node.module for node in block.body for alias in node.names if alias.asname == alias.name}


@pytest.mark.parametrize("name", PACKAGES)
def test_type_checkers_see_the_names_that_a_program_gets(name):
    package = importlib.import_module(name)
    wanted = dict.fromkeys(package.MODULES, name) | {n: f"{name}.{module}" for n, module in package.NAMES.items()}
    assert for_type_checkers(package) == wanted
    assert sorted(package.__all__) == sorted(wanted)


@pytest.mark.parametrize("name", PACKAGES)
def test_every_way_to_ask_gives_the_same(name):
    package = importlib.import_module(name)
    assert set(package.__all__) <= set(dir(package))
    for module in package.MODULES:
        assert getattr(package, module) is importlib.import_module(f"{name}.{module}")
    for thing, module in package.NAMES.items():
        assert getattr(package, thing) is getattr(importlib.import_module(f"{name}.{module}"), thing)
    everything = {}
    exec(f"from {name} import *", everything)
    assert set(package.__all__) <= set(everything)


def test_layers_are_those_that_type_checkers_see():
    tree = ast.parse(pathlib.Path(layers.__file__).with_suffix(".pyi").read_text())
    seen = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    wanted = [(node.module, alias.name) for node in seen for alias in node.names if alias.asname == alias.name]
    got = [(f"flaxmodels.layers.{module}", name) for module, names in layers.MODULES.items() for name in names.split()]
    assert sorted(got) == sorted(wanted) and sorted(layers.__all__) == sorted(name for _, name in got)
    assert set(layers.__all__) <= set(dir(layers))
    for module, name in got:
        assert getattr(layers, name) is getattr(importlib.import_module(module), name)
    sentence = "module 'flaxmodels.layers' has no attribute 'Dence'; dir(flaxmodels.layers) lists them."
    with pytest.raises(AttributeError) as caught:
        layers.Dence  # noqa: B018
    assert str(caught.value) == sentence


@pytest.mark.rotate
@pytest.mark.parametrize(
    "code",
    [
        "import flaxmodels; flaxmodels.layers.Conv2D; flaxmodels.Sequential; flaxmodels.interop.set_keras_weights",
        "import flaxmodels.layers; flaxmodels.layers.Conv2D; flaxmodels.models.simple_cnn",
        "from flaxmodels import layers, Model; layers.Conv2D; from flaxmodels.layers import LSTM",
        "import flaxmodels as fm; assert 'Sequential' in dir(fm) and 'layers' in dir(fm) and fm.__version__",
        "import training; training.Trainer; training.losses.MeanSquaredError; training.compilation_cache",
    ],
)
def test_names_in_a_fresh_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", PACKAGES)
def test_unknown_name_is_one_sentence_with_all_known_ones(name):
    package = importlib.import_module(name)
    sentence = f"module '{name}' has no attribute 'Sequentail'; it has {', '.join(package.__all__)}."
    with pytest.raises(AttributeError) as caught:
        package.Sequentail  # noqa: B018
    assert str(caught.value) == sentence


def test_memory_is_kept_where_the_c_library_can_be_told(monkeypatch):
    from training import cache

    told = []

    class Library:
        def mallopt(self, parameter, value):
            told.append((parameter, value))
            return 1

    monkeypatch.setattr(cache.ctypes, "CDLL", lambda name: Library())
    assert cache.keep_memory() and told == [(-4, 0), (-1, 2**31 - 1), (-8, 1)]
    monkeypatch.setattr(cache.ctypes, "CDLL", lambda name: object())
    assert not cache.keep_memory()
