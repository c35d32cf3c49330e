"""Operations on images against Keras, by a table with a row for each name."""

import itertools

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from flaxmodels import Input, Model
from flaxmodels.ops import image
from flaxmodels.random import SeedGenerator
from tests.support.operation_oracle import (
    assert_equal,
    case,
    check,
    check_signature,
    integers,
    names_without_row,
    normal,
    uniform,
    usual_promotion,
)

IMAGES = uniform(2, 8, 6, 3)
FIRST = np.ascontiguousarray(np.moveaxis(IMAGES, -1, 1))
ONE = IMAGES[0]
BYTES = integers(256, 2, 7, 5, 3).astype(np.uint8)
VOLUMES = normal(1, 4, 4, 6, 2)
MODES = ("constant", "nearest", "wrap", "mirror", "reflect")
# Keras documents that `transform` has no gradient, so it is given as lists.
TRANSFORMS = np.array([[1.1, 0.2, -1.3, -0.1, 0.9, 0.7, 0, 0], [0.8, -0.3, 2.1, 0.2, 1.2, -3.0, 0, 0]]).tolist()
START = np.array([[0, 0], [5, 0], [0, 7], [5, 7]], np.float32)
END = START + uniform(4, 2)
COORDINATES = np.stack([normal(3, 4) * 4 + 4, normal(3, 4) * 3 + 3]).astype(np.float32)
EDGES = {"top_padding": 1, "left_padding": 2, "bottom_padding": 3, "right_padding": 0}

