"""Weights in files are matched to layers by name if the names are reliable, and by order otherwise."""

import re
import zipfile

import h5py
import jax
import keras
import numpy as np
import pytest

import flaxmodels as fm
from flaxmodels import interop


def zeros(model, x):
    return jax.tree.map(np.zeros_like, model.init(jax.random.key(0), x))


def stack(*order):
    """A model of two layers with equal shapes, in one of two orders."""
    x = y = fm.Input((3,))
    for name in order:
        y = fm.layers.Dense(3, name=name)(y)
    return fm.Model(x, y)


def rewritten(path, change):
    """Changes the HDF5 part of a `.weights.h5` or `.keras` file."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            change(file)
        return
    inner = path.with_name("inner.weights.h5")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    inner.write_bytes(members["model.weights.h5"])
    rewritten(inner, change)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {"model.weights.h5": inner.read_bytes()}).items():
            archive.writestr(name, content)


def swap_groups(file):
    file.move("layers/dense", "layers/other")
    file.move("layers/dense_1", "layers/dense")
    file.move("layers/other", "layers/dense_1")


def remove_names(file):
    for group in ("vars", "layers/dense/vars", "layers/dense_1/vars"):
        del file[group].attrs["name"]


def name_as(value):
    def change(file):
        file["layers/dense/vars"].attrs["name"] = value

    return change


@pytest.fixture
def saved(tmp_path):
    """Returns a model and its files."""
    model = stack("a", "b")
    variables = model.init(jax.random.key(0), np.ones((1, 3), np.float32))
    fm.save(tmp_path / "m.keras", model, variables)
    interop.save_keras_weights(tmp_path / "m.weights.h5", model, variables)
    return tmp_path, model, variables


def assert_equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_layers_are_matched_by_name(saved):
    """The groups of the file have another order, as another version of Keras might write them."""
    folder, model, variables = saved
    blank = jax.tree.map(np.zeros_like, variables)
    for path in (folder / "m.keras", folder / "m.weights.h5"):
        rewritten(path, swap_groups)
        assert_equal(interop.load_keras_weights(path, model, blank), variables)
    assert_equal(fm.load(folder / "m.keras")[1], variables)


def test_layers_are_matched_by_order_without_names(saved):
    """Older versions of Keras do not write names."""
    folder, model, variables = saved
    blank = jax.tree.map(np.zeros_like, variables)
    for path in (folder / "m.keras", folder / "m.weights.h5"):
        rewritten(path, remove_names)
        assert_equal(interop.load_keras_weights(path, model, blank), variables)
    assert_equal(fm.load(folder / "m.keras")[1], variables)


@jax.numpy_rank_promotion("allow")
@jax.numpy_dtype_promotion("standard")
def test_layers_are_matched_by_order_if_names_differ_or_are_automatic(saved):
    folder, _, variables = saved
    x = np.ones((1, 3), np.float32)
    other = stack("b", "c")
    read = interop.load_keras_weights(folder / "m.weights.h5", other, zeros(other, x))
    assert_equal(read["params"], {"b": variables["params"]["a"], "c": variables["params"]["b"]})
    # Keras numbers layers in the order of their creation, this library in the order of their calls.
    # The layer that is called first is "dense_1" in Keras.
    keras.utils.clear_session(free_memory=False)
    inputs, first, second = keras.Input((3,)), keras.layers.Dense(3), keras.layers.Dense(3)
    theirs = keras.Model(inputs, first(second(inputs)))
    assert [layer.name for layer in theirs.layers[1:]] == ["dense_1", "dense"]
    theirs.save_weights(folder / "theirs.weights.h5")
    ours = stack(None, None)
    read = interop.load_keras_weights(folder / "theirs.weights.h5", ours, zeros(ours, x))
    np.testing.assert_allclose(ours.apply(read, x), theirs.predict(x, verbose=0), rtol=1e-5)


@pytest.mark.parametrize("name", ["b", "c", "layers/dense", "x" * 9000])
def test_names_that_do_not_fit_raise(name, saved):
    path = saved[0] / "m.keras"
    rewritten(path, name_as(name))
    came = ", ".join(f"{key} {value!r}" for value, key in sorted([(name[:80], "dense"), ("b", "dense_1")]))
    sentence = (
        f"{path} contains weights that do not match its config: the config has dense 'a', dense 'b', got weights of "
        f"{came}; save it again with Keras."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        fm.load(path)


@pytest.mark.parametrize(
    "value", [3, np.array(["a", "b"], "S1"), np.bytes_(b"\xff"), "x" * 20_000, "b"], ids=lambda v: str(v)[:9]
)
def test_invalid_names_are_ignored(value, saved):
    """Invalid names do not change the order of a weights file."""
    folder, model, variables = saved
    rewritten(folder / "m.weights.h5", name_as(value))
    blank = jax.tree.map(np.zeros_like, variables)
    assert_equal(interop.load_keras_weights(folder / "m.weights.h5", model, blank), variables)


def test_names_only_decide_within_one_class(tmp_path):
    """A group's name is ignored if it names a layer of a different class."""
    x = fm.Input((3,))
    model = fm.Model(x, fm.layers.LayerNormalization(name="b")(fm.layers.Dense(3, name="a")(x)))
    variables = model.init(jax.random.key(0), np.ones((1, 3), np.float32))
    interop.save_keras_weights(tmp_path / "m.weights.h5", model, variables)
    with h5py.File(tmp_path / "m.weights.h5", "r+") as file:
        file["layers/dense/vars"].attrs["name"] = "b"
        file["layers/layer_normalization/vars"].attrs["name"] = "a"
    blank = jax.tree.map(np.zeros_like, variables)
    assert_equal(interop.load_keras_weights(tmp_path / "m.weights.h5", model, blank), variables)


