"""Datasets: hand-computed examples, comparisons with their sources, preparation from small files or a local server."""

import collections
import functools
import gzip
import hashlib
import http.server
import logging
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from training import datasets
from training.datasets import Split, windows

REAL_DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"
FILES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def whole(sentence):
    return f"^{re.escape(sentence)}$"


# ---- Split ----


def test_split_yields_scaled_float32_and_keeps_the_stored_dtype():
    split = Split(np.array([[0, 128], [255, 51]], np.uint8), np.array([1, 0], np.int32), scale=1 / 255)
    x, y = split
    assert x.dtype == np.float32 and y.dtype == np.int32 and split.x.dtype == np.uint8
    np.testing.assert_allclose(x, [[0, 128 / 255], [1, 0.2]], rtol=1e-7)
    np.testing.assert_array_equal(y, [1, 0])
    assert len(split) == 2


def test_split_of_float64_yields_float32():
    x, _ = Split(np.array([0.5, 1.5]), np.array([0, 1]))
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, [0.5, 1.5])


def test_split_can_be_sliced_and_indexed():
    split = Split(np.arange(5, dtype=np.uint8), np.arange(5) * 10, scale=0.5, num_classes=50)
    part = split[1:3]
    assert (part.x.tolist(), part.y.tolist(), part.scale, part.num_classes) == ([1, 2], [10, 20], 0.5, 50)
    assert split[np.array([4, 0])].y.tolist() == [40, 0]
    assert split[split.y > 20].x.tolist() == [3, 4]


def test_split_refuses_a_single_index():
    message = "A Split must be indexed by a slice or an array, which keep the axis of examples, got 3; write [3:4]."
    with pytest.raises(TypeError, match=whole(message)):
        Split(np.zeros(5), np.zeros(5))[3]


def test_split_refuses_unequal_lengths():
    message = "`x` and `y` must have one row per example, got 3 and 2 rows; remove the rows without a counterpart."
    with pytest.raises(ValueError, match=whole(message)):
        Split(np.zeros((3, 2)), np.zeros(2))


# ---- windows ----


def test_windows_match_hand_computed_examples():
    x, y = windows([1, 2, 3, 4, 5], length=2)
    np.testing.assert_array_equal(x, [[[1], [2]], [[2], [3]], [[3], [4]]])
    np.testing.assert_array_equal(y, [[3], [4], [5]])
    x, y = windows([1, 2, 3, 4, 5], length=2, horizon=2)
    np.testing.assert_array_equal(x, [[[1], [2]], [[2], [3]]])
    np.testing.assert_array_equal(y, [[3, 4], [4, 5]])


def test_windows_of_several_features():
    x, y = windows([[1, 10], [2, 20], [3, 30], [4, 40]], length=3)
    np.testing.assert_array_equal(x, [[[1, 10], [2, 20], [3, 30]]])
    np.testing.assert_array_equal(y, [[[4, 40]]])


def test_windows_keep_the_dtype():
    x, y = windows(np.arange(4, dtype=np.float32), 2)
    assert x.dtype == y.dtype == np.float32


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            (np.zeros((2, 3, 4)), 1),
            "`series` must have shape [T] or [T, F], got [2, 3, 4]; pass one series at a time.",
        ),
        (
            ([1, 2, 3], 0),
            "`length` and `horizon` must be at least 1, got 0 and 1; give numbers of steps.",
        ),
        (
            ([1, 2, 3], 2, -1),
            "`length` and `horizon` must be at least 1, got 2 and -1; give numbers of steps.",
        ),
        (
            ([1, 2, 3], 2, 2),
            "`series` must have at least length + horizon = 4 steps, got 3; give a longer series or shorter windows.",
        ),
    ],
)
def test_windows_errors(arguments, message):
    with pytest.raises(ValueError, match=whole(message)):
        windows(*arguments)


# ---- embedded datasets ----


