"""Malicious Keras files: each raises a one-sentence error before it uses much memory or time or touches another
file."""

import copy
import io
import json
import re
import stat
import time
import tracemalloc
import zipfile

import h5py
import jax
import numpy as np
import pytest

from flaxmodels import Input, Sequential, interop, layers, load
from flaxmodels.interop import keras_archive, keras_files

KEY = jax.random.key(0)
CONFIG, METADATA, WEIGHTS = keras_files.CONFIG, keras_files.METADATA, keras_files.WEIGHTS
MANY = 2**20


def raises(sentence):
    return pytest.raises(ValueError, match=f"^{re.escape(sentence)}$")


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """Returns the members of a valid file."""
    path = tmp_path_factory.mktemp("valid") / "model.keras"
    model = Sequential([Input((3,)), layers.Dense(2, activation="relu", name="dense")], name="sequential")
    interop.save_keras(path, model, model.init(KEY, np.ones((1, 3), np.float32)))
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.keras"


def write(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items() if isinstance(members, dict) else members:
            archive.writestr(name, content)


def refused(path, sentence):
    """Expects an error with this sentence, in bounded time and memory."""
    begin = time.monotonic()
    tracemalloc.start()
    try:
        with raises(sentence.replace("PATH", str(path))):
            interop.load_keras(path)
        assert tracemalloc.get_traced_memory()[1] < 3 * path.stat().st_size + 64 * MANY
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begin < 20


# ---------------------------------------------------------------- zip members


ONLY = f"PATH must contain only {CONFIG}, {METADATA} and {WEIGHTS}, but contains"


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../../evil.json", "assets/vocabulary.txt", "config.json/", "CONFIG.JSON"]
)
def test_other_members(valid, path, name):
    write(path, {**valid, name: b"x"})
    refused(path, f"{ONLY} {name!r} too; save it again with Keras.")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_members(valid, path):
    write(path, [*valid.items(), (CONFIG, b"{}")])
    refused(path, f"{ONLY} {CONFIG!r} twice; save it again with Keras.")


def test_members_that_are_links(valid, path):
    link = zipfile.ZipInfo(WEIGHTS)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    write(path, [(CONFIG, valid[CONFIG]), (link, b"/etc/passwd")])
    refused(path, f"{ONLY} {WEIGHTS!r} as something other than a file; save it again with Keras.")


def test_missing_members(valid, path):
    write(path, {METADATA: b"{}"})
    refused(path, f"PATH is not a Keras file: it has no {CONFIG} and no {WEIGHTS}; save it again with Keras.")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unsupported_compressions(valid, path, compression):
    write(path, valid, compression)
    refused(
        path,
        f"PATH contains {METADATA!r}, which is encrypted or uses an unsupported compression; save it again with Keras.",
    )


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_zip_bombs(valid, path, name):
    write(path, {**valid, name: bytes(200 * MANY)}, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as archive:
        stored = archive.getinfo(name).compress_size
    limit = min(4 * stored + MANY, keras_archive.MAX_CONFIG if name == CONFIG else 2**60)
    refused(
        path,
        f"PATH declares {200 * MANY} bytes for {name!r}, which takes {stored} bytes in the file, but at most "
        f"{limit} are allowed; save it again with Keras, which does not compress.",
    )


def test_more_bytes_than_declared(valid, path):
    """The table declares 100 bytes for compressed data of 200 million bytes."""
    write(path, {**valid, CONFIG: bytes(200 * MANY)}, zipfile.ZIP_DEFLATED)
    declared, content = (200 * MANY).to_bytes(4, "little"), path.read_bytes()
    assert content.count(declared) == 2
    path.write_bytes(content.replace(declared, (100).to_bytes(4, "little")))
    refused(path, f"PATH is not a Keras file or is damaged: Bad CRC-32 for file {CONFIG!r}; save it again.")


def test_members_before_the_start_of_the_file(valid, path):
    """The first bytes are removed, and with them a member that the table still lists."""
    write(path, valid)
    with zipfile.ZipFile(path) as archive:
        gone = archive.getinfo(CONFIG).header_offset + 5
    path.write_bytes(path.read_bytes()[gone:])
    refused(
        path, "PATH is not a Keras file or is damaged: it refers to a part 5 bytes before its start; save it again."
    )


def test_table_of_many_members(path):
    write(path, {f"{i:040}": b"" for i in range(15_000)})
    size = 15_000 * (46 + 40)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is not a Keras file or is damaged: it declares a part of {size} bytes, but at most 1048576 are allowed; save it again\.$"):  # fmt: skip
        interop.load_keras(path)


def test_compressed_by_a_user(valid, path):
    write(path, valid, zipfile.ZIP_DEFLATED)
    model, variables = interop.load_keras(path)
    assert model.apply(variables, np.ones((1, 3), np.float32)).shape == (1, 2)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_truncated(valid, path, share):
    write(path, valid)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path, "PATH is not a Keras file or is damaged: File is not a zip file; save it again.")


