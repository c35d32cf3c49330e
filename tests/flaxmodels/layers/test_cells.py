import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import interop, layers
from tests.support.recurrence_oracle import STEPS

rng = np.random.default_rng(0)


def draw(*shape):
    return rng.normal(size=shape).astype("float32")


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("use_bias", [True, False])
def test_one_step_matches_numpy(kind, use_bias):
    cell = getattr(layers, kind + "Cell")(4, use_bias=use_bias, bias_initializer="glorot_uniform")
    if kind == "SimpleRNN":
        cell = cell.clone(bias_initializer="ones")
    x, states = draw(3, 2), [draw(3, 4) for _ in range(2 if kind == "LSTM" else 1)]
    if kind == "LSTM":
        cell = cell.clone(bias_initializer="ones", unit_forget_bias=False)
    variables = cell.init(jax.random.key(0), x, states)
    weights = interop.get_keras_weights(cell, variables)
    output, new = jax.jit(cell.apply)(variables, x, states=states)
    assert isinstance(new, list)
    for row in range(3):
        h, last = STEPS[kind](x[row], tuple(s[row] for s in states), *weights)
        np.testing.assert_allclose(output[row], h, rtol=1e-5, atol=1e-6)
        for a, b in zip(new, last, strict=True):
            np.testing.assert_allclose(a[row], b, rtol=1e-5, atol=1e-6)


def test_states_keep_their_structure():
    cell, x, h = layers.GRUCell(3), draw(2, 4), draw(2, 3)
    variables = cell.init(jax.random.key(0), x, h)
    assert cell.apply(variables, x, h)[1].shape == (2, 3)
    assert isinstance(cell.apply(variables, x, [h])[1], list)
    assert isinstance(cell.apply(variables, x, (h,))[1], tuple)
    from_zeros = cell.apply(variables, x)[1]
    assert isinstance(from_zeros, list)
    assert (from_zeros[0] == cell.apply(variables, x, cell.get_initial_state(2))[1][0]).all()


def test_a_stack_equals_its_cells_in_sequence():
    cell = layers.StackedRNNCells([layers.LSTMCell(3), layers.GRUCell(2)])
    x, states = draw(2, 4), [[draw(2, 3), draw(2, 3)], [draw(2, 2)]]
    variables = cell.init(jax.random.key(0), x, states)
    assert set(variables["params"]) == {"cells_0", "cells_1"}
    y, ((h, c), (g,)) = cell.apply(variables, x, states)
    params = variables["params"]
    middle, (want_h, want_c) = layers.LSTMCell(3).apply({"params": params["cells_0"]}, x, states[0])
    want, (want_g,) = layers.GRUCell(2).apply({"params": params["cells_1"]}, middle, states[1])
    for a, b in ((y, want), (h, want_h), (c, want_c), (g, want_g)):
        assert (a == b).all()
    assert cell.state_size == [[3, 3], 2] and cell.output_size == 2
    zeros = cell.get_initial_state(batch_size=5)
    assert jax.tree.map(jnp.shape, zeros) == [[(5, 3), (5, 3)], [(5, 2)]]


def test_without_a_key_the_masks_of_inputs_and_states_differ():
    cell = layers.SimpleRNNCell(64, dropout=0.5, recurrent_dropout=0.5, seed=1)
    x = draw(2, 64)
    variables = cell.init(jax.random.key(0), x)
    masks = [
        cell.apply(variables, name, method=lambda m, name: m.masks(name, (2, 64), True)[0])
        for name in ("dropout", "recurrent_dropout")
    ]
    assert (masks[0] != masks[1]).any()


def test_sizes_equal_those_of_keras():
    assert layers.SimpleRNNCell(3).state_size == 3
    assert layers.GRUCell(3).state_size == layers.GRUCell(3).output_size == 3
    assert layers.LSTMCell(3).state_size == [3, 3]
    assert layers.RNN(layers.LSTMCell(3)).state_size == [3, 3]
    assert [s.shape for s in layers.RNN(layers.LSTMCell(3)).get_initial_state(batch_size=2)] == [(2, 3), (2, 3)]


ERRORS = {
    "rank": (
        lambda: layers.LSTMCell(3).init(jax.random.key(0), draw(2, 3, 4)),
        "LSTMCell takes inputs of 2 axes [B, F], got shape (2, 3, 4); remove an axis, or use a layer for 3 axes.",
    ),
    "states": (
        lambda: layers.LSTMCell(3).init(jax.random.key(0), draw(2, 3), [draw(2, 3)]),
        "LSTMCell takes states of shapes [(2, 3), (2, 3)], got shapes [(2, 3)]; give a list of arrays of these shapes.",
    ),
    "none": (
        lambda: layers.StackedRNNCells([]),
        "`cells` of StackedRNNCells must have at least one cell, got none; give a list of cells.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error_messages(name):
    call, message = ERRORS[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}(\n|$)"):
        call()
