import re

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from flaxmodels import Input, Model, Sequential, interop, layers
from tests.support.recurrence_oracle import MASKS, assert_as_keras

rng = np.random.default_rng(0)


def draw(*shape):
    return rng.normal(size=shape).astype("float32")


CASES = [
    ("LSTM", {"return_sequences": True, "return_state": True}, "concat", "holes", True),
    ("GRU", {"return_sequences": True}, "sum", "right", False),
    ("SimpleRNN", {"unroll": True, "return_sequences": True}, "ave", "left", False),
    ("GRU", {"return_state": True, "reset_after": False}, "mul", "row", True),
    ("LSTM", {"return_state": True, "return_sequences": True}, None, "holes", False),
    ("SimpleRNN", {}, None, "none", True),
]


@pytest.mark.rotate
@pytest.mark.parametrize(("kind", "options", "merge_mode", "mask_kind", "with_state"), CASES)
def test_bidirectional_equals_keras(kind, options, merge_mode, mask_kind, with_state):
    mask = MASKS[mask_kind](3, 5, np.random.default_rng(4))
    state = [draw(3, 4) for _ in range(4 if kind == "LSTM" else 2)] if with_state else None

    def make(source):
        return source.Bidirectional(getattr(source, kind)(4, **options), merge_mode=merge_mode)

    assert_as_keras(make(layers), make(keras.layers), draw(3, 5, 2), mask, state)


def test_bidirectional_with_a_backward_layer():
    def make(source, forward=False):
        options = {"return_sequences": True, "go_backwards": forward}
        back = source.GRU(3, return_sequences=True, go_backwards=not forward, activation="relu")
        return source.Bidirectional(source.LSTM(3, **options), backward_layer=back)

    for forward in (False, True):
        assert_as_keras(make(layers, forward), make(keras.layers, forward), draw(2, 4, 2))


def test_bidirectional_equals_two_layers():
    layer = layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="mine"), merge_mode=None)
    x, mask = draw(2, 4, 2), MASKS["holes"](2, 4, np.random.default_rng(0))
    variables = layer.init(jax.random.key(0), x)
    assert set(variables["params"]) == {"forward_layer", "backward_layer"}
    forward, backward = layer.apply(variables, x, mask=mask)
    options = {"return_sequences": True, "zero_output_for_mask": True}
    one = layers.LSTM(3, **options).apply({"params": variables["params"]["forward_layer"]}, x, mask=mask)
    other = layers.LSTM(3, **options).apply(
        {"params": variables["params"]["backward_layer"]}, x[:, ::-1], mask=mask[:, ::-1]
    )
    assert (forward == one).all() and (backward == other[:, ::-1]).all()
    assert not forward[~mask].any() and not backward[~mask].any()


def test_the_two_directions_of_an_rnn_do_not_share_the_cell():
    cells = {"one": lambda source: source.LSTMCell(3), "stack": lambda source: [source.GRUCell(2), source.LSTMCell(3)]}
    for make in cells.values():
        ours, theirs = (source.Bidirectional(source.RNN(make(source))) for source in (layers, keras.layers))
        variables = ours.init(jax.random.key(0), draw(2, 4, 2))
        there, back = (variables["params"][name] for name in ("forward_layer", "backward_layer"))
        assert jax.tree.map(jnp.shape, there) == jax.tree.map(jnp.shape, back)
        assert_as_keras(ours, theirs, draw(2, 4, 2))


def test_initial_states_are_split_between_directions():
    def make(source):
        return source.Bidirectional(source.SimpleRNN(3), backward_layer=source.LSTM(3, go_backwards=True))

    assert_as_keras(make(layers), make(keras.layers), draw(2, 4, 2), None, [draw(2, 3) for _ in range(3)])


