import re

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from flaxmodels import Input, Model, Sequential, interop, layers
from flaxmodels.inspection import weights_of
from tests.support.recurrence_oracle import MASKS, assert_as_keras, loop

KINDS = {"LSTM": 2, "GRU": 1, "SimpleRNN": 1}
rng = np.random.default_rng(0)


def draw(*shape):
    return rng.normal(size=shape).astype("float32")


def variables_of(layer, x, seed=3):
    variables = layer.init(jax.random.key(0), x)
    weights = interop.get_keras_weights(layer, variables)
    rng = np.random.default_rng(seed)
    return interop.set_keras_weights(layer, variables, [rng.normal(size=w.shape) * 0.5 for w in weights])


@pytest.mark.parametrize("mask_kind", MASKS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("go_backwards", [False, True])
def test_every_mask_matches_a_numpy_loop_in_float64(kind, mask_kind, go_backwards):
    with jax.enable_x64(True):
        rng = np.random.default_rng(len(kind + mask_kind))
        b, t, f, u = 4, 6, 3, 5
        x, mask = rng.normal(size=(b, t, f)), MASKS[mask_kind](b, t, rng)
        states = [rng.normal(size=(b, u)) for _ in range(KINDS[kind])]
        options = {"return_sequences": True, "return_state": True, "go_backwards": go_backwards}
        layer = getattr(layers, kind)(u, param_dtype=jnp.float64, **options)
        variables = variables_of(layer, x)
        weights = interop.get_keras_weights(layer, variables)
        want, last = loop(kind, x, mask, states, weights, go_backwards)
        y, *got = layer.apply(variables, x, mask=mask, initial_state=states)
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y, want, rtol=1e-12, atol=1e-12)
        for a, b in zip(got, last, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


CASES = [
    ("LSTM", {}, "none", False),
    ("LSTM", {"return_sequences": True, "return_state": True, "go_backwards": True}, "holes", True),
    ("LSTM", {"activation": "relu", "recurrent_activation": "hard_sigmoid", "use_bias": False}, "left", False),
    ("LSTM", {"unroll": True, "return_sequences": True, "zero_output_for_mask": True}, "left", True),
    ("LSTM", {"implementation": 1, "zero_output_for_mask": True}, "right", False),
    ("GRU", {"return_sequences": True, "zero_output_for_mask": True}, "holes", True),
    ("GRU", {"reset_after": False, "return_state": True}, "row", True),
    ("GRU", {"reset_after": False, "use_bias": False, "activation": None}, "none", False),
    ("GRU", {"go_backwards": True, "stateful": True, "unroll": True}, "row", False),
    ("SimpleRNN", {"return_sequences": True, "go_backwards": True, "return_state": True}, "right", True),
    ("SimpleRNN", {"use_bias": False, "activation": "sigmoid", "unroll": True}, "left", True),
]


@pytest.mark.parametrize(("kind", "options", "mask_kind", "with_state"), CASES)
def test_outputs_and_gradients_equal_keras(kind, options, mask_kind, with_state):
    rng = np.random.default_rng(5)
    mask = MASKS[mask_kind](3, 5, rng)
    state = [draw(3, 4) for _ in range(KINDS[kind])] if with_state else None
    make = [getattr(source, kind)(4, **options) for source in (layers, keras.layers)]
    assert_as_keras(*make, draw(3, 5, 2), mask, state)


@pytest.mark.rotate
@pytest.mark.parametrize(
    ("cells", "options", "mask_kind"),
    [
        (["LSTMCell"], {"return_state": True}, "holes"),
        (["SimpleRNNCell", "GRUCell"], {"return_sequences": True, "return_state": True}, "left"),
        (["LSTMCell", "GRUCell", "LSTMCell"], {"go_backwards": True, "unroll": True}, "row"),
        (["GRUCell", "SimpleRNNCell"], {"zero_output_for_mask": True, "return_sequences": True}, "right"),
    ],
)
def test_rnn_of_cells_equals_keras(cells, options, mask_kind):
    def make(source):
        made = [getattr(source, name)(3 + i) for i, name in enumerate(cells)]
        return source.RNN(made if len(made) > 1 else made[0], **options)

    mask = MASKS[mask_kind](3, 5, np.random.default_rng(2))
    assert_as_keras(make(layers), make(keras.layers), draw(3, 5, 2), mask)


class Minimal(layers.Layer):
    """A custom cell as in Keras' guide: h' = x @ kernel + h @ recurrent_kernel."""

    units: int
    kernel_initializer: str = "ones"
    recurrent_kernel_initializer: str = "ones"
    kernel_regularizer: str = "l2"

    WEIGHTS = ("kernel", "recurrent_kernel")

    @property
    def state_size(self):
        return self.units

    @layers.base.nn.compact
    def compute(self, inputs, states, *, train=False):
        kernel = self.add_weight("kernel", (inputs.shape[-1], self.units))
        h = inputs @ kernel + states[0] @ self.add_weight("recurrent_kernel", (self.units, self.units))
        return 2 * h + (100 if train else 0), [h]


def test_rnn_of_a_custom_cell():
    layer = layers.RNN(Minimal(1), return_sequences=True, return_state=True)
    x, mask = jnp.array([[[1.0], [10.0], [100.0]]]), jnp.array([[True, False, True]])
    variables = layer.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables["params"]) == {"cell": {"kernel": (1, 1), "recurrent_kernel": (1, 1)}}
    # Hand-computed values; the masked step repeats the output, not the state.
    y, h = layer.apply(variables, x, mask=mask, initial_state=[jnp.array([[1000.0]])])
    assert (y.ravel().tolist(), h.tolist()) == ([2002.0, 2002.0, 2202.0], [[1101.0]])
    y, _ = layer.apply(variables, x, train=True)
    assert y.ravel().tolist() == [102.0, 122.0, 322.0]
    _, losses = layer.apply(variables, x, mutable=["losses"])
    np.testing.assert_allclose(jax.tree.leaves(losses), [0.01])
    unit = jax.grad(lambda v: layer.apply(v, x)[0].sum())(variables)["params"]["cell"]["kernel"]
    assert unit.tolist() == [[2 * (3 * 1 + 2 * 10 + 100)]]


