"""Symbols: `Input`, recorded calls of layers, and inferred shapes."""

import re
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, layers
from flaxmodels.layers import symbolic
from flaxmodels.layers.base import Layer


def raises(kind, sentence):
    """Compares only the first line, because notes of this library and of JAX may follow on other lines."""
    return pytest.raises(kind, match=f"^{re.escape(sentence)}(\n|$)")


# ---------------------------------------------------------------- Input


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({"shape": (3, 4)}, (None, 3, 4)),
        ({"shape": [3, None]}, (None, 3, None)),
        ({"shape": 3}, (None, 3)),
        ({"shape": ()}, (None,)),
        ({"shape": (np.int64(3),)}, (None, 3)),
        ({"shape": (3,), "batch_size": 8}, (8, 3)),
        ({"batch_shape": (8, 3)}, (8, 3)),
        ({"batch_shape": (None, None)}, (None, None)),
    ],
)
def test_input_has_the_shape_with_the_batch(arguments, shape):
    symbol = Input(**arguments)
    assert symbol.shape == shape
    assert all(n is None or type(n) is int for n in symbol.shape)
    assert symbol.ndim == len(shape)
    assert symbol.node is None


@pytest.mark.parametrize(("dtype", "expected"), [(None, "float32"), ("int32", "int32"), (jnp.bfloat16, "bfloat16")])
def test_input_dtype(dtype, expected):
    assert Input((2,), dtype=dtype).dtype == jnp.dtype(expected)


def test_repr_names_the_source_of_a_symbol():
    x = Input((2,), name="pixels")
    assert repr(x) == "<Symbol shape=(None, 2) dtype=float32 input 'pixels'>"
    assert repr(layers.Dense(3)(x)) == "<Symbol shape=(None, 3) dtype=float32 output of Dense>"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {},
            "Input takes either `shape` or `batch_shape`, got shape=None and batch_shape=None; "
            "give `shape`, the shape of one example.",
        ),
        (
            {"shape": (2,), "batch_shape": (1, 2)},
            "Input takes either `shape` or `batch_shape`, got shape=(2,) and batch_shape=(1, 2); "
            "give `shape`, the shape of one example.",
        ),
        (
            {"batch_shape": (1, 2), "batch_size": 3},
            "Input takes the batch's size in `batch_shape` or as `batch_size`, got batch_shape=(1, 2) and "
            "batch_size=3; leave `batch_size` out.",
        ),
    ]
    + [
        (
            {"shape": shape},
            f"The sizes of an input shape must be positive integers or None, got {size!r} in {shape}; "
            "leave the batch out and give the shape of one example.",
        )
        for shape, size in [((0, 2), 0), ((-1,), -1), ((2.0,), 2.0), ((True,), True), (("a", "b"), "a")]
    ],
)
def test_input_refuses(arguments, sentence):
    with raises(ValueError, sentence):
        Input(**arguments)


def test_symbol_is_not_an_array():
    x = Input((2,))
    with raises(
        TypeError,
        "An array is needed here, got a symbol of shape (None, 2), which has no values; "
        "call layers on it, make a Model of inputs and outputs, and pass arrays to the model.",
    ):
        np.asarray(x)
    with raises(
        TypeError,
        "A boolean is needed here, got a symbol of shape (None, 2), which has no values; "
        "decide in Python before the graph is built, or inside a layer.",
    ):
        bool(x)


# ---------------------------------------------------------------- recorded calls


class Probe(Layer):
    """Returns outputs of a given shape and records the input shapes of its calls."""

    give: str = "two"
    TRIED: ClassVar[list] = []

    @nn.compact
    def compute(self, inputs, other=None, *, mask=None, train=False):
        self.TRIED.append(inputs.shape)
        if self.give == "two":
            return inputs, jnp.zeros((inputs.shape[0], 7), jnp.int32)
        if self.give == "dict":
            return {"b": inputs[:, :1], "a": inputs.sum()}
        if self.give == "flat":
            return inputs.reshape(inputs.shape[0], -1, 3)
        if self.give == "window":
            if inputs.shape[1] < 100:
                raise ValueError("too short")
            return inputs[:, 99:]
        if self.give == "never":
            raise ValueError("never")
        return inputs[:, : 2 if train else 1]


