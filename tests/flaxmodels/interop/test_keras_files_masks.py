"""Keras files of functional models whose masks are computed by operations are read with Keras' outputs."""

import json
import re
import zipfile

import jax
import numpy as np
import pytest

import flaxmodels as fm
from flaxmodels import interop

keras = pytest.importorskip("keras")
L = keras.layers

N, T = 6, 5
RNG = np.random.default_rng(0)
IDS = RNG.integers(1, 6, (N, T)).astype("int32")
STEPS = RNG.normal(size=(N, T, 3)).astype("float32")
for i, length in enumerate(RNG.integers(1, T + 1, N)):
    IDS[i, length:] = 0
    STEPS[i, (length + 1) % T :] = 0
IDS[3, 1] = 0  # a hole
STEPS[3, 1] = 0


def relaxed(function, *args, **kwargs):
    """Calls Keras with rank and dtype promotion enabled."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return function(*args, **kwargs)


def ids():
    return keras.Input((T,), dtype="int32")


def steps():
    return keras.Input((T, 3))


def embedded(x, size=3):
    return L.Embedding(6, size, mask_zero=True)(x)


# ---------------------------------------------------------------- models with the masks of their inputs


def last_layer():
    x = ids()
    return keras.Model(x, L.LSTM(3)(embedded(x)))


def sequences():
    x = ids()
    return keras.Model(x, L.Dense(2)(L.LSTM(3, return_sequences=True)(embedded(x))))


def from_sequential():
    model = keras.Sequential([ids(), L.Embedding(6, 3, mask_zero=True), L.GRU(3, return_sequences=True), L.LSTM(2)])
    return keras.Model(model.inputs[0], model.outputs[0])


def sequential():
    return keras.Sequential([ids(), L.Embedding(6, 3, mask_zero=True), L.LSTM(3, return_sequences=True), L.LSTM(2)])


def masking():
    x = steps()
    return keras.Model(x, L.SimpleRNN(2)(L.GRU(3, return_sequences=True)(L.Masking(0.0)(x))))


def masking_of_a_list():
    x = steps()
    return keras.Model(x, L.LSTM(2)(L.Masking([0.0, 0.0, 0.0])(x)))


def masking_inside():
    x = ids()
    return keras.Model(x, L.LSTM(2)(L.Masking(0.0)(L.ReLU()(L.Dense(1)(embedded(x))))))


def several_outputs():
    x, s = ids(), steps()
    y = L.Bidirectional(L.LSTM(2, return_sequences=True))(L.Masking()(s))
    return keras.Model([x, s], {"a": y, "b": L.TimeDistributed(L.Dense(2))(embedded(x)), "c": L.GRU(2)(y)})


def bidirectional_lists():
    x = ids()
    a, b = L.Bidirectional(L.LSTM(2, return_sequences=True), merge_mode=None)(embedded(x))
    y, *states = L.Bidirectional(L.GRU(2, return_sequences=True, return_state=True))(embedded(x))
    return keras.Model(x, [L.LSTM(2)(a), L.LSTM(2)(b), L.LSTM(2)(y), *states])


def averages():
    x = ids()
    h = L.Dropout(0.1)(L.LayerNormalization()(embedded(x)))
    return keras.Model(x, [L.GlobalAveragePooling1D()(h), L.BatchNormalization()(h), L.LSTM(2)(L.ELU()(h))])


def given_states():
    """Keras does not write the mask of a call with several tensors."""
    x = ids()
    e = embedded(x)
    y, h, c = L.LSTM(3, return_state=True)(e)
    decoded = L.LSTM(3, return_sequences=True)(e, initial_state=[h, c])
    both = L.Bidirectional(L.GRU(3))(e, initial_state=[h, c])
    return keras.Model(x, [L.Dense(2)(L.Dropout(0.1)(decoded)), L.GRU(3)(e, initial_state=h), both, y])


def added():
    x, y, s = ids(), ids(), steps()
    return keras.Model([x, y, s], L.LSTM(2)(L.Add()([embedded(x), L.Masking()(s), embedded(y)])))


def added_without_a_mask():
    x, s = ids(), steps()
    return keras.Model([x, s], L.LSTM(2)(L.Add()([embedded(x), s])))


def concatenated():
    x, s = ids(), steps()
    return keras.Model([x, s], L.LSTM(2)(L.Concatenate()([embedded(x), L.Masking()(s)])))


def concatenated_in_time():
    x, s, r = ids(), steps(), steps()
    y = L.Concatenate(axis=1)([embedded(x), s, L.Masking()(r)])
    return keras.Model([x, s, r], L.LSTM(2)(y))


def attention():
    x, s = ids(), steps()
    y = L.Attention()([embedded(x), L.Masking()(s)])
    return keras.Model([x, s], L.LSTM(2)(y))


def transformer():
    x = ids()
    e = embedded(x, 4)
    h = L.LayerNormalization()(L.Add()([e, L.MultiHeadAttention(2, 2)(e, e)]))
    return keras.Model(x, L.GlobalAveragePooling1D()(L.Add()([h, L.Dense(4)(h)])))


def shared():
    a, b, embedding, lstm = ids(), ids(), L.Embedding(6, 3, mask_zero=True), L.LSTM(2)
    return keras.Model([a, b], L.Concatenate()([lstm(embedding(a)), lstm(embedding(b))]))


def into_a_model():
    z = keras.Input((T, 3))
    h = L.LSTM(3, return_sequences=True)(z)
    inner = keras.Model(z, [h, L.LSTM(2)(h)], name="inner")
    x = ids()
    a, b = inner(embedded(x))
    return keras.Model(x, [L.LSTM(2)(a), b])


def out_of_a_model():
    z = ids()
    e = L.Embedding(6, 3, mask_zero=True)(z)
    inner = keras.Model(z, L.GRU(3, return_sequences=True)(e), name="inner")
    x = ids()
    return keras.Model(x, L.LSTM(2)(inner(x)))


def into_a_model_of_two_inputs():
    """Keras writes `mask=[None, None]` for the call of the innermost model, which has no effect on the masks."""
    a, b = steps(), steps()
    innermost = keras.Model([a, b], L.Add()([L.LSTM(3, return_sequences=True)(a), b]), name="inner_2")
    z = steps()
    inner = keras.Model(z, innermost([z, L.Dropout(0.1)(z)]), name="inner")
    x = ids()
    return keras.Model(x, L.Dense(2)(inner(embedded(x))))


def a_stack_inside():
    inner = keras.Sequential([keras.Input((T, 3)), L.LSTM(3, return_sequences=True)], name="inner")
    x = ids()
    return keras.Model(x, L.LSTM(2)(inner(embedded(x))))


def deeper_sequences():
    x = keras.Input((3, T), dtype="int32")
    return keras.Model(x, L.Dense(2)(L.TimeDistributed(L.LSTM(2))(embedded(x))))


def stacked_cells():
    x = ids()
    return keras.Model(x, L.RNN([L.LSTMCell(2), L.GRUCell(2)])(embedded(x)))


def asked_for():
    """Passes the result of `compute_mask` explicitly."""
    x, embedding = ids(), L.Embedding(6, 3, mask_zero=True)
    return keras.Model(x, L.LSTM(2)(embedding(x), mask=embedding.compute_mask(x)))


def an_input_as_mask():
    s, m = steps(), keras.Input((T,), dtype="bool")
    return keras.Model([s, m], L.LSTM(2)(L.LSTM(2, return_sequences=True)(s, mask=m)))


def lower_precision():
    x = keras.Input((T, 3))
    h = L.Masking(dtype="mixed_bfloat16")(x)
    return keras.Model(x, L.Activation("linear", dtype="float32")(L.GRU(2, dtype="mixed_bfloat16")(h)))


MODELS = [
    last_layer, sequences, from_sequential, sequential, masking, masking_of_a_list, masking_inside, several_outputs,
    bidirectional_lists, averages, given_states, added, added_without_a_mask, concatenated, concatenated_in_time, attention, transformer,
    shared, into_a_model, into_a_model_of_two_inputs, out_of_a_model, a_stack_inside, deeper_sequences, stacked_cells, asked_for, an_input_as_mask,
    lower_precision,
]  # fmt: skip


def inputs_for(model):
    def data(x, i):
        if x.dtype == "bool":
            return IDS > 0
        if x.dtype == "int32":
            return (
                np.roll(IDS, i, 0) if len(x.shape) == 2 else np.stack([IDS, np.roll(IDS, 1, 0), np.roll(IDS, 2, 0)], 1)
            )
        return np.roll(STEPS, i, 0)

    arrays = [data(x, i) for i, x in enumerate(model.inputs)]
    return arrays if len(arrays) > 1 else arrays[0]


def outputs_of(tree):
    return [np.asarray(y, np.float32) for y in jax.tree.leaves(tree)]


def operations_in(path):
    """Returns the operations that are nodes of the graph in a file."""
    with zipfile.ZipFile(path) as archive:
        text = archive.read("config.json").decode()
    return set(re.findall(r'"keras\.src\.ops\.\w+", "class_name": "(\w+)"', text))


# Keras warns that the mask of a nested model is lost, but it is not.
@pytest.mark.filterwarnings("ignore:Layer 'inner.*' .of type")
@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_masks_in_files(make, tmp_path):
    """Keras' file and our file of the same model give Keras' outputs in both libraries."""
    model = relaxed(make)
    x = inputs_for(model)
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(-1, 1, w.shape).astype(w.dtype) for w in model.get_weights()])
    want = outputs_of(relaxed(model, x, training=False))
    relaxed(model.save, tmp_path / "theirs.keras")
    ours, variables = fm.load(tmp_path / "theirs.keras")
    got = outputs_of(jax.jit(ours.apply)(variables, x))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 if make is not lower_precision else 1e-2)
    fm.save(tmp_path / "ours.safetensors", ours, variables)
    again, read = fm.load(tmp_path / "ours.safetensors")
    for a, b in zip(outputs_of(jax.jit(again.apply)(read, x)), got, strict=True):
        np.testing.assert_array_equal(a, b)
    fm.save(tmp_path / "ours.keras", ours, variables)
    assert not operations_in(tmp_path / "ours.keras")
    back = relaxed(keras.models.load_model, tmp_path / "ours.keras")
    for a, b in zip(outputs_of(relaxed(back, x, training=False)), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_masks_affect_the_outputs(tmp_path):
    """The outputs change without the mask, so that the comparison above can fail."""
    model = relaxed(last_layer)
    model.save(tmp_path / "m.keras")
    assert operations_in(tmp_path / "m.keras") == {"NotEqual"}
    ours, variables = fm.load(tmp_path / "m.keras")
    full = np.where(IDS == 0, 1, IDS)
    table = np.array(variables["params"][ours.children()[0][0]]["embedding"])
    table[1] = table[0]
    variables["params"][ours.children()[0][0]]["embedding"] = table
    assert np.abs(ours.apply(variables, IDS) - ours.apply(variables, full)).max() > 1e-3


def test_all_mask_operations_are_covered(tmp_path):
    found = set()
    for make in (added, concatenated_in_time, attention, lower_precision):
        relaxed(make).save(tmp_path / "m.keras")
        found |= operations_in(tmp_path / "m.keras")
    assert found == {kind for _, kind in interop.keras_masks.OPERATIONS}


# ---------------------------------------------------------------- masks and operations that are rejected


def refused(model, tmp_path, reason):
    path = tmp_path / "m.keras"
    relaxed(model.save, path)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} describes no model that can be built: {reason}.')}$"):
        fm.load(path)


@jax.numpy_rank_promotion("allow")
@jax.numpy_dtype_promotion("standard")
def test_other_masks_stay_arguments(tmp_path):
    """Covers the mask of other ids, of another number, and of an unmasked tensor."""
    x, y, s = ids(), ids(), steps()
    not_equal = keras.ops.not_equal
    either = keras.ops.logical_or(not_equal(y, 0), not_equal(x, 0))  # operands in another order
    inside = keras.ops.any(not_equal(s, 0.0), axis=-1)
    same(keras.Model([x, y], L.LSTM(2)(embedded(x), mask=not_equal(y, 0))), [IDS, IDS[::-1]], tmp_path)
    same(keras.Model(x, L.LSTM(2)(embedded(x), mask=not_equal(x, 1))), IDS, tmp_path)
    same(keras.Model([x, s], L.LSTM(2)(s, mask=not_equal(x, 0))), [IDS, STEPS], tmp_path)
    same(keras.Model(x, L.LSTM(2)(L.Embedding(6, 3)(x), mask=not_equal(x, 0))), IDS, tmp_path)
    same(keras.Model(s, L.LSTM(2)(L.Masking(0.5)(s), mask=inside)), STEPS, tmp_path)
    added = L.Add()([embedded(x), embedded(y)])
    same(keras.Model([x, y], L.LSTM(2)(added, mask=either)), [IDS, IDS[::-1]], tmp_path)


def same(model, inputs, tmp_path):
    """Checks that our library reads Keras' file with Keras' outputs, and that Keras reads ours."""
    want = outputs_of(model(inputs))
    model.save(tmp_path / "m.keras")
    ours, variables = fm.load(tmp_path / "m.keras")
    for got, expected in zip(outputs_of(ours.apply(variables, inputs)), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    fm.save(tmp_path / "ours.keras", ours, variables)
    for got, expected in zip(outputs_of(keras.models.load_model(tmp_path / "ours.keras")(inputs)), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@jax.numpy_rank_promotion("allow")
@jax.numpy_dtype_promotion("standard")
def test_the_mask_of_a_layer_without_mask_raises(tmp_path):
    """Keras does not give the mask to a recurrent layer with initial states, but passes it to the next layer."""
    x, h = ids(), keras.Input((3,))
    y = L.GRU(3, return_sequences=True)(embedded(x), initial_state=h)
    reason = (
        "{} takes the mask of a recurrent layer that is called with initial states, which has no mask in Keras; "
        "make the mask an input of the model"
    )
    attended = L.MultiHeadAttention(1, 2, name="attention")(y, y)
    refused(keras.Model([x, h], attended), tmp_path, reason.format("MultiHeadAttention 'attention'"))
    added = L.Add()([y, embedded(x)])
    lower = L.LSTM(2, name="lstm", dtype="mixed_bfloat16")(L.Activation("linear", dtype="float32")(added))
    refused(keras.Model([x, h], lower), tmp_path, reason.format("LSTM 'lstm'"))
    same(keras.Model([x, h], L.LSTM(2, name="lstm")(y)), [IDS, STEPS[:, 0]], tmp_path)


@jax.numpy_rank_promotion("allow")
@jax.numpy_dtype_promotion("standard")
def test_operations_on_data(tmp_path):
    x, s = ids(), steps()
    zero = keras.ops.cast(keras.ops.not_equal(x, 0), "float32")
    same(keras.Model(x, L.Dense(2)(zero)), IDS, tmp_path)
    same(keras.Model(s, keras.ops.expand_dims(s, -1)), STEPS, tmp_path)
    joined = keras.ops.concatenate([s, s], -1)
    same(keras.Model(s, [L.Dense(2)(s), L.Dense(2)(joined)]), STEPS, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"module": "os"},
        {"module": ["keras.src.ops.numpy"]},
        {"registered_name": "evil>NotEqual"},
        {"class_name": "Not"},
        {"config": {"name": "not_equal", "fn": "os.system"}},
    ],
    ids=str,
)
def test_nodes_that_only_look_like_operations(change, tmp_path):
    """Only nodes with the module, class and arguments of a known operation are accepted."""
    path = tmp_path / "m.keras"
    relaxed(last_layer).save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    (node,) = [layer for layer in config["config"]["layers"] if layer["class_name"] == "NotEqual"]
    node.update(change)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {"config.json": json.dumps(config)}).items():
            archive.writestr(name, content)
    with pytest.raises(
        ValueError, match=r"^.* describes no model that can be built: it names '\w+' of .* only Keras' own layers and"
    ):
        fm.load(path)


@jax.numpy_rank_promotion("allow")
@jax.numpy_dtype_promotion("standard")
def test_terms_stay_small(tmp_path):
    """Nested masks that are each used twice would expand to 2**200 operations."""
    x = ids()
    mask = keras.ops.not_equal(x, 0)
    for _ in range(200):
        mask = keras.ops.logical_or(mask, mask)
    same(keras.Model(x, L.LSTM(2)(embedded(x), mask=mask)), IDS, tmp_path)
