"""Prepares the two packages for the reference: a griffe extension that `mkdocs.yml` loads."""

import re
from collections.abc import Iterator
from typing import Any

import griffe

LAYER = "flaxmodels.layers.base.Layer"


class LayersAndDocstrings(griffe.Extension):
    """Adapts docstrings, and gives layers the signature that flax makes of their fields.

    The docstrings have one "Example:" and a line "Shapes: ...". The parser of Google style knows "Examples:" only.
    """

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Changes the docstring of one class, function or module."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
            obj.docstring.value = re.sub(r"^Shapes:(?= )", "**Shapes:**", text, flags=re.M)

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Adds an `__init__` to each layer of a package."""
        for cls in _classes(pkg):
            lineage = [cls, *cls.mro()]
            if LAYER in [base.path for base in lineage[1:]]:
                fields = [field for base in reversed(lineage) if base.path != LAYER for field in _fields(base)]
                given = {field.name: field for field in fields}.values()
                parameters = [griffe.Parameter(f.name, annotation=f.annotation, default=f.value) for f in given]
                parameters = griffe.Parameters(griffe.Parameter("self"), *parameters)
                cls.set_member("__init__", griffe.Function("__init__", parameters=parameters))


def _classes(module: griffe.Module) -> Iterator[griffe.Class]:
    yield from (cls for cls in module.classes.values() if not cls.is_alias)
    for inner in module.modules.values():
        if not inner.is_alias:
            yield from _classes(inner)


def _fields(cls: griffe.Class) -> Iterator[griffe.Attribute]:
    """Yields the annotated attributes of a class, which are the fields of a linen module."""
    for attribute in cls.attributes.values():
        if attribute.annotation is not None and "ClassVar" not in str(attribute.annotation):
            yield attribute
