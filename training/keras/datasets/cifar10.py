"""Small color images of 10 classes."""

from pathlib import Path

from training.keras.datasets.cifar import read_batches
from training.keras.datasets.files import TrainAndTest, original


def load_data() -> TrainAndTest:
    """Returns the images and classes of CIFAR-10 for training and test.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: uint8 arrays [50000, 32, 32, 3] and [50000, 1], [10000, 32, 32, 3] and
        [10000, 1]; the channels are second if the program's data format is "channels_first".

    Raises:
        ConnectionError: If the archive is not present and cannot be downloaded.

    References:
        Keras, `keras.datasets.cifar10.load_data`.
    """
    folder = Path(original("cifar10", "cifar-10-batches-py-target", extract=True), "cifar-10-batches-py")
    train = read_batches(folder, [f"data_batch_{i}" for i in range(1, 6)])
    return train, read_batches(folder, ["test_batch"])