def pairs(x, y):
    """Returns the examples as a multiset, which ignores their order."""
    return collections.Counter(zip((row.tobytes() for row in np.ascontiguousarray(x)), y.tolist(), strict=True))


def test_digits_are_all_of_scikit_learn_split_evenly():
    from sklearn.datasets import load_digits

    data = datasets.load("digits")
    images, labels = load_digits(return_X_y=True)
    assert data.train.x.shape == (1437, 8, 8, 1) and data.test.x.shape == (360, 8, 8, 1)
    assert data.train.x.dtype == np.uint8 and data.train.y.dtype == data.test.y.dtype == np.int32
    x, y = (np.concatenate(both) for both in ((data.train.x, data.test.x), (data.train.y, data.test.y)))
    assert pairs(x, y) == pairs(images.reshape(-1, 8, 8, 1).astype(np.uint8), labels)
    counts = np.bincount(data.test.y, minlength=10)
    assert np.abs(counts - np.bincount(labels) / 5).max() < 1
    fed, _ = data.train
    assert fed.min() == 0 and fed.max() == 1
    assert data.info.num_classes == data.train.num_classes == 10
    assert data.info.class_names == tuple("0123456789") and data.info.input_shape == (8, 8, 1)


def test_digits_are_loaded_by_scikit_learn_if_its_file_is_missing(monkeypatch):
    data = datasets.load("digits")
    without_files = types.SimpleNamespace(submodule_search_locations=[])
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: without_files)
    assert pairs(*datasets.load("digits").train[:]) == pairs(*data.train[:])


def test_digits_split_is_fixed():
    data = datasets.load("digits")
    assert (
        hashlib.sha256(data.test.x.tobytes() + data.test.y.tobytes()).hexdigest()
        == "f81863a0f8c8bccd1a1ae269b0408ef2c57385c19069577522d5701d7d51967a"
    )
    assert pairs(*data.test[:]) == pairs(*datasets.load("digits").test)


def test_digits_sequence_is_digits_by_rows():
    images, rows = datasets.load("digits"), datasets.load("digits_sequence")
    assert rows.train.x.shape == (1437, 8, 8) and rows.info.input_shape == (8, 8)
    assert rows.info.name == "digits_sequence"
    np.testing.assert_array_equal(rows.test.x, images.test.x[:, :, :, 0])
    np.testing.assert_array_equal(rows.train.y, images.train.y)
    assert rows.train.scale == images.train.scale == 1 / 16


def test_airline_matches_hand_computed_values():
    data = datasets.load("airline")
    train_x, train_y = data.train
    test_x, test_y = data.test
    assert train_x.shape == (108, 12, 1) and train_y.shape == (108, 1)
    assert test_x.shape == (24, 12, 1) and test_y.shape == (24, 1)
    assert train_x.dtype == train_y.dtype == np.float32
    year_1949 = [112, 118, 132, 129, 121, 135, 148, 148, 136, 119, 104, 118]
    years_1959_1960 = [360, 342, 406, 396, 420, 472, 548, 559, 463, 407, 362, 405]
    years_1959_1960 += [417, 391, 419, 461, 472, 535, 622, 606, 508, 461, 390, 432]
    restore = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    restore(data.info.restore(train_x[0, :, 0]), year_1949)
    restore(data.info.restore(train_y[0]), [115])
    restore(data.info.restore(train_y[-1]), [337])
    restore(data.info.restore(test_x[0, :, 0])[-2:], [310, 337])
    restore(data.info.restore(test_y[:, 0]), years_1959_1960)


def test_airline_is_scaled_by_the_training_years_only():
    info = datasets.load("airline").info
    known = datasets.AIRLINE_PASSENGERS[:120]
    assert info.target_offset == pytest.approx(statistics.fmean(known), rel=1e-12)
    assert info.target_scale == pytest.approx(statistics.pstdev(known), rel=1e-12)
    assert info.restore(0.0) == info.target_offset
    assert info.task == "forecasting" and info.num_classes is None and info.unit == "thousand passengers"


