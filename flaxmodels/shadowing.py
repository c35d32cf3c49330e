"""Detection of a user's own `training.py` or `training/`, which would be imported instead of the package `training`."""

import importlib.util
import os
import warnings


def describe_shadowing() -> str | None:
    """Returns a sentence about the module that hides the package `training`, or None if nothing hides it.

    Example:
        >>> describe_shadowing() is None
        True
    """
    package = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "training", "__init__.py")
    try:
        spec = importlib.util.find_spec("training")
    except ValueError:  # a module without a specification
        return None
    if spec is None or spec.origin is None or not os.path.exists(package) or os.path.samefile(spec.origin, package):
        return None
    return (
        f"{spec.origin} hides the package `training` of flaxmodels-training, so `from training import Trainer` fails; "
        "rename it."
    )


def warn_if_shadowed() -> None:
    """Warns when `flaxmodels` is imported if one of the user's modules hides the package `training`."""
    if sentence := describe_shadowing():
        warnings.warn(sentence, stacklevel=3)
