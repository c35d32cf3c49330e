"""Streams of batches: the same results as with arrays, ends of streams, and errors."""

import itertools
import re

import jax
import numpy as np
import pytest

from flaxmodels import Input, Sequential, layers
from training import Trainer, callbacks
from training.data.readers import is_stream
from training.data.source import FeedOptions
from training.data.streams import StreamFeed, StreamSource

RNG = np.random.default_rng(0)
X = RNG.normal(size=(22, 3)).astype("float32")
Y = RNG.normal(size=(22, 1)).astype("float32")


def batches(x=X, y=Y, size=4):
    for i in range(0, len(x), size):
        yield x[i : i + size], y[i : i + size]


def line(**arguments):
    model = Sequential([Input((3,)), layers.Dense(4), layers.Dropout(0.5), layers.Dense(1)])
    return Trainer(model, "sgd", "mse", ["mae"], **arguments)


def refuses(sentence, kind=ValueError):
    return pytest.raises(kind, match=f"^{re.escape(sentence)}$")


class Loader:
    """Has a length, yields lists of arrays, and makes a new iterator for each pass, like loaders of other libraries."""

    def __len__(self):
        return 6

    def __iter__(self):
        return (list(batch) for batch in batches())


SOURCES = {
    "loader": Loader,
    "function": lambda: batches,
    "function of the pass": lambda: lambda number: batches(),
}


@pytest.mark.rotate
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("steps", ["auto", 2])
def test_streams_equal_arrays(source, steps):
    trainers = [line(steps_per_execution=steps), line()]
    given = SOURCES[source]()
    got = trainers[0].fit(given, epochs=3, verbose=0, validation_data=given).history
    want = trainers[1].fit(
        X, Y, batch_size=4, epochs=3, verbose=0, shuffle=False, validation_data=(X, Y), validation_batch_size=4
    )
    for name, values in want.history.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-6)
    for a, b in zip(*(jax.tree.leaves(t.variables) for t in trainers), strict=True):
        np.testing.assert_array_equal(a, b)
    assert trainers[0].evaluate(given) == pytest.approx(trainers[1].evaluate(X, Y, batch_size=4))
    np.testing.assert_array_equal(trainers[0].predict(given), trainers[1].predict(X, batch_size=4))


def test_an_endless_generator_with_steps_per_epoch():
    taken = []

    def endless():
        for i in itertools.count():
            taken.append(i)
            rows = np.arange(4 * i, 4 * i + 4) % 20
            yield X[rows], Y[rows]

    trainer, other = line(steps_per_execution=2), line()
    got = trainer.fit(endless(), steps_per_epoch=5, epochs=4, verbose=0).history
    want = other.fit(X[:20], Y[:20], batch_size=4, epochs=4, shuffle=False, verbose=0).history
    np.testing.assert_allclose(got["loss"], want["loss"], rtol=1e-6)
    assert len(taken) <= 20 + 4  # the number of batches read ahead is bounded


def test_epochs_continue_where_the_previous_one_ended():
    """A pass has 5 steps, so the epochs have 2, 2 and 1 steps and then start over, as in Keras."""
    x, y = X[:20], Y[:20]
    keras = pytest.importorskip("keras")
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        theirs.compile(keras.optimizers.SGD(0.0), "mse")
        with pytest.warns(UserWarning, match="ran out of data"):
            want = theirs.fit(x, y, batch_size=4, steps_per_epoch=2, epochs=5, shuffle=False, verbose=0).history
        kernel, bias = theirs.get_weights()
    trainer = Trainer(Sequential([Input((3,)), layers.Dense(1)]), keras_sgd(), "mse")
    trainer.build(x)
    trainer.variables = {"params": {"dense": {"kernel": kernel, "bias": bias}}}
    sentence = "The data ended after 1 of 2 steps of epoch 3; give a longer stream or a smaller `steps_per_epoch`."
    with pytest.warns(UserWarning, match=f"^{re.escape(sentence)}$"):
        got = trainer.fit(x, y, batch_size=4, steps_per_epoch=2, epochs=5, shuffle=False, verbose=0).history
    np.testing.assert_allclose(got["loss"], want["loss"], rtol=1e-5)


def keras_sgd():
    from training import optimizers

    return optimizers.SGD(0.0)


def test_steps_of_evaluation_and_prediction():
    trainer = line()
    first = trainer.evaluate(X[:8], Y[:8], batch_size=4)
    assert trainer.evaluate(X, Y, batch_size=4, steps=2) == pytest.approx(first)
    assert trainer.evaluate(Loader(), steps=2) == pytest.approx(first)
    outputs = trainer.predict(X, batch_size=4)
    np.testing.assert_array_equal(trainer.predict(X, batch_size=4, steps=2), outputs[:8])
    np.testing.assert_array_equal(trainer.predict(Loader(), steps=2), outputs[:8])
    np.testing.assert_array_equal(trainer.predict(x for x, _ in batches()), outputs)
    history = trainer.fit(X, Y, batch_size=4, validation_data=(X, Y), validation_steps=2, verbose=0).history
    assert history["val_loss"][0] == pytest.approx(trainer.evaluate(X[:8], Y[:8])["loss"])


def test_weights_and_classes_of_a_stream():
    y, weight = RNG.integers(0, 3, 22).astype("int32"), RNG.uniform(0.5, 2, 22).astype("float32")
    model = Sequential([Input((3,)), layers.Dense(3, activation="softmax")])

    def fit(*given, **arguments):
        trainer = Trainer(model, "sgd", "sparse_categorical_crossentropy")
        trainer.fit(*given, verbose=0, shuffle=False, **arguments)
        return trainer.variables["params"]["dense"]["kernel"]

    def stream():
        for i in range(0, 22, 4):
            yield X[i : i + 4], y[i : i + 4], weight[i : i + 4]

    np.testing.assert_array_equal(fit(stream()), fit(X, y, batch_size=4, sample_weight=weight))
    classes = {0: 2.0, 2: 0.5}
    got = fit(lambda: ((x, labels) for x, labels, _ in stream()), class_weight=classes)
    np.testing.assert_array_equal(got, fit(X, y, batch_size=4, class_weight=classes))


