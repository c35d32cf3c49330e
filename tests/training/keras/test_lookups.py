"""Names of modules, what `get` returns, the stub of layers, and objects of losses, metrics and optimizers."""

import ast
import copy
import pathlib
import pickle

import jax
import keras as theirs
import numpy as np
import pytest

from tests.typing import keras_program
from training import keras
from training.keras import layers

MODULES = ["callbacks", "layers", "losses", "metrics", "models", "optimizers", "optimizers.schedules"]


def find(package, module):
    for part in module.split("."):
        package = getattr(package, part)
    return package


def refusal(call, kind=ValueError):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("module", MODULES)
def test_dir_shows_only_names_of_keras(module):
    ours, expected = find(keras, module), find(theirs, module)
    extra = {f"{kind}Pooling{n}D" for kind in ("Sum", "GlobalSum") for n in (1, 2, 3)}
    assert {*dir(ours)} - extra <= {*dir(expected)}
    assert all(getattr(ours, name) is not None for name in dir(ours))
    path = f"training.keras.{module}"
    sentence = f"module {path!r} has no attribute 'Sequentail'; dir({path}) lists the known ones."
    assert refusal(lambda: ours.Sequentail, AttributeError) == sentence


def test_stub_of_layers_has_all_names():
    body = ast.parse(pathlib.Path(layers.__file__).with_suffix(".pyi").read_text()).body
    names = {node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    names |= {node.targets[0].id for node in body if isinstance(node, ast.Assign)}
    names |= {alias.asname for node in body if isinstance(node, ast.ImportFrom) for alias in node.names if alias.asname}
    assert names - {"pure", "stateful_class"} == {*dir(layers)}


def test_program_for_type_checkers_runs():
    with jax.numpy_rank_promotion("allow"):
        assert set(keras_program.train()) == {"loss", "auc"}


def test_losses_by_name_are_functions_and_classes_as_in_keras():
    y, p = np.ones((4, 2), "float32"), np.full((4, 2), 3, "float32")
    for name in ("mse", "MAE", "huber", "MeanSquaredError", "Poisson"):
        np.testing.assert_allclose(keras.losses.get(name)(y, p), theirs.losses.get(name)(y, p), rtol=1e-6)
    assert keras.losses.get("bce") is keras.losses.binary_crossentropy and keras.losses.get(None) is None
    loss = keras.losses.get({"class_name": "Huber", "config": {"delta": 2.0}})
    assert (type(loss), loss.delta, keras.losses.get(loss)) == (keras.losses.Huber, 2.0, loss)
    assert type(keras.losses.get(keras.losses.Huber)) is keras.losses.Huber
    assert refusal(lambda: keras.losses.get(3)) == (
        "`identifier` must be a name, a loss, a function (y_true, y_pred) or a configuration, got 3."
    )
    assert refusal(lambda: keras.losses.get("nope")).startswith("Unknown loss 'nope'. Known: 'BCE'")
    assert refusal(lambda: keras.losses.get({"config": {}})) == (
        "A configuration must have a name as 'class_name' and a dictionary as 'config', got {'config': {}}; use "
        "`serialize`."
    )


def test_metrics_by_name_keep_their_state():
    for name in ("mse", "accuracy", "AUC", "auc"):
        assert type(keras.metrics.get(name)).__name__ == type(theirs.metrics.get(name)).__name__
    assert keras.metrics.get("mse").name == theirs.metrics.get("mse").name
    metric = keras.metrics.get({"class_name": "MeanSquaredError", "config": {"name": "error"}})
    metric.update_state([1.0, 2.0], [1.0, 4.0])
    metric.update_state([1.0], [1.0])
    assert float(metric.result()) == pytest.approx(4 / 3) and metric.name == "error"
    metric.reset_state()
    assert float(metric.result()) == 0 and keras.metrics.get(None) is None and keras.metrics.get(metric) is metric
    assert refusal(lambda: keras.metrics.get(3)) == (
        "`identifier` must be a name, a metric, a function (y_true, y_pred) or a configuration, got 3."
    )


def test_optimizers_by_name_and_their_arguments():
    assert type(keras.optimizers.get("adam")) is keras.optimizers.Adam and keras.optimizers.get(None) is None
    made = keras.optimizers.get({"class_name": "sgd", "config": {"momentum": 0.5}})
    assert (made.momentum, made.nesterov, made.learning_rate, made.name[:3]) == (0.5, False, np.float32(0.01), "sgd")
    made.momentum = 0.75
    duplicates = [made.from_config(made.get_config()), copy.deepcopy(made), pickle.loads(pickle.dumps(made))]
    assert [duplicate.momentum for duplicate in duplicates] == [0.75] * 3
    assert refusal(lambda: keras.optimizers.get("adm")).startswith("Unknown optimizer 'adm'. Did you mean 'adam'?")
    assert refusal(lambda: keras.optimizers.get({"class_name": "get"})).startswith("Unknown optimizer 'get'.")
    assert refusal(lambda: keras.optimizers.SGD(lr=1), TypeError).endswith("got 'lr'; leave it out.")
    assert refusal(lambda: keras.optimizers.get(keras.optimizers.Adam), TypeError) == (
        "`optimizer` must be an optimizer, got the class Adam; write Adam()."
    )
    scheduled = keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5))
    assert refusal(lambda: setattr(scheduled, "learning_rate", 0.2), TypeError) == (
        "The learning rate of SGD follows a schedule, got the value 0.2; make the optimizer with a number to set the "
        "rate."
    )


