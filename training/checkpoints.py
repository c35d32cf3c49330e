"""Checkpoints of a run: written in the background, atomically, with digests that reveal damage."""

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import shutil
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import traverse_util

from flaxmodels.extras import require_extra
from training.caller import caller_stacklevel

if TYPE_CHECKING:
    import filelock
    import orbax.checkpoint as ocp

FORMAT = 1
LOCK_FILE = "lock"

Tree = TypeVar("Tree")


class SerializedValue(TypedDict, total=False):
    """A value in the notes of a checkpoint: a JSON value, or the paths of the arrays of a dictionary."""

    value: object
    arrays: list[str]


class Checkpoints:
    """A folder with the checkpoints of one run, from which an interrupted run resumes.

    A checkpoint holds parameters, statistics, optimizer state, step, random key, position in the data, running sums of
    the epoch, history and the states of callbacks. Each checkpoint stores a digest of its content. A damaged checkpoint
    is reported and skipped. One process at a time can use a folder.

    Args:
        folder: The folder. It is created if it does not exist.
        every: "epoch", or a number of steps: save after each epoch, or after the chunk that completes that many steps.
        minutes: Also save after the first chunk that ends this many minutes after the last checkpoint.
        keep: How many of the newest checkpoints to keep.
        keep_best: Also keep the checkpoint of the epoch with the best value of this log, such as "val_loss".
        keep_every: Also keep every n-th checkpoint.
        mode: "min" or "max": whether a lower or a higher value is better for `keep_best`.
        delete: Whether to remove all checkpoints once the run is complete.

    Raises:
        ValueError: If an argument is invalid, or a checkpoint belongs to another run.
        OSError: If the folder is not writable, or another process uses it.

    References:
        orbax, `orbax.checkpoint.CheckpointManager`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every: str | int = "epoch",
        minutes: float | None = None,
        keep: int = 2,
        keep_best: str | None = None,
        keep_every: int | None = None,
        mode: str = "min",
        delete: bool = False,
    ):
        if every != "epoch" and not _is_positive_integer(every):
            raise ValueError(
                f"`every` of Checkpoints must be 'epoch' or a number of steps, got {every!r}; use one of them."
            )
        if not _is_positive_integer(keep):
            raise ValueError(f"`keep` of Checkpoints must be a positive integer, got {keep!r}; 2 is usual.")
        if keep_every is not None and not _is_positive_integer(keep_every):
            raise ValueError(
                f"`keep_every` of Checkpoints must be a positive integer or None, got {keep_every!r}; 10 keeps every "
                "tenth."
            )
        if minutes is not None and (isinstance(minutes, bool | str) or not minutes > 0):
            raise ValueError(
                f"`minutes` of Checkpoints must be a positive number or None, got {minutes!r}; 5 is usual."
            )
        if keep_best is not None and not isinstance(keep_best, str):
            raise TypeError(
                f"`keep_best` of Checkpoints must name a value of the logs, got {keep_best!r}; 'val_loss' is usual."
            )
        if isinstance(folder, bool) or not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
            raise ValueError(f"A run is saved in a folder, got {folder!r}; give its path.")
        if mode not in ("min", "max"):
            raise ValueError(f"`mode` of Checkpoints must be 'min' or 'max', got {mode!r}; use one of them.")
        self.folder = pathlib.Path(folder).absolute()
        self.every, self.minutes, self.delete = every, minutes, delete
        self.keep, self.keep_best, self.keep_every, self.mode = keep, keep_best, keep_every, mode
        self._manager: ocp.CheckpointManager | None = None
        self._lock: filelock.BaseFileLock | None = None
        self._lock_stat: os.stat_result | None = None
        self._last_step, self._last_time = 0, 0.0
        self._last_number = 0  # of the last checkpoint that this process tried to write
        # The value of `keep_best` of each checkpoint, keyed by its number, and the outcomes of reading checkpoints.
        self._values: dict[int, float | None] = {}
        self._damaged: set[int] = set()
        self._verified: set[int] = set()
        self._previous_hook = sys.unraisablehook
        self._own_hook = self._report_unraisable  # each access would create another bound method

    # ------------------------------------------------------------ the folder

    def __enter__(self) -> "Checkpoints":
        self._acquire_lock()
        self._last_time, self._last_number = time.monotonic(), 0
        for known in (self._values, self._damaged, self._verified):
            known.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.wait()
        self._close_manager()
        self._release_lock()
        if sys.unraisablehook is self._own_hook:
            sys.unraisablehook = self._previous_hook

    def _report_unraisable(self, unraisable: "sys.UnraisableHookArgs") -> None:
        # After a failed write, threads of orbax end later and would each print a traceback.
        if str(unraisable.exc_value) != "Event loop is closed":
            self._previous_hook(unraisable)

    def _acquire_lock(self) -> None:
        """Locks the folder for this process. The system releases the lock of a process that ends."""
        for package in ("filelock", "orbax"):
            require_extra(package, "Checkpoints need")
        import filelock

        path = self.folder / LOCK_FILE
        # Not thread-local, so that any thread can release it.
        lock = filelock.FileLock(path, timeout=0, thread_local=False)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            self._lock_stat = os.stat(path)
        except filelock.Timeout as error:
            raise OSError(
                f"Another process uses the checkpoints in {self.folder}; wait until it ends, or choose another folder."
            ) from error
        except OSError as error:
            raise OSError(
                f"Checkpoints can't be written to {self.folder} ({error.strerror}); choose another folder."
            ) from error
        self._lock = lock

    def _release_lock(self) -> None:
        lock, self._lock, self._lock_stat = self._lock, None, None
        if lock is not None:
            lock.release()

    def _holds_lock(self) -> bool:
        """Whether the folder is still the locked one; it may have been removed and created again."""
        try:
            return self._lock_stat is not None and os.path.samestat(self._lock_stat, os.stat(self.folder / LOCK_FILE))
        except OSError:
            return False

    @property
    def manager(self) -> "ocp.CheckpointManager":
        """Orbax' manager of the folder."""
        if self._manager is None:
            import orbax.checkpoint as ocp

            if sys.unraisablehook is not self._own_hook:
                self._previous_hook, sys.unraisablehook = sys.unraisablehook, self._own_hook
            # A failed write is reported once, in one sentence, instead of in orbax' log.
            logging.getLogger("absl").setLevel(logging.CRITICAL)
            logging.getLogger("asyncio").addFilter(_is_unrelated_to_orbax)
            options = ocp.CheckpointManagerOptions(
                preservation_policy=_PreservationPolicy(self),
                cleanup_tmp_directories=True,
                create=True,
            )
            self._manager = ocp.CheckpointManager(self.folder, options=options, item_names=("arrays", "notes"))
        return self._manager

    # ------------------------------------------------------------ saving

    def due(self, step: int) -> bool:
        """Returns whether to write a checkpoint after this step of the run, in the middle of an epoch."""
        by_steps = self.every != "epoch" and step // int(self.every) > self._last_step // int(self.every)
        return by_steps or (self.minutes is not None and time.monotonic() - self._last_time >= 60 * self.minutes)

    def value_of(self, logs: Mapping[str, float]) -> float | None:
        """Returns the value of `keep_best` in an epoch's logs."""
        if self.keep_best is not None and self.keep_best not in logs:
            warnings.warn(
                f"`keep_best` of Checkpoints is {self.keep_best!r}, which is not in the logs; use one of "
                f"{', '.join(map(repr, logs))}.",
                stacklevel=caller_stacklevel(),
            )
        return logs.get(self.keep_best or "")

    def save(self, state: Mapping[str, object], notes: Mapping[str, object], value: float | None = None) -> bool:
        """Starts to write a checkpoint in the background and returns whether that succeeded.

        Args:
            state: A pytree of arrays with a dictionary at the top.
            notes: Data that JSON can represent.
            value: The value by which the best checkpoint is chosen.
        """
        import orbax.checkpoint as ocp

        arrays = {name: _host(leaf) for name, leaf in leaves_by_path(state).items()}
        self._last_step, self._last_time = int(arrays["state/step"]), time.monotonic()
        bad = first_nonfinite_path({name: leaf for name, leaf in arrays.items() if name.startswith("state/")})
        if bad is not None:
            warnings.warn(
                f"The state is not saved, because {bad} contains NaN or infinity; lower the learning rate, or clip the "
                "gradients.",
                RuntimeWarning,
                stacklevel=caller_stacklevel(),
            )
            return False
        value = None if value is None else float(value)
        content = json.dumps({"format": FORMAT, **notes, "value": value, "arrays": _signature(arrays)}, default=_plain)
        written = {
            "arrays": ocp.args.PyTreeSave({name: leaf for name, leaf in arrays.items() if leaf.size}),
            "notes": ocp.args.JsonSave(
                {"content": content, "digest": _digest(content, arrays), "digest_of_content": _digest(content, {})}
            ),
        }
        self.wait()  # reports an error of the previous checkpoint, which must not prevent this one
        for is_last_try in (False, True):
            try:
                if not self._holds_lock():
                    self._release_lock()
                    self._acquire_lock()
                number = max([self._last_number, *self.manager.all_steps()]) + 1
                self._values[number], self._last_number = value, number
                self._damaged.discard(number)
                self.manager.save(number, args=ocp.args.Composite(**written))
                return True
            except Exception as error:
                # Remains of a failed write are removed while its last threads still write.
                if is_last_try or getattr(error, "errno", None) not in (errno.ENOTEMPTY, errno.EEXIST):
                    self._warn_of_failed_write(error)
                    return False
                self._close_manager()
        return False

    def wait(self) -> None:
        """Waits until the current checkpoint is written."""
        try:
            if self._manager is not None:
                self._manager.wait_until_finished()
                if self._last_number:
                    self._start_file.unlink(missing_ok=True)
        except Exception as error:
            self._warn_of_failed_write(error)

    def _warn_of_failed_write(self, error: Exception) -> None:
        # A failed write does not end the run, because earlier checkpoints are intact.
        self._close_manager()
        for unfinished in self.folder.glob("*.orbax-checkpoint-tmp*") if self._holds_lock() else ():
            shutil.rmtree(unfinished, ignore_errors=True)  # on a full disk, the next checkpoint needs the space
        warnings.warn(
            f"A checkpoint could not be written to {self.folder} ({_reason(error)}); the run continues, and earlier "
            "checkpoints are kept.",
            RuntimeWarning,
            stacklevel=caller_stacklevel(),
        )

    def _close_manager(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            with contextlib.suppress(Exception):  # closing repeats the error of a failed write
                manager.close()

    def clear(self) -> None:
        """Removes all checkpoints."""
        self.wait()
        self._start_file.unlink(missing_ok=True)
        for number in self.manager.all_steps():
            self.manager.delete(number)

    # ------------------------------------------------------------ before the first checkpoint

    @property
    def _start_file(self) -> pathlib.Path:
        return self.folder / "start.json"

    def start(self, notes: Mapping[str, object]) -> None:
        """Writes notes about a run that starts; they stay until the first checkpoint is written."""
        unfinished = self._start_file.with_suffix(".tmp")
        try:
            unfinished.write_text(json.dumps(notes, default=_plain))
            unfinished.replace(self._start_file)
        except OSError as error:
            self._warn_of_failed_write(error)

    def started(self) -> dict[str, Any] | None:
        """Returns what `start` wrote, if a process ended before its first checkpoint."""
        try:
            return json.loads(self._start_file.read_text())
        except (OSError, ValueError):
            return None

    # ------------------------------------------------------------ restoring

    def newest(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Returns the arrays and notes of the newest intact checkpoint, or None if there is no checkpoint."""
        if not any(path.name.isdigit() for path in self.folder.iterdir()):
            return None  # avoids importing orbax, which takes a second
        numbers = sorted(self.manager.all_steps(), reverse=True)
        errors: dict[int, Exception] = {}
        for number in numbers:
            try:
                found = self._read(number)
                break
            except Exception as error:
                errors[number] = error
        else:
            if not numbers:
                return None
            raise ValueError(
                f"None of the {len(numbers)} checkpoints in {self.folder} is intact ({_reason(errors[numbers[0]])}); "
                "remove the folder to start over."
            )
        for damaged, error in errors.items():
            self._mark_damaged(damaged, error, f"the run continues from {self.folder / str(number)}")
        self._last_step = int(found[0]["state/step"])
        if self.keep_best:
            self._verify_best(numbers)
        return found

    def _mark_damaged(self, number: int, error: Exception, consequence: str) -> None:
        self._damaged.add(number)
        warnings.warn(
            f"The checkpoint {self.folder / str(number)} is damaged ({_reason(error)}); {consequence}.",
            RuntimeWarning,
            stacklevel=caller_stacklevel(),
        )

    def _verify_best(self, numbers: Iterable[int]) -> None:
        """Reads the values that an earlier process wrote, and checks that the best checkpoint is intact."""
        for number in numbers:
            if number not in self._damaged:
                try:
                    self._values[number] = self._read_notes(number)[1].get("value")
                except Exception as error:
                    self._mark_damaged(number, error, "it can't be kept as the best")
        while (best := self._best(numbers)) is not None and best not in self._verified:
            try:
                self._read(best)
            except Exception as error:
                self._mark_damaged(best, error, "the next best is kept")

    def _best(self, numbers: Iterable[int]) -> int | None:
        """Returns the best of these checkpoints, among the intact ones with a finite value."""
        known = {
            number: value
            for number in numbers
            if number not in self._damaged and (value := self._values.get(number)) is not None and math.isfinite(value)
        }
        choose = min if self.mode == "min" else max
        return choose(known, key=known.__getitem__) if known else None

    def preserved(self, numbers: Iterable[int]) -> set[int]:
        """Returns which of these checkpoints to keep: the newest, the best and every n-th.

        Damaged checkpoints do not count, so `keep` intact ones stay.
        """
        intact = [number for number in sorted(numbers) if number not in self._damaged]
        oldest = intact[-self.keep :][:1]
        preserved = {number for number in numbers if oldest and number >= oldest[0]}
        if self.keep_every:
            preserved |= {number for number in intact if number % self.keep_every == 0}
        best = self._best(intact) if self.keep_best else None
        return preserved if best is None else preserved | {best}

    def _read_notes(self, number: int) -> tuple[dict[str, str], dict[str, Any]]:
        """Returns the notes of a checkpoint as written, and their content, which has its own digest."""
        import orbax.checkpoint as ocp

        notes = self.manager.restore(number, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))["notes"]
        digest = _digest(notes["content"], {})
        if notes.get("digest_of_content", digest) != digest:
            raise ValueError("the digest of its notes differs")
        return notes, json.loads(notes["content"])

    def _read(self, number: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns the arrays and the notes of a checkpoint, compared with its digest."""
        import orbax.checkpoint as ocp

        notes, content = self._read_notes(number)
        signature = content.pop("arrays")
        # Orbax does not store arrays without elements.
        kind = ocp.RestoreArgs(restore_type=np.ndarray)
        restore = ocp.args.PyTreeRestore(restore_args={name: kind for name, _, shape in signature if 0 not in shape})
        arrays = self.manager.restore(number, args=ocp.args.Composite(arrays=restore))["arrays"]
        arrays |= {name: np.zeros(shape, jnp.dtype(dtype)) for name, dtype, shape in signature if 0 in shape}
        if _digest(notes["content"], arrays) != notes["digest"]:
            raise ValueError("the digest of its content differs")
        self._verified.add(number)
        return arrays, content


class _CheckpointInfo(Protocol):
    """What orbax reports about a checkpoint."""

    step: int


class _PreservationPolicy:
    """Tells orbax which checkpoints to keep."""

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence[_CheckpointInfo], *, context: object) -> list[bool]:
        preserved = self.checkpoints.preserved([info.step for info in checkpoints])
        return [info.step in preserved for info in checkpoints]


# ---------------------------------------------------------------- trees and digests


def leaves_by_path(tree: object) -> dict[str, jax.Array | np.ndarray]:
    """Returns the leaves of a tree, keyed by their paths, joined by "/"."""
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}


