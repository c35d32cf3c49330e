"""Untrusted model files are either read or refused with one sentence."""

import inspect
import json
import os
import re
import struct
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxmodels as fm
from flaxmodels import Input, Model, Sequential, initializers, interop, layers, regularizers, saving
from flaxmodels.saving import schema
from flaxmodels.saving.format import MAX_HEADER_BYTES as LIMIT

KEY = jax.random.key(0)


def raises(sentence):
    return pytest.raises(ValueError, match=f"^{re.escape(sentence)}$")


def bits(tree):
    return {jax.tree_util.keystr(path): (x.dtype.name, x.shape, np.asarray(x).tobytes())
            for path, x in jax.tree.leaves_with_path(tree)}  # fmt: skip


def small(**arguments):
    model = Sequential([Input((3,)), layers.Dense(2, **arguments)])
    return model, {"params": {"dense": {"kernel": jnp.arange(6.0).reshape(3, 2), "bias": jnp.array([-0.0, jnp.nan])}}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


# ---------------------------------------------------------------- files that do not fit


def test_all_differences_are_listed(path):
    model, variables = small()
    params = variables["params"]["dense"]
    fm.save(path, model, {"params": {"dense": {"kernel": params["kernel"].T, "other": params["bias"]}}})
    differences = (
        f"The arrays in {path} do not fit the model: params/dense/bias is missing; "
        "params/dense/other is not expected; params/dense/kernel has shape (2, 3), expected (3, 2)."
    )
    with raises(differences):
        fm.load(path)
    with raises(differences):
        fm.load_weights(path, variables)


def write(path, header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def metadata(model="", version="1"):
    return {"__metadata__": {"flaxmodels": version, "model": model if isinstance(model, str) else json.dumps(model)}}


@pytest.mark.parametrize(
    ("content", "length"),
    [
        (b"", 0),
        (b"\x05\x00", 0),
        (struct.pack("<Q", 0) + b"{}", 0),
        (struct.pack("<Q", 3) + b"{}", 3),
        (struct.pack("<Q", 2**64 - 1) + b"{}", 2**64 - 1),
        (struct.pack("<Q", LIMIT + 1) + b" " * (LIMIT + 1), LIMIT + 1),
    ],
    ids=["empty", "short", "zero", "beyond", "huge", "too-long"],
)
def test_headers_of_impossible_length_are_refused(content, length, path):
    path.write_bytes(content)
    with raises(
        f"{path} is not a model file: its header should have 2 to {LIMIT} bytes within the file's {len(content)}, "
        f"got {length}; save the model again."
    ):
        fm.load(path)


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (b"{'a': 1}", "is damaged: its header is not valid JSON (Expecting property name enclosed in double quotes: "
                      "line 1 column 2 (char 1)); save the model again."),
        (b"\xff\xfe{}", "is damaged: its header is not valid JSON (Expecting value: line 1 column 1 (char 0)); save the "
                        "model again."),
        (b"[1]", "is not a model file: its header is not a JSON object; save the model again."),
        (b"12", "is not a model file: its header is not a JSON object; save the model again."),
        ({}, "was not written by flaxmodels; read it with safetensors."),
        ({"__metadata__": {"format": "pt"}}, "was not written by flaxmodels; read it with safetensors."),
        ({"__metadata__": []}, "was not written by flaxmodels; read it with safetensors."),
        ({"__metadata__": {"flaxmodels": "1", "model": {"class": "Dense"}}},
         "was not written by flaxmodels; read it with safetensors."),
        (metadata(version="2"), "has format '2', but this version reads '1'; install a newer version."),
        (metadata("{"), "is damaged: its header is not valid JSON (Expecting property name enclosed in double quotes: "
                        "line 1 column 2 (char 1)); save the model again."),
    ]
    + [
        (metadata() | {"x": entry}, f"is damaged: the shape of 'x' is {shape}; save the model again.")
        for entry, shape in [
            ({"shape": [-1]}, "[-1]"),
            ({"shape": [2**48]}, f"[{2**48}]"),
            ({"shape": [1.5]}, "[1.5]"),
            ({"shape": [True]}, "[True]"),
            ({"shape": "12"}, "12"),
            ({}, "None"),
            (7, "None"),
        ]
    ],
)  # fmt: skip
def test_invalid_headers_are_refused(header, sentence, path):
    write(path, header)
    with pytest.raises(ValueError) as caught:
        fm.load(path)
    assert str(caught.value) == f"{path} {sentence}"


