"""Layers that several layers of one model hold: one scope, one set of variables."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxmodels as fm
from flaxmodels import Input, Model, Sequential, inspection, interop, layers
from tests.support.model_parts import raises


def test_shared_layer_has_one_scope():
    """The scope is that of the first place; get_keras_weights lists the weights once."""
    dense, module, x, y, z = layers.Dense(3), nn.Dense(3), Input((3,)), Input((3,)), Input((4, 3))
    inner = Model(x, dense(x))
    weights = {"bias": (3,), "kernel": (3, 3)}
    for model, shape, wanted in (
        (Sequential([dense, dense]), (2, 3), {"dense": weights}),
        (Sequential([module, module]), (2, 3), {"dense": weights}),
        (Sequential([Sequential([module]), Sequential([module])]), (2, 3), {"sequential": {"dense": weights}}),
        (Model(y, dense(inner(y))), (2, 3), {"model": {"dense": weights}}),
        (Model(z, dense(layers.TimeDistributed(dense)(z))), (2, 4, 3), {"time_distributed": {"layer": weights}}),
        (layers.TimeDistributed(Sequential([dense, inner])), (2, 4, 3), {"layer": {"dense": weights}}),
        (Sequential([Sequential([inner]), Sequential([inner])]), (2, 3), {"sequential": {"model": {"dense": weights}}}),
    ):
        variables = model.init(jax.random.key(0), jnp.ones(shape))
        assert jax.tree.map(jnp.shape, variables) == {"params": wanted}
        assert sorted(w.shape for w in interop.get_keras_weights(model, variables)) == [(3,), (3, 3)]


def test_gradients_and_statistics_of_a_shared_layer_add_up():
    dense, norm = layers.Dense(3, use_bias=False), layers.BatchNormalization(momentum=0.5)
    model = Sequential([Sequential([dense, norm], name="a"), Sequential([dense, norm], name="b")])
    x = jnp.arange(12.0).reshape(4, 3)
    variables = model.init(jax.random.key(0), x)
    kernel = variables["params"]["a"]["dense"]["kernel"]

    def by_hand(first, second):
        mean = lambda y: jnp.mean(y, axis=0, keepdims=True)  # noqa: E731
        normal = lambda y: (y - mean(y)) / jnp.sqrt(jnp.var(y, axis=0, keepdims=True) + norm.epsilon)  # noqa: E731
        one = x @ first
        two = normal(one) @ second
        return jnp.sum(normal(two) ** 3), (0.25 * mean(one) + 0.5 * mean(two))[0]

    def loss(params):
        y, new = model.apply(variables | {"params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(y**3), new["batch_stats"]["a"]["batch_normalization"]["moving_mean"]

    value, wanted = loss(variables["params"]), by_hand(kernel, kernel)
    np.testing.assert_allclose(value[0], wanted[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(value[1], wanted[1], rtol=1e-5, atol=1e-5)
    grad = jax.grad(lambda params: loss(params)[0])(variables["params"])["a"]["dense"]["kernel"]
    parts = jax.grad(lambda *kernels: by_hand(*kernels)[0], (0, 1))(kernel, kernel)
    np.testing.assert_allclose(grad, sum(parts), rtol=1e-3, atol=1e-3)


def test_shared_layer_is_frozen_in_all_places_if_it_is_in_one():
    dense = layers.Dense(3)
    for frozen in (0, 1):
        model = Sequential([Sequential([dense], trainable=i != frozen, name=f"s{i}") for i in range(2)])
        found = inspection.weights_of(model, jnp.ones((2, 3)))
        assert {path: layer.frozen for path, (layer, _) in found.items()} == {
            ("s0", "dense", "kernel"): True,
            ("s0", "dense", "bias"): True,
        }


def test_layer_shared_with_a_transformed_class_is_refused():
    """A transformation of flax computes in scopes of its own, which cannot read those of other layers."""
    dense = layers.Dense(3)
    with raises(
        ValueError,
        "A layer inside a class that flax transformed, such as nn.remat(Sequential), must be in no other place, got "
        "Dense in 'sequential/dense' and in 'checkpoint_sequential/dense'; make two layers.",
    ):
        Sequential([Sequential([dense]), nn.remat(Sequential)([dense])])


@pytest.mark.parametrize("suffix", [".safetensors", ".keras"])
def test_files_keep_layers_shared(tmp_path, suffix):
    """A Keras file lists the layers in the places of Keras, in which names need not be automatic."""
    dense, x = layers.Dense(3, name="d"), Input((3,))
    first = Sequential([Input((3,)), dense, layers.Dense(3, name="e")], name="first")
    second = Sequential([Input((3,)), layers.Dense(3, name="d2"), first, dense], name="second")
    model = Model(x, layers.Add(name="add")([second(x), dense(first(x))]), name="whole")
    variables = model.init(jax.random.key(0), jnp.ones((2, 3)))
    path = tmp_path / f"m{suffix}"
    fm.save(path, model, variables)
    loaded, values = fm.load(path)
    jax.tree.map(np.testing.assert_array_equal, values, variables)
    np.testing.assert_array_equal(loaded.apply(values, jnp.ones((2, 3))), model.apply(variables, jnp.ones((2, 3))))
