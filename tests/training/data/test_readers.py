"""Which batches a call takes from its source: no batch is lost, and none is used twice."""

import gc
import itertools
import re
import time
import weakref

import jax
import numpy as np
import pytest

from flaxmodels import Input, Sequential, layers
from training import Checkpoints, Trainer, callbacks, optimizers
from training.data import readers

X = np.zeros((4, 3), "float32")
ROWS = np.random.default_rng(0).normal(size=(50, 4, 4)).astype("float32")


def batch(i):
    """Returns batch i, on which a model that outputs 0 has the loss i."""
    return X, np.full((4, 1), i, "float32")


def trainer_of_zeros(**arguments):
    """Returns a trainer whose model outputs 0, so the loss is the mean of the batch numbers."""
    model = Sequential([Input((3,)), layers.Dense(1, kernel_initializer="zeros")])
    return Trainer(model, optimizers.SGD(0.0), "mae", **arguments)


class Counting:
    """An iterator that counts the batches that it has yielded."""

    def __init__(self, end=None):
        self.given, self.end = 0, end

    def __iter__(self):
        return self

    def __next__(self):
        if self.given == self.end:
            raise StopIteration
        self.given += 1
        return batch(self.given - 1)


class Pipeline(Counting):
    """A counting iterator with a state that can be restored."""

    def get_state(self):
        return {"given": self.given}

    def set_state(self, state):
        self.given = state["given"]


class StopAt(callbacks.Callback):
    def __init__(self, step):
        self.step = step

    def on_chunk_end(self, step, logs=None):
        self.trainer.stop_training = step == self.step


class Broken(Exception):
    """Ends a run in these tests."""


class EndAt(callbacks.Callback):
    def __init__(self, step):
        self.step = step

    def on_chunk_end(self, step, logs=None):
        if int(self.trainer.state.step) == self.step:
            raise Broken


def refuses(sentence, kind=ValueError):
    return pytest.raises(kind, match=f"^{re.escape(sentence)}$")


def mean(*numbers):
    return pytest.approx([np.mean(each) for each in numbers])


def test_calls_take_only_the_batches_they_use():
    trainer, source = trainer_of_zeros(), Counting()
    losses = trainer.fit(source, steps_per_epoch=3, epochs=2, verbose=0).history["loss"]
    assert (losses, source.given) == (mean([0, 1, 2], [3, 4, 5]), 6)
    losses = trainer.fit(source, steps_per_epoch=2, epochs=1, verbose=0).history["loss"]
    assert (losses, source.given) == (mean([6, 7]), 8)
    assert (trainer.evaluate(source, steps=2)["loss"], source.given) == (8.5, 10)
    assert (trainer.evaluate(source, steps=1)["loss"], source.given) == (10, 11)
    assert (trainer.predict(source, steps=3).shape, source.given) == ((12, 1), 14)
    assert next(source)[1][0, 0] == 14
    validation = Counting()
    logs = trainer.fit(
        source, steps_per_epoch=1, epochs=3, validation_data=validation, validation_steps=2, verbose=0
    ).history
    assert (logs["loss"], source.given) == (mean([15], [16], [17]), 18)
    assert (logs["val_loss"], validation.given) == (mean([0, 1], [2, 3], [4, 5]), 6)
    assert trainer.fit(source, steps_per_epoch=70, verbose=0).history["loss"] == mean(range(18, 88))
    assert source.given == 88


def test_keras_takes_the_same_batches():
    keras = pytest.importorskip("keras")
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="zeros")])
        model.compile(keras.optimizers.SGD(0.0), "mae")
        theirs = (each for each in Counting())
        with pytest.warns(UserWarning, match="shuffle"):
            want = [model.fit(theirs, steps_per_epoch=s, epochs=2, verbose=0).history["loss"] for s in (3, 4)]
        want.append(model.evaluate(theirs, steps=2, verbose=0))
    trainer, ours = trainer_of_zeros(), Counting()
    got = [trainer.fit(ours, steps_per_epoch=s, epochs=2, verbose=0).history["loss"] for s in (3, 4)]
    np.testing.assert_allclose(got, want[:2], rtol=1e-6)
    assert trainer.evaluate(ours, steps=2)["loss"] == pytest.approx(want[2])


ITERATORS = {
    "object": lambda: Counting(),
    "pipeline": lambda: Pipeline(),
    "generator": lambda: (each for each in Counting()),
    "of C code": lambda: map(batch, itertools.count()),  # does not support weak references
}


