"""Splits: hand-computed examples."""

import re

import numpy as np
import pytest

from training.datasets import Split


def whole(sentence):
    return f"^{re.escape(sentence)}$"


def test_split_yields_scaled_float32_and_keeps_the_stored_dtype():
    split = Split(np.array([[0, 128], [255, 51]], np.uint8), np.array([1, 0], np.int32), scale=1 / 255)
    x, y = split
    assert x.dtype == np.float32 and y.dtype == np.int32 and split.x.dtype == np.uint8
    np.testing.assert_allclose(x, [[0, 128 / 255], [1, 0.2]], rtol=1e-7)
    np.testing.assert_array_equal(y, [1, 0])
    assert len(split) == 2


def test_split_of_float64_yields_float32():
    x, _ = Split(np.array([0.5, 1.5]), np.array([0, 1]))
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, [0.5, 1.5])


def test_split_can_be_sliced_and_indexed():
    split = Split(np.arange(5, dtype=np.uint8), np.arange(5) * 10, scale=0.5, num_classes=50)
    part = split[1:3]
    assert (part.x.tolist(), part.y.tolist(), part.scale, part.num_classes) == ([1, 2], [10, 20], 0.5, 50)
    assert split[np.array([4, 0])].y.tolist() == [40, 0]
    assert split[split.y > 20].x.tolist() == [3, 4]


def test_split_refuses_a_single_index():
    message = "A Split must be indexed by a slice or an array, which keep the axis of examples, got 3; write [3:4]."
    with pytest.raises(TypeError, match=whole(message)):
        Split(np.zeros(5), np.zeros(5))[3]


def test_split_refuses_unequal_lengths():
    message = "`x` and `y` must have one row per example, got 3 and 2 rows; remove the rows without a counterpart."
    with pytest.raises(ValueError, match=whole(message)):
        Split(np.zeros((3, 2)), np.zeros(2))
