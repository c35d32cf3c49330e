"""Which data is accepted or rejected, and how it is copied to the device."""

import re

import jax
import numpy as np
import pytest

from flaxmodels import Input, Sequential, layers
from training import Trainer
from training.data.arguments import choose_batch_size
from training.data.arrays import ArrayFeed, ArraySource
from training.data.examples import as_examples
from training.data.source import FeedOptions
from training.data.streams import StreamSource
from training.datasets import Split

X, Y = np.arange(12.0, dtype="float32").reshape(6, 2), np.arange(6, dtype="int32")


def refuses(kind, sentence):
    return pytest.raises(kind, match=f"^{re.escape(sentence)}$")


def test_arrays_keep_their_dtype_except_for_64_bits():
    data = as_examples(X.astype("float64"), Y.astype("int64"))
    assert data.x.dtype == np.float32
    assert data.y.dtype == np.int32
    assert as_examples(X.astype("uint8")).x.dtype == np.uint8


def test_lists_of_numbers_become_arrays_and_trees_remain_trees():
    assert as_examples(X, [0, 1, 2, 3, 4, 5]).y.shape == (6,)
    assert as_examples([[1.0, 2.0], [3.0, 4.0]]).x.shape == (2, 2)
    data = as_examples({"a": X, "b": X}, [Y, Y])
    assert set(data.x) == {"a", "b"}
    assert len(data) == 6


def test_splits_have_labels_and_a_scale():
    data = as_examples(Split(X.astype("uint8"), Y, scale=0.5, num_classes=6))
    assert (data.scale, data.num_classes, data.x.dtype) == (0.5, 6, np.uint8)
    with refuses(ValueError, "A Split has its own labels, got y=an array of shape (6,) as well; leave `y` out."):
        as_examples(Split(X, Y), Y)


def test_unequal_lengths_are_rejected():
    with refuses(
        ValueError, "All arrays must have one row per example, got x (6, 2), y (5,); give them the same length."
    ):
        as_examples(X, Y[:5])


def test_empty():
    with refuses(ValueError, "There are no examples: x has shape (0, 2); give at least one."):
        as_examples(X[:0], Y[:0])
    with refuses(ValueError, "There are no inputs: `x` is empty or None; give an array [N, ...]."):
        as_examples(None)


