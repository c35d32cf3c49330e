"""Folders of pictures, texts and sounds, compared with Keras' data sets on its JAX backend."""

import wave

import jax
import keras as theirs
import numpy as np
import pytest
from PIL import Image

from training import keras
from training.keras.utils import audio, resampling

CLASSES = ("apple", "bear", "cat")


@pytest.fixture(autouse=True)
def _usual_settings_of_jax():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 15 pictures of several sizes and kinds in three classes."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in CLASSES:
        for i in range(5):
            place = folder / name / ("deep" if i == 4 else "")
            place.mkdir(parents=True, exist_ok=True)
            shape = (6 + i, 9 - i) if i == 1 else (6 + i, 9 - i, 4 if i == 2 else 3)
            Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(place / f"{i}.{'bmp' if i == 3 else 'png'}")
        (folder / name / "notes.md").write_text("no picture")
    return folder


def flat(dataset):
    return [np.asarray(leaf) for element in dataset for leaf in jax.tree.leaves(element)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_mode": "categorical", "color_mode": "grayscale", "interpolation": "nearest"},
        {"label_mode": "binary", "class_names": ["cat", "apple"], "color_mode": "rgba", "image_size": (5, 5)},
        {"labels": None, "interpolation": "bicubic", "crop_to_aspect_ratio": True, "batch_size": 4},
        {"labels": list(range(15)), "interpolation": "lanczos3", "pad_to_aspect_ratio": True},
        {"label_mode": None, "data_format": "channels_first", "interpolation": "lanczos5", "batch_size": None},
    ],
)
def test_pictures_in_order_are_those_of_keras(pictures, options, capsys):
    arguments = {"image_size": (4, 7), "shuffle": False, "format": "grain"} | options
    ours = keras.utils.image_dataset_from_directory(pictures, **arguments)
    printed = capsys.readouterr().out
    expected = theirs.utils.image_dataset_from_directory(str(pictures), **arguments)
    assert printed == capsys.readouterr().out
    assert ours.class_names == expected.class_names and ours.file_paths == list(expected.file_paths)
    elements = list(expected)
    assert len(ours) == len(elements)
    for a, b in zip(flat(ours), flat(elements), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)  # of 255


@pytest.mark.parametrize("subset", ["training", "validation", "both"])
def test_splits_are_those_of_keras(pictures, subset, capsys):
    arguments = {"image_size": 4, "seed": 3, "validation_split": 0.3, "subset": subset, "format": "grain"}
    ours = keras.utils.image_dataset_from_directory(pictures, **arguments)
    printed = capsys.readouterr().out
    expected = theirs.utils.image_dataset_from_directory(str(pictures), **arguments)
    assert printed == capsys.readouterr().out
    pairs = zip(ours, expected, strict=True) if subset == "both" else [(ours, expected)]
    for a, b in pairs:
        assert a.file_paths == list(b.file_paths)
        assert sorted(np.concatenate([y for _, y in a]).tolist()) == sorted(np.concatenate([y for _, y in b]).tolist())
    if subset == "both":
        first, second = (x.copy() for x, _ in [*ours[1], *ours[1]])
        np.testing.assert_array_equal(first, second)  # validation keeps its order


def test_passes_have_other_orders_with_the_right_labels(pictures):
    data = keras.utils.image_dataset_from_directory(pictures, image_size=4, batch_size=4, seed=1, verbose=False)
    of_file = {x.tobytes(): int(y) for x, y in data.unbatch()}
    assert len(of_file) == 15
    passes = [[(x.tobytes(), int(y)) for x, y in zip(*map(np.concatenate, zip(*data, strict=True)), strict=True)]
              for _ in range(2)]  # fmt: skip
    assert passes[0] != passes[1]
    for order in passes:
        assert dict(order) == of_file
    assert flat(data(5))[1].tolist() == flat(data(5))[1].tolist()