# ---------------------------------------------------------------- architecture


def changed(valid, change):
    config = json.loads(valid[CONFIG])
    change(config)
    return {**valid, CONFIG: json.dumps(config)}


def dense(config):
    return config["config"]["layers"][1]


def arguments(**given):
    return lambda config: dense(config)["config"].update(given)


def entries(**given):
    return lambda config: dense(config).update(given)


def function(name, module="builtins", registered=None):
    return {"module": module, "class_name": "function", "config": name, "registered_name": registered}


def foreign(name, module, registered=None):
    return (
        f"it names {name!r} of {module!r}, registered as {str(registered)!r}, but only Keras' own layers and "
        "functions are supported; build such a model in code, or pass what it names in custom_objects of "
        "training.keras.saving.load_model"
    )


CODE = {"class_name": "__lambda__", "config": {"value": ["4wEAAAAAAAAA", None, None]}}
SUPPORTED = ", ".join(repr(name) for name in sorted(keras_files.keras_config.LAYERS))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (entries(class_name="Lambda", config={"name": "l", "function": CODE}),
         "it has a Lambda layer, whose code is never run; use another layer"),
        (arguments(activation=CODE), "it contains the code of a lambda, which is never run; use the name of a Keras function"),
        (arguments(kernel_initializer=CODE), "it contains the code of a lambda, which is never run; use the name of a Keras function"),
        (entries(class_name="Frobnicate"), f"Unknown layer 'Frobnicate' in a Keras file. Known: {SUPPORTED}"),
        (entries(module="os"), foreign("Dense", "os")),
        (entries(module="keras.src.utils.python_utils"), foreign("Dense", "keras.src.utils.python_utils")),
        (entries(registered_name="evil>Dense"), foreign("Dense", "keras.layers", "evil>Dense")),
        (entries(module=None), foreign("Dense", "None")),
        (arguments(activation=function("system", "os")), foreign("system", "os")),
        (arguments(activation=function("relu", registered="evil>relu")), foreign("relu", "builtins", "evil>relu")),
        (arguments(kernel_initializer=function("load_model", "keras.saving")), foreign("load_model", "keras.saving")),
        (arguments(kernel_initializer=function("relu")),
         "`kernel_initializer` of Dense 'dense' cannot be used: Unknown initializer 'relu'. Known"),
        (arguments(activation="os.system"), "`activation` of Dense 'dense' cannot be used: Unknown activation 'os.system'. "),
        (arguments(units=-3), "`units` of Dense 'dense' must be a positive integer, got -3; give 1 or more"),
        (arguments(units=0), "`units` of Dense 'dense' must be a positive integer, got 0; give 1 or more"),
        (arguments(units=2.5), "`units` of Dense 'dense' must be"),
        (arguments(units=float("inf")), "`units` of Dense 'dense' must be"),
        (arguments(units="2"), "`units` of Dense 'dense' must be"),
        (arguments(name="a/b"), "The name of a layer must be a string without '/', got 'a/b' for Dense; "),
        (arguments(name=7), "each part must have a str 'name', got "),
        (arguments(weights=[1]), "Dense in a model file has unknown arguments ['weights']; known are "),
        (arguments(quantization_config={"class_name": "Int8QuantizationConfig", "module": "keras.quantizers", "config": {}}),
         foreign("Int8QuantizationConfig", "keras.quantizers")),
        (arguments(dtype="object"), "it has the unknown dtype 'object'"),
        (arguments(dtype={"class_name": "QuantizedDTypePolicy", "module": "keras", "config": {}}),
         "it has the dtype policy 'QuantizedDTypePolicy', which is not supported"),
        (arguments(activation={"class_name": "Dense", "module": "keras.layers", "config": {}}), ""),
        (entries(shared_object_id="x"), "The number of a shared layer in a model file must be an integer, got 'x'"),
        (entries(module=["keras.layers"]), "it names 'Dense' of \"['keras.layers']\", registered as 'None', but only "),
        (lambda c: c["config"]["layers"].append(copy.deepcopy(dense(c))), "Layers of one model need different names, got 'dense' 2 times; "),
        (lambda c: c["config"]["layers"].pop(0), "A Keras file needs a model whose input is known, got one without it; start it with Input(shape)"),
        (lambda c: c["config"]["layers"][0]["config"].update(batch_shape=[None, -3]), "The sizes of an input shape must be positive integers or None"),
        (lambda c: c["config"]["layers"][0]["config"].update(sparse=True), "it has an input that is sparse, but only dense inputs are supported; make it dense"),
        (lambda c: c.update(class_name="Functional", module="keras.src.models.functional"), "each part must have a str 'name', got "),
        (lambda c: c.update(class_name=["Sequential"]), "each part must have a str 'class_name', got "),
        (lambda c: c["config"].update(layers={}), "each part must have a list 'layers', got "),
    ],
)  # fmt: skip
@pytest.mark.spread
def test_architectures(valid, path, change, reason):
    write(path, changed(valid, change))
    with pytest.raises(
        ValueError, match=rf"^{re.escape(f'{path} describes no model that can be built: {reason}')}.*\.$"
    ):
        interop.load_keras(path)


