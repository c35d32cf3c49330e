"""Initializers, regularizers, constraints and activations: values as in Keras, and their configurations."""

import jax
import keras as theirs
import numpy as np
import pytest

from tests.support.random_bits import assert_same_draws
from training import keras

RANDOM = {
    "GlorotNormal": {}, "GlorotUniform": {}, "HeNormal": {}, "HeUniform": {}, "LecunNormal": {}, "LecunUniform": {},
    "Orthogonal": {"gain": 2.0}, "RandomNormal": {"mean": 1.0}, "RandomUniform": {"maxval": 3.0},
    "TruncatedNormal": {"stddev": 0.5}, "VarianceScaling": {"mode": "fan_out"},
}  # fmt: skip
FIXED = {"Constant": {"value": 2.0}, "Identity": {"gain": 3.0}, "Ones": {}, "Zeros": {}}
KERAS_FACTORIES = {
    "regularizers": lambda k: [k.regularizers.L1(0.5), k.regularizers.L2(), k.regularizers.L1L2(0.5, 2.0)],
    "constraints": lambda k: [k.constraints.MaxNorm(3, axis=1), k.constraints.NonNeg(), k.constraints.MinMaxNorm()],
    "losses": lambda k: [k.losses.Hinge(), k.losses.CategoricalCrossentropy(label_smoothing=0.25), k.losses.Dice()],
    "metrics": lambda k: [k.metrics.AUC(curve="PR"), k.metrics.MeanIoU(3), k.metrics.BinaryAccuracy(threshold=0.25)],
    "optimizers": lambda k: [k.optimizers.SGD(0.5, momentum=0.5), k.optimizers.Adam(0.25)],
    "optimizers.schedules": lambda k: [k.optimizers.schedules.CosineDecay(0.5, 10)],
    "layers": lambda k: [k.layers.Dense(3, activation="relu", kernel_initializer=k.initializers.HeNormal(seed=3))],
}


@pytest.fixture(autouse=True)
def _promotion_as_in_programs():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def module_of(library, path):
    for part in path.split("."):
        library = getattr(library, part)
    return library


def refusal(call, kind=ValueError):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def draws(library):
    """Returns values of initializers with and without seeds, and the weights of a layer that is made after them."""
    library.utils.set_random_seed(5)
    values = []
    for name, arguments in RANDOM.items():
        cls = getattr(library.initializers, name)
        drawn = cls(**arguments)
        values += [drawn((2, 3)), drawn(shape=(2, 3), dtype="float32"), cls(seed=4, **arguments)((2, 3))]
    values += [getattr(library.initializers, name)(**arguments)((2, 2)) for name, arguments in FIXED.items()]
    values += [library.initializers.Ones()((2,), "float16"), library.initializers.get("he_normal")((2, 3))]
    values.append(library.initializers.get(np.eye(2, dtype="float32"))((2, 2)))
    generator = library.initializers.RandomNormal(seed=library.random.SeedGenerator(3))
    values += [generator((2,)), generator((2,))]
    layer = library.layers.Dense(2)
    layer.build((None, 3))
    return [np.asarray(value) for value in [*values, layer.get_weights()[0]]]


def test_initializers_draw_the_bits_of_keras():
    for value, wanted in zip(draws(keras), draws(theirs), strict=True):
        assert value.dtype == wanted.dtype
        assert_same_draws(value, wanted)


def weights_from_one_object(library):
    """Returns weights of layers that get one object without a seed: Keras copies it for some of them."""
    library.utils.set_random_seed(2)
    layers, shared = library.layers, library.initializers.GlorotUniform()
    made = [
        layers.Dense(3, kernel_initializer=shared),
        layers.Bidirectional(layers.LSTM(2, kernel_initializer=shared)),
        layers.MultiHeadAttention(2, 2, kernel_initializer=shared),
        layers.EinsumDense("abc,cd->abd", (None, 2), kernel_initializer=shared),
        layers.Dense(1),
    ]
    for layer in made:
        layer.build(*[(2, 3, 4)] * (1 + isinstance(layer, layers.MultiHeadAttention)))
    model = library.Sequential([library.Input((4,)), layers.Dense(2, kernel_initializer=shared)])
    copy = library.models.clone_model(model)
    return [weight for layer in [*made, model, copy] for weight in layer.get_weights()]


