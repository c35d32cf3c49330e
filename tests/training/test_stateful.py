"""Models with a fixed batch size, and recurrent layers that carry their states from batch to batch."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Model, Sequential, layers
from flaxmodels.layers.recurrent import reset_states, stateful_scopes
from training import Trainer, callbacks

B, N, T = 5, 15, 4
DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(N, T, 3)).astype("float32"), DRAW.normal(size=(N, 1)).astype("float32")


def refuses(sentence):
    return pytest.raises(ValueError, match=rf"^{re.escape(sentence)}(\n-|$)")


def network(stateful=True):
    return Sequential([Input((T, 3), batch_size=B), layers.SimpleRNN(2, stateful=stateful), layers.Dense(1)])


def states(trainer):
    return np.asarray(trainer.variables["batch_stats"]["simple_rnn"]["state_0"])


def run(params, x, state):
    """Computes outputs and last states by a loop in float64."""
    rnn, dense = (jax.tree.map(np.float64, params[name]) for name in ("simple_rnn", "dense"))
    outputs = []
    for start in range(0, len(x), B):
        for step in x[start : start + B].swapaxes(0, 1):
            state = np.tanh(step @ rnn["kernel"] + state @ rnn["recurrent_kernel"] + rnn["bias"])
        outputs.append(state @ dense["kernel"] + dense["bias"])
    return np.concatenate(outputs), state


# ------------------------------------------------------------ fixed batch sizes


@pytest.mark.parametrize("make", [lambda: Input((3,), batch_size=B), lambda: Input(batch_shape=(B, 3))])
def test_models_with_a_fixed_batch_size_accept_other_batch_sizes(make):
    x, y = X[:12, 0], Y[:12]
    trainer = Trainer(Sequential([make(), layers.Dense(1)]), "sgd", "mse")
    plain = Trainer(Sequential([Input((3,)), layers.Dense(1)]), "sgd", "mse")
    fitted = [t.fit(x, y, batch_size=5, epochs=2, verbose=0).history["loss"] for t in (trainer, plain)]
    np.testing.assert_array_equal(*fitted)
    np.testing.assert_array_equal(trainer.predict(x[:7]), plain.predict(x[:7]))
    assert trainer.evaluate(x, y, batch_size=4) == plain.evaluate(x, y, batch_size=4)


def test_the_fixed_batch_size_is_the_default():
    class Steps(callbacks.Callback):
        def on_train_begin(self, logs):
            self.steps = self.params["steps"]

    counter = Steps()
    x = Input((3,), batch_size=B)
    Trainer(Model(x, layers.Dense(1)(x)), "sgd", "mse").fit(X[:, 0], Y, callbacks=[counter], verbose=0)
    assert counter.steps == N // B


# ------------------------------------------------------------ stateful layers


def test_predictions_continue_with_the_last_states():
    trainer = Trainer(network())
    trainer.build(X[:B])
    params = trainer.variables["params"]
    expected, last = run(params, X, np.zeros((B, 2)))
    np.testing.assert_allclose(trainer.predict(X), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(states(trainer), last, rtol=1e-5)
    np.testing.assert_allclose(trainer.predict(X, batch_size=B), run(params, X, last)[0], rtol=1e-5, atol=1e-6)
    trainer.reset_states()
    assert not states(trainer).any()
    np.testing.assert_allclose(
        trainer.predict(lambda: iter([X[:B], X[B : 2 * B]])), expected[: 2 * B], rtol=1e-5, atol=1e-6
    )


def test_evaluation_carries_states():
    trainer = Trainer(network(), loss="mse")
    trainer.build(X[:B])
    expected, last = run(trainer.variables["params"], X, np.zeros((B, 2)))
    np.testing.assert_allclose(trainer.evaluate(X, Y)["loss"], np.mean((expected - Y) ** 2), rtol=1e-5)
    np.testing.assert_allclose(states(trainer), last, rtol=1e-5)


def test_training_carries_states_through_epochs_and_validation():
    """Each step equals a stateless layer whose initial states are the last states of the previous step."""
    trainer = Trainer(network(), "sgd", "mse")
    trainer.build(X[:B])
    params = trainer.variables["params"]
    plain = network(stateful=False)

    def loss(params, x, y, state):
        rnn = layers.SimpleRNN(2, return_state=True)
        h, state = rnn.apply({"params": params["simple_rnn"]}, x, initial_state=[state])
        return jnp.mean((layers.Dense(1).apply({"params": params["dense"]}, h) - y) ** 2), state

    expected, state, history, validation = params, jnp.zeros((B, 2)), [], []
    for _ in range(2):
        of_steps = []
        for i in range(0, N, B):
            (value, state), grads = jax.value_and_grad(loss, has_aux=True)(expected, X[i : i + B], Y[i : i + B], state)
            expected = jax.tree.map(lambda w, g: w - 0.01 * g, expected, grads)
            of_steps.append(value)
        history.append(np.mean(of_steps))
        value, state = loss(expected, X[:B], Y[:B], state)
        validation.append(value)
    found = trainer.fit(X, Y, epochs=2, validation_data=(X[:B], Y[:B]), verbose=0).history
    np.testing.assert_allclose(found["loss"], history, rtol=1e-5)
    np.testing.assert_allclose(found["val_loss"], validation, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), trainer.variables["params"], expected
    )
    np.testing.assert_allclose(states(trainer), state, rtol=1e-5)
    assert jax.tree.structure(plain.init(jax.random.key(0), X)["params"]) == jax.tree.structure(params)


def test_examples_are_only_shuffled_on_request():
    losses = []
    for shuffle in (None, False, True):
        trainer = Trainer(network(), "sgd", "mse")
        losses.append(trainer.fit(X, Y, shuffle=shuffle, verbose=0).history["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_callbacks_can_reset_states():
    class Reset(callbacks.Callback):
        def on_epoch_begin(self, epoch, logs):
            self.trainer.reset_states()

    trainer = Trainer(network(), "sgd", "mse")
    trainer.fit(X, Y, epochs=2, callbacks=[Reset()], verbose=0)
    again = Trainer(network(), "sgd", "mse")
    for _ in range(2):
        again.reset_states()
        again.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(states(trainer), states(again))


def test_resumed_runs_restore_states(tmp_path):
    class Interrupt(callbacks.Callback):
        def on_chunk_end(self, step, logs):
            if step == 2:
                raise KeyboardInterrupt

    def fit(*more, resume=None):
        trainer = Trainer(network(), "adam", "mse", steps_per_execution=1)
        trainer.fit(X, Y, epochs=2, verbose=0, callbacks=list(more), resume=resume)
        return trainer.variables

    with pytest.raises(KeyboardInterrupt):
        fit(Interrupt(), resume=tmp_path)
    jax.tree.map(np.testing.assert_array_equal, fit(resume=tmp_path), fit())


def test_batches_of_another_size():
    sentence = (
        "A stateful layer keeps the states of one batch, so all batches must have the same size, got 12 examples for "
        "batches of 5; give a multiple of 5 examples."
    )
    trainer = Trainer(network(), "sgd", "mse")
    for call in (trainer.fit, trainer.evaluate):
        with refuses(sentence):
            call(X[:12], Y[:12])
    with refuses(sentence):
        trainer.predict(X[:12])
    sentence = (
        "SimpleRNN 'simple_rnn' is stateful and stores states of 5 examples, got a batch of 3; use one batch size, "
        "or create new variables with `init`."
    )
    with refuses(sentence):
        trainer.evaluate(X, Y, batch_size=3)
    with refuses(sentence):
        trainer.fit(X, Y, validation_data=(X[:3], Y[:3]), verbose=0)


def test_nested_stateful_layers_are_reset():
    inner = Sequential([layers.Bidirectional(layers.GRU(2, stateful=True, return_sequences=True))])
    x = Input((T, 3), batch_size=B)
    model = Model(x, layers.LSTM(2, stateful=True)(inner(x)))
    assert stateful_scopes(model) == [
        ("sequential", "bidirectional", "forward_layer"),
        ("sequential", "bidirectional", "backward_layer"),
        ("lstm",),
    ]
    assert stateful_scopes(network(stateful=False)) == []
    variables = model.init(jax.random.key(0), X[:B])
    _, moved = model.apply(variables, X[:B], mutable=["batch_stats"])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(moved))
    reset = reset_states(model, variables | moved)
    jax.tree.map(np.testing.assert_array_equal, reset, variables)


def test_resetting_states_keeps_running_statistics():
    model = Sequential([layers.BatchNormalization(), layers.GRU(2, stateful=True)])
    variables = model.init(jax.random.key(0), X[:B])
    _, moved = model.apply(variables, X[:B], train=True, mutable=["batch_stats"])
    reset = reset_states(model, variables | moved)["batch_stats"]
    jax.tree.map(
        np.testing.assert_array_equal, reset["batch_normalization"], moved["batch_stats"]["batch_normalization"]
    )
    assert not np.any(reset["gru"]["state_0"])
