"""The order of layers in graphs with masks, which decides the order of weights, compared with live Keras."""

import jax
import keras
import numpy as np
import pytest

import flaxmodels as fm
from flaxmodels import interop, keras_order
from tests.support.masked_graphs import Drawing, Library, attention_that_keeps_masks, data_for

pytestmark = pytest.mark.filterwarnings("ignore:Layer '.*' .of type")  # Keras warns if a layer drops a mask
KERAS = Library(keras.layers, keras.Input, keras.Model, keras.Sequential)
OURS = Library(fm.layers, fm.Input, fm.Model, fm.Sequential)


def relaxed(function, *args, **kwargs):
    """Calls Keras with rank and dtype promotion enabled."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return function(*args, **kwargs)


def names(model):
    """Returns the names of Keras' layers, including those of nested models."""
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    return [(layer.name, names(layer) if hasattr(layer, "layers") else None) for layer in layers]


def our_names(model):
    return [(name, our_names(layer) if hasattr(layer, "layers") else None) for name, layer in model.children()]


def outputs_of(tree):
    return [np.asarray(y) for y in jax.tree.leaves(tree)]


def assert_close(got, want):
    for a, b in zip(outputs_of(got), outputs_of(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def draw(number, *options):
    """Returns one graph in Keras, with random weights, and in this library."""
    theirs = relaxed(lambda: Drawing(KERAS, number, *options).model())
    rng = np.random.default_rng(number)
    theirs.set_weights([rng.uniform(-1, 1, w.shape).astype("float32") for w in theirs.get_weights()])
    return theirs, Drawing(OURS, number, *options).model()


def zeros(model, x):
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


@pytest.mark.parametrize("number", range(200))
def test_weights_of_random_graphs(number, tmp_path, monkeypatch):
    """Compares the order of layers, the list of weights, and files in both directions."""
    monkeypatch.setattr(keras.layers.MultiHeadAttention, "call", attention_that_keeps_masks)
    theirs, ours = draw(number)
    assert our_names(ours) == names(theirs)
    x = data_for(theirs.inputs)
    x = x if len(x) > 1 else x[0]
    want = relaxed(theirs, x, training=False)
    apply = jax.jit(ours.apply)
    assert_close(apply(interop.set_keras_weights(ours, zeros(ours, x), theirs.get_weights()), x), want)

    relaxed(theirs.save, tmp_path / "theirs.keras")
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    read, variables = fm.load(tmp_path / "theirs.keras")
    assert our_names(read) == names(theirs)
    assert_close(jax.jit(read.apply)(variables, x), want)
    variables = interop.load_keras_weights(tmp_path / "theirs.weights.h5", ours, zeros(ours, x))
    assert_close(apply(variables, x), want)

    fm.save(tmp_path / "ours.keras", ours, variables)
    assert_close(relaxed(relaxed(keras.models.load_model, tmp_path / "ours.keras"), x, training=False), want)
    interop.save_keras_weights(tmp_path / "ours.weights.h5", ours, variables)
    weights = theirs.get_weights()
    theirs.set_weights([w * 0 for w in weights])
    theirs.load_weights(tmp_path / "ours.weights.h5")
    for a, b in zip(theirs.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("number", range(200, 400))
def test_order_of_random_graphs(number):
    """Keras' graph may contain other masks than those Keras computes with; only the graph determines the order."""
    theirs, ours = draw(number, True, "mixed_bfloat16")
    assert our_names(ours) == names(theirs)


@pytest.mark.parametrize("number", range(400, 500))
def test_order_in_a_model_of_another_dtype(number, tmp_path):
    """Whether Keras keeps a mask depends on the dtypes of layers, which they may inherit from the model."""
    ours = Drawing(OURS, number, True, "float32").model()
    ours = fm.Model(ours.inputs, ours.outputs, dtype="mixed_bfloat16")
    rng, inputs = np.random.default_rng(number), data_for(jax.tree.leaves(ours.inputs))
    variables = jax.eval_shape(ours.init, jax.random.key(0), inputs if len(inputs) > 1 else inputs[0])
    variables = jax.tree.map(lambda leaf: rng.uniform(-1, 1, leaf.shape).astype(leaf.dtype), variables)
    fm.save(tmp_path / "m.keras", ours, variables)
    theirs = relaxed(keras.models.load_model, tmp_path / "m.keras")
    assert [name for name, _ in names(theirs)] == [layer.name for layer in ours.layers]
    for a, b in zip(theirs.get_weights(), interop.get_keras_weights(ours, variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_masks_change_the_order(monkeypatch):
    """Without masks the graphs above have other orders, so the comparison can fail."""
    graphs = [Drawing(OURS, number).model().graph for number in range(30)]
    orders = [graph.layers_in(None) for graph in graphs]
    monkeypatch.setattr(keras_order, "_keeps_mask", lambda node, dtype: False)
    without = [keras_order.in_keras_order(graph.nodes, graph.outputs) for graph in graphs]
    assert sum(order != layers for order, layers in zip(orders, without, strict=True)) >= 4


# ---------------------------------------------------------------- single cases


def two_branches(lib):
    """Makes branches with and without a mask; Keras interleaves their layers, which have equal shapes."""
    a, b = lib.Input((3, 3)), lib.Input((3,), dtype="int32")
    x = lib.layers.Dense(3, name="a1")(a)
    x = lib.layers.Dense(3, name="a2")(x)
    y = lib.layers.Embedding(6, 3, mask_zero=True, name="ids")(b)
    y = lib.layers.Dense(3, name="b")(y)
    y = lib.layers.LSTM(3, return_sequences=True, name="lstm")(y)
    joined = lib.layers.Concatenate(name="joined")([x, y])
    return lib.Model([a, b], lib.layers.Dense(1, name="head")(lib.layers.GRU(3, name="gru")(joined)))


ORDER = ["ids", "b", "a1", "lstm", "a2", "joined", "gru", "head"]


def test_two_branches(tmp_path):
    theirs, ours = relaxed(two_branches, KERAS), two_branches(OURS)
    assert [name for name, _ in names(theirs)] == ORDER == [layer.name for layer in ours.layers]
    x = [np.random.default_rng(0).normal(size=(4, 3, 3)).astype("float32"),
         np.array([[1, 2, 0], [3, 0, 0], [1, 2, 3], [5, 5, 0]])]  # fmt: skip
    want = relaxed(theirs, x)
    relaxed(theirs.save, tmp_path / "m.keras")
    theirs.save_weights(tmp_path / "m.weights.h5")
    read, variables = fm.load(tmp_path / "m.keras")
    assert_close(read.apply(variables, x), want)
    assert_close(ours.apply(interop.load_keras_weights(tmp_path / "m.weights.h5", ours, zeros(ours, x)), x), want)
    assert_close(ours.apply(interop.set_keras_weights(ours, zeros(ours, x), theirs.get_weights()), x), want)


def other_dtype(lib):
    """Keras casts the arguments of the second recurrent layer, so it keeps no mask; `Masking` casts its own."""
    x, s = lib.Input((4, 3)), lib.Input((4, 3))
    y = lib.layers.Masking(name="masking", dtype="mixed_bfloat16")(lib.layers.Dense(3, name="first")(x))
    y = lib.layers.GRU(3, return_sequences=True, name="gru", dtype="mixed_bfloat16")(y)
    y = lib.layers.GRU(3, return_sequences=True, name="float")(
        lib.layers.Dense(3, name="dense", dtype="mixed_bfloat16")(y)
    )
    s = lib.layers.Dense(3, name="b3")(lib.layers.Dense(3, name="b2")(lib.layers.Dense(3, name="b1")(s)))
    return lib.Model([x, s], lib.layers.Concatenate(name="joined")([y, s]))


def keyword(lib):
    """Keras converts the arguments of a call with keywords, so it keeps no mask."""
    x, s = lib.Input((4,), dtype="int32"), lib.Input((4, 3))
    training = {"training": False} if lib is KERAS else {"train": False}
    y = lib.layers.Embedding(6, 3, mask_zero=True, name="embedding")(x)
    y = lib.layers.GRU(3, return_sequences=True, name="gru")(lib.layers.Dense(3, name="dense")(y), **training)
    s = lib.layers.Dense(3, name="b2")(lib.layers.Dense(3, name="b1")(s))
    return lib.Model([x, s], lib.layers.Concatenate(name="joined")([y, s]))


def mask_as_input(lib):
    """A mask that is an input is passed to the next layer."""
    x, s, m = lib.Input((4, 3)), lib.Input((4, 3)), lib.Input((4,), dtype="bool")
    y = lib.layers.GRU(3, return_sequences=True, name="gru")(lib.layers.Dense(3, name="dense")(x), mask=m)
    y = lib.layers.LSTM(3, return_sequences=True, name="lstm")(y)
    s = lib.layers.Dense(3, name="b2")(lib.layers.Dense(3, name="b1")(s))
    return lib.Model([x, s, m], lib.layers.Concatenate(name="joined")([y, s]))


def reversible(lib):
    """Keras' graph has no mask after a ReversibleEmbedding."""
    x, s = lib.Input((4,), dtype="int32"), lib.Input((4, 3))
    y = lib.layers.ReversibleEmbedding(6, 3, mask_zero=True, name="embedding")(x)
    y = lib.layers.GRU(3, return_sequences=True, name="gru")(lib.layers.Dense(3, name="dense")(y))
    s = lib.layers.Dense(3, name="b2")(lib.layers.Dense(3, name="b1")(s))
    return lib.Model([x, s], lib.layers.Concatenate(name="joined")([y, s]))


def time_and_lists(lib):
    """Masks concatenated over time, of several ranks, and the lists that Bidirectional returns."""
    x, i, s = lib.Input((4, 3)), lib.Input((2, 4), dtype="int32"), lib.Input((4, 3))
    y = lib.layers.Concatenate(1, name="in_time")([lib.layers.Masking(name="masking")(x), x])
    a, b = lib.layers.Bidirectional(lib.layers.GRU(3, return_sequences=True), merge_mode=None, name="both")(y)
    y = lib.layers.LSTM(3, name="after_a")(a)
    b = lib.layers.LSTM(3, name="after_b")(lib.layers.Dense(3, name="dense")(b))
    e = lib.layers.Embedding(6, 3, mask_zero=True, name="embedding")(i)
    e = lib.layers.TimeDistributed(lib.layers.LSTM(3), name="inner")(e)
    e = lib.layers.GlobalMaxPooling1D(name="pool")(e)
    s = lib.layers.Dense(3, name="b2")(lib.layers.Dense(3, name="b1")(lib.layers.Dense(3, name="b0")(s)))
    s = lib.layers.GlobalMaxPooling1D(name="pool_s")(s)
    return lib.Model([x, i, s], lib.layers.Add(name="sum")([y, b, e, s]))


@pytest.mark.parametrize("make", [other_dtype, keyword, mask_as_input, reversible, time_and_lists])
@pytest.mark.spread
def test_order(make):
    theirs, ours = relaxed(make, KERAS), make(OURS)
    assert our_names(ours) == names(theirs)


def test_later_part_of_a_graph(tmp_path):
    """The inputs of the later part have no mask. Keras cannot build a model from such symbols, but can load one from a
    file."""
    x, s = fm.Input((4,), dtype="int32"), fm.Input((4, 3))
    middle = fm.layers.Embedding(6, 3, mask_zero=True)(x)
    y = fm.layers.GRU(3, return_sequences=True, name="gru")(fm.layers.Dense(3, name="dense")(middle))
    s0, s = s, fm.layers.Dense(3, name="b2")(fm.layers.Dense(3, name="b1")(s))
    model = fm.Model([middle, s0], fm.layers.Concatenate(name="joined")([y, s]))
    x = [np.ones((2, 4, 3), np.float32)] * 2
    fm.save(tmp_path / "m.keras", model, model.init(jax.random.key(0), x))
    assert names(relaxed(keras.models.load_model, tmp_path / "m.keras")) == our_names(model)
