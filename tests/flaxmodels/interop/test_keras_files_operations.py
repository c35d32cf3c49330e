"""Operations as nodes in `.keras` files: both libraries read each other's files with equal outputs."""

import inspect
import json
import re
import zipfile

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

import flaxmodels as fm
from flaxmodels.interop import keras_operations
from flaxmodels.ops import base

X = np.random.default_rng(0).normal(size=(5, 4, 3)).astype("float32")


class Ours:
    """Operations of this library by Keras' names."""

    def __getattr__(self, name):
        def call(*args, **kwargs):
            bound = inspect.signature(base.function(name)).bind(*args, **kwargs)
            return base.OperationCall(name)(*bound.args, **bound.kwargs)

        return call


def many_operations(lib, make_input, make_model, ops):
    """Covers settings, indices, arrays, lists, several outputs and any number of operands."""
    x = make_input((4, 3), name="x")
    y = (lib.Dense(3, name="dense")(x) + 1.0) * np.ones((4, 3), "float32")
    z = y[:, 0, None] / 2 + x[:, ::2][..., 1:2, :]
    joined = ops.concatenate([z, x], axis=1)
    flat = ops.reshape(ops.cast(joined, "float32"), (-1, 15))
    a, b, c = ops.split(flat, 3, axis=1)
    r = 2 - (ops.einsum("ij,ij->i", a, b)[:, None] - c)
    r = r * jnp.asarray([2.0]) + ops.mean(r, axis=(1,), keepdims=True)
    q = ops.clip(ops.sigmoid(y), 0.2, 0.7)[:, :, None]
    q = ops.dot_product_attention(q, q, ops.softmax(q, axis=1), mask=np.tril(np.ones((1, 1, 4, 4), bool)))
    return make_model(x, [r, lib.Add(name="sum")([r, -(r**2)]), lib.Flatten(name="flat")(q)])


@pytest.fixture(scope="module")
def models():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        keras.backend.clear_session()
        theirs = many_operations(keras.layers, keras.Input, keras.Model, keras.ops)
        ours = many_operations(fm.layers, fm.Input, fm.Model, Ours())
        yield theirs, ours


def assert_same(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_files_in_both_directions(models, tmp_path):
    theirs, ours = models
    want = theirs.predict(X, verbose=0)
    theirs.save(tmp_path / "theirs.keras")
    read, variables = fm.load(tmp_path / "theirs.keras")
    names = [operation.name for operation in theirs.operations[1:]]
    assert [operation.name for operation in read.operations] == names
    assert [ours.graph.names[id(operation)] for operation in ours.operations] == names
    assert_same(read.apply(variables, X), want)
    assert_same(ours.apply(variables, X), want)
    for model in (ours, read):
        fm.save(tmp_path / "ours.keras", model, variables)
        assert_same(keras.models.load_model(tmp_path / "ours.keras").predict(X, verbose=0), want)
        again, same = fm.load(tmp_path / "ours.keras")
        assert_same(again.apply(same, X), want)


def test_the_files_describe_operations_equally(models, tmp_path):
    """Keras' file and ours differ only in the defaults that Keras writes."""
    described = []
    theirs, ours = models
    theirs.save(tmp_path / "theirs.keras")
    fm.save(tmp_path / "ours.keras", ours, fm.load(tmp_path / "theirs.keras")[1])
    for name in ("theirs.keras", "ours.keras"):
        with zipfile.ZipFile(tmp_path / name) as archive:
            config = json.loads(archive.read("config.json"))["config"]
        described.append({x["name"]: x for x in config["layers"] if keras_operations.is_operation(x)})
    for name, theirs in described[0].items():
        ours = described[1][name]
        assert (ours["module"], ours["class_name"]) == (theirs["module"], theirs["class_name"])
        assert ours["config"].items() <= theirs["config"].items()


# ---------------------------------------------------------------- refusals


def changed(tmp_path, models, name, change):
    path = tmp_path / "m.keras"
    theirs, _ = models
    theirs.save(path)
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    config = json.loads(members["config.json"])
    (node,) = [layer for layer in config["config"]["layers"] if layer["name"] == name]
    change(node)
    members["config.json"] = json.dumps(config)
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return path


FOREIGN = "it names {!r} of {!r}, registered as {!r}, but only Keras' own layers and functions are supported; "


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("add", lambda n: n.update(class_name="Map"), FOREIGN.format("Map", "keras.src.ops.numpy", "Add")),
        ("add", lambda n: n.update(module="os"), FOREIGN.format("Add", "os", "Add")),
        ("mean", lambda n: n.update(module="keras.src.ops.core", class_name="WhileLoop", registered_name="WhileLoop"),
         FOREIGN.format("WhileLoop", "keras.src.ops.core", "WhileLoop")),
        ("add", lambda n: n.update(registered_name="evil>Add"), FOREIGN.format("Add", "keras.src.ops.numpy", "evil>Add")),
        ("mean", lambda n: n["config"].update(fn="os.system"), FOREIGN.format("Mean", "keras.src.ops.numpy", "Mean")),
        ("mean", lambda n: n["config"].update(axis=7), ""),
        ("mean", lambda n: n["config"].update(axis={"class_name": "__lambda__"}), "it contains the code of a lambda"),
        ("mean", lambda n: n["inbound_nodes"][0]["args"].append(1), "Mean takes 1 arguments in a call, got 2; remove some"),
        ("mean", lambda n: n["inbound_nodes"][0].update(kwargs={"evil": 1}), "A model file calls 'mean' with wrong arguments: "),
        ("mean", lambda n: n["inbound_nodes"][0].update(args=[1.0]), ""),
        ("split", lambda n: n["config"].update(indices_or_sections=10**9),
         "`indices_or_sections` of 'split' in a file must be at most 4096, got 1000000000"),
        ("reshape", lambda n: n["config"].update(newshape=[-1] + [1] * 100),
         "'reshape' in a file must have arrays of at most 64 axes, got more"),
        ("get_item", lambda n: n["inbound_nodes"][0]["args"][1][0]["config"].update(start="x"),
         "A slice in a model file must have three integers or nulls, got \"['x', None, None]\""),
    ],
)  # fmt: skip
def test_changed_operations_are_refused(name, change, reason, models, tmp_path):
    path = changed(tmp_path, models, name, change)
    with pytest.raises(
        ValueError, match=rf"^{re.escape(f'{path} describes no model that can be built: {reason}')}.*\.$"
    ):
        fm.load(path)


