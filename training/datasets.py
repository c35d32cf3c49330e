"""Loads datasets: `load(name)` returns NumPy arrays for training and test, with a description.

The embedded datasets (`digits`, `digits_sequence`, `airline`) need neither network nor files. tensorflow-datasets
downloads, verifies and prepares the others, without TensorFlow. The arrays are then cached as one NumPy file.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flaxmodels.extras import require_extra
from flaxmodels.names import lookup

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Holds examples and their targets; `x, y = split` returns the inputs of a model and the targets.

    Stored inputs keep their dtype. Images stay uint8, so copying them to a device takes a quarter of the time. A model
    receives `float32(x) * float32(scale)`.

    Args:
        x: Inputs as stored.
        y: Targets: int32 classes, or float32 values.
        scale: Factor from stored inputs to model inputs.
        num_classes: Number of classes, or None if the targets are values.

    Shapes: x [N, ...], y [N] for classes, [N, horizon] for forecasts.

    Raises:
        ValueError: If `x` and `y` differ in length.

    Example:
        >>> split = Split(np.array([[0], [255]], np.uint8), np.array([3, 4], np.int32), scale=1 / 255)
        >>> x, y = split
        >>> x.tolist(), y.tolist(), len(split), split[:1]
        ([[0.0], [1.0]], [3, 4], 2, Split(x=uint8[1, 1] * 0.00392157, y=int32[1]))
    """

    x: np.ndarray
    y: np.ndarray
    scale: float = 1.0
    num_classes: int | None = None

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(
                f"`x` and `y` must have one row per example, got {len(self.x)} and {len(self.y)} rows; "
                "remove the rows without a counterpart."
            )

    def __len__(self) -> int:
        return len(self.y)

    def __iter__(self) -> Iterator[np.ndarray]:
        x = self.x.astype(np.float32, copy=False)
        yield x if self.scale == 1 else x * np.float32(self.scale)
        yield self.y

    def __getitem__(self, index: slice | np.ndarray) -> "Split":
        """Returns a split with the selected examples; the index is a slice, such as `split[:1000]`, or an array."""
        if isinstance(index, int | np.integer):
            raise TypeError(
                f"A Split must be indexed by a slice or an array, which keep the axis of examples, got {index}; "
                f"write [{index}:{index + 1}]."
            )
        return dataclasses.replace(self, x=self.x[index], y=self.y[index])

    def __repr__(self) -> str:
        scale = "" if self.scale == 1 else f" * {self.scale:.6g}"
        return f"Split(x={self.x.dtype}{[*self.x.shape]}{scale}, y={self.y.dtype}{[*self.y.shape]})"