def test_bidirectional_layers_stack_with_masks():
    x = draw(2, 5, 3) * np.array([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], "float32")[..., None]
    model = Sequential(
        [
            Input((None, 3)),
            layers.Masking(),
            layers.Bidirectional(layers.GRU(4, return_sequences=True)),
            layers.Bidirectional(layers.LSTM(2)),
        ]
    )
    assert model.output_shape == (None, 4)
    variables = model.init(jax.random.key(0), x)
    assert set(variables["params"]) == {"bidirectional", "bidirectional_1"}
    short = model.apply(variables, x[1:, :2])
    np.testing.assert_allclose(model.apply(variables, x)[1:], short, rtol=1e-5, atol=1e-6)


def test_masks_of_bidirectional_outputs():
    x, mask = draw(2, 3, 2), np.ones((2, 3), bool)

    def of(merge_mode="concat", **options):
        return layers.Bidirectional(layers.LSTM(3, **options), merge_mode=merge_mode).compute_mask(x, mask)

    assert of() is None
    assert of(return_sequences=True) is mask
    assert of(None, return_sequences=True) == (mask, mask)
    assert of(return_sequences=True, return_state=True) == (mask, None, None, None, None)
    assert of(None, return_sequences=True, return_state=True) == (mask, mask, None, None, None, None)


BIDIRECTIONAL_ERRORS = {
    "layer": (
        TypeError,
        lambda: layers.Bidirectional(layers.Dense(3)),
        "`layer` of Bidirectional must be a recurrent layer, got Dense; give an LSTM, a GRU, a SimpleRNN or an RNN "
        "of a cell.",
    ),
    "merge": (
        ValueError,
        lambda: layers.Bidirectional(layers.LSTM(3), merge_mode="max"),
        "`merge_mode` of Bidirectional must be 'concat', 'sum', 'ave', 'mul' or None, got 'max'; choose one.",
    ),
    "weights": (
        ValueError,
        lambda: layers.Bidirectional(layers.LSTM(3), weights=[np.ones(3)]),
        "`weights` of Bidirectional is not supported, got a value; use variables = "
        "interop.set_keras_weights(layer, variables, weights).",
    ),
    "direction": (
        ValueError,
        lambda: layers.Bidirectional(layers.LSTM(3, go_backwards=True)),
        "The two layers of Bidirectional must run in opposite directions, got go_backwards=True for both; change "
        "it in `backward_layer`.",
    ),
    "fit": (
        ValueError,
        lambda: layers.Bidirectional(
            layers.LSTM(3, return_state=True), backward_layer=layers.LSTM(3, go_backwards=True)
        ),
        "The two layers of Bidirectional must have the same `return_state`, got True and False; give both the same "
        "value.",
    ),
    "states": (
        ValueError,
        lambda: layers.Bidirectional(layers.GRU(3)).init(
            jax.random.key(0), draw(2, 3, 4), initial_state=[draw(2, 3)] * 3
        ),
        "Bidirectional takes `initial_state` as a list of arrays, 1 for the forward layer and 1 for the "
        "backward layer, got 3; give this number of states.",
    ),
    "distributed": (
        TypeError,
        lambda: layers.TimeDistributed(3),
        "`layer` of TimeDistributed must be a layer, got 3 of type int; create an instance, such as layers.Dense(10).",
    ),
    "axes": (
        ValueError,
        lambda: layers.TimeDistributed(layers.Dense(3)).init(jax.random.key(0), draw(2, 3)),
        "TimeDistributed takes inputs of 3 axes [B, T, F], got shape (2, 3); add an axis, or use a layer for 2 axes.",
    ),
    "mask": (
        ValueError,
        lambda: layers.TimeDistributed(layers.Dense(3)).init(
            jax.random.key(0), draw(2, 3, 1), mask=np.ones((2, 4), bool)
        ),
        "TimeDistributed takes a mask whose first sizes are (2, 3) for batch and time, got shape (2, 4); "
        "give one boolean for each step of each example.",
    ),
}


