"""Custom classes and functions of the running program, which a file may name if the program says so.

This package rebuilds models from its own classes only. A caller that knows further objects, such as `training.keras`,
describes and builds them while it uses this package. Without such a caller, files with custom objects are refused.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

from flaxmodels.saving.format import Json

Config = dict[str, Json]


class CustomObjects(Protocol):
    """Describes and builds custom objects. A description has the form of Keras' configurations."""

    def describe(self, thing: object) -> Config | None:
        """Returns the description of an object, or None if its class is not a custom one."""

    def is_known(self, described: Config) -> bool:
        """Returns whether the program registered the class or function that a description names."""

    def build(self, described: Config) -> object:
        """Returns the object of a description whose class or function is known."""


_PRESENT: ContextVar[CustomObjects | None] = ContextVar("custom_objects", default=None)


@contextlib.contextmanager
def using(objects: CustomObjects) -> Iterator[None]:
    """Makes objects known inside a `with` block."""
    token = _PRESENT.set(objects)
    try:
        yield
    finally:
        _PRESENT.reset(token)


def describe(thing: object) -> Config | None:
    """Returns the description of a custom object, or None if it is unknown."""
    objects = _PRESENT.get()
    return None if objects is None else objects.describe(thing)


def is_known(described: Json) -> bool:
    """Returns whether a description names a custom class or function that the program registered."""
    objects = _PRESENT.get()
    return objects is not None and isinstance(described, dict) and objects.is_known(described)


def build(described: Json) -> object:
    """Returns the object of a description.

    Raises:
        ValueError: If the program did not register its class or function.
    """
    objects = _PRESENT.get()
    if objects is None or not isinstance(described, dict) or not objects.is_known(described):
        name = described.get("registered_name") or described.get("class_name") if isinstance(described, dict) else None
        raise ValueError(
            f"A model file names the custom object {str(name)[:80]!r}, which the program did not register; load the "
            "file by keras.saving.load_model of training.keras with custom_objects."
        )
    return objects.build(described)
