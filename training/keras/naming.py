"""Automatic names of layers, numbered through the whole program as in Keras."""

import collections
import contextlib
import threading
from collections.abc import Iterator

from flaxmodels.names import snake_case as snake_case


class Depth(threading.local):
    """How many times this thread is inside a piece of code."""

    def __init__(self) -> None:
        self.depth = 0


copying = Depth()  # flax copies a layer; a copy gets its name from flax


def is_copying() -> bool:
    """Returns whether flax is making a copy of a layer in this thread."""
    return copying.depth > 0


_counts: collections.Counter[str] = collections.Counter()


# Classes whose own name in Keras differs from the one by which they are public.
_STEMS = {"GroupQueryAttention": "grouped_query_attention"}


def stem_of(cls: type) -> str:
    """Returns the name of the first object of a class.

    Example:
        >>> class BiggerNetwork: ...
        >>> stem_of(BiggerNetwork)
        'bigger_network'
    """
    return _STEMS.get(cls.__name__) or snake_case(cls.__name__)


def automatic_name(stem: str) -> str:
    """Returns a name that no layer has yet: "dense", then "dense_1".

    Example:
        >>> first = automatic_name("example_layer")
        >>> automatic_name("example_layer")
        'example_layer_1'
    """
    count = _counts[stem]
    _counts[stem] += 1
    return f"{stem}_{count}" if count else stem


@contextlib.contextmanager
def undone() -> Iterator[None]:
    """Undoes the numbers that are taken inside."""
    counts = _counts.copy()
    try:
        yield
    finally:
        _counts.clear()
        _counts.update(counts)


def reset() -> None:
    """Starts the numbers again from the beginning."""
    _counts.clear()
