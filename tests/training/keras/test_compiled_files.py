"""The arguments of `compile` and the state of the optimizer in files, in both directions with Keras."""

import json
import re

import jax
import keras as theirs
import numpy as np
import pytest

from training import keras

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(12, 3)).astype("float32"), RNG.normal(size=(12, 2)).astype("float32")


@pytest.fixture(autouse=True)
def _usual_settings_of_jax():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def make(module, optimizer="adam", **arguments):
    layers = module.layers
    inputs = module.Input((3,), name="features")
    hidden = layers.Dense(4, activation="tanh", name="hidden")(inputs)
    model = module.Model(inputs, layers.Dense(2, name="out")(layers.BatchNormalization(name="norm")(hidden)), name="m")
    rng = np.random.default_rng(7)
    model.set_weights([np.abs(rng.normal(0.5, 0.2, w.shape)).astype("float32") for w in model.get_weights()])
    made = optimizer(module) if callable(optimizer) else optimizer
    model.compile(made, **({"loss": "mse", "metrics": ["mae"]} | arguments))
    return model


def fit(model, epochs=1):
    if isinstance(model, theirs.Model):
        for variable in model.optimizer.variables:
            # After an epoch with `use_ema`, weights and averages share buffers, which JAX refuses to donate twice.
            variable.assign(np.array(variable.value))
    return np.asarray(model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0).history["loss"])


def decaying(module):
    schedule = module.optimizers.schedules.ExponentialDecay(0.05, 2, 0.5)
    return module.optimizers.SGD(schedule, momentum=0.9, nesterov=True)