def test_airline_last_value_forecast_in_passengers():
    data = datasets.load("airline")
    x, y = data.test
    error = np.abs(data.info.restore(x[:, -1]) - data.info.restore(y)).mean()
    differences = [
        abs(b - a) for a, b in zip(datasets.AIRLINE_PASSENGERS[119:], datasets.AIRLINE_PASSENGERS[120:], strict=False)
    ]
    assert len(differences) == 24 and sum(differences) == 1061
    assert error == pytest.approx(1061 / 24, rel=1e-5)


def test_airline_equals_the_published_file():
    path = REAL_DATA / "forecasting" / "airline-passengers.csv"
    if not path.exists():
        pytest.skip("needs the published file of airline passengers")
    lines = path.read_text().split()[1:]
    assert datasets.AIRLINE_PASSENGERS == tuple(int(line.split(",")[1]) for line in lines)


# ---- load ----


def test_names():
    assert datasets.names() == ["airline", "digits", "digits_sequence", "fashion_mnist", "mnist"]


def test_unknown_name():
    message = (
        "Unknown dataset 'minst'. Did you mean 'mnist'? Known: 'airline', 'digits', 'digits_sequence', "
        "'fashion_mnist', 'mnist'. Or pass arrays: fit(x, y)."
    )
    with pytest.raises(ValueError, match=whole(message)):
        datasets.load("minst")


def test_embedded_set_refuses_files():
    message = "`raw_dir` must be None for 'digits', which is embedded and has no files, got 'files'; remove it."
    with pytest.raises(ValueError, match=whole(message)):
        datasets.load("digits", raw_dir="files")


