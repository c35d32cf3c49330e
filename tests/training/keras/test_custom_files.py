"""Models with registered custom classes in files, in both directions with Keras."""

import warnings

import jax
import keras as theirs
import numpy as np
import pytest

from training import keras
from training.keras import registry

RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(12, 3)).astype("float32"), RNG.normal(size=(12, 2)).astype("float32")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch):
    monkeypatch.setattr(registry, "_objects", {})
    monkeypatch.setattr(registry, "_names", {})
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield
    for name in [name for name in theirs.saving.get_custom_objects() if name.startswith("pack>")]:
        del theirs.saving.get_custom_objects()[name]


def classes(keras):
    """Returns custom classes and functions for the namespace of Keras or of this library."""
    register = keras.saving.register_keras_serializable("pack")

    @register
    class Scale(keras.layers.Layer):
        def __init__(self, factor=1.0, **kwargs):
            super().__init__(**kwargs)
            self.factor, self.supports_masking = factor, True

        def build(self, shape):
            self.steps = self.add_weight(shape=(), initializer="ones", trainable=False, name="steps")
            self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")

        def call(self, x):
            return x * self.gain * self.factor + 0.0 * self.steps

        def get_config(self):
            return {**super().get_config(), "factor": self.factor}

    @register
    class Block(keras.layers.Layer):
        def __init__(self, units, last=None, **kwargs):
            super().__init__(**kwargs)
            self.units, self.last = units, last
            self.zebra = keras.layers.Dense(units)
            self.many = [keras.layers.Dense(units), Scale(2.0), [keras.layers.Dense(units, name="deep")]]
            self.by_key = {"b": keras.layers.Dense(units), "a": Scale()}
            self._hidden = keras.layers.Dense(units)
            self.ant = keras.layers.Dense(units, use_bias=False)

        def call(self, x):
            for layer in (self.zebra, self.ant, *self.many[:2], self.many[2][0], self.by_key["a"], self.by_key["b"]):
                x = layer(x)
            x = self._hidden(x)
            return x if self.last is None else self.last(x)

        def get_config(self):
            last = keras.saving.serialize_keras_object(self.last)
            return {**super().get_config(), "units": self.units, "last": last}

        @classmethod
        def from_config(cls, config):
            config["last"] = keras.saving.deserialize_keras_object(config["last"])
            return cls(**config)

    @register
    def cubed(x):
        return x * x * x

    @register
    class Near(keras.regularizers.Regularizer):
        def __init__(self, strength=0.1):
            self.strength = strength

        def __call__(self, w):
            return self.strength * keras.ops.sum(keras.ops.square(w - 1.0))

        def get_config(self):
            return {"strength": self.strength}

    @register
    class Filled(keras.initializers.Initializer):
        def __init__(self, value=0.25):
            self.value = value

        def __call__(self, shape, dtype=None, **kwargs):
            return self.value * keras.ops.ones(shape, dtype or "float32")

        def get_config(self):
            return {"value": self.value}

    @register
    class Below(keras.constraints.Constraint):
        def __init__(self, limit=0.4):
            self.limit = limit

        def __call__(self, w):
            return keras.ops.minimum(w, self.limit)

        def get_config(self):
            return {"limit": self.limit}

    @register
    class Worst(keras.metrics.Metric):
        def __init__(self, factor=1.0, name="worst", **kwargs):
            super().__init__(name=name, **kwargs)
            self.factor = factor
            self.total = self.add_weight(name="total", initializer="zeros")

        def update_state(self, y_true, y_pred, sample_weight=None):
            worst = keras.ops.max(keras.ops.abs(y_true - y_pred))
            self.total.assign_add(worst * self.factor)

        def result(self):
            return self.total + 0.0

        def get_config(self):
            return {**super().get_config(), "factor": self.factor}

    @register
    class Cubic(keras.losses.Loss):
        def __init__(self, power=3, name="cubic", **kwargs):
            super().__init__(name=name, **kwargs)
            self.power = power

        def call(self, y_true, y_pred):
            return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** self.power, axis=-1)

        def get_config(self):
            return {**super().get_config(), "power": self.power}

    @register
    class Rate(keras.optimizers.schedules.LearningRateSchedule):
        def __init__(self, start):
            self.start = start

        def __call__(self, step):
            return self.start / (1.0 + keras.ops.cast(step, "float32"))

        def get_config(self):
            return {"start": self.start}

    @register
    class Net(keras.Model):
        def __init__(self, units=3, **kwargs):
            super().__init__(**kwargs)
            self.units = units
            self.out = keras.layers.Dense(2)
            self.first = keras.layers.Dense(units, activation=cubed)
            self.norm = keras.layers.BatchNormalization()
            self.block = Block(units, Scale(0.5))
            self.middle = keras.layers.Dense(3, name="named")

        def call(self, x, training=False):
            return self.out(self.middle(self.block(self.norm(self.first(x), training=training))))

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    made = (Scale, Block, cubed, Near, Filled, Below, Worst, Cubic, Rate, Net)
    return {thing.__name__: thing for thing in made}


def functional(module, own):
    inputs = module.Input((3,), name="features")
    x = module.layers.Dense(
        4, activation=own["cubed"], kernel_regularizer=own["Near"](0.2), bias_initializer=own["Filled"](0.5),
        kernel_constraint=own["Below"](0.35), name="first",
    )(inputs)  # fmt: skip
    x = own["Block"](4, own["Scale"](0.25), name="block")(x)
    x = own["Scale"](3.0, name="scale")(own["Scale"](2.0, name="other")(x))
    return module.Model(inputs, module.layers.Dense(2, name="out")(x), name="m")


