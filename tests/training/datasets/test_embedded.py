"""Embedded datasets: hand-computed examples and comparisons with their sources."""

import collections
import functools
import hashlib
import pathlib
import re
import statistics
import subprocess
import sys
import types

import numpy as np
import pytest

from training import datasets
from training.datasets import embedded

REAL_DATA = pathlib.Path(__file__).parents[4] / "shared" / "data"


def whole(sentence):
    return f"^{re.escape(sentence)}$"


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
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: without_files)
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
    known = embedded.AIRLINE_PASSENGERS[:120]
    assert info.target_offset == pytest.approx(statistics.fmean(known), rel=1e-12)
    assert info.target_scale == pytest.approx(statistics.pstdev(known), rel=1e-12)
    assert info.restore(0.0) == info.target_offset
    assert info.task == "forecasting" and info.num_classes is None and info.unit == "thousand passengers"


def test_airline_last_value_forecast_in_passengers():
    data = datasets.load("airline")
    x, y = data.test
    error = np.abs(data.info.restore(x[:, -1]) - data.info.restore(y)).mean()
    differences = [
        abs(b - a) for a, b in zip(embedded.AIRLINE_PASSENGERS[119:], embedded.AIRLINE_PASSENGERS[120:], strict=False)
    ]
    assert len(differences) == 24 and sum(differences) == 1061
    assert error == pytest.approx(1061 / 24, rel=1e-5)


def test_airline_equals_the_published_file():
    path = REAL_DATA / "forecasting" / "airline-passengers.csv"
    if not path.exists():
        pytest.skip("needs the published file of airline passengers")
    lines = path.read_text().split()[1:]
    assert embedded.AIRLINE_PASSENGERS == tuple(int(line.split(",")[1]) for line in lines)


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
