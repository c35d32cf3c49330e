"""Differences from Keras, and which library is right: each figure of docs/keras-differences.md, computed in float64."""

import warnings

import jax
import keras
import numpy as np
import pytest

import flaxmodels
import training
from flaxmodels import interop
from training import Trainer, optimizers, schedules

N, T, C = 8, 4, 3
RNG = np.random.default_rng(2)
IDS = RNG.integers(1, 6, (N, T)).astype("int32")
for row, length in zip(IDS, [1, 2, 3, 4, 2, 1, 3, 2], strict=True):
    row[length:] = 0
VALID = IDS != 0
LABELS = RNG.integers(0, C, (N, T)).astype("int32")
ONE_HOT = np.eye(C, dtype="float32")[LABELS]
WEIGHT = RNG.uniform(0.5, 2, N).astype("float32")
START = [RNG.normal(size=shape).astype("float32") for shape in ((6, 5), (5, C), (C,))]


def relaxed(function):
    """Calls a function of Keras with rank and dtype promotion, and ignores warnings about its casts."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function()


def tagger(library, masked=True):
    """Returns a tagger of words; positions with zeros are masked."""
    dense = library.layers.Dense(C, activation="softmax")
    embedding = library.layers.Embedding(6, 5, mask_zero=masked)
    return library.Sequential([library.Input((T,), dtype="int32"), embedding, dense])


def probabilities():
    """Returns the outputs of the tagger in float64."""
    embedding, kernel, bias = (w.astype("float64") for w in START)
    logits = embedding[IDS] @ kernel + bias
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def in_keras(loss="categorical_crossentropy", masked=True, **compiled):
    def make():
        model = tagger(keras, masked)
        model.set_weights(START)
        model.compile(keras.optimizers.SGD(0.0), loss, **compiled)
        return model

    keras.utils.clear_session(free_memory=False)
    return relaxed(make)


def here(loss="categorical_crossentropy", masked=True, **compiled):
    model = tagger(flaxmodels, masked)
    variables = interop.set_keras_weights(model, model.init(jax.random.key(0), IDS), START)
    return Trainer(model, optimizers.SGD(0.0), loss, variables=variables, **compiled)


FIT = {"batch_size": 3, "shuffle": False, "verbose": 0}
TEST = {"batch_size": 3, "verbose": 0, "return_dict": True}


def test_metrics_in_fit_exclude_masked_values():
    right = probabilities().argmax(-1) == LABELS
    ours, theirs = here(metrics=["accuracy"]), in_keras(metrics=["accuracy"])
    np.testing.assert_allclose(ours.fit(IDS, ONE_HOT, **FIT).history["accuracy"], [right[VALID].mean()], rtol=1e-6)
    np.testing.assert_allclose(ours.evaluate(IDS, ONE_HOT)["accuracy"], right[VALID].mean(), rtol=1e-6)
    # Keras counts every position in fit, but only unmasked positions in evaluate.
    in_fit = relaxed(lambda: theirs.fit(IDS, ONE_HOT, **FIT).history["accuracy"])
    np.testing.assert_allclose(in_fit, [right.mean()], rtol=1e-6)
    in_test = relaxed(lambda: theirs.evaluate(IDS, ONE_HOT, **TEST)["accuracy"])
    np.testing.assert_allclose(in_test, right[VALID].mean(), rtol=1e-6)
    assert abs(right.mean() - right[VALID].mean()) > 0.01


def mean_iou(counted, weights=None):
    """Returns the mean intersection over union of the counted positions."""
    true, found = LABELS[counted], probabilities().argmax(-1)[counted]
    each = np.ones(len(true)) if weights is None else weights[counted]
    values = []
    for c in range(C):
        both, either = (true == c) & (found == c), (true == c) | (found == c)
        values.append(each[both].sum() / each[either].sum())
    return np.mean(values)


def precision(counted):
    positive = probabilities()[counted] > 0.5
    return (ONE_HOT[counted][positive] == 1).sum() / positive.sum()


def root(counted):
    return np.sqrt(((probabilities()[counted] - ONE_HOT[counted]) ** 2).mean())


BLIND = {
    "one_hot_mean_io_u": (lambda lib: lib.metrics.OneHotMeanIoU(C), mean_iou),
    "precision": (lambda lib: lib.metrics.Precision(), precision),
    "root_mean_squared_error": (lambda lib: lib.metrics.RootMeanSquaredError(), root),
}


@pytest.mark.parametrize("name", BLIND)
def test_confusion_iou_and_root_metrics_exclude_masked_values(name):
    make, by_hand = BLIND[name]
    everywhere = np.ones_like(VALID)
    assert abs(by_hand(VALID) - by_hand(everywhere)) > 1e-3
    ours = here(metrics=[make(training)])
    np.testing.assert_allclose(ours.evaluate(IDS, ONE_HOT)[name], by_hand(VALID), rtol=1e-5)
    np.testing.assert_allclose(ours.fit(IDS, ONE_HOT, **FIT).history[name], [by_hand(VALID)], rtol=1e-5)
    theirs = in_keras(metrics=[make(keras)])
    found = relaxed(lambda: theirs.evaluate(IDS, ONE_HOT, **TEST)[name])
    np.testing.assert_allclose(found, by_hand(everywhere), rtol=1e-5)


def test_iou_metrics_do_not_round_weights():
    """Keras casts the weights to integers, because its IoU metrics have an integer dtype."""
    scores = RNG.normal(size=(N, C)).astype("float32")
    labels, found = LABELS[:, 0], scores.argmax(-1)

    def iou(weights):
        values = []
        for c in range(C):
            both, either = (labels == c) & (found == c), (labels == c) | (found == c)
            values.append(weights[both].sum() / weights[either].sum() if either.any() else np.nan)
        return np.nanmean(values)

    one_hot = np.eye(C, dtype="float32")[labels]
    ours = training.metrics.OneHotMeanIoU(C)
    state = ours.update(ours.empty(), one_hot, scores, sample_weight=WEIGHT)
    np.testing.assert_allclose(ours.compute(state), iou(WEIGHT.astype("float64")), rtol=1e-6)
    theirs = keras.metrics.OneHotMeanIoU(C)
    relaxed(lambda: theirs.update_state(one_hot, scores, sample_weight=WEIGHT))
    np.testing.assert_allclose(relaxed(theirs.result), iou(np.floor(WEIGHT)), rtol=1e-6)
    assert abs(iou(WEIGHT) - iou(np.floor(WEIGHT))) > 1e-3


@pytest.mark.parametrize("masked", [True, False])
def test_weights_per_example_apply_to_each_step(masked):
    """Keras rejects weights per example, and accepts only weights per step."""
    p = probabilities()
    each = -np.log(np.take_along_axis(p, LABELS[..., None], -1)[..., 0]) * WEIGHT[:, None]
    found = here(masked=masked).evaluate(IDS, ONE_HOT, batch_size=N, sample_weight=WEIGHT)["loss"]
    # Keras multiplies a masked loss by positions / valid positions, so it is a mean over the valid positions.
    np.testing.assert_allclose(found, each[VALID].mean() if masked else each.mean(), rtol=1e-5)
    theirs, test = in_keras(masked=masked), TEST | {"batch_size": N}
    with pytest.raises(ValueError, match="(?i)incompatible"):
        relaxed(lambda: theirs.evaluate(IDS, ONE_HOT, sample_weight=WEIGHT, **test))
    steps = np.repeat(WEIGHT[:, None], T, 1)
    in_steps = relaxed(lambda: theirs.evaluate(IDS, ONE_HOT, sample_weight=steps, **test)["loss"])
    np.testing.assert_allclose(found, in_steps, rtol=1e-5)


def test_attention_does_not_remove_masks():
    """The product of an embedding and its attention is 0 at masked positions."""

    def build(library):
        ids = library.Input((T,), dtype="int32")
        words = library.layers.Embedding(6, 5, mask_zero=True)(ids)
        attended = library.layers.MultiHeadAttention(1, 2)(words, words)
        return library.Model(ids, [attended, library.layers.Multiply()([words, attended])])

    model, theirs = build(flaxmodels), relaxed(lambda: build(keras))
    weights = theirs.get_weights()
    variables = interop.set_keras_weights(model, model.init(jax.random.key(0), IDS), weights)
    found, want = model.apply(variables, IDS), relaxed(lambda: theirs(IDS))
    np.testing.assert_allclose(found[0], want[0], rtol=1e-5, atol=1e-6)
    words, attended, valid = weights[0][IDS].astype("float64"), np.float64(want[0]), VALID[..., None]
    np.testing.assert_allclose(found[1], np.where(valid, words * attended, 0), rtol=1e-5, atol=1e-6)
    # In Keras the embedding has lost its mask, and only the attention's output becomes 1 at masked positions.
    np.testing.assert_allclose(want[1], words * np.where(valid, attended, 1), rtol=1e-5, atol=1e-6)


def test_states_are_carried_from_batch_to_batch():
    """Successive calls of a Keras model do the same, but its compiled `predict` resets the states in each batch."""
    x = RNG.normal(size=(2 * N, T, 3)).astype("float32")

    def build(library):
        return library.Sequential([library.Input(batch_shape=(N, T, 3)), library.layers.GRU(2, stateful=True)])

    theirs, model = relaxed(lambda: build(keras)), build(flaxmodels)
    trainer = Trainer(model)
    trainer.build(x[:N])
    trainer.variables = interop.set_keras_weights(model, trainer.variables, theirs.get_weights())
    compiled = relaxed(lambda: theirs.predict(x, batch_size=N, verbose=0))
    called = np.concatenate([relaxed(lambda i=i: theirs(x[i : i + N])) for i in (0, N)])
    found = trainer.predict(x, batch_size=N)
    np.testing.assert_allclose(found, called, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[:N], compiled[:N], rtol=1e-5, atol=1e-6)
    assert np.abs(compiled[N:] - called[N:]).max() > 1e-3


WRAPPERS = {
    "TimeDistributed": lambda lib: lib.layers.TimeDistributed(lib.layers.Dense(3), trainable=False),
    "Bidirectional": lambda lib: lib.layers.Bidirectional(
        lib.layers.LSTM(3, return_sequences=True), merge_mode="sum", trainable=False
    ),
    "RNN": lambda lib: lib.layers.RNN(lib.layers.GRUCell(3), return_sequences=True, trainable=False),
    "MultiHeadAttention": lambda lib: lib.layers.MultiHeadAttention(2, 3, trainable=False),
}


@pytest.mark.rotate
@pytest.mark.parametrize("kind", WRAPPERS)
def test_the_argument_trainable_of_wrappers_applies_to_the_inner_layer(kind):
    """Keras documents this for the attribute `trainable`, but ignores the argument."""
    x, y = RNG.normal(size=(4, T, 3)).astype("float32"), np.zeros((4, T, 3), "float32")

    def build(lib):
        inputs, layer = lib.Input((T, 3)), WRAPPERS[kind](lib)
        outputs = layer(inputs, inputs) if kind == "MultiHeadAttention" else layer(inputs)
        return lib.Model(inputs, lib.layers.Dense(3)(outputs))

    trainer = Trainer(build(flaxmodels), optimizers.SGD(0.1), "mse")
    trainer.build(x)
    before = interop.get_keras_weights(trainer.model, trainer.variables)
    trainer.fit(x, y, verbose=0)
    after = interop.get_keras_weights(trainer.model, trainer.variables)
    moved = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [False] * (len(moved) - 2) + [True, True]

    def in_keras():
        model = build(keras)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        start = model.get_weights()
        model.fit(x, y, verbose=0)
        return any(not np.array_equal(a, b) for a, b in zip(start[:-2], model.get_weights()[:-2], strict=True))

    assert relaxed(in_keras)


def at(library, schedule, step, **arguments):
    return float(jax.jit(lambda i: getattr(library, schedule)(**arguments)(i))(np.int32(step)))


def test_compiled_schedules_change_at_the_exact_steps():
    """XLA replaces Keras' divisions by constants by products with reciprocals, which are slightly inexact."""
    stairs = {"initial_learning_rate": 1.0, "decay_steps": 41, "decay_rate": 0.5, "staircase": True}
    root = {"initial_learning_rate": 1.0, "decay_steps": 5, "end_learning_rate": 0.25, "power": 0.5}
    assert at(schedules, "ExponentialDecay", 41, **stairs) == 0.5
    assert at(schedules, "PolynomialDecay", 5, **root) == 0.25
    # Keras is exact without XLA's optimizations, which most of these tests turn off.
    for name, step, arguments, values in (
        ("ExponentialDecay", 41, stairs, (0.5, 1.0)),
        ("PolynomialDecay", 5, root, (0.25, np.nan)),
    ):
        found = relaxed(lambda: at(keras.optimizers.schedules, name, step, **arguments))  # noqa: B023
        assert any(np.array_equal(found, value, equal_nan=True) for value in values)


