"""Trainer: results of fit, evaluate and predict, number of compilations, and rejected arguments."""

import logging
import re

import flax.linen as nn
import jax
import numpy as np
import pytest

import flaxmodels as fm
from flaxmodels import Input, Model, Sequential, layers
from training import Trainer, callbacks, losses, metrics, optimizers, steps
from training.datasets import Split

RNG = np.random.default_rng(0)
X = RNG.normal(size=(53, 4)).astype("float32")
LABELS = (X.sum(-1) > 0).astype("int32") + (X[:, 0] > 1)
ONE_HOT = np.eye(3, dtype="float32")[LABELS]


def classifier(**kwargs):
    return Sequential([layers.Dense(8, activation="relu", input_shape=(4,)), layers.Dense(3, activation="softmax")])


def trainer(**kwargs):
    return Trainer(
        classifier(), **{"optimizer": "adam", "loss": "categorical_crossentropy", "metrics": ["accuracy"]} | kwargs
    )


def refuses(kind, sentence):
    # JAX adds a note to errors that are raised during tracing.
    return pytest.raises(kind, match=rf"^{re.escape(sentence)}(\n-|$)")


class Compilations(logging.Handler):
    """Records the names of the functions that XLA compiles."""

    def __init__(self):
        super().__init__()
        self.names = []

    def emit(self, record):
        found = re.match(r"Compiling jit\((\w+)\)|Compiling (\w+) ", record.getMessage())
        if found:
            self.names.append(found[1] or found[2])


@pytest.fixture
def compilations():
    handler, logger = Compilations(), logging.getLogger("jax._src.interpreters.pxla")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield handler.names
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = propagate


# ---------------------------------------------------------------- fit


def test_a_second_fit_compiles_nothing(compilations):
    t = trainer(steps_per_execution=2)  # 53 examples in batches of 8: 7 steps, the last one padded, in 4 chunks
    t.fit(X, ONE_HOT, batch_size=8, epochs=3, verbose=0, validation_data=(X[:20], ONE_HOT[:20]))
    assert compilations.count("program") == 2  # one for training, one for validation
    compilations.clear()
    t.fit(X, ONE_HOT, batch_size=8, epochs=2, verbose=0, validation_data=(X[:20], ONE_HOT[:20]))
    assert compilations == []


def test_fit_learns():
    history = trainer(optimizer=optimizers.Adam(0.02)).fit(X, ONE_HOT, batch_size=8, epochs=40, verbose=0)
    assert history.history["accuracy"][-1] > 0.9
    assert len(history.history["loss"]) == len(history.epoch) == len(history.seconds) == 40
    assert list(history.history) == ["loss", "accuracy"]


@pytest.mark.parametrize("steps", [1, 3, 100])
def test_results_do_not_depend_on_steps_per_execution(steps):
    a, b = trainer(), trainer(steps_per_execution=steps)
    logs = [t.fit(X, ONE_HOT, batch_size=8, epochs=2, verbose=0).history for t in (a, b)]
    assert logs[0] == logs[1]
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)


def test_the_same_seed_is_bit_identical_and_another_seed_differs():
    a, b, c = (trainer(seed=seed) for seed in (3, 3, 4))
    for t in (a, b, c):
        t.fit(X, ONE_HOT, batch_size=8, epochs=2, verbose=0)
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)
    assert (a.variables["params"]["dense"]["kernel"] != c.variables["params"]["dense"]["kernel"]).any()


def test_splits_work_with_either_crossentropy():
    split = Split(X, LABELS, num_classes=3)
    both = [
        trainer(loss=loss).fit(split, batch_size=8, epochs=2, verbose=0).history["loss"]
        for loss in ("categorical_crossentropy", "sparse_categorical_crossentropy")
    ]
    np.testing.assert_allclose(*both, rtol=1e-5)


def test_validation_split_uses_the_last_examples():
    a = trainer().fit(X, ONE_HOT, batch_size=8, epochs=2, verbose=0, validation_split=0.2)
    at = int(np.floor(53 * 0.8))
    b = trainer().fit(X[:at], ONE_HOT[:at], batch_size=8, epochs=2, verbose=0, validation_data=(X[at:], ONE_HOT[at:]))
    assert a.history == b.history
    assert list(a.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]


