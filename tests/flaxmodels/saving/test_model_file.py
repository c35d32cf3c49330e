"""Model files: saving and loading preserves every bit, and only describable models are saved."""

import inspect
import json
import os
import pathlib
import re
import stat

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import flaxmodels as fm
from flaxmodels import Input, Model, Sequential, activations, constraints, initializers, layers, regularizers, saving
from flaxmodels.layers.base import Layer
from flaxmodels.saving import format, schema

KEY = jax.random.key(0)


def raises(sentence):
    return pytest.raises(ValueError, match=f"^{re.escape(sentence)}$")


def bits(tree):
    return {jax.tree_util.keystr(path): (x.dtype.name, x.shape, np.asarray(x).tobytes())
            for path, x in jax.tree.leaves_with_path(tree)}  # fmt: skip


# ---------------------------------------------------------------- saving and loading


def stack():
    return Sequential(
        [
            Input((6, 6, 1)),
            layers.Conv2D(2, (3, 3), activation="relu", kernel_regularizer=regularizers.L2(0.1)),
            layers.BatchNormalization(),
            layers.MaxPooling2D((2, 2)),
            layers.Dropout(0.5, seed=np.int64(3)),
            layers.Flatten(),
            layers.Dense(3, kernel_constraint=constraints.MaxNorm(2.0), name="head"),
        ],
        name="stack",
    )


def without_input():
    return Sequential([layers.Dense(3), Sequential([layers.Dense(2, trainable=False)], trainable=False)])


def shared():
    a, b, dense = Input((3,), name="a"), Input((3,)), layers.Dense(2)
    return Model([a, b], layers.Concatenate()([dense(a), layers.Dense(2)(a), dense(b)]), name="shared")


def nested():
    x, y = Input((3,)), Input((3,))
    inner = Model(x, layers.Dense(3, name="only")(x), trainable=False)
    return Model(y, Sequential([layers.Dense(3), layers.Dense(1)], dtype="bfloat16")(inner(inner(y), train=False)))


def dictionaries():
    a, b = Input((3,), name="a"), Input((2, 3), name="b")
    outputs = {"sum": layers.Add()([a, layers.Flatten()(layers.Dense(3)(b))][:1] * 2), "pair": (a, [b])}
    return Model({"first": a, "others": (b,)}, outputs)


def bidirectional():
    x, keep = Input((None, 3)), Input((None,), dtype="bool")
    y = layers.Bidirectional(layers.LSTM(2, return_sequences=True), merge_mode="sum")(layers.Masking()(x), mask=keep)
    y, h = layers.GRU(2, return_sequences=True, return_state=True)(y)
    return Model([x, keep], (layers.TimeDistributed(layers.Dense(1))(y), h))


def memory():
    return Sequential([Input((4, 3), batch_size=2), layers.SimpleRNN(2, stateful=True)])


def attention():
    x = Input((4, 3))
    y = layers.MultiHeadAttention(1, 2)(x, x, use_causal_mask=True)
    return Model(x, layers.Add()([x, y]))


def text():
    table = np.arange(6, dtype="float32").reshape(3, 2) / 7
    return Sequential([Input((4,), dtype="int32"), layers.Embedding(3, 2, initializers.Constant(table))])


MODELS = [stack, without_input, shared, nested, dictionaries, bidirectional, memory, attention, text]


def example(model):
    def data(symbol):
        shape = [n or m for n, m in zip(symbol.shape, (2, 4, 3, 1), strict=False)]
        return jax.random.normal(KEY, shape).astype(symbol.dtype)

    return jnp.ones((2, 3)) if model.input_spec is None else jax.tree.map(data, model.input_spec)


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_models_are_restored_bit_for_bit(make, tmp_path):
    path, model = tmp_path / "model.safetensors", make()
    inputs = example(model)
    variables = jax.jit(model.init)(KEY, inputs)
    fm.save(path, model, variables)
    again, read = fm.load(path)
    assert type(again) is type(model) and again.name == model.name
    assert jax.tree.structure(read) == jax.tree.structure(variables) and bits(read) == bits(variables)
    before, after = jax.jit(model.apply)(variables, inputs), jax.jit(again.apply)(read, inputs)
    assert jax.tree.structure(before) == jax.tree.structure(after) and bits(before) == bits(after)
    assert bits(jax.eval_shape(again.init, KEY, inputs) and jax.jit(again.init)(KEY, inputs)) == bits(variables)
    if model.input_spec is not None:
        assert summary(again) == summary(model)
        assert jax.tree.structure(again.input_spec) == jax.tree.structure(model.input_spec)
    # A loaded model is saved unchanged.
    assert json.dumps(saving.to_config(again)) == json.dumps(saving.to_config(saving.from_config(config(again))))


