"""`keras.saving`: the registry, and configurations that Keras and this library exchange."""

import json

import jax.numpy as jnp
import keras as theirs
import numpy as np
import pytest

from training import keras
from training.keras import registry


def refusal(call, kind=ValueError):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    monkeypatch.setattr(registry, "_objects", {})
    monkeypatch.setattr(registry, "_names", {})


class Half:
    def __init__(self, scale=0.5, inner=None):
        self.scale, self.inner = scale, inner

    def get_config(self):
        return {"scale": self.scale, "inner": self.inner}

    @classmethod
    def from_config(cls, config):
        config["inner"] = keras.saving.deserialize_keras_object(config["inner"])
        return cls(**config)


def triple(x):
    return 3 * x


def test_registry_behaves_as_in_keras():
    for module in (keras, theirs):
        saving = module.saving
        try:
            saving.register_keras_serializable("pack")(Half)
            saving.register_keras_serializable(name="Other")(triple)
            assert saving.get_registered_name(Half) == "pack>Half"
            assert saving.get_registered_name(triple) == "Custom>Other"
            assert saving.get_registered_name(len) == "len"
            assert saving.get_registered_object("pack>Half") is Half
            assert saving.get_registered_object("Half") is None
            assert saving.get_registered_object("a", {"a": 1}, {"a": 2}) == 1
            assert saving.get_registered_object("a", None, {"a": 2}) == 2
            with saving.custom_object_scope({"a": 3, "b": 4}):
                assert saving.get_registered_object("a", {"a": 1}) == 3
                with saving.CustomObjectScope({"a": 5}):
                    assert saving.get_registered_object("a") == 5 and saving.get_registered_object("b") is None
                assert saving.get_registered_object("a") == 3
            assert saving.get_registered_object("a") is None
            assert {*saving.get_custom_objects()} >= {"pack>Half", "Custom>Other"}
        finally:
            for name in ("pack>Half", "Custom>Other"):
                theirs.saving.get_custom_objects().pop(name, None)
    assert keras.utils.register_keras_serializable is keras.saving.register_keras_serializable


def test_wrong_registrations_are_refused():
    assert refusal(lambda: keras.saving.register_keras_serializable()(type("Plain", (), {}))) == (
        "A registered class must define get_config, got Plain without it; return the arguments of its constructor there."
    )
    assert refusal(lambda: keras.saving.register_keras_serializable(triple), TypeError).startswith(
        "`package` must be a string, got <function triple"
    )


def test_plain_values_are_described_as_in_keras():
    values = [
        None, 1, 2.5, "text", True, [1, (2, None)], {"a": [1]}, b"bytes", slice(1, None, 2), Ellipsis,
        np.float32(2.5), np.arange(3), np.ones((2, 2), "float32"),
    ]  # fmt: skip
    for value in values:
        config = keras.saving.serialize_keras_object(value)
        assert config == theirs.saving.serialize_keras_object(value)
        ours, expected = (m.saving.deserialize_keras_object(config) for m in (keras, theirs))
        assert type(ours) is type(expected)
        np.testing.assert_equal(ours, expected)
    config = keras.saving.serialize_keras_object(jnp.ones(2, jnp.bfloat16))
    assert config == theirs.saving.serialize_keras_object(jnp.ones(2, jnp.bfloat16))
    assert keras.saving.deserialize_keras_object(config).dtype == jnp.bfloat16


REQUIRED = {
    "MeanIoU": {"num_classes": 3}, "OneHotIoU": {"num_classes": 3, "target_class_ids": [1]},
    "OneHotMeanIoU": {"num_classes": 3}, "IoU": {"num_classes": 3, "target_class_ids": [1]},
    "BinaryIoU": {}, "PrecisionAtRecall": {"recall": 0.5}, "RecallAtPrecision": {"precision": 0.5},
    "SensitivityAtSpecificity": {"specificity": 0.5}, "SpecificityAtSensitivity": {"sensitivity": 0.5},
    "CosineDecay": {"initial_learning_rate": 0.1, "decay_steps": 5},
    "CosineDecayRestarts": {"initial_learning_rate": 0.1, "first_decay_steps": 5},
    "ExponentialDecay": {"initial_learning_rate": 0.1, "decay_steps": 5, "decay_rate": 0.5},
    "InverseTimeDecay": {"initial_learning_rate": 0.1, "decay_steps": 5, "decay_rate": 0.5},
    "PiecewiseConstantDecay": {"boundaries": [5], "values": [0.1, 0.2]},
    "PolynomialDecay": {"initial_learning_rate": 0.1, "decay_steps": 5},
    "Constant": {"value": 0.5}, "STFT": None, "STFTInitializer": None, "MultiOptimizer": None,
    "LossScaleOptimizer": None, "Loss": None, "Metric": None, "Regularizer": None, "Constraint": None,
    "Initializer": None, "Optimizer": None, "LearningRateSchedule": None, "MeanMetricWrapper": None,
}  # fmt: skip


