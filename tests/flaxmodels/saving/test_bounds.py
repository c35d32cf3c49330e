"""Limits of model files: number of layers and calls, time to read, length of an error."""

import json
import re
import struct
import time
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import flaxmodels as fm
from flaxmodels import Input, Model, Sequential, interop, layers, saving
from flaxmodels.interop import keras_files
from flaxmodels.layers import symbolic
from flaxmodels.saving import bounds
from tests.flaxmodels.saving import test_model_file
from tests.support.layer_table import ROWS

KEY = jax.random.key(0)
TOO_MANY = (
    "it has more layers than a file of its size may have: 256 and one per 4096 bytes, where a large layer counts as up "
    "to 8 layers and a repeated layer as none"
)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Returns the arrays of a valid Keras file."""
    path = tmp_path_factory.mktemp("valid") / "model.keras"
    model = Sequential([Input((4,)), layers.Dense(4, name="dense")])
    fm.save(path, model, model.init(KEY, np.ones((1, 4), np.float32)))
    with zipfile.ZipFile(path) as archive:
        return archive.read(keras_files.WEIGHTS)


def in_keras(path, config, arrays):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(keras_files.CONFIG, json.dumps(config))
        archive.writestr(keras_files.WEIGHTS, arrays)


def in_ours(path, model):
    header = json.dumps({"__metadata__": {"flaxmodels": "1", "model": json.dumps(model)}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def refusal(path):
    """Returns the error of a refused file, and checks its length and the time it took."""
    started = time.process_time()
    with pytest.raises(ValueError) as caught:
        fm.load(path)
    # The promise is 2 s on a machine that does nothing else.
    assert time.process_time() - started < 8
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 7000
    return text


# ---------------------------------------------------------------- descriptions


def keras_layer(kind, name, **config):
    return {"module": "keras.layers", "class_name": kind, "config": {"name": name, **config}, "registered_name": None}


def keras_input(name, *shape):
    return keras_layer("InputLayer", name, batch_shape=[None, *shape], dtype="float32") | {
        "name": name,
        "inbound_nodes": [],
    }


def keras_stack(*inner, shape=(4,)):
    described = [keras_input("in", *shape), *inner]
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": described}}


def tensor(name, call=0):
    history = {"keras_history": [name, call, 0], "shape": [None, 4], "dtype": "float32"}
    return {"class_name": "__keras_tensor__", "config": history}


def called(layer, *calls):
    return layer | {
        "name": layer["config"]["name"],
        "inbound_nodes": [{"args": list(args), "kwargs": {}} for args in calls],
    }


def keras_graph(inner, output, inputs=("in",)):
    described = [*(keras_input(name, 4) for name in inputs), *inner]
    config = {"name": "f", "layers": described, "output_layers": output, "input_layers": [[n, 0, 0] for n in inputs]}
    return {"module": "keras.src.models.functional", "class_name": "Functional", "config": config}


N = 3000


def chained(count):
    """Returns a model that calls one layer repeatedly on its own output."""
    calls = [[tensor("in") if i == 0 else tensor("d", i - 1)] for i in range(count)]
    return keras_graph([called(keras_layer("Dense", "d", units=4), *calls)], ["d", count - 1, 0])


HOSTILE = {
    "one layer again and again": (
        lambda: keras_stack(*[keras_layer("Dense", "d", units=4)] * N),
        f"Layers of one model need different names, got 'd' {N} times; give each layer another `name`, or none",
    ),
    "other layers each time": (lambda: keras_stack(*(keras_layer("Dense", f"d{i}", units=1 + i) for i in range(N))), TOO_MANY),
    "other recurrent layers": (
        lambda: keras_stack(
            *(keras_layer("LSTM", f"d{i}", units=1 + i, return_sequences=True) for i in range(300)), shape=(3, 4)
        ),
        TOO_MANY,
    ),
    "other rates": (lambda: keras_stack(*(keras_layer("Dropout", f"d{i}", rate=i / 10**6) for i in range(N))), TOO_MANY),
    "calls without arguments": (
        lambda: keras_graph([called(keras_layer("Dense", "d", units=4), *[[]] * N)], ["d", 0, 0]),
        "Dense holds no parameters, so it cannot be called on an array directly",
    ),
    "more calls than allowed": (lambda: chained(6000), "it calls 6000 layers, but at most 5000 are allowed"),
    "one call of many inputs": (lambda: keras_graph([called(keras_layer("Add", "d"), [[tensor("in")] * 8000])], ["d", 0, 0]), TOO_MANY),
    "cells in cells": (
        lambda: keras_stack(
            keras_layer("RNN", "r", cell=[keras_layer("LSTMCell", f"c{i}", units=4) for i in range(300)]), shape=(3, 4)
        ),
        TOO_MANY,
    ),
    "long names": (
        lambda: keras_stack(keras_layer("Dense", "x" * 9000, units="y" * 9000)),
        "`units` of Dense 'xxx",
    ),
    "unknown arguments": (
        lambda: keras_stack(keras_layer("Dense", "d", units=1, **{f"argument{i}": 1 for i in range(N)})),
        "Dense in a model file has unknown arguments ['argument0', 'argument1',",
    ),
    "a long list for a number": (lambda: keras_stack(keras_layer("Dense", "d", units=[1] * 10**5)), "`units` of Dense 'd' must be a"),
    "unknown class": (lambda: keras_stack(keras_layer("D" * 9000, "d")), "Unknown layer 'DDD"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.spread
def test_hostile_keras_files_are_refused_quickly(case, arrays, tmp_path):
    make, reason = HOSTILE[case]
    in_keras(tmp_path / "m.keras", make(), arrays)
    text = refusal(tmp_path / "m.keras")
    assert text.startswith(f"{tmp_path / 'm.keras'} describes no model that can be built: {reason}")
    assert len(text) < 4100 + len(str(tmp_path))


@pytest.mark.parametrize(
    "make",
    [
        lambda: chained(N),
        lambda: keras_stack(*(keras_layer("Dense", f"d{i}", units=4) for i in range(1000))),
        lambda: keras_graph([called(keras_layer("Dense", "d", units=4), *[[tensor("in")]] * N)], ["d", 0, 0]),
        lambda: keras_graph([called(keras_layer("Dense", "d", units=4), [tensor("in")])], [["d", 0, 0]] * N),
    ],
    ids=["chained", "stacked", "loose calls", "outputs"],
)
@pytest.mark.spread
def test_repeated_work_costs_little(make, arrays, tmp_path):
    """The shapes of a repeated layer, call or output are inferred only once, so reading is fast."""
    in_keras(tmp_path / "m.keras", make(), arrays)
    started = time.process_time()
    try:
        fm.load(tmp_path / "m.keras")
    except ValueError as error:
        assert "contains weights that do not match its config" in str(error) and len(str(error)) < 7000
    assert time.process_time() - started < 8


def test_many_differences_are_counted(tmp_path):
    model = Sequential([Input((4,)), *(layers.Dense(4, name="n" * 2000 + str(i)) for i in range(20))])
    path = tmp_path / "m.safetensors"
    fm.save(path, model, {})
    text = refusal(path)
    assert text.startswith(f"The arrays in {path} do not fit the model: params/{'n' * 493} ...; ")
    assert text.endswith(" ...; and 30 more.")


def our_stack(*inner):
    source = {"shape": [None, 4], "dtype": "float32", "name": None}
    return {"class": "Sequential", "config": {}, "input": source, "layers": list(inner)}


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (our_stack(*({"class": "Dense", "config": {"units": 1 + i}, "name": f"d{i}"} for i in range(N))), TOO_MANY),
        (our_stack(*({"class": "Flatten", "config": {}, "name": f"d{i}"} for i in range(6000))),
         "it calls 6001 layers, but at most 5000 are allowed"),
        (our_stack({"class": "Dense", "config": {"units": "x" * 10**5}, "name": "d" * 10**5}), "`units` of Dense 'ddd"),
        (our_stack({"class": "Dense", "config": {"units": [1] * 10**5}, "name": "d"}), "`units` of Dense 'd' must be"),
    ],
    ids=["layers", "calls", "names", "lists"],
)  # fmt: skip
def test_hostile_model_files_are_refused_quickly(model, reason, tmp_path):
    in_ours(tmp_path / "m.safetensors", model)
    text = refusal(tmp_path / "m.safetensors")
    assert text.startswith(f"{tmp_path / 'm.safetensors'} describes no model that can be built: {reason}")
    assert len(text) < 4100 + len(str(tmp_path))


def test_deeply_nested_models_are_refused(arrays, tmp_path):
    """Each enclosing model repeats the shape inference of all models that it contains."""
    inner = keras_layer("Dense", "d", units=4)
    for i in range(14):
        inner = keras_stack(inner, *(keras_layer("Dense", f"d{j}", units=4) for j in range(30)))
        inner["config"]["name"] = f"s{i}"
    in_keras(tmp_path / "m.keras", inner, arrays)
    assert TOO_MANY in refusal(tmp_path / "m.keras")


# ---------------------------------------------------------------- files within the bounds


def test_deep_model_of_equal_layers_can_be_saved_and_loaded(tmp_path):
    model = Sequential([Input((4,)), *(layers.Dense(4) for _ in range(600))])
    variables = {"params": {name: {"kernel": jnp.zeros((4, 4)), "bias": jnp.zeros(4)} for name, _ in model.children()}}
    fm.save(tmp_path / "m.safetensors", model, variables)
    again, _ = fm.load(tmp_path / "m.safetensors")
    assert len(again.children()) == 600


def test_unreadable_model_is_not_written(tmp_path):
    """A model of many different layers with few values."""
    model = Sequential([Input((4,)), *(layers.Dropout(i / 10**6) for i in range(300))])
    sentence = (
        "The model cannot be saved with its architecture, because the file could not be read again: "
        f"{TOO_MANY}; save its weights alone."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        fm.save(tmp_path / "m.safetensors", model, {})
    assert not list(tmp_path.iterdir())
    fm.save(tmp_path / "m.safetensors", model, {}, architecture=False)
    wide = Sequential([*model.layers, layers.Dense(2**18)])
    fm.save(tmp_path / "m.safetensors", wide, wide.init(KEY, jnp.ones((1, 4))))


def shapes(tree):
    return {key: (tuple(x.shape), jnp.dtype(x.dtype)) for key, x in tree.items()}


def initialized(model):
    variables, _ = symbolic.evaluate(lambda examples: model.init(KEY, examples), model.input_spec)
    return traverse_util.flatten_dict(variables)


@pytest.mark.parametrize(
    "make", [make for make in test_model_file.MODELS if make().input_spec is not None], ids=lambda make: make.__name__
)
def test_inferred_variables_match_init(make):
    """The reader combines shapes inferred layer by layer instead of initializing the whole model."""
    config = json.loads(json.dumps(saving.to_config(make())))
    model, found = saving.build(config, 0)
    assert shapes(found) == shapes(initialized(model))


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_inferred_variables_of_every_layer_match_init(row):
    arrays = list(row.arrays())
    symbols = jax.tree.map(lambda x: Input(x.shape[1:], dtype=x.dtype), arrays)
    call = {k: v for k, v in row.call.items() if k != "train"}
    leaves = jax.tree.leaves(symbols)
    model = Model(leaves if len(leaves) > 1 else leaves[0], row.layer()(*symbols, **call))
    try:
        config = json.loads(json.dumps(saving.to_config(model)))
    except ValueError:  # only code describes it
        return
    again, found = saving.build(config, 0)
    assert shapes(found) == shapes(initialized(again))


def test_costs_name_layers():
    assert set(bounds.COSTS) <= set(layers.__all__)
    assert bounds.allowed(0) == 256 and bounds.allowed(2**20) == 512
    assert interop.keras_archive.MAX_PARTS == 250_000
