"""Articles of clothing."""

from pathlib import Path

from training.datasets.prepared import read_idx
from training.keras.datasets.files import STORAGE, TrainAndTest
from training.keras.utils.files import get_file

NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def load_data() -> TrainAndTest:
    """Returns the images and classes of clothing for training and test, from `~/.keras/datasets/fashion-mnist`.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: uint8 arrays [60000, 28, 28] and [60000], [10000, 28, 28] and [10000].

    Raises:
        ConnectionError: If a file is not present and cannot be downloaded.

    References:
        Keras, `keras.datasets.fashion_mnist.load_data`.
    """
    # Keras registers no checksums of these files.
    x_train, y_train, x_test, y_test = (
        read_idx(Path(get_file(name, STORAGE + name, cache_subdir="datasets/fashion-mnist"))) for name in NAMES
    )
    return (x_train, y_train), (x_test, y_test)
