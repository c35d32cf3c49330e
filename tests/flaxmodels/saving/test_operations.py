"""Operations in our model files: every kind of argument is restored, and untrusted descriptions are refused."""

import json
import re
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxmodels as fm
from flaxmodels import Input, Model, layers, ops
from flaxmodels.ops import base
from flaxmodels.ops.base import apply
from flaxmodels.saving import bounds

X = np.random.default_rng(0).normal(size=(5, 4, 3)).astype("float32")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@base.operation
def collect(x, *others, **named):
    """Sums the arrays and numbers in its arguments; an operation of a program, which no file can name."""
    return sum(jax.tree.leaves((others, named)), x)


BUILDS = {
    "slices": lambda x: x[:, ::2, 1:][..., None, -1, :],
    "ellipsis": lambda x: x[..., 0],
    "indices": lambda x: x[:, np.array([2, 0])],
    "numbers": lambda x: (x + 1) * 2.5 - True,
    "numpy": lambda x: x * np.float32(2) + np.ones(3, "float32"),
    "jax": lambda x: x * jnp.asarray(2.0) + jnp.arange(3.0),
    "half": lambda x: apply("cast", x, "bfloat16") * 2.0 + jnp.bfloat16(1),
    "dtype": lambda x: apply("cast", x, jnp.float16),
    "lists": lambda x: apply("concatenate", [x, x * 2.0, x], 1),
    "outputs": lambda x: apply("split", x, 2, 1)[1],
    "strings": lambda x: apply("einsum", "bij,bkj->bik", x, x),
    "tuples": lambda x: apply("mean", x, (1, 2), True),
    "infinity": lambda x: apply("clip", x, 0.0, float("inf")),
}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_arguments_are_restored(build, path):
    x = Input((4, 3))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        model = Model(x, build(x))
        fm.save(path, model, {})
        read, _ = fm.load(path)
        got, want = read.apply({}, X), model.apply({}, X)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(np.asarray(got, "float32"), np.asarray(want, "float32"))
    assert list(read.graph.names.values()) == list(model.graph.names.values())


def test_layers_and_operations_keep_names_and_order(path):
    x = Input((4, 3))
    y = layers.Add()([layers.Dense(3)(x), x]) + x
    model = Model(x, layers.Add()([y + y, x]))
    variables = model.init(jax.random.key(0), X)
    fm.save(path, model, variables)
    read, loaded = fm.load(path)
    assert list(read.graph.names.values()) == ["dense", "add", "add_1", "add_2", "add_3"]
    assert [layer.name for layer in read.layers] == ["dense", "add", "add_3"]
    np.testing.assert_array_equal(read.apply(loaded, X), model.apply(variables, X))


def refuses(sentence):
    return pytest.raises(ValueError, match=f"^{re.escape(sentence)}$")


def test_code_is_not_saved(path):
    x = Input((4, 3))
    with refuses(
        "A model file names operations of Keras, but only code can describe 'collect'; save with architecture=False, "
        "build the model in code, and read its variables with fm.load_weights."
    ):
        fm.save(path, Model(x, collect(x, 1.0)), {})
    for value in (jnp.tanh, 1j, np.array([1j])):
        node = base.OperationCall("expand_dims")
        symbol = node(x, 0)
        symbol.node.args = (x, value)
        with refuses(
            "A model file holds numbers, names and slices as arguments of operations, but an argument of 'expand_dims' "
            f"is {value!r}; compute with it outside of the model, or save with architecture=False and build the model "
            "in code."
        ):
            fm.save(path, Model(x, symbol), {})


# ---------------------------------------------------------------- untrusted files

SYMBOL = {"symbol": [-1, 0]}


def description(operation="add", args=(SYMBOL, 1.0), kwargs=None):
    return {
        "class": "Model",
        "config": {},
        "sources": [{"shape": [None, 4, 3], "dtype": "float32", "name": None}],
        "layers": {"op": {"operation": operation, "name": "op"}},
        "calls": [{"layer": "op", "args": list(args), "kwargs": kwargs or {}}],
        "inputs": SYMBOL,
        "outputs": {"symbol": [0, 0]},
    }


