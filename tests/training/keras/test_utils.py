"""Arrays, images, windows, batches and progress of `keras.utils` against Keras."""

import io
import itertools
import threading
import time
import warnings

import jax
import jax.numpy as jnp
import keras as theirs
import numpy as np
import pytest
from PIL import Image

from training import keras
from training.data.readers import reader_of

RNG = np.random.default_rng(1)


def check_same(ours, expected):
    assert type(ours) is type(expected) and (ours.dtype, ours.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def refusal(call, kind=ValueError):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


# ---- arrays


def test_to_categorical_equals_keras():
    for x, classes in [
        ([0, 2, 1], None),
        ([[0], [3]], 5),
        ([[0, 1], [2, 2]], None),
        (np.array([1.0, 2.0]), 4),
        (2, None),
    ]:
        check_same(keras.utils.to_categorical(x, classes), theirs.utils.to_categorical(x, classes))
    x = jnp.array([[0], [2]])
    np.testing.assert_array_equal(keras.utils.to_categorical(x, 3), theirs.utils.to_categorical(np.array(x), 3))
    assert keras.utils.to_categorical(x, 3).dtype == jnp.float32
    assert refusal(lambda: keras.utils.to_categorical([0, 3], 3)) == (
        "`x` must contain integers from 0 to 2 for 3 classes, got values from 0 to 3; pass a larger `num_classes`."
    )
    assert refusal(lambda: keras.utils.to_categorical(x)).startswith("`num_classes` must be given for an array of JAX")


def test_normalize_equals_keras():
    x = RNG.normal(size=(3, 4, 5))
    x[1] = 0
    for axis, order in itertools.product((-1, 1, 2), (1, 2, np.inf)):
        check_same(keras.utils.normalize(x, axis, order), theirs.utils.normalize(x, axis, order))
    # Keras takes axis=0 for the last axis of NumPy arrays, but not of other arrays.
    norms = np.linalg.norm(x, axis=0, keepdims=True)
    np.testing.assert_allclose(keras.utils.normalize(x, 0), x / np.where(norms == 0, 1, norms))
    on_device = keras.utils.normalize(jnp.asarray(x, jnp.float32), 0)
    np.testing.assert_allclose(on_device, x / np.where(norms == 0, 1, norms), rtol=1e-5)


def test_pad_sequences_equals_keras():
    lists = [[1], [2, 3], [], [4, 5, 6, 7]]
    vectors = [RNG.normal(size=(n, 2)) for n in (1, 3, 2)]
    for maxlen, padding, truncating in itertools.product((None, 1, 2, 6), ("pre", "post"), ("pre", "post")):
        given = {"maxlen": maxlen, "padding": padding, "truncating": truncating}
        for sequences, more in [(lists, {"value": -1}), (vectors, {"dtype": "float32"}), (lists, {"dtype": "float64"})]:
            check_same(
                keras.utils.pad_sequences(sequences, **given, **more),
                theirs.utils.pad_sequences(sequences, **given, **more),
            )
    words = {"dtype": object, "value": "x"}
    np.testing.assert_array_equal(
        keras.utils.pad_sequences([["a"], ["b", "c"]], **words),
        theirs.utils.pad_sequences([["a"], ["b", "c"]], **words),
    )
    assert keras.preprocessing.sequence.pad_sequences is keras.utils.pad_sequences


def test_wrong_sequences_are_refused():
    pad = keras.utils.pad_sequences
    assert refusal(lambda: pad([[1]], padding="left")) == "`padding` must be 'pre' or 'post', got 'left'; choose one."
    assert refusal(lambda: pad([1, 2])) == (
        "`sequences` must be a list of sequences, got 1 as one of them; put it in a list."
    )
    assert refusal(lambda: pad(iter([[1]]))).startswith("`sequences` must be a list of sequences, got list_iterator")
    assert refusal(lambda: pad([["a"]], value="x")) == (
        "`dtype` must hold strings for the value 'x', got 'int32'; pass dtype=object."
    )
    assert refusal(lambda: pad([[[1, 2]], [[1, 2, 3]]])) == (
        "The steps of all sequences must have one shape, got (3,) in sequence 1 and (2,) before it; reshape them."
    )


def test_batches_are_packed_and_unpacked_as_in_keras():
    for data in (1, (1,), (1, 2), [1, 2, 3]):
        assert keras.utils.unpack_x_y_sample_weight(data) == theirs.utils.unpack_x_y_sample_weight(data)
    for parts in ((1,), (1, 2), (1, 2, 3), ([1],)):
        assert keras.utils.pack_x_y_sample_weight(*parts) == theirs.utils.pack_x_y_sample_weight(*parts)
    assert "got 4 parts" in refusal(lambda: keras.utils.unpack_x_y_sample_weight((1, 2, 3, 4)))


# ---- images


def test_images_equal_those_of_keras(tmp_path):
    for channels, data_format in itertools.product((1, 3, 4), ("channels_last", "channels_first")):
        x = RNG.normal(size=(6, 5, channels) if data_format == "channels_last" else (channels, 6, 5)) * 300
        for scale in (True, False):
            given = np.abs(x) if not scale else x
            ours, expected = (m.utils.array_to_img(given, data_format, scale) for m in (keras, theirs))
            assert ours.mode == expected.mode
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))
            check_same(keras.utils.img_to_array(ours, data_format), theirs.utils.img_to_array(ours, data_format))
        keras.utils.save_img(tmp_path / "ours.png", x, data_format)
        theirs.utils.save_img(tmp_path / "theirs.png", x, data_format)
        assert (tmp_path / "ours.png").read_bytes() == (tmp_path / "theirs.png").read_bytes()
    path = str(tmp_path / "ours.png")
    for mode, size, interpolation, keep in itertools.product(
        ("grayscale", "rgb", "rgba"), (None, (3, 4), (9, 2)), ("nearest", "bilinear", "lanczos"), (False, True)
    ):
        ours, expected = (m.utils.load_img(path, mode, size, interpolation, keep) for m in (keras, theirs))
        assert (ours.mode, ours.size) == (expected.mode, expected.size)
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))