OPTIMIZERS = {
    "adam": "adam",
    "amsgrad": lambda m: m.optimizers.Adam(0.01, amsgrad=True, clipnorm=1.0),
    "schedule": decaying,
    "rmsprop": lambda m: m.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "adafactor": lambda m: m.optimizers.Adafactor(0.01),
    "nadam": lambda m: m.optimizers.Nadam(0.01),
    "muon": lambda m: m.optimizers.Muon(0.01),
    "averaged": lambda m: m.optimizers.Adam(0.01, use_ema=True, gradient_accumulation_steps=2),
    "ftrl": lambda m: m.optimizers.Ftrl(0.1),
    "adadelta": lambda m: m.optimizers.Adadelta(1.0),
    "free": lambda m: m.optimizers.ScheduleFreeAdamW(0.01),
    "sgd": lambda m: m.optimizers.SGD(0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_continues_in_both_directions(name, tmp_path):
    path, other = str(tmp_path / "ours.keras"), str(tmp_path / "theirs.keras")
    ours, expected = (make(module, OPTIMIZERS[name]) for module in (keras, theirs))
    np.testing.assert_allclose(fit(ours), fit(expected), rtol=1e-5)
    described = [
        [(re.sub(r"^variable_\d+$", "variable", v.name), "/" in v.path, tuple(v.shape)) for v in m.optimizer.variables]
        for m in (ours, expected)
    ]
    assert described[0] == described[1]
    ours.save(path)
    expected.save(other)
    after = fit(expected)
    models = keras.saving.load_model(path), keras.saving.load_model(other), theirs.saving.load_model(path)
    assert [int(model.optimizer.iterations) for model in models] == [int(ours.optimizer.iterations)] * 3
    for model in models:
        np.testing.assert_allclose(
            float(np.asarray(model.optimizer.learning_rate)), float(ours.optimizer.learning_rate)
        )
        np.testing.assert_allclose(fit(model), after, rtol=2e-5)
    np.testing.assert_allclose(fit(ours), after, rtol=2e-5)


def test_configurations_of_compile_equal_keras():
    ours, expected = (
        make(module, "sgd", loss=["mse"], loss_weights=[0.5], weighted_metrics=["mse"],
             metrics=[module.metrics.MeanAbsoluteError(name="error"), "mse"]) for module in (keras, theirs)
    )  # fmt: skip
    a, b = ours.get_compile_config(), theirs.saving.serialize_keras_object(expected.get_compile_config())
    assert list(a) == list(b)
    for config in (a, b):
        config["optimizer"]["config"].pop("name")
        config["optimizer"]["config"]["learning_rate"] = float(
            np.float32(config["optimizer"]["config"]["learning_rate"])
        )
    assert json.loads(json.dumps(a)) == json.loads(json.dumps(b))


def custom_loss(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


def test_functions_of_the_program_are_passed_when_loading(tmp_path):
    path = str(tmp_path / "m.keras")
    model = make(keras, "sgd", loss=custom_loss, metrics=[custom_loss])
    before = model.evaluate(X, Y, verbose=0)
    model.save(path)
    with pytest.raises(ValueError) as caught:
        keras.saving.load_model(path)
    assert str(caught.value) == (
        f"{path} holds arguments of compile that cannot be used: A configuration may name functions of Keras and "
        "registered ones, got 'custom_loss'; register it with @keras.saving.register_keras_serializable(), or pass it "
        "in `custom_objects`; or pass compile=False."
    )
    assert not keras.saving.load_model(path, compile=False).compiled
    loaded = keras.saving.load_model(path, custom_objects={"custom_loss": custom_loss})
    np.testing.assert_allclose(loaded.evaluate(X, Y, verbose=0), before, rtol=1e-6)
    with keras.saving.custom_object_scope({"custom_loss": custom_loss}):
        assert keras.saving.load_model(path).compiled


def test_a_lambda_is_left_out_with_a_warning(tmp_path):
    path = str(tmp_path / "m.keras")
    model = make(keras, "sgd", loss=lambda y_true, y_pred: custom_loss(y_true, y_pred), metrics=None)
    with pytest.warns(UserWarning) as caught:
        model.save(path)
    assert str(caught[0].message) == (
        f"{path} does not hold the arguments of compile, because a file cannot describe one of them: A configuration "
        "must describe functions by their names, got a lambda; define the function with def; call compile after "
        "loading the model."
    )
    assert not keras.saving.load_model(path).compiled


def test_outputs_losses_and_metrics_by_name(tmp_path):
    def two_outputs(module):
        inputs = module.Input((3,), name="features")
        outputs = {"a": module.layers.Dense(2, name="a")(inputs), "b": module.layers.Dense(2, name="b")(inputs)}
        model = module.Model(inputs, outputs, name="m")
        model.set_weights([np.full(w.shape, 0.3, "float32") for w in model.get_weights()])
        losses = {"a": "mse", "b": module.losses.MeanAbsoluteError()}
        model.compile("adam", losses, loss_weights={"a": 0.5, "b": 2.0}, metrics={"a": ["mae"], "b": ["mse"]})
        return model

    ours, expected = two_outputs(keras), two_outputs(theirs)
    path, other = str(tmp_path / "o.keras"), str(tmp_path / "t.keras")
    targets, options = {"a": Y, "b": -Y}, {"batch_size": 4, "shuffle": False, "verbose": 0}
    for model, file in ((ours, path), (expected, other)):
        model.fit(X, targets, **options)
        model.save(file)
    after = expected.fit(X, targets, **options).history
    for load, file in ((keras, path), (keras, other), (theirs, path)):
        history = load.saving.load_model(file).fit(X, targets, **options).history
        assert history.keys() == after.keys()
        for name, values in history.items():
            np.testing.assert_allclose(values, after[name], rtol=2e-5)


def test_weights_hold_the_state_of_the_optimizer(tmp_path):
    ours, expected = make(keras, "adam"), make(theirs, "adam")
    path, other = str(tmp_path / "o.weights.h5"), str(tmp_path / "t.weights.h5")
    for model, file in ((ours, path), (expected, other)):
        fit(model)
        model.save_weights(file)
    after = fit(expected)
    for module, file in ((keras, path), (keras, other), (theirs, path)):
        model = make(module, "adam")
        fit(model)
        model.load_weights(file)
        np.testing.assert_allclose(fit(model), after, rtol=2e-5)
    plain = make(keras, "sgd")
    with pytest.warns(
        UserWarning, match="^The state of the optimizer in .*t.weights.h5 is skipped: The optimizer must have"
    ):
        plain.load_weights(other)


def test_checkpoints_hold_the_arguments_of_compile(tmp_path):
    path = str(tmp_path / "best.keras")
    ours, expected = make(keras, "adam"), make(theirs, "adam")
    callback = keras.callbacks.ModelCheckpoint(path, monitor="loss", save_best_only=True)
    ours.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=[callback])
    fit(expected, 2)
    after = fit(expected)
    for load in (keras, theirs):
        np.testing.assert_allclose(fit(load.saving.load_model(path)), after, rtol=2e-5)


def test_the_optimizer_can_be_left_out(tmp_path):
    for name in ("m.keras", "m.safetensors"):
        model, path = make(keras, "adam"), str(tmp_path / name)
        fit(model)
        model.save(path, include_optimizer=False)
        assert not keras.saving.load_model(path).compiled
        model.save(path)
        loaded = keras.saving.load_model(path)
        np.testing.assert_allclose(fit(loaded), fit(model), rtol=1e-6)


def test_frozen_layers_have_no_state_of_the_optimizer(tmp_path):
    def frozen(module):
        model = make(module, "adam")
        model.get_layer("hidden").trainable = False
        model.compile("adam", "mse")
        return model

    ours, expected = frozen(keras), frozen(theirs)
    path, other = str(tmp_path / "o.keras"), str(tmp_path / "t.keras")
    for model, file in ((ours, path), (expected, other)):
        fit(model)
        model.save(file)
    after = fit(expected)
    for load, file in ((keras, path), (keras, other), (theirs, path)):
        np.testing.assert_allclose(fit(load.saving.load_model(file)), after, rtol=2e-5)


def test_layers_that_do_not_fit_are_skipped(tmp_path):
    def with_units(module, units):
        layers = [module.Input((3,)), module.layers.Dense(4, name="a"), module.layers.Dense(units, name="b")]
        return module.Sequential(layers, name="m")

    source, target, expected = with_units(keras, 2), with_units(keras, 3), with_units(theirs, 3)
    path = str(tmp_path / "m.weights.h5")
    source.save_weights(path)
    expected.set_weights(target.get_weights())
    with pytest.warns(UserWarning, match="^.*m.weights.h5 has no weights that fit b, which keep theirs.$"):
        target.load_weights(path, skip_mismatch=True)
    with pytest.warns(UserWarning):
        expected.load_weights(path, skip_mismatch=True)
    for ours, theirs_ in zip(target.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs_)
    with pytest.raises(
        ValueError, match="^`by_name` must be None, because only Keras' legacy format '.h5' has it, got True"
    ):
        target.load_weights(path, by_name=True)


def test_programs_are_exported(tmp_path):
    model, path = make(keras, "adam"), tmp_path / "m.stablehlo"
    model.export(path)
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    np.testing.assert_allclose(program.call(X[:5]), model.predict(X[:5], verbose=0), rtol=1e-6)
    with pytest.raises(ValueError) as caught:
        model.export(path, format="onnx")
    assert str(caught.value) == (
        "`format` of export must be 'stablehlo', got 'onnx'; Keras' exporters write it: load a '.keras' file there."
    )
