"""Looks up names in tables, and makes Keras' automatic names of layers."""

import difflib
import re
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def lookup(kind: str, name: str, table: Mapping[str, T], alternative: str = "", place: str = "") -> T:
    """Returns `table[name]`, or raises an error that lists the known names.

    Args:
        kind: The kind of entry for the error message, such as "loss".
        name: The name that the user gave.
        table: Entries keyed by name.
        alternative: A last sentence for the error message, such as "Or pass a function (y_true, y_pred) -> [B]."
        place: Where the name occurs, for the error message, such as "in a model file".

    Raises:
        ValueError: If the table has no such name.

    Example:
        >>> lookup("fruit", "pear", {"pear": 1, "plum": 2})
        1
        >>> lookup("fruit", "paer", {"pear": 1, "plum": 2})
        Traceback (most recent call last):
        ValueError: Unknown fruit 'paer'. Did you mean 'pear'? Known: 'pear', 'plum'.
    """
    if isinstance(name, str) and name in table:
        return table[name]
    close = difflib.get_close_matches(str(name), table, n=1)
    suggestion = f" Did you mean {close[0]!r}?" if close else ""
    known = ", ".join(repr(k) for k in sorted(table))
    closing = f" {alternative}" if alternative else ""
    where = f" {place}" if place else ""
    raise ValueError(f"Unknown {kind} {name!r}{where}.{suggestion} Known: {known}.{closing}")


def refuse_keras(thing: object) -> None:
    """Raises if a thing comes from the package keras itself, which a program may import beside `training.keras`.

    Args:
        thing: An object, a class or a function.

    Raises:
        TypeError: If it is one of Keras' or its class derives from one of Keras'.
    """
    kind = thing if isinstance(thing, type) else type(thing)
    modules = [getattr(thing, "__module__", None), *(cls.__module__ for cls in kind.__mro__)]
    if any(isinstance(module, str) and module.partition(".")[0] in ("keras", "tf_keras") for module in modules):
        name = getattr(thing, "__name__", kind.__name__)
        raise TypeError(
            f"Objects of the package keras do not work here, got {name}; import it from training.keras, for example by "
            "`from training.keras import layers`."
        )


def snake_case(class_name: str) -> str:
    """Returns Keras' automatic name of a class: "conv2d_transpose" for "Conv2DTranspose"."""
    words = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", class_name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", words).lower()
