"""Convolutions and transposed convolutions against hand calculations, float64 loops and Keras; refused arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Sequential, layers
from flaxmodels.inspection import weights_of
from tests.support.spatial_oracle import (
    as_in_keras,
    loop_conv,
    loop_transpose,
    near,
    numbers,
    refuses,
    run,
    same_signature,
)

RANKS = (1, 2, 3)
NAMES = [f"Conv{rank}D{kind}" for rank in RANKS for kind in ("", "Transpose")]


# ---------------------------------------------------------------- hand-computed values


def ones(name, x, **config):
    layer = getattr(layers, name)(1, kernel_initializer="ones", **config)
    return np.asarray(layer.init_with_output(jax.random.key(0), jnp.asarray(x, jnp.float32))[0])


def test_same_padding_by_hand():
    y = ones("Conv2D", np.ones((1, 3, 4, 2)), kernel_size=3, padding="same")
    assert (y[0, :, :, 0] == 2 * np.array([[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]])).all()


def test_same_padding_with_strides_pads_the_end_first():
    y = ones("Conv1D", np.reshape([1, 2, 4, 8], (1, 4, 1)), kernel_size=3, strides=2, padding="same")
    assert y.ravel().tolist() == [1 + 2 + 4, 4 + 8]


def test_causal_padding_ignores_later_steps():
    y = ones("Conv1D", np.reshape([1, 2, 4, 8, 16], (1, 5, 1)), kernel_size=2, dilation_rate=2, padding="causal")
    assert y.ravel().tolist() == [1, 2, 4 + 1, 8 + 2, 16 + 4]


def test_groups_read_only_their_channels():
    layer = layers.Conv1D(4, 1, groups=2, kernel_initializer="ones")
    y, _ = layer.init_with_output(jax.random.key(0), jnp.array([[[1.0, 2.0, 4.0, 8.0]]]))
    assert y.tolist() == [[[3.0, 3.0, 12.0, 12.0]]]


def test_transposed_convolution_by_hand():
    x = np.reshape([1, 10], (1, 2, 1))
    assert ones("Conv1DTranspose", x, kernel_size=3, strides=2).ravel().tolist() == [1, 1, 11, 10, 10]
    assert ones("Conv1DTranspose", x, kernel_size=1, strides=3).ravel().tolist() == [1, 0, 0, 10, 0, 0]
    assert ones("Conv1DTranspose", x, kernel_size=3, strides=2, padding="same").ravel().tolist() == [1, 1, 11, 10]
    longer = ones("Conv1DTranspose", x, kernel_size=3, strides=2, output_padding=1)
    assert longer.ravel().tolist() == [1, 1, 11, 10, 10, 0]


def test_bias_and_activation():
    layer = layers.Conv1D(2, 1, activation="relu", bias_initializer="ones", kernel_initializer="ones")
    y, _ = layer.init_with_output(jax.random.key(0), jnp.array([[[-3.0], [2.0]]]))
    assert y.tolist() == [[[0.0, 0.0], [3.0, 3.0]]]


def test_activation_works_on_the_last_axis_of_the_data_format():
    layer = layers.Conv1D(2, 1, activation="softmax", data_format="channels_first")
    y, _ = layer.init_with_output(jax.random.key(0), numbers(0, 1, 3, 5))
    near(y.sum(-1), np.ones((1, 2)))


# ---------------------------------------------------------------- float64 loops

LOOPS = [
    # rank, kernel_size, strides, dilation_rate, padding, groups
    (1, (3,), (1,), (2,), "causal", 1),
    (1, (3,), (2,), (1,), "causal", 1),
    (1, (4,), (3,), (1,), "same", 2),
    (2, (3, 2), (1, 1), (1, 1), "valid", 1),
    (2, (2, 3), (2, 1), (1, 1), "same", 1),
    (2, (3, 2), (1, 1), (2, 3), "same", 2),
    (2, (1, 1), (3, 2), (1, 1), "valid", 3),
    (3, (2, 1, 3), (1, 2, 1), (1, 1, 1), "same", 1),
    (3, (2, 2, 2), (1, 1, 1), (1, 2, 1), "valid", 2),
]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(("rank", "window", "strides", "dilation", "padding", "groups"), LOOPS)
def test_conv_and_its_gradients_match_a_loop(rank, window, strides, dilation, padding, groups, data_format):
    cin, cout = 2 * groups, 3 * groups
    x, dx = numbers(0, 2, *(6, 5, 4)[:rank], cin), numbers(1, 2, *(6, 5, 4)[:rank], cin)
    kernel, dkernel = numbers(2, *window, 2, cout), numbers(3, *window, 2, cout)
    bias = numbers(4, cout)
    layer = getattr(layers, f"Conv{rank}D")(
        cout, window, strides, padding, data_format, dilation_rate=dilation, groups=groups
    )
    first = data_format == "channels_first"
    y, grads = run(layer, np.moveaxis(x, -1, 1) if first else x, [kernel, bias])
    y = jnp.moveaxis(y, 1, -1) if first else y
    near(y, loop_conv(x, kernel, strides, dilation, padding, groups) + bias)

    g = numbers(5, *y.shape)
    (dk, db), di = grads(np.moveaxis(g, -1, 1) if first else g)
    di = jnp.moveaxis(di, 1, -1) if first else di
    # The outputs are linear in inputs, kernel and bias: <gradient, direction> = <cotangent, change of the outputs>.
    near(np.sum(di * dx), np.sum(g * loop_conv(dx, kernel, strides, dilation, padding, groups)))
    near(np.sum(dk * dkernel), np.sum(g * loop_conv(x, dkernel, strides, dilation, padding, groups)))
    near(db, g.sum(tuple(range(rank + 1))))


TRANSPOSED = [
    (1, (3,), (2,), (1,), "valid"),
    (1, (2,), (3,), (1,), "same"),
    (1, (4,), (1,), (2,), "same"),
    (2, (3, 2), (2, 3), (1, 1), "valid"),
    (2, (3, 4), (2, 1), (1, 1), "same"),
    (2, (2, 3), (1, 1), (2, 1), "valid"),
    (3, (2, 1, 3), (2, 1, 2), (1, 1, 1), "same"),
]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(("rank", "window", "strides", "dilation", "padding"), TRANSPOSED)
def test_transposed_conv_and_its_gradients_match_a_loop(rank, window, strides, dilation, padding, data_format):
    x, dx = numbers(0, 2, *(4, 3, 2)[:rank], 2), numbers(1, 2, *(4, 3, 2)[:rank], 2)
    kernel, dkernel, bias = numbers(2, *window, 3, 2), numbers(3, *window, 3, 2), numbers(4, 3)
    layer = getattr(layers, f"Conv{rank}DTranspose")(
        3, window, strides, padding, data_format=data_format, dilation_rate=dilation
    )
    first = data_format == "channels_first"
    y, grads = run(layer, np.moveaxis(x, -1, 1) if first else x, [kernel, bias])
    y = jnp.moveaxis(y, 1, -1) if first else y
    near(y, loop_transpose(x, kernel, strides, dilation, padding) + bias)

    g = numbers(5, *y.shape)
    (dk, db), di = grads(np.moveaxis(g, -1, 1) if first else g)
    di = jnp.moveaxis(di, 1, -1) if first else di
    near(np.sum(di * dx), np.sum(g * loop_transpose(dx, kernel, strides, dilation, padding)))
    near(np.sum(dk * dkernel), np.sum(g * loop_transpose(x, dkernel, strides, dilation, padding)))
    near(db, g.sum(tuple(range(rank + 1))))


# ---------------------------------------------------------------- Keras

KERAS = [
    ("Conv1D", {"filters": 3, "kernel_size": 3, "padding": "Causal", "dilation_rate": [2]}, (2, 7, 2)),
    ("Conv1D", {"filters": 4, "kernel_size": 2, "groups": 2, "data_format": "channels_first"}, (2, 4, 6)),
    ("Conv2D", {"filters": 3, "kernel_size": [3, 2], "padding": "SAME", "activation": "softmax"}, (2, 5, 6, 2)),
    (
        "Conv2D",
        {"filters": 2, "kernel_size": 2, "data_format": "channels_first", "activation": "softmax", "use_bias": False},
        (1, 3, 4, 5),
    ),
    ("Conv2D", {"filters": 4, "kernel_size": 3, "strides": (2, 1), "use_bias": False, "groups": 2}, (2, 7, 5, 4)),
    ("Conv3D", {"filters": 2, "kernel_size": (1, 2, 3), "strides": 2, "padding": "same"}, (2, 3, 4, 5, 2)),
    ("Conv1DTranspose", {"filters": 2, "kernel_size": 4, "strides": 3, "output_padding": 0}, (2, 3, 2)),
    ("Conv1DTranspose", {"filters": 2, "kernel_size": 3, "dilation_rate": 2, "padding": "same"}, (2, 5, 2)),
    (
        "Conv2DTranspose",
        {"filters": 2, "kernel_size": (2, 3), "strides": (3, 2), "output_padding": (2, 0), "padding": "same"},
        (2, 3, 4, 3),
    ),
    ("Conv2DTranspose", {"filters": 2, "kernel_size": 3, "strides": 2, "data_format": "channels_first"}, (2, 3, 4, 3)),
    ("Conv3DTranspose", {"filters": 2, "kernel_size": 2, "strides": (1, 2, 2), "activation": "tanh"}, (1, 2, 2, 3, 2)),
]


@pytest.mark.parametrize(("name", "config", "shape"), KERAS)
def test_outputs_match_keras(name, config, shape):
    as_in_keras(name, config, shape)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_keras(name):
    # Only Keras' Conv3DTranspose takes data_format before output_padding; all layers here take it afterwards.
    same_signature(name, swapped=("output_padding", "data_format") if name == "Conv3DTranspose" else ())


def test_aliases():
    for rank in RANKS:
        assert getattr(layers, f"Convolution{rank}D") is getattr(layers, f"Conv{rank}D")
        assert getattr(layers, f"Convolution{rank}DTranspose") is getattr(layers, f"Conv{rank}DTranspose")


# ---------------------------------------------------------------- other properties


def test_sizes_become_tuples():
    layer = layers.Conv2D(3, [np.int64(3), 2], padding="SAME")
    assert (layer.kernel_size, layer.strides, layer.dilation_rate) == ((3, 2), (1, 1), (1, 1))
    assert (layer.padding, layer.data_format) == ("same", "channels_last")
    assert layer.clone() == layer


def test_unknown_sizes_stay_unknown():
    model = Sequential([Input((None, None, 3)), layers.Conv2D(8, 3, 2), layers.Conv2DTranspose(4, 2, 2)])
    assert model.output_shape == (None, None, None, 4)


@pytest.mark.parametrize("name", ["Conv2D", "Conv2DTranspose"])
def test_regularizers_and_constraints_apply_to_their_weights(name):
    layer = getattr(layers, name)(2, 2, kernel_regularizer="l2", bias_regularizer="l1", kernel_constraint="non_neg")
    x = jnp.ones((1, 4, 4, 3))
    variables = layer.init(jax.random.key(0), x)
    params = {"kernel": variables["params"]["kernel"], "bias": jnp.array([2.0, -1.0])}
    _, state = layer.apply({"params": params}, x, mutable=["losses"])
    near(state["losses"]["kernel"], 0.01 * np.sum(np.square(params["kernel"])))
    near(state["losses"]["bias"], 0.03)
    found = weights_of(layer, x)
    assert {name: owner.argument(name, "constraint") for owner, name in found.values()} == {
        "kernel": "non_neg",
        "bias": None,
    }


@pytest.mark.parametrize("name", NAMES)
def test_computes_in_the_given_dtype(name):
    rank = int(name[4])
    layer = getattr(layers, name)(2, 2, dtype="mixed_bfloat16")
    y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, *(3,) * rank, 2)))
    assert y.dtype == jnp.bfloat16
    assert variables["params"]["kernel"].dtype == jnp.float32


# ---------------------------------------------------------------- errors

CONSTRUCTION = [
    (
        "Conv2D",
        {"filters": 0, "kernel_size": 3},
        "`filters` of Conv2D must be a positive integer, got 0; give 1 or more.",
    ),
    (
        "Conv2D",
        {"filters": 4, "kernel_size": 3, "groups": -1},
        "`groups` of Conv2D must be a positive integer, got -1; give 1 or more.",
    ),
    (
        "Conv2D",
        {"filters": 4, "kernel_size": 3, "groups": 3, "name": "stem"},
        "`filters` of Conv2D 'stem' must be a multiple of `groups`, got filters=4 and groups=3; change one of them.",
    ),
    (
        "Conv2D",
        {"filters": 4, "kernel_size": (3, 0)},
        "`kernel_size` of Conv2D must be an integer of at least 1, or a tuple of 2 of them, got (3, 0); give 1 or more for "
        "each axis.",
    ),
    (
        "Conv3D",
        {"filters": 4, "kernel_size": 3, "strides": (1, 2)},
        "`strides` of Conv3D must be an integer of at least 1, or a tuple of 3 of them, got (1, 2); give 1 or more for each "
        "axis.",
    ),
    (
        "Conv1D",
        {"filters": 4, "kernel_size": 3, "dilation_rate": 1.5},
        "`dilation_rate` of Conv1D must be an integer of at least 1, or a tuple of 1 of them, got 1.5; give 1 or more for "
        "each axis.",
    ),
    (
        "Conv2D",
        {"filters": 4, "kernel_size": 3, "strides": 2, "dilation_rate": (1, 2)},
        "Conv2D takes `strides` or `dilation_rate` above 1, not both, got strides=(2, 2) and dilation_rate=(1, 2); "
        "set one of them to 1.",
    ),
    (
        "Conv2D",
        {"filters": 4, "kernel_size": 3, "padding": "causal"},
        "`padding` of Conv2D must be one of 'valid', 'same', got 'causal'; use one of these.",
    ),
    (
        "Conv1D",
        {"filters": 4, "kernel_size": 3, "padding": "full"},
        "`padding` of Conv1D must be one of 'valid', 'same', 'causal', got 'full'; use one of these.",
    ),
    (
        "Conv2D",
        {"filters": 4, "kernel_size": 3, "data_format": "NHWC"},
        "`data_format` of Conv2D must be one of 'channels_last', 'channels_first', got 'NHWC'; use one of these.",
    ),
    (
        "Conv2DTranspose",
        {"filters": 4, "kernel_size": 3, "output_padding": (0, -1)},
        "`output_padding` of Conv2DTranspose must be an integer of at least 0, or a tuple of 2 of them, got (0, -1); give 0 "
        "or more for each axis.",
    ),
    (
        "Conv2DTranspose",
        {"filters": 4, "kernel_size": 3, "strides": (2, 1), "output_padding": 1},
        "`output_padding` of Conv2DTranspose must be below `strides` on every axis, got output_padding=(1, 1) and "
        "strides=(2, 1); make it smaller, or None.",
    ),
    (
        "Conv1DTranspose",
        {"filters": 4, "kernel_size": 3, "strides": 2, "dilation_rate": 2},
        "Conv1DTranspose takes `strides` or `dilation_rate` above 1, not both, got strides=(2,) and "
        "dilation_rate=(2,); set one of them to 1.",
    ),
]


@pytest.mark.parametrize(("name", "config", "sentence"), CONSTRUCTION)
def test_refuses_at_construction(name, config, sentence):
    with refuses(sentence):
        getattr(layers, name)(**config)


CALLS = [
    (
        layers.Conv2D(4, 3, groups=2),
        (1, 4, 4, 3),
        "Conv2D takes inputs whose channels are a multiple of `groups`=2, got 3 channels; change `groups`.",
    ),
    (
        layers.Conv2D(4, 3, name="stem"),
        (4, 4, 3),
        "Conv2D 'stem' takes inputs of 4 axes [B, H, W, C], got shape (4, 4, 3); add an axis, or use a layer for 3 "
        "axes.",
    ),
    (
        layers.Conv1D(4, 3, data_format="channels_first"),
        (1, 2, 4, 4),
        "Conv1D takes inputs of 3 axes [B, C, T], got shape (1, 2, 4, 4); remove an axis, or use a layer for 4 axes.",
    ),
    (
        layers.Conv2D(4, (2, 3), dilation_rate=2),
        (1, 4, 4, 3),
        "Conv2D with padding='valid' has a window of 5 positions on axis 2, got inputs of shape (1, 4, 4, 3); make "
        "`kernel_size` smaller, or use padding='same'.",
    ),
    (
        layers.Conv2D(4, 3, padding="same"),
        (1, 4, 0, 3),
        "Conv2D takes inputs of at least 1 position on axis 2, got shape (1, 4, 0, 3); leave empty inputs out.",
    ),
    (
        layers.Conv1DTranspose(4, 2, strides=2, padding="same", output_padding=0),
        (1, 1, 3),
        "Conv1DTranspose with padding='same' and output_padding=(0,) leaves no output on axis 1 of inputs of shape "
        "(1, 1, 3); give larger inputs, or output_padding=None.",
    ),
    (
        layers.Conv1DTranspose(4, 2),
        (1, 0, 3),
        "Conv1DTranspose takes inputs of at least 1 position on axis 1, got shape (1, 0, 3); leave empty inputs out.",
    ),
]


@pytest.mark.parametrize(("layer", "shape", "sentence"), CALLS)
def test_refuses_inputs(layer, shape, sentence):
    with refuses(sentence):
        layer.init(jax.random.key(0), jnp.ones(shape))
