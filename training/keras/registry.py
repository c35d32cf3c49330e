"""The classes and functions of a program that files may name."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

# Classes and functions by name.
CustomObjects = Mapping[str, object] | None

_objects: dict[str, object] = {}
_names: dict[object, str] = {}


class _Scopes(threading.local):
    """The custom objects of the innermost scope of this thread."""

    def __init__(self) -> None:
        self.present: dict[str, object] = {}


_scopes = _Scopes()


class CustomObjectScope:
    """Lets files and configurations name custom classes and functions inside a `with` block.

    Args:
        custom_objects: The objects by name. Those of an enclosing block are not known inside.

    References:
        Keras, `keras.saving.CustomObjectScope`.

    Example:
        >>> def cube(x):
        ...     return x**3
        >>> with CustomObjectScope({"cube": cube}):
        ...     get_registered_object("cube") is cube
        True
    """

    def __init__(self, custom_objects: Mapping[str, object] | None):
        self.custom_objects = dict(custom_objects or {})
        self._outer: list[dict[str, object]] = []

    def __enter__(self) -> "CustomObjectScope":
        self._outer.append(_scopes.present)
        _scopes.present = self.custom_objects
        return self

    def __exit__(self, *error: object) -> None:
        _scopes.present = self._outer.pop()


custom_object_scope = CustomObjectScope


def get_custom_objects() -> dict[str, object]:
    """Returns the registered classes and functions by name; changes to the dictionary take effect.

    References:
        Keras, `keras.saving.get_custom_objects`.
    """
    return _objects


def register_keras_serializable(package: str = "Custom", name: str | None = None) -> Callable[[T], T]:
    """Returns a decorator that lets files name a class or function, as "package>name".

    Args:
        package: The first part of the name.
        name: The second part; by default the name of the class or function.

    Raises:
        ValueError: If a class has no `get_config`.

    References:
        Keras, `keras.saving.register_keras_serializable`.

    Example:
        >>> @register_keras_serializable("examples")
        ... def double(x):
        ...     return 2 * x
        >>> get_registered_name(double), get_registered_object("examples>double") is double
        ('examples>double', True)
    """
    if not isinstance(package, str):
        raise TypeError(
            f"`package` must be a string, got {package!r}; write @register_keras_serializable() with parentheses."
        )

    def register(thing: T) -> T:
        if isinstance(thing, type) and not hasattr(thing, "get_config"):
            raise ValueError(
                f"A registered class must define get_config, got {thing.__name__} without it; return the arguments of "
                "its constructor there."
            )
        registered = f"{package}>{name or thing.__name__}"  # type: ignore[attr-defined]
        _objects[registered] = thing
        _names[thing] = registered
        return thing

    return register


def get_registered_name(obj: Callable[..., object]) -> str:
    """Returns the name under which a class or function is registered; otherwise its own name.

    References:
        Keras, `keras.saving.get_registered_name`.
    """
    try:
        return _names.get(obj) or obj.__name__
    except TypeError:  # not hashable
        return obj.__name__


def get_registered_object(
    name: str, custom_objects: Mapping[str, object] | None = None, module_objects: Mapping[str, object] | None = None
) -> Any:
    """Returns the class or function of a name, or None.

    Args:
        name: The name, such as "package>name".
        custom_objects: Looked at after the scope and the registered objects.
        module_objects: Looked at last.

    References:
        Keras, `keras.saving.get_registered_object`.
    """
    for known in (_scopes.present, _objects, custom_objects, module_objects):
        if known and name in known:
            return known[name]
    return None


def is_registered(obj: object) -> bool:
    """Returns whether a class or function is registered, or in the present scope."""
    try:
        return obj in _names or any(obj is known for known in _scopes.present.values())
    except TypeError:  # not hashable
        return False


def present_scope() -> dict[str, object]:
    """Returns the custom objects of the innermost scope of this thread."""
    return _scopes.present
