"""Starts the command line: `flaxmodels` or `python -m flaxmodels`.

The commands are in `training.__main__`. The entry point is in this package, because a user's own `training.py` may hide
the package `training`.
"""

import importlib
import sys

from flaxmodels.extras import require_extra
from flaxmodels.shadowing import describe_shadowing


def main() -> None:
    """Checks that the package `training` and typer can be imported, and runs the command line."""
    try:
        if sentence := describe_shadowing():
            raise ImportError(sentence)
        require_extra("typer", "The command line needs")
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    importlib.import_module("training.__main__").main()


if __name__ == "__main__":
    main()
