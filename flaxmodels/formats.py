"""The formats of model files: the ending of a file's name says which one it is, and its first bytes must agree."""

import os
from typing import Any

# By ending, the longest first: what is in such a file.
FORMATS = {
    ".weights.h5": "Weights of Keras are",
    ".safetensors": "A model of flaxmodels is",
    ".keras": "A model of Keras is",
    ".h5": "A model in the legacy format of Keras is",
}
ZIP, HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"


def ending_of(path: str | os.PathLike[str]) -> str:
    """Returns the ending of a file's name that says its format.

    Raises:
        ValueError: If no format that is read and written here has the ending.

    Example:
        >>> ending_of("runs/model.weights.h5")
        '.weights.h5'
    """
    name = os.fspath(path)
    ending = next((ending for ending in FORMATS if name.endswith(ending)), None)
    if ending is None:
        raise ValueError(
            "The name of a model file ends in '.safetensors', '.keras' or '.weights.h5', which says its format, "
            f"got {name!r}; add an ending."
        )
    if ending == ".h5":
        raise ValueError(
            f"'.h5' is the legacy format of Keras, which is neither read nor written, got {name!r}; "
            "use '.keras' for a model, or '.weights.h5' for weights alone."
        )
    return ending


def check_ending(path: str | os.PathLike[str], *endings: str) -> None:
    """Raises unless a file's name ends in one of the endings that a reader or writer takes."""
    if ending_of(path) not in endings:
        raise ValueError(
            f"{FORMATS[endings[0]]} in a file whose name ends in {' or '.join(map(repr, endings))}, "
            f"got {os.fspath(path)!r}; use a name with that ending."
        )


def check_is_file(path: Any) -> None:
    """Raises unless there is a plain file: to open a pipe would wait for whoever writes into it."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no model file at {os.fspath(path)}; give the path that it was saved to.")


def check_content(path: str | os.PathLike[str]) -> None:
    """Raises if the first bytes of a file are those of another format than its name says."""
    ending = ending_of(path)
    with open(path, "rb") as file:
        start = file.read(9)
    if start.startswith(ZIP):
        found, like = "a zip file", ".keras"
    elif start.startswith(HDF5):
        found, like = "an HDF5 file", ".weights.h5"
    elif start[8:] == b"{":
        found, like = "a safetensors file", ".safetensors"
    else:
        return  # the reader says what is wrong with it
    if ending != like:
        raise ValueError(
            f"The name of {os.fspath(path)} ends in {ending!r}, but it holds {found}, as {like!r} files do; "
            "rename it to what it is."
        )
