"""Trains linen modules: whole epochs as one compiled program, with Keras' words for losses, metrics and optimizers."""

import importlib
from typing import Any

MODULES = (
    "batches",
    "callbacks",
    "checkpoints",
    "datasets",
    "losses",
    "metrics",
    "objective",
    "optimizers",
    "schedules",
    "steps",
)
NAMES = {"compilation_cache": "cache", "Checkpoints": "checkpoints", "Trainer": "trainer", "TrainState": "state"}

__all__ = [*NAMES, *MODULES]


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is asked for, so that the command line answers at once."""
    if name in MODULES:
        return importlib.import_module(f"training.{name}")
    if name in NAMES:
        return getattr(importlib.import_module(f"training.{NAMES[name]}"), name)
    raise AttributeError(f"module 'training' has no attribute {name!r}; it has {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
