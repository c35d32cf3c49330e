"""Data sets in passes, and splits of them."""

import jax
import numpy as np
import pytest

from training import keras
from training.keras.utils.batches import Dataset


def numbers(n=7):
    return Dataset.from_tensor_slices(np.arange(n))


def values(dataset):
    return [np.asarray(element).tolist() for element in dataset]


def test_elements_are_changed_step_by_step():
    assert values(numbers(5).batch(2)) == [[0, 1], [2, 3], [4]]
    assert values(numbers(5).batch(2, drop_remainder=True)) == [[0, 1], [2, 3]]
    assert values(numbers(5).batch(2).unbatch()) == [0, 1, 2, 3, 4]
    assert values(numbers(5).take(2)) == [0, 1] and values(numbers(5).take(-1)) == [0, 1, 2, 3, 4]
    assert values(numbers(5).skip(3)) == [3, 4] and values(numbers(5).skip(-1)) == []
    assert values(numbers(2).repeat(2)) == [0, 1, 0, 1] and values(numbers(2).repeat().take(5)) == [0, 1, 0, 1, 0]
    for workers in (None, 1, 3, -1):
        assert values(numbers(9).map(lambda x: x * 2, num_parallel_calls=workers)) == list(range(0, 18, 2))
    pairs = Dataset.from_tensor_slices((np.arange(3), {"a": np.arange(3) * 10}))
    assert values(pairs.map(lambda x, y: jax.numpy.asarray(x + y["a"]))) == [0, 11, 22]
    assert isinstance(next(iter(pairs.map(lambda x, y: jax.numpy.asarray(x)))), np.ndarray)


def test_lengths():
    for dataset, length in (
        (numbers(5), 5), (numbers(5).batch(2), 3), (numbers(5).batch(2, True), 2), (numbers(5).take(9), 5),
        (numbers(5).skip(2), 3), (numbers(5).skip(9), 0), (numbers(5).repeat(3), 15), (numbers(5).repeat().take(4), 4),
        (numbers(5).map(abs).cache().prefetch(2).shuffle(3), 5),
    ):  # fmt: skip
        assert len(dataset) == dataset.cardinality() == dataset.num_batches == length == len(values(dataset))
    assert numbers(5).repeat().cardinality() == -1 and numbers(5).batch(2).unbatch().cardinality() == -2
    assert numbers(0) and numbers(5).repeat().num_batches is None
    with pytest.raises(TypeError) as caught:
        len(numbers(5).repeat())
    assert str(caught.value) == (
        "The length of this data set is unknown, because a step such as `unbatch` or `repeat` hides it; count the "
        "elements in a loop."
    )


def test_shuffling_has_an_order_for_each_pass():
    dataset = numbers(20).shuffle(20, seed=1)
    first, second = values(dataset), values(dataset)
    assert first != second and sorted(first) == sorted(second) == list(range(20))
    assert values(dataset(0)) == first and values(dataset(1)) == second
    fixed = numbers(20).shuffle(20, seed=1, reshuffle_each_iteration=False)
    assert values(fixed) == values(fixed)
    near = values(numbers(50).shuffle(3, seed=2))
    assert sorted(near) == list(range(50)) and all(x <= i + 2 for i, x in enumerate(near))


def test_a_cache_reads_once_and_only_if_the_pass_was_complete():
    read = []
    dataset = numbers(4).map(lambda x: read.append(int(x)) or x).cache()
    next(iter(dataset))
    assert values(dataset) == values(dataset) == [0, 1, 2, 3]
    assert read == [0, 0, 1, 2, 3]


def test_an_error_of_a_thread_reaches_the_reader():
    def fail(x):
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        values(numbers(3).map(fail, num_parallel_calls=2))


X, Y = np.arange(20).reshape(10, 2), np.arange(10)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (X, {"left_size": 0.8}),
        ((X, Y), {"right_size": 3}),
        ((X, Y), {"left_size": 2, "right_size": 5}),
        ([X, Y], {"left_size": 0.25, "shuffle": True, "seed": 4}),
    ],
)
def test_splits_by_hand(data, options):
    """Keras' own parts are data sets of TensorFlow."""
    for a, b in zip(keras.utils.split_dataset(data, **options), by_hand(data, **options), strict=True):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            jax.tree.map(np.testing.assert_array_equal, one, other)


def by_hand(data, left_size=None, right_size=None, shuffle=False, seed=None):
    import random

    rows = list(range(10))
    if shuffle:
        random.seed(seed)
        random.shuffle(rows)
    sizes = [round(10 * s) if isinstance(s, float) else s for s in (left_size, right_size)]
    left = 10 - sizes[1] if sizes[0] is None else sizes[0]
    right = 10 - left if sizes[1] is None else sizes[1]
    return [[jax.tree.map(lambda a, i=i: a[i], data) for i in part] for part in (rows[:left], rows[10 - right :])]


def test_splits_of_batches_are_batches():
    left, right = keras.utils.split_dataset(Dataset.from_tensor_slices((X, Y)).batch(4), left_size=6)
    assert [y.tolist() for _, y in left] == [[0, 1, 2, 3], [4, 5]] and [y.tolist() for _, y in right] == [[6, 7, 8, 9]]
    listed, _ = keras.utils.split_dataset(iter([np.ones(2), np.zeros(2)]), left_size=0.5)
    assert values(listed) == [[1, 1]]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: keras.utils.split_dataset(X),
            ValueError,
            "A split needs `left_size` or `right_size`, got None for both; pass one, such as 0.8.",
        ),
        (
            lambda: keras.utils.split_dataset(X, left_size=10),
            ValueError,
            "`left_size` must be an integer from 1 to 9, or a float between 0 and 1, got 10; correct it.",
        ),
        (
            lambda: keras.utils.split_dataset(X, right_size="1"),
            TypeError,
            "`right_size` must be an integer or a float, got str; convert it.",
        ),
        (
            lambda: keras.utils.split_dataset(X, 0.01),
            ValueError,
            "Both parts of 10 examples must hold at least one, got 0 on the left and 10 on the right; "
            "change `left_size` or `right_size`.",
        ),
        (lambda: keras.utils.split_dataset(3, 1), TypeError, "`dataset` must hold examples, got int; pass arrays or a data set."),
        (
            lambda: keras.utils.split_dataset(X, 1, preferred_backend="torch"),
            ValueError,
            "`preferred_backend` must be None or 'jax', got 'torch'; leave it out.",
        ),
        (
            lambda: keras.utils.split_dataset((X, Y[:3]), 1),
            ValueError,
            "The arrays of a data set must have the same length, got [3, 10]; cut the longer ones.",
        ),
        (
            lambda: numbers().map(abs, deterministic=False),
            ValueError,
            "`deterministic` must be True, got False: the elements keep their order; leave it out.",
        ),
        (lambda: numbers().shuffle(0), ValueError, "`buffer_size` must be a positive integer, got 0; choose another one."),
    ],
)  # fmt: skip
def test_mistakes(call, kind, message):
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == message