def big(kind, shape, **config):
    layer = {"module": "keras.layers", "class_name": kind, "registered_name": None, "config": {"name": "big", **config}}

    def change(described):
        described["config"]["layers"][0]["config"]["batch_shape"] = [None, *shape]
        described["config"]["layers"][1] = layer

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (big("LSTM", (10**6, 1), units=1, unroll=True),
         "LSTM 'big' in a file must unroll at most 4096 steps, got 1000000"),
        (big("AdaptiveAveragePooling1D", (8, 1), output_size=10**10),
         "`output_size` of AdaptiveAveragePooling1D 'big' in a file must be at most 4096, got (10000000000,)"),
        (big("MaxPooling1D", (8, 1), pool_size=10**9, padding="same"),
         "`pool_size` of MaxPooling1D 'big' in a file must be at most 65536, got (1000000000,)"),
        (big("AveragePooling2D", (10**5, 10**5, 1), pool_size=2, padding="same"),
         "AveragePooling2D 'big' in a file must have at most 16777216 positions, got inputs of sizes [100000, 100000, 1]"),
        (big("Conv2D", (8, 8, 1), filters=1, kernel_size=10**5, padding="same"),
         "`kernel_size` of Conv2D 'big' in a file must be at most 65536, got (100000, 100000)"),
    ],
    ids=lambda value: "" if callable(value) else value.split("`")[-1].split(" in a")[0],
)  # fmt: skip
@pytest.mark.spread
def test_building_the_graph_is_bounded(valid, path, change, reason):
    write(path, changed(valid, change))
    refused(path, f"PATH describes no model that can be built: {reason}.")


def test_large_layers_are_within_bounds(valid, path):
    """A wide unrolled layer is accepted; only its missing weights raise."""
    write(path, changed(valid, big("LSTM", (3, 5000), units=5000, unroll=True)))
    with pytest.raises(ValueError, match=r"the config has lstm 'big', got weights of dense 'dense'; save it again"):
        interop.load_keras(path)


