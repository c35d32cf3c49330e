"""Checks of static arguments that several operations share: data formats, sizes along axes, and sparse results."""

from collections.abc import Sequence

import numpy as np


def is_channels_first(data_format: str | None) -> bool:
    """Returns whether a data format is "channels_first"; None is "channels_last".

    Raises:
        ValueError: If it is another value.

    Example:
        >>> is_channels_first("channels_first"), is_channels_first(None)
        (True, False)
    """
    if data_format not in (None, "channels_last", "channels_first"):
        raise ValueError(f'`data_format` must be "channels_last" or "channels_first", got {data_format!r}; choose one.')
    return data_format == "channels_first"


def per_axis(name: str, value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """Returns one integer per spatial axis.

    Args:
        name: The name of the argument in errors.
        value: One integer for all axes, or one for each.
        axes: Number of axes.

    Raises:
        ValueError: If a sequence has the wrong length.

    Example:
        >>> per_axis("strides", 2, 3)
        (2, 2, 2)
    """
    sizes = (value,) * axes if isinstance(value, int | np.integer) else tuple(value)
    if len(sizes) != axes:
        raise ValueError(
            f"`{name}` must be an integer or one integer for each of the {axes} spatial axes, got {value!r}; "
            f"give {axes} integers."
        )
    return tuple(int(size) for size in sizes)


def refuse_sparse(operation: str, sparse: bool | None) -> None:
    """Raises if a sparse result is requested.

    Raises:
        ValueError: If `sparse` is True.
    """
    if sparse:
        raise ValueError(f"`{operation}` returns dense arrays only, got sparse=True; leave `sparse` out.")