# ---------------------------------------------------------------- ends of streams and errors


def test_a_generator_that_ends_early_ends_the_run():
    sentence = "The data ended after 2 of 4 steps of epoch 2; give a longer stream or a smaller `steps_per_epoch`."
    with pytest.warns(UserWarning, match=f"^{re.escape(sentence)}$"):
        history = line().fit(batches(), steps_per_epoch=4, epochs=5, verbose=0)
    assert len(history.epoch) == 2


def test_a_generator_has_one_pass():
    with refuses(
        "Epoch 2 needs at least one batch, got a stream that is exhausted; give "
        "`steps_per_epoch`, or a list, a loader, or a function that returns a new iterator."
    ):
        line().fit(batches(), epochs=2, verbose=0)
    with refuses(
        "An evaluation needs at least one batch, got a stream that is exhausted; "
        "give a list, a loader, or a function that returns a new iterator."
    ):
        line().fit(X, Y, epochs=2, validation_data=batches(), verbose=0)


def test_errors_of_the_source_are_raised():
    class Broken(Exception):
        pass

    def broken():
        yield from itertools.islice(batches(), 3)
        raise Broken("disk on fire")

    with pytest.raises(Broken, match="^disk on fire$"):
        line(steps_per_execution=1).fit(broken, epochs=2, verbose=0)


class Second:
    """A stream whose second batch is wrong."""

    def __init__(self, *parts):
        self.parts = parts

    def __iter__(self):
        yield X[:4], Y[:4]
        yield self.parts


MISTAKES = {
    "nothing": (
        lambda: iter(()),
        "`x` must be a stream of at least one batch, got none; give a stream that is not exhausted.",
    ),
    "too many parts": (
        lambda: iter([(X, Y, Y, Y)]),
        "`x` must be a stream of (x, y) or (x, y, sample_weight), got 4 entries in batch 0; give one of them.",
    ),
    "other shapes": (
        lambda: Second(X[:4, :2], Y[:4]),
        "All batches of `x` must have examples of the shapes (3,), (1,), got (2,), (1,) in batch 1; give the same "
        "shapes in all batches.",
    ),
    "larger": (
        lambda: Second(X[:5], Y[:5]),
        "The first batch of `x` must be the largest, got 4 examples in batch 0 and 5 in batch 1; start with a batch "
        "of full size.",
    ),
    "no labels": (
        lambda: iter([(X,)]),
        "`fit` needs labels, got none; write fit(x, y), or give a Split of datasets.load.",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    source, sentence = MISTAKES[mistake]
    with refuses(sentence):
        line().fit(source(), verbose=0)


def test_arguments_that_a_stream_already_contains_are_rejected():
    for arguments, name in (
        ({"y": Y}, "y"),
        ({"batch_size": 3}, "batch_size"),
        ({"sample_weight": Y[:, 0]}, "sample_weight"),
    ):
        with refuses(f"A stream has its own {name}, but fit got `{name}` as well; leave it out."):
            line().fit(batches(), verbose=0, **arguments)
    with refuses("A stream has its own batch_size, but predict got `batch_size` as well; leave it out."):
        line().predict(batches(), batch_size=3)
    with refuses("A stream has its own batch_size, but fit got `validation_batch_size` as well; leave it out."):
        line().fit(X, Y, validation_data=batches, validation_batch_size=3, verbose=0)
    with refuses("`validation_split` divides arrays, got 0.5 for a stream; give `validation_data` instead."):
        line().fit(batches(), validation_split=0.5, verbose=0)
    for name in ("steps_per_epoch", "validation_steps"):
        with refuses(f"`{name}` must be a positive integer or None, got 0; leave it out to take all batches."):
            line().fit(X, Y, **{name: 0})


def test_is_stream():
    assert all(map(is_stream, (batches(), batches, Loader(), iter([1]), range(3))))
    assert not any(map(is_stream, (X, [X], (X, Y), {"a": X}, jax.numpy.ones(3), "text")))


def test_labels_of_every_batch_are_checked():
    model = Sequential([Input((3,)), layers.Dense(3, activation="softmax")])

    def stream():
        yield X[:4], np.array([0, 1, 2, 0])
        yield X[:4], np.array([0, 1, 3, 0])

    with pytest.raises(ValueError, match="3"):
        Trainer(model, "sgd", "sparse_categorical_crossentropy").fit(stream, verbose=0)


def test_chunks_can_start_at_any_batch():
    feed = StreamFeed(StreamSource(batches), FeedOptions(steps_per_chunk=2))
    firsts = [(chunk.first, chunk.steps, chunk.sizes.tolist()) for chunk in feed.chunks(0, None, 3)]
    assert firsts == [(3, 2, [4, 4]), (5, 1, [2])]


def test_the_reading_thread_ends_with_the_run(monkeypatch):
    """The thread that reads ahead ends with the run, even if an error ends the run."""
    import threading

    class Stop(callbacks.Callback):
        def on_chunk_end(self, step, logs=None):
            raise KeyError("stop")

    with pytest.raises(KeyError):
        line(steps_per_execution=1).fit(
            lambda: itertools.cycle(batches()), steps_per_epoch=5, callbacks=[Stop()], verbose=0
        )
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stream")]