def test_building_the_graph_is_bounded_in_our_own_files(tmp_path):
    """A description of 300 bytes would take gigabytes."""
    path = tmp_path / "model.safetensors"
    layer = {"class": "AdaptiveAveragePooling1D", "config": {"output_size": 10**10}, "name": "big"}
    source = {"shape": [None, 8, 1], "dtype": "float32", "name": None}
    model = {"class": "Sequential", "config": {}, "input": source, "layers": [layer]}
    header = json.dumps({"__metadata__": {"flaxmodels": "1", "model": json.dumps(model)}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    sentence = (
        f"{path} describes no model that can be built: `output_size` of AdaptiveAveragePooling1D 'big' in a file "
        "must be at most 4096, got (10000000000,)."
    )
    with raises(sentence):
        load(path)


def test_shapes_are_compared_before_arrays_are_created(valid, path):
    write(path, changed(valid, arguments(units=10**30)))
    refused(
        path,
        f"The arrays in PATH do not fit the model: params/dense/bias has shape (2,), expected ({10**30},); "
        f"params/dense/kernel has shape (3, 2), expected (3, {10**30}).",
    )


def test_no_large_embedding_is_created(valid, path):
    """Names are compared before any array is created."""
    write(path, changed(valid, big("Embedding", (3,), input_dim=10**9, output_dim=10**4)))
    refused(
        path,
        "PATH contains weights that do not match its config: the config has embedding 'big', got weights of dense "
        "'dense'; save it again with Keras.",
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", f"PATH is damaged: its {CONFIG} is not valid JSON (Expecting value: line 1 column 1 (char 0)); save it "
             "again."),
        ("[" * 100_000, f"PATH is damaged: its {CONFIG} is not valid JSON (maximum recursion depth exceeded while "
                        "decoding a JSON array from a unicode string); save it again."),
        ('{"a":' * 100 + "1" + "}" * 100, "PATH has a config of more than 64 levels, or a string of more than 10000 characters; Keras writes no such file."),
        ("[" * 300_000, "PATH has a config of 300000 parts, but at most 250000 are allowed; Keras writes no such file."),
        (json.dumps({"class_name": "x" * 20_000}), "PATH has a config of more than 64 levels, or a string of more than 10000 characters; Keras writes no such file."),
        (json.dumps({"x" * 20_000: 1}), "PATH has a config of more than 64 levels, or a string of more than 10000 characters; Keras writes no such file."),
        ('{"a": 1, "a": 2}', f"PATH is damaged: its {CONFIG} is not valid JSON (one object has the key 'a' twice); save it again."),
        ('{"module": "keras.layers", "class_name": "Dropout", "config": {"rate": NaN}}',
         "PATH describes no model that can be built: NaN is not a valid argument of a layer, got it for 'rate'."),
        ("1" * 5000, f"PATH is damaged: its {CONFIG} is not valid JSON (Exceeds the limit (4300 digits) for integer "
                     "string conversion: value has 5000 digits; use sys.set_int_max_str_digits() to increase the "
                     "limit); save it again."),
        ("null", "PATH describes no model that can be built: each part must have a str 'class_name', got 'None'."),
    ],
    ids=["empty", "deep", "deeper", "parts", "string", "key", "twice", "nan", "digits", "null"],
)  # fmt: skip
@pytest.mark.spread
def test_json(valid, path, text, sentence):
    write(path, {**valid, CONFIG: text})
    refused(path, sentence)


def test_not_utf8(valid, path):
    write(path, {**valid, CONFIG: b"\xff\xfe"})
    refused(
        path,
        "PATH is not a Keras file or is damaged: 'utf-8' codec can't decode byte 0xff in position 0: invalid start "
        "byte; save it again.",
    )


# ---------------------------------------------------------------- graphs


def graph(path, change):
    """Writes a file of a two-input model after changing its config."""
    import flaxmodels as fm

    a, b = Input((3,), name="a"), Input((3,), name="b")
    first = layers.Dense(3, name="first")
    model = fm.Model([a, b], layers.Add(name="sum")([first(a), layers.Dense(3, name="second")(first(b))]))
    interop.save_keras(path, model, model.init(KEY, [np.ones((1, 3), np.float32)] * 2))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members[CONFIG])
    change({layer["name"]: layer for layer in config["config"]["layers"]}, config["config"])
    write(path, {**members, CONFIG: json.dumps(config)})