@dataclasses.dataclass(frozen=True)
class Info:
    """Describes a dataset.

    Args:
        name: Name that `load` takes.
        description: One or two sentences.
        task: "classification" or "forecasting".
        input_shape: Shape of one example.
        source: Origin of the data.
        licence: Terms of the data.
        num_classes: Number of classes, or None for forecasting.
        class_names: One name per class, in the order of the labels.
        target_scale: Factor from targets to original units.
        target_offset: Added after the factor.
        unit: Original unit of the targets.
    """

    name: str
    description: str
    task: str
    input_shape: tuple[int, ...]
    source: str
    licence: str
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    target_scale: float = 1.0
    target_offset: float = 0.0
    unit: str = ""

    def restore(self, y: npt.ArrayLike) -> np.ndarray:
        """Returns targets or forecasts in original units, as float64: `y * target_scale + target_offset`."""
        return np.asarray(y, np.float64) * self.target_scale + self.target_offset


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Holds a training split, a test split and their description."""

    train: Split
    test: Split
    info: Info


def load(name: str, raw_dir: str | Path | None = None, cache_dir: str | Path | None = None) -> Dataset:
    """Returns the dataset of this name.

    Args:
        name: One of `names()`.
        raw_dir: Folder with the original files, which are read instead of a download unless the dataset is prepared
            already. Embedded datasets have no files.
        cache_dir: Folder for prepared datasets; by default $FLAXMODELS_CACHE, or `~/.cache/flaxmodels`.

    Raises:
        ValueError: If the name is unknown, `raw_dir` is given for an embedded dataset, or a file differs from the
            original.
        FileNotFoundError: If a file is missing in `raw_dir`.
        ConnectionError: If the dataset is neither prepared nor downloadable.
        ModuleNotFoundError: If a package of the extra `data` is not installed.

    Example:
        >>> data = load("digits")
        >>> data.train, data.info.input_shape
        (Split(x=uint8[1437, 8, 8, 1] * 0.0625, y=int32[1437]), (8, 8, 1))
    """
    make = lookup("dataset", name, DATASETS, "Or pass arrays: fit(x, y).")
    if name not in EMBEDDED:
        return make(raw_dir, cache_dir)
    if raw_dir is not None:
        raise ValueError(
            f"`raw_dir` must be None for {name!r}, which is embedded and has no files, got {str(raw_dir)!r}; remove it."
        )
    return make()


def names() -> list[str]:
    """Returns the names that `load` takes."""
    return sorted(DATASETS)


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


# ---- embedded datasets ----


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


# ---- datasets prepared by tensorflow-datasets (TFDS) ----


def mnist(raw_dir: str | Path | None = None, cache_dir: str | Path | None = None) -> Dataset:
    """Returns handwritten digits, [28, 28, 1]: 60000 for training, 10000 for test. Arguments as for `load`."""
    info = Info(
        name="mnist",
        description="Handwritten digits, 28 x 28 pixels of 256 grey levels.",
        task="classification",
        input_shape=(28, 28, 1),
        num_classes=10,
        class_names=tuple("0123456789"),
        source="Y. LeCun, C. Cortes, C. J. C. Burges: The MNIST database of handwritten digits, 1998.",
        licence="CC BY-SA 3.0",
    )
    return _load_prepared(info, raw_dir, cache_dir)


def fashion_mnist(raw_dir: str | Path | None = None, cache_dir: str | Path | None = None) -> Dataset:
    """Returns articles of clothing, [28, 28, 1]: 60000 for training, 10000 for test. Arguments as for `load`."""
    articles = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
    info = Info(
        name="fashion_mnist",
        description="Articles of clothing, 28 x 28 pixels of 256 grey levels.",
        task="classification",
        input_shape=(28, 28, 1),
        num_classes=10,
        class_names=tuple(articles.split(",")),
        source="H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST, arXiv:1708.07747, 2017.",
        licence="MIT",
    )
    return _load_prepared(info, raw_dir, cache_dir)


_PREPARING = threading.Lock()
CONNECT_SECONDS = 5.0
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def _load_prepared(info: Info, raw_dir: str | Path | None, cache_dir: str | Path | None) -> Dataset:
    """Returns the cached arrays; if they are missing or damaged, reads the prepared dataset or prepares it.

    TFDS prepares `<cache_dir>/<name>/<version>-<checksum>/`, with a checksum of the checksums of the original files.
    The cache is `<version>-<checksum>.npz` next to that folder.
    """
    import tensorflow_datasets as tfds

    stock = tfds.builder_cls(info.name)
    originals = "".join(sorted(file.checksum for file in stock.url_infos.values()))
    checksum = hashlib.sha256(originals.encode()).hexdigest()[:16]
    root = Path(cache_dir or os.environ.get("FLAXMODELS_CACHE") or "~/.cache/flaxmodels").expanduser()
    prepared = root / info.name / f"{stock.VERSION}-{checksum}"
    cache = prepared.with_name(f"{prepared.name}.npz")
    arrays = _read_cache(cache)
    if arrays is None:
        with _quiet():
            arrays = _read_prepared(prepared) or _prepare(stock, prepared, raw_dir)
        _write_cache(cache, arrays)
    train, test = (
        Split(arrays[f"x_{part}"], arrays[f"y_{part}"], scale=1 / 255, num_classes=info.num_classes)
        for part in ("train", "test")
    )
    return Dataset(train, test, info)


def _read_cache(path: Path) -> dict[str, np.ndarray] | None:
    """Returns the arrays, or None if the file is missing or damaged; the file has a CRC-32 of each array."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            return {key: stored[key] for key in ARRAYS}
    except Exception:  # zipfile, zlib and NumPy raise a dozen types for damaged bytes
        return None


