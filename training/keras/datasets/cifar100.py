"""Small color images of 100 classes."""

from pathlib import Path

from training.keras.datasets.cifar import read_batch
from training.keras.datasets.files import TrainAndTest, original


def load_data(label_mode: str = "fine") -> TrainAndTest:
    """Returns the images and classes of CIFAR-100 for training and test.

    Args:
        label_mode: "fine" for 100 classes, "coarse" for 20.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: uint8 images [50000, 32, 32, 3] and [10000, 32, 32, 3], integers
        [50000, 1] and [10000, 1]; the channels are second if the program's data format is "channels_first".

    Raises:
        ValueError: If `label_mode` is unknown.
        ConnectionError: If the archive is not present and cannot be downloaded.

    References:
        Keras, `keras.datasets.cifar100.load_data`.
    """
    if label_mode not in ("fine", "coarse"):
        raise ValueError(f"`label_mode` must be 'fine' or 'coarse', got {label_mode!r}; choose one.")
    folder = Path(original("cifar100", "cifar-100-python-target", extract=True), "cifar-100-python")
    labels = f"{label_mode}_labels"
    return read_batch(folder / "train", labels), read_batch(folder / "test", labels)
