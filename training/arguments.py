"""Checks of the arguments of `Trainer` and `fit`."""

import os
from collections.abc import Collection

import flax.linen as nn
import numpy as np

from flaxmodels.layers.base import Layer
from training.callbacks import BackupAndRestore, Callback
from training.checkpoints import Checkpoints


def check_epochs(epochs: int, initial_epoch: int, validation_freq: object, shuffle: object) -> None:
    """Checks the arguments of `fit` that count epochs, and `shuffle`."""
    for name, value in (("epochs", epochs), ("initial_epoch", initial_epoch)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(f"`{name}` must be a number of epochs, got {value!r}; give an integer of at least 0.")
    if initial_epoch > epochs:
        raise ValueError(
            f"`epochs` is the number of the last epoch and must be at least `initial_epoch`, got {epochs} with "
            f"initial_epoch={initial_epoch}; give a larger number."
        )
    numbers: Collection[object] = (
        validation_freq if isinstance(validation_freq, list | tuple | set) else [validation_freq]
    )
    if not all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0 for n in numbers):
        raise ValueError(
            f"`validation_freq` must be a positive integer or a list of them, got {validation_freq!r}; 1 validates "
            "after each epoch."
        )
    if not isinstance(shuffle, bool | np.bool_):
        raise ValueError(f"`shuffle` must be True or False, got {shuffle!r}; True shuffles the examples in each epoch.")


def check_steps(name: str, steps: int | None) -> None:
    """Checks that an argument is a positive number of steps or None."""
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1):
        raise ValueError(
            f"`{name}` must be a positive integer or None, got {steps!r}; leave it out to take all batches."
        )


def checkpoints_for(
    resume: str | os.PathLike[str] | Checkpoints | None, callbacks: list[Callback]
) -> Checkpoints | None:
    """Returns the checkpoints of a run: those of `resume`, or of a `BackupAndRestore` among the callbacks."""
    backups = [callback.checkpoints for callback in callbacks if isinstance(callback, BackupAndRestore)]
    if resume is not None:
        backups.append(resume if isinstance(resume, Checkpoints) else Checkpoints(resume))
    if len(backups) > 1:
        raise ValueError(
            f"A run is saved in one folder, got {len(backups)}; give `resume` or one BackupAndRestore, not both."
        )
    return backups[0] if backups else None


def in_precision(model: nn.Module, precision: str) -> nn.Module:
    """Returns a copy of the model that computes in half precision."""
    if precision not in ("mixed_bfloat16", "mixed_float16"):
        raise ValueError(
            f"`precision` must be 'mixed_bfloat16', 'mixed_float16' or None, got {precision!r}; use one of them."
        )
    if not hasattr(model, "dtype"):
        raise TypeError(
            f"`precision` sets the `dtype` of a model, but {type(model).__name__} has none; set the dtype of its "
            "layers."
        )
    return model.clone(dtype=precision if isinstance(model, Layer) else precision.removeprefix("mixed_"))
