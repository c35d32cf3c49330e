"""Windows of a time series, each with the values that follow it."""

import numpy as np
import numpy.typing as npt


def windows(series: npt.ArrayLike, length: int, horizon: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a series into overlapping windows of `length` steps, each with the `horizon` steps that follow it.

    Args:
        series: Values in chronological order.
        length: Number of input steps.
        horizon: Number of steps to forecast.

    Shapes: series [T] -> x [N, length, 1], y [N, horizon], with N = T - length - horizon + 1;
    series [T, F] -> x [N, length, F], y [N, horizon, F].

    Raises:
        ValueError: If the series has the wrong rank or is too short, or a length is not positive.

    Example:
        >>> x, y = windows([1, 2, 3, 4], length=2)
        >>> x[..., 0].tolist(), y.tolist()
        ([[1, 2], [2, 3]], [[3], [4]])
    """
    series = np.asarray(series)
    if series.ndim not in (1, 2):
        raise ValueError(f"`series` must have shape [T] or [T, F], got {[*series.shape]}; pass one series at a time.")
    if length < 1 or horizon < 1:
        raise ValueError(
            f"`length` and `horizon` must be at least 1, got {length} and {horizon}; give numbers of steps."
        )
    count = len(series) - length - horizon + 1
    if count < 1:
        raise ValueError(
            f"`series` must have at least length + horizon = {length + horizon} steps, got {len(series)}; "
            "give a longer series or shorter windows."
        )
    start = np.arange(count)[:, None]
    x, y = series[start + np.arange(length)], series[start + length + np.arange(horizon)]
    return (x[..., None] if series.ndim == 1 else x), y