def classes(path):
    ours, expected = keras, theirs
    for part in path.split("."):
        ours, expected = getattr(ours, part), getattr(expected, part)
    for name in sorted(vars(expected)):
        cls = getattr(expected, name)
        if isinstance(cls, type) and cls.__name__ == name and REQUIRED.get(name, {}) is not None:
            if isinstance(getattr(ours, name, None), type):
                yield getattr(ours, name), cls, REQUIRED.get(name, {})


@pytest.mark.spread
@pytest.mark.parametrize(
    "path", ["losses", "metrics", "initializers", "regularizers", "constraints", "optimizers", "optimizers.schedules"]
)
def test_objects_are_exchanged_with_keras(path):
    count = 0
    for ours, expected, arguments in classes(path):
        config = keras.saving.serialize_keras_object(ours(**arguments))
        assert config["module"] == f"keras.{path}" and config["registered_name"] is None, config
        made = keras.saving.deserialize_keras_object(config)
        assert type(made) is ours
        assert json.dumps(keras.saving.serialize_keras_object(made)) == json.dumps(config)
        assert type(theirs.saving.deserialize_keras_object(config)) is expected, config
        # The other direction
        their_config = theirs.saving.serialize_keras_object(expected(**arguments))
        assert type(keras.saving.deserialize_keras_object(their_config)) is ours, their_config
        count += 1
    assert count >= {"regularizers": 3, "constraints": 4, "optimizers.schedules": 5}.get(path, 10)


def test_layers_are_exchanged_with_keras():
    layer = keras.layers.Dense(3, activation="relu", kernel_regularizer=keras.regularizers.L2(0.5), name="mine")
    config = keras.saving.serialize_keras_object(layer)
    made = keras.saving.deserialize_keras_object(config)
    assert type(made) is type(layer) and (made.units, made.name) == (3, "mine")
    assert keras.saving.serialize_keras_object(made) == config
    expected = theirs.saving.deserialize_keras_object(config)
    assert expected.get_config()["kernel_regularizer"]["config"] == {"l2": 0.5}
    again = keras.saving.deserialize_keras_object(theirs.saving.serialize_keras_object(expected))
    assert (again.units, again.name, again.kernel_regularizer.l2) == (3, "mine", 0.5)


def test_functions_are_described_by_their_names():
    config = keras.saving.serialize_keras_object(keras.activations.relu)
    assert config == theirs.saving.serialize_keras_object(theirs.activations.relu)
    assert keras.saving.deserialize_keras_object(config) is keras.activations.relu
    assert keras.saving.deserialize_keras_object("triple", {"triple": triple}) is triple
    keras.saving.register_keras_serializable("pack")(triple)
    config = keras.saving.serialize_keras_object(triple)
    assert config["config"] == "pack>triple" and keras.saving.deserialize_keras_object(config) is triple


def test_registered_classes_are_rebuilt():
    thing = Half(0.25, keras.regularizers.L1(0.1))
    keras.saving.register_keras_serializable("pack")(Half)
    config = keras.saving.serialize_keras_object(thing)
    assert config["registered_name"] == "pack>Half" and config["config"]["inner"]["class_name"] == "L1"
    made = keras.saving.deserialize_keras_object(config)
    assert type(made) is Half and made.scale == 0.25 and made.inner == keras.regularizers.L1(0.1)


def test_custom_objects_are_known_during_a_call():
    config = keras.saving.serialize_keras_object(Half())
    assert type(keras.saving.deserialize_keras_object(config, {"Half": Half})) is Half
    with keras.saving.custom_object_scope({"Half": Half}):
        assert type(keras.saving.deserialize_keras_object(config)) is Half
    sentence = refusal(lambda: keras.saving.deserialize_keras_object(config))
    assert sentence == (
        f"A configuration may name classes of Keras and registered ones, got 'Half' of the module {Half.__module__!r}; "
        "register it with @keras.saving.register_keras_serializable(), or pass it in `custom_objects`."
    )


def test_configurations_run_no_code():
    deserialize = keras.saving.deserialize_keras_object
    assert refusal(lambda: keras.saving.serialize_keras_object(lambda x: x)) == (
        "A configuration must describe functions by their names, got a lambda; define the function with def."
    )
    assert "got the code of a lambda, which is never run" in refusal(
        lambda: deserialize({"class_name": "__lambda__", "config": {"value": "x"}})
    )
    assert "`safe_mode` must be True" in refusal(lambda: deserialize({}, safe_mode=False))
    for module, name in [
        ("os", "system"),
        ("keras.utils", "get_file"),
        ("keras.losses", "_wrapper"),
        ("keras.losses", "jax"),
    ]:
        config = {"module": module, "class_name": name, "config": {}, "registered_name": None}
        assert f"got {name!r} of the module {module!r}" in refusal(lambda: deserialize(config))  # noqa: B023
    for name in ("system", "__import__", "eval", "get_file"):
        assert f"got {name!r}; register it" in refusal(
            lambda: deserialize({"class_name": "function", "module": "builtins", "config": name})  # noqa: B023
        )
    assert refusal(lambda: keras.saving.serialize_keras_object(object())).endswith(
        "define get_config, which returns the arguments of its constructor."
    )