def test_images_from_memory_and_jpeg_without_transparency(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (4, 2), "red").save(file, "png")
    assert keras.utils.load_img(file).size == (4, 2)
    with pytest.warns(
        UserWarning, match="^JPEG has no transparency, so the image is written without it; use PNG to keep it.$"
    ):
        keras.utils.save_img(tmp_path / "x.jpg", np.zeros((2, 2, 4)))
    assert keras.utils.load_img(tmp_path / "x.jpg").size == (2, 2)


def test_wrong_images_are_refused():
    assert refusal(lambda: keras.utils.array_to_img(np.zeros((2, 2)))) == (
        "`x` must be one image of rank 3, got shape (2, 2); pass images one by one."
    )
    assert refusal(lambda: keras.utils.array_to_img(np.zeros((2, 2, 2)))) == (
        "`x` must have 1, 3 or 4 channels, got 2; select channels, or change `data_format`."
    )
    assert refusal(lambda: keras.utils.load_img("x", "gray")) == (
        "`color_mode` must be 'grayscale', 'rgb' or 'rgba', got 'gray'; choose one."
    )
    assert "got 'cubic'; choose one." in refusal(lambda: keras.utils.load_img("x", interpolation="cubic"))
    assert refusal(lambda: keras.utils.load_img(3), TypeError) == (
        "`path` must be a file name or io.BytesIO, got int; pass one of them."
    )


# ---- windows


def keras_windows(data, targets, length, stride, rate, start, end):
    """Keras' windows, by its Grain dataset's rules; one window at a time."""
    start, end = start or 0, end or len(data)
    count = end - start - (length - 1) * rate
    if targets is not None:
        count = min(count, len(targets))
    for first in range(0, count, stride):
        x = data[start:end][first : first + length * rate : rate]
        yield x if targets is None else (x, targets[start:][first])