@pytest.mark.rotate
@pytest.mark.parametrize("kind", ITERATORS)
def test_prefetched_batches_are_used_by_the_next_call(kind):
    trainer, source = trainer_of_zeros(steps_per_execution=2), ITERATORS[kind]()
    losses = trainer.fit(source, steps_per_epoch=20, epochs=2, callbacks=[StopAt(4)], verbose=0).history["loss"]
    assert losses == mean(range(4))
    # Another trainer continues with the same iterator.
    other = trainer_of_zeros(steps_per_execution=1)
    with pytest.raises(Broken):
        other.fit(source, steps_per_epoch=20, callbacks=[EndAt(3)], verbose=0)
    assert other.evaluate(source, steps=1)["loss"] == 7
    if kind == "pipeline":
        assert source.given == 8
    assert trainer.predict(source, steps=2).shape == (8, 1)
    assert trainer.fit(source, steps_per_epoch=2, verbose=0).history["loss"] == mean([10, 11])
    identity = id(source)
    del source
    gc.collect()
    assert identity not in readers._LEDGERS


def test_prefetched_batches_do_not_keep_their_iterator_alive():
    source = ITERATORS["generator"]()
    trainer_of_zeros(steps_per_execution=1).fit(source, steps_per_epoch=9, callbacks=[StopAt(1)], verbose=0)
    reference, identity = weakref.ref(source), id(source)
    assert len(readers._LEDGERS[identity][1].unread) > 0
    del source
    gc.collect()
    assert reference() is None
    assert identity not in readers._LEDGERS


def test_rejected_calls_take_no_batches():
    source = ({"a": X, "b": X}[name] for name in "ab")
    with refuses("`fit` needs labels, got none; write fit(x, y), or give a Split of datasets.load."):
        trainer_of_zeros().fit(source)
    assert trainer_of_zeros().predict(source).shape == (8, 1)


def test_batches_before_an_invalid_one_are_not_lost():
    def bad():
        yield from map(batch, range(3))
        yield X, np.full((4, 1), np.nan, "float32")

    source = bad()
    with pytest.raises(ValueError, match="must hold finite numbers"):
        trainer_of_zeros().fit(source, verbose=0)
    assert trainer_of_zeros().evaluate(source, steps=3)["loss"] == 1


@pytest.mark.parametrize("steps", [1, 3])
def test_iterators_of_loaders_are_not_read_beyond_the_last_step(steps):
    """The iterators of a loader may share a source."""

    class Loader:
        def __init__(self):
            self.shared = Counting()

        def __iter__(self):
            return (next(self.shared) for _ in itertools.count())

    trainer, loader = trainer_of_zeros(), Loader()
    trainer.evaluate(loader, steps=steps)
    assert loader.shared.given == steps
    trainer.fit(loader, steps_per_epoch=steps, epochs=3, verbose=0)
    assert loader.shared.given == 4 * steps


def test_validation_that_ends_early():
    sentence = "The data ended after 1 of 2 steps of evaluation; give a longer stream or fewer steps."
    with pytest.warns(UserWarning, match=f"^{re.escape(sentence)}$"):
        logs = trainer_of_zeros().fit(
            Counting(), steps_per_epoch=1, epochs=2, validation_data=Counting(3), validation_steps=2, verbose=0
        )
    assert logs.history["val_loss"] == mean([0, 1], [2])


# ---------------------------------------------------------------- resuming


def moving(**arguments):
    model = Sequential([Input((3,)), layers.Dense(4, "tanh"), layers.Dropout(0.5), layers.Dense(1)])
    return Trainer(model, "adam", "mse", steps_per_execution=1, **arguments)


def assert_same(a, b):
    for x, y in zip(*(jax.tree.leaves((t.variables, t.state.opt_state)) for t in (a, b)), strict=True):
        np.testing.assert_array_equal(x, y)
    assert a.history.history == b.history.history


def rows(i):
    return ROWS[i % 50, :, :3], ROWS[i % 50, :, 3:]


class Rows(Pipeline):
    def __next__(self):
        return rows(int(super().__next__()[1][0, 0]))


VALIDATIONS = {"generator": lambda: map(rows, itertools.count()), "pipeline": Rows}


@pytest.mark.rotate
@pytest.mark.parametrize("kind", VALIDATIONS)
def test_resumed_runs_continue_validation_iterators(kind, tmp_path):
    def fit(resume=None, more=()):
        trainer = moving()
        trainer.fit(
            map(rows, itertools.count()), steps_per_epoch=3, epochs=4, validation_data=VALIDATIONS[kind](),
            validation_steps=2, verbose=0, callbacks=[*more], resume=resume,
        )  # fmt: skip
        return trainer

    whole = fit()
    for step in (5, 6, 10):
        with pytest.raises(Broken):
            fit(Checkpoints(tmp_path, every=1), [EndAt(step)])
    assert_same(fit(tmp_path), whole)