def test_an_object_draws_for_all_its_layers_as_in_keras():
    for value, wanted in zip(weights_from_one_object(keras), weights_from_one_object(theirs), strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_classes_and_arguments_of_initializers():
    made = keras.initializers.GlorotUniform(seed=3)
    assert made.get_config() == theirs.initializers.GlorotUniform(seed=3).get_config() and made.clone() == made
    assert keras.initializers.HeNormal().get_config()["seed"] is None
    assert isinstance(made, keras.initializers.VarianceScaling) and isinstance(made, keras.Initializer)

    class Ramp(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            return np.arange(np.prod(shape), dtype=dtype or "float32").reshape(shape)

    layer = keras.layers.Dense(2, kernel_initializer=Ramp())
    layer.build((None, 2))
    np.testing.assert_array_equal(layer.kernel, [[0, 1], [2, 3]])
    assert refusal(lambda: keras.initializers.Initializer()((2,)), NotImplementedError) == (
        "Initializer must define __call__(shape, dtype=None), got none; write it."
    )
    assert refusal(lambda: keras.initializers.get(3)) == (
        "`identifier` must be a name, an initializer, a function (shape, dtype), an array or a configuration, got 3; "
        'pass a name such as "glorot_uniform".'
    )
    assert refusal(lambda: keras.initializers.get(np.ones(2))((3,))) == (
        "An array as an initializer must have the shape (3,) of the weight, got (2,); reshape it."
    )


@pytest.mark.parametrize("module", KERAS_FACTORIES)
@pytest.mark.spread
def test_configurations_are_exchanged_with_keras(module):
    here, there = module_of(keras, module), module_of(theirs, module)
    for ours, wanted in zip(KERAS_FACTORIES[module](keras), KERAS_FACTORIES[module](theirs), strict=True):
        mine, given = here.serialize(ours), there.serialize(wanted)
        given.pop("build_config", None)
        assert (mine["module"], mine["class_name"]) == (given["module"], given["class_name"])
        both = mine["config"].keys() & given["config"].keys()
        for name in both - {"dtype", "name", "kernel_initializer"}:
            value = given["config"][name]
            assert mine["config"][name] == (value if isinstance(value, dict) else pytest.approx(value)), name
        made, back = here.deserialize(given), there.deserialize(mine)
        assert type(made).__name__ == type(back).__name__ == type(ours).__name__
        remade = here.serialize(made)["config"]
        assert {k: remade[k] for k in both - {"dtype", "name"}} == {
            k: mine["config"][k] for k in both - {"dtype", "name"}
        }


def test_functions_and_names_as_configurations():
    for library in (keras, theirs):
        activations, losses = library.activations, library.losses
        assert [activations.serialize(f) for f in (activations.relu, activations.swish)] == ["relu", "silu"]
        assert activations.deserialize("tanh") is activations.get("tanh") is activations.tanh
        function = {"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "function"}
        assert activations.deserialize(function) is activations.relu
        described = losses.serialize(losses.mean_squared_error)
        assert described == function | {"config": "mean_squared_error"}
        assert losses.deserialize(described) is losses.get("mse") is losses.mean_squared_error
        assert type(library.regularizers.deserialize({"class_name": "l2", "config": {}})).__name__ == "L2"
        assert type(library.constraints.get("max_norm")).__name__ == "MaxNorm"
        assert type(library.initializers.get("zeros")).__name__ == "Zeros"
    assert keras.losses.deserialize("mse") is keras.losses.mean_squared_error
    assert keras.losses.Hinge().get_config() == theirs.losses.Hinge().get_config()
    assert (
        keras.metrics.MeanSquaredError(name="a").get_config() == theirs.metrics.MeanSquaredError(name="a").get_config()
    )
    assert keras.regularizers.get({"class_name": "L1", "config": {"l1": 0.5}}) == keras.regularizers.L1(0.5)
    assert refusal(lambda: keras.regularizers.deserialize({"config": {}})) == (
        "A configuration must have a name as 'class_name' and a dictionary as 'config', got {'config': {}}; use "
        "`serialize`."
    )
    assert refusal(
        lambda: keras.layers.deserialize({"module": "keras.regularizers", "class_name": "L2", "config": {}})
    ) == ("`config` must describe a layer, got one of type L2; use `keras.layers.serialize`.")

    class Own(keras.regularizers.Regularizer):
        pass

    assert refusal(Own().get_config, NotImplementedError) == (
        "Own must define get_config to be described, got a class without it; return the arguments of its constructor "
        "there."
    )


def test_lists_are_arrays():
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(keras.activations.relu([[-1.0, 2.0]]), [[0, 2]])
        np.testing.assert_allclose(keras.activations.softmax([[1.0, 1.0]]), [[0.5, 0.5]])
        np.testing.assert_allclose(keras.constraints.UnitNorm()([[3.0], [4.0]]), [[0.6], [0.8]], rtol=1e-6)
        np.testing.assert_allclose(keras.constraints.NonNeg()([-1.0, 2.0]), [0, 2])
