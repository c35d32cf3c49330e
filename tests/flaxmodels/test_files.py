"""The suffix of a file name decides its format; equal models give equal bytes."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile

import flax.linen as nn
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxmodels as fm
from flaxmodels import Input, Sequential, interop, layers
from training import Trainer
from training.callbacks import ModelCheckpoint

KEY = jax.random.key(0)
X, Y = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
NO_FORMAT = (
    "The name of a model file must end in '.safetensors', '.keras' or '.weights.h5', which gives its format, got "
)
LEGACY = "'.h5' is the legacy format of Keras, which is not supported, got "


def raises(sentence, error=ValueError):
    return pytest.raises(error, match=f"^{re.escape(sentence)}$")


def small():
    model = Sequential([Input((3,)), layers.Dense(2, activation="relu"), layers.BatchNormalization()])
    return model, model.init(KEY, X)


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def content(path):
    """Returns the format of a file, as other libraries detect it."""
    if zipfile.is_zipfile(path):
        return sorted(zipfile.ZipFile(path).namelist())
    return "hdf5" if h5py.is_hdf5(path) else path.read_bytes()[8:9]


# ---------------------------------------------------------------- the suffix determines the format


KERAS = ["config.json", "metadata.json", "model.weights.h5"]


@pytest.mark.parametrize(("name", "wanted"), [("m.safetensors", b"{"), ("m.keras", KERAS), ("m.weights.h5", "hdf5")])
def test_suffix_decides_the_format(name, wanted, tmp_path):
    model, variables = small()
    path = tmp_path / name
    fm.save(path, model, variables)
    assert content(path) == wanted and os.listdir(tmp_path) == [name]
    if name != "m.weights.h5":
        again, read = fm.load(str(path))
        assert_equal(read, variables)
        np.testing.assert_array_equal(again.apply(read, X), model.apply(variables, X))
    if name != "m.safetensors":
        assert_equal(interop.load_keras_weights(path, model, jax.tree.map(jnp.zeros_like, variables)), variables)


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5"])
def test_keras_reads_our_files(name, tmp_path):
    keras = pytest.importorskip("keras")
    trainer = Trainer(small()[0], "sgd", "mse")
    trainer.fit(X, Y, verbose=0)
    trainer.save(tmp_path / name)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        if name == "m.keras":
            theirs = keras.models.load_model(tmp_path / name)
        else:
            L = keras.layers
            theirs = keras.Sequential([keras.Input((3,)), L.Dense(2, activation="relu"), L.BatchNormalization()])
            theirs.load_weights(tmp_path / name)
        outputs = np.asarray(theirs(X))
    np.testing.assert_allclose(outputs, trainer.predict(X), rtol=1e-5, atol=1e-6)


def test_keras_file_is_loaded(tmp_path):
    keras = pytest.importorskip("keras")
    theirs = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    theirs.save(tmp_path / "m.keras")
    model, variables = fm.load(tmp_path / "m.keras")
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        outputs = np.asarray(theirs(X))
    np.testing.assert_allclose(model.apply(variables, X), outputs, rtol=1e-6)


@pytest.mark.parametrize("name", ["m", "m.bin", "m.KERAS", "keras", "m.safetensors.tmp", "m.hdf5"])
def test_other_suffixes_are_refused(name, tmp_path):
    model, variables = small()
    path = tmp_path / name
    for save in (fm.save, interop.save_keras, interop.save_keras_weights):
        with raises(f"{NO_FORMAT}{str(path)!r}; add a suffix."):
            save(path, model, variables)
    assert not path.exists()
    path.write_bytes(b"x")
    for load in (fm.load, interop.load_keras, lambda path: fm.load_weights(path, variables)):
        with raises(f"{NO_FORMAT}{str(path)!r}; add a suffix."):
            load(path)


def test_legacy_format_is_refused(tmp_path):
    model, variables = small()
    path = tmp_path / "m.h5"
    sentence = f"{LEGACY}{str(path)!r}; use '.keras' for a model, or '.weights.h5' for weights alone."
    with raises(sentence):
        fm.save(path, model, variables)
    assert not path.exists()
    with h5py.File(path, "w"):
        pass
    for load in (fm.load, interop.load_keras, lambda path: interop.load_keras_weights(path, model, variables)):
        with raises(sentence):
            load(path)


def test_error_names_the_expected_suffix(tmp_path):
    model, variables = small()
    path = tmp_path / "m.safetensors"
    with raises(
        f"The file name of a Keras model must end in '.keras', got {str(path)!r}; use a name with that suffix."
    ):
        interop.save_keras(path, model, variables)
    fm.save(path, model, variables)
    with raises(
        "The file name of Keras weights must end in '.weights.h5' or '.keras', "
        f"got {str(path)!r}; use a name with that suffix."
    ):
        interop.load_keras_weights(path, model, variables)


def test_error_names_the_function_that_reads_keras_weights(tmp_path):
    model, variables = small()
    for name in ("m.weights.h5", "m.keras"):
        path = tmp_path / name
        fm.save(path, model, variables)
        with raises(
            f"{path} is a Keras file, and reading its weights also needs the model; use "
            "interop.load_keras_weights(path, model, variables)."
        ):
            fm.load_weights(path, variables)
    with raises(
        f"{tmp_path}/m.weights.h5 holds weights without an architecture; build the model and use "
        "interop.load_keras_weights(path, model, variables)."
    ):
        fm.load(tmp_path / "m.weights.h5")


def test_architecture_must_suit_the_format(tmp_path):
    model, variables = small()
    keras, weights = str(tmp_path / "m.keras"), str(tmp_path / "m.weights.h5")
    with raises(
        f"A '.keras' file always holds the architecture, got {keras!r} with architecture=False; "
        "use '.weights.h5' or '.safetensors' for weights alone."
    ):
        fm.save(keras, model, variables, architecture=False)
    with raises(
        f"A '.weights.h5' file holds weights alone, got {weights!r} with architecture=True; "
        "use '.keras' or '.safetensors' for a whole model, or change the argument."
    ):
        fm.save(weights, model, variables, architecture=True)
    fm.save(keras, model, variables, architecture=True)
    fm.save(weights, model, variables, architecture=False)


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5"])
def test_linen_module_cannot_be_saved_for_keras(name, tmp_path):
    with raises(
        "A Keras file names Keras layers, but Dense is a linen module; "
        "save it as '.safetensors' with architecture=False."
    ):
        fm.save(tmp_path / name, nn.Dense(2), nn.Dense(2).init(KEY, X))


# ---------------------------------------------------------------- suffixes that do not match the content


HOLDS = {
    "m.safetensors": ("a safetensors file", ".safetensors"),
    "m.keras": ("a zip file", ".keras"),
    "m.weights.h5": ("an HDF5 file", ".weights.h5"),
}


@pytest.mark.parametrize("true", HOLDS)
@pytest.mark.parametrize("false", HOLDS)
def test_content_of_another_format_is_refused(true, false, tmp_path):
    if true == false:
        return
    model, variables = small()
    fm.save(tmp_path / true, model, variables)
    path = (tmp_path / true).rename(tmp_path / false)
    found, like = HOLDS[true]
    sentence = (
        f"The name of {path} ends in {false.removeprefix('m')!r}, but it holds {found}, which belongs in a {like!r} file; "
        "rename the file."
    )
    readers = {
        "m.safetensors": [fm.load, lambda path: fm.load_weights(path, variables)],
        "m.keras": [fm.load, interop.load_keras, lambda path: interop.load_keras_weights(path, model, variables)],
        "m.weights.h5": [lambda path: interop.load_keras_weights(path, model, variables)],
    }
    for read in readers[false]:
        with raises(sentence):
            read(path)


# ---------------------------------------------------------------- callbacks and the command line


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        ("e{epoch}.safetensors", {}, b"{"),
        ("e{epoch}.safetensors", {"save_weights_only": True}, b"{"),
        ("e{epoch}.keras", {"save_best_only": True, "monitor": "loss"}, KERAS),
        ("e{epoch}-{loss:.1f}.weights.h5", {"save_weights_only": True}, "hdf5"),
    ],
)
def test_model_checkpoint_writes_the_format_of_its_suffix(name, arguments, wanted, tmp_path):
    trainer = Trainer(small()[0], "sgd", "mse")
    history = trainer.fit(X, Y, epochs=2, verbose=0, callbacks=[ModelCheckpoint(tmp_path / name, **arguments)])
    names = sorted(os.listdir(tmp_path))
    assert names == [name.format(epoch=i + 1, loss=loss) for i, loss in enumerate(history.history["loss"])]
    assert [content(tmp_path / name) for name in names] == [wanted] * 2
    if name.endswith(".weights.h5"):
        read = interop.load_keras_weights(tmp_path / names[-1], trainer.model, trainer.variables)
    elif "save_weights_only" in arguments:
        read = fm.load_weights(tmp_path / names[-1], trainer.variables)
    else:
        read = fm.load(tmp_path / names[-1])[1]
    assert_equal(read, trainer.variables)


def test_model_checkpoint_refuses_a_suffix_before_the_run(tmp_path):
    with raises(f"{NO_FORMAT}'best'; add a suffix."):
        ModelCheckpoint("best")
    with raises(f"{LEGACY}'best.h5'; use '.keras' for a model, or '.weights.h5' for weights alone."):
        ModelCheckpoint("best.h5", save_weights_only=True)
    with raises(
        "A '.keras' file always holds the architecture, got 'm.keras' with save_weights_only=True; "
        "use '.weights.h5' or '.safetensors' for weights alone."
    ):
        ModelCheckpoint("m.keras", save_weights_only=True)
    with raises(
        "A '.weights.h5' file holds weights alone, got 'm.weights.h5' with save_weights_only=False; "
        "use '.keras' or '.safetensors' for a whole model, or change the argument."
    ):
        ModelCheckpoint("m.weights.h5")


def test_model_checkpoint_refuses_a_model_before_the_first_epoch(tmp_path):
    """A layer that cannot be saved is refused before the first epoch, not after it."""
    trainer = Trainer(Sequential([Input((3,)), layers.Lambda(jnp.abs), layers.Dense(2)]), "sgd", "mse")
    with raises(
        "A Keras file supports only Keras' own layers, got a Lambda; replace it, or save the model as '.safetensors'."
    ):
        trainer.fit(X, Y, verbose=0, callbacks=[ModelCheckpoint(tmp_path / "m.keras")])
    with pytest.raises(ValueError, match=r"^A model file names layers of flaxmodels, but only code can describe"):
        trainer.fit(X, Y, verbose=0, callbacks=[ModelCheckpoint(tmp_path / "m.safetensors")])
    checkpoint = ModelCheckpoint(tmp_path / "m.weights.h5", save_weights_only=True)
    trainer.fit(X, Y, verbose=0, callbacks=[checkpoint])
    assert os.listdir(tmp_path) == ["m.weights.h5"]


def test_command_line_predicts_with_a_keras_file(tmp_path, capsys):
    from training.__main__ import app

    model, variables = small()
    fm.save(tmp_path / "m.keras", model, variables)
    np.save(tmp_path / "x.npy", X)
    app(["predict", str(tmp_path / "m.keras"), str(tmp_path / "x.npy")], standalone_mode=False)
    np.testing.assert_allclose(np.load(tmp_path / "x.predictions.npy"), model.apply(variables, X), rtol=1e-6)


# ---------------------------------------------------------------- the same bytes


SAVES = """
import sys, jax, jax.numpy as jnp, flaxmodels as fm
from flaxmodels import Input, Model, Sequential, layers
a, b = Input((4,), name="p"), Input((4,), name="q")
half = layers.Dense(2, dtype="bfloat16", param_dtype="bfloat16", kernel_regularizer="l2", name="z")
model = Model({"p": a, "q": b}, {"u": layers.BatchNormalization()(layers.Add()([a, b])), "v": half(a)})
init = jax.jit(model.init) if sys.argv[2] == "jit" else model.init
variables = init(jax.random.key(0), {"p": jnp.ones((1, 4)), "q": jnp.ones((1, 4))})
for suffix in (".safetensors", ".keras", ".weights.h5"):
    fm.save(sys.argv[1] + suffix, model, variables)