def test_loaders_with_stateful_iterators_are_not_reread(tmp_path):
    class Reading(Rows):
        read = 0

        def __next__(self):
            batch = super().__next__()
            self.read += 1
            return batch

    class Loader:
        def __init__(self):
            self.made = []

        def __iter__(self):
            self.made.append(Reading(end=5))
            return self.made[-1]

    def fit(loader, resume=None, more=()):
        trainer = moving()
        trainer.fit(loader, epochs=3, verbose=0, callbacks=[*more], validation_data=loader, resume=resume)
        return trainer

    whole = fit(Loader())
    for step in (4, 5, 8):
        with pytest.raises(Broken):
            fit(Loader(), Checkpoints(tmp_path, every=1), [EndAt(step)])
    loader = Loader()
    assert_same(fit(loader, tmp_path), whole)
    # One batch for the shapes, then the first validation, then the rest of the pass.
    assert [made.read for made in loader.made[:3]] == [1, 5, 2]


def test_one_iterator_for_training_and_validation():
    source = Counting()
    logs = (
        trainer_of_zeros()
        .fit(source, steps_per_epoch=2, epochs=3, validation_data=source, validation_steps=1, verbose=0)
        .history
    )
    assert (logs["loss"], logs["val_loss"]) == (mean([0, 1], [3, 4], [6, 7]), mean([2], [5], [8]))
    assert source.given == 9


def test_resuming_with_the_same_iterator_skips_no_batches(tmp_path):
    """This happens in a notebook if a cell is run again after an error."""
    whole, again, source = moving(), moving(), (rows(i) for i in itertools.count())
    whole.fit(map(rows, itertools.count()), steps_per_epoch=4, epochs=3, verbose=0)
    with pytest.raises(Broken):
        moving().fit(source, steps_per_epoch=4, epochs=3, verbose=0, callbacks=[EndAt(6)], resume=tmp_path)
    again.fit(source, steps_per_epoch=4, epochs=3, verbose=0, resume=tmp_path)
    assert_same(again, whole)
    with refuses(
        "The run continues after 12 batches of its iterator, got an iterator that has already yielded 13; give a new one."
    ):
        moving().evaluate(source, steps=1)
        moving().fit(source, steps_per_epoch=4, epochs=4, verbose=0, resume=tmp_path)


# ---------------------------------------------------------------- sequences of batches


class Items:
    """A map-style dataset, or Keras' old Sequence: it has a length, but iterating over it never ends."""

    def __init__(self, count=5):
        self.count, self.log = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        self.log.append(i)
        return rows(i)


class Hooked(Items):
    """A sequence that changes at the end of each pass."""

    passes = 0

    def on_epoch_begin(self):
        self.log.append("begin")

    def on_epoch_end(self):
        self.passes += 1
        self.log.append("end")

    def __getitem__(self, i):
        self.log.append(i)
        return rows(i + 7 * self.passes)


def test_items_are_batches():
    got, want = moving(), moving()
    got.fit(Items(), epochs=2, shuffle=False, validation_data=Items(2), verbose=0)
    want.fit([rows(i) for i in range(5)].__iter__, epochs=2, validation_data=lambda: map(rows, range(2)), verbose=0)
    assert_same(got, want)
    assert got.evaluate(Items()) == want.evaluate(map(rows, range(5)))
    np.testing.assert_array_equal(got.predict(Items(3)), want.predict(map(rows, range(3))))
    assert got.predict(Items(), steps=2).shape == (8, 1)
    assert got.fit(Items(), verbose=0).history["loss"]


def test_shuffling_depends_on_seed_and_pass_and_hooks_surround_each_pass():
    def orders(seed, **arguments):
        items = Hooked()
        moving(seed=seed).fit(items, epochs=3, verbose=0, **arguments)
        assert items.log.pop(0) == 0  # the batch that shows the shapes
        passes = [items.log[at + 1 : at + 6] for at, entry in enumerate(items.log) if entry == "begin"]
        assert [entry for entry in items.log if isinstance(entry, str)] == ["begin", "end"] * 3
        return passes

    assert orders(0, shuffle=False) == [[*range(5)]] * 3
    shuffled = orders(0)
    assert all(sorted(each) == [*range(5)] for each in shuffled)
    assert len({tuple(each) for each in shuffled}) > 1
    assert orders(0) == shuffled != orders(1)