def test_import_loads_nothing_heavy():
    code = (
        "import sys, training.datasets as d; d.load('airline');"
        "print({'tensorflow', 'tensorflow_datasets', 'sklearn', 'grain', 'PIL'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


# ---- datasets prepared by tensorflow-datasets ----


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Replaces the files of a dataset by four small ones in the original format; returns their folder and content."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.checksums import UrlInfo

    rng = np.random.default_rng(0)

    def make(name="mnist", address="http://127.0.0.1:9"):
        raw, arrays, infos = tmp_path / f"raw_{name}", {}, {}
        raw.mkdir(exist_ok=True)
        for file in FILES:
            n = 12 if file.startswith("train") else 5
            shape = (n, 28, 28) if "images" in file else (n,)
            arrays[file] = rng.integers(0, 256 if "images" in file else 10, shape, np.uint8)
            head = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
            data = gzip.compress(head + arrays[file].tobytes())
            (raw / file).write_bytes(data)
            checksum = hashlib.sha256(data).hexdigest()
            infos[f"{address}/{file}"] = UrlInfo(tfds.core.utils.Size(len(data)), checksum, file)
        monkeypatch.setattr(tfds.builder_cls(name), "url_infos", infos)
        return raw, arrays

    return make


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Serves tmp_path/raw_mnist on this machine and returns the address."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Handler, directory=tmp_path / "raw_mnist")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def assert_holds(data, arrays):
    for split, part in ((data.train, "train"), (data.test, "t10k")):
        images, labels = arrays[f"{part}-images-idx3-ubyte.gz"], arrays[f"{part}-labels-idx1-ubyte.gz"]
        assert split.x.shape == (*images.shape, 1) and split.x.dtype == np.uint8
        assert split.y.dtype == np.int32 and split.scale == 1 / 255 and split.num_classes == 10
        assert pairs(split.x, split.y) == pairs(images, labels)


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def only_cache(folder, name="mnist"):
    (cache,) = (folder / name).glob("*.npz")
    return cache


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_prepared_from_files(name, tiny, tmp_path, capfd, caplog):
    raw, arrays = tiny(name)
    with caplog.at_level(logging.WARNING):
        data = datasets.load(name, raw_dir=raw, cache_dir=tmp_path / "cache")
    assert_holds(data, arrays)
    assert data.info.name == name and data.info.input_shape == data.train.x.shape[1:]
    assert "tensorflow" not in sys.modules
    assert capfd.readouterr() == ("", "") and caplog.records == []
    cache = only_cache(tmp_path / "cache", name)
    folder = cache.with_suffix("")
    classes = ["label.labels.txt"] if name == "fashion_mnist" else []
    records = [f"{name}-{part}.array_record-00000-of-00001" for part in ("test", "train")]
    assert tree(folder) == sorted(["dataset_info.json", "features.json", *classes, *records])
    assert sorted(cache.parent.iterdir()) == [folder, cache]
    if classes:
        assert data.info.class_names == tuple((folder / "label.labels.txt").read_text().splitlines())


def test_second_load_reads_the_cache_alone(tiny, tmp_path, monkeypatch):
    raw, _ = tiny()
    first = datasets.load("mnist", raw, tmp_path / "cache")
    monkeypatch.setattr(datasets, "_read_prepared", None)
    monkeypatch.setattr(datasets, "_prepare", None)
    second = datasets.load("mnist", cache_dir=tmp_path / "cache")
    for a, b in ((first.train, second.train), (first.test, second.test)):
        np.testing.assert_array_equal(a.x, b.x)
        np.testing.assert_array_equal(a.y, b.y)


def test_cache_is_keyed_by_the_checksums(tiny, tmp_path):
    raw, old = tiny()
    datasets.load("mnist", raw, tmp_path / "cache")
    raw, new = tiny()
    assert_holds(datasets.load("mnist", raw, tmp_path / "cache"), new)
    names = sorted(path.name for path in (tmp_path / "cache" / "mnist").iterdir())
    assert len(names) == 4 and all(re.fullmatch(r"3\.0\.1-[0-9a-f]{16}(\.npz)?", name) for name in names)


def test_every_damaged_byte_of_the_cache_is_detected(tmp_path):
    arrays = {key: np.arange(4, dtype=np.uint8) + i for i, key in enumerate(datasets.ARRAYS)}
    path = tmp_path / "arrays.npz"
    datasets._write_cache(path, arrays)
    assert tree(tmp_path) == ["arrays.npz"]
    content, found = path.read_bytes(), 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        stored = datasets._read_cache(path)
        found += stored is None
        if stored is not None:  # a date, or another field that does not matter
            for key in datasets.ARRAYS:
                assert stored[key].dtype == np.uint8
                np.testing.assert_array_equal(stored[key], arrays[key])
    assert found > len(content) / 2
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert datasets._read_cache(path) is None


def test_damaged_cache_is_rebuilt_from_the_prepared_dataset(tiny, tmp_path):
    raw, arrays = tiny()
    datasets.load("mnist", raw, tmp_path / "cache")
    cache = only_cache(tmp_path / "cache")
    whole_file = cache.read_bytes()
    cache.write_bytes(whole_file[:-100])
    assert_holds(datasets.load("mnist", cache_dir=tmp_path / "cache"), arrays)
    assert datasets._read_cache(cache) is not None


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "no info", "bad info"])
def test_damaged_prepared_dataset_is_prepared_again(damage, tiny, tmp_path):
    raw, arrays = tiny()
    datasets.load("mnist", raw, tmp_path / "cache")
    only_cache(tmp_path / "cache").unlink()
    before = tree(tmp_path / "cache")
    (folder,) = (tmp_path / "cache" / "mnist").iterdir()
    record = next(folder.glob("*train.array_record*"))
    content = bytearray(record.read_bytes())
    if damage == "cut":
        record.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[200] ^= 0xFF
        record.write_bytes(content)
    elif damage == "gone":
        record.unlink()
    elif damage == "no info":
        (folder / "dataset_info.json").unlink()
    else:
        (folder / "features.json").write_text("{}")
    assert_holds(datasets.load("mnist", raw, tmp_path / "cache"), arrays)
    only_cache(tmp_path / "cache").unlink()
    assert tree(tmp_path / "cache") == before


