"""Interrupted runs that resume bit-identically whatever ended them, and damaged and foreign checkpoints."""

import contextlib
import errno
import gc
import itertools
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
import warnings

import jax
import numpy as np
import pytest

from flaxmodels import Input, Sequential, layers
from tests.support.interrupted import KINDS, X, Y, build, callbacks_of, fit, resumable_results
from training import Checkpoints, Trainer, callbacks, optimizers

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "support" / "interrupted.py"
# A process is bit-identical to this one only if it compiles with the same optimizations.
SAME_COMPILATION = os.environ | {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(jax.config.values["jax_disable_most_optimizations"]))
}


class Interruption(Exception):
    """Ends a run in these tests."""


class EndAt(callbacks.Callback):
    """Ends the run after this step, between two chunks."""

    def __init__(self, step):
        self.step = step

    def on_chunk_end(self, step, logs=None):
        if int(self.trainer.state.step) == self.step:
            raise Interruption


def refuses(sentence, kind=ValueError):
    return pytest.raises(kind, match=f"^{re.escape(sentence)}$")


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


@pytest.fixture(scope="module")
def uninterrupted():
    """Returns the results of uninterrupted runs by the kind of their data."""
    return {kind: resumable_results(*fit(kind)) for kind in ("arrays", "stream")}


@pytest.mark.rotate
@pytest.mark.parametrize("kind", ["arrays", "stream"])
@pytest.mark.parametrize("ends", [[1], [4, 5, 9], [13, 14]], ids=str)
def test_a_run_ended_by_errors_resumes_bit_identically(kind, ends, uninterrupted, tmp_path):
    for step in ends:
        with pytest.raises(Interruption):
            fit(kind, Checkpoints(tmp_path, every=2), [EndAt(step)])
    assert_same(resumable_results(*fit(kind, Checkpoints(tmp_path, every=3))), uninterrupted[kind])
    # The run is complete, so nothing runs.
    trainer, history = fit(kind, Checkpoints(tmp_path), [EndAt(0)])
    assert_same(resumable_results(trainer, history), uninterrupted[kind])


@pytest.mark.rotate
@pytest.mark.filterwarnings("ignore:The data ended")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("arrays", "stream", "cut")])
def test_runs_of_every_kind_resume_bit_identically(kind, tmp_path):
    """`benchmarks/kills.py` kills these runs at random."""
    files = [tmp_path / name if kind == "outputs" else None for name in ("whole", "again")]
    want = resumable_results(*fit(kind, files=files[0]), files[0])
    for step in (3, 6, 7):
        with pytest.raises(Interruption):
            fit(kind, Checkpoints(tmp_path / "run", every=1), [EndAt(step)], files[1])
    assert_same(resumable_results(*fit(kind, Checkpoints(tmp_path / "run"), files=files[1]), files[1]), want)


def test_chunks_of_any_length_are_bit_identical(uninterrupted, tmp_path):
    with pytest.raises(Interruption):
        fit("arrays", tmp_path, [EndAt(7)], steps_per_execution=3)
    assert_same(resumable_results(*fit("arrays", tmp_path, steps_per_execution=2)), uninterrupted["arrays"])


@pytest.mark.filterwarnings("ignore:The data ended")
def test_epochs_shorter_than_a_pass_resume(tmp_path):
    def run(resume=None, more=()):
        trainer = build()
        history = trainer.fit(
            X, Y, batch_size=8, epochs=4, steps_per_epoch=3, verbose=0, callbacks=[*more], resume=resume
        )
        return resumable_results(trainer, history)

    want = run()
    with pytest.raises(Interruption):
        run(Checkpoints(tmp_path, every=1), [EndAt(5)])
    assert_same(run(Checkpoints(tmp_path)), want)


