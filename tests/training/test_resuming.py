"""What a checkpoint saves besides the model's state: data pipelines, callbacks, the start of the epoch, arguments."""

import contextlib
import itertools
import re
import signal
import warnings
from typing import ClassVar

import jax
import numpy as np
import pytest

from flaxmodels import Input, Sequential, layers
from training import Checkpoints, Trainer, callbacks, metrics, optimizers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype("float32")
Y = RNG.normal(size=(12, 1)).astype("float32")


class Broken(Exception):
    """Ends a run in these tests."""


class EndAt(callbacks.Callback):
    """Ends the run after this training step."""

    def __init__(self, step):
        self.step = step

    def on_chunk_end(self, step, logs=None):
        if int(self.trainer.state.step) == self.step:
            raise Broken


def line(activation=None, loss="mse", optimizer="adam", **arguments):
    model = Sequential([Input((3,)), layers.Dense(2, activation=activation), layers.Dropout(0.2), layers.Dense(1)])
    return Trainer(model, optimizer, loss, steps_per_execution=1, **arguments)


def assert_same(a, b):
    for x, y in zip(*(jax.tree.leaves((t.variables, t.state.opt_state)) for t in (a, b)), strict=True):
        np.testing.assert_array_equal(x, y)
    assert a.history.history == b.history.history


class Pipeline:
    """An endless iterator with a state, like those of grain, that records which batches were read."""

    def __init__(self, as_bytes):
        self.at, self.as_bytes, self.read = 0, as_bytes, []

    def __iter__(self):
        return self

    def __next__(self):
        rows = (np.arange(4) + 5 * self.at) % 12
        self.read.append(self.at)
        self.at += 1
        return X[rows], Y[rows]

    def get_state(self):
        return str(self.at).encode() if self.as_bytes else {"at": self.at}

    def set_state(self, state):
        self.at = int(state) if self.as_bytes else state["at"]


@pytest.mark.parametrize("as_bytes", [False, True])
def test_stateful_iterators_resume_without_rereading(as_bytes, tmp_path):
    def fit(pipeline, resume=None, more=()):
        trainer = line()
        trainer.fit(pipeline, steps_per_epoch=4, epochs=3, verbose=0, callbacks=[*more], resume=resume)
        return trainer

    whole = fit(Pipeline(as_bytes))
    for step in (3, 6):
        with pytest.raises(Broken):
            fit(Pipeline(as_bytes), Checkpoints(tmp_path, every=1), [EndAt(step)])
    again = Pipeline(as_bytes)
    assert_same(fit(again, tmp_path), whole)
    assert again.read[:2] == [0, 6]  # the first batch shows the shapes, and no other batch is read twice


def test_errors_of_the_data_are_raised_after_the_state_is_saved(tmp_path):
    def source(number, bad=()):
        for i in range(3):
            if (number, i) in bad:
                raise Broken("disk on fire")
            yield X[4 * i : 4 * i + 4], Y[4 * i : 4 * i + 4]

    whole, again = line(), line()
    whole.fit(source, epochs=3, verbose=0)
    with pytest.raises(Broken, match="^disk on fire$"):
        line().fit(lambda number: source(number, {(1, 2)}), epochs=3, verbose=0, resume=tmp_path)
    with Checkpoints(tmp_path) as folder:
        assert folder.newest()[1]["position"] == {"epoch": 1, "step": 2, "number": 1, "first": 2}
    again.fit(source, epochs=3, verbose=0, resume=tmp_path)
    assert_same(again, whole)


def test_system_exit_in_a_callback_saves_the_state(tmp_path):
    class Leave(callbacks.Callback):
        def on_chunk_end(self, step, logs=None):
            raise SystemExit(3)

    with pytest.raises(SystemExit, match="^3$"):
        line().fit(X, Y, batch_size=4, verbose=0, callbacks=[Leave()], resume=tmp_path)
    with Checkpoints(tmp_path) as folder:
        assert folder.newest()[1]["position"]["step"] == 1


