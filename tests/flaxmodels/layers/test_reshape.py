"""Reshaping layers, compared with NumPy and Keras, and their errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Sequential, layers
from tests.support.spatial_oracle import as_in_keras, near, numbers, refuses, run, same_signature

RANKS = (1, 2, 3)
NAMES = ["Flatten", "Reshape", "Permute", "RepeatVector"]
NAMES += [f"{kind}{rank}D" for kind in ("ZeroPadding", "Cropping", "UpSampling") for rank in RANKS]


def moved(layer, x):
    return np.asarray(layer.apply({}, jnp.asarray(x)))


# ---------------------------------------------------------------- against NumPy


def test_flatten_gives_the_same_order_for_both_data_formats():
    x = numbers(0, 2, 3, 4, 5)
    flat = x.reshape(2, 60)
    assert (moved(layers.Flatten(), x) == flat).all()
    assert (moved(layers.Flatten("channels_first"), np.moveaxis(x, -1, 1)) == flat).all()
    assert moved(layers.Flatten(), x[:, 0, 0, 0]).shape == (2, 1)
    assert moved(layers.Flatten("channels_first"), x[:, 0, 0, 0]).shape == (2, 1)
    assert moved(layers.Flatten(), x[:0]).shape == (0, 60)


@pytest.mark.parametrize("target", [(24,), (2, 12), [4, 3, 2], (-1,), (3, -1, 2), (1, -1, 24), np.array([6, 4])])
def test_reshape(target):
    x = numbers(0, 2, 4, 6)
    assert (moved(layers.Reshape(target), x) == x.reshape(2, *target)).all()


def test_reshape_to_scalars_and_of_no_examples():
    assert moved(layers.Reshape(()), np.ones((3, 1, 1))).shape == (3,)
    assert moved(layers.Reshape((-1, 2)), np.ones((0, 6))).shape == (0, 3, 2)


def test_permute():
    x = numbers(0, 2, 3, 4, 5)
    assert (moved(layers.Permute((3, 1, 2)), x) == x.transpose(0, 3, 1, 2)).all()


def test_repeat_vector():
    x = numbers(0, 2, 3)
    assert (moved(layers.RepeatVector(4), x) == np.stack([x] * 4, 1)).all()


# As in Keras, Cropping1D and UpSampling1D support only channels last.
LAYOUTS = [(1, "channels_last")]
LAYOUTS += [(rank, data_format) for rank in (2, 3) for data_format in ("channels_last", "channels_first")]
PAIRS = {1: [(1, 2)], 2: [(1, 0), (2, 1)], 3: [(0, 1), (2, 0), (1, 1)]}


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("rank", RANKS)
def test_padding_and_its_gradient(rank, data_format):
    pairs, first = PAIRS[rank], data_format == "channels_first"
    x = numbers(0, 2, *(3, 4, 5)[:rank], 2)
    x = np.moveaxis(x, -1, 1) if first else x
    edges = [(0, 0), (0, 0), *pairs] if first else [(0, 0), *pairs, (0, 0)]
    layer = getattr(layers, f"ZeroPadding{rank}D")(pairs[0] if rank == 1 else pairs, data_format)
    y, grads = run(layer, x)
    assert (np.asarray(y) == np.pad(x, edges)).all()
    g = numbers(1, *y.shape)
    inside = tuple(slice(front, front + n) for (front, _), n in zip(edges, x.shape, strict=True))
    assert (np.asarray(grads(g)[1]) == g[inside]).all()


@pytest.mark.parametrize(("rank", "data_format"), LAYOUTS)
def test_cropping_undoes_padding(rank, data_format):
    pairs = PAIRS[rank][0] if rank == 1 else PAIRS[rank]
    config = {} if rank == 1 else {"data_format": data_format}
    x = numbers(0, 2, *(3, 4, 5, 6)[: rank + 1])
    padded = moved(getattr(layers, f"ZeroPadding{rank}D")(pairs, data_format), x)
    y, grads = run(getattr(layers, f"Cropping{rank}D")(pairs, **config), padded)
    assert (np.asarray(y) == x).all()
    g = numbers(1, *y.shape)
    assert (np.asarray(grads(g)[1]) == moved(getattr(layers, f"ZeroPadding{rank}D")(pairs, data_format), g)).all()


@pytest.mark.parametrize("name", ["ZeroPadding", "Cropping"])
def test_short_forms_of_padding_and_cropping(name):
    def edges(rank, value):
        layer = getattr(layers, f"{name}{rank}D")(value)
        return layer.padding if name == "ZeroPadding" else layer.cropping

    assert edges(1, 2) == edges(1, [2, np.int64(2)]) == (2, 2)
    assert edges(2, 1) == edges(2, (1, 1)) == edges(2, [[1, 1], (1, 1)]) == ((1, 1), (1, 1))
    assert edges(2, (1, (2, 3))) == ((1, 1), (2, 3))
    assert edges(3, np.array([1, 2, 0])) == ((1, 1), (2, 2), (0, 0))


@pytest.mark.parametrize(("rank", "data_format"), LAYOUTS)
def test_upsampling_repeats_and_its_gradient_sums(rank, data_format):
    size = (2, 3, 1)[:rank]
    x = numbers(0, 2, *(2, 3, 2, 2)[: rank + 1])
    layer = getattr(layers, f"UpSampling{rank}D")(size, **({} if rank == 1 else {"data_format": data_format}))
    want = x
    for axis, times in enumerate(size, 2 if data_format == "channels_first" else 1):
        want = want.repeat(times, axis)
    y, grads = run(layer, x)
    assert (np.asarray(y) == want).all()
    near(grads(np.ones(y.shape))[1], np.full(x.shape, np.prod(size)))


def test_bilinear_by_hand():
    x = np.reshape([0.0, 4.0], (1, 1, 2, 1)).astype(np.float32)
    assert moved(layers.UpSampling2D((1, 2), interpolation="bilinear"), x).ravel().tolist() == [0, 1, 3, 4]


# ---------------------------------------------------------------- Keras

KERAS = [
    ("Flatten", {"data_format": "channels_first"}, (2, 3, 4, 2)),
    ("Reshape", {"target_shape": (-1, 1, 6)}, (2, 4, 3)),
    ("Permute", {"dims": (2, 3, 1)}, (2, 4, 3, 2)),
    ("RepeatVector", {"n": 3}, (2, 4)),
    ("ZeroPadding1D", {}, (2, 3, 2)),
    ("ZeroPadding2D", {"padding": (1, 2)}, (2, 3, 4, 2)),
    ("ZeroPadding3D", {"padding": ((1, 0), (0, 2), (1, 1)), "data_format": "channels_first"}, (1, 2, 3, 2, 3)),
    ("Cropping1D", {"cropping": 1}, (2, 5, 2)),
    ("Cropping2D", {"cropping": ((0, 1), (2, 0)), "data_format": "channels_first"}, (2, 2, 4, 5)),
    ("Cropping3D", {}, (1, 4, 3, 5, 2)),
    ("UpSampling1D", {"size": 3}, (2, 3, 2)),
    ("UpSampling3D", {"size": (1, 2, 3), "data_format": "channels_first"}, (1, 2, 2, 3, 2)),
    *(
        ("UpSampling2D", {"size": (2, 3), "interpolation": kind, "data_format": data_format}, (2, 4, 3, 2))
        for kind in ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5")
        for data_format in ("channels_last", "channels_first")
    ),
]


@pytest.mark.parametrize(("name", "config", "shape"), KERAS)
def test_as_keras(name, config, shape):
    as_in_keras(name, config, shape)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_equal_those_of_keras(name):
    same_signature(name)


# ---------------------------------------------------------------- other properties

CONFIGS = {"Reshape": {"target_shape": (-1,)}, "Permute": {"dims": (2, 1)}, "RepeatVector": {"n": 2}}


@pytest.mark.parametrize("name", NAMES)
def test_integers_are_kept_and_floats_are_cast(name):
    axes = {"Permute": 3, "RepeatVector": 2}.get(name) or (int(name[-2]) + 2 if name.endswith("D") else 4)
    x = jnp.ones((1, *(4,) * (axes - 1)))
    layer = getattr(layers, name)(**CONFIGS.get(name, {}), dtype="mixed_bfloat16")
    assert layer.apply({}, x).dtype == jnp.bfloat16
    assert layer.apply({}, x.astype(jnp.int32)).dtype == jnp.int32
    assert layer.clone() == layer


def test_interpolation_of_integers_gives_floats():
    y = layers.UpSampling2D(2, interpolation="bilinear").apply({}, jnp.ones((1, 2, 2, 1), jnp.uint8))
    assert y.dtype == jnp.float32


def test_unknown_sizes_stay_unknown():
    model = Sequential(
        [
            Input((None, 8, 3)),
            layers.ZeroPadding2D(1),
            layers.UpSampling2D(2),
            layers.Cropping2D((0, 5)),
            layers.Permute((2, 1, 3)),
            layers.Reshape((10, -1)),
        ]
    )
    assert model.output_shape == (None, 10, None)


# ---------------------------------------------------------------- errors

CONSTRUCTION = [
    (
        "Flatten",
        {"data_format": "NHWC"},
        "`data_format` of Flatten must be one of 'channels_last', 'channels_first', got 'NHWC'; use one of these.",
    ),
    *(
        (
            "Reshape",
            {"target_shape": target},
            "`target_shape` of Reshape must be a tuple of positive integers, at most one of which is -1, got "
            f"{target!r}; give the shape of one example, without the batch.",
        )
        for target in [8, (-1, -1), (0, 4), (2, -2), (2.0, 4), (None, 4), "44"]
    ),
    *(
        (
            "Permute",
            {"dims": dims},
            f"`dims` of Permute must be a permutation of 1, 2, ..., got {dims!r}; give each axis once, without the "
            "batch.",
        )
        for dims in [(0, 1), (1, 3), (1, 1), 2, (1.0, 2)]
    ),
    *(
        ("RepeatVector", {"n": n}, f"`n` of RepeatVector must be a positive integer, got {n!r}; give 1 or more.")
        for n in [0, 2.0, True]
    ),
    *(
        (
            "ZeroPadding1D",
            {"padding": padding},
            f"`padding` of ZeroPadding1D must be an integer of at least 0 or a pair of them, got {padding!r}; give "
            "the numbers of positions before and after.",
        )
        for padding in [-1, (1, 2, 3), (1, -1), None]
    ),
    *(
        (
            "Cropping2D",
            {"cropping": cropping},
            "`cropping` of Cropping2D must be an integer of at least 0 or a tuple of 2 integers or pairs of them, "
            f"got {cropping!r}; give the numbers of positions before and after.",
        )
        for cropping in [-1, (1,), ((1, 2), (1, -1)), ((1, 2), (1, 2, 3)), True]
    ),
    (
        "ZeroPadding3D",
        {"padding": (1, 1), "name": "edge"},
        "`padding` of ZeroPadding3D 'edge' must be an integer of at least 0 or a tuple of 3 integers or pairs of "
        "them, got (1, 1); give the numbers of positions before and after.",
    ),
    (
        "UpSampling1D",
        {"size": 0},
        "`size` of UpSampling1D must be an integer of at least 1, or a tuple of 1 of them, got 0; give 1 or more for each "
        "axis.",
    ),
    (
        "UpSampling2D",
        {"interpolation": "area"},
        "`interpolation` of UpSampling2D must be one of 'nearest', 'bilinear', 'bicubic', 'lanczos3', 'lanczos5', got "
        "'area'; use one of these.",
    ),
]


@pytest.mark.parametrize(("name", "config", "sentence"), CONSTRUCTION)
def test_error_messages_at_construction(name, config, sentence):
    with refuses(sentence):
        getattr(layers, name)(**config)


CALLS = [
    (
        layers.Flatten(),
        (),
        "Flatten takes inputs of at least 1 axis [B, ...], got shape (); add the batch axis.",
    ),
    (
        layers.Reshape((3, 4)),
        (2, 5),
        "Reshape needs 12 values in each example for `target_shape`=(3, 4), got inputs of shape (2, 5); give a "
        "shape of the same size.",
    ),
    (
        layers.Reshape((-1, 4), name="rows"),
        (2, 6),
        "Reshape 'rows' needs a multiple of 4 values in each example for `target_shape`=(-1, 4), got inputs of "
        "shape (2, 6); give a shape of the same size.",
    ),
    (
        layers.Permute((2, 1)),
        (2, 6),
        "Permute takes inputs of 3 axes [B, n1, n2], got shape (2, 6); add an axis, or use a layer for 2 axes.",
    ),
    (
        layers.RepeatVector(2),
        (2, 6, 1),
        "RepeatVector takes inputs of 2 axes [B, F], got shape (2, 6, 1); remove an axis, or use a layer for 3 axes.",
    ),
    (
        layers.ZeroPadding2D(1),
        (2, 6, 1),
        "ZeroPadding2D takes inputs of 4 axes [B, H, W, C], got shape (2, 6, 1); add an axis, or use a layer for 3 "
        "axes.",
    ),
    (
        layers.Cropping1D((1, 2)),
        (2, 3, 1),
        "Cropping1D must leave at least 1 position on each axis, got cropping=(1, 2) for inputs of shape (2, 3, "
        "1); crop less of axis 1.",
    ),
    (
        layers.Cropping2D(((0, 0), (2, 3)), "channels_first"),
        (2, 9, 9, 4),
        "Cropping2D must leave at least 1 position on each axis, got cropping=((0, 0), (2, 3)) for inputs of shape "
        "(2, 9, 9, 4); crop less of axis 3.",
    ),
    (
        layers.UpSampling3D(),
        (2, 6, 1),
        "UpSampling3D takes inputs of 5 axes [B, D, H, W, C], got shape (2, 6, 1); add an axis, or use a layer for 3 "
        "axes.",
    ),
]


@pytest.mark.parametrize(("layer", "shape", "sentence"), CALLS)
def test_error_messages_of_calls(layer, shape, sentence):
    with refuses(sentence):
        layer.apply({}, jnp.ones(shape))


def test_jit_and_vmap():
    layer = layers.Cropping2D(1)
    assert jax.jit(jax.vmap(lambda x: layer.apply({}, x)))(jnp.ones((3, 2, 4, 4, 1))).shape == (3, 2, 2, 2, 1)
