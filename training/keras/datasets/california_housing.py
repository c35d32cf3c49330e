"""House prices in California."""

from training.keras.datasets.files import TrainAndTest, check_fraction, original, read_arrays, split_rows


def load_data(
    version: str = "large", path: str = "california_housing.npz", test_split: float = 0.2, seed: int = 113
) -> TrainAndTest:
    """Returns attributes of districts and the median prices of their houses for training and test.

    Args:
        version: "large" for 20640 districts, "small" for 600.
        path: The name of the file in `~/.keras/datasets`.
        test_split: The fraction for test.
        seed: The seed of the order.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: arrays [16512, 8] and [16512], [4128, 8] and [4128] for "large".

    Raises:
        ValueError: If the fraction is out of range, or the version is unknown.
        ConnectionError: If the file is not present and cannot be downloaded.

    References:
        Keras, `keras.datasets.california_housing.load_data`.
    """
    if version not in ("small", "large"):
        raise ValueError(f"`version` must be 'small' or 'large', got {version!r}; choose one.")
    check_fraction(test_split)
    arrays = read_arrays(original("california_housing", path))
    rows = slice(600 if version == "small" else None)
    return split_rows(arrays["x"][rows], arrays["y"][rows], test_split, seed)