def test_a_model_trains_on_a_folder(pictures):
    data, held = keras.utils.image_dataset_from_directory(
        pictures, image_size=4, batch_size=4, seed=1, validation_split=0.2, subset="both", verbose=False
    )
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    scaled = data.map(lambda x, y: (x / 255, y)).cache().prefetch(-1)
    history = model.fit(scaled, validation_data=held.map(lambda x, y: (x / 255, y)), epochs=2, verbose=0).history
    assert list(history) == ["accuracy", "loss", "val_accuracy", "val_loss"] and history["loss"][1] < history["loss"][0]
    x, y = map(np.concatenate, zip(*held, strict=True))
    assert model.evaluate(x / 255, y, verbose=0, return_dict=True)["accuracy"] == history["val_accuracy"][-1]


def test_texts_are_those_of_keras(tmp_path):
    for name in CLASSES:
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.txt").write_text(f"{name} écrit {i}\n", encoding="utf-8")
    ours = keras.utils.text_dataset_from_directory(tmp_path, batch_size=4, shuffle=False, max_length=10)
    expected = theirs.utils.text_dataset_from_directory(
        str(tmp_path), batch_size=4, shuffle=False, max_length=10, format="grain"
    )
    assert ours.class_names == list(CLASSES)
    for (a, b), (texts, labels) in zip(ours, expected, strict=True):
        assert a.tolist() == [str(text) for text in texts]
        np.testing.assert_array_equal(b, labels)
    single = keras.utils.text_dataset_from_directory(tmp_path, batch_size=None, label_mode=None, shuffle=False)
    assert next(iter(single)) == "apple écrit 0\n"


def write_wav(path, samples, rate=8000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(samples.dtype.itemsize)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


def test_sounds_by_hand(tmp_path):
    for name, length in (("a", 3), ("b", 5)):
        (tmp_path / name).mkdir()
        write_wav(tmp_path / name / "x.wav", np.array([[0, -32768], [16384, 32767]] + [[1, 2]] * (length - 2), "<i2"))
    ((x, y),) = keras.utils.audio_dataset_from_directory(tmp_path, shuffle=False)
    assert x.shape == (2, 5, 2) and x.dtype == np.float32 and y.tolist() == [0, 1]
    assert x[0, :2].tolist() == [[0, -1], [0.5, 32767 / 32768]] and not x[0, 3:].any()
    ((cut, _),) = keras.utils.audio_dataset_from_directory(tmp_path, shuffle=False, output_sequence_length=2)
    np.testing.assert_array_equal(cut, x[:, :2])
    ((slow, _),) = keras.utils.audio_dataset_from_directory(tmp_path, shuffle=False, sampling_rate=4000)
    assert slow.shape == (2, 3, 2)


def test_samples_of_other_widths(tmp_path):
    write_wav(tmp_path / "8.wav", np.array([[0], [128], [192]], np.uint8))
    write_wav(tmp_path / "32.wav", np.array([[-(2**31)], [0], [2**30]], "<i4"))
    for name in ("8.wav", "32.wav"):
        assert audio.read_wav(str(tmp_path / name)).tolist() == [[-1], [0], [0.5]]


def test_weights_of_all_interpolations_keep_a_constant_and_a_linear_picture():
    ramp = np.arange(40, dtype=np.float32)[None, :, None] * np.ones((5, 1, 2), np.float32)
    for name in resampling.INTERPOLATIONS:
        assert np.allclose(resampling.resize(np.full((5, 7, 1), 3, np.uint8), (3, 4), name), 3)
        middle = resampling.resize(ramp, (5, 20), name)[:, 5:-5]
        expected = 2 * np.arange(5, 15) + (1 if name == "nearest" else 0.5)
        assert np.allclose(middle, expected[None, :, None], atol=0.03), name
    averaged = resampling.resize(np.array([[0, 3, 6]], np.float32)[..., None], (1, 2), "area")
    np.testing.assert_allclose(averaged[0, :, 0], [1, 5])  # (0 + 3/2) / 1.5 and (3/2 + 6) / 1.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": "x"}, "`labels` must be 'inferred', None or a list of integers, got 'x'; choose one."),
        (
            {"labels": [1]},
            "`labels` must have one label for each of the 15 files, got 1; order them like the sorted paths.",
        ),
        (
            {"labels": None, "class_names": ["cat"]},
            "`class_names` needs labels='inferred', got labels=None; leave one of them out.",
        ),
        (
            {"label_mode": "one"},
            "`label_mode` must be one of 'int', 'categorical', 'binary', None, got 'one'; choose one.",
        ),
        ({"label_mode": "binary"}, "label_mode='binary' needs two classes, got 3; use 'int' or 'categorical'."),
        ({"color_mode": "cmyk"}, "`color_mode` must be one of 'grayscale', 'rgb', 'rgba', got 'cmyk'; choose one."),
        ({"image_size": (3,)}, "`image_size` must be two positive integers (height, width), got (3,); correct it."),
        ({"batch_size": 0}, "`batch_size` must be a positive integer, got 0; choose another one."),
        (
            {"validation_split": 0.2},
            "`validation_split` and `subset` belong together, got validation_split=0.2 and subset=None; "
            "pass both or neither.",
        ),
        (
            {"validation_split": 2, "subset": "both"},
            "`validation_split` must be between 0 and 1, got 2; pass, e.g., 0.2.",
        ),
        (
            {"validation_split": 0.2, "subset": "both"},
            "A split of shuffled files needs a `seed`, so that training and validation do not overlap, got None; "
            "pass an integer.",
        ),
        (
            {"crop_to_aspect_ratio": True, "pad_to_aspect_ratio": True},
            "Pictures are cropped or padded to the aspect ratio, got True for both; choose one of "
            "`crop_to_aspect_ratio` and `pad_to_aspect_ratio`.",
        ),
    ],
)
def test_mistakes(pictures, arguments, message):
    with pytest.raises(ValueError) as caught:
        keras.utils.image_dataset_from_directory(pictures, **arguments)
    assert str(caught.value) == message