def nested_in_itself(depth):
    inner = {"class": "Dense", "config": {"units": 1}}
    for _ in range(depth):
        inner = {"class": "TimeDistributed", "config": {"layer": {"layer": inner}}}
    return inner


def test_depth_is_limited(path):
    deep = f"{path} nests more than 64 levels deep; use a file that fm.save wrote."
    for levels in (65, 900):
        write(path, b"[" * levels + b"]" * levels)
        with raises(deep):
            fm.load(path)
    write(path, metadata(nested_in_itself(30)))
    with raises(deep):
        fm.load(path)
    write(path, b"[" * 10**6 + b"]" * 10**6)
    with pytest.raises(
        ValueError, match=rf"^{re.escape(str(path))} is damaged: its header is not valid JSON \(.*recursion"
    ):
        fm.load(path)


def test_brackets_in_names_do_not_count_as_depth(path):
    model = Sequential([Input((3,)), layers.Dense(2, name="[" * 100)])
    fm.save(path, model, model.init(KEY, jnp.ones((1, 3))))
    assert fm.load(path)[0].layers[0].name == "[" * 100


DENSE = {"class": "Dense", "config": {"units": 2}}
SOURCE = {"shape": [None, 3], "dtype": "float32", "name": None}


def sequence(*described, **changes):
    return {"class": "Sequential", "config": {}, "input": SOURCE, "layers": list(described)} | changes


def graph(**changes):
    call = {"layer": "dense", "args": [{"symbol": [-1, 0]}], "kwargs": {}}
    return {
        "class": "Model",
        "config": {},
        "sources": [SOURCE],
        "layers": {"dense": DENSE},
        "calls": [call | changes.pop("call", {})],
        "inputs": {"symbol": [-1, 0]},
        "outputs": {"symbol": [0, 0]},
    } | changes


def test_base_descriptions_are_valid(path):
    for described in (sequence(DENSE), graph()):
        write(path, metadata(described))
        with pytest.raises(ValueError, match="dense/kernel is missing"):
            fm.load(path)


KNOWN = ", ".join(repr(name) for name in sorted(schema._classes()))
UNITS = "`units` of Dense must be a positive integer, got {}; give 1 or more."
DENSE_KNOWN = sorted(
    "units activation use_bias kernel_initializer bias_initializer kernel_regularizer bias_regularizer "
    "kernel_constraint bias_constraint dtype param_dtype trainable activity_regularizer input_shape".split()
)


