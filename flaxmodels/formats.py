"""The formats of model files: the suffix of the file name selects one, and the first bytes must match it."""

import os

# The content of a file for each suffix, the longest suffix first.
FORMATS = {
    ".weights.h5": "Keras weights",
    ".safetensors": "a flaxmodels model",
    ".keras": "a Keras model",
    ".h5": "a Keras model in the legacy format",
}
ZIP, HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"


def suffix_of(path: str | os.PathLike[str]) -> str:
    """Returns the suffix of a file name that gives its format.

    Raises:
        ValueError: If no supported format has the suffix.

    Example:
        >>> suffix_of("runs/model.weights.h5")
        '.weights.h5'
    """
    name = os.fspath(path)
    suffix = next((suffix for suffix in FORMATS if name.endswith(suffix)), None)
    if suffix is None:
        raise ValueError(
            "The name of a model file must end in '.safetensors', '.keras' or '.weights.h5', which gives its format, "
            f"got {name!r}; add a suffix."
        )
    if suffix == ".h5":
        raise ValueError(
            f"'.h5' is the legacy format of Keras, which is not supported, got {name!r}; "
            "use '.keras' for a model, or '.weights.h5' for weights alone."
        )
    return suffix


def check_suffix(path: str | os.PathLike[str], *suffixes: str) -> None:
    """Raises unless a file name has one of the given suffixes."""
    if suffix_of(path) not in suffixes:
        raise ValueError(
            f"The file name of {FORMATS[suffixes[0]]} must end in {' or '.join(map(repr, suffixes))}, "
            f"got {os.fspath(path)!r}; use a name with that suffix."
        )


def check_is_file(path: str | os.PathLike[str]) -> None:
    """Raises unless the path is a regular file; opening a pipe would wait for its writer."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no model file at {os.fspath(path)}; give the path that it was saved to.")


def check_content(path: str | os.PathLike[str]) -> None:
    """Raises if the first bytes of a file do not belong to the format of its suffix."""
    suffix = suffix_of(path)
    with open(path, "rb") as file:
        start = file.read(9)
    if start.startswith(ZIP):
        content, expected = "a zip file", ".keras"
    elif start.startswith(HDF5):
        content, expected = "an HDF5 file", ".weights.h5"
    elif start[8:] == b"{":
        content, expected = "a safetensors file", ".safetensors"
    else:
        return  # The reader reports what is wrong with the content.
    if suffix != expected:
        raise ValueError(
            f"The name of {os.fspath(path)} ends in {suffix!r}, but it holds {content}, "
            f"which belongs in a {expected!r} file; rename the file."
        )
