"""Handwritten digits."""

from training.keras.datasets.files import TrainAndTest, original, read_arrays


def load_data(path: str = "mnist.npz") -> TrainAndTest:
    """Returns the images and classes of handwritten digits for training and test.

    Args:
        path: The name of the file in `~/.keras/datasets`.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: uint8 arrays [60000, 28, 28] and [60000], [10000, 28, 28] and [10000].

    Raises:
        ConnectionError: If the file is not present and cannot be downloaded.

    References:
        Keras, `keras.datasets.mnist.load_data`.
    """
    arrays = read_arrays(original("mnist", path))
    return (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])
