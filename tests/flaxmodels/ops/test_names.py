"""The names of `flaxmodels.ops` are those of `keras.ops`; the tests of each module compare what they do."""

import inspect

import keras
import pytest

from flaxmodels import ops


def _public(module):
    return {name for name in dir(module) if not name.startswith("_")}


def test_ops_has_each_name_of_keras():
    assert set(ops.__all__) - {"core", "math"} == _public(keras.ops)


@pytest.mark.parametrize("module", ["image", "linalg", "nn", "numpy"])
def test_each_module_has_its_names(module):
    names = set(getattr(ops, module).__all__)
    assert names == _public(getattr(keras.ops, module))
    if module != "image":
        assert all(getattr(ops, name) is getattr(getattr(ops, module), name) for name in names)


def test_each_name_has_a_docstring():
    for name in ops.__all__:
        assert inspect.getdoc(getattr(ops, name))
