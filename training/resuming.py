"""What a checkpoint of a run contains, and how a run resumes from it."""

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypedDict

import flax.linen as nn
import numpy as np
import optax

from flaxmodels import saving
from training import optimizers, process
from training.callbacks import Callback
from training.caller import caller_stacklevel
from training.checkpoints import Checkpoints, SerializedValue, deserialize_value, replace_leaves, serialize_value
from training.data.source import StreamPosition
from training.objective import Objective, Totals
from training.optimizers.description import Plain
from training.state import TrainState

Json: TypeAlias = str | int | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]
# The class of a callback and its state.
CallbackNotes = TypedDict("CallbackNotes", {"class": str, "state": dict[str, SerializedValue]})


class Position(NamedTuple):
    """The position of a run between two chunks of steps.

    Attributes:
        epoch: Number of the epoch, from 0.
        step: Number of steps done in the epoch.
        pass_index: Number of complete passes through the data.
        steps_done: Number of steps done in the current pass.
    """

    epoch: int
    step: int
    pass_index: int
    steps_done: int


class Snapshot(NamedTuple):
    """A run between two chunks of steps: all that a checkpoint contains, except for the states of callbacks.

    Attributes:
        position: The position.
        state: The state of training.
        totals: Losses and metrics of the epoch so far.
        epoch_start: The state at the start of the epoch, if the run may return to it.
        logs: The latest logs.
        pending_logs: Logs of each step of a chunk that callbacks have not received yet.
        stop_training: Whether a callback has ended the run.
        chosen_rate: The learning rate that was set before the first epoch, or None.
        data: The position of the training data, if `position` does not determine it.
        validation: The position of the validation data, if `position` does not determine it.
    """

    position: Position
    state: TrainState
    totals: Totals
    epoch_start: TrainState | None
    logs: dict[str, Any]
    pending_logs: dict[str, np.ndarray] | None
    stop_training: bool
    chosen_rate: float | None
    data: StreamPosition | None
    validation: StreamPosition | None


def packed_snapshot(
    snapshot: Snapshot, callbacks: Sequence[Callback], signature: Mapping[str, Json]
) -> tuple[dict[str, object], dict[str, object]]:
    """Returns the content of a checkpoint: a tree of arrays, and notes as JSON values."""
    arrays: dict[str, object] = {}
    position = snapshot.position
    notes: dict[str, object] = {
        # These keys are part of the file format.
        "position": {
            "epoch": position.epoch,
            "step": position.step,
            "number": position.pass_index,
            "first": position.steps_done,
        },
        "logs": snapshot.logs,
        "untold": snapshot.pending_logs,
        "stop_training": snapshot.stop_training,
        "callbacks": _states(callbacks, arrays),
        "run": signature,
        "learning_rate": snapshot.chosen_rate,
        "threads": process.threads(),
        "data": snapshot.data,
        "validation": snapshot.validation,
    }
    start = {"begin": snapshot.epoch_start} if position.step and snapshot.epoch_start else {}
    return {"state": snapshot.state, "totals": snapshot.totals, "callbacks": arrays} | start, notes


def _states(callbacks: Sequence[Callback], arrays: dict[str, object]) -> list[CallbackNotes]:
    """Returns the states of callbacks as JSON values; their arrays go into `arrays`."""
    return [
        {
            "class": type(callback).__name__,
            "state": {
                name: copy.deepcopy(serialize_value(value, f"{i}/{name}", arrays))
                for name, value in callback.get_state().items()
            },
        }
        for i, callback in enumerate(callbacks)
    ]


def run_signature(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    seed: int,
    batch_size: int,
    examples: int | None,
    steps_per_epoch: int | None,
    shuffle: bool,
) -> dict[str, Json]:
    """Returns what must be equal for a run to resume, as JSON values."""
    return {
        "seed": seed,
        "batch_size": batch_size,
        "examples": examples,
        "steps_per_epoch": steps_per_epoch,
        "shuffle": shuffle,
        "metrics": objective.log_names,
        "losses": [getattr(loss, "name", None) for loss in objective.losses],
        "model": model_signature(model),
        "optimizer": optimizers.describe(optimizer),
    }


def model_signature(model: nn.Module) -> Json:
    """Returns the architecture as JSON values, or the name of the class if only code describes the model."""
    try:
        return json.loads(json.dumps(saving.to_config(model)))
    except ValueError:
        return type(model).__name__