def write(path, described):
    header = json.dumps({"__metadata__": {"flaxmodels": "1", "model": json.dumps(described)}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def test_the_description_above_is_valid(path):
    write(path, description())
    assert fm.load(path)[0].output_shape == (None, 4, 3)


NOT_NAMED = "A model file names the operation {!r}, which files cannot name"


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        (description("os.system"), NOT_NAMED.format("os.system")),
        (description("while_loop"), NOT_NAMED.format("while_loop")),
        (description("image.elastic_transform"), NOT_NAMED.format("image.elastic_transform")),
        (description("collect"), NOT_NAMED.format("collect")),
        (description(3), "Each part in a model file must have a 'operation' of type str, got "),
        (description(args=[1.0, 2.0]), "A model file applies 'add' to constants alone; use a file that fm.save wrote"),
        (description("full_like", [[1.0], 2.0]), "A model file applies 'full_like' to constants alone; "),
        (description(args=[SYMBOL]), "A model file calls 'add' with wrong arguments: missing a required argument: 'x2'"),
        (description(kwargs={"evil": 1}), "A model file calls 'add' with wrong arguments: got an unexpected keyword "),
        (description(args=[SYMBOL, {"slice": [1, 2]}]), "A slice in a model file must have three integers or nulls, got "),
        (description("get_item", [SYMBOL, {"slice": [None, 1.5, None]}]), "A slice in a model file must have three "),
        (description("get_item", [SYMBOL, {"slice": 3}]), "Each part in a model file must have a 'slice' of type list, "),
        (description(args=[SYMBOL, {"layer": {"class": "Dense", "config": {"units": 2}}}]), ""),
        (description(args=[SYMBOL, {"array": [[1], 2], "dtype": "float32"}]), ""),
        (description(args=[SYMBOL, {"array": [1.0], "dtype": "object"}]), "A model file names an unknown dtype, 'object'"),
        (description("mean", [SYMBOL, 9]), ""),
        (description("split", [SYMBOL, 10**9, 1]), "`indices_or_sections` of 'split' in a file must be at most 4096, got "),
        (description("reshape", [SYMBOL, [1] * 99]), "'reshape' in a file must have arrays of at most 64 axes, got more"),
        (description("einsum", ["a" * 3, *[SYMBOL] * 20]), "'einsum' in a file must have at most 16 operands, got 20"),
    ],
)  # fmt: skip
def test_invalid_operations_are_refused(described, reason, path):
    write(path, described)
    with pytest.raises(ValueError) as caught:
        fm.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path} describes no model that can be built: {reason}")
    assert text.endswith(".") and len(text.splitlines()) == 1


def test_an_operation_is_no_layer(path):
    """Only the graph of a model may hold operations."""
    inner = {"layer": {"operation": "add"}}
    layer = {"class": "TimeDistributed", "config": {"layer": inner}, "name": "t"}
    source = {"shape": [None, 4, 3], "dtype": "float32", "name": None}
    write(path, {"class": "Sequential", "config": {}, "input": source, "layers": [layer]})
    with pytest.raises(ValueError, match="Each part in a model file must have a 'class' of type str"):
        fm.load(path)


def test_many_operations_are_refused(path):
    """Each constant differs, so no inference repeats another."""
    many = description()
    many["calls"] = [{"layer": "op", "args": [{"symbol": [i - 1, 0]}, float(i)], "kwargs": {}} for i in range(1000)]
    write(path, many)
    with pytest.raises(ValueError, match="it has more layers than a file of its size may have"):
        fm.load(path)


def test_each_attempt_to_infer_an_operation_counts():
    x = Input((None,))
    inferences = bounds.Inferences(10, lambda layer: {"operation": layer.operation}, lambda description: 1)
    with inferences.used(), pytest.raises(ValueError, match="it has more layers than a file of its size may have"):
        ops.reshape(x, (3, -1, 5, 7, 4099))  # refuses every size that is tried for the unknown ones
    assert inferences.spent == 12  # the first attempt counts 2, because an axis is unknown, each other one counts 2
