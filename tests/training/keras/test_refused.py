"""Every public name of Keras is here, or refused with a sentence; the page of the documentation says which."""

import importlib
import importlib.util
import pathlib
import re

import keras as theirs
import pytest

import flaxmodels
from training import keras
from training.keras import refused

ROOT = pathlib.Path(__file__).parent.parent.parent.parent
spec = importlib.util.spec_from_file_location("keras_names", ROOT / "docs" / "keras_names.py")
keras_names = importlib.util.module_from_spec(spec)
spec.loader.exec_module(keras_names)

NAMES = [f"{module}.{name}" for module, names in keras_names.names_of_keras().items() for name in names]
# Namespaces that are compared as soon as they have one of Keras' names.
ABSENT = [
    module
    for module in ("keras.ops", "keras.random")
    if not any(keras_names.is_here(name) for name in NAMES if name.rpartition(".")[0] == module)
]


# The table and the page are about one version.
about_this_version = pytest.mark.skipif(not theirs.__version__.startswith("3.15."), reason="written for Keras 3.15")


@about_this_version
def test_no_name_of_keras_is_missing_in_silence():
    expected = [name for name in NAMES if not any(name.startswith(f"{module}.") for module in ABSENT)]
    assert [n for n in expected if not keras_names.is_here(n) and refused.alternative(n) is None] == []


def test_no_name_is_both_here_and_refused():
    assert [name for name in [*refused.REFUSED, *refused.OLDER] if keras_names.is_here(name)] == []
    assert {*refused.REFUSED} & {*refused.OLDER} == set()


def test_alternatives_of_older_names_exist():
    for name, alternative in refused.OLDER.items():
        if "same name in keras.ops" in alternative:
            assert keras_names.is_here(f"keras.ops.{name.rpartition('.')[2]}"), name
        for word in re.findall(r"keras\.[\w.]*\w", alternative):
            assert keras_names.is_here(word) or refused.alternative(word), (name, word)


@pytest.mark.parametrize(
    ("statement", "kind", "message"),
    [
        (
            "from training.keras import applications",
            ImportError,
            "keras.applications is not part of training.keras; build the network from layers and load its weights with "
            "load_weights.",
        ),
        (
            "from training.keras.applications.vgg16 import VGG16",
            ModuleNotFoundError,
            "keras.applications is not part of training.keras; build the network from layers and load its weights with "
            "load_weights.",
        ),
        (
            "from training.keras.layers import Dense, CuDNNLSTM",
            ImportError,
            "keras.layers.CuDNNLSTM is not part of training.keras; use LSTM.",
        ),
        (
            "from training.keras.preprocessing.text import Tokenizer",
            ModuleNotFoundError,
            "keras.preprocessing.text is not part of training.keras; use keras.layers.TextVectorization.",
        ),
        (
            "import training.keras.utils.np_utils",
            ModuleNotFoundError,
            "keras.utils.np_utils is not part of training.keras; use keras.utils.to_categorical.",
        ),
        (
            "from training.keras.backend import no_such_name",
            ImportError,
            "module 'training.keras.backend' has no attribute 'no_such_name'; dir(training.keras.backend) lists the "
            "known ones.",
        ),
        (
            "import training.keras.no_such_module",
            ModuleNotFoundError,
            "No module named 'training.keras.no_such_module'",
        ),
    ],
)
def test_imports_raise_the_sentence(statement, kind, message):
    with pytest.raises(kind) as caught:
        exec(statement, {})
    assert str(caught.value) == message
    assert type(caught.value) is kind


@about_this_version
def test_refused_names_are_names_of_keras():
    known = {*NAMES, *(".".join(name.split(".")[:n]) for name in NAMES for n in range(2, name.count(".") + 1))}
    assert [name for name in refused.REFUSED if name not in known] == []


@about_this_version
def test_the_page_is_up_to_date():
    """Run `python docs/keras_names.py` after a change."""
    assert keras_names.PAGE.read_text() == keras_names.page()


@pytest.mark.parametrize(
    "module",
    ["", "backend", "config", "datasets", "dtype_policies", "mixed_precision", "preprocessing", "preprocessing.image",
     "preprocessing.sequence", "random", "saving", "tree", "utils"],
)  # fmt: skip
def test_refused_names_raise_their_sentence(module):
    path = ".".join(filter(None, ["keras", module]))
    value = keras
    for part in filter(None, module.split(".")):
        value = getattr(value, part)
    for name, alternative in refused.REFUSED.items():
        if name.rpartition(".")[0] == path:
            with pytest.raises(AttributeError) as caught:
                getattr(value, name.rpartition(".")[2])
            assert str(caught.value) == f"{name} is not part of training.keras; {alternative}."
    with pytest.raises(AttributeError) as caught:
        value.no_such_name  # noqa: B018
    ours = ".".join(filter(None, ["training.keras", module]))
    assert str(caught.value) == f"module {ours!r} has no attribute 'no_such_name'; dir({ours}) lists the known ones."
    assert all(hasattr(value, name) for name in dir(value))
    if module:
        assert {*dir(value)} <= {name.rpartition(".")[2] for name in NAMES} | {
            "image",
            "sequence",
            *dir(keras.datasets),
        }


def test_every_import_of_the_documentation_runs():
    page = (ROOT / "docs" / "keras-programs.md").read_text()
    rows = re.findall(r"^\| `[^|]*import [^|]*\| ([^|]*) \|$", page, re.MULTILINE)
    statements = [statement for row in rows for statement in re.findall(r"`([^`]+)`", row)]
    assert len(statements) > 8
    for statement in statements:
        exec(statement, {})


def test_modules_of_keras_are_imported_by_their_names():
    names = {}
    exec("import training.keras.ops.nn, training.keras.optimizers.schedules", names)
    exec("import training.keras.ops as ops", names)
    assert names["ops"] is keras.ops and keras.ops.nn is flaxmodels.ops.nn
    for name in flaxmodels.ops.__all__:
        assert getattr(keras.ops, name) is getattr(flaxmodels.ops, name)
    modules = {name.rpartition(".")[0] for name in NAMES}
    for module in sorted(modules):
        if refused.alternative(module) is None and refused.alternative(module.rpartition(".")[0]) is None:
            importlib.import_module(f"training.{module}")