def restore_snapshot(
    checkpoints: Checkpoints,
    fresh: Snapshot,
    callbacks: Sequence[Callback],
    signature: Mapping[str, Any],
    last_epoch: int,
) -> Snapshot | None:
    """Returns the newest intact checkpoint, and sets the states of callbacks; None if there is no checkpoint.

    Everything that affects results must be unchanged. Only the learning rate may differ, if it was given to the
    optimizer or set before the first epoch: then the run continues with the new one.

    Args:
        checkpoints: The folder.
        fresh: The run at its start.
        callbacks: The callbacks.
        signature: The signature of this run, see `run_signature`.
        last_epoch: The number of epochs of this run.

    Raises:
        ValueError: If the checkpoint belongs to another run, or the run has already completed more epochs.
    """
    found = checkpoints.newest()
    if found is None:
        # A process that ended before its first checkpoint may have had effects, such as rows in a file.
        if (started := checkpoints.started()) is None:
            checkpoints.start({"callbacks": _states(callbacks, {})})
        else:
            _restore_callbacks(callbacks, started["callbacks"], {})
        return None
    arrays, notes = found
    folder, noted = checkpoints.folder, notes["run"]
    fix = "use the same arguments as before, or choose another folder."
    for name, value in signature.items():
        if name not in ("model", "optimizer") and noted.get(name) != value:
            raise ValueError(
                f"The checkpoints in {folder} belong to a run with {name}={noted.get(name)!r}, got {value!r}; {fix}"
            )
    place = notes["position"]
    position = Position(place["epoch"], place["step"], place["number"], place["first"])
    epochs_done = position.epoch + (position.step > 0)
    if epochs_done > last_epoch:
        raise ValueError(
            f"The run in {folder} has done {position.epoch} epochs and {position.step} steps, got "
            f"epochs={last_epoch}; give at least {epochs_done}, or choose another folder."
        )
    of_callbacks = {name: array for name, array in arrays.items() if name.startswith("callbacks/")}
    rest = {name: array for name, array in arrays.items() if name not in of_callbacks}
    start = {"begin": fresh.state} if any(name.startswith("begin/") for name in rest) else {}
    try:
        tree: dict[str, Any] = replace_leaves({"state": fresh.state, "totals": fresh.totals} | start, rest)
    except ValueError as error:
        raise ValueError(f"{folder} contains {error}; {fix}") from error
    if noted.get("model") != signature["model"]:
        raise ValueError(f"The checkpoints in {folder} belong to a model whose layers have different arguments; {fix}")
    changes = optimizers.differences(noted["optimizer"], signature["optimizer"])
    for path, before, now in changes:
        if not optimizers.is_learning_rate(path):
            raise ValueError(
                f"The checkpoints in {folder} belong to a run whose optimizer has "
                f"{optimizers.name_of(path)}={before!r}, got {now!r}; {fix}"
            )
    process.warn_of_other_threads(notes.get("threads"), folder)
    pending = notes.get("untold")
    snapshot = Snapshot(
        position,
        tree["state"],
        tree["totals"],
        tree.get("begin"),
        deserialize_value({"value": notes["logs"]}, "", {}),
        None if pending is None else deserialize_value({"value": pending}, "", {}),
        bool(notes["stop_training"]),
        fresh.chosen_rate,
        notes["data"],
        notes.get("validation"),
    )
    snapshot = _with_chosen_rate(snapshot, notes.get("learning_rate"), changes, folder)
    _restore_callbacks(callbacks, notes["callbacks"], of_callbacks)
    return snapshot


def _with_chosen_rate(
    snapshot: Snapshot, noted: float | None, changes: list[tuple[str, Plain, Plain]], folder: Path
) -> Snapshot:
    """Sets the learning rate if the user has chosen a different one than in the interrupted run.

    Callbacks change the rate during a run, so the rate of the checkpoint is usually right. But if another rate is given
    to the optimizer, or set by `Trainer.learning_rate` before the first epoch, this run uses the new rate. It
    then continues even if a callback had ended it.

    Args:
        snapshot: The checkpoint, with the rate that was chosen before this run.
        noted: The rate that was chosen before the interrupted run.
        changes: Differences between the optimizers of both runs.
        folder: The folder, for warnings.
    """
    rate: Plain
    if snapshot.chosen_rate is not None and snapshot.chosen_rate != noted:
        rate = snapshot.chosen_rate
    elif snapshot.chosen_rate is None and changes:
        path, _, rate = changes[0]
        if not path.endswith("learning_rate") or not isinstance(rate, int | float):
            warnings.warn(
                f"The checkpoints in {folder} belong to a run with another learning rate schedule; the run continues "
                "with the new one.",
                stacklevel=caller_stacklevel(),
            )
            return snapshot._replace(stop_training=False)
    else:
        return snapshot._replace(chosen_rate=noted)
    present = optimizers.learning_rates(snapshot.state.opt_state)
    if len(present) != 1:
        raise ValueError(
            f"The checkpoints in {folder} belong to a run with {len(present)} learning rates, got {rate} for one of "
            "them; use the same arguments as before, or choose another folder."
        )
    (present_rate,) = present.values()
    if np.float32(rate) == np.float32(present_rate):
        return snapshot
    warnings.warn(
        f"The checkpoints in {folder} belong to a run with another learning rate; its last rate was "
        f"{present_rate:.6g}, and the run continues with {rate:.6g}.",
        stacklevel=caller_stacklevel(),
    )
    opt_state = optimizers.set_learning_rate(snapshot.state.opt_state, rate)
    return snapshot._replace(state=snapshot.state.replace(opt_state=opt_state), stop_training=False)


def _restore_callbacks(
    callbacks: Sequence[Callback], noted: Sequence[CallbackNotes], arrays: Mapping[str, np.ndarray]
) -> None:
    waiting = list(callbacks)
    for i, note in enumerate(noted):
        callback = next((c for c in waiting if type(c).__name__ == note["class"]), None)
        if callback is not None:
            waiting.remove(callback)
            state = {n: deserialize_value(v, f"callbacks/{i}/{n}", arrays) for n, v in note["state"].items()}
            callback.set_state(state)
