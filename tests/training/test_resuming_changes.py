"""Changes that a resumed run accepts or rejects: the optimizer, its learning rate, the number of epochs."""

import re
import types
import warnings

import numpy as np
import optax
import pytest

from flaxmodels import Input, Sequential, layers
from training import Checkpoints, Trainer, callbacks, optimizers, schedules
from training.optimizers import adam

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype("float32")
Y = RNG.normal(size=(12, 1)).astype("float32")


def trainer(optimizer):
    return Trainer(Sequential([Input((3,)), layers.Dense(1)]), optimizer, "mse", steps_per_execution=1)


def fit(optimizer, folder, epochs=2, more=(), rate=None):
    trained = trainer(optimizer)
    if rate is not None:
        trained.build(X)
        trained.learning_rate = rate
    trained.fit(X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=[*more], resume=folder)
    return trained


def refuses(sentence):
    return pytest.raises(ValueError, match=f"^{re.escape(sentence)}$")


def warns_of_rate(folder, before, after):
    sentence = (
        f"The checkpoints in {folder} belong to a run with another learning rate; its last rate was {before}, and the "
        f"run continues with {after}."
    )
    return pytest.warns(UserWarning, match=f"^{re.escape(sentence)}$")


O = optimizers  # noqa: E741 - for the table
OTHER_OPTIMIZERS = {
    "AdamW": (O.Adam(), O.AdamW(), "name='adam', got 'adamw'"),
    "Adamax": (O.Adam(), O.Adamax(), "name='adam', got 'adamax'"),
    "beta_2": (O.Adam(), O.Adam(beta_2=0.9), "beta_2=0.999, got 0.9"),
    "clipnorm": (O.Adam(), O.Adam(clipnorm=1.0), "clipnorm=None, got 1.0"),
    "accumulation": (
        O.SGD(gradient_accumulation_steps=2),
        O.SGD(gradient_accumulation_steps=3),
        "gradient_accumulation_steps=2, got 3",
    ),
    "one of several optimizers": (
        O.by_path({"dense/kernel": O.Adam()}, "sgd"),
        O.by_path({"dense/kernel": O.Adam(epsilon=1e-3)}, "sgd"),
        "epsilon=1e-07, got 0.001",
    ),
    "momentum of optax": (optax.sgd(1e-3, 0.9), optax.sgd(1e-3, 0.8), "decay=0.9, got 0.8"),
    "learning rate of optax": (optax.sgd(1e-3), optax.sgd(1e-2), "step_size=-0.001, got -0.01"),
}


@pytest.mark.parametrize("case", OTHER_OPTIMIZERS)
def test_other_optimizers_are_rejected(case, tmp_path):
    before, now, difference = OTHER_OPTIMIZERS[case]
    fit(before, tmp_path, 1)
    fit(before, tmp_path, 1)
    with refuses(
        f"The checkpoints in {tmp_path} belong to a run whose optimizer has {difference}; use the same arguments as "
        "before, or choose another folder."
    ):
        fit(now, tmp_path)


def test_renaming_an_internal_function_changes_nothing(tmp_path, monkeypatch):
    before = fit("nadam", tmp_path, 1)
    renamed = types.FunctionType(adam._zero_moments.__code__, vars(adam), "_initial_moments")
    renamed.__qualname__ = "_initial_moments"
    monkeypatch.setattr(adam, "_zero_moments", renamed)
    with refuses(
        f"The checkpoints in {tmp_path} belong to a run whose optimizer has beta_1=0.9, got 0.8; use the same "
        "arguments as before, or choose another folder."
    ):
        fit(O.Nadam(beta_1=0.8), tmp_path)
    resumed = fit("nadam", tmp_path)
    assert resumed.history.history["loss"][:1] == before.history.history["loss"]
    assert int(resumed.state.step) == 6


def test_changing_one_of_several_rates_is_rejected(tmp_path):
    fit(O.by_path({"dense/kernel": O.SGD(0.1)}, "sgd"), tmp_path, 1)
    with refuses(
        f"The checkpoints in {tmp_path} belong to a run with 2 learning rates, got 0.2 for one of them; use the same "
        "arguments as before, or choose another folder."
    ):
        fit(O.by_path({"dense/kernel": O.SGD(0.2)}, "sgd"), tmp_path)


def test_fewer_epochs_than_completed_are_rejected(tmp_path):
    done = fit("adam", tmp_path, 3)
    assert fit("adam", tmp_path, 3).history.history == done.history.history
    with refuses(
        f"The run in {tmp_path} has done 3 epochs and 0 steps, got epochs=2; give at least 3, or choose another folder."
    ):
        fit("adam", tmp_path, 2)


