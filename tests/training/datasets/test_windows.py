"""Windows of series: hand-computed examples."""

import re

import numpy as np
import pytest

from training.datasets import from_series, windows


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
            "`length` must be a positive number of steps, got 0; give 1 or more.",
        ),
        (
            ([1, 2, 3], 2, -1),
            "`horizon` must be a positive number of steps, got -1; give 1 or more.",
        ),
        (
            ([1, 2, 3], 2, 2),
            "`series` must have at least 4 steps for a window and its targets, got 3; give a longer series or shorter windows.",
        ),
    ],
)
def test_windows_errors(arguments, message):
    with pytest.raises(ValueError, match=whole(message)):
        windows(*arguments)


def test_windows_of_chosen_steps_and_columns_equal_a_loop():
    series = np.arange(60).reshape(20, 3) ** 2
    for targets, columns in ((None, [0, 1, 2]), (1, 1), (-1, 2), ([2, 0], [2, 0])):
        x, y = windows(series, 3, horizons=[1, 4], targets=targets, stride=2, sampling_rate=2)
        starts = [start for start in range(0, 20, 2) if start + 2 * 2 + 4 < 20]
        np.testing.assert_array_equal(x, [[series[start + 2 * t] for t in range(3)] for start in starts])
        np.testing.assert_array_equal(y, [[series[start + 4 + ahead, columns] for ahead in (1, 4)] for start in starts])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"stride": 0}, "`stride` must be a positive number of steps, got 0; give 1 or more."),
        ({"sampling_rate": True}, "`sampling_rate` must be a positive number of steps, got True; give 1 or more."),
        ({"horizons": [1, 0]}, "`horizons` must be a positive number of steps, got 0; give 1 or more."),
        ({"horizons": []}, "`horizons` must name at least one step, got none; write, for example, horizons=[1, 24]."),
        (
            {"horizon": 2, "horizons": [1]},
            "The steps to forecast are given by `horizon` or by `horizons`, got 2 and [1]; leave one of them out.",
        ),
        ({"targets": 2}, "`targets` must name columns from 0 to 1, got 2; give their indices."),
        ({"targets": ["a"]}, "`targets` must name columns from 0 to 1, got 'a'; give their indices."),
    ],
)
def test_windows_refuse_arguments(arguments, message):
    with pytest.raises(ValueError, match=whole(message)):
        windows(np.zeros((9, 2)), 2, **arguments)


def test_windows_of_one_series_have_no_columns():
    message = "`targets` names columns of a series [T, F], got 0 for [T]; leave it out."
    with pytest.raises(ValueError, match=whole(message)):
        windows(np.zeros(9), 2, targets=0)


@pytest.mark.parametrize("arguments", [{}, {"horizons": [2, 5]}, {"stride": 3, "sampling_rate": 2}, {"targets": [1]}])
def test_no_value_of_the_test_part_is_known_in_training(arguments):
    rng = np.random.default_rng(0)
    series = rng.normal(size=(50, 2)) * [1, 100] + [0, 7]
    changed = series.copy()
    changed[40:] = rng.normal(size=(10, 2))
    first, second = from_series(series, 4, **arguments), from_series(changed, 4, **arguments)
    np.testing.assert_array_equal(first.train.x, second.train.x)
    np.testing.assert_array_equal(first.train.y, second.train.y)
    assert first.info.target_scale == second.info.target_scale
    # All targets of the test are among the last ten steps, and the first step of these is one of them.
    columns = arguments.get("targets", [0, 1])
    restored = first.info.restore(first.test.y)
    distance = np.abs(restored[:, :, None] - series[None, None, 40:, columns]).min(axis=2)
    np.testing.assert_allclose(distance, 0, atol=1e-4)
    np.testing.assert_allclose(restored[0, 0], series[40, columns], rtol=1e-4, atol=1e-5)
    known = series[:40]
    np.testing.assert_allclose(first.train.x[0, 0], (series[0] - known.mean(0)) / known.std(0), rtol=1e-5)


def test_series_restores_one_target():
    data = from_series(np.stack([np.arange(30), np.full(30, 5)], axis=1), 3, horizon=2, targets=0)
    assert data.train.y.shape == (20, 2) and data.test.y.shape == (5, 2)
    np.testing.assert_allclose(data.info.restore(data.test.y)[0], [24, 25], rtol=1e-6)
    assert np.isfinite(data.train.x).all()  # the constant column, too


@pytest.mark.parametrize(
    "series, arguments, message",
    [
        (
            [1.0, np.nan, 3.0],
            {},
            "`series` must hold finite numbers, got 1 non-finite values; fill them, for example with numpy.interp.",
        ),
        (np.zeros((2, 2, 2)), {}, "`series` must have shape [T] or [T, F], got [2, 2, 2]; pass one series at a time."),
        (np.zeros(9), {"test": 1}, "`test` must be a fraction between 0 and 1, got 1; 0.2 is a usual choice."),
    ],
)
def test_series_errors(series, arguments, message):
    with pytest.raises(ValueError, match=whole(message)):
        from_series(series, 2, **arguments)
