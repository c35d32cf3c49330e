"""Optional dependencies: which extra installs a package, and the error if the package is missing."""

import importlib.util

DISTRIBUTION = "flaxmodels-training"
# Importable package: (its name on the package index, the extra that installs it). `pyproject.toml` declares the extras.
EXTRAS = {
    "PIL": ("pillow", "data"),
    "filelock": ("filelock", "checkpoints"),
    "h5py": ("h5py", "keras-files"),
    "matplotlib": ("matplotlib", "cli"),
    "orbax": ("orbax-checkpoint", "checkpoints"),
    "sklearn": ("scikit-learn", "data"),
    "tensorboardX": ("tensorboardX", "tensorboard"),
    "typer": ("typer", "cli"),
}


def require_extra(package: str, needed_by: str) -> None:
    """Checks that an optional dependency is installed, without importing it.

    Call it before a lazy import of the package.

    Args:
        package: Name of the package in an import statement, a key of `EXTRAS`.
        needed_by: Subject and verb of the error, such as "Checkpoints need".

    Raises:
        ModuleNotFoundError: If the package is not installed.

    Example:
        >>> require_extra("h5py", "Keras files need")
    """
    name, extra = EXTRAS[package]
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{needed_by} {name}, which is not installed; run pip install '{DISTRIBUTION}[{extra}]'.", name=package
        )
