"""Layers and models written as Keras classes give Keras' numbers and are pure modules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Model, Sequential, interop, layers
from flaxmodels.layers import Layer
from tests.support.keras_classes import OURS, THEIRS, both, variables_of


@pytest.fixture(autouse=True)
def rank_promotion():
    """Lets classes that are written for Keras add a bias without an explicit broadcast."""
    with jax.numpy_rank_promotion("allow"):
        yield


X = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")


def linear(k):
    class Linear(k.layers.Layer):
        def __init__(self, units=4, **kwargs):
            super().__init__(**kwargs)
            self.units = units

        def build(self, input_shape):
            self.w = self.add_weight(shape=(input_shape[-1], self.units), initializer="random_normal", trainable=True)
            self.b = self.add_weight(shape=(self.units,), initializer="zeros", trainable=True, name="b")

        def call(self, inputs):
            return k.ops.matmul(inputs, self.w) + self.b

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    return Linear


def mlp_block(k):
    Linear = linear(k)  # noqa: N806

    class MLPBlock(k.layers.Layer):
        def __init__(self):
            super().__init__()
            self.linear_1 = Linear(5)
            self.rest = [Linear(3), {"last": Linear(1)}]

        def call(self, inputs):
            x = k.ops.relu(self.linear_1(inputs))
            x = k.ops.relu(self.rest[0](x))
            return self.rest[1]["last"](x)

    return MLPBlock


def compute_sum(k):
    class ComputeSum(k.layers.Layer):
        def __init__(self, input_dim):
            super().__init__()
            self.total = self.add_weight(initializer="zeros", shape=(input_dim,), trainable=False)

        def call(self, inputs):
            self.total.assign_add(k.ops.sum(inputs, axis=0))
            return self.total

    return ComputeSum


def activity(k):
    class ActivityRegularization(k.layers.Layer):
        def __init__(self, rate=1e-2):
            super().__init__()
            self.rate = rate

        def call(self, inputs):
            self.add_loss(self.rate * k.ops.mean(inputs))
            return inputs

    return ActivityRegularization


def lazy(k):
    class Lazy(k.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = None

        def call(self, x):
            if self.dense is None:
                self.dense = k.layers.Dense(3)
            return self.dense(x)

    return Lazy


def late(k):
    """Sublayers and weights that are created in `build`, in lists that are filled later."""

    class Late(k.layers.Layer):
        def __init__(self):
            super().__init__()
            self.blocks = []
            self.head = k.layers.Dense(2, name="top")

        def build(self, input_shape):
            for i in range(2):
                self.blocks.append(k.layers.Dense(input_shape[-1], activation="tanh", name=f"b{i}"))
            self.gain = self.add_weight(shape=(input_shape[-1],), name="gain", initializer="ones")
            self.count = self.add_weight(shape=(), name="count", initializer="zeros", trainable=False)
            self.shift = self.add_weight(shape=(1,), name="shift", initializer="zeros")

        def call(self, x):
            for block in self.blocks:
                x = block(x) * self.gain
            return self.head(x) + self.shift

    return Late


def gated(k):
    class Gated(k.layers.Dense):
        def build(self, input_shape):
            self.before = self.add_weight(shape=(), name="before", initializer="ones")
            super().build(input_shape)
            self.scale = self.add_weight(shape=(self.units,), name="scale", initializer="ones")

        def call(self, inputs, training=None):
            return k.ops.gelu(super().call(inputs)) * self.scale + k.ops.sum(self.kernel) * self.before

    return Gated


def two_inputs(k):
    class Pair(k.layers.Layer):
        def build(self, a_shape, b_shape):
            self.u = self.add_weight(shape=(a_shape[-1], 2), name="u")
            self.v = self.add_weight(shape=(b_shape[-1], 2), name="v")

        def call(self, a, b):
            return k.ops.matmul(a, self.u) * k.ops.matmul(b, self.v)

    return Pair


def of_structure(k):
    class OfDict(k.layers.Layer):
        def build(self, input_shape):
            self.u = self.add_weight(shape=(input_shape["a"][-1], input_shape["b"][-1]), name="u")

        def call(self, inputs):
            return k.ops.matmul(inputs["a"], self.u) + inputs["b"]

    return OfDict


MAKERS = {
    "Linear": lambda k: linear(k)(3),
    "MLPBlock": lambda k: mlp_block(k)(),
    "ActivityRegularization": lambda k: activity(k)(),
    "Late": lambda k: late(k)(),
    "Gated": lambda k: gated(k)(3, activation="tanh"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_outputs_and_gradients_equal_keras(name):
    def make(k):
        inputs = k.Input((6,))
        return k.Model(inputs, MAKERS[name](k)(inputs))

    theirs, ours, weights = both(make)
    variables = variables_of(ours, X, weights)
    expected = np.asarray(theirs(X))
    np.testing.assert_allclose(jax.jit(ours.apply)(variables, X), expected, rtol=1e-5, atol=1e-6)
    back = interop.get_keras_weights(ours, variables)
    for mine, weight in zip(back, weights, strict=True):
        np.testing.assert_array_equal(mine, weight)
    trainable = [v.value for v in theirs.trainable_variables]
    rest = [v.value for v in theirs.non_trainable_variables]
    gradients = jax.grad(lambda t: jnp.sum(theirs.stateless_call(t, rest, X)[0] ** 2))(trainable)
    mine = jax.grad(lambda p: jnp.sum(ours.apply(variables | {"params": p}, X) ** 2))(variables.get("params", {}))
    flat = interop.get_keras_weights(ours, variables | {"params": mine})
    for paths, gradient in zip(range(len(gradients)), gradients, strict=True):
        close = [np.allclose(g, gradient, rtol=1e-4, atol=1e-5) for g in flat if g.shape == gradient.shape]
        assert any(close), paths


def test_weight_order_is_that_of_keras():
    def make(k):
        inputs = k.Input((6,))
        return k.Model(inputs, late(k)()(inputs))

    theirs, ours, weights = both(make)
    assert [w.name for w in theirs.weights] == ["gain", "shift", "count", *["kernel", "bias"] * 3]
    paths = interop.keras_weights.weight_paths(ours, variables_of(ours, X, weights))
    # Keras lists sublayers in the order in which they were assigned, so the blocks come after the head.
    assert ["/".join(path[2:]) for path in paths] == [
        "gain", "shift", "count", "head/kernel", "head/bias", "blocks_0/kernel", "blocks_0/bias", "blocks_1/kernel",
        "blocks_1/bias",
    ]  # fmt: skip


def test_several_inputs_and_structures_are_built_by_name():
    def pair(k):
        a, b = k.Input((6,)), k.Input((3,))
        return k.Model([a, b], two_inputs(k)()(a, b))

    def of_dict(k):
        inputs = {"a": k.Input((6,), name="a"), "b": k.Input((3,), name="b")}
        return k.Model(inputs, of_structure(k)()(inputs))

    small = X[:, :3] * 2
    for make, x in ((pair, [X, small]), (of_dict, {"a": X, "b": small})):
        theirs, ours, weights = both(make)
        variables = variables_of(ours, x, weights)
        np.testing.assert_allclose(ours.apply(variables, x), np.asarray(theirs(x)), rtol=1e-5, atol=1e-6)


def test_assignments_update_batch_stats_in_training_only():
    layer = compute_sum(OURS)(2)
    variables = layer.init(jax.random.key(0), jnp.ones((2, 2)))
    assert variables["batch_stats"]["variable"].tolist() == [0, 0]
    y, updated = layer.apply(variables, jnp.ones((2, 2)), train=True, mutable=["batch_stats"])
    assert (y.tolist(), updated["batch_stats"]["variable"].tolist()) == ([2, 2], [2, 2])
    y, updated = layer.apply(updated, jnp.ones((2, 2)), train=True, mutable=["batch_stats"])
    assert y.tolist() == updated["batch_stats"]["variable"].tolist() == [4, 4]
    assert layer.apply(updated, jnp.ones((2, 2))).tolist() == [6, 6]  # not stored
    theirs = compute_sum(THEIRS)(2)
    assert np.asarray(theirs(np.ones((2, 2)))).tolist() == [2, 2]


def test_losses_are_added():
    layer = activity(OURS)(0.5)
    y, updated = layer.apply({}, X, mutable=["losses"])
    np.testing.assert_allclose(updated["losses"]["added"], 0.5 * X.mean(), rtol=1e-6)
    theirs = activity(THEIRS)(0.5)
    theirs(X)
    np.testing.assert_allclose(updated["losses"]["added"], theirs.losses[0], rtol=1e-6)


def test_nothing_is_stored_on_the_instance():
    def snapshot(layer):
        return {name: (id(value), dict(getattr(value, "__dict__", {}))) for name, value in layer.__dict__.items()}

    for make in (mlp_block, late, lazy, lambda k: lambda: gated(k)(3)):
        layer = make(OURS)()
        before = snapshot(layer)
        variables = layer.init(jax.random.key(0), X)
        outputs = layer.apply(variables, X)
        np.testing.assert_allclose(jax.jit(layer.apply)(variables, X), outputs, rtol=1e-5, atol=1e-6)
        rows = jax.vmap(lambda x, layer=layer, v=variables: layer.apply(v, x[None])[0])(jnp.asarray(X))
        np.testing.assert_allclose(rows, outputs, rtol=1e-5, atol=1e-6)
        jax.grad(lambda p, layer=layer: layer.apply({"params": p}, X).sum())(variables["params"]) if len(
            variables
        ) == 1 else None
        assert snapshot(layer) == before


def test_built_and_unbuilt_instances_have_the_same_variables():
    for make in (mlp_block, late, lazy, lambda k: lambda: gated(k)(3)):
        layer = make(OURS)()
        assert not layer.built
        before = jax.tree.map(jnp.shape, layer.init(jax.random.key(0), X))
        layer.build((None, 6))
        layer(Input((6,)))
        assert layer.built
        after = layer.init(jax.random.key(0), X)
        assert jax.tree.map(jnp.shape, after) == before


def test_training_flag_is_inherited():
    class Noisy(Layer):
        def __init__(self):
            super().__init__()
            self.stack = Sequential([layers.Dropout(0.5)])
            self.inner = layers.Dropout(0.5)
            self.seen = []

        def call(self, x, training=None):
            quiet = self.inner(x, training=False)
            return self.stack(x), self.inner(x), quiet, training

    layer, ones = Noisy(), jnp.ones((1, 64))
    *outputs, flag = layer.apply({}, ones, training=True, rngs={"dropout": jax.random.key(0)})
    assert [bool((y == 1).all()) for y in outputs] == [False, False, True] and flag is True
    *outputs, flag = layer.apply({}, ones, train=False)
    assert all(bool((y == 1).all()) for y in outputs) and flag is False


def test_a_closure_over_an_unbound_layer_is_refused():
    outside = layers.Dense(2)

    class Closure(Layer):
        def call(self, x):
            return outside(x)

    sentence = (
        r"Dense holds no parameters, so it cannot be called on an array directly; use variables = "
        r"layer.init\(jax.random.key\(0\), x\) and layer.apply\(variables, x\)\."
    )
    with pytest.raises(ValueError, match=sentence):
        Closure().init(jax.random.key(0), X)


def test_configurations():
    Linear = linear(OURS)  # noqa: N806
    config = Linear(7, name="seven").get_config()
    assert config == {"name": "seven", "trainable": True, "dtype": None, "units": 7}
    assert Linear.from_config(config).units == 7

    class Scale(Layer):
        def __init__(self, factor, power=2, **kwargs):
            super().__init__(**kwargs)
            self.factor, self.power = factor, power

        def call(self, x):
            return self.factor * x**self.power

    assert Scale(3.0, dtype="float32").get_config() == {
        "factor": 3.0, "power": 2, "dtype": "float32", "name": None, "trainable": True,
    }  # fmt: skip
    assert Scale.from_config(Scale(3.0).get_config()).factor == 3.0
    with pytest.raises(NotImplementedError, match="cannot be derived from its argument `factor`, got"):
        Scale(jnp.ones(2)).get_config()


def test_names_of_sublayers():
    block = mlp_block(OURS)()
    x = Input((6,))
    model = Model(x, block(x))
    assert [name for name, _ in block.children()] == ["linear_1", "rest_0", "rest_1_last"]
    variables = model.init(jax.random.key(0), X)
    assert list(variables["params"]["mlp_block"]) == ["linear_1", "rest_0", "rest_1_last"]


REFUSALS = {
    "train_step": "Net defines `train_step`, which is not supported in a Keras class; "
    r"give Trainer\(train_step=...\) a function that makes the step\.",
    "compute": "Net defines `compute`, which is not supported in a Keras class; compute in `call` and create weights "
    "in `build`, or leave `call`, `build` and `__init__` out.",
    "__call__": "Net defines `__call__`, which is not supported in a Keras class; define `call`.",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_methods_that_would_not_be_called_are_refused(name):
    with pytest.raises(TypeError, match=REFUSALS[name]):
        type("Net", (Model,), {"call": lambda self, x: x, name: lambda self, x: x})


def test_metrics_and_losses_outside_are_refused():
    layer = mlp_block(OURS)()
    with pytest.raises(NotImplementedError, match="MLPBlock cannot add a metric while it computes; give `metrics` to"):
        layer.add_metric(1.0)
    with pytest.raises(ValueError, match="MLPBlock takes a loss only while it computes, got one outside; call add_"):
        layer.add_loss(1.0)
    with pytest.raises(ValueError, match="The attribute `scope` of MLPBlock belongs to the library, got an assignment"):
        layer.scope = 1


def test_variables_of_an_unbound_layer_have_no_value():
    layer = linear(OURS)(2)
    layer.build((None, 3))
    assert (layer.w.shape, layer.w.name, layer.w.trainable) == ((3, 2), "variable", True)
    with pytest.raises(ValueError, match="The variable 'variable' of shape .* has no value outside `init` and `apply`"):
        np.asarray(layer.w)


def test_trainable_variables_cannot_be_assigned():
    class Assigns(Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(2,), name="w")

        def call(self, x):
            self.w.assign(x)
            return x

    with pytest.raises(ValueError, match="Only the optimizer may change the trainable variable 'w', got an assignment"):
        Assigns().init(jax.random.key(0), jnp.ones(2))


def test_forgotten_constructor_of_the_base_class():
    class Forgets(Layer):
        def __init__(self):
            self.units = 3

        def call(self, x):
            return x

    with pytest.raises(RuntimeError, match=r"The constructor of Forgets must call that of its base class, got none"):
        Forgets()
