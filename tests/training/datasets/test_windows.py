"""Windows of series: hand-computed examples."""

import re

import numpy as np
import pytest

from training.datasets import windows


def whole(sentence):
    return f"^{re.escape(sentence)}$"


def test_windows_match_hand_computed_examples():
    x, y = windows([1, 2, 3, 4, 5], length=2)
    np.testing.assert_array_equal(x, [[[1], [2]], [[2], [3]], [[3], [4]]])
    np.testing.assert_array_equal(y, [[3], [4], [5]])
    x, y = windows([1, 2, 3, 4, 5], length=2, horizon=2)
    np.testing.assert_array_equal(x, [[[1], [2]], [[2], [3]]])
    np.testing.assert_array_equal(y, [[3, 4], [4, 5]])


def test_windows_of_several_features():
    x, y = windows([[1, 10], [2, 20], [3, 30], [4, 40]], length=3)
    np.testing.assert_array_equal(x, [[[1, 10], [2, 20], [3, 30]]])
    np.testing.assert_array_equal(y, [[[4, 40]]])


def test_windows_keep_the_dtype():
    x, y = windows(np.arange(4, dtype=np.float32), 2)
    assert x.dtype == y.dtype == np.float32


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            (np.zeros((2, 3, 4)), 1),
            "`series` must have shape [T] or [T, F], got [2, 3, 4]; pass one series at a time.",
        ),
        (
            ([1, 2, 3], 0),
            "`length` and `horizon` must be at least 1, got 0 and 1; give numbers of steps.",
        ),
        (
            ([1, 2, 3], 2, -1),
            "`length` and `horizon` must be at least 1, got 2 and -1; give numbers of steps.",
        ),
        (
            ([1, 2, 3], 2, 2),
            "`series` must have at least length + horizon = 4 steps, got 3; give a longer series or shorter windows.",
        ),
    ],
)
def test_windows_errors(arguments, message):
    with pytest.raises(ValueError, match=whole(message)):
        windows(*arguments)