@pytest.mark.rotate
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_exit_with_their_code(number, uninterrupted, tmp_path):
    process = subprocess.Popen(
        [sys.executable, PROGRAM, "arrays", tmp_path / "run", "slow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=SAME_COMPILATION,
    )
    assert process.stdout.readline() == "running\n"
    process.send_signal(number)
    start = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < 10
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert re.search(rf"saved at epoch \d, step \d, in {re.escape(str(tmp_path / 'run'))}\n", errors)
    assert_same(resumable_results(*fit("arrays", tmp_path / "run")), uninterrupted["arrays"])


def test_a_killed_process_resumes_bit_identically(uninterrupted, tmp_path):
    for wait in (0, 3, 7):
        command = [sys.executable, PROGRAM, "arrays", tmp_path / "run", "slow"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=SAME_COMPILATION) as process:
            for _ in range(wait + 1):
                process.stdout.readline()
            process.kill()
    assert_same(resumable_results(*fit("arrays", tmp_path / "run")), uninterrupted["arrays"])


# ---------------------------------------------------------------- which checkpoints are kept


def test_newest_best_and_every_nth_are_kept(tmp_path):
    values = 5.0, 1.0, 2.0, 4.0, 3.0, 6.0, 7.0
    folder = Checkpoints(tmp_path, keep=2, keep_best="val_loss", keep_every=4)
    build().fit(X, Y, epochs=7, verbose=0, callbacks=[Set(*values)], resume=folder)
    assert folders(tmp_path) == [2, 4, 6, 7]


def test_an_unknown_keep_best_warns(tmp_path):
    sentence = "`keep_best` of Checkpoints is 'val_los', which is not in the logs; use one of 'loss', 'accuracy'."
    with pytest.warns(UserWarning, match=f"^{re.escape(sentence)}$"):
        build().fit(X, Y, verbose=0, resume=Checkpoints(tmp_path, keep_best="val_los"))


def test_checkpoints_by_minutes(tmp_path, monkeypatch):
    now = itertools.count(0, 40)
    monkeypatch.setattr("training.checkpoints.time", types.SimpleNamespace(monotonic=lambda: float(next(now))))
    folder = Checkpoints(tmp_path, every=1000, minutes=2, keep=100)
    trainer = build(steps_per_execution=1)
    trainer.fit(X, Y, batch_size=8, epochs=4, verbose=0, resume=folder)
    count = len([p for p in tmp_path.iterdir() if p.name.isdigit()])
    assert 0 < count < int(trainer.state.step)


def test_backup_and_restore_resumes_and_removes_its_files(uninterrupted, tmp_path):
    with pytest.raises(Interruption):
        fit("arrays", None, [callbacks.BackupAndRestore(tmp_path), EndAt(9)])
    assert [p for p in tmp_path.iterdir() if p.name.isdigit()]
    assert_same(
        resumable_results(*fit("arrays", None, [callbacks.BackupAndRestore(tmp_path)])), uninterrupted["arrays"]
    )
    assert not [p for p in tmp_path.iterdir() if p.name.isdigit()]


def test_rows_of_a_log_are_not_written_twice(tmp_path):
    log = tmp_path / "log.csv"
    with pytest.raises(Interruption):
        fit("arrays", tmp_path / "run", [callbacks.CSVLogger(log), EndAt(9)])
    with open(log, "a") as file:
        file.write("2,rows,of an epoch,that was not,saved\n")
    fit("arrays", tmp_path / "run", [callbacks.CSVLogger(log)])
    epochs = [row.split(",")[0] for row in log.read_text().split()]
    assert epochs == ["epoch", *map(str, range(len(epochs) - 1))]


# ---------------------------------------------------------------- damage and failed writes


def saved(tmp_path, epochs=3):
    """Saves checkpoints of some epochs and returns the trainer."""
    trainer = build()
    trainer.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, resume=Checkpoints(tmp_path, keep=epochs))
    return trainer


def damages(content, rng):
    """Yields damaged contents of a file; None stands for a lost file."""
    yield from (None, b"", content[: rng.integers(len(content))], content + b"\0")
    for _ in range(3):
        altered = bytearray(content)
        altered[rng.integers(len(content))] ^= 1 << rng.integers(8)
        yield bytes(altered)


