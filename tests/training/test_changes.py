"""Changes to a model between two calls of a trainer: frozen layers, changed arguments, added layers."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxmodels import Input, Model, Sequential, layers
from training import Trainer, optimizers, steps
from training.changes import settings

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4)).astype("float32")
Y = RNG.normal(size=(12, 2)).astype("float32")


def mlp():
    return Sequential([Input((4,)), layers.Dense(3, activation="tanh", name="base"), layers.Dense(2, name="head")])


def fit(trainer, epochs=2, **arguments):
    return trainer.fit(X, Y, **{"batch_size": 4, "epochs": epochs, "shuffle": False, "verbose": 0} | arguments)


def copy(tree):
    return jax.tree.map(np.array, tree)


def equal(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def train_with_dropped_updates(trainer, optimizer, params, opt_state, frozen, epochs=2):
    """Returns parameters and optimizer state after some epochs in which updates of frozen scopes are dropped."""
    update = jax.jit(optimizer.update)

    @jax.jit
    def grads(params, x, y):
        return jax.grad(lambda p: jnp.mean((trainer.model.apply({"params": p}, x) - y) ** 2))(params)

    for _ in range(epochs):
        for i in range(0, 12, 4):
            updates, opt_state = update(grads(params, X[i : i + 4], Y[i : i + 4]), opt_state, params)
            updates |= {scope: jax.tree.map(jnp.zeros_like, updates[scope]) for scope in frozen}
            params = optax.apply_updates(params, updates)
    return params, opt_state


# Optimizers that update each parameter independently, so that some updates can be dropped afterwards.
OPTIMIZERS = {
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9),
    "Adam with an average": lambda: optimizers.Adam(0.02, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3),
    "AdamW in two micro-steps": lambda: optimizers.AdamW(0.02, gradient_accumulation_steps=2),
    "a schedule": lambda: optimizers.Adam(lambda step: 0.1 / (1.0 + step.astype("float32"))),
    "by path": lambda: optimizers.by_path({".*bias": "adam"}, default=optimizers.SGD(0.1, momentum=0.9)),
    "optax": lambda: optax.chain(optax.clip(0.5), optax.adam(0.02)),
    "a learning rate in optax' state": lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=0.02),
}


@pytest.mark.rotate
@pytest.mark.parametrize("kind", OPTIMIZERS)
@jax.numpy_dtype_promotion("standard")  # optax multiplies integer counts and floats
def test_frozen_layers_stay_fixed_and_others_keep_their_optimizer_state(kind):
    optimizer = OPTIMIZERS[kind]()
    trainer = Trainer(mlp(), optimizer, "mse")
    fit(trainer)
    params, opt_state = copy(trainer.state.params), copy(trainer.state.opt_state)
    trainer.model.layers[0].trainable = False
    fit(trainer)
    want, wanted_state = train_with_dropped_updates(trainer, optimizer, params, opt_state, ["base"])
    assert equal(trainer.state.params["base"], params["base"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), trainer.state.params["head"], want["head"])
    assert not equal(trainer.state.params["head"], params["head"])

    # The layer that is trained again starts with a fresh state. The other layers keep theirs.
    params = copy(trainer.state.params)
    fresh = optimizer.init(params)

    def reset_base(path, old, new):
        return new if "base" in jax.tree_util.keystr(path) else old

    wanted_state = jax.tree_util.tree_map_with_path(reset_base, wanted_state, fresh)
    trainer.model.layers[0].trainable = True
    fit(trainer)
    want, _ = train_with_dropped_updates(trainer, optimizer, params, wanted_state, [])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), trainer.state.params, want)
    assert not equal(trainer.state.params["base"], params["base"])


def test_freezing_keeps_the_loss_scale():
    trainer = Trainer(mlp(), optimizers.LossScaleOptimizer("adam", dynamic_growth_steps=3), "mse")
    fit(trainer)
    scale, moments = float(trainer.state.opt_state.scale), copy(trainer.state.opt_state.inner_state.slots)
    assert scale == 2.0**17
    trainer.model.layers[0].trainable = False
    fit(trainer, 1)
    assert float(trainer.state.opt_state.scale) == 2.0**18
    slots = trainer.state.opt_state.inner_state.slots
    assert set(slots[0]) == {"head"}
    assert not equal(slots[0]["head"], moments[0]["head"])


@pytest.mark.parametrize("freeze", ["inner", "whole"])
def test_layers_of_nested_models_can_be_frozen(freeze):
    x = Input((4,))
    inner = Model(x, layers.BatchNormalization()(layers.Dense(3)(x)), name="inner")
    trainer = Trainer(Sequential([Input((4,)), inner, layers.Dense(2, name="head")]), "adam", "mse")
    fit(trainer)
    before = copy(trainer.variables)
    (inner if freeze == "whole" else inner.layers[0]).trainable = False
    fit(trainer)
    after = trainer.variables
    assert equal(after["params"]["inner"]["dense"], before["params"]["inner"]["dense"])
    # Frozen normalization does not update its statistics.
    assert equal(after["params"]["inner"], before["params"]["inner"]) == (freeze == "whole")
    assert equal(after["batch_stats"], before["batch_stats"]) == (freeze == "whole")
    assert not equal(after["params"]["head"], before["params"]["head"])


def test_all_layers_can_be_frozen_and_trained_again():
    trainer = Trainer(mlp(), "adam", "mse")
    fit(trainer)
    before = copy(trainer.state.params)
    trainer.model.trainable = False
    fit(trainer)
    assert equal(trainer.state.params, before)
    trainer.model.trainable = True
    fit(trainer)
    assert not equal(trainer.state.params["base"], before["base"])


def test_undoing_a_change_reuses_the_compiled_program(monkeypatch):
    made = []
    monkeypatch.setattr(
        steps, "make_train_program", lambda *a, make=steps.make_train_program: made.append(a) or make(*a)
    )
    trainer = Trainer(mlp(), "adam", "mse")
    for trainable, programs in ((True, 1), (True, 1), (False, 2), (True, 2), (False, 2)):
        trainer.model.layers[0].trainable = trainable
        fit(trainer, 1)
        assert len(made) == programs


def test_changes_affect_evaluation_but_not_the_optimizer_state():
    model = Sequential([Input((4,)), layers.Dense(2, kernel_regularizer="l2")])
    trainer = Trainer(model, "adam", "mse")
    fit(trainer)
    loss, structure = trainer.evaluate(X, Y)["loss"], jax.tree.structure(trainer.state.opt_state)
    model.layers[0].trainable = False  # the loss then excludes its regularizer
    penalty = 0.01 * float(np.sum(np.square(trainer.variables["params"]["dense"]["kernel"])))
    assert trainer.evaluate(X, Y)["loss"] == pytest.approx(loss - penalty, rel=1e-5)
    assert jax.tree.structure(trainer.state.opt_state) == structure
    model.layers[0].trainable = True
    assert trainer.evaluate(X, Y)["loss"] == pytest.approx(loss, rel=1e-6)


def test_changes_of_other_arguments_take_effect():
    model = Sequential([Input((4,)), layers.Dropout(0.5), layers.Dense(2, kernel_constraint="non_neg")])
    trainer = Trainer(model, optimizers.SGD(0.0), "mse")
    first, second = (fit(trainer, 1).history["loss"][0] for _ in range(2))
    assert first != second
    model.layers[0].rate = 0.0
    model.layers[1].kernel_constraint = None
    plain = fit(trainer, 1).history["loss"][0]
    assert plain == pytest.approx(trainer.evaluate(X, Y)["loss"], rel=1e-6)
    model.layers[1].activation = "relu"
    assert trainer.predict(X).min() == 0


def test_resuming_after_a_change_is_bit_identical(tmp_path):
    def run(epochs):
        trainer = Trainer(mlp(), "adam", "mse")
        fit(trainer, 2)
        trainer.model.layers[0].trainable = False
        fit(trainer, epochs, resume=tmp_path / str(epochs == 4))
        return trainer

    want = run(4).state.params
    (tmp_path / "True").rename(tmp_path / "kept")
    run(2)
    (tmp_path / "False").rename(tmp_path / "True")
    assert equal(run(4).state.params, want)


def test_added_layers_are_rejected():
    trainer = Trainer(mlp(), "adam", "mse")
    fit(trainer, 1)
    trainer.model.add(layers.Dense(2, name="top"))
    sentence = (
        "A model must keep its variables once a Trainer has created them, got a change after which 'params/top/{}' "
        "is new; make a new Trainer, and pass the variables to keep as `variables`."
    )
    pattern = "|".join(re.escape(sentence.format(name)) for name in ("kernel", "bias"))
    for call in (lambda: fit(trainer, 1), lambda: trainer.predict(X)):
        with pytest.raises(ValueError, match=f"^({pattern})$"):
            call()


def test_optimizer_states_without_parameter_paths_are_reset():
    def init(params):
        return [jnp.zeros_like(leaf) for leaf in jax.tree.leaves(params)]

    def update(grads, state, params=None):
        leaves, treedef = jax.tree.flatten(grads)
        state = [0.9 * s + g for s, g in zip(state, leaves, strict=True)]
        return treedef.unflatten([-0.1 * s for s in state]), state

    trainer = Trainer(mlp(), optax.GradientTransformation(init, update), "mse")
    fit(trainer)
    trainer.model.layers[0].trainable = False
    sentence = (
        "The optimizer's state does not have the structure of the parameters, so all trained parameters start with a "
        "fresh state; use an optimizer whose state has that structure."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(sentence)}$"):
        fit(trainer)


class Net(nn.Module):
    inner: nn.Module
    widths: tuple = (3, 4)

    @nn.compact
    def __call__(self, x):
        return self.inner(x)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.inner.layers[0], "trainable", False),
        lambda m: setattr(m.inner.layers[1].layer, "units", 4),
        lambda m: setattr(m.inner.layers[1].layer, "kernel_regularizer", "l2"),
        lambda m: setattr(m.inner, "trainable", False),
        lambda m: m.inner.pop(),
        lambda m: m.inner.add(layers.Dropout(0.1)),
    ],
)
@pytest.mark.spread
def test_settings_detect_changes_of_nested_layers(change):
    model = Net(Sequential([layers.Dense(2), layers.TimeDistributed(layers.Dense(3))]))
    before = settings(model)
    assert settings(model) == before
    change(model)
    assert settings(model) != before
