"""Lazy imports: a package imports a submodule when one of its names is first used."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def attach(
    package: str, names: Mapping[str, str], submodules: str = ""
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Returns `__getattr__`, `__dir__` and `__all__` of a package whose names are imported when they are first used.

    A name is looked up once; it is then an ordinary attribute of the package.

    Args:
        package: The package's `__name__`.
        names: The public names that each submodule defines, separated by spaces.
        submodules: The submodules that are public names themselves, separated by spaces.

    Example:
        >>> get, _, names = attach("flaxmodels", {"building": "Input Model"}, "layers")
        >>> get("Model").__name__, names
        ('Model', ['Input', 'Model', 'layers'])
    """
    module_of = {name: module for module, defined in names.items() for name in defined.split()}
    modules = submodules.split()
    public = [*module_of, *modules]

    def __getattr__(name: str) -> Any:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        if name not in module_of:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}; dir({package}) lists the known ones.",
                name=name,
                obj=sys.modules.get(package),
            )
        value = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *public})

    return __getattr__, __dir__, public
