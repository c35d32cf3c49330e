"""`keras.datasets` against Keras' own loaders, on small files of the same formats in one cache; without a network."""

import gzip
import hashlib
import inspect
import io
import json
import os
import pathlib
import pickle
import tarfile

import keras as theirs
import numpy as np
import pytest
from keras.src.utils import file_utils

from training import keras
from training.keras.datasets import files

RNG = np.random.default_rng(0)
ROWS = 20


def ragged(count):
    made = np.empty(count, object)
    for i in range(count):
        made[i] = RNG.integers(1, 30, RNG.integers(2, 9)).tolist()
    return made


def archive(path, folder, batches):
    """Writes pickles of CIFAR's format into a tar archive."""
    with tarfile.open(path, "w:gz") as out:
        for name, content in batches.items():
            data = pickle.dumps(content, protocol=4)
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))


def batch(rows, labels):
    data = RNG.integers(0, 256, (rows, 3072)).astype("uint8")
    return {b"data": data, **{key: RNG.integers(0, n, rows).tolist() for key, n in labels.items()}}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    """Fills a cache for both libraries; Keras' loaders use it instead of the user's, and without checksums."""
    patch = pytest.MonkeyPatch()
    root = tmp_path_factory.mktemp("keras")
    patch.setenv("KERAS_HOME", str(root))
    patch.setattr(file_utils.config, "keras_home", lambda: str(root))
    patch.setattr(file_utils, "validate_file", lambda *args, **kwargs: True)
    folder = root / "datasets"
    (folder / "fashion-mnist").mkdir(parents=True)
    images, labels = RNG.integers(0, 256, (ROWS, 28, 28)).astype("uint8"), RNG.integers(0, 10, ROWS).astype("uint8")
    np.savez(folder / "mnist.npz", x_train=images, y_train=labels, x_test=images[:5], y_test=labels[:5])
    for name, count in (("train", ROWS), ("t10k", 5)):
        for kind, rank, data in (("images-idx3", 3, images), ("labels-idx1", 1, labels)):
            sizes = np.array(data[:count].shape, ">i4").tobytes()
            content = bytes([0, 0, 8, rank]) + sizes + data[:count].tobytes()
            (folder / "fashion-mnist" / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    for name, columns in (("boston_housing", 13), ("california_housing", 8)):
        np.savez(folder / f"{name}.npz", x=RNG.normal(size=(700, columns)), y=RNG.normal(size=700))
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    archive(
        folder / "cifar-10-batches-py-target_archive",
        "cifar-10-batches-py",
        {name: batch(4, {b"labels": 10}) for name in names},
    )
    fine = {b"fine_labels": 100, b"coarse_labels": 20}
    archive(
        folder / "cifar-100-python-target_archive",
        "cifar-100-python",
        {"train": batch(6, fine), "test": batch(4, fine)},
    )
    np.savez(
        folder / "imdb.npz", x_train=ragged(ROWS), y_train=labels % 2, x_test=ragged(ROWS), y_test=labels[::-1] % 2
    )
    np.savez(folder / "reuters.npz", x=ragged(ROWS), y=labels)
    for name in ("imdb", "reuters"):
        (folder / f"{name}_word_index.json").write_text(json.dumps({"the": 1, "film": 2}))
    written = {
        "cifar10": "cifar-10-batches-py-target_archive",
        "cifar100": "cifar-100-python-target_archive",
        **{name: f"{name}.npz" for name in ("mnist", "boston_housing", "california_housing", "imdb", "reuters")},
        **{f"{name}_word_index": f"{name}_word_index.json" for name in ("imdb", "reuters")},
    }
    # The small files have other checksums than the originals.
    for name, file in written.items():
        checksum = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        patch.setitem(files.ORIGINALS, name, files.ORIGINALS[name]._replace(checksum=checksum))
    yield
    patch.undo()


def check_same(ours, expected):
    for mine, their in zip(ours, expected, strict=True):
        for a, b in zip(mine, their, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_array_equal(a, b)


CASES = [
    ("mnist", {}),
    ("fashion_mnist", {}),
    ("cifar100", {}),
    ("cifar100", {"label_mode": "coarse"}),
    ("boston_housing", {}),
    ("boston_housing", {"test_split": 0.33, "seed": 1}),
    ("california_housing", {}),
    ("california_housing", {"version": "small", "test_split": 0.0}),
    ("imdb", {}),
    ("imdb", {"num_words": 15, "skip_top": 5, "maxlen": 8, "seed": 3}),
    ("imdb", {"num_words": 15, "oov_char": None, "start_char": None, "index_from": 0}),
    ("imdb", {"start_char": None}),
    ("reuters", {}),
    ("reuters", {"num_words": 12, "skip_top": 4, "test_split": 0.4, "seed": 7}),
    ("reuters", {"oov_char": None, "start_char": None, "maxlen": 7, "num_words": 20}),
]


@pytest.mark.spread
@pytest.mark.parametrize(("name", "arguments"), CASES, ids=str)
def test_datasets_equal_those_of_keras(name, arguments):
    ours = getattr(keras.datasets, name).load_data(**arguments)
    check_same(ours, getattr(theirs.datasets, name).load_data(**arguments))


def test_cifar10_joins_its_batches():
    """Keras' loader takes only batches of 10000 images, so the expected arrays are read here."""
    (x_train, y_train), (x_test, y_test) = keras.datasets.cifar10.load_data()
    folder = pathlib.Path(os.environ["KERAS_HOME"], "datasets", "cifar-10-batches-py-target", "cifar-10-batches-py")
    contents = [pickle.loads((folder / f"data_batch_{i}").read_bytes(), encoding="bytes") for i in range(1, 6)]
    pixels = np.concatenate([content[b"data"] for content in contents])
    labels = np.concatenate([content[b"labels"] for content in contents])
    assert x_train.shape == (20, 32, 32, 3) and x_train.dtype == y_train.dtype == y_test.dtype == np.uint8
    assert y_train.shape == (20, 1) and x_test.shape == (4, 32, 32, 3) and y_test.shape == (4, 1)
    for row, column, color in ((0, 0, 0), (3, 7, 2), (31, 31, 1)):  # colors are planes of 32 x 32 in the files
        np.testing.assert_array_equal(x_train[:, row, column, color], pixels[:, color * 1024 + row * 32 + column])
    np.testing.assert_array_equal(y_train[:, 0], labels)


def test_channels_first():
    keras.config.set_image_data_format("channels_first")
    try:
        (x, _), _ = keras.datasets.cifar100.load_data()
    finally:
        keras.config.set_image_data_format("channels_last")
    assert x.shape == (6, 3, 32, 32)


def test_names_and_word_indices_equal_those_of_keras():
    for name in ("imdb", "reuters"):
        ours, expected = getattr(keras.datasets, name), getattr(theirs.datasets, name)
        assert ours.get_word_index() == expected.get_word_index()
    assert keras.datasets.reuters.get_label_names() == theirs.datasets.reuters.get_label_names()


def test_wrong_arguments_are_refused():
    sentences = {
        "`label_mode` must be 'fine' or 'coarse', got 'both'; choose one.": ("cifar100", {"label_mode": "both"}),
        "`version` must be 'small' or 'large', got 'tiny'; choose one.": ("california_housing", {"version": "tiny"}),
        "`test_split` must be at least 0 and less than 1, got 1; pass the fraction for test, such as 0.2.": (
            "boston_housing",
            {"test_split": 1},
        ),
        "`maxlen` must be larger than the shortest review, got 1; pass a larger one.": ("imdb", {"maxlen": 1}),
        "`maxlen` must be larger than the shortest newswire, got 1; pass a larger one.": ("reuters", {"maxlen": 1}),
        "load_data takes no argument 'words'; remove it.": ("imdb", {"words": 3}),
    }
    for sentence, (name, arguments) in sentences.items():
        with pytest.raises((ValueError, TypeError)) as caught:
            getattr(keras.datasets, name).load_data(**arguments)
        assert str(caught.value) == sentence


class Exploit:
    def __reduce__(self):
        return os.system, ("exit 3",)


def test_files_with_code_are_refused(tmp_path):
    evil = np.empty(1, object)
    evil[0] = Exploit()
    np.savez(tmp_path / "evil.npz", x=evil)
    (tmp_path / "evil.pickle").write_bytes(pickle.dumps(Exploit()))
    for read, path in ((files.read_arrays, "evil.npz"), (files.read_pickle, "evil.pickle")):
        with pytest.raises(pickle.UnpicklingError) as caught:
            read(tmp_path / path)
        sentence = str(caught.value).replace(os.name, "posix")
        assert (
            sentence
            == "A file of a dataset must contain only arrays, got posix.system; delete it and download it again."
        )


def test_originals_are_those_of_keras():
    for name, original in files.ORIGINALS.items():
        module = getattr(theirs.datasets, name.removesuffix("_word_index"))
        source = inspect.getsource(inspect.getmodule(module.load_data))
        assert original.origin.rpartition("/")[2] in source
    text = inspect.getsource(files)
    for name in ("mnist", "boston_housing", "california_housing", "cifar10", "cifar100", "imdb", "reuters"):
        source = inspect.getsource(inspect.getmodule(getattr(theirs.datasets, name).load_data))
        checksums = [
            word.strip('"(),') for word in source.replace("=", " ").split() if len(word.strip('"(),')) in (32, 64)
        ]
        assert [c for c in checksums if all(x in "0123456789abcdef" for x in c) and c not in text] == []