def first_nonfinite_path(tree: object) -> str | None:
    """Returns the path of the first leaf that contains NaN or infinity, or None."""
    return next((name for name, leaf in leaves_by_path(tree).items() if not _finite(_host(leaf))), None)


def replace_leaves(tree: Tree, arrays: Mapping[str, np.ndarray]) -> Tree:
    """Returns the tree with its leaves replaced by the arrays of the same paths.

    Raises:
        ValueError: If the paths or shapes differ.
    """
    leaves = leaves_by_path(tree)
    differing = sorted(set(leaves) ^ set(arrays)) or [
        name for name, leaf in leaves.items() if _host(leaf).shape != arrays[name].shape
    ]
    if differing:
        raise ValueError(f"a checkpoint of another model or optimizer, which differs in {differing[0]}")

    def like(name: str, leaf: jax.Array | np.ndarray) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.array(arrays[name]), impl=jax.random.key_impl(leaf))
        return jnp.array(arrays[name], leaf.dtype)

    return jax.tree.unflatten(jax.tree.structure(tree), [like(name, leaf) for name, leaf in leaves.items()])


def serialize_value(value: object, name: str, arrays: dict[str, object]) -> SerializedValue:
    """Converts a value to a form that JSON can represent, and moves dictionaries of arrays to `arrays[name]`."""
    if (
        isinstance(value, Mapping)
        and jax.tree.leaves(value)
        and all(hasattr(x, "dtype") for x in jax.tree.leaves(value))
    ):
        flat = traverse_util.flatten_dict(value, sep="/")
        arrays[name] = flat
        return {"arrays": sorted(flat)}
    return {"value": value}