def summary(model):
    lines = []
    model.summary(lines.append)
    return lines


def config(model):
    return json.loads(json.dumps(saving.to_config(model)))


def test_configuration_is_restored():
    again = saving.from_config(config(nested()))
    assert [layer.trainable for layer in again.layers] == [False, True]
    assert [layer.dtype for layer in again.layers] == [None, "bfloat16"]
    again = saving.from_config(config(without_input()))
    assert again.layers[1].trainable is False and again.layers[1].layers[0].trainable is False


def test_names_are_fixed_by_the_file():
    x = Input((3,))
    second = layers.Dense(2)(layers.Dense(3)(x))
    model = Model(x, second)
    assert [layer.name for layer in saving.from_config(config(model)).layers] == ["dense", "dense_1"]


def kinds_in(module, base):
    return [
        v for v in vars(module).values() if inspect.isclass(v) and issubclass(v, base) and not inspect.isabstract(v)
    ]


ARGUMENTS = {
    "Constant": {"value": [[1.0, 2.0]]},
    "Identity": {"gain": 2.0},
    "VarianceScaling": {"scale": 3.0, "mode": "fan_out", "distribution": "uniform", "seed": 4},
    "RandomUniform": {"minval": -1, "maxval": 2.5, "seed": 3},
    "L1L2": {"l1": 0.25, "l2": 1e-7},
    "OrthogonalRegularizer": {"factor": 0.5, "mode": "columns"},
    "MinMaxNorm": {"min_value": 0.1, "rate": 0.5, "axis": [0, 1]},
}
OBJECTS = [
    (argument, kind)
    for argument, module, base in [
        ("kernel_initializer", initializers, initializers.Initializer),
        ("kernel_regularizer", regularizers, regularizers.Regularizer),
        ("kernel_constraint", constraints, constraints.Constraint),
    ]
    for kind in kinds_in(module, base)
]


@pytest.mark.parametrize(("argument", "kind"), OBJECTS, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_every_object_is_restored(argument, kind):
    thing = kind(**ARGUMENTS.get(kind.__name__, {}))
    again = getattr(saving.from_config(config(layers.Dense(2, **{argument: thing}))), argument)
    assert type(again) is kind
    assert schema._fields(again) == schema._fields(thing)
    assert again == thing or kind in (initializers.Initializer, regularizers.Regularizer, constraints.Constraint)


def test_there_are_objects_of_every_kind():
    names = {kind.__name__ for _, kind in OBJECTS}
    assert {"GlorotUniform", "Orthogonal", "L1L2", "OrthogonalRegularizer", "MaxNorm", "UnitNorm"} <= names
    assert len(OBJECTS) > 20


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_every_activation_is_restored(name):
    function = activations.ACTIVATIONS[name]
    again = saving.from_config(config(layers.Dense(2, activation=function))).activation
    assert activations.get(again) is function
    assert saving.from_config(config(layers.Dense(2, activation=name))).activation == name


@pytest.mark.parametrize(
    "value", [jnp.bfloat16, np.dtype("float16"), "mixed_bfloat16", np.float32, jnp.float8_e4m3fn], ids=str
)
def test_every_dtype_is_restored(value):
    again = saving.from_config(config(layers.Dense(2, dtype=value))).dtype
    assert again == value or jnp.dtype(again) == jnp.dtype(value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.float64(0.1), 0.1),
        (np.bool_(True), True),
        (float("inf"), float("inf")),
        ([1, (2, None)], (1, (2, None))),
        ({"a": [1]}, {"a": (1,)}),
        (layers.Dense(3, name="inner"), layers.Dense(3, name="inner")),
    ],
)
def test_values_in_arguments(given, expected):
    again = schema._decode(json.loads(json.dumps(schema._encode(given, "x"))))
    assert again == expected and type(again) is type(expected)