TABLE = {
    "affine_transform": [
        case(IMAGES, TRANSFORMS).but(batch=False, lists=False, keras_graph=False),
        *(case(IMAGES, TRANSFORMS, fill_mode=mode, fill_value=0.5) for mode in MODES),
        case(ONE, TRANSFORMS[0], interpolation="nearest").but(gradient=False),
        case(FIRST, TRANSFORMS, data_format="channels_first"),
        case(BYTES, TRANSFORMS).but(gradient=False),
    ],
    "crop_images": [
        case(IMAGES, 1, 2, 3, 1),
        case(IMAGES, top_cropping=1, target_height=4, right_cropping=2, target_width=3),
        case(FIRST, bottom_cropping=1, target_height=4, left_cropping=2, target_width=3, data_format="channels_first"),
        case(ONE, 0, 0, 0, 0),
    ],
    "elastic_transform": [
        case(IMAGES, 3.0, 1.0, seed=7).but(tolerance=1e-4),
        *(case(IMAGES, 5.0, 0.5, fill_mode=mode, fill_value=0.5, seed=3).but(gradient=False) for mode in MODES),
        case(ONE, 5.0, 0.5, "nearest", seed=3).but(gradient=False),
        case(FIRST, 5.0, 0.5, seed=3, data_format="channels_first").but(gradient=False),
    ],
    "extract_patches": [
        case(IMAGES, 2),
        case(IMAGES, (3, 2), strides=(2, 1)),
        case(IMAGES, 3, padding="same"),
        case(IMAGES, (2, 2), 1, dilation_rate=2),
        case(ONE, (4, 3), padding="SAME"),
        case(FIRST, 2, 3, data_format="channels_first"),
        case(VOLUMES, (2, 2, 3)),
        case(BYTES, 2),
    ],
    "extract_patches_3d": [
        case(VOLUMES, 2),
        case(VOLUMES, (2, 3, 2), strides=1, padding="same"),
        case(VOLUMES[0], 3, 2),
        case(np.ascontiguousarray(np.moveaxis(VOLUMES, -1, 1)), 2, data_format="channels_first"),
    ],
    "gaussian_blur": [
        case(IMAGES, data_format="channels_last"),
        case(IMAGES, (5, 3), (0.7, 1.5), "channels_last"),
        case(FIRST, (3, 5), data_format="channels_first"),
        case(ONE, (4, 2), (1.0, 2.0), data_format="channels_last"),
    ],
    "hsv_to_rgb": [case(IMAGES), case(FIRST, data_format="channels_first"), case(ONE)],
    "map_coordinates": [
        case(normal(8, 6), COORDINATES, 1).but(symbols=(0, 1), batch=False),
        *(case(normal(8, 6), COORDINATES, 1, mode, 0.5) for mode in MODES),
        *(case(normal(8, 6), COORDINATES, order=0, fill_mode=mode).but(gradient=False) for mode in MODES),
        case(integers(9, 8, 6), COORDINATES, 1).but(gradient=False),
    ],
    "pad_images": [
        case(IMAGES, **EDGES),
        case(IMAGES, top_padding=1, target_height=10, right_padding=2, target_width=9),
        case(FIRST, bottom_padding=1, target_height=10, left_padding=2, target_width=9, data_format="channels_first"),
        case(ONE, **EDGES),
    ],
    "perspective_transform": [
        case(ONE, START, END).but(tolerance=1e-4, batch=False, gradient=False),
        case(IMAGES, np.stack([START, END]), np.stack([END, START]), fill_value=0.5).but(
            tolerance=1e-4, gradient=False
        ),
        case(ONE[:4, :4].copy(), START, END).but(tolerance=1e-4),
        case(ONE, START, END, "nearest").but(gradient=False),
        case(FIRST[:1], START, END, data_format="channels_first").but(tolerance=1e-4, gradient=False),
    ],
    "resize": [
        case(IMAGES, (4, 9)),
        *(
            case(IMAGES, (4, 9), how, antialias).but(gradient=not antialias and how != "nearest", tolerance=1e-4)
            for how, antialias in itertools.product(("nearest", "bicubic", "lanczos3", "lanczos5"), (False, True))
        ),
        case(IMAGES, (4, 3), antialias=True),
        case(IMAGES, (4, 9), crop_to_aspect_ratio=True),
        case(IMAGES, (9, 4), crop_to_aspect_ratio=True),
        case(IMAGES, (4, 9), pad_to_aspect_ratio=True, fill_value=0.5),
        case(IMAGES, (9, 4), pad_to_aspect_ratio=True),
        case(FIRST, (4, 9), pad_to_aspect_ratio=True, fill_value=0.5, data_format="channels_first"),
        case(FIRST, (9, 4), crop_to_aspect_ratio=True, data_format="channels_first"),
        case(ONE, (3, 3)),
        case(BYTES, (4, 9)),
        case(BYTES, (4, 9), "bicubic"),
        case(BYTES, (4, 9), "nearest", pad_to_aspect_ratio=True),
        case(BYTES, (4, 9), pad_to_aspect_ratio=True, fill_value=2.6),
        case(IMAGES.astype(np.float16), [4, 9]).but(tolerance=2e-3),
    ],
    "rgb_to_grayscale": [
        case(IMAGES),
        case(FIRST, data_format="channels_first"),
        case(BYTES),
        case(IMAGES[..., :1]),
    ],
    "rgb_to_hsv": [case(IMAGES), case(FIRST, data_format="channels_first"), case(np.round(ONE)).but(gradient=False)],
    "scale_and_translate": [
        case(
            IMAGES, (2, 5, 9, 3), np.array([0.6, 1.4], np.float32), np.array([0.3, -1.0], np.float32), (1, 2), "linear"
        ).but(batch=False, tolerance=1e-4, keras_graph=False),
        case(ONE, (9, 6, 3), np.array([1.4], np.float32), np.array([0.3], np.float32), (0,), "lanczos3", False).but(
            gradient=False, tolerance=1e-4
        ),
    ],
    "sobel_edges": [case(IMAGES), case(FIRST, data_format="channels_first")],
    "ssim": [
        case(uniform(2, 12, 11, 3), uniform(2, 12, 11, 3)).but(symbols=(0, 1), tolerance=1e-4, gradient=False),
        case(IMAGES, uniform(2, 8, 6, 3), 2.0, filter_size=5, filter_sigma=1.0, k1=0.02, k2=0.1),
        case(ONE, IMAGES[1], filter_size=3).but(gradient=False),
        case(FIRST, FIRST[::-1].copy(), filter_size=3, data_format="channels_first").but(gradient=False),
    ],
}
# Where Keras' JAX backend contradicts its documentation or is inconsistent, these tests name the data format:
# `gaussian_blur` of arrays takes the default data format for "channels_first", while the same call on symbols and its
# documentation take it for "channels_last".


def test_each_name_of_keras_has_a_row():
    assert names_without_row(keras.ops.image, TABLE) == ([], [])
    assert set(TABLE) == set(image.__all__)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.spread
def test_equals_keras(name, request):
    check_signature(getattr(image, name), getattr(keras.ops.image, name))
    check(getattr(image, name), getattr(keras.ops.image, name), TABLE[name], request.config)


def test_elastic_transform_in_a_model():
    """Building the graph draws nothing; a compiled model draws from its "dropout" stream."""
    generator, symbol = SeedGenerator(1), Input((8, 6, 3))
    model = Model(symbol, image.elastic_transform(symbol, 3.0, 1.0, seed=generator))
    assert model.apply({}, IMAGES, rngs={"dropout": jax.random.key(1)}).shape == IMAGES.shape
    assert generator.state.tolist() == [1, 0]
    apply = jax.jit(lambda key: model.apply({}, IMAGES, rngs={"dropout": key}))
    assert (apply(jax.random.key(1)) != apply(jax.random.key(2))).any()


def test_blur_takes_channels_last_by_default():
    with usual_promotion():
        assert_equal(image.gaussian_blur(IMAGES), keras.ops.image.gaussian_blur(IMAGES, data_format="channels_last"))