def test_a_linen_cell_in_a_stack():
    class Counter(layers.base.nn.Module):
        state_size = 2

        def __call__(self, inputs, states):
            return states[0] + 1, [states[0] + 1]

    layer = layers.RNN([layers.GRUCell(2), Counter()], return_state=True)
    y, h, count = layer.apply(layer.init(jax.random.key(0), draw(1, 4, 3)), draw(1, 4, 3))
    assert y.tolist() == count[0].tolist() == [[4.0, 4.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fully_masked_row_gives_zeros(kind):
    layer = getattr(layers, kind)(3, return_sequences=True)
    x = draw(2, 4, 2)
    y = layer.apply(variables_of(layer, x), x, mask=np.array([[False] * 4, [True] * 4]))
    assert not y[0].any() and y[1].all()


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_implementation_0_equals_keras(kind):
    ours, theirs = (getattr(source, kind)(3, implementation=0) for source in (layers, keras.layers))
    assert_as_keras(ours, theirs, draw(2, 4, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_one_row_is_broadcast_as_in_keras(kind):
    x, mask = draw(2, 4, 3), np.array([[True, False, True, False]])
    ours, theirs = (getattr(source, kind)(3) for source in (layers, keras.layers))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        want = np.asarray(theirs(x, mask=mask))
    variables = interop.set_keras_weights(ours, ours.init(jax.random.key(0), x), theirs.get_weights())
    np.testing.assert_allclose(ours.apply(variables, x, mask=mask), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        ours.apply(variables, x, mask=mask), ours.apply(variables, x, mask=np.repeat(mask, 2, axis=0))
    )


def test_masks_of_numbers_and_of_features():
    layer, x = layers.LSTM(3), draw(2, 4, 2)
    variables, mask = variables_of(layer, x), np.array([[1, 1, 0, 0], [0, 1, 1, 0]])
    want = layer.apply(variables, x, mask=mask.astype(bool))
    assert (layer.apply(variables, x, mask=mask) == want).all()
    assert (layer.apply(variables, x, mask=np.stack([mask, mask * 0], axis=-1)) == want).all()


def test_stateful_layers_keep_their_states_in_batch_stats():
    layer, plain = layers.LSTM(3, stateful=True), layers.LSTM(3)
    x = draw(2, 6, 2)
    variables = variables_of(layer, x[:, :3])
    assert set(variables["batch_stats"]) == {"state_0", "state_1"}
    assert not any(leaf.any() for leaf in jax.tree.leaves(variables["batch_stats"]))
    _, moved = layer.apply(variables, x[:, :3], mutable=["batch_stats"])
    y = layer.apply({**variables, **moved}, x[:, 3:])
    np.testing.assert_allclose(y, plain.apply({"params": variables["params"]}, x), rtol=1e-6)
    assert (layer.apply(variables, x[:, 3:]) != y).any()


def test_dropout_masks_are_shared_over_time_and_scaled():
    layer = layers.SimpleRNN(4, activation=None, dropout=0.5, kernel_initializer="identity", return_sequences=True)
    x = jnp.ones((3, 5, 4))
    variables = layer.init(jax.random.key(0), x)
    variables["params"]["recurrent_kernel"] = jnp.zeros((4, 4))
    key = {"dropout": jax.random.key(1)}
    y = layer.apply(variables, x, train=True, rngs=key)
    assert set(np.unique(y)) == {0.0, 2.0}
    assert (y == y[:, :1]).all()
    assert (layer.apply(variables, x) == 1).all()
    assert (layer.apply(variables, x, train=True, rngs={"dropout": jax.random.key(2)}) != y).any()


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3)])
@pytest.mark.parametrize(
    ("options", "apart"), [({}, False), ({"implementation": 0}, False), ({"implementation": 1}, True)]
)
def test_implementation_1_draws_a_mask_for_each_gate(kind, gates, options, apart):
    cell = getattr(layers, kind + "Cell")(8, dropout=0.5, **options)
    x = jnp.ones((16, 8))
    variables = cell.init(jax.random.key(0), x)
    variables["params"]["kernel"] = jnp.tile(jnp.eye(8), (1, gates))
    variables["params"]["bias"] = jnp.zeros_like(variables["params"]["bias"])
    projected = cell.apply(
        variables,
        x,
        method=lambda m, x: m.cell_functions(x.shape, True).project(x),
        rngs={"dropout": jax.random.key(0)},
    )
    blocks = jnp.split(projected, gates, axis=-1)
    assert set(np.unique(projected)) == {0.0, 2.0}
    assert all((blocks[0] == block).all() for block in blocks) != apart


@pytest.mark.rotate
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_dropout_drops_the_state(kind):
    layer = getattr(layers, kind)(16, recurrent_dropout=0.5, seed=7)
    x = draw(2, 4, 3)
    variables = variables_of(layer, x)
    y = layer.apply(variables, x, train=True)
    assert (layer.apply(variables, x, train=True) == y).all()
    assert (layer.apply(variables, x) != y).any()
    everything = getattr(layers, kind)(16, recurrent_dropout=1.0, seed=7, activation=None)
    none = getattr(layers, kind)(16, activation=None)
    # If dropout removes the whole state from the products, one step equals the cell with a state of zeros.
    np.testing.assert_allclose(
        everything.apply(variables, x[:, :1], train=True), none.apply(variables, x[:, :1]), rtol=1e-6
    )


def test_training_with_dropout_needs_a_key():
    layer, x = layers.GRU(3, dropout=0.5), draw(2, 4, 3)
    variables = layer.init(jax.random.key(0), x)
    message = (
        'GRU needs a random key in training, got none; pass `rngs={"dropout": key}` to `apply`, or give the layer '
        "a `seed`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}(\n|$)"):
        layer.apply(variables, x, train=True)


def test_regularizers_add_losses_and_constraints_are_applied():
    options = {"kernel_regularizer": "l2", "recurrent_regularizer": "l1", "recurrent_constraint": "non_neg"}
    layer, x = layers.LSTM(3, bias_regularizer="l2", activity_regularizer="l2", **options), draw(2, 4, 3)
    variables = variables_of(layer, x)
    y, state = layer.apply(variables, x, mutable=["losses"])
    params = variables["params"]
    want = {
        "kernel": 0.01 * jnp.sum(params["kernel"] ** 2),
        "recurrent_kernel": 0.01 * jnp.sum(jnp.abs(params["recurrent_kernel"])),
        "bias": 0.01 * jnp.sum(params["bias"] ** 2),
        "activity": 0.01 * jnp.sum(y**2) / len(x),
    }
    assert set(state["losses"]) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(state["losses"][name], value, rtol=1e-6)
    found = weights_of(layer, x)
    assert {path: owner.argument(name, "constraint") for path, (owner, name) in found.items()} == {
        ("kernel",): None,
        ("recurrent_kernel",): "non_neg",
        ("bias",): None,
    }


def test_the_forget_gate_bias_starts_at_one():
    bias = layers.LSTM(2).init(jax.random.key(0), draw(1, 1, 1))["params"]["bias"]
    assert bias.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    bias = layers.LSTM(2, unit_forget_bias=False, bias_initializer="ones").init(jax.random.key(0), draw(1, 1, 1))
    assert bias["params"]["bias"].tolist() == [1] * 8


def test_masks_are_passed_on_until_the_sequence_ends():
    x = np.zeros((2, 4, 3), "float32")
    x[0, 1:3], x[1, 0] = 1, 1
    model = Sequential([layers.Masking(), layers.LSTM(4, return_sequences=True), layers.GRU(2)])
    variables = variables_of(model, x)
    mask = x.any(axis=-1)
    want = layers.LSTM(4, return_sequences=True).apply({"params": variables["params"]["lstm"]}, x, mask=mask)
    want = layers.GRU(2).apply({"params": variables["params"]["gru"]}, want, mask=mask)
    assert (model.apply(variables, x) == want).all()
    mask = jnp.asarray(mask)
    assert layers.LSTM(4).compute_mask(x, mask) is None
    assert layers.LSTM(4, return_sequences=True).compute_mask(x, mask) is mask
    assert layers.LSTM(4, return_sequences=True, return_state=True).compute_mask(x, mask) == (mask, None, None)
    stack = layers.RNN([layers.LSTMCell(2), layers.GRUCell(2)], return_state=True)
    assert stack.compute_mask(x, mask) == (None, None, None, None)


def test_states_are_passed_between_layers_of_a_model():
    source, target = Input((None, 3)), Input((None, 2))
    _, *states = layers.LSTM(4, return_state=True)(source)
    model = Model([source, target], layers.LSTM(4, return_sequences=True)(target, initial_state=states))
    assert model.output_shape == (None, None, 4)
    a, b = draw(2, 5, 3), draw(2, 3, 2)
    variables = variables_of(model, [a, b])
    first, second = (variables["params"][name] for name in ("lstm", "lstm_1"))
    _, *states = layers.LSTM(4, return_state=True).apply({"params": first}, a)
    want = layers.LSTM(4, return_sequences=True).apply({"params": second}, b, initial_state=states)
    np.testing.assert_allclose(model.apply(variables, [a, b]), want, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_compute_in_bfloat16_and_transform(kind):
    layer = getattr(layers, kind)(4, dtype="mixed_bfloat16", return_sequences=True)
    x = draw(2, 3, 2)
    variables = layer.init(jax.random.key(0), x)
    assert variables["params"]["kernel"].dtype == jnp.float32
    y = layer.apply(variables, x)
    assert y.dtype == jnp.bfloat16
    exact = getattr(layers, kind)(4, return_sequences=True)
    np.testing.assert_allclose(y.astype("float32"), exact.apply(variables, x), atol=0.03)
    each = jax.vmap(lambda row: exact.apply(variables, row[None])[0])(x)
    np.testing.assert_allclose(each, jax.jit(exact.apply)(variables, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_the_scan_supports_forward_mode(kind):
    layer, x = getattr(layers, kind)(3, use_cudnn=False), draw(2, 4, 3)
    variables, way = variables_of(layer, x), draw(2, 4, 3)
    _, slope = jax.jvp(lambda x: layer.apply(variables, x), (x,), (way,))
    assert slope.shape == (2, 3)
    auto = getattr(layers, kind)(3)
    grad = jax.grad(lambda x: auto.apply(variables, x).sum())(x)
    np.testing.assert_allclose(slope.sum(), (grad * way).sum(), rtol=1e-4, atol=1e-5)


def test_the_last_state_is_the_last_output():
    layer = layers.GRU(3, return_sequences=True, return_state=True, go_backwards=True)
    x = draw(2, 5, 2)
    y, h = layer.apply(variables_of(layer, x), x)
    assert (y[:, -1] == h).all()


ERRORS = {
    "size": (
        lambda: layers.LSTM(0),
        "`units` of LSTM must be a positive integer, got 0; give 1 or more.",
    ),
    "dropout": (
        lambda: layers.GRU(3, recurrent_dropout=1.5),
        "`recurrent_dropout` of GRU must be a number in [0, 1], got 1.5; give, for example, 0.",
    ),
    "implementation": (
        lambda: layers.LSTM(3, implementation=3),
        "`implementation` of LSTM must be 1, for a dropout mask for each gate, or 2 or 0, for a shared mask, got "
        "3; give 1 or 2.",
    ),
    "cudnn": (
        lambda: layers.LSTM(3, use_cudnn="yes"),
        "`use_cudnn` of LSTM must be 'auto', True or False, got 'yes'; leave it at 'auto'.",
    ),
    "no cudnn": (
        lambda: layers.LSTM(3, use_cudnn=True).init(jax.random.key(0), draw(2, 3, 4)),
        f"LSTM has no cuDNN implementation on the backend {jax.default_backend()!r}, got use_cudnn=True; leave it "
        "at 'auto' to use the fastest implementation available.",
    ),
    "rank": (
        lambda: layers.LSTM(3).init(jax.random.key(0), draw(2, 3)),
        "LSTM takes inputs of 3 axes [B, T, F], got shape (2, 3); add an axis, or use a layer for 2 axes.",
    ),
    "rank of RNN": (
        lambda: layers.RNN(layers.LSTMCell(3)).init(jax.random.key(0), draw(2, 3)),
        "RNN takes inputs of 3 axes [B, T, F], got shape (2, 3); add an axis, or use a layer for 2 axes.",
    ),
    "list": (
        lambda: layers.LSTM(3).init(jax.random.key(0), [draw(2, 3, 4), draw(2, 3), draw(2, 3)]),
        "`inputs` of LSTM must be an array of numbers, got a list of 3; give a NumPy or a JAX array.",
    ),
    "mask": (
        lambda: layers.LSTM(3).init(jax.random.key(0), draw(2, 3, 4), mask=np.ones((2, 4), bool)),
        "LSTM takes a mask [B, T] of shape (2, 3), got (2, 4); give one boolean for each step of each example.",
    ),
    "states": (
        lambda: layers.LSTM(3).init(jax.random.key(0), draw(2, 3, 4), initial_state=draw(2, 3)),
        "LSTM takes states of shapes [(2, 3), (2, 3)], got shapes [(2, 3)]; give a list of arrays of these shapes.",
    ),
    "batch": (
        lambda: layers.GRU(3, stateful=True).apply(
            layers.GRU(3, stateful=True).init(jax.random.key(0), draw(2, 3, 4)), draw(3, 3, 4)
        ),
        "GRU is stateful and stores states of 2 examples, got a batch of 3; use one batch size, or create new "
        "variables with `init`.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error_messages(name):
    call, message = ERRORS[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}(\n|$)"):
        call()


def test_rnn_raises_unless_given_a_cell():
    message = (
        "A cell must be a module with a `state_size` that maps (inputs, states) to (output, states), got 5 of type "
        "int; give an LSTMCell, a GRUCell, a SimpleRNNCell, or such a module."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}(\n|$)"):
        layers.RNN([layers.LSTMCell(3), 5])
    message = "`cell` of RNN must compute one step, got the recurrent layer LSTM; "
    message += "give a cell, such as LSTMCell, or use the layer without RNN."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}(\n|$)"):
        layers.RNN(layers.LSTM(3))