def test_operations_that_keras_cannot_store(tmp_path):
    x, limit = fm.Input((3,), name="x"), fm.Input((), name="limit")
    model = fm.Model([x, limit], Ours().clip(x, 0.0, limit[0]))
    with pytest.raises(ValueError, match=(
        r"^Keras stores `x_max` of 'clip' as a constant, got a symbol for 'clip'; use a number, or another operation, or "
        r"save the model as '\.safetensors'\.$"
    )):  # fmt: skip
        fm.save(tmp_path / "m.keras", model, {})


def constants(lib, make_input, make_model, ops):
    """Returns a model whose graph has constants that are not finite, as masks of padding have."""
    x, mask = make_input((4,), name="x"), make_input((4,), name="mask")
    filled = ops.where(mask > 0.5, x, -np.inf) + np.array([0, np.inf, np.nan, 1], "float32")
    return make_model([x, mask], ops.where(mask > 2.0, float("nan"), filled) + (1 - mask) * -1e9)


def test_constants_that_are_not_finite(tmp_path):
    data = [X[:, :, 0], (X[:, :, 1] > 0).astype("float32")]
    theirs = constants(keras.layers, keras.Input, keras.Model, keras.ops)
    theirs.save(tmp_path / "theirs.keras")
    ours = constants(fm.layers, fm.Input, fm.Model, fm.ops)
    variables = ours.init(jax.random.key(0), data)
    with jax.numpy_rank_promotion("allow"):
        expected = theirs.predict(data, verbose=0)
        fm.save(tmp_path / "ours.keras", ours, variables)
        fm.save(tmp_path / "ours.safetensors", ours, variables)
        back = keras.models.load_model(tmp_path / "ours.keras")
        np.testing.assert_array_equal(back.predict(data, verbose=0), expected)
        for name in ("theirs.keras", "ours.keras", "ours.safetensors"):
            model, loaded = fm.load(tmp_path / name)
            np.testing.assert_array_equal(model.apply(loaded, data), expected)


def test_an_output_of_a_layer_as_a_second_input(tmp_path):
    """The graph calls a layer whose output for another call is an input of the model."""
    x = fm.Input((4,))
    dense = fm.layers.Dense(4)
    hidden = dense(x)
    model = fm.Model([x, hidden], [dense(hidden), fm.layers.Add()([dense(x), hidden])])
    data = [X[:, :, 0], X[:, :, 1]]
    variables = model.init(jax.random.key(0), data)
    for suffix in ("keras", "safetensors"):
        fm.save(tmp_path / f"model.{suffix}", model, variables)
        again, loaded = fm.load(tmp_path / f"model.{suffix}")
        for value, wanted in zip(again.apply(loaded, data), model.apply(variables, data), strict=True):
            np.testing.assert_array_equal(value, wanted)