def newest_in(tmp_path, **arguments):
    """Returns the newest intact checkpoint and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Checkpoints(tmp_path, **arguments) as folder:
            found = folder.newest()
    return *found, [str(w.message) for w in caught]


def test_damage_changes_nothing_or_is_reported_and_the_previous_checkpoint_is_used(tmp_path):
    saved(tmp_path)
    rng, newest = np.random.default_rng(0), tmp_path / "3"
    intact = {3: newest_in(tmp_path)[0]}
    shutil.move(newest, tmp_path / "aside")
    intact[2] = newest_in(tmp_path)[0]
    shutil.move(tmp_path / "aside", newest)
    reported = 0
    for path in sorted(p for p in newest.rglob("*") if p.is_file()):
        original = path.read_bytes()
        for content in damages(original, rng):
            path.unlink() if content is None else path.write_bytes(content)
            arrays, notes, messages = newest_in(tmp_path)
            epoch = notes["position"]["epoch"]
            assert_same(arrays, intact[epoch])
            assert len(messages) == {3: 0, 2: 1}[epoch]
            for sentence in messages:
                reported += 1
                assert re.fullmatch(
                    rf"The checkpoint {re.escape(str(newest))} is damaged \(.+\); the run continues from "
                    rf"{re.escape(str(tmp_path / '2'))}\.",
                    sentence,
                )
                assert "tensorstore" not in sentence
            path.write_bytes(original)
    assert reported > 20
    for part in ("notes", "arrays"):
        shutil.move(newest / part, tmp_path / "aside")
        arrays, _, (_,) = newest_in(tmp_path)
        assert_same(arrays, intact[2])
        shutil.move(tmp_path / "aside", newest / part)


def damage(path):
    """Changes one byte of each file that holds arrays."""
    for file in (path / "arrays" / "d").iterdir():
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


class Set(callbacks.Callback):
    """Sets `val_loss` of each epoch."""

    def __init__(self, *values):
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.values[epoch]


def folders(tmp_path):
    return sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit())


def resume(tmp_path, epochs, *values, **arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = Checkpoints(tmp_path, keep_best="val_loss", **{"keep": 1} | arguments)
        build().fit(X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=[Set(*values)], resume=folder)
    return [str(w.message) for w in caught]


def test_the_best_is_kept_by_the_next_process_too(tmp_path):
    values = 5.0, 1.0, 3.0, 2.0, float("nan"), 4.0, 0.5
    assert not resume(tmp_path, 3, *values)
    assert folders(tmp_path) == [2, 3]
    assert not resume(tmp_path, 6, *values)
    assert folders(tmp_path) == [2, 6]
    assert not resume(tmp_path, 7, *values)
    assert folders(tmp_path) == [7]


def test_a_damaged_checkpoint_is_not_the_best_and_does_not_count(tmp_path):
    values = 5.0, 1.0, 3.0, 2.0, 4.0
    resume(tmp_path, 4, *values, keep=3)
    assert folders(tmp_path) == [2, 3, 4]
    damage(tmp_path / "2")
    damage(tmp_path / "4")
    newest, best = resume(tmp_path, 4, *values, keep=2)
    assert re.fullmatch(
        rf"The checkpoint {tmp_path}/4 is damaged \(.+\); the run continues from {tmp_path}/3\.", newest
    )
    assert re.fullmatch(rf"The checkpoint {tmp_path}/2 is damaged \(.+\); the next best is kept\.", best)
    assert folders(tmp_path) == [3, 4, 5]  # two intact ones; the fifth repeats the fourth epoch
    (tmp_path / "3" / "notes" / "metadata").write_text("{}")
    (sentence,) = resume(tmp_path, 5, *values, keep=1)
    assert re.fullmatch(rf"The checkpoint {tmp_path}/3 is damaged \(.+\); it can't be kept as the best\.", sentence)


@pytest.mark.filterwarnings("ignore:The checkpoint")
def test_no_intact_checkpoint_is_an_error(tmp_path):
    saved(tmp_path, epochs=1)
    for path in (tmp_path / "1").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    sentence = (
        f"None of the 1 checkpoints in {tmp_path} is intact (Expecting value: line 1 column 1 (char 0)); remove the "
        "folder to start over."
    )
    with refuses(sentence):
        build().fit(X, Y, batch_size=8, epochs=2, verbose=0, resume=tmp_path)


def test_one_process_at_a_time(tmp_path):
    with Checkpoints(tmp_path):
        code = f"from training import Checkpoints\nwith Checkpoints({str(tmp_path)!r}): pass"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    sentence = (
        f"OSError: Another process uses the checkpoints in {tmp_path}; wait until it ends, or choose another folder."
    )
    assert run.stderr.strip().splitlines()[-1] == sentence


def test_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("")
    with refuses(
        f"Checkpoints can't be written to {tmp_path / 'file' / 'run'} (Not a directory); choose another folder.",
        OSError,
    ):
        build().fit(X, Y, verbose=0, resume=tmp_path / "file" / "run")


@contextlib.contextmanager
def as_nobody():
    """Drops the privileges of root for a while, because root may write everywhere."""
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(user)


def test_a_folder_that_is_read_only():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        sentence = f"Checkpoints can't be written to {folder} (Permission denied); choose another folder."
        with as_nobody(), refuses(sentence, OSError), Checkpoints(folder):
            pass


def test_a_system_that_refuses_to_write(tmp_path, monkeypatch):
    """Even root cannot write to a read-only disk."""

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with refuses(
        f"Checkpoints can't be written to {tmp_path} (Read-only file system); choose another folder.", OSError
    ):
        build().fit(X, Y, verbose=0, resume=tmp_path)


def test_a_full_disk_does_not_end_the_run(uninterrupted, tmp_path, monkeypatch):
    import orbax.checkpoint as ocp

    real, calls = ocp.CheckpointManager.save, []

    def save(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    sentence = (
        f"A checkpoint could not be written to {tmp_path} (No space left on device); the run continues, and "
        "earlier checkpoints are kept."
    )
    with pytest.warns(RuntimeWarning, match=f"^{re.escape(sentence)}$"):
        assert_same(resumable_results(*fit("arrays", tmp_path)), uninterrupted["arrays"])
    with Checkpoints(tmp_path) as folder:
        assert folder.newest()[1]["position"]["epoch"] == len(calls)


def test_a_full_disk_is_reported_once_and_left_clean(uninterrupted, tmp_path, caplog):
    """Simulates a disk that is full for a while: files are limited to 64 bytes."""
    folder, (soft, hard) = Checkpoints(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)

    class Full(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                folder.wait()
                resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                folder.wait()
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                assert folders(tmp_path) == [1]

    try:
        with pytest.warns(RuntimeWarning) as caught:
            assert_same(resumable_results(*fit("arrays", folder, [Full()])), uninterrupted["arrays"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    sentence = (
        f"A checkpoint could not be written to {tmp_path} (File too large); the run continues, and earlier "
        "checkpoints are kept."
    )
    assert [str(w.message) for w in caught if w.category is RuntimeWarning] == [sentence]
    gc.collect()
    assert not [record.getMessage() for record in caplog.records]
    assert not list(tmp_path.glob("*tmp*"))


# The writes of orbax fail in its own threads.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_removed_folder_does_not_end_the_run(uninterrupted, tmp_path):
    class Remove(callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                shutil.rmtree(tmp_path / "run", ignore_errors=True)
            if epoch == 4:  # this process has locked the new folder, too
                sentence = (
                    f"Another process uses the checkpoints in {tmp_path / 'run'}; wait until it ends, or choose "
                    "another folder."
                )
                with refuses(sentence, OSError), Checkpoints(tmp_path / "run"):
                    pass

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert_same(resumable_results(*fit("arrays", tmp_path / "run", [Remove()])), uninterrupted["arrays"])
    assert all("could not be written" in str(w.message) for w in caught if w.category is RuntimeWarning)


def test_a_limit_of_file_sizes_does_not_end_the_run(uninterrupted, tmp_path):
    """A write of orbax that fails in the middle gives one sentence for each checkpoint and no traceback."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Limit(callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            resource.setrlimit(resource.RLIMIT_FSIZE, (400 if epoch in (1, 2) else before[0], before[1]))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            assert_same(resumable_results(*fit("arrays", tmp_path, [Limit()])), uninterrupted["arrays"])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    sentence = (
        f"A checkpoint could not be written to {tmp_path} (File too large); the run continues, and earlier "
        "checkpoints are kept."
    )
    assert {str(w.message) for w in caught} == {sentence}
    with Checkpoints(tmp_path) as folder:
        assert folder.newest()[1]["position"]["epoch"] == len(uninterrupted["arrays"]["epochs"])