@pytest.mark.parametrize("name", BIDIRECTIONAL_ERRORS)
def test_error_messages(name):
    error, call, message = BIDIRECTIONAL_ERRORS[name]
    with pytest.raises(error, match=f"^{re.escape(message)}(\n|$)"):
        call()


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda source: source.Dense(4, activation="softmax"), (2, 3, 5)),
        (lambda source: source.Conv2D(2, 3, padding="same"), (2, 3, 4, 4, 1)),
        (lambda source: source.LSTM(4, return_sequences=True), (2, 3, 4, 2)),
        (lambda source: source.GlobalAveragePooling1D(), (2, 3, 4, 2)),
    ],
)
def test_time_distributed_equals_keras(make, shape):
    ours, theirs = (source.TimeDistributed(make(source)) for source in (layers, keras.layers))
    assert_as_keras(ours, theirs, draw(*shape))


def test_time_distributed_passes_on_the_masks_of_each_step():
    layer, x = layers.TimeDistributed(layers.GRU(3)), draw(2, 3, 4, 2)
    mask = MASKS["right"](6, 4, np.random.default_rng(1)).reshape(2, 3, 4)
    variables = layer.init(jax.random.key(0), x, mask=mask)
    y, out_mask = layer.bind(variables).outputs_and_mask(x, mask=mask)
    alone = {"params": variables["params"]["layer"]}
    for t in range(3):
        want = layers.GRU(3).apply(alone, x[:, t], mask=mask[:, t])
        np.testing.assert_allclose(y[:, t], want, rtol=1e-6)
    # The inner layer removes the inner time axis, so the mask shows which outer steps contain unmasked inner steps.
    assert (out_mask == mask.any(axis=2)).all()
    inner = layers.TimeDistributed(layers.GRU(3, return_sequences=True))
    assert (inner.bind(variables).outputs_and_mask(x, mask=mask)[1] == mask).all()


@pytest.mark.parametrize("axes", [(), (1,), (4,), (5,), (7,), (4, 5), (4, 1), (4, 5, 1)])
def test_time_distributed_takes_any_mask_over_a_layer_that_ignores_it(axes):
    x, mask = draw(2, 3, 4, 5), np.random.default_rng(1).random((2, 3, *axes)) > 0.5
    ours, theirs = (source.TimeDistributed(source.Dense(2)) for source in (layers, keras.layers))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        want = np.asarray(theirs(x, mask=mask))
    variables = interop.set_keras_weights(ours, ours.init(jax.random.key(0), x, mask=mask), theirs.get_weights())
    y, out_mask = ours.bind(variables).outputs_and_mask(x, mask=mask)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
    # A mask that broadcasts to the inputs is passed on. Otherwise the mask shows which steps have unmasked elements.
    is_passed_on = axes in ((), (1,), (4,), (4, 5), (4, 1))
    assert np.array_equal(out_mask, mask if is_passed_on else mask.any(axis=tuple(range(2, mask.ndim))))


def test_each_step_updates_batch_statistics_as_in_keras():
    x = draw(4, 3, 2)
    ours, theirs = (s.TimeDistributed(s.BatchNormalization(momentum=0.5)) for s in (layers, keras.layers))
    variables = ours.init(jax.random.key(0), x)
    y, moved = ours.apply(variables, x, train=True, mutable=["batch_stats"])
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        want = theirs(x, training=True)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    got = interop.get_keras_weights(ours, {**variables, **moved})
    for a, b in zip(got, theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_time_distributed_runs_models_and_dropout():
    inner = Sequential([layers.Dense(8), layers.Dropout(0.5), layers.Dense(2)])
    x = Input((None, 3))
    model = Model(x, layers.TimeDistributed(inner)(x))
    assert model.output_shape == (None, None, 2)
    ones = jnp.ones((2, 50, 3))
    variables = model.init(jax.random.key(0), ones)
    y = model.apply(variables, ones)
    np.testing.assert_allclose(y, jnp.broadcast_to(y[:1, :1], y.shape), rtol=1e-6)
    noisy = model.apply(variables, ones, train=True, rngs={"dropout": jax.random.key(1)})
    assert len(np.unique(noisy[0, :, 0])) > 10