def test_the_names_of_metrics_do_not_depend_on_previous_programs():
    """Keras numbers objects in the order of their creation in a process, so the second program logs `auc_1`."""
    names = []
    keras.utils.clear_session(free_memory=False)
    for _ in range(2):
        names.append((keras.metrics.AUC().name, training.metrics.AUC().name))
    assert names == [("auc", "auc"), ("auc_1", "auc")]


def test_batches_of_several_workers_have_the_order_of_the_dataset():
    def order(library, workers):
        class Numbers(library.utils.PyDataset):
            def __len__(self):
                return 4

            def __getitem__(self, index):
                return np.zeros((2, 1), "float32"), np.full((2, 1), index, "float32")

        model = library.Sequential([library.Input((1,)), library.layers.Dense(1)])
        model.compile(library.optimizers.SGD(0.0), "mae")
        means = []
        follow = library.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: means.append(logs["loss"]))
        model.fit(Numbers(workers=workers), shuffle=False, verbose=0, callbacks=[follow])
        return np.diff(np.arange(5) * [0, *means]).round().tolist()  # the loss is the number of the batch

    assert relaxed(lambda: order(keras, 1)) == [0, 1, 2, 3]
    assert relaxed(lambda: order(keras, 2)) == [1, 2, 3, 0]
    assert order(training.keras, 2) == [0, 1, 2, 3]