RECURRENT = {
    "LSTM": lambda: fm.layers.LSTM(3),
    "GRU": lambda: fm.layers.GRU(3),
    "SimpleRNN": lambda: fm.layers.SimpleRNN(3),
    "RNN": lambda: fm.layers.RNN(fm.layers.LSTMCell(3)),
    "Bidirectional": lambda: fm.layers.Bidirectional(fm.layers.GRU(3)),
    "stateful": lambda: fm.layers.LSTM(3, stateful=True),
}


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_layers_have_names_in_files(kind, tmp_path):
    """As in Keras, a layer whose weights are in its cell has an additional group with its name."""
    source = fm.Input(batch_shape=(2, 4, 3)) if kind == "stateful" else fm.Input((4, 3))
    model = fm.Sequential([source, RECURRENT[kind](), fm.layers.Dropout(0.1), fm.layers.Dense(2)])
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    variables = model.init(jax.random.key(0), x)
    fm.save(tmp_path / "m.keras", model, variables)
    read, again = fm.load(tmp_path / "m.keras")
    np.testing.assert_array_equal(read.apply(again, x), model.apply(variables, x))

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = keras.models.load_model(tmp_path / "m.keras")
        np.testing.assert_allclose(theirs(x), model.apply(variables, x), rtol=1e-5, atol=1e-6)
        theirs.save(tmp_path / "theirs.keras")
    names = [stored_names(tmp_path / file) for file in ("m.keras", "theirs.keras")]
    assert names[0].keys() - names[1].keys() == set()
    assert {path: names[1][path] for path in names[0] if path.count("/") == 2} == {
        path: name for path, name in names[0].items() if path.count("/") == 2
    }


def stored_names(path):
    """Returns the names of the groups in a `.keras` file."""
    found = {}
    inner = path.with_name("inner.weights.h5")
    with zipfile.ZipFile(path) as archive:
        inner.write_bytes(archive.read("model.weights.h5"))
    with h5py.File(inner) as file:
        file.visititems(lambda name, item: found.update({name: item.attrs["name"]}) if "name" in item.attrs else None)
    return found


def test_files_without_a_group_for_a_recurrent_layer_are_read(tmp_path):
    """Early versions of this library wrote such files."""
    model = fm.Sequential([fm.Input((4, 3)), fm.layers.LSTM(3), fm.layers.Dense(2)])
    x = np.ones((1, 4, 3), np.float32)
    variables = model.init(jax.random.key(0), x)
    fm.save(tmp_path / "m.keras", model, variables)

    def remove(file):
        del file["layers/lstm/vars"]

    rewritten(tmp_path / "m.keras", remove)
    read, again = fm.load(tmp_path / "m.keras")
    np.testing.assert_array_equal(read.apply(again, x), model.apply(variables, x))
