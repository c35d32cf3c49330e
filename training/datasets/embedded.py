"""Datasets that need neither network nor files of their own."""

import dataclasses
import gzip
import importlib.util
from pathlib import Path

import numpy as np

from flaxmodels.extras import require_extra
from training.datasets.splits import Dataset, Info, Split
from training.datasets.windows import windows


def digits() -> Dataset:
    """Returns handwritten digits as images [8, 8, 1] of 17 grey levels: 1437 for training, 360 for test.

    The split is fixed and stratified. The images are sorted by class and shuffled within each class by NumPy's
    `RandomState(0)`, whose numbers never change. Every fifth image belongs to the test split. Both splits keep the
    original order. Both contain the same writers, so expect a lower accuracy for other writers.
    """
    images, labels = _digits()
    x, y = images.reshape(-1, 8, 8, 1).astype(np.uint8), labels.astype(np.int32)
    shuffled = np.random.RandomState(0).permutation(len(y))
    is_test = np.zeros(len(y), bool)
    is_test[np.lexsort((shuffled, y))[::5]] = True
    info = Info(
        name="digits",
        description="Handwritten digits of 13 people, 8 x 8 pixels of 17 grey levels.",
        task="classification",
        input_shape=(8, 8, 1),
        num_classes=10,
        class_names=tuple("0123456789"),
        source="E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning "
        "Repository, 1998; its 1797 test images, as distributed with scikit-learn.",
        licence="CC BY 4.0",
    )
    return Dataset(
        Split(x[~is_test], y[~is_test], scale=1 / 16, num_classes=10),
        Split(x[is_test], y[is_test], scale=1 / 16, num_classes=10),
        info,
    )


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Reads rows of 64 grey levels and their classes without importing scikit-learn, which takes a second."""
    found = importlib.util.find_spec("sklearn")
    for folder in (found.submodule_search_locations or []) if found else []:
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            with gzip.open(file, "rt") as lines:
                table = np.loadtxt(lines, np.uint8, delimiter=",")
            return table[:, :-1], table[:, -1]
    require_extra("sklearn", "The dataset 'digits' needs")
    from sklearn.datasets import load_digits  # for scikit-learn versions that store the digits elsewhere

    images, labels = load_digits(return_X_y=True)
    return images, labels


def digits_sequence() -> Dataset:
    """Returns the images and splits of `digits`, each image as a sequence of 8 rows with 8 features: [8, 8]."""
    data = digits()
    train, test = (dataclasses.replace(split, x=split.x[..., 0]) for split in (data.train, data.test))
    info = dataclasses.replace(
        data.info,
        name="digits_sequence",
        description="Handwritten digits of 13 people, as sequences of 8 rows with 8 grey levels.",
        input_shape=(8, 8),
    )
    return Dataset(train, test, info)


# Thousands of passengers, one row per year from 1949, one column per month.
AIRLINE_PASSENGERS = (
    *(112, 118, 132, 129, 121, 135, 148, 148, 136, 119, 104, 118),
    *(115, 126, 141, 135, 125, 149, 170, 170, 158, 133, 114, 140),
    *(145, 150, 178, 163, 172, 178, 199, 199, 184, 162, 146, 166),
    *(171, 180, 193, 181, 183, 218, 230, 242, 209, 191, 172, 194),
    *(196, 196, 236, 235, 229, 243, 264, 272, 237, 211, 180, 201),
    *(204, 188, 235, 227, 234, 264, 302, 293, 259, 229, 203, 229),
    *(242, 233, 267, 269, 270, 315, 364, 347, 312, 274, 237, 278),
    *(284, 277, 317, 313, 318, 374, 413, 405, 355, 306, 271, 306),
    *(315, 301, 356, 348, 355, 422, 465, 467, 404, 347, 305, 336),
    *(340, 318, 362, 348, 363, 435, 491, 505, 404, 359, 310, 337),
    *(360, 342, 406, 396, 420, 472, 548, 559, 463, 407, 362, 405),
    *(417, 391, 419, 461, 472, 535, 622, 606, 508, 461, 390, 432),
)


def airline() -> Dataset:
    """Returns airline passengers of twelve months [12, 1] and of the next one [1]: 108 for training, 24 for test.

    The last two years are the test targets. The inputs of the first test windows are from 1958. Values are standardized
    with the mean and the standard deviation of the years up to 1958; `info.restore` converts them to thousands of
    passengers.

    Example:
        The error of a forecast that repeats the last value, in thousands of passengers:

        >>> data = airline()
        >>> x, y = data.test
        >>> error = data.info.restore(x[:, -1]) - data.info.restore(y)
        >>> print(f"{np.abs(error).mean():.1f}")
        44.2
    """
    length, test_months = 12, 24
    series = np.array(AIRLINE_PASSENGERS, np.float64)
    known = series[:-test_months]
    offset, scale = float(known.mean()), float(known.std())
    x, y = windows(((series - offset) / scale).astype(np.float32), length)
    info = Info(
        name="airline",
        description="Passengers of international airlines per month, 1949 to 1960: forecast the next month.",
        task="forecasting",
        input_shape=(length, 1),
        source="G. E. P. Box, G. M. Jenkins: Time Series Analysis: Forecasting and Control, 1970, series G.",
        licence="Not stated; published figures.",
        target_scale=scale,
        target_offset=offset,
        unit="thousand passengers",
    )
    return Dataset(Split(x[:-test_months], y[:-test_months]), Split(x[-test_months:], y[-test_months:]), info)