def deserialize_value(note: SerializedValue, name: str, arrays: Mapping[str, np.ndarray]) -> Any:
    """Returns the value that `serialize_value` received."""
    if "arrays" in note:
        flat = {path: arrays[f"{name}/{path}"] for path in note["arrays"]}
        return traverse_util.unflatten_dict(flat, sep="/")
    return jax.tree.map(_array, note["value"], is_leaf=lambda x: isinstance(x, dict) and set(x) == {"dtype", "data"})


def _array(value: object) -> object:
    return np.array(value["data"], value["dtype"]) if isinstance(value, dict) else value


def _plain(value: npt.ArrayLike) -> object:
    if isinstance(value, np.generic) or np.ndim(value) == 0:
        return np.asarray(value).item()
    return {"dtype": np.asarray(value).dtype.name, "data": np.asarray(value).tolist()}


def _host(leaf: jax.Array | np.ndarray) -> np.ndarray:
    """Returns a copy on the host, which stays valid if the array on the device is donated."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.array(leaf, copy=True)


def _finite(leaf: np.ndarray) -> bool:
    return not jnp.issubdtype(leaf.dtype, jnp.floating) or bool(np.isfinite(leaf.astype(np.float32)).all())


def _signature(arrays: Mapping[str, np.ndarray]) -> list[list[str | list[int]]]:
    return [[name, leaf.dtype.name, list(leaf.shape)] for name, leaf in sorted(arrays.items())]


def _digest(content: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(content.encode())
    for name, leaf in sorted(arrays.items()):
        digest.update(f"{name} {leaf.dtype.name} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data if leaf.ndim else leaf.tobytes())
    return digest.hexdigest()


def _is_positive_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def _is_unrelated_to_orbax(record: logging.LogRecord) -> bool:
    """Filters out log records about writes that orbax cancelled after another write failed."""
    return "orbax-checkpoint-tmp" not in str(record.exc_info and record.exc_info[1])


REASONS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


def _reason(error: Exception) -> str:
    """Returns the cause of an error in a few words."""
    for reason in map(os.strerror, REASONS):
        if reason in str(error):  # the message of orbax has many lines
            return reason
    text = getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[0]
    if status := re.match(r"([A-Z_]+): ", text):  # an error of tensorstore, which names the cause last
        text = re.split(r" \[(?:tensorstore_spec|os_error_code|source locations)=", text)[0].rsplit(": ", 1)[-1]
        if status[1] == "NOT_FOUND":
            text = os.strerror(errno.ENOENT)
    return text[:200].rstrip(".")