def test_failed_validations_are_repeated(tmp_path):
    class Fails(callbacks.Callback):
        def on_test_begin(self, logs=None):
            if int(self.trainer.state.step) == 6:
                raise Broken

    def fit(resume=None, more=()):
        trainer = line()
        trainer.fit(X, Y, batch_size=4, epochs=3, verbose=0, validation_data=(X, Y), callbacks=[*more], resume=resume)
        return trainer

    with pytest.raises(Broken):
        fit(tmp_path, [Fails()])
    assert_same(fit(tmp_path), fit())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_interrupt_validation(number, tmp_path):
    class Signals(callbacks.Callback):
        seen: ClassVar[list] = []

        def on_test_begin(self, logs=None):
            self.seen.append("begin")
            signal.raise_signal(number)

        def on_test_end(self, logs=None):
            self.seen.append("end")

    def fit(resume=None, more=()):
        trainer = line()
        trainer.fit(X, Y, batch_size=4, epochs=2, verbose=0, validation_data=(X, Y), callbacks=[*more], resume=resume)
        return trainer

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit if number == signal.SIGTERM else KeyboardInterrupt):
            fit(tmp_path, [Signals()])
    finally:
        signal.signal(signal.SIGINT, previous)
    assert Signals.seen == ["begin"]
    assert_same(fit(tmp_path), fit())


def test_averages_that_replace_the_weights_are_saved_separately(tmp_path):
    """The checkpoint is written after the averages have replaced the weights for later callbacks."""

    def fit(resume=None, more=()):
        trainer = line(optimizer=optimizers.Adam(0.1, use_ema=True))
        swap = callbacks.SwapEMAWeights(swap_on_epoch=True)
        trainer.fit(X, Y, batch_size=4, epochs=3, verbose=0, callbacks=[swap, *more], resume=resume)
        return trainer

    with pytest.raises(Broken):
        fit(Checkpoints(tmp_path, every="epoch"), [EndAtEpochBegin(1)])
    assert_same(fit(tmp_path), fit())


