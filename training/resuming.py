"""What a checkpoint of a run holds, and how a run continues from it."""

import copy
import json
import warnings
from typing import Any, NamedTuple

import numpy as np

from flaxmodels import saving
from training import optimizers, process
from training.checkpoints import Checkpoints, packed, refilled, unpacked
from training.streams import StreamFeed


class Position(NamedTuple):
    """The place of a run between two chunks of steps.

    Attributes:
        epoch: Number of the epoch, from 0.
        step: Steps of it that are done.
        number: Number of the pass through the data.
        first: Steps of that pass that are done.
    """

    epoch: int
    step: int
    number: int
    first: int


def snapshot(run: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a checkpoint of a run holds: a tree of arrays, and notes."""
    arrays: dict[str, Any] = {}
    notes = {
        "position": run.position._asdict(),
        "logs": run.logs,
        "untold": run.untold,
        "stop_training": run.trainer.stop_training,
        "callbacks": _states(run.callbacks, arrays),
        "run": run.configuration,
        "learning_rate": run.chosen_rate,
        "threads": process.threads(),
        "data": run.feed.position(run.walk.first) if isinstance(run.feed, StreamFeed) else None,
        "validation": run.validate.feed.position() if _validates_on_stream(run) else None,
    }
    begin = {"begin": run.begin_state} if run.step and run.begin_state else {}
    return {"state": run.trainer.state, "totals": run.totals, "callbacks": arrays} | begin, notes


def _validates_on_stream(run: Any) -> bool:
    return run.validate is not None and isinstance(run.validate.feed, StreamFeed)


def _states(callbacks: list[Any], arrays: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of callbacks as JSON can represent them; their arrays go to `arrays`."""
    return [
        {
            "class": type(callback).__name__,
            "state": {
                name: copy.deepcopy(packed(value, f"{i}/{name}", arrays))
                for name, value in callback.get_state().items()
            },
        }
        for i, callback in enumerate(callbacks)
    ]


def configuration(run: Any) -> dict[str, Any]:
    """What must be the same for a run to continue."""
    feed = run.feed
    return {
        "seed": run.trainer.seed,
        "batch_size": feed.batch_size,
        "examples": feed.n,
        "steps_per_epoch": run.steps_per_epoch,
        "shuffle": run.shuffle,
        "metrics": run.objective.log_names,
        "losses": [getattr(loss, "name", None) for loss in run.objective.losses],
        "model": described(run.trainer.model),
        "optimizer": optimizers.describe(run.trainer.optimizer),
    }


def described(model: Any) -> Any:
    """The model as JSON says it, or only its class where code alone describes it."""
    try:
        return json.loads(json.dumps(saving.to_config(model)))
    except ValueError:
        return type(model).__name__


def restore(run: Any, checkpoints: Checkpoints) -> None:
    """Continues from the newest intact checkpoint, if there is one.

    What decides the numbers must be as it was. Only the learning rate may be another one, if it was given to the
    optimizer or set before the first epoch: then the run continues with it.

    Raises:
        ValueError: If the checkpoint is of another run, or of one that has done more epochs.
    """
    found = checkpoints.newest()
    if found is None:
        # A process that ended before its first checkpoint may have had effects, such as rows in a file.
        if (started := checkpoints.started()) is None:
            checkpoints.start({"callbacks": _states(run.callbacks, {})})
        else:
            _restore_callbacks(run.callbacks, started["callbacks"], {})
        return
    arrays, notes = found
    folder, noted = checkpoints.folder, notes["run"]
    otherwise = "go on as it began, or choose another folder."
    for name, value in run.configuration.items():
        if name not in ("model", "optimizer") and noted.get(name) != value:
            raise ValueError(
                f"The checkpoints in {folder} are of a run with {name}={noted.get(name)!r}, got {value!r}; {otherwise}"
            )
    position = Position(**notes["position"])
    if position.epoch + (position.step > 0) > run.epochs.stop:
        raise ValueError(
            f"The run in {folder} has done {position.epoch} epochs and {position.step} steps, got "
            f"epochs={run.epochs.stop}; give at least {position.epoch + (position.step > 0)}, or choose another folder."
        )
    callbacks = {name: array for name, array in arrays.items() if name.startswith("callbacks/")}
    rest = {name: array for name, array in arrays.items() if name not in callbacks}
    begin = {"begin": run.trainer.state} if any(name.startswith("begin/") for name in rest) else {}
    try:
        tree = refilled({"state": run.trainer.state, "totals": run.totals} | begin, rest)
    except ValueError as error:
        raise ValueError(f"In {folder} there is {error}; {otherwise}") from error
    if noted.get("model") != run.configuration["model"]:
        raise ValueError(f"The checkpoints in {folder} are of a model whose layers have other arguments; {otherwise}")
    changes = optimizers.differences(noted["optimizer"], run.configuration["optimizer"])
    for path, before, now in changes:
        if not optimizers.is_learning_rate(path):
            raise ValueError(
                f"The checkpoints in {folder} are of a run whose optimizer has {optimizers.name_of(path)}={before!r}, "
                f"got {now!r}; {otherwise}"
            )
    process.warn_of_other_threads(notes.get("threads"), folder)
    run.trainer.state, run.totals, run.begin_state = tree["state"], tree["totals"], tree.get("begin")
    run.logs = unpacked({"value": notes["logs"]}, "", {})
    run.epoch, run.step, run.walk.number, run.walk.first = position
    if not _changes_rate(run, notes, changes, folder) and notes["stop_training"]:
        run.trainer.stop_training = True
        run.complete = not run.step
    if isinstance(run.feed, StreamFeed):
        run.feed.resume(run.walk.number, run.walk.first, notes["data"] or {})
    if _validates_on_stream(run) and notes.get("validation"):
        run.validate.feed.resume(0, 0, notes["validation"])
    _restore_callbacks(run.callbacks, notes["callbacks"], callbacks)
    if notes.get("untold") is not None:
        run.untold = unpacked({"value": notes["untold"]}, "", {})
        run.tell()


def _changes_rate(run: Any, notes: dict[str, Any], changes: list[tuple[str, Any, Any]], folder: Any) -> bool:
    """Sets the learning rate that the user has chosen anew, and returns whether there is one.

    Callbacks change the rate during a run. So the checkpoint's rate is right, unless the run would start with another
    one than it did: by another argument of the optimizer, or by `Trainer.learning_rate` before the first epoch.
    """
    noted = notes.get("learning_rate")
    if run.chosen_rate is not None and run.chosen_rate != noted:
        rate = run.chosen_rate
    elif run.chosen_rate is None and changes:
        path, _, rate = changes[0]
        if not path.endswith("learning_rate") or not isinstance(rate, int | float):
            warnings.warn(
                f"The checkpoints in {folder} are of a run with another learning rate schedule; the run continues with "
                "the new one.",
                stacklevel=6,
            )
            return True
    else:
        run.chosen_rate = noted
        return False
    present = run.trainer.learning_rates()
    if len(present) != 1:
        raise ValueError(
            f"The checkpoints in {folder} are of a run with {len(present)} learning rates, of which one has changed to "
            f"{rate}; go on as it began, or choose another folder."
        )
    (present_rate,) = present.values()
    if np.float32(rate) == np.float32(present_rate):
        return False
    run.trainer.learning_rate = rate
    warnings.warn(
        f"The checkpoints in {folder} are of a run with another learning rate; it was {present_rate:.6g} in the last "
        f"one, and the run continues with {rate:.6g}.",
        stacklevel=6,
    )
    return True


def _restore_callbacks(callbacks: list[Any], noted: list[dict[str, Any]], arrays: dict[str, Any]) -> None:
    waiting = list(callbacks)
    for i, note in enumerate(noted):
        callback = next((c for c in waiting if type(c).__name__ == note["class"]), None)
        if callback is not None:
            waiting.remove(callback)
            callback.set_state({n: unpacked(v, f"callbacks/{i}/{n}", arrays) for n, v in note["state"].items()})
