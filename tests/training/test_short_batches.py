"""A short last batch: results equal a loop over batches without padding."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Sequential, layers
from training import Trainer, callbacks, losses, optimizers, steps
from training.data.arrays import ArrayFeed
from training.data.examples import as_examples
from training.data.source import FeedOptions
from training.objective import Objective

N, BATCH = 10, 8
X = np.random.default_rng(0).normal(size=(N, 3)).astype("float32")
X[0] = 1000.0  # padding rows are copies of the first example, so they change any result that they enter
Y = np.random.default_rng(1).normal(size=(N, 1)).astype("float32")


class Standardized(nn.Module):
    """Uses linen's batch normalization, which includes padding rows in its statistics."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(1)(nn.BatchNorm(use_running_average=not train, momentum=0.0)(x))


class Centered(nn.Module):
    """Subtracts the mean of all rows, in training and in evaluation."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x - x.mean(axis=0, keepdims=True))


def folded():
    """Returns a model with our batch normalization after a function that moves the time axis before the batch."""
    return Sequential(
        [
            layers.Reshape((3, 1)),
            layers.Lambda(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, 1)),
            layers.BatchNormalization(momentum=0.0),
            layers.Lambda(lambda x: jnp.swapaxes(x.reshape(3, -1, 1), 0, 1)),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )


class Chosen(nn.Module):
    """Selects weights, or a factor, by the batch size; the operations are the same for all sizes."""

    number: bool = False

    @nn.compact
    def __call__(self, x):
        full, short = (
            self.param(name, nn.initializers.constant(value), (3, 1)) for name, value in (("a", 1), ("b", 2))
        )
        if self.number:
            return x.sum(1, keepdims=True) * (full[0, 0] if len(x) == BATCH else 5.0)
        return x @ (full if len(x) == BATCH else short)


def contrast(y_true, y_pred):
    """Returns one number per example that depends on all examples."""
    return jax.nn.logsumexp((y_pred - y_pred.T) * y_true.T, axis=1)


def spread(y_true, y_pred):
    """Returns a scalar for the whole batch."""
    return jnp.mean((y_pred - y_true) ** 2) + jnp.var(y_pred)


CASES = {
    "linen batch normalization": (Standardized, "mse"),
    "weights that depend on the batch size": (Chosen, "mse"),
    "a factor that depends on the batch size": (lambda: Chosen(number=True), "mse"),
    "linen batch normalization in a Sequential": (lambda: Sequential([nn.BatchNorm(momentum=0.0), nn.Dense(1)]), "mse"),
    "linen module that mixes rows": (Centered, "mse"),
    "batch normalization of folded rows": (folded, "mse"),
    "loss that mixes rows": (lambda: Sequential([layers.Dense(1)]), contrast),
    "scalar loss": (lambda: Sequential([layers.Dense(1)]), spread),
    "row-wise": (lambda: Sequential([layers.BatchNormalization(momentum=0.0), layers.Dense(1)]), "mse"),
}


def loop(model, loss, x, y, epochs):
    """Trains with the pure steps on batches without padding; returns the variables and the mean loss."""
    optimizer = optimizers.SGD(1e-4)
    objective = Objective.of(model, steps.Batch(x[:BATCH], y[:BATCH]), loss=loss)
    state, rules = steps.create_state(model, optimizer, x[:BATCH], seed=0)
    step = jax.jit(steps.make_train_step(model, objective, optimizer, rules))
    for _ in range(epochs):
        totals = objective.empty()
        for start in range(0, len(x), BATCH):
            state, totals = step(state, totals, steps.Batch(x[start : start + BATCH], y[start : start + BATCH]))
    return state.variables, objective.logs(totals)["loss"]


@pytest.mark.rotate
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_training_equals_a_loop_without_padding(case, streamed):
    make, loss = CASES[case]
    expected, last = loop(make(), loss, X, Y, 2)
    trainer = Trainer(make(), optimizers.SGD(1e-4), loss)
    batches = [(X[i : i + BATCH], Y[i : i + BATCH]) for i in range(0, N, BATCH)]
    data = {"x": batches} if streamed else {"x": X, "y": Y, "batch_size": BATCH, "shuffle": False}
    if streamed:
        data = {"x": lambda: iter(batches)}
    history = trainer.fit(**data, epochs=2, verbose=0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), trainer.variables, expected)
    np.testing.assert_allclose(history.history["loss"][-1], last, rtol=1e-5)


def test_running_mean_of_a_linen_module_excludes_padding():
    x = np.arange(10, dtype="float32")[:, None]
    x[0] = 1000.0
    trainer = Trainer(Standardized(), "sgd", "mse")
    trainer.fit(x, 0 * x, batch_size=8, shuffle=False, verbose=0)
    assert trainer.variables["batch_stats"]["BatchNorm_0"]["mean"] == 8.5


def test_statistics_of_rows_folded_with_time_exclude_padding():
    x = np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0], [1000.0, 1000.0], [1.0, 4.0]], "float32")
    model = Sequential([layers.Lambda(lambda x: x.T.reshape(-1, 1)), layers.BatchNormalization(momentum=0.0)])
    trainer = Trainer(model, "sgd", lambda y_true, y_pred: jnp.mean(y_pred**2))
    trainer.fit(x, x, batch_size=4, shuffle=False, verbose=0)
    assert trainer.variables["batch_stats"]["batch_normalization"]["moving_mean"] == 2.5  # the mean of 1 and 4


def test_evaluation_and_prediction_with_a_module_that_mixes_rows():
    trainer = Trainer(Centered(), "sgd", "mse")
    trainer.build(X)
    parts = [np.asarray(trainer.model.apply(trainer.variables, X[i : i + BATCH])) for i in (0, BATCH)]
    expected = np.concatenate(parts)
    np.testing.assert_allclose(trainer.predict(X, batch_size=BATCH), expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(trainer.predict([X[:BATCH], X[BATCH:]].__iter__), expected, rtol=1e-5, atol=1e-4)
    measured = trainer.evaluate(X, Y, batch_size=BATCH)["loss"]
    np.testing.assert_allclose(measured, np.mean((expected - Y) ** 2), rtol=1e-5)


def test_predictions_without_a_leading_batch_axis_are_concatenated():
    trainer = Trainer(Sequential([layers.Lambda(lambda x: x.T.reshape(-1))]))
    expected = np.concatenate([X[:BATCH].T.reshape(-1), X[BATCH:].T.reshape(-1)])
    np.testing.assert_array_equal(trainer.predict(X, batch_size=BATCH), expected)


def test_predictions_that_fold_batch_and_features_are_concatenated():
    trainer = Trainer(Sequential([layers.Lambda(lambda x: x.reshape(-1))]))
    np.testing.assert_array_equal(trainer.predict(X, batch_size=BATCH), X.reshape(-1))


@pytest.mark.parametrize("flag", ["training", "is_training", "deterministic", "use_running_average"])
@pytest.mark.parametrize("default", ["= False", "= True", ""])
@pytest.mark.spread
def test_linen_modules_may_use_other_names_for_the_training_flag(flag, default):
    """Results do not depend on the name or the default of the flag."""
    value = flag if flag == "use_running_average" else flag if flag == "deterministic" else f"not {flag}"
    scope = {"nn": nn}
    exec(
        "class Module(nn.Module):\n"
        "    @nn.compact\n"
        f"    def __call__(self, x, {flag}{default}):\n"
        f"        return nn.Dense(1)(nn.BatchNorm(use_running_average={value}, momentum=0.0)(x))\n",
        scope,
    )
    found = []
    for module in (Standardized(), scope["Module"]()):
        trainer = Trainer(module, optimizers.SGD(0.1), "mse")
        history = trainer.fit(X, Y, batch_size=BATCH, shuffle=False, verbose=0).history
        found.append((history, trainer.evaluate(X, Y), trainer.variables))
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_custom_steps_receive_batches_without_padding():
    seen = []

    def make_step(*arguments):
        step = steps.make_train_step(*arguments)

        def noted(state, totals, batch):
            seen.append((batch.x.shape[0], batch.valid))
            return step(state, totals, batch)

        return noted

    Trainer(Sequential([layers.Dense(1)]), "sgd", "mse", train_step=make_step).fit(X, Y, batch_size=BATCH, verbose=0)
    assert {rows for rows, _ in seen} == {BATCH, N - BATCH}
    assert all(valid is None for _, valid in seen)


def test_scalar_losses_with_weights_match_keras():
    """Keras multiplies the scalar by each weight and computes the mean."""
    value = losses.get(spread)(Y, 0 * Y, sample_weight=np.arange(N, dtype="float32"))
    np.testing.assert_allclose(value, spread(Y, 0 * Y) * np.mean(np.arange(N)), rtol=1e-6)


@pytest.mark.parametrize("piece_bytes", [float("inf"), 1, 3 * 4 * 3 * 4 * 2])
@pytest.mark.parametrize("n", [12, 11, 3])
def test_chunks_without_padding_contain_each_example_once(n, piece_bytes):
    data = as_examples(np.arange(n * 3, dtype="float32").reshape(n, 3))
    feed = ArrayFeed(data, 4, FeedOptions(may_pad=lambda rows: False), piece_bytes)
    assert not feed.padded
    for key in (None, jax.random.key(0)):
        seen = []
        for chunk in feed.chunks(0, key):
            order = np.asarray(chunk.order)[: chunk.steps]
            assert (order >= 0).all()
            assert [len(rows) for rows in order] == chunk.sizes.tolist()
            assert chunk.first == len(seen)
            seen += [np.asarray(chunk.data.x)[rows] for rows in order]
        assert [len(rows) for rows in seen] == [min(4, n - i) for i in range(0, n, 4)]
        rows = np.concatenate(seen)
        np.testing.assert_array_equal(rows if key is None else rows[np.argsort(rows[:, 0])], data.x)
    for first in range(feed.steps):
        starts = [(chunk.first, chunk.steps) for chunk in feed.chunks(0, None, first)]
        assert any(start <= first < start + steps for start, steps in starts)
        assert sum(starts[-1]) == feed.steps


def test_a_run_resumed_within_an_epoch_is_bit_identical(tmp_path):
    class Interrupt(callbacks.Callback):
        def on_chunk_end(self, step, logs):
            if step == 2:
                raise KeyboardInterrupt

    def fit(*more, resume=None):
        trainer = Trainer(Standardized(), "adam", "mse", steps_per_execution=1)
        trainer.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=list(more), resume=resume)
        return trainer.variables

    with pytest.raises(KeyboardInterrupt):
        fit(Interrupt(), resume=tmp_path)
    jax.tree.map(np.testing.assert_array_equal, fit(resume=tmp_path), fit())