def part(kind, key, given):
    return f"Each part in a model file must have a {key!r} of type {kind}, got {str(given)[:80]!r}."


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        ([], part("str", "class", [])),
        ({"class": 3}, part("str", "class", {"class": 3})),
        ({"class": "Dense"}, part("dict", "config", {"class": "Dense"})),
        ({"class": "Sequential", "config": {}}, part("list", "layers", {"class": "Sequential", "config": {}})),
        (sequence(DENSE, config=None), part("dict", "config", sequence(DENSE, config=None))),
        (graph(calls=None), part("list", "calls", graph(calls=None))),
        (graph(calls=[3]), part("str", "layer", 3)),
        (sequence(DENSE, input=[1]), part("list", "shape", [1])),
        (sequence({"class": "os.system", "config": {}}), f"Unknown layer 'os.system' in a model file. Known: {KNOWN}."),
        (sequence({"class": "Lambda", "config": {}}), f"Unknown layer 'Lambda' in a model file. Known: {KNOWN}."),
        (sequence({"class": "Layer", "config": {}}), f"Unknown layer 'Layer' in a model file. Known: {KNOWN}."),
        (
            sequence({"class": "Dens", "config": {}}),
            f"Unknown layer 'Dens' in a model file. Did you mean 'Dense'? Known: {KNOWN}.",
        ),
        (
            sequence({"class": "Dense", "config": {"units": 2, "parent": 1, "__class__": 2}}),
            f"Dense in a model file has unknown arguments ['__class__', 'parent']; known are {DENSE_KNOWN}.",
        ),
        (
            sequence(DENSE, config={"layers": []}),
            "Sequential in a model file has unknown arguments ['layers']; known are "
            "['activity_regularizer', 'dtype', 'input_shape', 'param_dtype', 'trainable'].",
        ),
        (
            sequence({"class": "Dense", "config": {}}),
            "Dense in a model file can't be built: Dense.__init__() missing 1 required positional argument: 'units'.",
        ),
        (sequence(DENSE | {"name": 3}), "A name in a model file must be a string, got '3'."),
        (
            sequence(DENSE | {"name": "a/b"}),
            "The name of a layer must be a string without '/', got 'a/b' for Dense; use another character, such as '_'.",
        ),
        (sequence({"class": "Dense", "config": {"units": {"x": 1}}}),
         "A model file holds an unknown kind of value, \"{'x': 1}\"."),
        (sequence({"class": "Dense", "config": {"units": 2, "dtype": {"dtype": "object"}}}),
         "A model file names an unknown dtype, 'object'."),
        (sequence({"class": "Dense", "config": {"units": 2, "dtype": {"dtype": ["f4"]}}}),
         "A model file names an unknown dtype, \"['f4']\"."),
        (sequence(DENSE, input=SOURCE | {"dtype": "float31"}), "A model file names an unknown dtype, 'float31'."),
        (
            sequence(DENSE, input=SOURCE | {"shape": [None, -3]}),
            "The sizes of an input shape must be positive integers or None, got -3 in (None, -3); "
            "leave the batch out and give the shape of one example.",
        ),
        (
            sequence({"class": "Dense", "config": {"units": 2, "kernel_initializer": {"initializers": "exec"}}}),
            None,
        ),
        (graph(call={"layer": "other"}), "Unknown layer 'other' in the graph of a model file. Known: 'dense'."),
        (graph(call={"args": [{"symbol": [3, 0]}]}), "A model file refers to '[3, 0]', which does not exist."),
        (graph(outputs={"symbol": [0, 1]}), "A model file refers to '[0, 1]', which does not exist."),
        (graph(outputs={"symbol": [[], {}]}), "A model file refers to '[[], {}]', which does not exist."),
        (
            graph(outputs=3),
            "Model in a model file can't be built: The outputs of a Model must be symbols, made by Input(...) and by "
                "calling layers on them, got 3 of type int; "
            "write x = Input(shape), y = layer(x), Model(x, y).",
        ),
    ]
    + [
        (sequence({"class": "Dense", "config": {"units": units}}), UNITS.format(repr(units)))
        for units in (-1, 0, 1.5, None, "2", True, float("nan"), float("inf"))
    ],
)  # fmt: skip
def test_invalid_descriptions_are_refused(described, reason, path):
    write(path, metadata(described))
    if reason is None:
        kinds = (v for v in vars(initializers).values() if inspect.isclass(v))
        names = {kind.__name__ for kind in kinds if issubclass(kind, initializers.Initializer)}
        known = ", ".join(map(repr, sorted(names)))
        reason = f"Unknown initializer 'exec' in a model file. Known: {known}."
    with raises(f"{path} describes no model that can be built: {reason.rstrip('.')}."):
        fm.load(path)