def test_class_weight_equals_sample_weight_by_class():
    factors = {0: 0.5, 1: 2.0, 2: 3.0}
    a = trainer().fit(X, ONE_HOT, batch_size=8, epochs=2, verbose=0, class_weight=factors)
    weights = np.array([factors[int(label)] for label in LABELS], "float32")
    b = trainer().fit(X, ONE_HOT, batch_size=8, epochs=2, verbose=0, sample_weight=weights)
    assert a.history == b.history


def test_sample_weights_affect_only_loss_and_weighted_metrics():
    t = trainer(weighted_metrics=["accuracy"])
    t.build(X)
    weights = np.linspace(0, 2, 53).astype("float32")
    right = t.predict(X).argmax(-1) == LABELS
    logs = t.evaluate(X, ONE_HOT, batch_size=8, sample_weight=weights)
    assert logs["accuracy"] == pytest.approx(right.mean())
    assert logs["weighted_accuracy"] == pytest.approx((right * weights).sum() / weights.sum())


def test_callable_and_object_arguments():
    def error(y_true, y_pred):
        return abs(y_true - y_pred).mean(-1)

    t = trainer(
        optimizer=optimizers.SGD(0.1),
        loss=losses.CategoricalCrossentropy(label_smoothing=0.1),
        metrics=[metrics.MeanAbsoluteError(name="error_1"), error],
    )
    logs = t.evaluate(X, ONE_HOT)
    assert list(logs) == ["loss", "error_1", "error"]
    assert logs["error_1"] == pytest.approx(logs["error"])


def test_two_inputs_and_two_outputs():
    a, b = Input((4,), name="a"), Input((4,), name="b")
    hidden = layers.Concatenate()([layers.Dense(5)(a), layers.Dense(5)(b)])
    model = Model(
        {"a": a, "b": b},
        [layers.Dense(3, activation="softmax", name="kind")(hidden), layers.Dense(1, name="size")(hidden)],
    )
    t = Trainer(
        model,
        optimizer="adam",
        loss={"kind": "sparse_categorical_crossentropy", "size": "mse"},
        loss_weights={"size": 0.5},
        metrics={"kind": ["accuracy"], "size": ["mae"]},
    )
    y = {"kind": LABELS, "size": X.sum(-1, keepdims=True)}
    history = t.fit({"a": X, "b": X}, y, batch_size=8, epochs=3, verbose=0).history
    assert list(history) == ["loss", "kind_loss", "size_loss", "kind_accuracy", "size_mae"]
    np.testing.assert_allclose(
        history["loss"], np.array(history["kind_loss"]) + 0.5 * np.array(history["size_loss"]), rtol=1e-5
    )
    as_list = t.evaluate({"a": X, "b": X}, [LABELS, y["size"]])
    assert as_list == t.evaluate({"a": X, "b": X}, y)
    assert [o.shape for o in t.predict({"a": X, "b": X})] == [(53, 3), (53, 1)]


def test_masked_steps_affect_neither_loss_nor_metrics():
    class Marked(layers.Layer):
        """Returns its inputs, and a mask that hides negative values."""

        @nn.compact
        def compute(self, inputs):
            return inputs

        def compute_mask(self, inputs, mask):
            return inputs[..., 0] >= 0

    x = np.array([[[1.0], [2.0], [-5.0]], [[3.0], [-5.0], [-5.0]], [[4.0], [4.0], [4.0]]], "float32")
    t = Trainer(Sequential([Input((3, 1)), Marked()]), loss="mse", metrics=["mae"])
    logs = t.evaluate(x, np.zeros_like(x), batch_size=2)
    # In batches of 2 the losses are (1 + 4 + 9) / 3 and 48 / 3, counted once per row; batches do not affect the metric.
    assert logs["loss"] == pytest.approx((2 * 14 / 3 + 16) / 3)
    assert logs["mae"] == pytest.approx((1 + 2 + 3 + 12) / 6)