def history(layer, call=0):
    return layer["inbound_nodes"][call]["args"][0]["config"]["keras_history"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda named, c: history(named["first"], 1).__setitem__(0, "second"), "its graph has a cycle at "),
        (lambda named, c: history(named["second"]).__setitem__(0, "nowhere"), "it refers to call 1 of 'nowhere', which does not exist"),
        (lambda named, c: history(named["second"]).__setitem__(1, 99), "it refers to call 99 of 'first', which does not exist"),
        (lambda named, c: history(named["second"]).__setitem__(1, -1), "it refers to call -1 of 'first', which does not exist"),
        (lambda named, c: history(named["second"]).__setitem__(2, 99), "A model file refers to '[1, 99]', which does not exist"),
        (lambda named, c: history(named["second"]).__setitem__(2, -1), "it refers to call 1 of 'first', which does not exist"),
        (lambda named, c: history(named["second"]).append(1), "the history of a tensor must be [layer, call, output], got "),
        (lambda named, c: c.update(output_layers=[["sum", 0.5, 0]]), "it refers to call 0.5 of 'sum', which does not exist"),
        (lambda named, c: c.update(output_layers=None), "its inputs and outputs must be [layer, call, output], got 'None'"),
        (lambda named, c: c["layers"].append(named["first"]), "two layers have the name 'first'; give each a unique name"),
        (lambda named, c: named["first"].update(inbound_nodes=[[["a", 0, 0, {}]]]), "each part must have a list 'args', got "),
        (lambda named, c: c.update(input_layers=[["a", 0, 0]]), "The outputs of a Model must depend only on its `inputs`, got outputs that also need "),
    ],
)  # fmt: skip
@pytest.mark.spread
def test_graphs(path, change, reason):
    graph(path, change)
    with pytest.raises(
        ValueError, match=rf"^{re.escape(f'{path} describes no model that can be built: {reason}')}.*\.$"
    ):
        interop.load_keras(path)


# ---------------------------------------------------------------- arrays


AGAIN = "; save it again with Keras' save or save_weights."