@pytest.mark.parametrize(
    "described",
    [
        sequence({"class": "Dense", "config": {"units": 2, "dtype": "float33"}}),
        sequence({"class": "Dense", "config": {"units": 2, "kernel_initializer": 3}}),
        sequence({"class": "Dense", "config": {"units": 2, "activation": {"mapping": {}}}}),
        sequence({"class": "Conv2D", "config": {"filters": 2, "kernel_size": {"mapping": {"a": None}}}}),
        sequence({"class": "Reshape", "config": {"target_shape": ["a", -7]}}),
        sequence({"class": "TimeDistributed", "config": {"layer": 3}}),
        sequence({"class": "Embedding", "config": {"input_dim": 2, "output_dim": 2, "weights": {"array": [[1], 2]}}}),
        graph(call={"kwargs": {"method": "summary"}}),
        graph(call={"kwargs": {"mutable": ["params"]}}),
        graph(call={"args": []}),
        graph(call={"args": [1, 2, 3]}),
        graph(layers={"dense": None}),
        graph(inputs=None),
    ],
)
def test_invalid_descriptions_give_one_line(described, path):
    """The error of the layer, Python or JAX becomes one line that names the file."""
    write(path, metadata(described))
    with pytest.raises(ValueError) as caught:
        fm.load(path)
    assert str(caught.value).startswith(f"{path} describes no model that can be built: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("size", [10**9, 10**30])
def test_huge_sizes_allocate_nothing(size, path):
    for described in (
        sequence({"class": "Dense", "config": {"units": size}}),
        sequence(DENSE, input=SOURCE | {"shape": [None, size]}),
    ):
        write(path, metadata(described))
        with raises(
            f"The arrays in {path} do not fit the model: params/dense/bias is missing; params/dense/kernel is missing."
        ):
            fm.load(path)


def test_number_of_nested_calls_is_limited(path):
    """Ten nested models of ten calls each make a small file that describes ten billion calls."""
    inner = sequence(DENSE | {"config": {"units": 3}})
    for _ in range(10):
        calls = [{"layer": "inner", "args": [{"symbol": [i - 1, 0]}], "kwargs": {}} for i in range(10)]
        inner = graph(layers={"inner": inner}, calls=calls, outputs={"symbol": [9, 0]})
    write(path, metadata(inner))
    with raises(
        f"{path} describes no model that can be built: it calls {2 * 10**10} layers, but at most 5000 are allowed."
    ):
        fm.load(path)


# ---------------------------------------------------------------- missing arrays


def tensors(**entries):
    header = metadata(sequence(DENSE, input=None))
    for name, (dtype, shape, offsets) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return header


@pytest.mark.parametrize(
    "entries",
    [
        {"a": ("F32", [2], [0, 4])},
        {"a": ("F32", [2], [0, 80])},
        {"a": ("F32", [2], [-8, 0])},
        {"a": ("F32", [2**40, 2**40], [0, 8])},
        {"a": ("F32", [2**47], [0, 2**49])},
        {"a": ("F32", [2], [0, 8]), "b": ("F32", [2], [0, 8])},
        {"a": ("F31", [2], [0, 8])},
        {"a": ("I4", [16], [0, 8])},
        {"a": ("F32", [1], [0, 4]), "a/b": ("F32", [1], [4, 8])},
    ],
)
def test_invalid_arrays_are_refused(entries, path):
    write(path, tensors(**entries), b"\0" * 8)
    with pytest.raises(ValueError) as caught:
        fm.load(path)
    assert re.fullmatch(rf"{re.escape(str(path))} is damaged: .+; save the model again\.", str(caught.value))


def test_refusing_allocates_no_memory(path):
    write(path, tensors(a=("F32", [2**47], [0, 2**49])) | {"__metadata__": metadata(sequence(DENSE))["__metadata__"]})
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="a is not expected"):
            fm.load(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_header_of_too_many_parts_is_refused(path):
    parts = LIMIT // 3
    write(path, b"[" + b"[]," * (parts - 2) + b"[]]")
    with raises(f"{path} describes {parts} parts, but at most 1000000 are allowed; use a file that fm.save wrote."):
        fm.load(path)


def test_truncated_files_are_refused(path):
    model, variables = small()
    fm.save(path, model, variables)
    whole = path.read_bytes()
    for end in [*range(0, len(whole), 29), len(whole) - 1]:
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError) as caught:
            fm.load(path)
        assert str(caught.value).startswith(str(path)) and str(caught.value).endswith("save the model again.")
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="is damaged"):
        fm.load(path)


def without_digest(content):
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"]["digest"]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def test_changed_bytes_are_refused_or_have_no_effect(path):
    model = Sequential([Input((3,)), layers.Dense(2, "relu")])
    variables = model.init(KEY, jnp.ones((1, 3)))
    fm.save(path, model, variables)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    data = len(whole) - 4 * 8  # where the arrays begin
    places = [*range(0, data, 5), *range(data, len(whole))]
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            loaded = fm.load(path)
        except ValueError as error:
            refused += 1
            if place >= data:
                assert (
                    str(error) == f"{path} is damaged: its content differs from what was written; save the model again."
                )
        else:
            assert place < data and saving.to_config(loaded[0]) == saving.to_config(model)
            assert bits(loaded[1]) == bits(variables)
    assert refused > 0.9 * len(places)


