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


def snake_case(class_name: str) -> str:
    """Returns Keras' automatic name of a class: "conv2d_transpose" for "Conv2DTranspose"."""
    words = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", class_name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", words).lower()
