"""Checkpoints of a run: all that decides how it goes on, written in the background, whole or not at all, verified."""

import contextlib
import errno
import fcntl
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
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

FORMAT = 1


class Checkpoints:
    """A folder of checkpoints of one run, from which the run goes on after any end.

    What is kept: parameters, statistics, optimizer, step, random key, the position in the data, the sums behind the
    epoch's means, history and callbacks. Each checkpoint has a digest of its content, so that a damaged one is found,
    named and passed over. A folder belongs to one process at a time.

    Args:
        folder: The folder; made if it is not there.
        every: "epoch", or a number of steps: after each epoch, and after the chunk that completes so many steps.
        minutes: Also after the chunk that ends so many minutes after the last checkpoint.
        keep: How many of the newest are kept.
        keep_best: Also the one of the epoch that is best by this value of the logs, such as "val_loss".
        keep_every: Also every n-th.
        mode: "min" or "max": which way is better for `keep_best`.
        delete: Whether all go when the run is complete.

    Raises:
        ValueError: If an argument is none of these, or a checkpoint is of another run.
        OSError: If the folder can't be written, or another process runs in it.

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
        if every != "epoch" and not _counts(every):
            raise ValueError(f"`every` of Checkpoints is 'epoch' or a number of steps, got {every!r}; use one of them.")
        if not _counts(keep):
            raise ValueError(f"`keep` of Checkpoints is a positive integer, got {keep!r}; 2 is usual.")
        if keep_every is not None and not _counts(keep_every):
            raise ValueError(
                f"`keep_every` of Checkpoints is a positive integer or None, got {keep_every!r}; 10 keeps every tenth."
            )
        if minutes is not None and (isinstance(minutes, bool | str) or not minutes > 0):
            raise ValueError(f"`minutes` of Checkpoints is a positive number or None, got {minutes!r}; 5 is usual.")
        if keep_best is not None and not isinstance(keep_best, str):
            raise TypeError(
                f"`keep_best` of Checkpoints names a value of the logs, got {keep_best!r}; 'val_loss' is usual."
            )
        if isinstance(folder, bool) or not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
            raise ValueError(f"A run is saved in a folder, got {folder!r}; give its path.")
        if mode not in ("min", "max"):
            raise ValueError(f"`mode` of Checkpoints is 'min' or 'max', got {mode!r}; use one of them.")
        self.folder = pathlib.Path(folder).absolute()
        self.every, self.minutes, self.delete = every, minutes, delete
        self.keep, self.keep_best, self.keep_every, self.mode = keep, keep_best, keep_every, mode
        self._manager: Any = None
        self._lock: Any = None
        self._last_step, self._last_time = 0, 0.0
        # Of the checkpoints in the folder: by which value the best is chosen, and what came of reading them.
        self._values: dict[int, float | None] = {}
        self._damaged: set[int] = set()
        self._verified: set[int] = set()
        self._number = 0  # the last that was tried
        self._told = sys.unraisablehook
        self._unraisable = self._tell_unraisable  # the one object of it

    # ------------------------------------------------------------ the folder

    def __enter__(self) -> "Checkpoints":
        self._take()
        self._last_time, self._number = time.monotonic(), 0
        for known in (self._values, self._damaged, self._verified):
            known.clear()
        return self

    def __exit__(self, *error: Any) -> None:
        self.wait()
        self._close()
        self._lock.close()
        if sys.unraisablehook is self._unraisable:
            sys.unraisablehook = self._told

    def _tell_unraisable(self, unraisable: Any) -> None:
        # What orbax was doing beside what failed ends later, in threads that print a traceback each.
        if str(unraisable.exc_value) != "Event loop is closed":
            self._told(unraisable)

    def _take(self) -> None:
        """Makes the folder this process' own."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / "lock", "a")
        except OSError as error:
            raise OSError(
                f"Checkpoints can't be written to {self.folder} ({error.strerror}); choose another folder."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise OSError(
                f"Another process runs in {self.folder}; wait for its end, or choose another folder."
            ) from error
        self._lock = lock

    def _is_taken(self) -> bool:
        """Whether the folder is still the one that was taken; it may have been lost meanwhile."""
        try:
            return os.path.samestat(os.fstat(self._lock.fileno()), os.stat(self.folder / "lock"))
        except (OSError, ValueError):  # the latter where it was closed
            return False

    @property
    def manager(self) -> Any:
        """Orbax' own view of the folder."""
        if self._manager is None:
            import orbax.checkpoint as ocp

            if sys.unraisablehook is not self._unraisable:
                self._told, sys.unraisablehook = sys.unraisablehook, self._unraisable
            # What fails is told in one sentence instead, and once.
            logging.getLogger("absl").setLevel(logging.CRITICAL)
            logging.getLogger("asyncio").addFilter(_not_of_orbax)
            options = ocp.CheckpointManagerOptions(
                preservation_policy=_Kept(self),
                cleanup_tmp_directories=True,
                create=True,
            )
            self._manager = ocp.CheckpointManager(self.folder, options=options, item_names=("arrays", "notes"))
        return self._manager

    # ------------------------------------------------------------ saving

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be written inside an epoch, after this step of the run."""
        by_steps = self.every != "epoch" and step // int(self.every) > self._last_step // int(self.every)
        return by_steps or (self.minutes is not None and time.monotonic() - self._last_time >= 60 * self.minutes)

    def value_of(self, logs: Mapping[str, float]) -> float | None:
        """The value of an epoch's logs by which the best checkpoint is chosen."""
        if self.keep_best is not None and self.keep_best not in logs:
            warnings.warn(
                f"Checkpoints keeps the best by {self.keep_best!r}, which is not in the logs; there are "
                f"{', '.join(map(repr, logs))}.",
                stacklevel=2,
            )
        return logs.get(self.keep_best or "")

    def save(self, state: Any, notes: Mapping[str, Any], value: float | None = None) -> bool:
        """Writes a checkpoint in the background; whether it was begun.

        Args:
            state: A pytree of arrays; a dictionary at the top.
            notes: What JSON can say.
            value: By which the best is chosen.
        """
        import orbax.checkpoint as ocp

        arrays = {name: _host(leaf) for name, leaf in named(state).items()}
        self._last_step, self._last_time = int(arrays["state/step"]), time.monotonic()
        bad = not_finite({name: leaf for name, leaf in arrays.items() if name.startswith("state/")})
        if bad is not None:
            warnings.warn(
                f"The state holds numbers that are not finite, first in {bad}, and is not saved; lower the learning "
                "rate, or clip the gradients.",
                RuntimeWarning,
                stacklevel=2,
            )
            return False
        value = None if value is None else float(value)
        content = json.dumps({"format": FORMAT, **notes, "value": value, "arrays": _described(arrays)}, default=_plain)
        written = {
            "arrays": ocp.args.PyTreeSave({name: leaf for name, leaf in arrays.items() if leaf.size}),
            "notes": ocp.args.JsonSave(
                {"content": content, "digest": _digest(content, arrays), "digest_of_content": _digest(content, {})}
            ),
        }
        self.wait()  # so that what is told of the one before does not end this one
        for last in (False, True):
            try:
                if not self._is_taken():
                    self._lock.close()
                    self._take()
                number = max([self._number, *self.manager.all_steps()]) + 1
                self._values[number], self._number = value, number
                self._damaged.discard(number)
                self.manager.save(number, args=ocp.args.Composite(**written))
                return True
            except Exception as error:
                # What is left of a write that failed is removed, while the last threads of that write end.
                if last or getattr(error, "errno", None) not in (errno.ENOTEMPTY, errno.EEXIST):
                    self._failed(error)
                    return False
                self._close()
        return False

    def wait(self) -> None:
        """Waits until what was begun is written."""
        try:
            if self._manager is not None:
                self._manager.wait_until_finished()
                if self._number:
                    self._start_file.unlink(missing_ok=True)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        # Whatever the disk does, the run goes on: what was saved before is whole.
        self._close()
        for unfinished in self.folder.glob("*.orbax-checkpoint-tmp*") if self._is_taken() else ():
            shutil.rmtree(unfinished, ignore_errors=True)  # on a full disk it stands in the way of the next
        warnings.warn(
            f"A checkpoint could not be written to {self.folder} ({_first_line(error)}); the run goes on, and what was "
            "saved before stays.",
            RuntimeWarning,
            stacklevel=3,
        )

    def _close(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            with contextlib.suppress(Exception):  # it says again what failed
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

    def start(self, notes: Mapping[str, Any]) -> None:
        """Writes what JSON can represent of a run that starts; it stays until the first checkpoint is written."""
        unfinished = self._start_file.with_suffix(".tmp")
        try:
            unfinished.write_text(json.dumps(notes, default=_plain))
            unfinished.replace(self._start_file)
        except OSError as error:
            self._failed(error)

    def started(self) -> dict[str, Any] | None:
        """Returns what `start` wrote, if a process ended before its first checkpoint."""
        try:
            return json.loads(self._start_file.read_text())
        except (OSError, ValueError):
            return None

    # ------------------------------------------------------------ restoring

    def newest(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The arrays and notes of the newest checkpoint that is intact, None if there is no checkpoint at all."""
        if not any(path.name.isdigit() for path in self.folder.iterdir()):
            return None  # without the second that it takes to import orbax
        numbers = sorted(self.manager.all_steps(), reverse=True)
        reasons: dict[int, Exception] = {}
        for number in numbers:
            try:
                found = self._read(number)
                break
            except Exception as error:
                reasons[number] = error
        else:
            if not numbers:
                return None
            raise ValueError(
                f"None of the {len(numbers)} checkpoints in {self.folder} is intact "
                f"({_first_line(reasons[numbers[0]])}); remove the folder to begin anew."
            )
        for damaged, error in reasons.items():
            self._pass_over(damaged, error, f"the run goes on from {self.folder / str(number)}")
        self._last_step = int(found[0]["state/step"])
        if self.keep_best:
            self._find_best(numbers)
        return found

    def _pass_over(self, number: int, error: Exception, otherwise: str) -> None:
        self._damaged.add(number)
        warnings.warn(
            f"The checkpoint {self.folder / str(number)} is damaged ({_first_line(error)}); {otherwise}.",
            RuntimeWarning,
            stacklevel=4,
        )

    def _find_best(self, numbers: list[int]) -> None:
        """Looks which is the best of those that an earlier process kept, and that it is intact."""
        for number in numbers:
            if number not in self._damaged:
                try:
                    self._values[number] = self._notes(number)[1].get("value")
                except Exception as error:
                    self._pass_over(number, error, "it is not looked at for the best")
        while (best := self._best(numbers)) is not None and best not in self._verified:
            try:
                self._read(best)
            except Exception as error:
                self._pass_over(best, error, "the next best is kept")

    def _best(self, numbers: list[int]) -> int | None:
        """The one of these checkpoints that is best, as far as is known."""
        known = {
            number: value
            for number in numbers
            if number not in self._damaged and (value := self._values.get(number)) is not None and math.isfinite(value)
        }
        chosen = min if self.mode == "min" else max
        return chosen(known, key=known.__getitem__) if known else None

    def _kept(self, numbers: list[int]) -> set[int]:
        """Which of these checkpoints stay, of which damaged ones do not count: newest, best, every n-th."""
        intact = [number for number in sorted(numbers) if number not in self._damaged]
        oldest = intact[-self.keep :][:1]
        kept = {number for number in numbers if oldest and number >= oldest[0]}
        if self.keep_every:
            kept |= {number for number in intact if number % self.keep_every == 0}
        best = self._best(intact) if self.keep_best else None
        return kept if best is None else kept | {best}

    def _notes(self, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is noted in a checkpoint: as it was written, and its content, which has a digest of its own."""
        import orbax.checkpoint as ocp

        notes = self.manager.restore(number, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))["notes"]
        digest = _digest(notes["content"], {})
        if notes.get("digest_of_content", digest) != digest:
            raise ValueError("its notes are not what was written")
        return notes, json.loads(notes["content"])

    def _read(self, number: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        import orbax.checkpoint as ocp

        notes, content = self._notes(number)
        described = content.pop("arrays")
        kind = ocp.RestoreArgs(restore_type=np.ndarray)
        restore = ocp.args.PyTreeRestore(restore_args={name: kind for name, _, shape in described if 0 not in shape})
        arrays = self.manager.restore(number, args=ocp.args.Composite(arrays=restore))["arrays"]
        arrays |= {name: np.zeros(shape, jnp.dtype(dtype)) for name, dtype, shape in described if 0 in shape}
        if _digest(notes["content"], arrays) != notes["digest"]:
            raise ValueError("its content is not what was written")
        self._verified.add(number)
        return arrays, content


class _Kept:
    """Tells orbax which checkpoints stay."""

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        kept = self.checkpoints._kept([info.step for info in checkpoints])
        return [info.step in kept for info in checkpoints]


# ---------------------------------------------------------------- trees and digests


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their '/'-joined paths."""
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}


def not_finite(tree: Any) -> str | None:
    """The path of the first leaf with a number that is not finite, None if there is none."""
    return next((name for name, leaf in named(tree).items() if not _finite(_host(leaf))), None)


def refilled(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The tree with other arrays, by the paths of its leaves.

    Raises:
        ValueError: If the arrays are those of another tree.
    """
    leaves, wanted = named(tree), set(named(tree))
    differing = sorted(wanted ^ set(arrays)) or [
        name for name, leaf in leaves.items() if _host(leaf).shape != arrays[name].shape
    ]
    if differing:
        raise ValueError(f"a checkpoint of another model or optimizer, which differs in {differing[0]}")

    def like(name: str, leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.array(arrays[name]), impl=jax.random.key_impl(leaf))
        return jnp.array(arrays[name], leaf.dtype)

    return jax.tree.unflatten(jax.tree.structure(tree), [like(name, leaf) for name, leaf in leaves.items()])


def packed(value: Any, name: str, arrays: dict[str, Any]) -> Any:
    """A value as JSON can say it; dictionaries of arrays go to `arrays`, under the name."""
    if (
        isinstance(value, Mapping)
        and jax.tree.leaves(value)
        and all(hasattr(x, "dtype") for x in jax.tree.leaves(value))
    ):
        flat = traverse_util.flatten_dict(value, sep="/")
        arrays[name] = flat
        return {"arrays": sorted(flat)}
    return {"value": value}


def unpacked(note: Mapping[str, Any], name: str, arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of `packed`."""
    if "arrays" in note:
        flat = {path: arrays[f"{name}/{path}"] for path in note["arrays"]}
        return traverse_util.unflatten_dict(flat, sep="/")
    return jax.tree.map(_array, note["value"], is_leaf=lambda x: isinstance(x, dict) and set(x) == {"dtype", "data"})


def _array(value: Any) -> Any:
    return np.array(value["data"], value["dtype"]) if isinstance(value, dict) else value


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic) or np.ndim(value) == 0:
        return np.asarray(value).item()
    return {"dtype": np.asarray(value).dtype.name, "data": np.asarray(value).tolist()}


def _host(leaf: Any) -> np.ndarray:
    """A copy on the host, which stays when the device's own array is donated."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.array(leaf, copy=True)


def _finite(leaf: np.ndarray) -> bool:
    return not jnp.issubdtype(leaf.dtype, jnp.floating) or bool(np.isfinite(leaf.astype(np.float32)).all())


def _described(arrays: Mapping[str, np.ndarray]) -> list[Any]:
    return [[name, leaf.dtype.name, list(leaf.shape)] for name, leaf in sorted(arrays.items())]


def _digest(content: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(content.encode())
    for name, leaf in sorted(arrays.items()):
        digest.update(f"{name} {leaf.dtype.name} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data if leaf.ndim else leaf.tobytes())
    return digest.hexdigest()


def _counts(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Whether a record tells of anything else than a write that orbax gave up together with another one."""
    return "orbax-checkpoint-tmp" not in str(record.exc_info and record.exc_info[1])


REASONS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


def _first_line(error: Exception) -> str:
    for reason in map(os.strerror, REASONS):
        if reason in str(error):  # somewhere behind a page of names
            return reason
    text = getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[0]
    if status := re.match(r"([A-Z_]+): ", text):  # of tensorstore: what it did, in what, with what; the cause is last
        text = re.split(r" \[(?:tensorstore_spec|os_error_code|source locations)=", text)[0].rsplit(": ", 1)[-1]
        if status[1] == "NOT_FOUND":
            text = os.strerror(errno.ENOENT)
    return text[:200].rstrip(".")
