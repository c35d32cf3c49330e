"""`keras.backend`, `keras.config`, `keras.mixed_precision` and `keras.dtype_policies` against Keras."""

import itertools

import jax
import jax.numpy as jnp
import keras as theirs
import numpy as np
import pytest

from flaxmodels import layers
from training import keras
from training.keras import config

DTYPES = [
    "bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "int64", "bfloat16", "float16", "float32", "float64",
    "complex64", int, float, bool, None,
]  # fmt: skip


@pytest.fixture(autouse=True)
def _restored():
    """Restores the settings of both libraries."""
    yield
    config._Settings.policy, config._Settings.floatx = None, "float32"
    config._Settings.image_data_format = "channels_last"
    theirs.config.set_floatx("float32")
    theirs.config.set_dtype_policy("float32")


def refusal(call):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    return str(caught.value)


def test_result_type_agrees_with_keras():
    for a, b in itertools.product(DTYPES, DTYPES):
        assert keras.backend.result_type(a, b) == theirs.backend.result_type(a, b), (a, b)
        assert keras.backend.result_type(a) == theirs.backend.result_type(a), a
    assert keras.backend.result_type() == theirs.backend.result_type() == "float32"
    assert refusal(lambda: keras.backend.result_type("float8_e4m3fn", "float32")) == (
        "float8 dtypes have no implicit conversions, got 'float8_e4m3fn'; cast the array first."
    )


def test_standardize_dtype_agrees_with_keras():
    for dtype in [*DTYPES, str, complex, "int", np.dtype("uint8"), np.float32, jnp.bfloat16, jnp.ones(2).dtype]:
        assert keras.backend.standardize_dtype(dtype) == theirs.backend.standardize_dtype(dtype), dtype
        for name in ("is_int_dtype", "is_float_dtype"):
            assert getattr(keras.backend, name)(dtype) == getattr(theirs.backend, name)(dtype), dtype
    assert refusal(lambda: keras.utils.standardize_dtype("float31")).endswith("got 'float31'; choose one.")


def test_settings_have_the_defaults_of_keras():
    for name in ("backend", "epsilon", "floatx", "image_data_format"):
        assert getattr(keras.config, name)() == getattr(keras.backend, name)() == getattr(theirs.config, name)()
    assert keras.config.is_interactive_logging_enabled()
    assert not keras.config.is_flash_attention_enabled() and not keras.config.is_nnx_enabled()


def test_settings_that_cannot_be_honoured_are_refused():
    keras.config.set_epsilon(1e-7)
    assert refusal(lambda: keras.backend.set_epsilon(1e-3)) == (
        "`value` must be 1e-07, the fuzz factor of all losses and metrics, got 0.001; pass `epsilon` to the layers and "
        "optimizers that take it."
    )
    assert refusal(lambda: keras.config.set_floatx("int8")) == (
        "`value` must be one of 'bfloat16', 'float16', 'float32', 'float64', got 'int8'; choose one."
    )
    assert refusal(lambda: keras.config.set_floatx("float64")) == (
        "`value` must have at most 32 bits while JAX does not compute with more, got 'float64'; call "
        "jax.config.update('jax_enable_x64', True) at the start of the program."
    )
    assert refusal(lambda: keras.config.set_image_data_format("last")) == (
        "`data_format` must be 'channels_last' or 'channels_first', got 'last'; choose one."
    )


def test_policies_agree_with_keras():
    for name in ("float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16", "int8", "uint8"):
        ours, expected = keras.DTypePolicy(name), theirs.DTypePolicy(name)
        assert (ours.name, ours.compute_dtype, ours.variable_dtype) == (
            expected.name, expected.compute_dtype, expected.variable_dtype,
        )  # fmt: skip
        assert repr(ours) == repr(expected) and ours == keras.DTypePolicy(name)
        assert keras.dtype_policies.deserialize(keras.dtype_policies.serialize(ours)) == ours
        assert keras.dtype_policies.serialize(ours)["config"] == theirs.dtype_policies.serialize(expected)["config"]
    assert keras.dtype_policies.get(jnp.bfloat16) == keras.DTypePolicy("bfloat16")
    assert keras.dtype_policies.get(None) == keras.DTypePolicy("float32")
    assert refusal(lambda: keras.DTypePolicy("mixed_float32")).endswith("got 'mixed_float32'; choose one.")
    assert refusal(lambda: keras.DTypePolicy("int8_from_float32")) == (
        "`name` must be a policy without quantization, got 'int8_from_float32'; use 'mixed_bfloat16'."
    )
    assert refusal(lambda: keras.DTypePolicy(3)).startswith("`name` must be a string such as 'mixed_float16', got 3")


def test_the_global_policy_reaches_new_layers():
    before = layers.Dense(2)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    assert keras.mixed_precision.global_policy() == keras.config.dtype_policy() == keras.DTypePolicy("mixed_bfloat16")
    config.apply_settings(before)
    assert (before.dtype, before.param_dtype) == ("mixed_bfloat16", "float32")
    variables = before.init(jax.random.key(0), jnp.ones((1, 3)))
    assert variables["params"]["kernel"].dtype == "float32"
    assert before.apply(variables, jnp.ones((1, 3))).dtype == "bfloat16"
    chosen = layers.Dense(2, dtype="float32")
    config.apply_settings(chosen)
    assert chosen.dtype == "float32"


def test_floatx_and_policies_of_layers():
    keras.config.set_floatx("float16")
    layer = layers.Dense(2)
    config.apply_settings(layer)
    assert (layer.dtype, layer.param_dtype) == ("float16", "float16")
    keras.config.set_dtype_policy("float32")  # a policy takes precedence, as in Keras
    layer = layers.Dense(2)
    config.apply_settings(layer)
    assert (layer.dtype, layer.param_dtype) == ("float32", "float32")


def test_default_settings_change_no_layer():
    layer = layers.Dense(2)
    config.apply_settings(layer)
    assert layer.dtype == layer.param_dtype == "float32"


def test_clear_session_restarts_names():
    keras.backend.clear_session()
    assert [keras.backend.get_uid("dense"), keras.backend.get_uid("dense"), keras.backend.get_uid("x")] == [1, 2, 1]
    assert keras.layers.Dense(1).name == "dense" and keras.layers.Dense(1).name == "dense_1"
    keras.utils.clear_session()
    assert keras.backend.get_uid("dense") == 1 and keras.layers.Dense(1).name == "dense"


def test_keras_tensors_are_symbols():
    assert keras.utils.is_keras_tensor(keras.Input((3,))) and not keras.backend.is_keras_tensor(jnp.ones(3))


def test_set_random_seed_determines_random_numbers():
    def draw():
        keras.utils.set_random_seed(2**32 - 1)
        return [keras.random.uniform((2,)), keras.random.normal((2,)), np.random.rand(2)]

    first, second = draw(), draw()
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