def test_two_threads_prepare_one_dataset(tiny, tmp_path):
    from tensorflow_datasets.core.utils import tqdm_utils

    raw, arrays = tiny()
    before = tqdm_utils._active, logging.getLogger("absl").level
    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(datasets.load, "mnist", raw, tmp_path / "cache") for _ in range(2)]
    for load in loads:
        assert_holds(load.result(), arrays)
    assert len(list((tmp_path / "cache" / "mnist").iterdir())) == 2
    assert before == (tqdm_utils._active, logging.getLogger("absl").level)


@pytest.mark.parametrize("when", ["while preparing", "before the move"])
def test_another_process_is_faster(when, tiny, tmp_path, monkeypatch):
    raw, arrays = tiny()
    datasets.load("mnist", raw, tmp_path / "other")
    others = only_cache(tmp_path / "other").with_suffix("")
    folder = tmp_path / "cache" / "mnist" / others.name
    owner = (datasets, "_without_tensorflow") if when == "while preparing" else (os, "rename")
    original, finished = getattr(*owner), []

    def finish_first(*arguments):
        if when == "while preparing" or arguments[1] == folder:
            finished.append(shutil.copytree(others, folder))
        return original(*arguments)

    monkeypatch.setattr(*owner, finish_first)
    assert_holds(datasets.load("mnist", raw, tmp_path / "cache"), arrays)
    assert finished == [folder] and len(list(folder.parent.iterdir())) == 2
    only_cache(tmp_path / "cache").unlink()
    assert_holds(datasets.load("mnist", cache_dir=tmp_path / "cache"), arrays)


def test_prepared_dataset_that_is_not_readable(tiny, tmp_path, monkeypatch):
    raw, _ = tiny()
    monkeypatch.setattr(datasets, "_read_prepared", lambda folder: None)
    folder = tmp_path / "cache" / "mnist"
    message = (
        f"The prepared dataset 'mnist' in {str(folder)!r} is not readable; check the disk, or give another `cache_dir`."
    )
    with pytest.raises(OSError, match=whole(message)):
        datasets.load("mnist", raw, tmp_path / "cache")
    assert list(folder.iterdir()) == []


def test_unfinished_cache_file_is_removed(tmp_path, monkeypatch):
    def full(*arguments, **arrays):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="^No space left on device$"):
        datasets._write_cache(tmp_path / "arrays.npz", {})
    assert tree(tmp_path) == []


