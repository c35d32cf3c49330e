"""Checks of the arguments of `fit`, `evaluate` and `predict`, and the data that they name."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np

from flaxmodels.building import Container, Symbol
from flaxmodels.layers.base import Layer
from training.batches import Data, as_data
from training.callbacks import BackupAndRestore, Callback
from training.checkpoints import Checkpoints
from training.datasets import Split
from training.sources import is_stream
from training.streams import Stream


def check_inputs(model: nn.Module, x: Any) -> None:
    """Raises, with the shapes of all data, where a model of ours takes other inputs."""
    if isinstance(model, Container) and model.input_spec is not None:
        spec = model.input_spec
        # The data are cut into batches later, so that their number says nothing.
        batched = jax.tree.map(lambda s: Symbol((None, *s.shape[1:]), s.dtype, name=s.name), spec)
        model.check_inputs(batched, x)


def given_data(
    x: Any, y: Any, sample_weight: Any, class_weight: Any, method: str, batch_size: int | None = None
) -> Data | Stream:
    """What `fit` and `evaluate` were given: arrays, or a stream, with labels."""
    if not is_stream(x):
        return labelled(as_data(x, y, sample_weight, class_weight), method)
    for name, value in (("y", y), ("sample_weight", sample_weight), ("batch_size", batch_size)):
        if value is not None:
            raise ValueError(f"A stream brings its own {name}, but {method} got `{name}` as well; leave it out.")
    stream = Stream(x, class_weight)
    labelled(stream.example, method)
    return stream


def in_memory(data: Data | Stream) -> Data:
    """Returns the data, or raises if it is a stream, which cannot be divided."""
    if isinstance(data, Stream):
        raise ValueError("`validation_split` divides arrays, got a stream; give `validation_data` instead.")
    return data


def labelled(data: Data, method: str) -> Data:
    """Returns the data, or raises if it has no labels."""
    if data.y is None:
        call = "validation_data=(x, y)" if method == "validation_data" else f"{method}(x, y)"
        raise ValueError(f"`{method}` needs labels, got none; write {call}, or give a Split of datasets.load.")
    return data


def check_epochs(epochs: Any, initial_epoch: Any, validation_freq: Any, shuffle: Any) -> None:
    """Raises unless the arguments of `fit` that count epochs are such counts, and `shuffle` is True or False."""
    for name, value in (("epochs", epochs), ("initial_epoch", initial_epoch)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(f"`{name}` is a number of epochs, got {value!r}; give an integer from 0 on.")
    if initial_epoch > epochs:
        raise ValueError(
            f"`epochs` is the number of the last epoch, got {epochs} with initial_epoch={initial_epoch}; "
            "give a larger one."
        )
    numbers = validation_freq if isinstance(validation_freq, list | tuple | set) else [validation_freq]
    if not all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0 for n in numbers):
        raise ValueError(
            f"`validation_freq` is a positive integer or a list of them, got {validation_freq!r}; "
            "1 validates after each epoch."
        )
    if not isinstance(shuffle, bool | np.bool_):
        raise ValueError(f"`shuffle` is True or False, got {shuffle!r}; give True for an order of each epoch's own.")


def check_steps(name: str, steps: int | None) -> None:
    """Raises unless the named argument is a positive number of steps, or None."""
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1):
        raise ValueError(f"`{name}` is a positive integer or None, got {steps!r}; leave it out to take all batches.")


def given_validation(given: Any) -> Data | Stream:
    """The data of `validation_data`, which has labels in any form."""
    if isinstance(given, Split | Data) or is_stream(given):
        return given_data(given, None, None, None, "validation_data")
    if not isinstance(given, tuple | list):
        got = f"an array of shape {np.shape(given)}" if hasattr(given, "shape") else f"a {type(given).__name__}"
    elif len(given) not in (2, 3):
        got = f"{len(given)} {'entry' if len(given) == 1 else 'entries'}"
    elif given[1] is None:
        got = "None for y"
    else:
        x, y, weight = (*given, None)[:3]
        return given_data(x, y, weight, None, "validation_data")
    raise ValueError(
        "`validation_data` is (x, y), (x, y, sample_weight), a Split or a stream of such batches, "
        f"got {got}; write validation_data=(x, y)."
    )


def checkpoints_for(resume: Any, callbacks: list[Callback]) -> Checkpoints | None:
    """Returns where a run is saved: what `resume` says, or a `BackupAndRestore` among the callbacks."""
    backups = [callback.checkpoints for callback in callbacks if isinstance(callback, BackupAndRestore)]
    if resume is not None:
        backups.append(resume if isinstance(resume, Checkpoints) else Checkpoints(resume))
    if len(backups) > 1:
        raise ValueError(
            f"A run is saved in one folder, got {len(backups)}; give `resume` or one BackupAndRestore, not both."
        )
    return backups[0] if backups else None


def in_precision(model: nn.Module, precision: str) -> nn.Module:
    """Returns the model with another dtype of computation."""
    if precision not in ("mixed_bfloat16", "mixed_float16"):
        raise ValueError(
            f"`precision` is 'mixed_bfloat16', 'mixed_float16' or None, got {precision!r}; use one of them."
        )
    if not hasattr(model, "dtype"):
        raise TypeError(
            f"`precision` sets the `dtype` of a model, and {type(model).__name__} has none; give it to its layers."
        )
    return model.clone(dtype=precision if isinstance(model, Layer) else precision.removeprefix("mixed_"))
