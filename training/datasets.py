"""Names to data: `load(name)` returns NumPy arrays for training and test, and what is known about them.

The embedded sets (`digits`, `digits_sequence`, `airline`) need neither network nor files. The others are
downloaded, checked and prepared by tensorflow-datasets, without TensorFlow, and then kept as one NumPy file.
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
from typing import Any

import numpy as np

from flaxmodels.extras import require_extra
from flaxmodels.names import lookup


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Examples and their targets; `x, y = split` gives what a model is fed.

    The stored inputs keep their type (images stay uint8), so that a set moves to a device at a quarter of the
    size; a model sees `float32(x) * float32(scale)`.

    Args:
        x: Inputs as stored.
        y: Targets: int32 classes, or float32 values.
        scale: Factor from stored inputs to what the model sees.
        num_classes: Number of classes, or None where the targets are values.

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
                f"`x` and `y` must hold one row per example, {len(self.x)} and {len(self.y)} rows came; "
                "leave out the rows without a partner."
            )

    def __len__(self) -> int:
        return len(self.y)

    def __iter__(self) -> Iterator[np.ndarray]:
        x = self.x.astype(np.float32, copy=False)
        yield x if self.scale == 1 else x * np.float32(self.scale)
        yield self.y

    def __getitem__(self, index: slice | np.ndarray) -> "Split":
        """Returns the chosen examples as a split of their own: `split[:1000]`, or an array of indices."""
        if isinstance(index, int | np.integer):
            raise TypeError(
                "A Split is indexed by a slice or an array, so that the axis of examples remains, "
                f"{index} came; write [{index}:{index + 1}]."
            )
        return dataclasses.replace(self, x=self.x[index], y=self.y[index])

    def __repr__(self) -> str:
        scale = "" if self.scale == 1 else f" * {self.scale:.6g}"
        return f"Split(x={self.x.dtype}{[*self.x.shape]}{scale}, y={self.y.dtype}{[*self.y.shape]})"


@dataclasses.dataclass(frozen=True)
class Info:
    """What is known about a set.

    Args:
        name: Name that `load` takes.
        description: One or two sentences for a person.
        task: "classification" or "forecasting".
        input_shape: Shape of one example.
        source: Where the data come from.
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

    def restore(self, y: Any) -> np.ndarray:
        """Returns targets or forecasts in original units, as float64: `y * target_scale + target_offset`."""
        return np.asarray(y, np.float64) * self.target_scale + self.target_offset


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A training split, a test split, and what is known about them."""

    train: Split
    test: Split
    info: Info


def load(name: str, raw_dir: str | Path | None = None, cache_dir: str | Path | None = None) -> Dataset:
    """Returns a set by name.

    Args:
        name: One of `names()`.
        raw_dir: Folder with the set's original files, read instead of a download as long as the set is not
            prepared. An embedded set takes none.
        cache_dir: Where a set is kept once prepared; None takes $FLAXMODELS_CACHE, or
            `~/.cache/flaxmodels`. Embedded sets keep nothing.

    Raises:
        ValueError: If the name is unknown, an embedded set is given `raw_dir`, or a file is not the original.
        FileNotFoundError: If `raw_dir` lacks a file.
        ConnectionError: If the set is not prepared and cannot be downloaded.

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
            f"Dataset {name!r} is embedded and reads no files, raw_dir={str(raw_dir)!r} came; leave it out."
        )
    return make()


def names() -> list[str]:
    """Returns the names that `load` takes."""
    return sorted(DATASETS)


