"""Losses and gradients that are not finite: skipped steps, policies and warnings."""

import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Sequential, layers
from training import Trainer, optimizers, steps
from training.callbacks import Callback, EarlyStopping, ModelCheckpoint

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3)).astype("float32")
Y = RNG.normal(size=(20, 1)).astype("float32")
BAD = 9.0  # a label that makes the loss infinite, or only its gradient


def infinite(y_true, y_pred):
    return jnp.mean((y_true - y_pred) ** 2, axis=-1) / (y_true[:, 0] != BAD).astype(jnp.float32)


def infinite_slope(y_true, y_pred):
    error = jnp.where(y_true == BAD, 0 * y_pred, (y_true - y_pred) ** 2 + 1)
    return jnp.mean(jnp.sqrt(error), axis=-1)


def spoiled(*rows):
    y = Y.copy()
    y[list(rows)] = BAD
    return y


def trainer(loss=infinite, optimizer=None, **arguments):
    model = Sequential([Input((3,)), layers.Dense(2), layers.BatchNormalization(), layers.Dense(1)])
    return Trainer(model, optimizer or optimizers.Adam(0.01), loss, **arguments)


def fit(t, y, **arguments):
    return t.fit(X, y, batch_size=4, shuffle=False, verbose=0, **{"epochs": 3} | arguments)


def assert_same(a, b, rtol=0.0):
    for x, y in zip(*(jax.tree.leaves((t.variables, t.state.opt_state)) for t in (a, b)), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)


def sentence(step, where, done):
    return pytest.warns(
        RuntimeWarning,
        match="^"
        + re.escape(
            f"Numbers are not finite at step {step} of the run, first in {where}, with the learning rate 0.01; {done}; "
            "lower the learning rate, or clip the gradients."
        )
        + "$",
    )


GRADIENT = "the gradient of batch_normalization/beta"