class Plateau(callbacks.Callback):
    """Halves the rate after each epoch, as a callback that monitors a value may do."""

    def on_epoch_end(self, epoch, logs=None):
        logs["rate"] = self.trainer.learning_rate
        self.trainer.learning_rate = self.trainer.learning_rate / 2


class SetAtStart(callbacks.Callback):
    def __init__(self, rate):
        self.rate = rate

    def on_train_begin(self, logs=None):
        self.trainer.learning_rate = self.rate


def rates(trained):
    return trained.history.history["rate"]


STARTS = {
    "an argument": lambda rate: {"optimizer": O.SGD(rate)},
    "an argument of optax": lambda rate: {"optimizer": optax.inject_hyperparams(optax.sgd)(learning_rate=rate)},
    "the trainer": lambda rate: {"optimizer": "sgd", "rate": rate},
    "a callback": lambda rate: {"optimizer": "sgd", "more": [SetAtStart(rate)]},
}


@pytest.mark.rotate
@pytest.mark.parametrize("start", STARTS)
def test_an_unchanged_rate_is_restored_and_a_new_rate_is_used(start, tmp_path):
    def run(rate, epochs):
        arguments = STARTS[start](rate)
        return fit(**arguments | {"more": [*arguments.get("more", ()), Plateau()]}, folder=tmp_path, epochs=epochs)

    run(0.5, 2)
    assert rates(run(0.5, 4)) == [0.5, 0.25, 0.125, 0.0625]
    with warns_of_rate(tmp_path, "0.03125", "0.75"):
        assert rates(run(0.75, 5))[4:] == [0.75]
    assert rates(run(0.75, 6))[4:] == [0.75, 0.375]  # the run keeps the new rate


def test_a_rate_set_between_two_calls_is_used(tmp_path):
    trained = trainer("sgd")

    def run(epochs):
        return trained.fit(
            X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=[Plateau()], resume=tmp_path
        ).history["rate"]

    trained.build(X)
    trained.learning_rate = 0.5
    assert run(2) == run(2) == [0.5, 0.25]
    assert run(3) == [0.5, 0.25, 0.125]
    trained.learning_rate = 1.0
    with warns_of_rate(tmp_path, "0.0625", "1"):
        assert run(4)[3:] == [1.0]
    # A new process that sets the same rate has not changed it.
    again = fit("sgd", tmp_path, 5, [Plateau()], rate=1.0)
    assert rates(again)[3:] == [1.0, 0.5]


def test_rates_set_by_callbacks_are_not_the_users_choice(tmp_path):
    """A rate that a callback sets during one run does not affect the next run."""
    trained = trainer(O.SGD(0.5))
    trained.fit(X, Y, batch_size=4, epochs=1, verbose=0, callbacks=[Plateau()])
    assert trained.session.chosen_rate is None
    trained.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[Plateau()], resume=tmp_path)
    assert rates(trained) == [0.25, 0.125]
    assert rates(fit(O.SGD(0.5), tmp_path, 3, [Plateau()])) == [0.25, 0.125, 0.0625]


def test_a_new_schedule_is_used(tmp_path):
    fit(O.SGD(schedules.CosineDecay(0.1, 6)), tmp_path)
    sentence = (
        f"The checkpoints in {tmp_path} belong to a run with another learning rate schedule; the run continues with "
        "the new one."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(sentence)}$"):
        trained = fit(O.SGD(schedules.CosineDecay(0.1, 12)), tmp_path, 3)
    assert trained.learning_rate == pytest.approx(0.1 * 0.5 * (1 + np.cos(np.pi * 9 / 12)), rel=1e-5)


def test_a_new_rate_continues_a_stopped_run(tmp_path):
    class Stop(callbacks.Callback):
        def on_chunk_end(self, step, logs=None):
            self.trainer.stop_training = step == 2

    assert int(fit("sgd", tmp_path, 3, [Stop()]).state.step) == 2
    assert int(fit("sgd", tmp_path, 3).state.step) == 2
    with warns_of_rate(tmp_path, "0.01", "0.001"):
        trained = fit(O.SGD(0.001), tmp_path, 3)
    assert len(trained.history.epoch) == 3
    assert int(trained.state.step) == 2 + 3 + 3


def test_no_warning_without_changes(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for epochs in (1, 2):
            fit(O.Adam(0.01), Checkpoints(tmp_path), epochs, [callbacks.ReduceLROnPlateau("loss", patience=0)])