def test_windows_equal_those_of_keras():
    data, targets = np.arange(30.0).reshape(15, 2), np.arange(15) * 10
    for length, stride, rate, start, end in [
        (3, 1, 1, None, None),
        (4, 2, 3, None, None),
        (2, 3, 2, 2, 13),
        (3, 1, 1, 5, None),
    ]:
        for y in (targets, None):
            given = {"sequence_length": length, "sequence_stride": stride, "sampling_rate": rate, "start_index": start,
                     "end_index": end}  # fmt: skip
            expected = list(keras_windows(data, y, length, stride, rate, start, end))
            single = list(keras.utils.timeseries_dataset_from_array(data, y, batch_size=None, **given))
            grain = theirs.utils.timeseries_dataset_from_array(data, y, batch_size=None, format="grain", **given)
            for ours, their, other in zip(single, expected, grain, strict=True):
                for a, b, c in zip(*((v if y is not None else (v,)) for v in (ours, their, other)), strict=True):
                    np.testing.assert_array_equal(a, b)
                    np.testing.assert_array_equal(a, c)
            batches = keras.utils.timeseries_dataset_from_array(data, y, batch_size=4, **given)
            assert len(batches) == -(-len(expected) // 4) == len(list(batches))
            first = next(iter(batches))
            np.testing.assert_array_equal(first if y is None else first[0], np.stack(
                [x if y is None else x[0] for x in expected[:4]]))  # fmt: skip


def test_shuffled_windows_have_an_order_for_each_pass():
    def passes(seed):
        batches = keras.utils.timeseries_dataset_from_array(
            np.arange(20), None, 2, batch_size=4, shuffle=True, seed=seed
        )
        return [np.concatenate(list(batches))[:, 0].tolist() for _ in range(2)], batches

    (first, second), batches = passes(3)
    assert first != second and sorted(first) == sorted(second) == list(range(19))
    assert passes(3)[0] == [first, second] != passes(4)[0]
    assert np.concatenate(list(batches(1)))[:, 0].tolist() == second  # how training reads a pass
    keras.utils.set_random_seed(1)
    without = passes(None)[0]
    keras.utils.set_random_seed(1)
    assert passes(None)[0] == without


def test_wrong_windows_are_refused():
    def make(**given):
        return lambda: keras.utils.timeseries_dataset_from_array(np.arange(10), None, **{"sequence_length": 2, **given})

    assert refusal(make(sampling_rate=10)) == (
        "`sampling_rate` must be an integer of at least 1 and less than 10, the length of the data, got 10; choose "
        "another one."
    )
    assert refusal(make(sequence_length=0)) == (
        "`sequence_length` must be an integer of at least 1, got 0; choose another one."
    )
    for given in ({"start_index": 10}, {"start_index": 5, "end_index": 5}, {"end_index": 10}, {"sequence_stride": 0}):
        assert f"got {[*given.values()][-1]}" in refusal(make(**given))
    assert refusal(make(format="tf")) == (
        "`format` must be None, because the batches are arrays of NumPy, got 'tf'; leave it out."
    )


# ---- PyDataset


class Squares(keras.utils.PyDataset):
    def __init__(self, count=6, **kwargs):
        super().__init__(**kwargs)
        self.count, self.threads = count, set()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.threads.add(threading.get_ident())
        time.sleep(0.01)
        return np.full(2, index), np.full(2, index**2)


def test_datasets_by_index_are_read_in_order_by_several_threads():
    for workers in (0, 1, 3):
        data = Squares(workers=workers, max_queue_size=2)
        read = list(reader_of(data).open(0, 1, None))
        assert [x[0] for x, _ in read] == [1, 2, 3, 4, 5]
        assert (len(data.threads) > 1) == (workers > 1)
    assert data.num_batches == 6 and [y[0] for _, y in data] == [0, 1, 4, 9, 16, 25]


def test_reading_ahead_stops_and_reports_errors():
    data = Squares(1000, workers=2)
    passing = reader_of(data).open(0, 0, None)
    next(passing)
    passing.close()

    class Failing(Squares):
        def __getitem__(self, index):
            raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        list(reader_of(Failing(workers=2)).open(0, 0, None))


def test_wrong_workers_are_refused():
    assert refusal(lambda: Squares(workers=-1)) == "`workers` must be an integer of at least 0, got -1; pass 0."
    with pytest.warns(
        UserWarning,
        match="^`use_multiprocessing=True` makes threads, because JAX does not survive a fork; pass `workers` alone.$",
    ):
        Squares(use_multiprocessing=True)

    class Empty(keras.utils.Sequence):
        pass

    assert refusal(lambda: Empty()[0], NotImplementedError) == (
        "Empty must define __getitem__(index), got a class without it; return a batch there."
    )
    assert refusal(lambda: list(Empty()), NotImplementedError) == (
        "Empty must define __len__ or num_batches, got a class without both; return the number of batches there."
    )


# ---- Progbar


def test_progbar_averages_as_keras_does(capsys):
    def run(module):
        bar = module.utils.Progbar(4, verbose=2, stateful_metrics=["last"])
        for i in range(1, 4):
            bar.update(i, [("loss", float(i)), ("last", i * 1.5)])
        bar.update(4, [("last", 9.0)])
        return capsys.readouterr().out.split(" - ")[3:]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [part.strip() for part in run(keras)] == [part.strip() for part in run(theirs)]


def test_progbar_shows_a_bar_that_is_overwritten(capsys):
    bar = keras.utils.Progbar(2, width=4, interval=0)
    bar.add(1, [("loss", 0.5)])
    bar.add(1, [("loss", 0.25)])
    first, second = capsys.readouterr().out.split("\r")[1:]
    assert first.startswith("1/2 ━━── ") and first.endswith(" - loss: 0.5000")
    assert second.startswith("2/2 ━━━━ ") and second.endswith("\n") and " - loss: 0.2500" in second
    unknown = keras.utils.Progbar(None, interval=0)
    unknown.update(7)
    assert capsys.readouterr().out.startswith("\r      7/Unknown 0s ")
    silent = keras.utils.Progbar(3, verbose=0)
    silent.update(3)
    assert capsys.readouterr().out == ""


def test_wrong_progbars_are_refused():
    assert refusal(lambda: keras.utils.Progbar(3, verbose=4)) == (
        "`verbose` must be 0 (silent), 1 (a bar) or 2 (a line at the end), got 4; choose one."
    )
    assert refusal(lambda: keras.utils.Progbar(3, stateful_metrics=["a"], stateless_metrics=["b"])) == (
        "Progbar takes `stateful_metrics` or `stateless_metrics`, got ['a'] and ['b']; leave one out."
    )


# ---- training


def test_models_train_on_windows_and_on_datasets_by_index():
    """Batches from three sources are the same, so the losses are too."""
    data = np.arange(12, dtype="float32").reshape(12, 1) / 12
    windows = keras.utils.timeseries_dataset_from_array(data, data[:, 0], 3, batch_size=4)
    batches = list(windows)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return len(batches)

        def __getitem__(self, index):
            return batches[index]

    losses = []
    for source in (windows, Batches(workers=2), (np.concatenate([x for x, _ in batches]), None)):
        model = keras.Sequential([keras.Input((3, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
        model.set_weights([np.full((3, 1), 0.5, "float32"), np.zeros(1, "float32")])
        model.compile("sgd", "mse")
        x, y = source if isinstance(source, tuple) else (source, None)
        y = np.concatenate([y for _, y in batches]) if isinstance(source, tuple) else y
        size = {"batch_size": 4} if isinstance(source, tuple) else {}
        losses.append(model.fit(x, y, epochs=2, shuffle=False, verbose=0, **size).history["loss"])
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-6)


def test_hooks_of_datasets_are_called_as_in_keras():
    """A dataset that changes its batches in `on_epoch_end` gives the same batches here and there."""

    def losses(module):
        class Changing(module.utils.PyDataset):
            log = ""

            def __len__(self):
                return 2

            def __getitem__(self, index):
                number = self.log.count("e") + index
                return np.full((2, 1), number, "float32"), np.ones((2, 1), "float32")

            def on_epoch_begin(self):
                self.log += "b"

            def on_epoch_end(self):
                self.log += "e"

        model = module.Sequential([module.Input((1,)), module.layers.Dense(1, kernel_initializer="ones")])
        model.compile(module.optimizers.SGD(0.01), "mse")
        first, second, third = Changing(), Changing(), Changing()
        found = model.fit(first, epochs=2, shuffle=False, verbose=0).history["loss"]
        found += model.fit(second, epochs=2, shuffle=False, verbose=0).history["loss"]
        found += [model.evaluate(third, verbose=0), *np.ravel(model.predict(third, verbose=0))]
        return np.array(found), [second.log, third.log]

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        expected, logs = losses(theirs)
    found, own_logs = losses(keras)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert own_logs == logs == ["ebebe", "ebebe"]