@pytest.mark.parametrize(
    "array", [np.array([[1.5, -0.1]], "float32"), np.array([], "int8"), jnp.array([1.5], jnp.bfloat16), np.float16([3])]
)
def test_arrays_in_arguments(array):
    again = schema._decode(json.loads(json.dumps(schema._encode(array, "x"))))
    assert again.dtype == array.dtype and again.shape == array.shape and again.tobytes() == np.asarray(array).tobytes()


# ---------------------------------------------------------------- files


def small(**arguments):
    model = Sequential([Input((3,)), layers.Dense(2, **arguments)])
    return model, {"params": {"dense": {"kernel": jnp.arange(6.0).reshape(3, 2), "bias": jnp.array([-0.0, jnp.nan])}}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "int8", "int32", "uint8", "bool"])
def test_arrays_of_every_dtype(dtype, path):
    variables = {"params": {"a": {"b": jnp.arange(3).astype(dtype)}, "c": jnp.ones((), dtype)},
                 "batch_stats": {"none": jnp.zeros((0, 4), dtype)}}  # fmt: skip
    fm.save(path, layers.Flatten(), variables, architecture=False)
    assert bits(fm.load_weights(path, variables)) == bits(variables)


def test_model_in_bfloat16(path):
    model = Sequential([Input((3,), dtype="bfloat16"), layers.Dense(2, param_dtype=jnp.bfloat16)])
    variables = model.init(KEY, jnp.ones((1, 3), jnp.bfloat16))
    fm.save(path, model, variables)
    again, read = fm.load(path)
    assert again.apply(read, jnp.ones((1, 3), jnp.bfloat16)).dtype == jnp.bfloat16
    assert bits(read) == bits(variables)


def test_float64(path):
    with jax.enable_x64(True):
        model = Sequential([Input((3,), dtype="float64"), layers.Dense(2, param_dtype="float64")])
        variables = model.init(KEY, jnp.ones((1, 3)))
        fm.save(path, model, variables)
        assert bits(fm.load(path)[1]) == bits(variables)


def test_file_is_plain_safetensors(path):
    model, variables = small()
    fm.save(path, model, variables)
    flat = safetensors.numpy.load_file(path)
    assert sorted(flat) == ["params/dense/bias", "params/dense/kernel"]
    assert flat["params/dense/kernel"].tolist() == [[0, 1], [2, 3], [4, 5]]
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata()["flaxmodels"] == "1"
        assert json.loads(file.metadata()["model"])["class"] == "Sequential"


def test_bfloat16_is_plain_safetensors(path):
    fm.save(path, layers.Flatten(), {"params": {"a": jnp.array([1.5], jnp.bfloat16)}})
    with safetensors.safe_open(path, "flax") as file:
        assert file.get_tensor("params/a").tolist() == [1.5]
    assert np.frombuffer(path.read_bytes()[-2:], ml_dtypes.bfloat16).tolist() == [1.5]


def test_model_without_variables(path):
    fm.save(path, Sequential([Input((3,)), layers.Flatten()]), {})
    model, variables = fm.load(path)
    assert variables == {} and model.output_shape == (None, 3)


def test_weights_alone(path):
    model, variables = small()
    fm.save(path, model, variables, architecture=False)
    with raises(f"{path} holds weights without an architecture; build the model and use fm.load_weights."):
        fm.load(path)
    expected = jax.eval_shape(model.init, KEY, jnp.ones((1, 3)))
    assert bits(fm.load_weights(path, expected)) == bits(variables)


def test_weights_of_a_file_with_an_architecture(path):
    model, variables = small()
    fm.save(path, model, variables)
    assert bits(fm.load_weights(path, variables)) == bits(variables)


def test_weights_of_custom_modules(path):
    model = nn.Dense(2)
    variables = model.init(KEY, jnp.ones((1, 3)))
    fm.save(path, model, variables, architecture=False)
    assert bits(fm.load_weights(path, variables)) == bits(variables)


