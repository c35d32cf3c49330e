"""Datasets that tensorflow-datasets (TFDS) downloads, verifies and prepares, without TensorFlow.

The arrays are then cached as one NumPy file.
"""

import contextlib
import gzip
import hashlib
import logging
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flaxmodels.extras import require_extra
from training.datasets.splits import Dataset, Info, Split

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


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
