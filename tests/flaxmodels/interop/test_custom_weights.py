"""Weights of custom layers and linen modules in Keras' order, in lists and in files."""

import re
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Model, Sequential, interop, layers
from flaxmodels.layers.base import Layer

keras = pytest.importorskip("keras")

KEY = jax.random.key(0)
X = np.linspace(-1, 1, 12, dtype="float32").reshape(4, 3)


def raises(sentence):
    return pytest.raises(ValueError, match=f"^{re.escape(sentence)}$")


def relaxed(function, *args, **kwargs):
    """Calls Keras with rank and dtype promotion enabled."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return function(*args, **kwargs)


# ---------------------------------------------------------------- layers of both libraries


class Lin(Layer):
    """A layer with one undeclared weight."""

    units: int = 4

    @nn.compact
    def compute(self, x):
        return x @ self.add_weight("w", (x.shape[-1], self.units))


class KerasLin(keras.layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 4))

    def call(self, x):
        return x @ self.w


class Zoo(Layer):
    """Has unsorted weight names, a statistic between weights, and layers that are not called in the order of their
    creation."""

    def setup(self):
        self.zebra = layers.Dense(5, name="zebra")
        self.ant = layers.Dense(5, use_bias=False, name="ant")

    @nn.compact
    def compute(self, x):
        count = self.variable("batch_stats", "count", jnp.ones, (1,))
        late = self.add_weight("late", (x.shape[-1], 2))
        mean = self.variable("batch_stats", "a_mean", jnp.ones, (2,))
        early = self.add_weight("early", (2, 6))
        y = (x @ late + jnp.broadcast_to(mean.value, (x.shape[0], 2))) @ early
        return self.zebra(self.ant(y)) * count.value[0]


class KerasZoo(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.zebra = keras.layers.Dense(5)
        self.ant = keras.layers.Dense(5, use_bias=False)

    def build(self, shape):
        self.count = self.add_weight(shape=(1,), initializer="ones", trainable=False)
        self.late = self.add_weight(shape=(shape[-1], 2))
        self.mean = self.add_weight(shape=(2,), initializer="ones", trainable=False)
        self.early = self.add_weight(shape=(2, 6))
        self.ant.build((None, 6))
        self.zebra.build((None, 5))

    def call(self, x):
        return self.zebra(self.ant((x @ self.late + self.mean) @ self.early)) * self.count[0]


class Block(Layer):
    """Nested custom layers that are created where they are called."""

    @nn.compact
    def compute(self, x):
        h = Lin(6, name="first")(x)
        h = layers.BatchNormalization(name="norm")(h)
        return Lin(5, name="again")(h) + Zoo(name="zoo")(x)


class KerasBlock(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.norm = KerasLin(), keras.layers.BatchNormalization()
        self.again, self.zoo = KerasLin(), KerasZoo()

    def build(self, shape):
        self.first.w = self.first.add_weight(shape=(shape[-1], 6))
        self.norm.build((None, 6))
        self.again.w = self.again.add_weight(shape=(6, 5))
        self.zoo.build(shape)
        self.first.built = self.again.built = True

    def call(self, x):
        return self.again(self.norm(self.first(x))) + self.zoo(x)


class Gated(layers.LayerNormalization):
    """A subclass of a library layer with one more weight."""

    @nn.compact
    def compute(self, x):
        return super().compute(x @ self.add_weight("gate", (3, 3)))


class KerasGated(keras.layers.LayerNormalization):
    def build(self, shape):
        super().build(shape)
        self.gate = self.add_weight(shape=(3, 3))

    def call(self, x):
        return super().call(x @ self.gate)


class Sums(layers.LSTM):
    """A subclass of a recurrent layer with another class name."""


class KerasSums(keras.layers.LSTM):
    pass


for cls in (KerasLin, KerasZoo, KerasBlock, KerasGated, KerasSums):
    cls.__name__ = cls.__name__.removeprefix("Keras")  # Keras uses this name for the groups of a file
    keras.saving.register_keras_serializable()(cls)

PAIRS = {
    "one weight": (lambda: [Lin(), layers.Dense(2)], lambda: [KerasLin(), keras.layers.Dense(2)]),
    "zoo": (lambda: [layers.Dense(3), Zoo(), layers.Dense(2)], lambda: [keras.layers.Dense(3), KerasZoo(), keras.layers.Dense(2)]),
    "block": (lambda: [Block(), Block()], lambda: [KerasBlock(), KerasBlock()]),
    "gated": (lambda: [Gated()], lambda: [KerasGated()]),
    "in wrappers": (
        lambda: [layers.Reshape((1, 3)), layers.TimeDistributed(Zoo()), layers.Bidirectional(Sums(2, stateful=False))],
        lambda: [
            keras.layers.Reshape((1, 3)),
            keras.layers.TimeDistributed(KerasZoo()),
            keras.layers.Bidirectional(KerasSums(2)),
        ],
    ),
}  # fmt: skip


def distinct(shapes):
    """Returns weights that are all different."""
    rng = np.random.default_rng(0)
    return [rng.uniform(0.2, 1.0, size=shape).astype("float32") for shape in shapes]


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.rotate
@pytest.mark.parametrize("case", PAIRS)
def test_custom_layers_as_in_keras(case, tmp_path):
    """Outputs equal Keras' outputs if weights come from Keras' list or Keras' file, or if Keras reads our file."""
    ours, theirs = (make() for make in PAIRS[case])
    model = Sequential([Input((3,)), *ours])
    variables = jax.jit(model.init)(KEY, X)  # the variables are not returned in the order of their creation
    theirs = relaxed(keras.Sequential, [keras.Input((3,)), *theirs])
    relaxed(theirs, X)
    weights = distinct([w.shape for w in theirs.get_weights()])
    theirs.set_weights(weights)
    want = np.asarray(relaxed(theirs, X))

    assert [w.shape for w in interop.get_keras_weights(model, variables)] == [w.shape for w in weights]
    assert len(weights) == len(jax.tree.leaves(variables))
    variables = interop.set_keras_weights(model, variables, weights)
    for a, b in zip(interop.get_keras_weights(model, variables), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(model.apply(variables, X), want, rtol=1e-5)

    theirs.save_weights(tmp_path / "theirs.weights.h5")
    zeros = jax.tree.map(jnp.zeros_like, variables)
    assert_equal(interop.load_keras_weights(tmp_path / "theirs.weights.h5", model, zeros), variables)
    interop.save_keras_weights(tmp_path / "ours.weights.h5", model, variables)
    assert_equal(interop.load_keras_weights(tmp_path / "ours.weights.h5", model, zeros), variables)
    theirs.set_weights([np.zeros_like(w) for w in weights])
    theirs.load_weights(tmp_path / "ours.weights.h5")
    np.testing.assert_allclose(np.asarray(relaxed(theirs, X)), want, rtol=1e-6)


class Foreign(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(3, name="z")(x)
        return nn.Dense(2, name="a")(nn.BatchNorm(use_running_average=not train, name="m")(x))


def test_linen_modules_as_in_keras(tmp_path):
    """Keras' FlaxLayer lists the parameters by path, then the statistics by path."""
    model = Sequential([Input((3,)), layers.Dense(3), Foreign(), Foreign(), layers.Dense(2)])
    variables = model.init(KEY, X)
    L, of = keras.layers, [Foreign().init(KEY, X), Foreign().init(KEY, X[:, :2])]
    theirs = relaxed(
        lambda: keras.Sequential(
            [
                keras.Input((3,)),
                L.Dense(3),
                L.FlaxLayer(Foreign(), variables=of[0]),
                L.FlaxLayer(Foreign(), variables=of[1]),
                L.Dense(2),
            ]
        )
    )
    weights = distinct([w.shape for w in theirs.get_weights() if w.dtype == np.float32])
    assert [w.shape for w in interop.get_keras_weights(model, variables)] == [w.shape for w in weights]
    variables = interop.set_keras_weights(model, variables, weights)
    interop.save_keras_weights(tmp_path / "ours.weights.h5", model, variables)
    relaxed(theirs.load_weights, tmp_path / "ours.weights.h5")
    np.testing.assert_allclose(np.asarray(relaxed(theirs, X)), model.apply(variables, X), rtol=1e-5)
    zeros = jax.tree.map(jnp.zeros_like, variables)
    assert_equal(interop.load_keras_weights(tmp_path / "ours.weights.h5", model, zeros), variables)
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    assert_equal(interop.load_keras_weights(tmp_path / "theirs.weights.h5", model, zeros), variables)


def test_a_linen_module_inside_a_custom_layer(tmp_path):
    class Around(Layer):
        @nn.compact
        def compute(self, x):
            return nn.Dense(2, name="z")(x) + nn.Dense(2, name="a")(x)

    model = Sequential([Input((3,)), Around()])
    variables = model.init(KEY, X)
    assert [w.shape for w in interop.get_keras_weights(model, variables)] == [(2,), (3, 2), (2,), (3, 2)]
    weights = distinct([(2,), (3, 2)] * 2)
    variables = interop.set_keras_weights(model, variables, weights)
    np.testing.assert_array_equal(variables["params"]["around"]["z"]["bias"], weights[0])
    interop.save_keras_weights(tmp_path / "m.weights.h5", model, variables)
    zeros = jax.tree.map(jnp.zeros_like, variables)
    assert_equal(interop.load_keras_weights(tmp_path / "m.weights.h5", model, zeros), variables)


def test_weight_order_of_functional_models(tmp_path):
    x = Input((3,))
    shared = Zoo(name="shared")
    inner = Model(x, layers.Add()([shared(x), shared(layers.Dense(3)(x))]), name="inner")
    y = Input((3,))
    model = Model(y, Block(name="block")(inner(y)))
    variables = model.init(KEY, X)
    assert len(interop.get_keras_weights(model, variables)) == len(jax.tree.leaves(variables))
    weights = distinct([w.shape for w in interop.get_keras_weights(model, variables)])
    variables = interop.set_keras_weights(model, variables, weights)
    np.testing.assert_array_equal(variables["params"]["inner"]["shared"]["late"], weights[2])
    np.testing.assert_array_equal(variables["params"]["inner"]["shared"]["early"], weights[3])
    interop.save_keras_weights(tmp_path / "m.weights.h5", model, variables)
    zeros = jax.tree.map(jnp.zeros_like, variables)
    assert_equal(interop.load_keras_weights(tmp_path / "m.weights.h5", model, zeros), variables)


# ---------------------------------------------------------------- what determines the order


class Declared(Layer):
    WEIGHTS: ClassVar[tuple[str, ...]] = ("z", "a")
    inner: Any = None

    @nn.compact
    def compute(self, x):
        return self.inner(x @ self.add_weight("a", (3, 3)) @ self.add_weight("z", (3, 4)))


def test_a_single_layer_declares_its_order():
    """`WEIGHTS` takes precedence over the order of creation, and a layer in a field is found by its name."""
    layer = Declared(layers.Dense(2))
    variables = layer.init(KEY, X)
    assert [w.shape for w in interop.get_keras_weights(layer, variables)] == [(3, 4), (3, 3), (4, 2), (2,)]
    model = Sequential([Input((3,)), layer])
    assert [w.shape for w in interop.get_keras_weights(model, model.init(KEY, X))] == [(3, 4), (3, 3), (4, 2), (2,)]


def test_a_single_weight_needs_no_order():
    layer = Lin()
    assert [w.shape for w in interop.get_keras_weights(layer, layer.init(KEY, X))] == [(3, 4)]
    model = Sequential([Lin(), layers.Dense(2)])
    assert [w.shape for w in interop.get_keras_weights(model, model.init(KEY, X))] == [(3, 4), (4, 2), (2,)]


def test_an_unknown_order_raises(tmp_path):
    sentence = (
        "Keras sorts weights by creation, whose order is unknown for 'early', 'late' of Zoo{}; list weights in "
        "`WEIGHTS` and layers in `children`, or put the layer into a model that starts with Input(shape)."
    )
    layer = Zoo()
    variables = layer.init(KEY, X)
    with raises(sentence.format("")):
        interop.get_keras_weights(layer, variables)
    with raises(sentence.format("")):
        interop.set_keras_weights(layer, variables, interop.get_keras_weights(layers.Dense(2), {}))
    model = Sequential([layers.Dense(3), Zoo(name="zoo")])
    with raises(sentence.format(" 'zoo'")):
        interop.save_keras_weights(tmp_path / "m.weights.h5", model, model.init(KEY, X))
    layer = Zoo(input_shape=(3,))
    assert [w.shape for w in interop.get_keras_weights(layer, layer.init(KEY, X))][:4] == [(3, 2), (2, 6), (1,), (2,)]

    class Pair(Layer):
        @nn.compact
        def compute(self, x):
            return layers.Dense(2)(x)

    with raises(sentence.replace("'early', 'late' of Zoo{}", "'Dense_0/bias', 'Dense_0/kernel' of Pair")):
        interop.get_keras_weights(Pair(), Pair().init(KEY, X))


def test_modules_inside_a_lifted_transformation():
    """Such modules are called in scopes whose root is not the model's."""

    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, carry, _):
            return nn.Dense(3, name="z")(nn.Dense(3, name="a")(carry)), None

    class Around(Layer):
        @nn.compact
        def compute(self, x):
            scan = nn.scan(Scanned, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
            return scan(name="steps")(x, None)[0]

    model = Sequential([Input((3,)), Around()])
    variables = model.init(KEY, X)
    assert [w.shape for w in interop.get_keras_weights(model, variables)] == [(2, 3), (2, 3, 3)] * 2

    class Again(Layer):
        @nn.compact
        def compute(self, x):
            return nn.remat(layers.Dense)(2, name="z")(nn.remat(Zoo)(name="a")(x))

    model = Sequential([Input((3,)), Again()])
    with raises(
        "Keras sorts weights by creation, whose order is unknown for 'early', 'late' of CheckpointZoo 'a'; list "
        "weights in `WEIGHTS` and layers in `children`, or put the layer into a model that starts with "
        "Input(shape)."
    ):
        interop.get_keras_weights(model, model.init(KEY, X))


def test_undeclared_weights_raise():
    """Passes variables that are not the model's."""
    model = Sequential([Input((3,)), layers.Dense(2)])
    variables = model.init(KEY, X)
    variables["params"]["other"] = {"w": jnp.ones(2)}
    with raises(
        "Sequential has weights that none of its layers declares, other/w; list them in `WEIGHTS` of the layer, and "
        "the layers inside it in `children`."
    ):
        interop.get_keras_weights(model, variables)


def test_a_statistic_named_sigma_divides_nothing(tmp_path):
    """Only the kernel of a SpectralNormalization is divided by sigma when it is saved."""

    class Scaled(Layer):
        @nn.compact
        def compute(self, x):
            return (
                x
                @ self.add_weight("kernel", (3, 2))
                * self.variable("batch_stats", "sigma", lambda: jnp.float32(4)).value
            )

    model = Sequential([Input((3,)), Scaled()])
    variables = model.init(KEY, X)
    interop.save_keras_weights(tmp_path / "m.weights.h5", model, variables)
    zeros = jax.tree.map(jnp.zeros_like, variables)
    assert_equal(interop.load_keras_weights(tmp_path / "m.weights.h5", model, zeros), variables)


def test_states_of_a_custom_recurrent_layer_are_not_weights():
    model = Sequential([Input((2, 3), batch_size=4), Sums(2, stateful=True)])
    variables = model.init(KEY, jnp.ones((4, 2, 3)))
    assert len(variables["batch_stats"]["sums"]) == 2
    assert [w.shape for w in interop.get_keras_weights(model, variables)] == [(3, 8), (2, 8), (8,)]
    kept = interop.set_keras_weights(model, variables, distinct([(3, 8), (2, 8), (8,)]))
    assert_equal(kept["batch_stats"], variables["batch_stats"])
