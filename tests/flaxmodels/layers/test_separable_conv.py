"""Depthwise and separable convolutions against hand calculations, float64 loops and Keras; refused arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Sequential, layers
from flaxmodels.inspection import weights_of
from tests.support.spatial_oracle import (
    as_in_keras,
    loop_conv,
    loop_depthwise,
    near,
    numbers,
    refuses,
    run,
    same_signature,
)

NAMES = ["DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"]


def test_depthwise_conv_does_not_mix_channels():
    layer = layers.DepthwiseConv1D(2, depth_multiplier=2)
    x = jnp.array([[[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]])
    kernel = jnp.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]])  # [time, channel, multiplier]
    y, _ = run(layer, x, [kernel, np.zeros(4)])
    assert y[0].tolist() == [[1.0, 2.0, 10.0 + 20.0, 20.0], [2.0, 4.0, 20.0 + 40.0, 40.0]]


def test_separable_conv_mixes_channels_at_each_position():
    layer = layers.SeparableConv1D(1, 2)
    x = jnp.array([[[1.0, 10.0], [2.0, 20.0]]])
    y, _ = run(layer, x, [np.ones((2, 2, 1)), np.array([[[100.0], [1.0]]]), np.array([0.5])])
    assert y.tolist() == [[[300.0 + 30.0 + 0.5]]]


LOOPS = [
    (1, (3,), (1,), (2,), "same"),
    (1, (2,), (2,), (2,), "valid"),
    (2, (3, 2), (1, 1), (1, 1), "valid"),
    (2, (2, 3), (2, 2), (1, 1), "same"),
    (2, (3, 2), (1, 1), (2, 1), "same"),
]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(("rank", "window", "strides", "dilation", "padding"), LOOPS)
def test_depthwise_conv_and_its_gradients_match_a_loop(rank, window, strides, dilation, padding, data_format):
    x, dx = numbers(0, 2, *(6, 5)[:rank], 3), numbers(1, 2, *(6, 5)[:rank], 3)
    kernel, dkernel, bias = numbers(2, *window, 3, 2), numbers(3, *window, 3, 2), numbers(4, 6)
    layer = getattr(layers, f"DepthwiseConv{rank}D")(
        window, strides, padding, 2, data_format=data_format, dilation_rate=dilation
    )
    first = data_format == "channels_first"
    y, grads = run(layer, np.moveaxis(x, -1, 1) if first else x, [kernel, bias])
    y = jnp.moveaxis(y, 1, -1) if first else y
    near(y, loop_depthwise(x, kernel, strides, dilation, padding) + bias)

    g = numbers(5, *y.shape)
    (dk, db), di = grads(np.moveaxis(g, -1, 1) if first else g)
    di = jnp.moveaxis(di, 1, -1) if first else di
    near(np.sum(di * dx), np.sum(g * loop_depthwise(dx, kernel, strides, dilation, padding)))
    near(np.sum(dk * dkernel), np.sum(g * loop_depthwise(x, dkernel, strides, dilation, padding)))
    near(db, g.sum(tuple(range(rank + 1))))


@pytest.mark.parametrize(("rank", "window", "strides", "dilation", "padding"), LOOPS)
def test_separable_conv_matches_two_loops(rank, window, strides, dilation, padding):
    x, ones = numbers(0, 2, *(6, 5)[:rank], 3), (1,) * rank
    depthwise, pointwise, bias = numbers(1, *window, 3, 2), numbers(2, *ones, 6, 4), numbers(3, 4)
    layer = getattr(layers, f"SeparableConv{rank}D")(
        4, window, strides, padding, dilation_rate=dilation, depth_multiplier=2
    )
    y, grads = run(layer, x, [depthwise, pointwise, bias])
    between = loop_depthwise(x, depthwise, strides, dilation, padding)
    near(y, loop_conv(between, pointwise, ones, ones, "valid") + bias)

    g, direction = numbers(4, *y.shape), numbers(5, *window, 3, 2)
    (dd, dp, _), di = grads(g)
    near(dp, (between.reshape(-1, 6).T @ g.reshape(-1, 4)).reshape(dp.shape))
    way = loop_conv(loop_depthwise(x, direction, strides, dilation, padding), pointwise, ones, ones, "valid")
    near(np.sum(dd * direction), np.sum(g * way))
    # Apart from the bias, the outputs are also linear in the inputs.
    near(np.sum(di * x), np.sum(g * (np.asarray(y, np.float64) - bias)))


KERAS = [
    ("DepthwiseConv1D", {"kernel_size": 3, "padding": "Same", "strides": 2, "activation": "tanh"}, (2, 7, 3)),
    ("DepthwiseConv2D", {"kernel_size": (3, 2), "depth_multiplier": 2, "use_bias": False}, (2, 5, 6, 2)),
    ("DepthwiseConv2D", {"kernel_size": 2, "strides": 2, "dilation_rate": [2, 2]}, (2, 6, 7, 2)),
    (
        "DepthwiseConv2D",
        {"kernel_size": 2, "data_format": "channels_first", "depth_multiplier": 3, "dilation_rate": (1, 2)},
        (2, 2, 5, 6),
    ),
    ("SeparableConv1D", {"filters": 3, "kernel_size": 2, "depth_multiplier": 2, "padding": "same"}, (2, 5, 3)),
    ("SeparableConv1D", {"filters": 3, "kernel_size": 2, "strides": 2, "dilation_rate": 2}, (2, 8, 2)),
    ("SeparableConv2D", {"filters": 2, "kernel_size": 3, "strides": 2, "padding": "same"}, (2, 5, 6, 3)),
    (
        "SeparableConv2D",
        {"filters": 2, "kernel_size": (2, 3), "data_format": "channels_first", "activation": "relu"},
        (2, 3, 5, 6),
    ),
]


@pytest.mark.parametrize(("name", "config", "shape"), KERAS)
def test_outputs_match_keras(name, config, shape):
    as_in_keras(name, config, shape)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_keras(name):
    same_signature(name)


def test_aliases():
    assert layers.SeparableConvolution1D is layers.SeparableConv1D
    assert layers.SeparableConvolution2D is layers.SeparableConv2D


def test_unknown_sizes_stay_unknown():
    model = Sequential([Input((None, 8, 3)), layers.DepthwiseConv2D(3), layers.SeparableConv2D(4, 3, 2)])
    assert model.output_shape == (None, None, 2, 4)


def test_initializers_regularizers_and_constraints_apply_to_their_weights():
    x = jnp.ones((1, 4, 4, 3))
    layer = layers.DepthwiseConv2D(
        2, depthwise_initializer="ones", depthwise_regularizer="l2", depthwise_constraint="non_neg"
    )
    _, state = layer.apply(layer.init(jax.random.key(0), x), x, mutable=["losses"])
    near(state["losses"]["kernel"], 0.01 * 12)
    assert {name: owner.argument(name, "constraint") for owner, name in weights_of(layer, x).values()} == {
        "kernel": "non_neg",
        "bias": None,
    }
    layer = layers.SeparableConv2D(
        5,
        2,
        depthwise_initializer="ones",
        pointwise_initializer="ones",
        bias_initializer="ones",
        depthwise_regularizer="l2",
        pointwise_regularizer="l1",
        bias_regularizer="l2",
        pointwise_constraint="non_neg",
    )
    _, state = layer.apply(layer.init(jax.random.key(0), x), x, mutable=["losses"])
    near(state["losses"]["depthwise_kernel"], 0.01 * 12)
    near(state["losses"]["pointwise_kernel"], 0.01 * 15)
    near(state["losses"]["bias"], 0.01 * 5)
    assert {name: owner.argument(name, "constraint") for owner, name in weights_of(layer, x).values()} == {
        "depthwise_kernel": None,
        "pointwise_kernel": "non_neg",
        "bias": None,
    }


@pytest.mark.parametrize("name", NAMES)
def test_computes_in_the_given_dtype(name):
    filters = {"filters": 2} if name.startswith("Sep") else {}
    layer = getattr(layers, name)(kernel_size=2, dtype="mixed_bfloat16", **filters)
    y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, *(3,) * int(name[-2]), 2)))
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


CONSTRUCTION = [
    (
        "DepthwiseConv2D",
        {"kernel_size": 3, "depth_multiplier": 0},
        "`depth_multiplier` of DepthwiseConv2D must be a positive integer, got 0; give 1 or more.",
    ),
    (
        "DepthwiseConv1D",
        {"kernel_size": 3, "padding": "causal"},
        "`padding` of DepthwiseConv1D must be one of 'valid', 'same', got 'causal'; use one of these.",
    ),
    (
        "DepthwiseConv2D",
        {"kernel_size": 3, "strides": (1, 0)},
        "`strides` of DepthwiseConv2D must be an integer of at least 1, or a tuple of 2 of them, got (1, 0); give 1 or more "
        "for each axis.",
    ),
    (
        "SeparableConv2D",
        {"filters": True, "kernel_size": 3},
        "`filters` of SeparableConv2D must be a positive integer, got True; give 1 or more.",
    ),
    (
        "SeparableConv1D",
        {"filters": 2, "kernel_size": "3"},
        "`kernel_size` of SeparableConv1D must be an integer of at least 1, or a tuple of 1 of them, got '3'; give 1 or "
        "more for each axis.",
    ),
]


@pytest.mark.parametrize(("name", "config", "sentence"), CONSTRUCTION)
def test_refuses_at_construction(name, config, sentence):
    with refuses(sentence):
        getattr(layers, name)(**config)


CALLS = [
    (
        layers.DepthwiseConv2D(3),
        (2, 2, 8, 1),
        "DepthwiseConv2D with padding='valid' has a window of 3 positions on axis 1, got inputs of shape (2, 2, 8, 1); "
        "make `kernel_size` smaller, or use padding='same'.",
    ),
    (
        layers.SeparableConv1D(2, 3, data_format="channels_first"),
        (2, 8, 2),
        "SeparableConv1D with padding='valid' has a window of 3 positions on axis 2, got inputs of shape (2, 8, 2); "
        "make `kernel_size` smaller, or use padding='same'.",
    ),
    (
        layers.SeparableConv2D(2, 3),
        (2, 8, 2),
        "SeparableConv2D takes inputs of 4 axes [B, H, W, C], got shape (2, 8, 2); add an axis, or use a layer for 3 "
        "axes.",
    ),
]


@pytest.mark.parametrize(("layer", "shape", "sentence"), CALLS)
def test_refuses_inputs(layer, shape, sentence):
    with refuses(sentence):
        layer.init(jax.random.key(0), jnp.ones(shape))