def test_call_records_a_node_with_its_arguments():
    x, y, layer = Input((2,)), Input((2,)), Probe()
    out, _ = layer(x, other=y, train=True)
    assert out.node.layer is layer
    assert out.node.args == (x,)
    assert out.node.kwargs == {"other": y, "train": True}
    assert out.node.symbols() == [x, y]


def test_later_calls_have_higher_order():
    x = Input((2,))
    first = layers.Dense(2)(x)
    assert layers.Dense(2)(first).node.order > first.node.order


def test_two_outputs_are_two_symbols():
    a, b = Probe()(Input((5,)))
    assert (a.shape, b.shape) == ((None, 5), (None, 7))
    assert (a.dtype, b.dtype) == (jnp.float32, jnp.int32)
    assert a.node is b.node


def test_outputs_keep_their_structure():
    out = Probe(give="dict")(Input((5,)))
    assert {name: symbol.shape for name, symbol in out.items()} == {"a": (), "b": (None, 1)}


def test_layer_with_a_state():
    y, h, c = layers.LSTM(3, return_state=True)(Input((4, 2)))
    assert (y.shape, h.shape, c.shape) == ((None, 3), (None, 3), (None, 3))


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (layers.Dense(2), (None, None, 5), (None, None, 2)),
        (layers.Dense(2), (8, 5), (8, 2)),
        (layers.Dense(2), (None, 61), (None, 2)),
        (layers.Dense(61), (None, 5), (None, 61)),
        (layers.Conv1D(4, 3, strides=2), (None, None, 5), (None, None, 4)),
        (layers.GlobalAveragePooling1D(), (None, None, 5), (None, 5)),
        (layers.LSTM(3, return_sequences=True), (None, None, 5), (None, None, 3)),
        (layers.LSTM(3), (None, None, 5), (None, 3)),
        (layers.Flatten(), (None, 3, 5), (None, 15)),
        (layers.Flatten(), (None, None, 5), (None, None)),
    ],
)
def test_unknown_sizes(layer, shape, expected):
    assert layer(Input(batch_shape=shape)).shape == expected


def test_shape_depends_on_given_train():
    x = Input((5,))
    assert Probe(give="train")(x).shape == (None, 1)
    assert Probe(give="train")(x, train=True).shape == (None, 2)


def test_larger_sizes_are_tried_if_a_layer_refuses_small_ones():
    Probe.TRIED.clear()
    assert Probe(give="window")(Input((None, 1))).shape == (None, None, 1)
    assert Probe.TRIED == [(61, 64, 1), (61, 960, 1), (61, 1440, 1)]
    assert layers.Conv1D(4, 80)(Input((None, 1))).shape == (None, None, 4)
    # 64 steps of 2 are not a multiple of 3, but 960 steps are.
    assert Probe(give="flat")(Input((None, 2))).shape == (None, None, 3)


@pytest.mark.parametrize(("shape", "tries"), [((4, 1), 1), ((None, 1), 3)])
def test_error_of_a_layer_is_raised(shape, tries):
    Probe.TRIED.clear()
    with raises(ValueError, "never") as caught:
        Probe(give="never")(Input(shape))
    assert len(Probe.TRIED) == tries
    note = "In this error, 61 represents the unknown batch size, and 64 any other unknown size."
    assert caught.value.__notes__[-1:] == [note]


def test_error_names_the_layer():
    with raises(
        ValueError, "Dense 'head' takes inputs of at least 2 axes [B, F], got shape (61,); add the missing axis."
    ):
        layers.Dense(2, name="head")(Input(()))


def test_shapes_are_inferred_without_running():
    huge = layers.Dense(10**6)(Input((10**6,)))
    assert huge.shape == (None, 10**6)


def test_first_argument_may_be_passed_by_its_name_in_compute():
    x = Input((5, 4))
    assert layers.Dense(3)(inputs=x).shape == (None, 5, 3)
    assert layers.MultiHeadAttention(2, 3)(query=x, value=x).shape == (None, 5, 4)


def test_symbols_in_a_tree():
    x, y = Input((2,)), Input((3,))
    assert symbolic.symbols_in({"b": [x, 1], "a": (y, None, jnp.ones(2))}) == [y, x]
