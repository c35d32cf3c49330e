"""Dense, compared with hand-computed values, a NumPy loop and Keras."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import activations, interop, layers

keras = pytest.importorskip("keras")


def with_weights(layer, x, *weights):
    return interop.set_keras_weights(layer, layer.init(jax.random.key(0), x), weights)


def test_by_hand():
    x = jnp.array([[1.0, 2.0], [-3.0, 0.0]])
    kernel, bias = np.array([[1.0, 0.0, -1.0], [2.0, 1.0, 0.0]]), np.array([0.5, -3.0, 0.0])
    layer = layers.Dense(3, activation="relu")
    variables = with_weights(layer, x, kernel, bias)
    # 1*1 + 2*2 + 0.5 = 5.5; 2*1 - 3 = -1 -> 0; -1 -> 0; -3 + 0.5 -> 0; -3 -> 0; 3
    np.testing.assert_array_equal(layer.apply(variables, x), [[5.5, 0, 0], [0, 0, 3]])


@pytest.mark.parametrize("shape", [(4, 3), (1, 3), (2, 5, 3), (2, 1, 4, 3)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_by_a_loop(shape, use_bias):
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.normal(size=shape), rng.normal(size=(3, 2)), rng.normal(size=2)
    expected = np.zeros((*shape[:-1], 2))
    for index in np.ndindex(*shape[:-1], 2):
        expected[index] = sum(x[(*index[:-1], f)] * kernel[f, index[-1]] for f in range(3))
        expected[index] += bias[index[-1]] if use_bias else 0
    layer, x = layers.Dense(2, use_bias=use_bias), jnp.asarray(x, jnp.float32)
    variables = with_weights(layer, x, kernel, bias) if use_bias else with_weights(layer, x, kernel)
    assert set(variables["params"]) == ({"kernel", "bias"} if use_bias else {"kernel"})
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)


@pytest.mark.rotate
@pytest.mark.parametrize(
    ("activation", "shape"), [(None, (4, 3)), ("relu", (2, 5, 3)), ("softmax", (2, 5, 3)), (activations.gelu, (4, 3))]
)
def test_outputs_and_gradients_equal_keras(activation, shape):
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape).astype("float32")
    weights = [rng.normal(size=(3, 4)).astype("float32"), rng.normal(size=4).astype("float32")]
    cotangent = rng.normal(size=(*shape[:-1], 4)).astype("float32")
    ours = layers.Dense(4, activation=activation)
    variables = with_weights(ours, x, *weights)

    def scalar(x, variables):
        return jnp.sum(ours.apply(variables, x) * cotangent)

    value = ours.apply(variables, x)
    of_x, of_variables = jax.grad(scalar, (0, 1))(jnp.asarray(x), variables)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = keras.layers.Dense(4, activation="gelu" if activation is activations.gelu else activation)
        theirs.build(shape)

        def their_scalar(x, weights):
            return jnp.sum(theirs.stateless_call(weights, [], x)[0] * cotangent)

        expected = theirs.stateless_call(weights, [], x)[0]
        grads = jax.grad(their_scalar, (0, 1))(jnp.asarray(x), [jnp.asarray(w) for w in weights])
    np.testing.assert_allclose(value, expected, atol=1e-5)
    np.testing.assert_allclose(of_x, grads[0], atol=1e-5)
    for got, want in zip(interop.get_keras_weights(ours, of_variables), grads[1], strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_defaults_equal_those_of_keras():
    ours = layers.Dense(3)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = keras.layers.Dense(3).get_config()
    assert (ours.activation, ours.use_bias) == (None, theirs["use_bias"])
    assert theirs["kernel_initializer"]["class_name"] == "GlorotUniform" and ours.kernel_initializer == "glorot_uniform"
    assert theirs["bias_initializer"]["class_name"] == "Zeros" and ours.bias_initializer == "zeros"


def test_arguments_in_keras_order():
    layer = layers.Dense(
        2, "relu", False, "ones", "zeros", "l1", "l2", kernel_constraint="non_neg", bias_constraint="max_norm"
    )
    assert (layer.kernel_regularizer, layer.bias_regularizer) == ("l1", "l2")
    assert (layer.kernel_constraint, layer.bias_constraint) == ("non_neg", "max_norm")


def test_initializers_are_used(getkey):
    variables = layers.Dense(2, kernel_initializer="ones", bias_initializer="ones").init(getkey(), jnp.ones((1, 3)))
    np.testing.assert_array_equal(variables["params"]["kernel"], np.ones((3, 2)))
    np.testing.assert_array_equal(variables["params"]["bias"], np.ones(2))


def test_initializer_none_means_glorot_uniform_as_in_keras(getkey):
    key = getkey()
    default = layers.Dense(4).init(key, jnp.ones((1, 3)))
    none = layers.Dense(4, kernel_initializer=None).init(key, jnp.ones((1, 3)))
    np.testing.assert_array_equal(default["params"]["kernel"], none["params"]["kernel"])


def test_regularizers_add_their_losses():
    layer = layers.Dense(2, kernel_initializer="ones", bias_initializer="ones", kernel_regularizer="l2")
    layer = layer.clone(bias_regularizer="l1")
    x = jnp.ones((4, 3))
    variables = layer.init(jax.random.key(0), x)
    assert set(variables) == {"params"}
    _, new = layer.apply(variables, x, mutable=["losses"])
    # l2: 0.01 * 6 ones; l1: 0.01 * 2 ones
    np.testing.assert_allclose(new["losses"]["kernel"], 0.06, rtol=1e-6)
    np.testing.assert_allclose(new["losses"]["bias"], 0.02, rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "param_dtype", "parameters", "outputs"),
    [
        (None, jnp.float32, "float32", "float32"),
        ("bfloat16", jnp.float32, "float32", "bfloat16"),
        (jnp.bfloat16, jnp.float32, "float32", "bfloat16"),
        ("mixed_bfloat16", jnp.float32, "float32", "bfloat16"),
        ("mixed_float16", jnp.float32, "float32", "float16"),
        (None, "bfloat16", "bfloat16", "bfloat16"),
        ("float32", "bfloat16", "bfloat16", "float32"),
    ],
)
def test_dtypes(dtype, param_dtype, parameters, outputs):
    layer, x = layers.Dense(2, dtype=dtype, param_dtype=param_dtype), jnp.ones((1, 3))
    variables = layer.init(jax.random.key(0), x)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {parameters}
    assert layer.apply(variables, x).dtype.name == outputs
    assert layer.apply(variables, jnp.ones((1, 3), jnp.int32)).dtype.name == outputs


def test_float64():
    with jax.enable_x64(True):
        layer, x = layers.Dense(1, param_dtype="float64"), jnp.array([[1e-12]], jnp.float64)
        variables = with_weights(layer, x, [[1.0]], [1.0])
        assert layer.apply(variables, x).dtype == jnp.float64
        assert float(layer.apply(variables, x)[0, 0]) == 1 + 1e-12


@pytest.mark.parametrize("units", [0, -2, 1.5, True, None, "3"])
def test_units_must_be_positive(units):
    sentence = f"`units` of Dense must be a positive integer, got {units!r}; give 1 or more."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        layers.Dense(units)


def test_inputs_need_two_axes():
    sentence = "Dense takes inputs of at least 2 axes [B, F], got shape (3,); add the missing axis."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}(\n|$)"):
        layers.Dense(2).init(jax.random.key(0), jnp.ones(3))
