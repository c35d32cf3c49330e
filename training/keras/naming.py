"""Automatic names of layers, numbered through the whole program as in Keras."""

import collections

_counts: collections.Counter[str] = collections.Counter()


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


def reset() -> None:
    """Starts the numbers again from the beginning."""
    _counts.clear()
