"""Finds the line of a user's program that a warning should point to."""

import os
import pathlib
import sys

import flaxmodels

PACKAGES = tuple(
    str(path) + os.sep for path in (pathlib.Path(__file__).parent, pathlib.Path(flaxmodels.__file__).parent)
)


def caller_stacklevel() -> int:
    """Returns the `stacklevel` with which the caller of this function warns about the user's line.

    It is the first frame outside of this library, whatever path the call takes through it.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGES):
        frame, level = frame.f_back, level + 1
    return level