def test_path_may_be_a_string(tmp_path):
    model, variables = small()
    fm.save(str(tmp_path / "m.safetensors"), model, variables)
    assert bits(fm.load(str(tmp_path / "m.safetensors"))[1]) == bits(variables)


def test_file_is_replaced_with_default_permissions(path):
    model, variables = small()
    path.write_bytes(b"old" * 10**5)
    fm.save(path, model, variables)
    assert bits(fm.load(path)[1]) == bits(variables)
    other = path.with_name("other")
    other.write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.safetensors", "other"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failing_write_leaves_the_old_file(path, monkeypatch, failing, error):
    model, variables = small()
    fm.save(path, model, variables)
    before = path.read_bytes()

    def fail(*args):
        raise error

    monkeypatch.setattr(os, failing, fail)
    sentence = (
        f"The model can't be written to {path} (disk full), and an existing file is unchanged; free some space, or choose "
        "another path."
    )
    with pytest.raises(type(error), match=f"^{re.escape(sentence)}$" if isinstance(error, OSError) else None):
        fm.save(path, model, jax.tree.map(lambda x: x + 1, variables))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_refused_model_leaves_the_old_file(path):
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="A model file names layers of flaxmodels"):
        fm.save(path, nn.Dense(2), {})
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == [path.name]


# ---------------------------------------------------------------- models and values that only code can describe


class Dense(Layer):
    """A custom class with the name of a library class."""

    units: int = 2

    def compute(self, inputs):
        return inputs


class Stack(Sequential):
    """A custom container."""


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (nn.Dense(2), "Dense"),
        (Sequential([nn.LayerNorm()]), "LayerNorm"),
        (Sequential([Dense()]), "Dense"),
        (Sequential([layers.Lambda(jnp.abs)]), "Lambda"),
        (layers.Lambda(activations.relu), "Lambda"),
        (Stack([layers.Dense(2)]), "Stack"),
        (layers.TimeDistributed(Dense()), "Dense"),
    ],
)
def test_custom_classes_are_refused(model, name, path):
    with raises(
        f"A model file names layers of flaxmodels, but only code can describe {name}; "
        "save with architecture=False, build the model in code, and read its variables with fm.load_weights."
    ):
        fm.save(path, model, {})
    assert not path.exists()


def own(x):
    return x


class Unknown:
    dtype = jnp.float32


@pytest.mark.parametrize(
    "value",
    [own, jnp.sin, Unknown, Unknown(), {1: 2}, b"x", {2}],
    ids=["function", "jax", "class", "object", "mapping", "bytes", "set"],
)
def test_values_that_are_not_data_are_refused(value, path):
    with raises(
        f"A model file holds names, numbers and this library's objects, but only code can describe Softmax.axis, "
        f"got {value!r}; use a name, or save with architecture=False and build the model in code."
    ):
        fm.save(path, layers.Softmax(axis=value), {})


def test_size_of_arrays_in_arguments_is_limited(path, monkeypatch):
    monkeypatch.setattr(format, "MAX_HEADER_BYTES", 2000)
    model = layers.Embedding(100, 9, initializers.Constant(np.zeros((100, 9))))
    with pytest.raises(ValueError) as caught:
        fm.save(path, model, {})
    assert re.fullmatch(
        r"The header of a model file must have at most 2000 bytes, got \d{4}; pass large arrays in `variables`, "
        "not as arguments of layers.",
        str(caught.value),
    )
    assert not path.exists()


# ---------------------------------------------------------------- files of earlier versions


def test_file_of_format_1_can_be_read():
    """The golden file is never rewritten; the expected outputs were computed when it was written."""
    folder = pathlib.Path(__file__).parent / "golden"
    model, variables = fm.load(folder / "format1.safetensors")
    images = np.linspace(-1, 1, 72, dtype="float32").reshape(2, 6, 6, 1)
    words = np.array([[1, 2, 3, 0, 0], [6, 5, 4, 3, 2]], np.int32)
    outputs = model.apply(variables, [images, words])
    np.testing.assert_allclose(outputs, np.load(folder / "format1-outputs.npy"), rtol=1e-5)
    assert model.name == "golden" and model.layers[-1].name == "head"