def test_non_numeric_data_is_rejected():
    with refuses(
        TypeError,
        "`x` must be an array of numbers, got text such as 'a'; encode text as numbers, for example with "
        "np.unique(values, return_inverse=True)[1].",
    ):
        as_examples(np.array(["a", "b"]))
    with refuses(TypeError, "`x` must be an array of numbers, got lists of different lengths; pad them to one length."):
        as_examples([[1.0], [1.0, 2.0]])
    with refuses(ValueError, "`x` must have one row per example, got the single number 3.0; give an array [N, ...]."):
        as_examples(3.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_data_is_rejected(bad):
    x = X.copy()
    x[1, 1] = bad
    with refuses(
        ValueError,
        f"`x` must hold finite numbers, got {np.float32(bad)} at [1, 1] (non-finite: 1 of 12 values); remove or "
        "fill them, for example with np.nan_to_num.",
    ):
        as_examples(x, Y)


def test_finite_data_with_an_overflowing_sum_is_accepted():
    as_examples(np.full((4, 2), 3e38, "float32"))


def test_class_weight_applies_by_label():
    data = as_examples(X, np.array([0, 1, 2, 0, 1, 2]), class_weight={0: 2.0, 2: 0.5})
    assert data.weight.tolist() == [2.0, 1.0, 0.5, 2.0, 1.0, 0.5]
    one_hot = np.eye(3, dtype="float32")[[0, 1, 2, 0, 1, 2]]
    assert as_examples(X, one_hot, class_weight={1: 3.0}).weight.tolist() == [1.0, 3.0, 1.0, 1.0, 3.0, 1.0]


def test_class_weight_mistakes():
    with refuses(
        ValueError,
        "The keys of `class_weight` must be classes of the labels, from 0 to 5, got 7; remove it.",
    ):
        as_examples(X, Y, class_weight={7: 1.0})
    with refuses(
        ValueError,
        "Examples are weighted by `class_weight` or by `sample_weight`, got both; combine them into one.",
    ):
        as_examples(X, Y, np.ones(6), {0: 1.0})
    with refuses(ValueError, "`class_weight` needs one array of labels, got 2; use `sample_weight` instead."):
        as_examples(X, [Y, Y], class_weight={0: 1.0})
    for factor in (float("nan"), "a", None):
        sentence = f"`class_weight` must hold a finite number for each class, got {factor!r} for class 0; give one."
        with refuses(ValueError, sentence):
            as_examples(X, Y, class_weight={0: factor})


def test_validation_split_takes_the_last_examples():
    train, validation = ArraySource(as_examples(X, Y)).split_off(0.34)
    assert train.example.y.tolist() == [0, 1, 2]
    assert validation.example.y.tolist() == [3, 4, 5]
    with refuses(ValueError, "`validation_split` must lie between 0 and 1, got 1.5; 0.2 takes the last fifth."):
        ArraySource(as_examples(X, Y)).split_off(1.5)
    with refuses(
        ValueError,
        "`validation_split` must leave at least one example on each side, got 0.99 for 6 examples; choose another "
        "fraction.",
    ):
        ArraySource(as_examples(X, Y)).split_off(0.99)


FREE, FIXED = (Sequential([Input((2,), batch_size=rows), layers.Dense(1)]) for rows in (None, 4))
BATCH_SIZES = {
    "given": (FIXED, 6, 3, 2, 3),
    "given and larger than the data": (FREE, 6, 7, None, 6),
    "prescribed by the model": (FIXED, 6, None, 2, 4),
    "prescribed by the model and larger than the data": (FIXED, 3, None, None, 3),
    "by the number of steps": (FREE, 5, None, 2, 3),
    "the default": (FREE, 40, None, None, 32),
    "the default and larger than the data": (FREE, 6, None, None, 6),
}


@pytest.mark.parametrize("case", BATCH_SIZES)
def test_the_batch_size_is_chosen(case):
    model, examples, given, steps, expected = BATCH_SIZES[case]
    x, y = np.zeros((examples, 2), "float32"), np.zeros((examples, 1), "float32")
    assert choose_batch_size(ArraySource(as_examples(x, y)), model, given, steps, "fit") == expected
    seen = []
    trainer = Trainer(model, "sgd", "mse")
    feed = trainer.session.feed
    trainer.session.feed = lambda source, rows, *args, **more: seen.append(rows) or feed(source, rows, *args, **more)
    trainer.fit(x, y, given, validation_data=(x, y), steps_per_epoch=steps, validation_steps=steps, verbose=0)
    trainer.evaluate(x, y, given, steps=steps)
    trainer.predict(x, given, steps=steps)
    assert seen == [expected] * 4


def test_the_batch_size_of_a_stream_is_its_own():
    source = StreamSource([(X[:4], Y[:4]), (X[4:], Y[4:])].__iter__())
    assert choose_batch_size(source, FREE, None, 9, "fit") == 4
    with refuses(ValueError, "A stream has its own batch_size, but fit got `batch_size` as well; leave it out."):
        choose_batch_size(source, FREE, 4, None, "fit")


def test_batch_size_is_checked():
    with refuses(ValueError, "`batch_size` must be a positive integer, got 0; 32 is a usual choice."):
        choose_batch_size(ArraySource(as_examples(X, Y)), FREE, 0, None, "fit")
    with refuses(ValueError, "`validation_batch_size` must be a positive integer, got 0; 32 is a usual choice."):
        Trainer(FREE, "sgd", "mse").fit(X, Y, validation_split=0.5, validation_batch_size=0, verbose=0)


def rows_of(feed, key=None):
    """Returns the labels of each step, as the compiled program gathers them."""
    found = []
    for chunk in feed.chunks(key=key):
        y = np.asarray(chunk.data.y)
        for rows in np.asarray(chunk.order)[: chunk.steps]:
            found.append([int(y[r]) for r in rows if r >= 0])
    return found


@pytest.mark.parametrize("batch_size", [1, 2, 4, 6, 10])
@pytest.mark.parametrize("shuffled", [False, True])
def test_streamed_data_gives_the_same_batches_as_resident_data(batch_size, shuffled):
    key = jax.random.key(5) if shuffled else None
    data = as_examples(X, Y)
    whole = rows_of(ArrayFeed(data, batch_size), key)
    assert sorted(sum(whole, [])) == list(range(6))
    for limit in (0, 30, 60):
        streamed = ArrayFeed(data, batch_size, limit_bytes=limit)
        assert streamed.on_device is None
        assert rows_of(streamed, key) == whole


def test_streamed_chunks_have_one_shape():
    feed = ArrayFeed(as_examples(X, Y), 2, limit_bytes=3 * 2 * 12 * 2)
    shapes = {jax.tree.map(np.shape, chunk.data) for chunk in feed.chunks()}
    assert len(shapes) == 1


@pytest.mark.parametrize(("n", "chunks", "length"), [(2, [1], 1), (5, [3], 8), (17, [8, 1], 8), (200, [64, 36], 64)])
def test_predictions_use_few_chunk_shapes(n, chunks, length):
    data = as_examples(np.zeros((n, 3), np.float32), np.arange(n))
    options = FeedOptions(resident=False)
    feed = ArrayFeed(data, 2, options, limit_bytes=1e9)
    assert feed.on_device is None and [chunk.steps for chunk in feed.chunks()] == chunks
    assert {len(chunk.order) for chunk in feed.chunks()} == {length}
    assert sum(rows_of(feed), []) == list(range(n))
    assert [chunk.steps for chunk in ArrayFeed(data, 2, options, limit_bytes=0).chunks()] == [1] * -(-n // 2)
