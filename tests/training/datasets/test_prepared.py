"""Datasets prepared by tensorflow-datasets from small files or a local server."""

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
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from training import datasets
from training.datasets import prepared

REAL_DATA = pathlib.Path(__file__).parents[4] / "shared" / "data"
FILES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def whole(sentence):
    return f"^{re.escape(sentence)}$"


def pairs(x, y):
    """Returns the examples as a multiset, which ignores their order."""
    return collections.Counter(zip((row.tobytes() for row in np.ascontiguousarray(x)), y.tolist(), strict=True))


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
    monkeypatch.setattr(prepared, "_read_prepared", None)
    monkeypatch.setattr(prepared, "_prepare", None)
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
    arrays = {key: np.arange(4, dtype=np.uint8) + i for i, key in enumerate(prepared.ARRAYS)}
    path = tmp_path / "arrays.npz"
    prepared._write_cache(path, arrays)
    assert tree(tmp_path) == ["arrays.npz"]
    content, found = path.read_bytes(), 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        stored = prepared._read_cache(path)
        found += stored is None
        if stored is not None:  # a date, or another field that does not matter
            for key in prepared.ARRAYS:
                assert stored[key].dtype == np.uint8
                np.testing.assert_array_equal(stored[key], arrays[key])
    assert found > len(content) / 2
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert prepared._read_cache(path) is None


def test_damaged_cache_is_rebuilt_from_the_prepared_dataset(tiny, tmp_path):
    raw, arrays = tiny()
    datasets.load("mnist", raw, tmp_path / "cache")
    cache = only_cache(tmp_path / "cache")
    whole_file = cache.read_bytes()
    cache.write_bytes(whole_file[:-100])
    assert_holds(datasets.load("mnist", cache_dir=tmp_path / "cache"), arrays)
    assert prepared._read_cache(cache) is not None


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
    owner = (prepared, "_without_tensorflow") if when == "while preparing" else (os, "rename")
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
    monkeypatch.setattr(prepared, "_read_prepared", lambda folder: None)
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
        prepared._write_cache(tmp_path / "arrays.npz", {})
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
    monkeypatch.setattr(prepared, "CONNECT_SECONDS", 0.1)
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
