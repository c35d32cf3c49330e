"""Layers that several layers of one model hold: one set of weights, as in Keras."""

import jax
import keras as theirs
import numpy as np
import pytest

from training import keras

X = np.random.default_rng(0).normal(size=(10, 4)).astype("float32")
Y = X[:, :2] * 2 + 1


@pytest.fixture(autouse=True)
def _promotion_as_in_programs():
    """Lets Keras promote ranks and dtypes, as in programs of users."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def same_layer_twice(k):
    dense = k.layers.Dense(4, activation="tanh")
    return k.Sequential([k.Input((4,)), dense, dense, k.layers.Dense(2)]), dense


def in_two_stacks(k):
    shared, norm = k.layers.Dense(4, kernel_regularizer="l2"), k.layers.BatchNormalization()
    one = k.Sequential([shared, norm, k.layers.Dense(2)])
    two = k.Sequential([k.layers.Dense(4), shared, norm, k.layers.Dense(2)])
    inputs = k.Input((4,))
    return k.Model(inputs, one(inputs) + two(inputs)), shared


def directly_and_inside(k):
    shared = k.layers.Dense(4)
    inner = k.Sequential([k.layers.Dense(4), shared])
    inputs = k.Input((4,))
    return k.Model(inputs, k.layers.Dense(2)(k.layers.Add()([inner(inputs), shared(inputs)]))), shared


def in_wrappers(k):
    shared = k.layers.Dense(4)
    inputs = k.Input((4,))
    x = k.layers.Reshape((1, 4))(inputs)
    x = k.layers.TimeDistributed(shared)(x)
    x = k.layers.TimeDistributed(k.Sequential([shared, k.layers.Dense(4)]))(x)
    return k.Model(inputs, k.layers.Dense(2)(k.layers.Flatten()(x) + shared(inputs)), name="whole"), shared


def in_custom_layers(k):
    class Wrapper(k.layers.Layer):
        def __init__(self, inner, **options):
            super().__init__(**options)
            self.out = k.layers.Dense(4)
            self.inner = inner

        def call(self, x):
            return self.out(self.inner(x))

    shared = k.layers.Dense(4, activation="tanh")
    inputs = k.Input((4,))
    x = Wrapper(shared)(inputs) + Wrapper(k.Sequential([shared]))(inputs)
    return k.Model(inputs, k.layers.Dense(2)(x), name="whole"), shared


def autoencoder(k):
    inputs, code = k.Input((4,)), k.Input((3,))
    encoder = k.Model(inputs, k.layers.Dense(3, activation="relu")(inputs), name="encoder")
    decoder = k.Model(code, k.layers.Dense(4)(code), name="decoder")
    whole = k.Model(inputs, decoder(encoder(inputs)), name="whole")
    a, b = k.Input((4,)), k.Input((4,))
    siamese = k.Model(b, encoder(b), name="siamese")
    both = k.layers.Concatenate()([whole(a), siamese(a), encoder(a)])
    return k.Model(a, k.layers.Dense(2)(both)), encoder.layers[1]


def in_a_class(k):
    class Two(k.Model):
        def __init__(self):
            super().__init__()
            self.shared = k.layers.Dense(4, activation="tanh")
            self.second = k.Sequential([k.layers.Dense(4), self.shared])
            self.first = k.Sequential([self.shared, k.layers.Dense(4)])
            self.out = k.layers.Dense(2)

        def call(self, x):
            return self.out(self.first(x) + self.second(x))

    model = Two()
    model(X)
    return model, model.shared


MODELS = [same_layer_twice, in_two_stacks, directly_and_inside, in_wrappers, in_custom_layers, autoencoder, in_a_class]


def train(k, make):
    """Returns what one can see of a model before and after training, and the model."""
    k.backend.clear_session()
    k.utils.set_random_seed(5)
    model, shared = make(k)
    seen = {"initial": model.get_weights(), "paths": [w.path for w in model.weights], "layers": [x.name for x in model.layers]}  # fmt: skip
    seen |= {"count": model.count_params(), "trained": [w.path for w in model.trainable_weights]}
    lines = []
    model.summary(print_fn=lines.append, expand_nested=True)
    seen["summary"] = "\n".join(lines)
    model.compile(k.optimizers.SGD(0.05), "mse")
    seen["loss"] = model.fit(X, Y, epochs=3, batch_size=4, shuffle=False, verbose=0).history["loss"]
    seen |= {"weights": model.get_weights(), "shared": shared.get_weights(), "outputs": model.predict(X, verbose=0)}
    return seen, model, shared


def assert_same(ours, wanted, without=()):
    for key, value in wanted.items():
        if key in without:
            continue
        if isinstance(value, str | int) or (isinstance(value, list) and isinstance(value[0], str)):
            assert ours[key] == value, key
        else:
            jax.tree.map(
                lambda a, b, key=key: np.testing.assert_allclose(a, b, 2e-5, 2e-6, err_msg=key), ours[key], value
            )


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_shared_layers_train_as_in_keras(make):
    wanted, *_ = train(theirs, make)
    seen, model, _ = train(keras, make)
    without = {in_a_class: ("paths", "trained"), in_wrappers: ("summary",)}
    # Keras gives a layer that a class holds directly, too, the path of the model that calls it first, and counts the
    # calls of a layer inside a wrapper.
    assert_same(seen, wanted, without.get(make, ()))
    model.set_weights(wanted["initial"])
    jax.tree.map(np.testing.assert_array_equal, model.get_weights(), wanted["initial"])


def registered_class(k):
    @k.saving.register_keras_serializable("shared_layers")
    class Around(k.layers.Layer):
        def __init__(self, inner, **options):
            super().__init__(**options)
            self.inner = inner

        def call(self, x):
            return self.inner(x) * 2.0

        def get_config(self):
            return super().get_config() | {"inner": k.saving.serialize_keras_object(self.inner)}

        @classmethod
        def from_config(cls, config):
            return cls(k.saving.deserialize_keras_object(config.pop("inner")), **config)

    dense, other = k.layers.Dense(4), k.layers.Dense(4)
    inputs = k.Input((4,))
    x = Around(dense)(inputs) + k.Sequential([k.Input((4,)), dense, other])(inputs) + Around(other)(inputs)
    return k.Model(inputs, k.layers.Dense(2)(x), name="whole"), dense


@pytest.mark.parametrize("make", [*MODELS, registered_class])
def test_files_keep_layers_shared(tmp_path, make):
    """Keras 3.15 cannot load its own '.keras' files of such models, but their weights."""
    ours, reference = train(keras, make)[1], train(theirs, make)[1]
    outputs = ours.predict(X, verbose=0)
    for name, source, target in (("a", ours, reference), ("b", reference, ours)):
        source.save_weights(tmp_path / f"{name}.weights.h5")
        target.set_weights([np.zeros_like(w) for w in target.get_weights()])
        target.load_weights(tmp_path / f"{name}.weights.h5")
        np.testing.assert_allclose(target.predict(X, verbose=0), outputs, 2e-5, 2e-6)
    if make in (in_a_class, in_custom_layers):
        return
    ours.save(tmp_path / "ours.keras")
    ours.save(tmp_path / "ours.safetensors")
    reference.save(tmp_path / "reference.keras")
    # Keras' description of a Sequential lists a layer once, so the model in its file is another one.
    for name in ("ours.keras", "ours.safetensors", *(["reference.keras"] if make is not same_layer_twice else [])):
        loaded = keras.models.load_model(tmp_path / name)
        assert len(loaded.weights) == len(ours.weights)
        np.testing.assert_allclose(loaded.predict(X, verbose=0), outputs, 2e-5, 2e-6)
    losses = [m.fit(X, Y, batch_size=4, shuffle=False, verbose=0).history["loss"] for m in (loaded, reference)]
    np.testing.assert_allclose(*losses, 2e-5)


def test_freezing_clones_and_two_models_of_shared_layers():
    def run(k):
        k.backend.clear_session()
        k.utils.set_random_seed(5)
        model, shared = in_two_stacks(k)
        inputs = k.Input((4,))
        other = k.Model(inputs, k.layers.Dense(2)(shared(inputs)))
        seen = []
        for trainable in (False, True):
            shared.trainable = trainable
            for each in (model, other):
                each.compile(k.optimizers.Adam(0.02), "mse")
                seen += each.fit(X, Y, epochs=2, batch_size=5, shuffle=False, verbose=0).history["loss"]
                seen += each.get_weights()
        model.layers[1].trainable = False
        seen.append([w.path for w in model.trainable_weights])
        copy = k.models.clone_model(model)
        seen.append(len(copy.weights))
        copy = k.Model.from_config(model.get_config())
        seen.append(len(copy.weights))
        whole = k.Sequential([k.Input((4,)), k.layers.Dense(4), model])
        twice = k.Model(inputs, whole(inputs) + model(inputs))
        twice.compile(k.optimizers.SGD(0.02), "mse")
        seen += twice.fit(X, Y, epochs=2, batch_size=5, shuffle=False, verbose=0).history["loss"]
        return seen + twice.get_weights()

    for ours, wanted in zip(run(keras), run(theirs), strict=True):
        if isinstance(wanted, list) and isinstance(wanted[0], str):
            assert ours == wanted
        else:
            np.testing.assert_allclose(ours, wanted, 2e-5, 2e-6)
