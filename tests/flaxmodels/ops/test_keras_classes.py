"""The table of Keras' operation classes, compared with the classes themselves."""

import importlib
import inspect

import keras
import pytest
from keras.src.ops.operation import Operation

from flaxmodels.ops import base, keras_classes

MODULES = [f"keras.src.ops.{name}" for name in ("core", "einops", "image", "linalg", "math", "nn", "numpy")]
MODULES.append("keras.src.activations.activations")
# Why files cannot name these classes.
TAKE_CODE = {"AssociativeScan", "Cond", "ForiLoop", "JVP", "Map", "Scan", "Switch", "VectorizedMap", "WhileLoop"}
DRAW_SEEDS = {"ElasticTransform"}
NOT_MADE = {"SegmentReduction", "Abs", "Conj", "Mish"}  # a base class, and classes that no function makes


def classes():
    for name in MODULES:
        for cls in vars(importlib.import_module(name)).values():
            if inspect.isclass(cls) and issubclass(cls, Operation) and cls.__module__ == name:
                yield cls


def parameters(function):
    """Returns the names of the parameters without `self` and `name`, with asterisks as in a signature."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    given = inspect.signature(function).parameters.values()
    return tuple(stars.get(p.kind, "") + p.name for p in given if p.name not in ("self", "name"))


def test_the_table_has_all_classes():
    names = {(cls.__module__, cls.__name__) for cls in classes()}
    listed = {(cls.module, cls.name) for cls in keras_classes.by_operation().values()}
    assert listed <= names
    assert {name for _, name in names - listed} == TAKE_CODE | DRAW_SEEDS | NOT_MADE


def test_arguments_are_split_as_in_keras():
    """A file stores the arguments of the constructor in the config, the others in the call."""
    for cls in classes():
        entry = next((e for e in keras_classes.by_operation().values() if e.name == cls.__name__), None)
        if entry is None or entry.module != cls.__module__:
            continue
        has_settings = cls.__init__ is not Operation.__init__
        settings = [p for p in parameters(cls.__init__) if has_settings and p not in ("**kwargs", "*args")]
        assert entry.settings == tuple(settings), cls
        unused = ("**kwargs",) if cls.__name__ == "Einsum" else ()
        assert entry.tensors == tuple(p for p in parameters(cls.call) if p not in unused), cls


def test_functions_make_the_classes():
    """Each operation of `keras.ops` is in the entry of the class that it names."""
    for name, entry in keras_classes.by_operation().items():
        where = keras if name.startswith("activations.") else keras.ops
        for part in name.split("."):
            where = getattr(where, part)
        taken = {p.strip("*") for p in parameters(where)} - {"kwargs"}
        stored = {p.strip("*") for p in (*entry.tensors, *entry.settings)}
        assert taken == stored - {"rms_scaling"}, name
        assert f"{entry.name}(" in inspect.getsource(where) or name in ("abs", "conj") or "activations" in name, name


def test_our_functions_take_the_same_arguments():
    """The reader and the writer of Keras' files rely on the names of the parameters."""
    with pytest.raises(ValueError, match="Unknown operation"):
        base.function("no_such_operation")  # imports all modules
    for name, function in base._operations.items():
        entry = keras_classes.by_operation().get(name)
        if entry is not None:
            taken = {p.strip("*") for p in parameters(function)} - {"kwargs"}
            assert taken == {p.strip("*") for p in (*entry.tensors, *entry.settings)} - {"rms_scaling"}, name


def test_names_of_nodes():
    assert keras_classes.class_name("abs") == "Absolute"
    assert keras_classes.class_name("activations.silu") == "Silu"
    assert keras_classes.by_class()["keras.src.ops.nn", "Silu"] == "silu"
    assert not any(map(keras_classes.may_be_named, ("while_loop", "map", "image.elastic_transform", "exec")))