def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
    trainer = Trainer(Sequential([Input((3,)), layers.Dense(1)]), optimizers.SGD(1e30), "mse", nonfinite="ignore")
    x, y = np.ones((8, 3), np.float32), np.ones((8, 1), np.float32)
    with pytest.warns(RuntimeWarning) as caught:
        trainer.fit(x, y, batch_size=2, epochs=2, verbose=0, resume=tmp_path)
    sentence = (
        "The state is not saved, because state/params/dense/bias contains NaN or infinity; lower the learning rate, "
        "or clip the gradients."
    )
    assert sentence in [str(w.message) for w in caught]
    assert not [p for p in tmp_path.iterdir() if p.name.isdigit()]


def test_checkpoints_of_another_run_are_refused(tmp_path):
    saved(tmp_path, epochs=1)
    with refuses(
        f"The checkpoints in {tmp_path} belong to a run with batch_size=8, got 4; use the same arguments as before, "
        "or choose another folder."
    ):
        build().fit(X, Y, batch_size=4, epochs=2, verbose=0, resume=tmp_path)
    other = Trainer(
        Sequential([Input((5,)), layers.Dense(2, activation="softmax")]),
        "adam",
        "sparse_categorical_crossentropy",
        build().metrics,
        seed=3,
    )
    with refuses(
        f"{tmp_path} contains a checkpoint of another model or optimizer, which differs in "
        "state/batch_stats/batch_normalization/moving_mean; use the same arguments as before, or choose another folder."
    ):
        other.fit(X, Y, batch_size=8, epochs=2, verbose=0, resume=tmp_path)


