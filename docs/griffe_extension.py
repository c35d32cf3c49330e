"""Griffe extension, loaded by `mkdocs.yml`, that prepares both packages for the API reference."""

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import griffe

from flaxmodels.layers.base import Layer

LAYER = "flaxmodels.layers.base.Layer"


class LayersAndDocstrings(griffe.Extension):
    """Adapts docstrings, and gives layers the signature that flax generates from their fields.

    The docstrings have one "Example:" and a line "Shapes: ...". The Google-style parser recognizes only "Examples:".
    """

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Changes the docstring of one class, function or module."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
            obj.docstring.value = re.sub(r"^Shapes:(?= )", "**Shapes:**", text, flags=re.M)

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Adds an `__init__` to each layer of a package."""
        for cls in _classes(pkg):
            if LAYER in [base.path for base in cls.mro()]:
                parameters = griffe.Parameters(griffe.Parameter("self"), *_parameters(cls))
                cls.set_member("__init__", griffe.Function("__init__", parameters=parameters))


def _classes(module: griffe.Module) -> Iterator[griffe.Class]:
    yield from (cls for cls in module.classes.values() if not cls.is_alias)
    for inner in module.modules.values():
        if not inner.is_alias:
            yield from _classes(inner)


def _parameters(cls: griffe.Class) -> Iterator[griffe.Parameter]:
    """Yields the arguments of a layer in their order, without those of the base class."""
    module, _, name = cls.path.rpartition(".")
    signature = inspect.signature(getattr(importlib.import_module(module), name))
    shared = {"parent", "name", *inspect.signature(Layer).parameters}
    for parameter in signature.parameters.values():
        if parameter.name not in shared:
            default = None if parameter.default is parameter.empty else repr(parameter.default)
            kind = getattr(griffe.ParameterKind, parameter.kind.name.lower())
            annotation = cls.attributes[parameter.name].annotation
            yield griffe.Parameter(parameter.name, annotation=annotation, default=default, kind=kind)
