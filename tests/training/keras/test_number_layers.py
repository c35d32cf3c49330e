"""Layers for numbers beside Keras: outputs, weights and configurations."""

import json

import jax
import keras as real
import numpy as np
import pytest

from tests.support.number_cases import CASES, TABLE, X, adapt_keras
from training import keras


def adapted(module, kind, config, data):
    layer = getattr(module.layers, kind)(**config)
    if data is not None and module is real:
        adapt_keras(layer, data)
    elif data is not None:
        layer.adapt(data)
    return layer


def described(module, layer):
    config = json.loads(json.dumps(module.saving.serialize_keras_object(layer)["config"]))
    config.pop("name")
    return config


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


@pytest.mark.parametrize("case", CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_layer_beside_keras(case):
    kind, config, data, inputs = case
    ours, theirs = adapted(keras, kind, config, data), adapted(real, kind, config, data)
    # Keras relies on promotions that the tests of this library forbid.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        expected = np.asarray(theirs(inputs))
    found = np.asarray(ours(inputs))
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(expected).max(initial=0))))
    assert [w.shape for w in ours.get_weights()] == [w.shape for w in theirs.get_weights()]
    for mine, wanted in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-6)
    assert rounded(described(keras, ours)) == rounded(described(real, theirs))


def test_count_weights():
    weights = np.array([[0.1, 0.2], [0.1, 0.1]], "float32")
    for module in (keras, real):
        layer = module.layers.CategoryEncoding(num_tokens=3, output_mode="count")
        counts = np.asarray(layer(np.array([[0, 1], [0, 0]]), count_weights=weights))
        np.testing.assert_allclose(counts, [[0.1, 0.2, 0], [0.2, 0, 0]], 1e-6)


def test_statistics_of_normalization():
    layer = keras.layers.Normalization()
    assert layer.mean is None
    layer.adapt(X)
    np.testing.assert_allclose(np.ravel(layer.mean), X.mean((0, 1)), 1e-5)
    np.testing.assert_allclose(np.ravel(layer.variance), X.var((0, 1)), 1e-5)
    layer.adapt(X + 1)
    np.testing.assert_allclose(np.ravel(layer.mean), X.mean((0, 1)) + 1, 1e-5)


def test_normalization_adapts_to_a_py_dataset():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return TABLE[4 * i : 4 * i + 4], np.zeros(4)

    layer = keras.layers.Normalization()
    layer.adapt(Batches())
    np.testing.assert_allclose(layer.get_weights()[0], TABLE.mean(0), 1e-5)


def test_files_in_both_directions(tmp_path):
    """The statistics and bins are in the files of both libraries."""
    for writer, reader in ((keras, real), (real, keras)):
        normalization = adapted(writer, "Normalization", {}, TABLE)
        discretization = adapted(writer, "Discretization", {"num_bins": 4}, TABLE)
        inputs = writer.Input((3,))
        model = writer.Model(inputs, [normalization(inputs), discretization(inputs)])
        model.save(tmp_path / "data.keras")
        again = reader.models.load_model(tmp_path / "data.keras")
        for found, expected in zip(again.predict(TABLE, verbose=0), model.predict(TABLE, verbose=0), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_normalization_inside_a_model_does_not_train():
    layer = keras.layers.Normalization()
    layer.adapt(TABLE)
    model = keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(TABLE, TABLE[:, :1], epochs=1, verbose=0)
    np.testing.assert_allclose(layer.get_weights()[0], TABLE.mean(0), 1e-5)
    assert len(model.trainable_weights) == 2