def test_file_without_digest_is_read(path):
    model, variables = small()
    fm.save(path, model, variables)
    path.write_bytes(without_digest(path.read_bytes()))
    assert bits(fm.load(path)[1]) == bits(variables)


def test_mutations_either_load_or_are_refused(path):
    """Files with changed bytes or words are either read or rejected with a ValueError."""
    rng = np.random.default_rng(0)
    x, dense = Input((3,)), layers.Dense(2, "relu", kernel_regularizer=regularizers.L2(0.1))
    model = Model(x, layers.Add()([dense(x), dense(x)]))
    fm.save(path, model, model.init(KEY, jnp.ones((1, 3))))
    whole = without_digest(path.read_bytes())  # the digest would reject nearly all mutations
    length = struct.unpack("<Q", whole[:8])[0]
    words = [b"null", b"-1", b"1e9", b"[]", b"{}", b'\\"Dense\\"', b"true", b"99999999999999999999", b"NaN", b"3"]
    loaded = 0
    for i in range(200):
        content = bytearray(whole)
        if i % 2:  # replaces a word of the header, and corrects the header's length
            header = bytes(content[8 : 8 + length])
            found = list(re.finditer(rb'\\"[a-z_A-Z0-9]+\\"|-?\d+(\.\d+)?|null|true', header))
            place = found[rng.integers(len(found))]
            header = header[: place.start()] + words[rng.integers(len(words))] + header[place.end() :]
            content = bytearray(struct.pack("<Q", len(header)) + header + bytes(content[8 + length :]))
        else:
            a, n = int(rng.integers(len(content))), int(rng.integers(1, 9))
            kind = rng.integers(3)
            content[a : a + n] = [rng.bytes(n), b"", bytes(content[a : a + n]) * 2][kind]
        path.write_bytes(bytes(content))
        try:
            fm.load(path)
            loaded += 1
        except ValueError as error:
            assert str(error).startswith((str(path), f"The arrays in {path}")), error
            assert len(str(error).splitlines()) == 1
    assert 0 < loaded < 100


# ---------------------------------------------------------------- paths that are not files


def test_pipes_are_refused_without_waiting(tmp_path):
    """Opening a pipe would wait until a process writes to it."""
    model, variables = small()
    for name, read in {
        "m.safetensors": fm.load,
        "m.keras": interop.load_keras,
        "m.weights.h5": lambda path: interop.load_keras_weights(path, model, variables),
    }.items():
        os.mkfifo(tmp_path / name)
        for path in (tmp_path / name, tmp_path, tmp_path / f"no {name}"):
            sentence = f"There is no model file at {path}; give the path that it was saved to."
            with pytest.raises(FileNotFoundError, match=f"^{re.escape(sentence)}$"):
                read(path)


def test_folder_is_not_overwritten(tmp_path):
    model, variables = small()
    for name, save in {
        "m.safetensors": fm.save,
        "m.keras": interop.save_keras,
        "m.weights.h5": interop.save_keras_weights,
    }.items():
        path = tmp_path / name
        path.mkdir()
        sentence = f"A model is saved in a file, but {path} is a folder; add a file name."
        with pytest.raises(IsADirectoryError, match=f"^{re.escape(sentence)}$"):
            save(path, model, variables)
    assert len(list(tmp_path.iterdir())) == 3


def test_sparse_file_allocates_no_memory(path, tmp_path):
    """The file is a terabyte long but takes no space on the disk."""
    for name, read in {"m.safetensors": fm.load, "m.keras": interop.load_keras}.items():
        with open(tmp_path / name, "wb") as file:
            file.write(struct.pack("<Q", 100))
            file.truncate(2**40)
        tracemalloc.start()
        try:
            with pytest.raises(
                ValueError, match="is damaged: its header is not valid JSON|is not a Keras file or is damaged: File"
            ):
                read(tmp_path / name)
            assert tracemalloc.get_traced_memory()[1] < 2**24
        finally:
            tracemalloc.stop()