def test_streams_may_write_all_batches_into_one_array():
    class OneBuffer(Items):
        buffers = None

        def __getitem__(self, i):
            made = super().__getitem__(i)
            self.buffers = tuple(map(np.copy, made)) if self.buffers is None else self.buffers
            for buffer, array in zip(self.buffers, made, strict=True):
                buffer[:] = array
            return self.buffers

    def moving():
        return Trainer(Sequential([Input((3,)), layers.Dense(4, "tanh"), layers.Dense(1)]), "adam", "mse")

    want = moving()
    want.fit(Items(), epochs=2, shuffle=False, verbose=0)
    for stream in (OneBuffer(), lambda: (items[i] for items in [OneBuffer()] for i in range(5))):
        got = moving()
        got.fit(stream, epochs=2, shuffle=False, verbose=0)
        assert_same(got, want)
        np.testing.assert_array_equal(got.predict(stream), want.predict(Items()))


def test_a_sequence_may_become_shorter():
    class Shrinking(Hooked):
        def __len__(self):
            return 5 - self.passes

    items = Shrinking()
    history = moving().fit(items, epochs=3, shuffle=False, verbose=0).history
    assert items.log[1:] == ["begin", *range(5), "end", "begin", *range(4), "end", "begin", *range(3), "end"]
    assert len(history["loss"]) == 3


def test_no_thread_reads_items_of_a_closed_pass():
    class Slow(Hooked):
        workers = 2

        def __getitem__(self, i):
            time.sleep(0.005)
            return super().__getitem__(i)

    items = Slow(50)
    reader = readers.reader_of(items)
    next(reader.open(0, 0, None))
    reader.close(1, [], None)
    read = len(items.log)
    time.sleep(0.03)
    assert len(items.log) == read < 50


def test_sequences_of_keras():
    keras = pytest.importorskip("keras")

    class Dataset(keras.utils.PyDataset):
        __len__, __getitem__, on_epoch_end, passes = Hooked.__len__, Hooked.__getitem__, Hooked.on_epoch_end, 0

        def __init__(self):
            super().__init__()
            self.count, self.log = 5, []

    class Endless(Dataset):
        num_batches = None

    items, trainer = Dataset(), moving()
    trainer.fit(items, epochs=2, verbose=0, validation_data=Dataset())
    assert items.passes == 2
    assert sorted(items.log[1:6]) == [*range(5)]
    endless = Endless()
    trainer.fit(endless, steps_per_epoch=7, epochs=2, verbose=0)
    assert endless.log == [0, *range(14)]


@pytest.mark.rotate
@pytest.mark.parametrize("steps_per_epoch", [None, 3])
@pytest.mark.filterwarnings("ignore:The data ended")
def test_sequences_resume_within_a_pass(steps_per_epoch, tmp_path):
    def fit(items, resume=None, more=()):
        trainer = moving()
        trainer.fit(
            items, steps_per_epoch=steps_per_epoch, epochs=4, validation_data=Hooked(3), verbose=0,
            callbacks=[*more], resume=resume,
        )  # fmt: skip
        return trainer

    whole = fit(Hooked())
    for step in (4, 5, 8):
        with pytest.raises(Broken):
            fit(Hooked(), Checkpoints(tmp_path, every=1), [EndAt(step)])
    items = Hooked()
    assert_same(fit(items, tmp_path), whole)
    assert len(items.log) < 25  # items of completed passes are not read


def test_labels_given_as_a_sequence_are_rejected():
    sentence = (
        "`y` must be an array of numbers, got items of a Items; put them into one array, for example with "
        "np.stack([items[i] for i in range(len(items))])."
    )
    with refuses(sentence, TypeError):
        moving().fit(np.zeros((5, 3), "float32"), Items())
    with refuses("`x` must be a stream of at least one batch, got none; give a stream that is not exhausted."):
        moving().fit(Items(0))


class RestartsOnIter:
    """An iterator that restarts whenever `iter` is called on it, like many loaders."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        self.read = 0
        return self

    def __next__(self):
        if self.read == len(self.batches):
            raise StopIteration
        self.read += 1
        return self.batches[self.read - 1]


def test_iter_is_called_only_once_on_an_iterator():
    batches = [np.full((2, 3), i, np.float32) for i in range(4)]
    trainer = Trainer(Sequential([layers.Lambda(lambda x: x[:, :1])]))
    source = RestartsOnIter(batches)
    assert trainer.predict(source, steps=1).ravel().tolist() == [0, 0]
    assert trainer.predict(source).ravel().tolist() == [1, 1, 2, 2, 3, 3]
    assert source.read == 4