def test_mistakes_with_folders(pictures, tmp_path):
    for call, message in (
        (
            lambda: keras.utils.image_dataset_from_directory(pictures, class_names=["dog"]),
            f"`class_names` must be folders of {pictures}, 'apple', 'bear', 'cat', got 'dog'; correct the name.",
        ),
        (
            lambda: keras.utils.text_dataset_from_directory(tmp_path / "no"),
            f"`directory` must be a folder, got '{tmp_path / 'no'}'; check the path.",
        ),
        (
            lambda: keras.utils.text_dataset_from_directory(pictures),
            f"A data set needs files ending in .txt, got none in {pictures} for this subset; check the folder.",
        ),
        (
            lambda: keras.utils.audio_dataset_from_directory(pictures, ragged=True),
            "`ragged` must be False, got True: pad the sounds; leave it out.",
        ),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == message
    (tmp_path / "x.wav").write_bytes(b"no sound")
    with pytest.raises(ValueError, match=r"^A sound must be a .wav file of integers, got .*x\.wav: .*; convert it\.$"):
        audio.read_wav(str(tmp_path / "x.wav"))
    write_wav(tmp_path / "24.wav", np.zeros((6, 1), "V3"))
    with pytest.raises(ValueError) as caught:
        audio.read_wav(str(tmp_path / "24.wav"))
    assert str(caught.value) == (
        f"A sound must have samples of 8, 16 or 32 bits, got 24 in {tmp_path / '24.wav'}; convert it."
    )


def test_smart_resize_is_that_of_keras():
    x = np.random.default_rng(0).normal(size=(2, 6, 9, 3)).astype("float32")
    for images, size, layout in ((x, (4, 4), "channels_last"), (x[0], (5, 2), "channels_last"),
                                 (np.moveaxis(x, -1, 1), (3, 6), "channels_first")):  # fmt: skip
        ours = keras.preprocessing.image.smart_resize(images, size, data_format=layout)
        expected = theirs.preprocessing.image.smart_resize(images, size, data_format=layout)
        assert isinstance(ours, np.ndarray)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