def _write_cache(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a temporary file and renames it, so that no reader sees a part of it."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_prepared(folder: Path) -> dict[str, np.ndarray] | None:
    """Returns the arrays of a prepared dataset in TFDS' order, or None if it is missing or damaged."""
    import tensorflow_datasets as tfds

    if not folder.exists():
        return None
    arrays = {}
    try:
        builder = tfds.builder_from_directory(folder)
        for part in ("train", "test"):
            source = builder.as_data_source(part)
            examples = source.__getitems__(range(len(source)))
            arrays[f"x_{part}"] = np.stack([example["image"] for example in examples])
            arrays[f"y_{part}"] = np.array([example["label"] for example in examples], np.int32)
    except Exception:  # readers raise various types for damaged files; the caller prepares the dataset again
        return None
    return arrays


def _prepare(
    stock: "type[tfds.core.DatasetBuilder]", folder: Path, raw_dir: str | Path | None
) -> dict[str, np.ndarray]:
    """Prepares a dataset, moves it to `folder` and returns its arrays.

    The work is done in a temporary folder: a failure leaves nothing behind, and several processes can prepare the same
    dataset at the same time.
    """
    import tensorflow_datasets as tfds

    files = {file.filename: url for url, file in stock.url_infos.items()}
    if raw_dir is None:
        _check_connection(stock.name, folder, files)
    else:
        raw_dir = Path(raw_dir).expanduser()
        missing = [name for name in files if not (raw_dir / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"`raw_dir` must contain the original files of {stock.name!r}, got {str(raw_dir)!r} without "
                f"{', '.join(missing)}; copy them there."
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="preparing-") as temporary:
        builder = _without_tensorflow(stock)(data_dir=temporary)
        config = tfds.download.DownloadConfig(manual_dir=raw_dir, force_checksums_validation=True)
        builder.download_and_prepare(download_config=config, file_format="array_record")
        arrays = _read_prepared(Path(builder.data_dir))
        if arrays is None:
            raise OSError(
                f"The prepared dataset {stock.name!r} in {str(folder.parent)!r} is not readable; check the disk, or "
                "give another `cache_dir`."
            )
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process was faster
            os.rename(builder.data_dir, folder)
    return arrays


def _check_connection(name: str, folder: Path, files: dict[str, str]) -> None:
    """Raises within seconds if there is no connection; TFDS would retry for minutes.

    The request runs in a thread, because the lookup of a host name has no timeout.
    """
    import requests

    url, failures = next(iter(files.values())), ["no answer"]

    def request() -> None:
        try:
            requests.head(url, timeout=CONNECT_SECONDS).close()
            failures.clear()
        except requests.RequestException as error:
            failures.append(type(error).__name__)

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS + 1)
    if failures:
        raise ConnectionError(
            f"The dataset {name!r} is not in {str(folder.parent)!r} and can't be downloaded, because {url} does not "
            f"respond ({failures[-1]}); connect to the network, or pass a folder with {', '.join(files)} as `raw_dir`."
        )


def _without_tensorflow(stock: "type[tfds.core.DatasetBuilder]") -> "type[tfds.core.DatasetBuilder]":
    """Returns TFDS' builder of an MNIST-like dataset, with replacements for the steps that need TensorFlow."""
    require_extra("PIL", f"The dataset {stock.name!r} needs")
    from PIL import Image

    class Builder(stock, skip_registration=True):  # type: ignore[call-arg]
        name = stock.name
        url_infos = stock.url_infos

        def _info(self) -> "tfds.core.DatasetInfo":
            info = super()._info()
            # TFDS has turned off its bucket, and the call would only leave a temporary folder behind.
            info.initialize_from_bucket = lambda: None
            return info

        def _log_download_bytes(self) -> None:
            pass  # TFDS prints here and below

        def _log_download_done(self) -> None:
            pass

        def _split_generators(
            self, dl_manager: "tfds.download.DownloadManager"
        ) -> dict[str, Iterator[tuple[int, dict[str, object]]]]:
            paths = {file.filename: _fetch(dl_manager, url, self.name) for url, file in self.url_infos.items()}
            return {
                part: self._generate_examples(
                    paths[f"{prefix}-images-idx3-ubyte.gz"], paths[f"{prefix}-labels-idx1-ubyte.gz"]
                )
                for part, prefix in (("train", "train"), ("test", "t10k"))
            }

        def _generate_examples(self, images: Path, labels: Path) -> Iterator[tuple[int, dict[str, object]]]:
            for i, (image, label) in enumerate(zip(read_idx(images), read_idx(labels), strict=True)):
                yield i, {"image": Image.fromarray(image), "label": int(label)}

    return Builder


def _fetch(dl_manager: "tfds.download.DownloadManager", url: str, name: str) -> Path:
    """Returns the path of a file from `raw_dir` or the network, after comparing its sha256 with the one in TFDS."""
    import requests
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    try:
        return dl_manager.download(url)
    except NonMatchingChecksumError as error:
        raise ValueError(
            f"{url.rpartition('/')[2]} must be the original file of {name!r}, got another sha256; download it again "
            f"from {url} (other datasets use the same file names)."
        ) from error
    except (requests.RequestException, DownloadError) as error:
        raise ConnectionError(
            f"The download of {url} for {name!r} failed ({type(error).__name__}: {error}); try again, or download the "
            "files by other means and pass their folder as `raw_dir`."
        ) from error


def read_idx(path: Path) -> np.ndarray:
    """Reads an array of bytes in MNIST's format: 3 bytes, a byte with the rank, 4 bytes per axis, and the data."""
    with gzip.open(path) as file:
        data = file.read()
    rank = data[3]
    shape = np.frombuffer(data, ">i4", count=rank, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides TFDS' progress bars and warnings. These settings are global, so one thread at a time may enter."""
    from tensorflow_datasets.core.utils import tqdm_utils

    logger = logging.getLogger("absl")
    with _PREPARING:
        level, bars = logger.level, tqdm_utils._active
        logger.setLevel(logging.ERROR)
        tqdm_utils.disable_progress_bar()
        try:
            yield
        finally:
            logger.setLevel(level)
            tqdm_utils.display_progress_bar(bars)


EMBEDDED: dict[str, Callable[[], Dataset]] = {
    "airline": airline,
    "digits": digits,
    "digits_sequence": digits_sequence,
}
DATASETS: dict[str, Callable[..., Dataset]] = {**EMBEDDED, "fashion_mnist": fashion_mnist, "mnist": mnist}
