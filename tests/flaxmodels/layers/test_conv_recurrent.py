import re

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from flaxmodels import Sequential, layers
from tests.support.recurrence_oracle import assert_as_keras

rng = np.random.default_rng(0)


def draw(*shape):
    return rng.normal(size=shape).astype("float32")


CASES = [
    (1, {"kernel_size": 3, "return_sequences": True, "dilation_rate": 2}, (2, 3, 7, 2), None),
    (1, {"kernel_size": 2, "use_bias": False, "data_format": "channels_first", "return_state": True}, (2, 3, 2, 5), 4),
    (2, {"kernel_size": (2, 3), "strides": (1, 2), "go_backwards": True, "activation": "relu"}, (2, 3, 4, 5, 1), None),
    (
        2,
        {"kernel_size": 3, "padding": "SAME", "data_format": "channels_first", "return_sequences": True},
        (1, 2, 2, 4, 3),
        (4, 3),
    ),
    (
        3,
        {"kernel_size": 2, "return_state": True, "recurrent_activation": "hard_sigmoid"},
        (1, 2, 3, 3, 3, 1),
        (2, 2, 2),
    ),
]


@pytest.mark.rotate
@pytest.mark.parametrize(("rank", "options", "shape", "size"), CASES)
def test_outputs_and_gradients_equal_keras(rank, options, shape, size):
    ours, theirs = (getattr(source, f"ConvLSTM{rank}D")(2, **options) for source in (layers, keras.layers))
    size = (size,) if isinstance(size, int) else size
    of = (shape[0], 2, *(size or ())) if "data_format" in options else (shape[0], *(size or ()), 2)
    assert_as_keras(ours, theirs, draw(*shape), None, None if size is None else [draw(*of), draw(*of)])


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_masked_steps_have_no_effect(data_format):
    options = {"kernel_size": 3, "padding": "same", "data_format": data_format, "return_state": True}
    layer = layers.ConvLSTM2D(2, return_sequences=True, **options)
    x = draw(2, 4, 3, 5, 4)
    mask = np.array([[False, True, False, True], [True, True, False, False]])
    variables = layer.init(jax.random.key(0), x)
    y, h, c = layer.apply(variables, x, mask=mask)
    for row in range(2):
        seen, last, cell = layer.apply(variables, x[row : row + 1, mask[row]])
        np.testing.assert_allclose(y[row, mask[row]], seen[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(h[row], last[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(c[row], cell[0], rtol=1e-5, atol=1e-6)
    assert not y[0, 0].any() and (y[0, 2] == y[0, 1]).all() and (y[1, 3] == y[1, 1]).all()


def test_one_step_by_hand():
    layer = layers.ConvLSTM1D(1, 2, activation=None, recurrent_activation=None, kernel_initializer="ones")
    x = jnp.array([[[[1.0], [2.0], [4.0]]]])
    # Window sums are 3 and 6, and the forget gate's bias is 1: c = i g = s s, h = o c = s s s.
    assert layer.apply(layer.init(jax.random.key(0), x), x).tolist() == [[[27.0], [216.0]]]


def test_dropout_masks_differ_per_gate_and_are_shared_over_time():
    layer = layers.ConvLSTM1D(2, 1, dropout=0.5, recurrent_dropout=0.5, seed=3, return_sequences=True)
    x = jnp.ones((2, 3, 8, 4))
    variables = layer.init(jax.random.key(0), x)
    z = layer.apply(
        variables, jnp.swapaxes(x, 0, 1), method=lambda m, xs: m.cell_functions(xs.shape[1:], True).project(xs)
    )
    assert z.shape == (3, 2, 8, 8)
    assert (z == z[:1]).all()
    assert (layer.apply(variables, x, train=True) != layer.apply(variables, x)).any()


def test_stacked_layers_in_a_model():
    model = Sequential(
        [
            layers.ConvLSTM2D(2, 3, return_sequences=True, dropout=0.1, input_shape=(None, 6, 6, 1)),
            layers.TimeDistributed(layers.MaxPooling2D()),
            layers.ConvLSTM2D(3, 2),
        ]
    )
    assert model.output_shape == (None, 1, 1, 3)
    variables = model.init(jax.random.key(0), draw(1, 3, 6, 6, 1))
    assert variables["params"]["conv_lstm2d"]["bias"].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


ERRORS = {
    "size": (
        lambda: layers.ConvLSTM1D(0, 3),
        "`filters` of ConvLSTM1D must be a positive integer, got 0; give 1 or more.",
    ),
    "window": (
        lambda: layers.ConvLSTM2D(2, (3, 3, 3)),
        "`kernel_size` of ConvLSTM2D must be an integer of at least 1, or a tuple of 2 of them, got (3, 3, 3); "
        "give 1 or more for each axis.",
    ),
    "both": (
        lambda: layers.ConvLSTM2D(2, 3, strides=2, dilation_rate=2),
        "ConvLSTM2D takes `strides` or `dilation_rate` above 1, not both, got strides=(2, 2) and "
        "dilation_rate=(2, 2); set one of them to 1.",
    ),
    "axes": (
        lambda: layers.ConvLSTM2D(2, 3).init(jax.random.key(0), draw(1, 4, 4, 1)),
        "ConvLSTM2D takes inputs of 5 axes [B, T, H, W, C], got shape (1, 4, 4, 1); "
        "add an axis, or use a layer for 4 axes.",
    ),
    "states": (
        lambda: layers.ConvLSTM1D(2, 3).init(jax.random.key(0), draw(1, 4, 5, 1), initial_state=[draw(1, 5, 2)] * 2),
        "ConvLSTM1D takes states of shapes [(1, 3, 2), (1, 3, 2)], got shapes [(1, 5, 2), (1, 5, 2)]; give a list "
        "of arrays of these shapes.",
    ),
    "zeros": (
        lambda: layers.ConvLSTM1D(2, 3).get_initial_state(4),
        "ConvLSTM1D cannot infer the size of its states without inputs, got only a batch size of 4; leave "
        "`initial_state` out to start with zeros.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error_messages(name):
    call, message = ERRORS[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}(\n|$)"):
        call()


def test_input_dropout_masks_differ_per_gate():
    # Without activations and recurrence, h = o i g. Each gate is 2 or 0, so h is 8 with a probability of 1/8.
    layer = layers.ConvLSTM1D(1, 1, activation=None, recurrent_activation=None, dropout=0.5, seed=3)
    variables = layer.init(jax.random.key(0), np.ones((1, 1, 4, 1), np.float32))
    params = jax.tree.map(jax.numpy.zeros_like, variables["params"])
    params["kernel"] = jax.numpy.ones_like(params["kernel"])
    h = layer.apply({"params": params}, np.ones((1, 1, 4000, 1), np.float32), train=True)
    assert set(np.unique(h)) == {0, 8}
    assert abs(np.mean(h == 8) - 1 / 8) < 0.03


def test_implementation_is_not_an_argument():
    with pytest.raises(TypeError, match="unexpected keyword argument 'implementation'"):
        layers.ConvLSTM1D(1, 1, implementation=2)