def h5(change):
    """Returns the bytes of a valid weights file after applying `change` to it."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        group = file.create_group("layers/dense/vars")
        group["0"], group["1"] = np.ones((3, 2), np.float32), np.zeros(2, np.float32)
        change(file, group)
    return content.getvalue()


def external(file, group):
    del group["0"]
    group.create_dataset("0", (3, 2), np.float32, external=[("/etc/passwd", 0, 24)])


def virtual(file, group):
    del group["0"]
    layout = h5py.VirtualLayout((3, 2), np.float32)
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (3, 2))
    group.create_virtual_dataset("0", layout)


def replaced(**arguments):
    def change(file, group):
        del group["0"]
        group.create_dataset("0", **arguments)

    return change


def late(file, group):
    """Declares a shape without allocating any bytes for it."""
    del group["0"]
    space, settings = h5py.h5s.create_simple((2**40,)), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    h5py.h5d.create(group.id, b"0", h5py.h5t.NATIVE_FLOAT, space, settings)


def link(target, name="0"):
    def change(file, group):
        where = group if name == "0" else file
        if name in where:
            del where[name]
        where[name] = target

    return change


def circle(file, group):
    group["again"] = file["layers"]


def deep(file, group):
    file.create_group("/".join(["d"] * 250))


@pytest.mark.rotate
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (external, "refers to other data: the data of 'layers/dense/vars/0' is in another file"),
        (virtual, "refers to other data: 'layers/dense/vars/0' is a virtual dataset"),
        (link(h5py.ExternalLink("/etc/passwd", "/x")), "refers to other data: 'layers/dense/vars/0' is an external link"),
        (link(h5py.SoftLink("/layers/dense/vars/1")), "refers to other data: 'layers/dense/vars/0' is a soft link"),
        (link(h5py.ExternalLink("/etc/passwd", "/x"), "optimizer"), "refers to other data: 'optimizer' is an external link"),
        (circle, "has two names for one object, the second is 'layers/dense/vars/again'"),
        (lambda file, group: group.__setitem__("2", group["1"]), "has two names for one object, the second is 'layers/dense/vars/2'"),
        (replaced(shape=(3, 2), dtype=np.float32, chunks=(1, 2)), "stores 'layers/dense/vars/0' in chunks or compressed, but must store it contiguously"),
        (replaced(shape=(2**40,), dtype=np.float32, chunks=(2**20,), compression="gzip"), "stores 'layers/dense/vars/0' in chunks or compressed, but must store it contiguously"),
        (late, f"stores 0 bytes for 'layers/dense/vars/0' of shape ({2**40},), which needs {2**42}"),
        (replaced(data=b"text"), "contains an array that is not numeric, 'layers/dense/vars/0'"),
        (replaced(data=h5py.Empty("f")), "contains an empty dataset, 'layers/dense/vars/0'"),
        (replaced(shape=(3, 2), dtype=h5py.vlen_dtype(np.float32)), "contains an array that is not numeric, 'layers/dense/vars/0'"),
        (lambda file, group: group.__setitem__("t", np.dtype("f4")), "contains an object that is not an array, 'layers/dense/vars/t'"),
        (deep, "contains groups nested more than 200 deep"),
    ],
)  # fmt: skip
def test_arrays(valid, path, tmp_path, change, reason):
    content = h5(change)
    write(path, {**valid, WEIGHTS: content})
    refused(path, f"PATH {reason}{AGAIN}")
    alone = tmp_path / "m.weights.h5"
    alone.write_bytes(content)
    model = Sequential([Input((3,)), layers.Dense(2)])
    with raises(f"{alone} {reason}{AGAIN}"):
        interop.load_keras_weights(alone, model, model.init(KEY, np.ones((1, 3), np.float32)))


def test_an_optimizer_is_not_read(valid, path):
    write(path, {**valid, WEIGHTS: h5(lambda file, group: file.create_dataset("optimizer/vars/0", data=b"anything"))})
    interop.load_keras(path)


def test_all_differences_are_listed(valid, path):
    def change(file, group):
        del group["1"]
        group["7"] = np.ones(3, np.float32)
        file["more/vars/0"] = np.ones(1, np.float32)
        del group["0"]
        group["0"] = np.ones((2, 3), np.float32)

    write(path, {**valid, WEIGHTS: h5(change)})
    refused(
        path,
        "The arrays in PATH do not fit the model: params/dense/bias is missing; layers/dense/vars/7 is not expected; "
        "more/vars/0 is not expected; params/dense/kernel has shape (2, 3), expected (3, 2).",
    )


@pytest.mark.parametrize("size", [0, 100, 1000, -1])
def test_truncated_arrays(valid, path, size):
    write(path, {**valid, WEIGHTS: valid[WEIGHTS][:size]})
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is damaged: .*{re.escape(AGAIN)}$"):
        interop.load_keras(path)


# ---------------------------------------------------------------- writing


def test_error_messages_when_writing(tmp_path):
    model = Sequential([Input((3,)), layers.Lambda(jax.numpy.abs)])
    with raises(
        "A Keras file supports only Keras' own layers, got a Lambda; replace it, or save the model as '.safetensors'."
    ):
        interop.save_keras(tmp_path / "m.keras", model, {})
    assert not list(tmp_path.iterdir())
    with raises(
        "A Keras file needs a model whose input is known, got one without it; start it with Input(shape), or save only "
        "the weights."
    ):
        interop.save_keras(tmp_path / "m.keras", Sequential([layers.Dense(2)]), {})
    with raises(
        "The arrays in `variables` do not fit the model: params/dense/bias is missing; params/dense/kernel is missing."
    ):
        interop.save_keras(tmp_path / "m.keras", Sequential([Input((3,)), layers.Dense(2)]), {})