X, Y = np.arange(24, dtype="float32").reshape(4, 6) / 24, np.ones((4, 1), "float32")


def model_of(module, optimizer="sgd", **options):
    module.backend.clear_session()
    module.utils.set_random_seed(1)
    made = module.Sequential([module.Input((6,)), module.layers.Dense(3), module.layers.Dense(1)])
    made.compile(optimizer, "mse", **options)
    return made


def training(module):
    """Returns what a program sees that sets rates, weights and `stop_training` while it trains."""
    seen = []

    class Watch(module.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.optimizer.learning_rate = 0.1 / (epoch + 1)

        def on_train_batch_begin(self, batch, logs=None):
            seen.append(float(self.model.optimizer.learning_rate))

        def on_train_batch_end(self, batch, logs=None):
            seen.append([batch, *(float(value) for value in logs.values())])
            self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) * 0.5

        def on_epoch_end(self, epoch, logs=None):
            seen.append(list(logs))
            kernel = self.model.layers[0].kernel
            kernel.assign(kernel * 0.5)
            self.model.stop_training = epoch == 1

    model = model_of(module, metrics=["mae"])
    history = model.fit(X, Y, 2, 5, verbose=0, shuffle=False, callbacks=[Watch()], validation_data=(X, Y))
    seen += [list(history.history), history.epoch, model.stop_training, *model.get_weights()]
    optimizer = module.optimizers.Adam(0.01)
    model.compile(optimizer, "mse")
    model.fit(X, Y, epochs=2, verbose=0)
    model.compile(optimizer, "mse")
    optimizer.learning_rate.assign(0.05)
    model.fit(X, Y, epochs=2, verbose=0)
    seen += [int(optimizer.iterations), float(optimizer.learning_rate), *model.get_weights()]
    # After a second compile, Keras still returns the metrics of the first one, too.
    seen += [np.ravel(values)[0] for values in (model.train_on_batch(X, Y), model.test_on_batch(X, Y))]
    seen.append(model.predict_on_batch(X))
    return seen


def test_training_with_changes_gives_the_results_of_keras():
    ours = training(keras)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        expected = training(theirs)
    for value, wanted in zip(ours, expected, strict=True):
        if isinstance(wanted, list) and isinstance(wanted[0], str):
            assert value == wanted
        else:
            np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)


def test_flags_may_change_only_before_the_first_step():
    model = model_of(keras)
    model.layers[0].trainable = False
    before = model.get_weights()
    model.fit(X, Y, verbose=0)
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed == [False, False, True, True]
    model.layers[0].trainable = True
    assert refusal(lambda: model.fit(X, Y, verbose=0)) == (
        "`trainable` must stay as it was at the first step after compile, got another value for a layer of Sequential; "
        "call compile() again."
    )
    with pytest.raises(AttributeError, match="is part of the compiled training step"):
        model.optimizer.momentum = 0.5


def test_models_are_copied_with_values_and_optimizer():
    model = model_of(keras, "adam")
    model.fit(X, Y, epochs=2, verbose=0)
    duplicate = copy.deepcopy(model)
    for one in (model, duplicate):
        one.fit(X, Y, epochs=2, verbose=0)
    for a, b in zip(model.get_weights(), duplicate.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    duplicate.layers[0].kernel.assign(np.zeros((6, 3)))
    assert np.any(model.layers[0].kernel.numpy()) and duplicate.optimizer is not model.optimizer
    assert refusal(lambda: pickle.dumps(model), TypeError) == (
        "Models cannot be pickled, got sequential; use its `save`, and keras.models.load_model."
    )
    before = model.get_weights()
    keras.backend.clear_session()
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
    assert refusal(lambda: keras.Sequential([keras.Input((6,))]).fit(X, Y)) == (
        "You must call `compile()` before training or evaluating a model; choose a loss there."
    )
