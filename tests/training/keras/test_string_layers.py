"""Layers that Keras computes with TensorFlow, compared with its recorded answers."""

import json
import pathlib

import numpy as np
import pytest

from tests.support.string_cases import CASES
from training import keras

ANSWERS = json.loads((pathlib.Path(__file__).parents[2] / "recorded" / "strings.json").read_text())


def adapted(kind, config, data):
    layer = getattr(keras.layers, kind)(**config)
    if data is not None:
        layer.adapt(np.array(data))
    return layer


@pytest.mark.parametrize(
    ("case", "answer"), [*zip(CASES, ANSWERS, strict=True)], ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_outputs_and_vocabulary(case, answer):
    kind, config, data, inputs = case
    layer = adapted(kind, config, data)
    outputs = np.asarray(layer(inputs))
    assert list(outputs.shape) == answer["shape"]
    if outputs.dtype.kind in "US":
        assert outputs.tolist() == answer["outputs"]
    else:
        np.testing.assert_allclose(outputs, np.array(answer["outputs"]), rtol=1e-6)
    if "vocabulary" in answer:
        assert layer.get_vocabulary() == answer["vocabulary"]
    described = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)["config"]))
    described.pop("name")
    assert described == answer["config"]


def test_a_configuration_makes_the_layer_again():
    layer = keras.layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=3)
    again = keras.layers.TextVectorization.from_config(layer.get_config())
    assert again(["b a c"]).tolist() == layer(["b a c"]).tolist() == [[3, 2, 1]]