"""
SUFFIXES = (".safetensors", ".keras", ".weights.h5")


def test_bytes_are_equal_in_every_process(tmp_path):
    found = []
    for seed, how in (("1", "jit"), ("2", "plain")):
        # Freed memory is filled with different bytes in each process, so the files would differ if they contained any.
        environment = os.environ | {"PYTHONHASHSEED": seed, "MALLOC_PERTURB_": seed, "TZ": f"UTC{seed}"}
        command = [sys.executable, "-c", SAVES, str(tmp_path / seed), how]
        subprocess.run(command, check=True, env=environment)
        found.append([hashlib.sha256((tmp_path / f"{seed}{e}").read_bytes()).hexdigest() for e in SUFFIXES])
    assert found[0] == found[1]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bytes_are_equal_when_saved_again(suffix, tmp_path):
    model, variables = small()
    contents = set()
    for i in range(8):
        fm.save(tmp_path / f"{i}{suffix}", model, variables)
        contents.add((tmp_path / f"{i}{suffix}").read_bytes())
    assert len(contents) == 1


def test_loaded_model_is_saved_with_equal_bytes(tmp_path):
    model, variables = small()
    for suffix in (".safetensors", ".keras"):
        fm.save(tmp_path / f"a{suffix}", model, variables)
        fm.save(tmp_path / f"b{suffix}", *fm.load(tmp_path / f"a{suffix}"))
        fm.save(tmp_path / f"c{suffix}", *fm.load(tmp_path / f"b{suffix}"))
        assert (tmp_path / f"b{suffix}").read_bytes() == (tmp_path / f"c{suffix}").read_bytes()


def test_metadata_is_sorted(tmp_path):
    fm.save(tmp_path / "m.safetensors", *small())
    text = (tmp_path / "m.safetensors").read_bytes()
    header = json.loads(text[8 : 8 + int.from_bytes(text[:8], "little")])
    assert list(header["__metadata__"]) == ["digest", "flaxmodels", "model"]


# ---------------------------------------------------------------- failing writes


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failing_write_leaves_the_old_file(suffix, failing, tmp_path, monkeypatch):
    path = tmp_path / f"m{suffix}"
    fm.save(path, *small())
    before = path.read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, failing, fail)
    model, variables = small()
    sentence = (
        f"The model can't be written to {path} (disk full), and an existing file is unchanged; free some space, or choose "
        "another path."
    )
    with raises(sentence, OSError):
        fm.save(path, model, jax.tree.map(lambda x: x + 1, variables))
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
