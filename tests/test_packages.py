"""The two packages: what importing them loads, and that every way to import a name gives the same object."""

import ast
import importlib
import inspect
import pathlib
import subprocess
import sys

import pytest

from flaxmodels import layers

# Modules that take long to import, so importing the packages must not load them.
HEAVY = [
    "absl.testing", "array_record", "grain", "h5py", "jax", "flax", "optax", "numpy", "matplotlib", "orbax", "PIL", "rich",
    "safetensors", "scipy", "sklearn", "tensorboardX", "tensorflow", "tensorflow_datasets", "tensorstore", "torch", "typer",
]  # fmt: skip
# Modules that models and trainers need.
NEEDED = {"jax", "flax", "optax", "numpy", "rich"}  # flax.linen imports rich.
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
    """Returns the heavy modules that a fresh process has imported after running some code."""
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


PACKAGES = ["flaxmodels", "training", "flaxmodels.layers", "flaxmodels.ops", "flaxmodels.ops.numpy"]


def names_for_type_checkers(package):
    """Returns the names that type checkers see, each with the module that it is imported from."""
    path = pathlib.Path(package.__file__)
    stub = path.with_suffix(".pyi")
    body = ast.parse((stub if stub.exists() else path).read_text()).body
    if not stub.exists():
        body = next(x.body for x in body if isinstance(x, ast.If) and ast.unparse(x.test) == "TYPE_CHECKING")
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module for node in imports for alias in node.names if alias.asname == alias.name}


def lazy_names(package):
    """Returns the names of a lazy package, each with the module that it is imported from."""
    names = {name: f"{package.__name__}.{module}" for module, names in package.NAMES.items() for name in names.split()}
    return names | dict.fromkeys(getattr(package, "SUBMODULES", "").split(), package.__name__)


@pytest.mark.parametrize("name", PACKAGES)
def test_type_checkers_see_the_names_of_the_lazy_table(name):
    package = importlib.import_module(name)
    assert names_for_type_checkers(package) == lazy_names(package)
    assert sorted(package.__all__) == sorted(lazy_names(package))


@pytest.mark.parametrize("name", PACKAGES)
def test_every_way_to_import_a_name_gives_the_same_object(name):
    package = importlib.import_module(name)
    assert {*package.__all__, "__file__"} <= set(dir(package))
    everything = {}
    exec(f"from {name} import *", everything)
    for attribute, module in lazy_names(package).items():
        is_module = module == name
        value = importlib.import_module(f"{name}.{attribute}" if is_module else module)
        value = value if is_module else getattr(value, attribute)
        assert getattr(package, attribute) is vars(package)[attribute] is everything[attribute] is value


def test_classes_of_layers_are_all_public_subclasses_of_layer():
    public = [getattr(layers, name) for name in layers.__all__]
    wanted = {cls for cls in public if inspect.isclass(cls) and issubclass(cls, layers.Layer)} - {layers.Layer}
    assert set(layers.classes().values()) == wanted


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
def test_unknown_name_is_refused(name):
    package = importlib.import_module(name)
    sentence = f"module '{name}' has no attribute 'Sequentail'; dir({name}) lists the known ones."
    with pytest.raises(AttributeError) as caught:
        package.Sequentail  # noqa: B018
    assert str(caught.value) == sentence and caught.value.name == "Sequentail"


@pytest.mark.parametrize("name", ["flaxmodels", "training"])
def test_package_is_marked_as_typed(name):
    assert (pathlib.Path(importlib.import_module(name).__file__).parent / "py.typed").exists()