class EndAtEpochBegin(callbacks.Callback):
    """Ends the run at the start of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise Broken


def infinite(y_true, y_pred):
    return jax.numpy.mean((y_true - y_pred) ** 2, axis=-1) / (y_true[:, 0] != 9).astype("float32")


@pytest.mark.filterwarnings("ignore:Numbers are not finite")
def test_the_state_at_the_epoch_start_is_saved_for_restore(tmp_path):
    def source(number):
        for i in range(3):
            yield X[4 * i : 4 * i + 4], np.full((4, 1), 9, "float32") if (number, i) == (1, 2) else Y[4 * i : 4 * i + 4]

    def fit(resume=None, more=()):
        trainer = line(loss=infinite, nonfinite="restore")
        trainer.fit(source, epochs=3, verbose=0, callbacks=[*more], resume=resume)
        return trainer

    whole = fit()
    with pytest.raises(Broken):
        fit(tmp_path, [EndAt(5)])
    again = fit(tmp_path)
    assert int(again.state.step) == int(whole.state.step) == 3
    for x, y in zip(*(jax.tree.leaves(t.variables) for t in (again, whole)), strict=True):
        np.testing.assert_array_equal(x, y)


def test_models_with_other_arguments_are_rejected(tmp_path):
    line().fit(X, Y, batch_size=4, verbose=0, resume=tmp_path)
    sentence = (
        f"The checkpoints in {tmp_path} belong to a model whose layers have different arguments; use the same "
        "arguments as before, or choose another folder."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        line(activation="tanh").fit(X, Y, batch_size=4, epochs=2, verbose=0, resume=tmp_path)
    sentence = (
        f"The checkpoints in {tmp_path} belong to a run with losses=['mean_squared_error'], got "
        "['mean_absolute_error']; use the same arguments as before, or choose another folder."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        line(loss="mae").fit(X, Y, batch_size=4, epochs=2, verbose=0, resume=tmp_path)


def test_iterators_without_a_state_are_read_again(tmp_path):
    with pytest.raises(Broken):
        line().fit(endless(), steps_per_epoch=2, epochs=3, verbose=0, callbacks=[EndAt(3)], resume=tmp_path)
    whole, again = line(), line()
    whole.fit(endless(), steps_per_epoch=2, epochs=3, verbose=0)
    again.fit(endless(), steps_per_epoch=2, epochs=3, verbose=0, resume=tmp_path)
    assert_same(again, whole)


def endless():
    for i in itertools.count():
        rows = (np.arange(4) + 5 * i) % 12
        yield X[rows], Y[rows]


# ---------------------------------------------------------------- ends of epochs and runs


@pytest.mark.parametrize("data", ["arrays", "function", "iterator"])
@pytest.mark.parametrize("steps_per_epoch", [2, 3, 6])
def test_resuming_after_the_last_chunk_of_an_epoch(data, steps_per_epoch, tmp_path):
    """A pass has 3 steps, or 5 for the function."""

    def source(number):
        return itertools.islice(endless(), 5 * number, 5 * number + 5)

    given = {"arrays": lambda: X, "function": lambda: source, "iterator": endless}[data]
    arguments = {"y": Y, "batch_size": 4} if data == "arrays" else {}

    def fit(resume=None, more=()):
        trainer = line()
        trainer.fit(
            given(), **arguments, steps_per_epoch=steps_per_epoch, epochs=4, verbose=0, callbacks=[*more],
            validation_data=(X, Y), resume=resume,
        )  # fmt: skip
        return trainer

    def warned(function):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            return function(), {str(warning.message) for warning in caught}

    whole, sentences = warned(fit)
    for step in (steps_per_epoch, 2 * steps_per_epoch):
        with contextlib.suppress(Broken):
            warned(lambda step=step: fit(Checkpoints(tmp_path, every=1), [EndAt(step)]))
    again, more = warned(lambda: fit(tmp_path))
    assert more <= sentences
    assert_same(again, whole)


class Stop(callbacks.Callback):
    """Ends the run at one of its hooks."""

    def __init__(self, hook, at):
        def stop(number, logs=None):
            if number == at:
                self.trainer.stop_training = True

        setattr(self, hook, stop)


class FailsOnce(callbacks.Callback):
    def __init__(self, hook):
        def fail(logs=None):
            if not self.trainer.failed:
                raise Broken

        setattr(self, hook, fail)


@pytest.mark.parametrize("hook", ["on_test_begin", "on_test_end"])
def test_the_epoch_in_which_a_run_is_stopped_is_completed(hook, tmp_path):
    """This also holds if the process fails during the validation of this epoch."""

    def fit(failed, resume=None):
        trainer = line()
        trainer.failed = failed
        trainer.fit(
            X, Y, batch_size=4, epochs=3, verbose=0, validation_data=(X, Y), resume=resume,
            callbacks=[Stop("on_chunk_end", 2), FailsOnce(hook)],
        )  # fmt: skip
        return trainer

    whole = fit(True)
    assert len(whole.history.history["val_loss"]) == 1
    assert int(whole.state.step) == 2
    with pytest.raises(Broken):
        fit(False, Checkpoints(tmp_path, every=1))
    assert_same(fit(True, tmp_path), whole)
    assert_same(fit(True, tmp_path), whole)  # the run is complete, so nothing runs


@pytest.mark.parametrize("steps", ["auto", 2])
def test_stopping_before_an_epoch_still_runs_one_chunk_as_in_keras(steps):
    model = Sequential([Input((3,)), layers.Dense(1)])
    for callback, done in ((Stop("on_epoch_begin", 1), 3), (Start(), 0)):
        trainer = Trainer(model, "sgd", "mse", steps_per_execution=steps)
        history = trainer.fit(X, Y, batch_size=4, epochs=3, verbose=0, callbacks=[callback])
        assert int(trainer.state.step) == done + (1 if steps == "auto" else 2)
        assert len(history.history["loss"]) == (2 if done else 1)


class Start(callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.trainer.stop_training = True


def test_log_rows_from_before_the_first_checkpoint_are_not_duplicated(tmp_path):
    """The process ends after the first row, and before the first checkpoint."""
    log, folder = tmp_path / "log.csv", tmp_path / "run"
    log.write_text("epoch,loss\n0,1.5\n")  # from an earlier run
    logger = {"filename": log, "append": True}
    # Without Checkpoints.save there is no checkpoint, as after a SIGKILL.
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Broken):
        patch.setattr(Checkpoints, "save", lambda *args: None)
        line().fit(
            X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[callbacks.CSVLogger(**logger), EndAtEpochBegin(1)],
            resume=folder,
        )  # fmt: skip
    assert len(log.read_text().splitlines()) == 3
    line().fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[callbacks.CSVLogger(**logger)], resume=folder)
    assert [row.split(",")[0] for row in log.read_text().split()] == ["epoch", "0", "0", "1"]
    assert not (folder / "start.json").exists()
    line().fit(X, Y, batch_size=4, epochs=3, verbose=0, callbacks=[callbacks.CSVLogger(**logger)], resume=folder)
    assert [row.split(",")[0] for row in log.read_text().split()] == ["epoch", "0", "0", "1", "2"]


def test_other_log_files_are_not_truncated(tmp_path):
    log, folder = tmp_path / "log.csv", tmp_path / "run"
    other = tmp_path / "other.csv"
    other.write_text("epoch,loss\n" + "0,1.5\n" * 99)
    line().fit(X, Y, batch_size=4, verbose=0, callbacks=[callbacks.CSVLogger(log)], resume=folder)
    logger = callbacks.CSVLogger(other, append=True)
    line().fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[logger], resume=folder)
    assert len(other.read_text().splitlines()) == 101


class RecordCalls(callbacks.Callback):
    """Records the arguments of its calls in its saved state."""

    STATE = ("seen",)

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append([batch, *map(float, logs["loss"])])

    def on_chunk_end(self, step, logs=None):
        self.seen.append([step, logs["loss"]])


@pytest.mark.parametrize("last", [True, False])
def test_all_callbacks_are_called_again_if_one_fails(last, tmp_path):
    """This includes callbacks that were called before the one that failed."""

    def fit(resume=None, more=()):
        trainer, recorder = line(), RecordCalls()
        order = [recorder, *more] if last else [*more, recorder]
        trainer.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=order, resume=resume)
        return trainer, recorder

    whole, want = fit()
    with pytest.raises(Broken):
        fit(tmp_path, [EndAt(2)])
    again, got = fit(tmp_path)
    assert got.seen == want.seen
    assert_same(again, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_preserve_the_states_of_callbacks(number, tmp_path):
    class Signals(callbacks.Callback):
        def on_chunk_end(self, step, logs=None):
            if int(self.trainer.state.step) == 2:
                signal.raise_signal(number)

    def fit(resume=None, more=()):
        trainer, recorder = line(), RecordCalls()
        trainer.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[*more, recorder], resume=resume)
        return recorder

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit if number == signal.SIGTERM else KeyboardInterrupt):
            fit(tmp_path, [Signals()])
    finally:
        signal.signal(signal.SIGINT, previous)
    assert fit(tmp_path).seen == fit().seen


def test_metrics_with_a_value_per_class_are_restored(tmp_path):
    """The run ends after the last chunk of an epoch, so the checkpoint contains the logs of that epoch."""

    def fit(resume=None, more=()):
        model = Sequential([Input((3,)), layers.Dense(2, activation="softmax")])
        trainer = Trainer(model, "sgd", "categorical_crossentropy", [metrics.F1Score()], steps_per_execution=1)
        labels = np.eye(2, dtype="float32")[(Y[:, 0] > 0).astype(int)]
        history = trainer.fit(X, labels, batch_size=4, epochs=1, verbose=0, callbacks=[*more], resume=resume).history
        return history["f1_score"][0]

    with pytest.raises(Broken):
        fit(tmp_path, [EndAt(3)])
    got, want = fit(tmp_path), fit()
    assert want.shape == (2,)
    np.testing.assert_array_equal(got, want)
