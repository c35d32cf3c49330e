"""Windows of a time series, each with the values that follow it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training.datasets.splits import Dataset, Info, Split


def windows(
    series: npt.ArrayLike,
    length: int,
    horizon: int = 1,
    *,
    horizons: Sequence[int] | None = None,
    targets: int | Sequence[int] | None = None,
    stride: int = 1,
    sampling_rate: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a series into overlapping windows of `length` steps, each with values that follow it.

    The input of window n is `series[n * stride + sampling_rate * t]` for t = 0 to length - 1. Its targets are the
    values 1, 2, ..., `horizon` steps after the last input, or those in `horizons`.

    Args:
        series: Values in chronological order.
        length: Number of input steps.
        horizon: Number of steps to forecast.
        horizons: Which steps to forecast instead, counted from the last input, such as [1, 24].
        targets: The column to forecast, or several; by default all.
        stride: Steps from one window to the next.
        sampling_rate: Steps of the series from one input to the next.

    Shapes: series [T] -> x [N, length, 1], y [N, horizon]; series [T, F] -> x [N, length, F], y [N, horizon, F].
    With one column as `targets`, y is [N, horizon]; with several, y is [N, horizon, targets]. By default
    N = T - length - horizon + 1.

    Raises:
        ValueError: If the series has the wrong rank or is too short, a number of steps is not positive, or a target
            is not a column.

    Example:
        >>> x, y = windows([1, 2, 3, 4], length=2)
        >>> x[..., 0].tolist(), y.tolist()
        ([[1, 2], [2, 3]], [[3], [4]])
        >>> x, y = windows([1, 2, 3, 4, 5, 6], length=2, horizons=[1, 3], sampling_rate=2)
        >>> x[..., 0].tolist(), y.tolist()
        ([[1, 3]], [[4, 6]])
    """
    series = np.asarray(series)
    if series.ndim not in (1, 2):
        raise ValueError(f"`series` must have shape [T] or [T, F], got {[*series.shape]}; pass one series at a time.")
    ahead = _steps_ahead(horizon, horizons)
    for name, value in (("length", length), ("stride", stride), ("sampling_rate", sampling_rate)):
        _check_steps(name, value)
    last = sampling_rate * (length - 1)
    needed = last + int(ahead.max()) + 1
    if len(series) < needed:
        raise ValueError(
            f"`series` must have at least {needed} steps for a window and its targets, got {len(series)}; give a "
            "longer series or shorter windows."
        )
    starts = np.arange(0, len(series) - needed + 1, stride)[:, None]
    inputs = series[starts + sampling_rate * np.arange(length)]
    values = _columns(series, targets)[starts + last + ahead]
    return (inputs[..., None] if series.ndim == 1 else inputs), values


def from_series(
    series: npt.ArrayLike,
    length: int,
    horizon: int = 1,
    *,
    test: float = 0.2,
    horizons: Sequence[int] | None = None,
    targets: int | Sequence[int] | None = None,
    stride: int = 1,
    sampling_rate: int = 1,
    name: str = "series",
) -> Dataset:
    """Returns windows of a series for training and test, split by time and standardized.

    The last part of the series is the test part. Every target of a test window is in it. No value of it is an input
    or a target in training. The inputs of the first test windows are the last values before it. Mean and standard
    deviation of each column are computed from the training part. `info.restore` converts forecasts to original units.

    Args:
        series: Values in chronological order, without missing values.
        length: Number of input steps.
        horizon: Number of steps to forecast.
        test: Fraction of the steps that is kept for the test.
        horizons: Which steps to forecast instead, counted from the last input.
        targets: The column to forecast, or several; by default all.
        stride: Steps from one window to the next.
        sampling_rate: Steps of the series from one input to the next.
        name: Name of the dataset.

    Shapes: as for `windows`.

    Raises:
        ValueError: If the series has missing values, a part of it is too short, or an argument is invalid.

    Example:
        >>> data = from_series(range(100), length=8, horizon=2)
        >>> data.train, data.test
        (Split(x=float32[71, 8, 1], y=float32[71, 2]), Split(x=float32[19, 8, 1], y=float32[19, 2]))
        >>> data.info.restore(data.test.y[-1]).round(3).tolist()
        [98.0, 99.0]
    """
    values = np.asarray(series, np.float64)
    if values.ndim not in (1, 2):
        raise ValueError(f"`series` must have shape [T] or [T, F], got {[*values.shape]}; pass one series at a time.")
    if not np.isfinite(values).all():
        raise ValueError(
            f"`series` must hold finite numbers, got {int((~np.isfinite(values)).sum())} non-finite values; fill "
            "them, for example with numpy.interp."
        )
    if not 0 < test < 1:
        raise ValueError(f"`test` must be a fraction between 0 and 1, got {test}; 0.2 is a usual choice.")
    begin = len(values) - round(test * len(values))
    mean, deviation = values[:begin].mean(axis=0), values[:begin].std(axis=0)
    deviation = np.where(deviation == 0, 1.0, deviation)
    standardized = ((values - mean) / deviation).astype(np.float32)
    # The first target of a test window is the first step of the test part. A training part that is shorter than this
    # context has no window, so that `windows` raises first.
    context = sampling_rate * (length - 1) + int(_steps_ahead(horizon, horizons).min())
    parts = (standardized[:begin], standardized[begin - context :])
    train, test_windows = (
        windows(part, length, horizon, horizons=horizons, targets=targets, stride=stride, sampling_rate=sampling_rate)
        for part in parts
    )
    scale, offset = (_columns(np.atleast_2d(v), targets)[0] for v in (deviation, mean))
    info = Info(
        name=name,
        description=f"Windows of {length} steps of a series, and the values that follow.",
        task="forecasting",
        input_shape=train[0].shape[1:],
        source="The user's series.",
        licence="Not stated.",
        target_scale=_plain(scale),
        target_offset=_plain(offset),
    )
    return Dataset(Split(*train), Split(*test_windows), info)


def _plain(values: np.ndarray) -> float | tuple[float, ...]:
    return float(values.reshape(-1)[0]) if values.size == 1 else tuple(map(float, values))


def _steps_ahead(horizon: int, horizons: Sequence[int] | None) -> np.ndarray:
    """Returns how many steps after the last input the targets are."""
    if horizons is None:
        _check_steps("horizon", horizon)
        return np.arange(1, horizon + 1)
    if horizon != 1:
        raise ValueError(
            f"The steps to forecast are given by `horizon` or by `horizons`, got {horizon} and {[*horizons]}; leave "
            "one of them out."
        )
    if not len(horizons):
        raise ValueError("`horizons` must name at least one step, got none; write, for example, horizons=[1, 24].")
    for step in horizons:
        _check_steps("horizons", step)
    return np.asarray(horizons)


def _check_steps(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be a positive number of steps, got {value!r}; give 1 or more.")


def _columns(series: np.ndarray, targets: int | Sequence[int] | None) -> np.ndarray:
    """Returns the columns to forecast: all, one without an axis of columns, or several."""
    if targets is None:
        return series
    if series.ndim == 1:
        raise ValueError(f"`targets` names columns of a series [T, F], got {targets!r} for [T]; leave it out.")
    names = [targets] if isinstance(targets, int | np.integer) else list(targets)
    for column in names:
        if not isinstance(column, int | np.integer) or not -series.shape[1] <= column < series.shape[1]:
            raise ValueError(
                f"`targets` must name columns from 0 to {series.shape[1] - 1}, got {column!r}; give their indices."
            )
    return series[:, targets] if isinstance(targets, int | np.integer) else series[:, names]