def windows(series: Any, length: int, horizon: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a series into every run of `length` steps and the `horizon` steps that follow it.

    Args:
        series: Values in order of time.
        length: Steps that a model sees.
        horizon: Steps that it forecasts.

    Shapes: series [T] -> x [N, length, 1], y [N, horizon], with N = T - length - horizon + 1;
    series [T, F] -> x [N, length, F], y [N, horizon, F].

    Raises:
        ValueError: If the series has another rank or is too short, or a length is not positive.

    Example:
        >>> x, y = windows([1, 2, 3, 4], length=2)
        >>> x[..., 0].tolist(), y.tolist()
        ([[1, 2], [2, 3]], [[3], [4]])
    """
    series = np.asarray(series)
    if series.ndim not in (1, 2):
        raise ValueError(f"`series` must have shape [T] or [T, F], {[*series.shape]} came; cut one series at a time.")
    if length < 1 or horizon < 1:
        raise ValueError(
            f"`length` and `horizon` must be at least 1, {length} and {horizon} came; give numbers of steps."
        )
    count = len(series) - length - horizon + 1
    if count < 1:
        raise ValueError(
            f"`series` must have at least length + horizon = {length + horizon} steps, {len(series)} came; "
            "give a longer series or shorter windows."
        )
    start = np.arange(count)[:, None]
    x, y = series[start + np.arange(length)], series[start + length + np.arange(horizon)]
    return (x[..., None] if series.ndim == 1 else x), y


# ---- embedded sets ----


def digits() -> Dataset:
    """Handwritten digits as images [8, 8, 1] of 17 grey levels: 1437 for training, 360 for test.

    The split is fixed: the images are sorted by class, shuffled within it (NumPy's `RandomState(0)`, whose
    numbers never change), and every fifth is for test, so the classes' shares agree to within one image. Both
    splits keep the original order. The same writers are in both: on unseen ones expect a lower accuracy.
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
        "Repository, 1998; its 1797 test images, as scikit-learn has them.",
        licence="CC BY 4.0",
    )
    return Dataset(
        Split(x[~is_test], y[~is_test], scale=1 / 16, num_classes=10),
        Split(x[is_test], y[is_test], scale=1 / 16, num_classes=10),
        info,
    )


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Rows of 64 grey levels and their classes; read from scikit-learn's file, because importing it takes a second."""
    found = importlib.util.find_spec("sklearn")
    for folder in (found.submodule_search_locations or []) if found else []:
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            with gzip.open(file, "rt") as lines:
                table = np.loadtxt(lines, np.uint8, delimiter=",")
            return table[:, :-1], table[:, -1]
    require_extra("sklearn", "The dataset 'digits' needs")
    from sklearn.datasets import load_digits  # wherever another version has them

    images, labels = load_digits(return_X_y=True)
    return images, labels


def digits_sequence() -> Dataset:
    """The images and splits of `digits`, each image read as a sequence of 8 rows with 8 features: [8, 8]."""
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
    """Twelve months of airline passengers [12, 1] and the next one [1]: 108 windows to train on, 24 to test.

    The last two years are the test targets; the months before a target are known when it is forecast, so the
    first test windows reach back into 1958. Values are standardized with the mean and deviation of the years
    up to 1958; `info.restore` gives thousands of passengers.

    Example:
        The error of the last-value forecast, which a model has to beat, in thousands of passengers:

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


# ---- sets that tensorflow-datasets prepares ----


def mnist(raw_dir: str | Path | None = None, cache_dir: str | Path | None = None) -> Dataset:
    """Handwritten digits, [28, 28, 1]: 60000 for training, 10000 for test. Arguments as for `load`."""
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
    """Articles of clothing, [28, 28, 1]: 60000 for training, 10000 for test. Arguments as for `load`."""
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
    """Returns the cached arrays; where they are missing or damaged, reads the prepared set or prepares it.

    Layout: `<cache_dir>/<name>/<version>-<checksum>/` is what TFDS prepared, with a checksum of the original
    files' checksums; `<version>-<checksum>.npz` beside it is the cache.
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
    """Returns the arrays, or None if the file is missing or damaged: a CRC-32 in it covers each array."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            return {key: stored[key] for key in ARRAYS}
    except Exception:  # damaged bytes raise a dozen types, from zipfile, zlib and NumPy
        return None


def _write_cache(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes under a temporary name and renames, so that no reader ever sees half a file."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_prepared(folder: Path) -> dict[str, np.ndarray] | None:
    """Returns a prepared set's arrays in TFDS' order, or None if the set is missing or damaged."""
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
    except Exception:  # damaged files raise whatever their readers do; a set prepared anew replaces them
        return None
    return arrays


def _prepare(stock: Any, folder: Path, raw_dir: str | Path | None) -> dict[str, np.ndarray]:
    """Prepares a set, moves it to `folder` and returns its arrays.

    All work is done in a temporary folder, so that a failure leaves nothing behind, and processes that
    prepare the same set at the same time do not meet.
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
                f"raw_dir={str(raw_dir)!r} must hold the original files of {stock.name!r}, "
                f"{', '.join(missing)} missing; put them there."
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="preparing-") as temporary:
        builder = _without_tensorflow(stock)(data_dir=temporary)
        config = tfds.download.DownloadConfig(manual_dir=raw_dir, force_checksums_validation=True)
        builder.download_and_prepare(download_config=config, file_format="array_record")
        arrays = _read_prepared(Path(builder.data_dir))
        if arrays is None:
            raise OSError(
                f"The set {stock.name!r} must be readable once prepared, in {str(folder.parent)!r} it is "
                "not; check the disk, or give another cache_dir=."
            )
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process was first with the same set
            os.rename(builder.data_dir, folder)
    return arrays