def test_perspective_transform_of_a_batch_by_one_transformation():
    both = image.perspective_transform(IMAGES, START, END)
    np.testing.assert_allclose(both[1], image.perspective_transform(IMAGES[1], START, END), atol=1e-5)


def test_affine_transform_ignores_the_perspective():
    """Keras documents that c0 and c1 count as 0 on JAX, but adds them to other channels."""
    other = [[*numbers[:6], 0.1, 0.2] for numbers in TRANSFORMS]
    np.testing.assert_array_equal(image.affine_transform(IMAGES, other), image.affine_transform(IMAGES, TRANSFORMS))


@pytest.mark.spread
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (
            lambda: image.resize(ONE[0], (4, 4)),
            "`resize` takes one image with 3 axes or a batch with 4, got shape (6, 3); reshape it to [B, H, W, C].",
        ),
        (
            lambda: image.resize(ONE, (4, 0)),
            "`size` of `resize` must be two positive integers (height, width), got (4, 0).",
        ),
        (
            lambda: image.resize(ONE, (4, 4), "cubic"),
            "`interpolation` must be one of 'bilinear', 'nearest', 'lanczos3', 'lanczos5', 'bicubic', got 'cubic'; "
            "choose one of them.",
        ),
        (
            lambda: image.resize(ONE, (4, 4), fill_mode="wrap"),
            "`fill_mode` must be one of 'constant', got 'wrap'; choose one of them.",
        ),
        (
            lambda: image.resize(ONE, (4, 4), crop_to_aspect_ratio=True, pad_to_aspect_ratio=True),
            "`resize` crops or pads images to the aspect ratio, got True for both; choose one of "
            "`crop_to_aspect_ratio` and `pad_to_aspect_ratio`.",
        ),
        (
            lambda: image.rgb_to_hsv(BYTES),
            "`rgb_to_hsv` takes floating-point images with 3 channels, got uint8 of shape (2, 7, 5, 3); cast them and "
            "scale them to [0, 1], or change `data_format`.",
        ),
        (
            lambda: image.rgb_to_grayscale(IMAGES[..., :2]),
            "`rgb_to_grayscale` takes images with 1 or 3 channels, got shape (2, 8, 6, 2); change `data_format`.",
        ),
        (
            lambda: image.pad_images(IMAGES, top_padding=1, left_padding=0, right_padding=0),
            "Exactly two of `top_padding`, `bottom_padding`, `target_height` must be given and not be negative, got "
            "{'top_padding': 1, 'bottom_padding': None, 'target_height': None}; leave one out.",
        ),
        (
            lambda: image.crop_images(IMAGES, 5, 0, 5, 0),
            "The cropping of the height must not be negative, got (5, 5) for the size 8 and {'top_cropping': 5, "
            "'bottom_cropping': 5, 'target_height': None}; change `target_height`.",
        ),
        (
            lambda: image.sobel_edges(ONE),
            "`sobel_edges` takes a batch of images with 4 axes, got shape (8, 6, 3); add an axis for the batch.",
        ),
        (
            lambda: image.map_coordinates(ONE, COORDINATES, 1),
            "`coordinates` must have the shape [3, ...], one row for each axis of the inputs of shape (8, 6, 3), got "
            "(2, 3, 4); stack one array for each axis.",
        ),
        (
            lambda: image.map_coordinates(ONE[0], COORDINATES, 3),
            "`order` of `map_coordinates` must be 0 or 1, got 3; choose one.",
        ),
        (
            lambda: image.affine_transform(IMAGES, 1.0),
            "`transform` must be 8 numbers, or 8 for each image of a batch, got shape (); give [a0, a1, a2, b0, b1, "
            "b2, 0, 0].",
        ),
        (
            lambda: image.affine_transform(IMAGES, jnp.ones(6)),
            "`transform` must be 8 numbers, or 8 for each image of a batch, got shape (6,); give [a0, a1, a2, b0, b1, "
            "b2, 0, 0].",
        ),
        (
            lambda: image.perspective_transform(IMAGES, START[:3], END),
            "`start_points` and `end_points` must both have the shape (4, 2) or (batch, 4, 2), got (3, 2) and (4, 2); "
            "give four points (x, y).",
        ),
        (
            lambda: image.extract_patches(IMAGES, (2,)),
            "`size` of `extract_patches` must be an integer or 2 or 3 integers, got (2,); give, for example, 16.",
        ),
        (
            lambda: image.extract_patches_3d(IMAGES[0], 2),
            "`extract_patches_3d` with a size of 3 numbers takes arrays of 4 axes, or 5 with a batch, got shape "
            "(8, 6, 3); add or remove an axis.",
        ),
    ],
)
def test_errors(call, error):
    with pytest.raises(ValueError) as raised:
        call()
    assert str(raised.value) == error
