"""Image layers, compared with Keras: the same seed draws the same numbers, which give the same images."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import keras
import numpy as np

from training import keras as ours

# Arguments of each layer, without the seed.
CASES: dict[str, list[dict[str, Any]]] = {
    "CenterCrop": [{"height": 4, "width": 3}, {"height": 9, "width": 4}, {"height": 3, "width": 9}],
    "RandomBrightness": [{"factor": 0.3}, {"factor": (0.1, 0.5), "value_range": (100.0, 0.0)}],
    "RandomContrast": [{"factor": 0.4}, {"factor": (0.2, 0.9), "value_range": (50, 200)}],
    "RandomCrop": [{"height": 4, "width": 3}, {"height": 7, "width": 3}, {"height": 9, "width": 8}],
    "RandomFlip": [{}, {"mode": "horizontal"}, {"mode": "vertical"}],
    "RandomRotation": [
        {"factor": 0.4},
        {"factor": (0.1, 0.2), "fill_mode": "constant", "fill_value": 7.0},
        {"factor": 1.0, "fill_mode": "wrap", "interpolation": "nearest"},
        {"factor": 0.3, "fill_mode": "nearest"},
    ],
    "RandomTranslation": [
        {"height_factor": 0.4, "width_factor": 0.6},
        {"height_factor": (0.1, 0.5), "width_factor": 1.0, "fill_mode": "constant", "fill_value": 7.0},
        {"height_factor": 0.5, "width_factor": (-1, -0.3), "fill_mode": "wrap", "interpolation": "nearest"},
        {"height_factor": 0.9, "width_factor": 0.0, "fill_mode": "nearest"},
    ],
    "RandomZoom": [
        {"height_factor": 0.4},
        {"height_factor": (0.3, 0.9), "width_factor": 0.5, "fill_mode": "constant", "fill_value": 7.0},
        {"height_factor": (-0.6, -0.2), "width_factor": (0.5, 0.6), "fill_mode": "wrap", "interpolation": "nearest"},
        {"height_factor": 0.9, "fill_mode": "nearest"},
    ],
    "Resizing": [
        {"height": 4, "width": 9},
        {"height": 3, "width": 3, "interpolation": "bicubic", "antialias": True},
        {"height": 9, "width": 4, "interpolation": "nearest", "crop_to_aspect_ratio": True},
        {"height": 9, "width": 4, "interpolation": "lanczos3", "pad_to_aspect_ratio": True, "fill_value": 5.0},
        {"height": 4, "width": 12, "interpolation": "lanczos5", "pad_to_aspect_ratio": True},
    ],
}  # fmt: skip
# Layers in which integers overflow in Keras.
OVERFLOWING = {"RandomBrightness"}
FIXED = ("CenterCrop", "Resizing")
ALL = [(name, i) for name, cases in CASES.items() for i in range(len(cases))]
SEED = 5


class Lenient:
    """A layer of Keras whose methods compute with promotion of dtypes and ranks."""

    def __init__(self, layer: Any):
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.layer, name)
        return functools.partial(lenient, method) if callable(method) else method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return lenient(self.layer, *args, **kwargs)


def lenient(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return function(*args, **kwargs)


def pair(name: str, index: int, /, **more: Any) -> tuple[Any, Any]:
    """Returns a layer of Keras and ours with the same arguments."""
    config = CASES[name][index] | more | ({} if name in FIXED else {"seed": SEED})
    return Lenient(getattr(keras.layers, name)(**config)), getattr(ours.layers, name)(**config)


def images(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, shape or (3, 7, 5, 3)).astype(dtype)


def close(expected: Any, got: Any, name: str = "") -> None:
    expected, got = np.asarray(expected), np.asarray(got)
    assert (expected.shape, expected.dtype) == (got.shape, got.dtype), name
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=255 * 1e-5, err_msg=name)


def test_calls_equal_those_of_keras():
    x = images()
    for name, index in ALL:
        theirs, layer = pair(name, index)
        for options in ({}, {"training": True}, {"training": False}):
            close(theirs(x, **options), layer(x, **options), f"{name} {index} {options}")


def test_one_image_and_channels_first():
    x = images().transpose(0, 3, 1, 2)
    for name in CASES:
        theirs, layer = pair(name, 0, data_format="channels_first")
        close(theirs(x), layer(x), name)
        close(theirs(x[0]), layer(x[0]), name)
        theirs, layer = pair(name, 0)
        close(theirs(images()[0]), layer(images()[0]), name)


def test_integers():
    x = images(dtype="uint8")
    for name in sorted(set(CASES) - OVERFLOWING):
        theirs, layer = pair(name, 0)
        close(theirs(x), layer(x), name)
        close(theirs(x, training=False), layer(x, training=False), name)


def test_labels_and_masks_change_with_the_images():
    masks = np.random.default_rng(1).integers(0, 3, (3, 7, 5, 1)).astype("uint8")
    parts = {"images": images(), "labels": np.eye(3, dtype="float32"), "segmentation_masks": masks}
    for name in CASES:
        theirs, layer = pair(name, 0)
        expected, got = theirs(dict(parts), training=True), layer(dict(parts), training=True)
        assert set(expected) == set(got)
        for part in parts:
            close(expected[part], got[part], f"{name} {part}")


def test_configurations_equal_those_of_keras():
    for name, index in ALL:
        theirs, layer = pair(name, index, name="it")
        assert theirs.get_config() == layer.get_config()
        again = type(layer).from_config(layer.get_config())
        assert again.get_config() == layer.get_config()
        assert theirs.compute_output_shape((None, 7, 5, 3)) == layer(ours.Input((7, 5, 3))).shape


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}


def test_files_in_both_directions(tmp_path):
    path, x = tmp_path / "model.keras", images(2, 12, 11, 3)
    for library, other in ((keras, ours), (ours, keras)):
        options = [CASES[name][index] | ({} if name in FIXED else {"seed": SEED}) for name, index in ALL]
        saved = [getattr(library.layers, name)(**config) for (name, _), config in zip(ALL, options, strict=True)]
        model = library.Sequential([library.Input((12, 11, 3)), *saved])
        model.save(path)
        loaded = other.saving.load_model(path)
        for before, after in zip(saved, loaded.layers, strict=True):
            assert plain(before.get_config()) == plain(after.get_config())
        expected, got = (lenient(each, x, training=False) for each in (model, loaded))
        close(expected, got)


def test_gradients_with_regard_to_the_image():
    weights = images()
    for name, index in ALL:
        theirs, layer = pair(name, index)
        if theirs.compute_output_shape((3, 7, 5, 3)) != (3, 7, 5, 3):
            continue
        drawn = theirs.get_random_transformation(images(), training=True)

        def loss(x, transform, drawn=drawn):
            return (transform(x, drawn, training=True) * weights).sum()

        expected, got = (jax.grad(loss)(images(), each.transform_images) for each in (theirs, layer))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=255e-5, err_msg=f"{name} {index}")
