"""Adaptive pooling against hand calculations, float64 loops and Keras; refused arguments."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Sequential, layers
from tests.support.spatial_oracle import as_in_keras, near, numbers, refuses, run, same_signature

REDUCE = {"Max": np.max, "Average": np.mean}
NAMES = [f"Adaptive{kind}Pooling{rank}D" for kind in REDUCE for rank in (1, 2, 3)]


def loop(x, sizes, reduce):
    """Computes adaptive pooling, channels last; means of means, because Keras reduces one axis at a time."""
    x = np.asarray(x, np.float64)
    for axis, m in enumerate(sizes, 1):
        n = x.shape[axis]
        parts = [x.take(range(i * n // m, -(-(i + 1) * n // m)), axis) for i in range(m)]
        x = np.stack([reduce(part, axis=axis) for part in parts], axis)
    return x


def test_windows_overlap_if_sizes_do_not_divide():
    x = jnp.arange(5.0).reshape(1, 5, 1)
    assert layers.AdaptiveMaxPooling1D(3).apply({}, x).ravel().tolist() == [1, 3, 4]
    assert layers.AdaptiveAveragePooling1D(3).apply({}, x).ravel().tolist() == [0.5, 2, 3.5]


def test_more_outputs_than_inputs_repeat():
    x = jnp.array([[[1.0], [2.0]]])
    assert layers.AdaptiveAveragePooling1D(4).apply({}, x).ravel().tolist() == [1, 1, 2, 2]
    assert layers.AdaptiveMaxPooling1D(3).apply({}, x).ravel().tolist() == [1, 2, 2]


def test_first_of_equal_values_gets_the_gradient():
    _, grads = run(layers.AdaptiveMaxPooling1D(2), np.ones((1, 4, 1), np.float32))
    assert grads(np.array([[[1.0], [10.0]]]))[1].ravel().tolist() == [1, 0, 10, 0]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("kind", REDUCE)
@pytest.mark.parametrize("sizes", [(1,), (4,), (7,), (3, 2), (5, 8), (2, 3, 1), (3, 4, 2)])
def test_pooling_and_its_gradient_match_a_loop(sizes, kind, data_format):
    count = int(np.prod((7, 5, 4)[: len(sizes)])) * 4
    x = np.random.default_rng(0).permutation(count).astype(np.float32) / count  # no ties
    x = x.reshape(2, *(7, 5, 4)[: len(sizes)], 2)
    first = data_format == "channels_first"
    layer = getattr(layers, f"Adaptive{kind}Pooling{len(sizes)}D")(sizes, data_format)
    y, grads = run(layer, np.moveaxis(x, -1, 1) if first else x)
    y = jnp.moveaxis(y, 1, -1) if first else y
    near(y, loop(x, sizes, REDUCE[kind]))

    g, dx, step = numbers(1, *y.shape), numbers(2, *x.shape), 1e-4 / count
    _, di = grads(np.moveaxis(g, -1, 1) if first else g)
    di = jnp.moveaxis(di, 1, -1) if first else di
    way = (loop(x + step * np.float64(dx), sizes, REDUCE[kind]) - loop(x, sizes, REDUCE[kind])) / step
    near(np.sum(np.float64(di) * dx), np.sum(g * way))


@pytest.mark.parametrize("positive", [False, True], ids=["numbers", "ties"])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_match_keras(name, positive):
    rank = int(name[-2])
    as_in_keras(name, {"output_size": (3, 2, 4)[:rank]}, (2, *(7, 5, 4)[:rank], 2), positive=positive)
    if rank < 3 and not positive:
        as_in_keras(name, {"output_size": 3, "data_format": "channels_first"}, (2, 2, *(2, 6, 4)[:rank]))


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_keras(name):
    same_signature(name)


def test_edge_cases():
    layer = layers.AdaptiveMaxPooling2D([3, np.int64(2)])
    assert (layer.output_size, layer.data_format) == ((3, 2), "channels_last")
    assert layer.clone() == layer
    for kind, dtype in itertools.product(REDUCE, ("bfloat16", None)):
        pool = getattr(layers, f"Adaptive{kind}Pooling1D")(2, dtype=dtype)
        assert pool.apply({}, jnp.ones((1, 5, 2))).dtype == jnp.dtype(dtype or "float32")
    assert Sequential([Input((None, 9, 3)), layer]).output_shape == (None, 3, 2, 3)
    assert jax.jit(layer.apply)({}, jnp.ones((2, 4, 5, 1))).shape == (2, 3, 2, 1)


@pytest.mark.parametrize("size", [0, (2, 3, 4), 2.0, None])
def test_refuses_sizes(size):
    with refuses(
        "`output_size` of AdaptiveMaxPooling2D must be an integer of at least 1, or a tuple of 2 of them, got "
        f"{size!r}; give 1 or more for each axis."
    ):
        layers.AdaptiveMaxPooling2D(size)


def test_refuses_inputs():
    with refuses(
        "AdaptiveMaxPooling2D takes inputs of 4 axes [B, C, H, W], got shape (4, 4, 2); add an axis, or use a layer "
        "for 3 axes."
    ):
        layers.AdaptiveMaxPooling2D(2, "channels_first").apply({}, jnp.ones((4, 4, 2)))
    with refuses(
        "AdaptiveAveragePooling1D takes inputs of at least 1 position on axis 1, got shape (1, 0, 2); leave empty "
        "inputs out."
    ):
        layers.AdaptiveAveragePooling1D(2).apply({}, jnp.ones((1, 0, 2)))
    with refuses(
        "`data_format` of AdaptiveAveragePooling1D must be one of 'channels_last', 'channels_first', got 'NCW'; use one of "
        "these."
    ):
        layers.AdaptiveAveragePooling1D(2, "NCW")
