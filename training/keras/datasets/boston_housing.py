"""House prices in Boston."""

from training.keras.datasets.files import TrainAndTest, check_fraction, original, read_arrays, split_rows


def load_data(path: str = "boston_housing.npz", test_split: float = 0.2, seed: int = 113) -> TrainAndTest:
    """Returns attributes and prices of houses for training and test.

    The attribute "B" encodes an assumption about race, so use this set only to discuss such data.

    Args:
        path: The name of the file in `~/.keras/datasets`.
        test_split: The fraction for test.
        seed: The seed of the order.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: float64 arrays [404, 13] and [404], [102, 13] and [102].

    Raises:
        ValueError: If the fraction is out of range.
        ConnectionError: If the file is not present and cannot be downloaded.

    References:
        Keras, `keras.datasets.boston_housing.load_data`.
    """
    check_fraction(test_split)
    arrays = read_arrays(original("boston_housing", path))
    return split_rows(arrays["x"], arrays["y"], test_split, seed)