MISTAKES = {
    "every": (
        {"every": "day"},
        "`every` of Checkpoints must be 'epoch' or a number of steps, got 'day'; use one of them.",
    ),
    "keep": ({"keep": 0}, "`keep` of Checkpoints must be a positive integer, got 0; 2 is usual."),
    "keep 1.5": ({"keep": 1.5}, "`keep` of Checkpoints must be a positive integer, got 1.5; 2 is usual."),
    "keep_every": (
        {"keep_every": 0},
        "`keep_every` of Checkpoints must be a positive integer or None, got 0; 10 keeps every tenth.",
    ),
    "minutes": ({"minutes": -1}, "`minutes` of Checkpoints must be a positive number or None, got -1; 5 is usual."),
    "minutes str": (
        {"minutes": "5"},
        "`minutes` of Checkpoints must be a positive number or None, got '5'; 5 is usual.",
    ),
    "mode": ({"mode": "auto"}, "`mode` of Checkpoints must be 'min' or 'max', got 'auto'; use one of them."),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake, tmp_path):
    arguments, sentence = MISTAKES[mistake]
    with refuses(sentence):
        Checkpoints(tmp_path, **arguments)


def test_a_folder_is_a_path(tmp_path):
    for given in ("", 5, True):
        with refuses(f"A run is saved in a folder, got {given!r}; give its path."):
            build().fit(X, Y, verbose=0, resume=given)
    with refuses("`keep_best` of Checkpoints must name a value of the logs, got 5; 'val_loss' is usual.", TypeError):
        Checkpoints(tmp_path, keep_best=5)


def test_two_folders_are_refused(tmp_path):
    with refuses("A run is saved in one folder, got 2; give `resume` or one BackupAndRestore, not both."):
        build().fit(X, Y, resume=tmp_path, callbacks=[callbacks.BackupAndRestore(tmp_path)])
    with refuses("`backup_dir` of BackupAndRestore must be a folder, got an empty string."):
        callbacks.BackupAndRestore("")


def test_the_helper_has_callbacks():
    assert [type(c).__name__ for c in callbacks_of()] == ["EarlyStopping", "ReduceLROnPlateau"]
    assert jax.tree.leaves(build().model.init(jax.random.key(0), X[:1]))
