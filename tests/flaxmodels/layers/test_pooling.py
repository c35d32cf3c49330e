"""Pooling over windows and global pooling against hand calculations, float64 loops and Keras; refused arguments."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Sequential, layers
from tests.support.spatial_oracle import as_in_keras, loop_pool, near, numbers, refuses, run, same_signature

RANKS = (1, 2, 3)
REDUCE = {"Max": np.max, "Average": np.mean, "Sum": np.sum}


def pooled(name, x, **config):
    return np.asarray(getattr(layers, name)(**config).apply({}, jnp.asarray(x, jnp.float32))).ravel().tolist()


# ---------------------------------------------------------------- hand-computed values


def test_windows_by_hand():
    x = np.reshape([1, 5, 3, 4, -7], (1, 5, 1))
    assert pooled("MaxPooling1D", x) == [5, 4]
    assert pooled("AveragePooling1D", x, pool_size=2) == [3, 3.5]
    assert pooled("SumPooling1D", x, pool_size=2) == [6, 7]
    assert pooled("MaxPooling1D", x, pool_size=3, strides=1) == [5, 5, 4]


def test_same_padding_does_not_count():
    x = np.reshape([-1, -5, -3, -4, -7], (1, 5, 1))
    assert pooled("MaxPooling1D", x, padding="same") == [-1, -3, -7]
    assert pooled("AveragePooling1D", x, pool_size=2, padding="same") == [-3, -3.5, -7]
    assert pooled("SumPooling1D", x, pool_size=2, padding="same") == [-6, -7, -7]
    assert pooled("AveragePooling1D", x, pool_size=3, strides=2, padding="same") == [-3, -4, -5.5]


def test_first_of_equal_values_gets_the_gradient():
    _, grads = run(layers.MaxPooling1D(3, 1), np.reshape([2, 2, 1, 2], (1, 4, 1)).astype(np.float32))
    assert grads(np.array([[[1.0], [10.0]]]))[1].ravel().tolist() == [1, 10, 0, 0]


def test_global_by_hand():
    x = np.reshape([1, 5, 3, -1], (1, 4, 1))
    assert [pooled(f"Global{kind}Pooling1D", x) for kind in REDUCE] == [[5], [2], [8]]


# ---------------------------------------------------------------- float64 loops

LOOPS = [
    (1, (2,), (2,), "valid"),
    (1, (3,), (2,), "same"),
    (2, (2, 3), (2, 1), "valid"),
    (2, (3, 2), (1, 3), "same"),
    (3, (2, 1, 2), (1, 2, 2), "same"),
    (3, (1, 3, 2), (2, 1, 1), "valid"),
]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("kind", REDUCE)
@pytest.mark.parametrize(("rank", "window", "strides", "padding"), LOOPS)
def test_pooling_and_its_gradient_match_a_loop(rank, window, strides, padding, kind, data_format):
    x = np.random.default_rng(0).permutation(2 * 3 * int(np.prod((6, 5, 4)[:rank]))).astype(np.float32)  # no ties
    x = x.reshape(2, *(6, 5, 4)[:rank], 3) / x.size
    layer = getattr(layers, f"{kind}Pooling{rank}D")(window, strides, padding, data_format)
    first = data_format == "channels_first"
    y, grads = run(layer, np.moveaxis(x, -1, 1) if first else x)
    y = jnp.moveaxis(y, 1, -1) if first else y
    near(y, loop_pool(x, window, strides, padding, REDUCE[kind]))

    g, dx = numbers(1, *y.shape), numbers(2, *x.shape)
    _, di = grads(np.moveaxis(g, -1, 1) if first else g)
    di = jnp.moveaxis(di, 1, -1) if first else di
    # Pooling is piecewise linear: a step that does not change the maxima changes the outputs in proportion.
    step = 1e-4 / x.size
    moved = loop_pool(x + step * np.float64(dx), window, strides, padding, REDUCE[kind])
    way = (moved - loop_pool(x, window, strides, padding, REDUCE[kind])) / step
    near(np.sum(np.float64(di) * dx), np.sum(g * way))


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("kind", REDUCE)
@pytest.mark.parametrize("rank", RANKS)
def test_global_pooling_matches_a_loop(rank, kind, data_format, keepdims):
    x = numbers(0, 2, *(4, 3, 2)[:rank], 3)
    first = data_format == "channels_first"
    layer = getattr(layers, f"Global{kind}Pooling{rank}D")(data_format, keepdims)
    want = np.array([[REDUCE[kind](np.float64(x[b, ..., c])) for c in range(3)] for b in range(2)])
    if keepdims:
        ones = (1,) * rank
        want = want.reshape(2, 3, *ones) if first else want.reshape(2, *ones, 3)
    near(layer.apply({}, jnp.asarray(np.moveaxis(x, -1, 1) if first else x)), want)


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("kind", ["Average", "Sum"])
def test_mask_over_time(kind, data_format, keepdims):
    x = numbers(0, 3, 4, 2)
    mask = np.array([[True, False, True, True], [False, False, False, True], [False] * 4])
    want = np.zeros((3, 2))
    for b in range(2):  # the last row is masked, so its result is 0
        want[b] = REDUCE[kind](np.float64(x[b][mask[b]]), axis=0)
    first = data_format == "channels_first"
    x[~mask] = np.nan  # masked values must not affect the result
    layer = getattr(layers, f"Global{kind}Pooling1D")(data_format, keepdims)
    y, grads = run(layer, np.moveaxis(x, -1, 1) if first else x, mask=jnp.asarray(mask))
    near(y, np.expand_dims(want, 2 if first else 1) if keepdims else want)
    _, di = grads(np.ones(y.shape))
    di = jnp.moveaxis(di, 1, -1) if first else di
    share = mask / np.maximum(mask.sum(1, keepdims=True), 1) if kind == "Average" else mask
    near(di, np.stack([share, share], -1))


def test_global_pooling_uses_the_mask_and_does_not_pass_it_on():
    x = jnp.array([[[1.0], [3.0], [0.0]]])
    model = Sequential([Input((3, 1)), layers.Masking(), layers.GlobalAveragePooling1D()])
    outputs, mask = model.apply({}, x, method=model.outputs_and_mask)
    assert (outputs.tolist(), mask) == ([[2.0]], None)


def test_long_masked_means_are_exact_in_bfloat16():
    x, mask = jnp.ones((1, 1001, 1), jnp.bfloat16), jnp.ones((1, 1001), bool)
    layer = layers.GlobalAveragePooling1D(dtype="bfloat16")
    assert layer.apply({}, x, mask=mask).tolist() == [[1.0]]


# ---------------------------------------------------------------- Keras

KERAS = [
    ("MaxPooling1D", {"pool_size": [3], "strides": 2, "padding": "same"}, (2, 7, 2)),
    ("MaxPooling2D", {}, (2, 5, 4, 3)),
    ("MaxPooling2D", {"pool_size": 3, "strides": (1, 2), "padding": "same"}, (2, 5, 6, 2)),
    ("MaxPooling2D", {"pool_size": (2, 1), "data_format": "channels_first"}, (2, 3, 5, 4)),
    ("MaxPooling3D", {"pool_size": 2, "strides": 1}, (1, 3, 4, 3, 2)),
    ("AveragePooling1D", {"pool_size": 4, "strides": 3, "padding": "same", "data_format": "channels_first"}, (2, 2, 7)),
    ("AveragePooling2D", {"pool_size": (3, 2), "strides": 2, "padding": "same"}, (2, 5, 6, 2)),
    ("AveragePooling3D", {"pool_size": (1, 2, 2), "padding": "same"}, (1, 3, 3, 5, 2)),
    ("GlobalMaxPooling1D", {"data_format": "channels_first"}, (2, 3, 4)),
    ("GlobalMaxPooling2D", {"keepdims": True}, (2, 3, 4, 2)),
    ("GlobalMaxPooling3D", {"data_format": "channels_first", "keepdims": True}, (2, 3, 2, 3, 2)),
    ("GlobalAveragePooling1D", {"keepdims": True}, (2, 5, 3)),
    ("GlobalAveragePooling2D", {"data_format": "channels_first"}, (2, 3, 4, 2)),
    ("GlobalAveragePooling3D", {}, (2, 3, 2, 3, 2)),
]


@pytest.mark.parametrize(("name", "config", "shape"), KERAS)
def test_outputs_match_keras(name, config, shape):
    as_in_keras(name, config, shape)


@pytest.mark.parametrize(("name", "config", "shape"), [row for row in KERAS if "Max" in row[0]])
def test_gradient_of_equal_maxima_matches_keras(name, config, shape):
    as_in_keras(name, config, shape, positive=True)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_masked_pooling_matches_keras(data_format):
    mask = np.array([[True, False, True, True], [False, True, False, False]])
    shape = (2, 4, 3) if data_format == "channels_last" else (2, 3, 4)
    as_in_keras("GlobalAveragePooling1D", {"data_format": data_format}, shape, mask)


@pytest.mark.parametrize("prefix", ["", "Global"])
@pytest.mark.parametrize("kind", ["Max", "Average"])
@pytest.mark.parametrize("rank", RANKS)
def test_arguments_are_those_of_keras(prefix, kind, rank):
    same_signature(f"{prefix}{kind}Pooling{rank}D")


@pytest.mark.parametrize("prefix", ["", "Global"])
@pytest.mark.parametrize("rank", RANKS)
def test_sum_pooling_has_the_arguments_of_average_pooling(prefix, rank):
    sums, means = (getattr(layers, f"{prefix}{kind}Pooling{rank}D") for kind in ("Sum", "Average"))
    assert inspect.signature(sums) == inspect.signature(means)


def test_aliases():
    for rank in RANKS:
        for prefix in ("", "Global"):
            assert getattr(layers, f"{prefix}MaxPool{rank}D") is getattr(layers, f"{prefix}MaxPooling{rank}D")
            assert getattr(layers, f"{prefix}AvgPool{rank}D") is getattr(layers, f"{prefix}AveragePooling{rank}D")


# ---------------------------------------------------------------- other properties


def test_default_strides_are_the_pool_size():
    layer = layers.AveragePooling2D([2, np.int32(3)], padding="SAME")
    assert (layer.pool_size, layer.strides, layer.padding) == ((2, 3), (2, 3), "same")
    assert layer.clone() == layer


def test_unknown_sizes_stay_unknown():
    model = Sequential([Input((None, 9, 3)), layers.MaxPooling2D(), layers.AveragePooling2D(2, 1, "same")])
    assert model.output_shape == (None, None, 4, 3)


@pytest.mark.parametrize("name", ["MaxPooling2D", "AveragePooling2D", "SumPooling2D", "GlobalMaxPooling2D"])
def test_computes_in_the_given_dtype(name):
    config = {} if name.startswith("Global") else {"pool_size": 2}
    x = jnp.ones((1, 4, 4, 2))
    assert getattr(layers, name)(**config, dtype="mixed_bfloat16").apply({}, x).dtype == jnp.bfloat16
    assert getattr(layers, name)(**config).apply({}, x.astype(jnp.uint8)).dtype == jnp.float32


CONSTRUCTION = [
    (
        "MaxPooling2D",
        {"pool_size": (2, 0)},
        "`pool_size` of MaxPooling2D must be an integer of at least 1, or a tuple of 2 of them, got (2, 0); give 1 or more "
        "for each axis.",
    ),
    (
        "AveragePooling1D",
        {"pool_size": 2, "strides": 0},
        "`strides` of AveragePooling1D must be an integer of at least 1, or a tuple of 1 of them, got 0; give 1 or more for "
        "each axis.",
    ),
    (
        "SumPooling3D",
        {"pool_size": 2, "padding": "causal"},
        "`padding` of SumPooling3D must be one of 'valid', 'same', got 'causal'; use one of these.",
    ),
    (
        "GlobalMaxPooling2D",
        {"data_format": "last", "name": "top"},
        "`data_format` of GlobalMaxPooling2D 'top' must be one of 'channels_last', 'channels_first', got 'last'; use one of "
        "these.",
    ),
]


@pytest.mark.parametrize(("name", "config", "sentence"), CONSTRUCTION)
def test_refuses_at_construction(name, config, sentence):
    with refuses(sentence):
        getattr(layers, name)(**config)


CALLS = [
    (
        layers.MaxPooling2D(3, data_format="channels_first"),
        (1, 2, 4, 2),
        "MaxPooling2D with padding='valid' has a window of 3 positions on axis 3, got inputs of shape (1, 2, 4, 2); "
        "make `pool_size` smaller, or use padding='same'.",
    ),
    (
        layers.AveragePooling2D(2),
        (4, 4, 2),
        "AveragePooling2D takes inputs of 4 axes [B, H, W, C], got shape (4, 4, 2); add an axis, or use a layer for 3 "
        "axes.",
    ),
    (
        layers.GlobalAveragePooling3D(),
        (1, 4, 4, 2),
        "GlobalAveragePooling3D takes inputs of 5 axes [B, D, H, W, C], got shape (1, 4, 4, 2); add an axis, or use a "
        "layer for 4 axes.",
    ),
    (
        layers.GlobalMaxPooling1D(),
        (1, 0, 2),
        "GlobalMaxPooling1D takes inputs of at least 1 position on axis 1, got shape (1, 0, 2); leave empty inputs "
        "out.",
    ),
]


@pytest.mark.parametrize(("layer", "shape", "sentence"), CALLS)
def test_refuses_inputs(layer, shape, sentence):
    with refuses(sentence):
        layer.apply({}, jnp.ones(shape))


def test_refuses_a_mask_of_another_shape():
    with refuses(
        "GlobalAveragePooling1D takes a mask with a value for each position, of shape (2, 4), got shape (2, 4, 3); "
        "make the mask from inputs of shape (2, 4, 3)."
    ):
        layers.GlobalAveragePooling1D().apply({}, jnp.ones((2, 4, 3)), mask=jnp.ones((2, 4, 3), bool))


def test_runs_without_warnings_under_jit_grad_and_vmap():
    layer = layers.MaxPooling2D(2)
    x = numbers(0, 3, 2, 4, 4, 1)
    each = jax.jit(jax.vmap(jax.grad(lambda x: layer.apply({}, x).sum())))(x)
    assert each.sum(axis=(2, 3, 4)).tolist() == [[4.0, 4.0]] * 3