@pytest.mark.rotate
@pytest.mark.parametrize("loss", [infinite, infinite_slope])
@pytest.mark.parametrize("steps", [1, 2, "auto"])
def test_stop_keeps_the_state_before_the_step(loss, steps):
    stopped, expected = trainer(loss, steps_per_execution=steps), trainer(loss)
    with sentence(3, GRADIENT, "the run ends with the state before that step"):
        history = fit(stopped, spoiled(13, 14, 18))
    expected.fit(X[:12], Y[:12], batch_size=4, shuffle=False, verbose=0)
    assert_same(stopped, expected)
    assert int(stopped.state.step) == 3 and history.epoch == [0]
    assert int(stopped.state.trouble.count) == 0  # the next fit resets it
    if loss is infinite:
        assert not np.isfinite(history.history["loss"][0])


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (3, 1), (1, 300), (2, 3, 4, 5), (0, 4), (4, 0)], ids=str)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_a_single_element_is_detected_in_arrays_of_all_shapes(shape, dtype):
    finite, size = jax.jit(steps._finite), int(np.prod(shape))
    largest = jnp.full(shape, jnp.finfo(dtype).max, dtype)  # the sum of these is not finite
    assert finite(largest) and finite(-largest)
    for place in {0, size // 2, size - 1} if size else ():
        for bad in (np.nan, np.inf, -np.inf):
            assert not finite(largest.reshape(-1).at[place].set(bad).reshape(shape))


def test_skip_continues_after_the_step():
    skipping, expected = trainer(nonfinite="skip"), trainer(nonfinite="skip")
    with sentence(2, GRADIENT, "2 such steps were skipped"):
        history = fit(skipping, spoiled(9, 17), epochs=1)
    left = np.r_[0:8, 12:16]
    want = expected.fit(X[left], Y[left], batch_size=4, shuffle=False, verbose=0)
    assert_same(skipping, expected)
    assert int(skipping.state.step) == 5  # skipped steps count
    assert history.history["loss"][0] == pytest.approx(want.history["loss"][0], rel=1e-6)


def test_restore_returns_to_the_start_of_the_epoch():
    class Spoil:
        """Returns batches; the second pass has a bad label."""

        def __call__(self, number):
            y = spoiled(9) if number == 1 else Y
            return ((X[i : i + 4], y[i : i + 4]) for i in range(0, 20, 4))

    restored, expected = (trainer(optimizer=optimizers.SGD(0.01), nonfinite=n) for n in ("restore", "stop"))
    with sentence(7, GRADIENT, "the run ends with the state at the start of the epoch"):
        restored.fit(Spoil(), epochs=3, verbose=0)
    fit(expected, Y, epochs=1)
    assert_same(restored, expected, 1e-6)  # a stream is a padded program, which rounds differently


@pytest.mark.filterwarnings("ignore:The loss is")
def test_ignore_applies_the_step():
    t = trainer(nonfinite="ignore")
    fit(t, spoiled(9), epochs=1)
    assert np.isnan(t.variables["params"]["dense"]["kernel"]).all()
    with pytest.warns(
        RuntimeWarning, match=r"^The loss is nan after step 5 of the epoch; lower the learning rate, or clip"
    ):
        fit(t, Y, epochs=1)


def test_policies_do_not_change_finite_runs():
    a, b = (trainer(optimizer=optimizers.SGD(0.01), nonfinite=n) for n in ("stop", "ignore"))
    np.testing.assert_allclose(fit(a, Y).history["loss"], fit(b, Y).history["loss"], rtol=1e-6)
    assert_same(a, b, 1e-6)


def test_overflow_of_a_scaled_loss_is_not_an_error():
    scaled = optimizers.LossScaleOptimizer(optimizers.Adam(0.01), initial_scale=1e38)
    t = trainer("mse", scaled)
    fit(t, Y, epochs=1)  # no warning, because warnings are errors in tests
    assert np.isfinite(t.variables["params"]["dense"]["kernel"]).all() and not t.stop_training


def test_invalid_policies_are_rejected():
    with pytest.raises(
        ValueError, match=r"^`nonfinite` must be 'stop', 'restore', 'skip' or 'ignore', got 'raise'; use one of"
    ):
        trainer(nonfinite="raise")


def test_batch_hooks_end_with_the_bad_step():
    class Watch(Callback):
        seen: ClassVar[list] = []

        def on_train_batch_end(self, batch, logs):
            self.seen.append((batch, [float(log) for log in logs["loss"]]))

    t = trainer(steps_per_execution=4)
    with sentence(2, GRADIENT, "the run ends with the state before that step"):
        fit(t, spoiled(9, 13), callbacks=[Watch()])
    ((batch, losses),) = Watch.seen
    assert batch == 2 and np.isfinite(losses[:2]).all() and len(losses) == 3 and not np.isfinite(losses[2])


@pytest.mark.filterwarnings("ignore:The loss is")
def test_model_checkpoint_does_not_save_nonfinite_models(tmp_path):
    path, t = tmp_path / "m.safetensors", trainer(nonfinite="ignore")
    fit(t, Y, epochs=1, callbacks=[ModelCheckpoint(path)])
    before = path.read_bytes()
    sentence = (
        f"The model of epoch 1 is not saved to {path}, because batch_stats/batch_normalization/moving_mean is not "
        "finite; lower the learning rate, or clip the gradients."
    )
    with pytest.warns(RuntimeWarning, match=f"^{re.escape(sentence)}$"):
        fit(t, spoiled(9), epochs=1, callbacks=[ModelCheckpoint(path)])
    assert path.read_bytes() == before


def test_nan_is_never_the_best_value():
    class Values(Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = [np.nan, 3.0, np.nan, 2.0, np.nan][epoch]

    best = EarlyStopping(patience=9, restore_best_weights=True)
    fit(trainer(), Y, epochs=5, callbacks=[Values(), best])
    assert (best.best, best.best_epoch) == (2.0, 3)