# ---------------------------------------------------------------- evaluate, predict, save


@pytest.mark.parametrize("batch_size", [1, 8, 53, 100])
def test_evaluate_and_predict_do_not_depend_on_the_batch_size(batch_size):
    t = trainer()
    t.build(X)
    want = t.model.apply(t.variables, X)
    np.testing.assert_allclose(t.predict(X, batch_size=batch_size), want, rtol=1e-5, atol=1e-6)
    logs = t.evaluate(X, ONE_HOT, batch_size=batch_size)
    assert logs["loss"] == pytest.approx(float(losses.CategoricalCrossentropy()(ONE_HOT, want)), rel=1e-5)
    assert logs["accuracy"] == pytest.approx(float((want.argmax(-1) == LABELS).mean()))


def test_saved_models_predict_bit_identically(tmp_path):
    t = trainer()
    t.fit(X, ONE_HOT, epochs=1, verbose=0)
    t.save(tmp_path / "model.safetensors")
    model, variables = fm.load(tmp_path / "model.safetensors")
    again = Trainer(model, loss="categorical_crossentropy", variables=variables)
    np.testing.assert_array_equal(again.predict(X), t.predict(X))


def test_variables_can_be_set():
    a, b = trainer(seed=1), trainer(seed=2)
    a.build(X)
    b.fit(X, ONE_HOT, epochs=1, verbose=0)
    b.variables = a.variables
    np.testing.assert_array_equal(a.predict(X), b.predict(X))
    b.fit(X, ONE_HOT, epochs=1, verbose=0)  # the state is donated, but the variables that were set stay usable
    a.predict(X)