def sequential(module, own):
    layers = [module.Input((3,)), own["Block"](4, name="block"), own["Scale"](name="s"), module.layers.Dense(2)]
    return module.Sequential(layers, name="stack")


def subclassed(module, own):
    model = own["Net"](3, name="net")
    model(X)
    return model


def nested(module, own):
    inner = functional(module, own)
    inputs = module.Input((3,))
    return module.Model(inputs, own["Scale"](0.1, name="around")(inner(inputs)), name="outer")


KINDS = {"functional": functional, "sequential": sequential, "subclassed": subclassed, "nested": nested}


def fit(model):
    return model.fit(X, Y, batch_size=4, shuffle=False, verbose=0).history["loss"]


def made(module, kind):
    own = classes(module)
    model = KINDS[kind](module, own)
    rng = np.random.default_rng(9)
    model.set_weights([rng.normal(0.3, 0.2, w.shape).astype("float32") for w in model.get_weights()])
    model.compile(module.optimizers.Adam(own["Rate"](0.05)), loss=own["Cubic"](3), metrics=["mae", own["Worst"](2.0)])
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_custom_models_are_exchanged_with_keras(kind, tmp_path):
    path, other, weights = (str(tmp_path / name) for name in ("o.keras", "t.keras", "w.weights.h5"))
    ours, expected = made(keras, kind), made(theirs, kind)
    np.testing.assert_allclose(fit(ours), fit(expected), rtol=2e-5)
    ours.save(path)
    expected.save(other)
    outputs, after = expected.predict(X, verbose=0), fit(expected)
    for load, file in ((keras, path), (keras, other), (theirs, path)):
        with warnings.catch_warnings():
            if load is theirs:  # Keras warns while it builds a model that has layers in lists
                warnings.simplefilter("ignore")
            loaded = load.saving.load_model(file)
        np.testing.assert_allclose(loaded.predict(X, verbose=0), outputs, rtol=1e-5, atol=1e-6)
        assert [w.shape for w in loaded.get_weights()] == [w.shape for w in ours.get_weights()]
        np.testing.assert_allclose(fit(loaded), after, rtol=5e-5)
    fresh = made(keras, kind)
    fresh.load_weights(other)
    np.testing.assert_allclose(fresh.predict(X, verbose=0), outputs, rtol=1e-5, atol=1e-6)
    ours.save_weights(weights)
    fresh = made(theirs, kind)
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):  # as for files of Keras
        fresh.load_weights(weights)
    np.testing.assert_allclose(fresh.predict(X, verbose=0), outputs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_descriptions_and_own_files(kind, tmp_path):
    ours, path = made(keras, kind), str(tmp_path / "m.safetensors")
    fit(ours)
    ours.save(path)
    outputs, after = ours.predict(X, verbose=0), None
    loaded = keras.saving.load_model(path)
    np.testing.assert_allclose(loaded.predict(X, verbose=0), outputs, rtol=1e-6)
    after = fit(ours)
    np.testing.assert_allclose(fit(loaded), after, rtol=1e-6)
    copies = [keras.models.model_from_json(ours.to_json())]
    if kind != "subclassed":
        copies += [keras.models.clone_model(ours), type(ours).from_config(ours.get_config())]
    outputs = ours.predict(X, verbose=0)
    for copy in copies:
        copy.build((None, 3))
        copy.set_weights(ours.get_weights())
        np.testing.assert_allclose(copy.predict(X, verbose=0), outputs, rtol=1e-6)


def test_masks_pass_through_custom_layers(tmp_path):
    def masked(module):
        own = classes(module)
        inputs = module.Input((5,), dtype="int32", name="words")
        x = module.layers.Embedding(7, 3, mask_zero=True, name="words_in")(inputs)
        outputs = module.layers.LSTM(2, name="lstm")(own["Scale"](2.0, name="scale")(x))
        model = module.Model(inputs, outputs, name="m")
        rng = np.random.default_rng(2)
        model.set_weights([rng.normal(0.3, 0.2, w.shape).astype("float32") for w in model.get_weights()])
        return model

    words = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 6, 0]])
    ours, expected = masked(keras), masked(theirs)
    path, other = str(tmp_path / "o.keras"), str(tmp_path / "t.keras")
    ours.save(path)
    expected.save(other)
    outputs = expected.predict(words, verbose=0)
    for load, file in ((keras, path), (keras, other), (theirs, path)):
        np.testing.assert_allclose(load.saving.load_model(file).predict(words, verbose=0), outputs, rtol=1e-5)


def test_classes_are_passed_by_name(tmp_path):
    path = str(tmp_path / "m.keras")

    class Twice(keras.layers.Layer):
        def call(self, x):
            return 2.0 * x

    model = keras.Sequential([keras.Input((3,)), Twice(name="t"), Twice()])
    model.save(path)
    with pytest.raises(ValueError) as caught:
        keras.saving.load_model(path)
    assert str(caught.value) == (
        f"{path} describes no model that can be built: it names 'Twice' of {Twice.__module__!r}, registered as 'Twice', "
        "but only Keras' own layers and functions are supported; build such a model in code, or pass what it names in "
        "custom_objects of training.keras.saving.load_model."
    )
    for scope in (None, {"Twice": Twice}):
        with keras.saving.CustomObjectScope(scope):
            loaded = keras.saving.load_model(path, custom_objects=None if scope else {"Twice": Twice})
        np.testing.assert_array_equal(loaded.predict(X, verbose=0), 4.0 * X)
    config = model.get_config()
    again = keras.Sequential.from_config(config, custom_objects={"Twice": Twice})
    np.testing.assert_array_equal(again.predict(X, verbose=0), 4.0 * X)