def _check_connection(name: str, folder: Path, files: dict[str, str]) -> None:
    """Fails within seconds where TFDS would retry for minutes.

    The thread is there because looking up a host's name heeds no timeout.
    """
    import requests

    url, failures = next(iter(files.values())), ["no answer"]

    def ask() -> None:
        try:
            requests.head(url, timeout=CONNECT_SECONDS).close()
            failures.clear()
        except requests.RequestException as error:
            failures.append(type(error).__name__)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS + 1)
    if failures:
        raise ConnectionError(
            f"The set {name!r} must be downloaded once, as {str(folder.parent)!r} lacks it, but {url} does "
            f"not answer ({failures[-1]}); connect to the network, or pass as raw_dir= a folder with "
            f"{', '.join(files)}."
        )


def _without_tensorflow(stock: Any) -> Any:
    """Returns TFDS' builder of an MNIST-like set, the steps replaced for which it needs TensorFlow."""
    require_extra("PIL", f"The dataset {stock.name!r} needs")
    from PIL import Image

    class Builder(stock, skip_registration=True):  # type: ignore[call-arg]
        name = stock.name
        url_infos = stock.url_infos

        def _info(self) -> Any:
            info = super()._info()
            # It asks nobody, as TFDS has its bucket switched off, but leaves a temporary folder behind.
            info.initialize_from_bucket = lambda: None
            return info

        def _log_download_bytes(self) -> None:
            pass  # TFDS prints here, and below

        def _log_download_done(self) -> None:
            pass

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            paths = {file.filename: _fetch(dl_manager, url, self.name) for url, file in self.url_infos.items()}
            return {
                part: self._generate_examples(
                    paths[f"{prefix}-images-idx3-ubyte.gz"], paths[f"{prefix}-labels-idx1-ubyte.gz"]
                )
                for part, prefix in (("train", "train"), ("test", "t10k"))
            }

        def _generate_examples(self, images: Path, labels: Path) -> Iterator[tuple[int, dict[str, Any]]]:
            for i, (image, label) in enumerate(zip(_read_idx(images), _read_idx(labels), strict=True)):
                yield i, {"image": Image.fromarray(image), "label": int(label)}

    return Builder


def _fetch(dl_manager: Any, url: str, name: str) -> Path:
    """Returns the path of a file from `raw_dir` or the network, its sha256 compared with TFDS' own."""
    import requests
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    try:
        return dl_manager.download(url)
    except NonMatchingChecksumError as error:
        raise ValueError(
            f"A file of {name!r} must be the original, {url.rpartition('/')[2]} has another sha256; "
            f"fetch it again from {url} (other sets name their files alike)."
        ) from error
    except (requests.RequestException, DownloadError) as error:
        raise ConnectionError(
            f"The files of {name!r} must be downloaded once, {url} failed ({type(error).__name__}: {error}); "
            "try again, or fetch them by other means and pass their folder as raw_dir=."
        ) from error


def _read_idx(path: Path) -> np.ndarray:
    """Reads bytes from MNIST's format: 4 bytes of which the last is the rank, 4 bytes per axis, the data."""
    with gzip.open(path) as file:
        data = file.read()
    rank = data[3]
    shape = np.frombuffer(data, ">i4", count=rank, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS' progress bars and warnings from the terminal; they are global, so one thread at a time."""
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