def test_linen_modules_can_be_trained():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.softmax(nn.Dense(3)(x))

    history = Trainer(Net(), "adam", "categorical_crossentropy").fit(X, ONE_HOT, epochs=5, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


# ---------------------------------------------------------------- custom steps and callbacks


def test_custom_train_steps():
    """The custom step halves all parameters after the default step."""

    def make_step(model, objective, optimizer, rules, nonfinite):
        default_step = steps.make_train_step(model, objective, optimizer, rules, nonfinite)

        def step(state, totals, batch):
            state, totals = default_step(state, totals, batch)
            return state.replace(params=jax.tree.map(lambda p: p / 2, state.params)), totals

        return step

    default, custom = trainer(), trainer(train_step=make_step)
    losses = [t.fit(X, ONE_HOT, batch_size=53, verbose=0).history["loss"] for t in (default, custom)]
    assert losses[0] == losses[1]
    for a, b in zip(*(jax.tree.leaves(t.variables) for t in (custom, default)), strict=True):
        np.testing.assert_array_equal(a, b / 2)
    with refuses(
        TypeError,
        "`train_step` must be a function (model, objective, optimizer, rules, nonfinite) that makes a step, got 3; "
        "give one like training.steps.make_train_step.",
    ):
        trainer(train_step=3)


def test_order_of_events():
    seen = []

    class Recorder(callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append("train begin")

        def on_train_end(self, logs=None):
            seen.append(("train end", sorted(logs)))

        def on_epoch_begin(self, epoch, logs=None):
            seen.append(("epoch begin", epoch))

        def on_epoch_end(self, epoch, logs=None):
            seen.append(("epoch end", epoch, sorted(logs)))
            logs["added"] = 1.0

        def on_chunk_end(self, step, logs=None):
            seen.append(("chunk end", step, sorted(logs)))

    t = trainer(steps_per_execution=4)
    recorder = Recorder()
    options = {"callbacks": [recorder], "validation_data": (X, ONE_HOT), "validation_freq": 2}
    history = t.fit(X, ONE_HOT, batch_size=8, epochs=2, verbose=0, **options)
    every, both = ["accuracy", "loss"], ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert seen == [
        "train begin",
        ("epoch begin", 0),
        ("chunk end", 4, every),
        ("chunk end", 7, every),
        ("epoch end", 0, every),
        ("epoch begin", 1),
        ("chunk end", 4, every),
        ("chunk end", 7, every),
        ("epoch end", 1, both),
        ("train end", both),  # as in Keras, without what callbacks add to the logs
    ]
    assert history.history["added"] == [1.0, 1.0]  # the history contains values that callbacks add to the logs
    assert recorder.params == {"verbose": 0, "epochs": 2, "steps": 7} and recorder.has_validation
    assert recorder.trainer is t


# ---------------------------------------------------------------- mistakes


def test_wrong_input_shape():
    with refuses(
        ValueError,
        "Sequential takes inputs of shape (None, 4), got (6, 5); reshape the data, or change the model's input shape.",
    ):
        trainer().fit(np.ones((6, 5)), ONE_HOT[:6], verbose=0)


def test_labels_out_of_range():
    with pytest.raises(ValueError, match="^Labels must lie in 0..2 for 3 classes, got 7 at index 2"):
        trainer(loss="sparse_categorical_crossentropy").fit(X[:3], np.array([0, 1, 7]), verbose=0)
    with pytest.raises(ValueError, match="^Labels must lie in 0..2 for 3 classes, got -1 at index 0"):
        trainer(loss="sparse_categorical_crossentropy").evaluate(X[:3], np.array([-1, 1, 2]))


def test_integer_labels_with_the_one_hot_loss():
    with refuses(
        losses.LabelShapeError,
        "categorical_crossentropy takes labels and predictions of the same shape, got `y` of shape (53,) and the "
        "output of shape (53, 3); use sparse_categorical_crossentropy for class indices, or convert the labels to "
        "one-hot.",
    ):
        trainer().fit(X, LABELS, verbose=0)


def test_missing_loss_labels_or_module():
    with refuses(
        ValueError,
        "Training needs a loss, got none and a model whose layers add none; write, for example, Trainer(model, loss='mse'), "
        "or call `add_loss` in a layer.",
    ):
        Trainer(classifier()).fit(X, ONE_HOT)
    with refuses(ValueError, "`fit` needs labels, got none; write fit(x, y), or give a Split of datasets.load."):
        trainer().fit(X)
    with refuses(
        TypeError,
        "A Trainer trains a linen module, got 'model' of type str; give a Sequential, a Model, or an nn.Module object.",
    ):
        Trainer("model")
    with refuses(ValueError, "`steps_per_execution` must be 'auto' or a positive integer, got 0; use 'auto'."):
        Trainer(classifier(), steps_per_execution=0)
    with refuses(ValueError, "The model has no parameters yet; call fit, evaluate, predict or build first."):
        _ = Trainer(classifier()).variables


def test_unknown_names_are_rejected_before_the_first_step():
    with pytest.raises(ValueError, match=r"^Unknown loss 'msee'\. Did you mean 'mse'\? Known: "):
        trainer(loss="msee").fit(X, ONE_HOT)
    with pytest.raises(ValueError, match=r"^Unknown metric 'acuracy'\. Did you mean 'accuracy'\? Known: "):
        trainer(metrics=["acuracy"]).fit(X, ONE_HOT)
    with pytest.raises(ValueError, match=r"^Unknown optimizer 'adm'\. Did you mean 'adam'\? Known: "):
        trainer(optimizer="adm")


def test_arguments_by_output():
    two = Model(a := Input((4,)), [layers.Dense(1, name="p")(a), layers.Dense(1, name="q")(a)])
    y = [X[:, :1], X[:, :1]]
    with refuses(
        ValueError,
        "The keys of `loss` must be the model's outputs ['p', 'q'], got 'r'; use these names, or give a list in this "
        "order.",
    ):
        Trainer(two, loss={"r": "mse"}).fit(X, y)
    with refuses(
        ValueError,
        "`loss` must have one entry for each of the outputs ['p', 'q'], got 3; give a list of that length, or a "
        "dictionary keyed by output name.",
    ):
        Trainer(two, loss=["mse", "mse", "mse"]).fit(X, y)
    with refuses(
        ValueError,
        "`loss_weights` of a model with the outputs ['p', 'q'] must be a list or a dictionary keyed by output name, got "
        "2; write {'p': 2}.",
    ):
        Trainer(two, loss="mse", loss_weights=2).fit(X, y)


def test_invalid_validation_data():
    with refuses(
        ValueError,
        "`validation_data` must be (x, y), (x, y, sample_weight), a Split or a stream of such batches, got 1 entry; "
        "write validation_data=(x, y).",
    ):
        trainer().fit(X, ONE_HOT, validation_data=(X,))


def test_labels_of_each_output_are_checked_against_their_own_loss():
    # The outputs are not in alphabetical order.
    x = Input((4,))
    model = Model(x, [layers.Dense(3, "softmax", name="kind")(x), layers.Dense(2, name="age")(x)])
    t = Trainer(model, "sgd", {"kind": "sparse_categorical_crossentropy", "age": "mse"})
    with pytest.raises(ValueError, match="^Labels must lie in 0..2 for 3 classes, got 8 at index 0"):
        t.fit(X[:3], {"age": X[:3, :2], "kind": np.array([8, 1, 2])}, verbose=0)
    t.fit(X[:3], {"age": 9 + X[:3, :2], "kind": np.array([0, 1, 2])}, verbose=0)


def test_missing_variables_are_initialized():
    base = Sequential([Input((4,)), layers.Dense(3), layers.BatchNormalization()], name="base")
    model = Sequential([Input((4,)), base, layers.Dense(2, kernel_initializer="ones")])
    kernel = np.arange(12.0, dtype="float32").reshape(4, 3)
    part = {"params": {"base": {"dense": {"kernel": kernel}}}}
    t = Trainer(model, optimizers.SGD(0.0), "mse", variables=part)
    t.fit(X, X[:, :2], verbose=0)
    whole = Trainer(model, optimizers.SGD(0.0), "mse")
    whole.build(X)
    assert jax.tree.structure(t.variables) == jax.tree.structure(whole.variables)
    assert np.array_equal(t.variables["params"]["base"]["dense"]["kernel"], kernel)
    assert np.array_equal(t.variables["params"]["dense"]["kernel"], np.ones((3, 2)))
    # Setting some variables does not change the others, including statistics.
    mean = t.variables["batch_stats"]["base"]["batch_normalization"]["moving_mean"]
    assert np.abs(mean).max() > 0
    t.variables = {"params": {"dense": {"bias": np.array([5.0, 6.0], "float32")}}}
    assert np.array_equal(t.variables["params"]["base"]["dense"]["kernel"], kernel)
    assert np.array_equal(t.variables["batch_stats"]["base"]["batch_normalization"]["moving_mean"], mean)
    assert t.variables["params"]["dense"]["bias"].tolist() == [5.0, 6.0]


@pytest.mark.parametrize("nonfinite", ["stop", "skip", "ignore"])
def test_training_does_not_overwrite_variables_that_others_hold(nonfinite):
    """Training overwrites its state in place, but not arrays that the caller or a callback holds."""
    held = []

    class Hold(callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            held.append((self.trainer.variables, jax.tree.map(np.array, self.trainer.variables)))

    t = trainer(nonfinite=nonfinite)
    t.build(X[:1])
    held.append((t.variables, jax.tree.map(np.array, t.variables)))
    t.fit(X, ONE_HOT, epochs=2, verbose=0, callbacks=[Hold()], validation_data=(X, ONE_HOT))
    for variables, before in held:
        jax.tree.map(np.testing.assert_array_equal, variables, before)


def test_arguments_are_read_only_attributes():
    arguments = {
        "loss": "mse",
        "metrics": ["mae"],
        "loss_weights": 2.0,
        "weighted_metrics": ["mse"],
        "seed": 3,
        "nonfinite": "skip",
        "steps_per_execution": 5,
        "deterministic": True,
        "train_step": lambda *arguments: steps.make_train_step(*arguments),
    }
    trainer = Trainer(Sequential([layers.Dense(1)]), "sgd", **arguments)
    for name, value in arguments.items():
        assert getattr(trainer, name) == value
        with pytest.raises(AttributeError, match=name):
            setattr(trainer, name, value)