def test_cache_folder_by_environment_and_by_default(tiny, tmp_path, monkeypatch):
    raw, _ = tiny()
    monkeypatch.setenv("FLAXMODELS_CACHE", str(tmp_path / "named"))
    datasets.load("mnist", raw)
    assert only_cache(tmp_path / "named").exists()
    monkeypatch.delenv("FLAXMODELS_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    datasets.load("mnist", raw)
    assert only_cache(tmp_path / "home" / ".cache" / "flaxmodels").exists()


def test_missing_file(tiny, tmp_path):
    raw, _ = tiny()
    (raw / FILES[0]).unlink()
    message = (
        f"`raw_dir` must contain the original files of 'mnist', got {str(raw)!r} without train-images-idx3-ubyte.gz; "
        "copy them there."
    )
    with pytest.raises(FileNotFoundError, match=whole(message)):
        datasets.load("mnist", raw, tmp_path / "cache")
    assert tree(tmp_path / "cache") == []


def test_file_with_another_checksum(tiny, tmp_path, capfd):
    raw, _ = tiny()
    (raw / FILES[3]).write_bytes(gzip.compress(b"something else"))
    message = (
        "t10k-labels-idx1-ubyte.gz must be the original file of 'mnist', got another sha256; download it again from "
        "http://127.0.0.1:9/t10k-labels-idx1-ubyte.gz (other datasets use the same file names)."
    )
    with pytest.raises(ValueError, match=whole(message)):
        datasets.load("mnist", raw, tmp_path / "cache")
    assert tree(tmp_path / "cache") == [] and list((tmp_path / "cache" / "mnist").iterdir()) == []
    assert capfd.readouterr() == ("", "")


def no_answer(folder, address, reason):
    return (
        f"The dataset 'mnist' is not in {str(folder)!r} and can't be downloaded, because "
        f"{address}/train-images-idx3-ubyte.gz does not respond ({reason}); connect to the network, or pass a folder "
        f"with {', '.join(FILES)} as `raw_dir`."
    )


def test_no_network(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    tiny()
    message = no_answer(tmp_path / "cache" / "mnist", "http://127.0.0.1:9", "ConnectionError")
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=whole(message)):
        datasets.load("mnist", cache_dir=tmp_path / "cache")
    assert time.monotonic() - start < 10
    assert not (tmp_path / "cache").exists()


def test_name_server_that_does_not_respond(tiny, tmp_path, monkeypatch):
    import requests

    tiny()
    waiting = threading.Event()

    def head(url, timeout):
        waiting.wait(60)
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "head", head)
    monkeypatch.setattr(datasets, "CONNECT_SECONDS", 0.1)
    message = no_answer(tmp_path / "cache" / "mnist", "http://127.0.0.1:9", "no answer")
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=whole(message)):
        datasets.load("mnist", cache_dir=tmp_path / "cache")
    assert time.monotonic() - start < 10
    waiting.set()


def test_downloaded(tiny, serve, tmp_path, capfd):
    _, arrays = tiny(address=serve)
    assert_holds(datasets.load("mnist", cache_dir=tmp_path / "cache"), arrays)
    assert len(list((tmp_path / "cache" / "mnist").iterdir())) == 2
    assert capfd.readouterr() == ("", "")


def test_failed_download(tiny, serve, tmp_path):
    raw, _ = tiny(address=serve)
    (raw / FILES[2]).unlink()
    url = f"{serve}/{FILES[2]}"
    message = (
        f"The download of {url} for 'mnist' failed (DownloadError: Failed to get url {url}. HTTP code: 404.); try again, "
        "or download the files by other means and pass their folder as `raw_dir`."
    )
    with pytest.raises(ConnectionError, match=whole(message)):
        datasets.load("mnist", cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache" / "mnist").iterdir()) == []


def test_downloaded_file_with_another_checksum(tiny, serve, tmp_path):
    raw, _ = tiny(address=serve)
    (raw / FILES[0]).write_bytes(b"a login page")
    message = (
        f"{FILES[0]} must be the original file of 'mnist', got another sha256; download it again from "
        f"{serve}/{FILES[0]} (other datasets use the same file names)."
    )
    with pytest.raises(ValueError, match=whole(message)):
        datasets.load("mnist", cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache" / "mnist").iterdir()) == []


def test_mnist_from_the_original_files(tmp_path):
    raw = REAL_DATA / "mnist"
    if not raw.exists():
        pytest.skip("needs the original files of MNIST")
    data = datasets.load("mnist", raw, tmp_path)
    arrays = {}
    for file in FILES:
        content = gzip.decompress((raw / file).read_bytes())
        shape = (-1, 28, 28) if "images" in file else (-1,)
        arrays[file] = np.frombuffer(content, np.uint8, offset=16 if "images" in file else 8).reshape(shape)
    assert_holds(data, arrays)
    assert len(data.train) == 60000 and len(data.test) == 10000
    start = time.monotonic()
    again = datasets.load("mnist", cache_dir=tmp_path)
    assert time.monotonic() - start < 5
    np.testing.assert_array_equal(again.train.y, data.train.y)
