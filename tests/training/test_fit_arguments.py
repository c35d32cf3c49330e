"""Arguments of `fit` apply to training or to validation only, as in Keras: weights, order and steps."""

import warnings

import jax
import keras
import numpy as np
import pytest

import flaxmodels
from flaxmodels import interop
from training import Trainer, callbacks, optimizers

RNG = np.random.default_rng(0)
N, AT = 20, 14  # examples, and the training examples with `validation_split=0.3`
X = RNG.normal(size=(N, 3)).astype("float32")
Y = RNG.integers(0, 3, N).astype("int32")
WEIGHT = RNG.uniform(0.5, 2, N).astype("float32")
BY_CLASS = {0: 0.5, 1: 2.0, 2: 1.5}
KERNEL, BIAS = RNG.normal(size=(3, 3)).astype("float32"), RNG.normal(size=3).astype("float32")


def build(library):
    return library.Sequential([library.Input((3,)), library.layers.Dense(3, activation="softmax")])


def trainer(rate=0.0):
    variables = {"params": {"dense": {"kernel": KERNEL, "bias": BIAS}}}
    accuracy = ["accuracy"]
    return Trainer(
        build(flaxmodels),
        optimizers.SGD(rate),
        "sparse_categorical_crossentropy",
        accuracy,
        weighted_metrics=accuracy,
        variables=variables,
    )


def in_keras():
    model = build(keras)
    model.set_weights([KERNEL, BIAS])
    accuracy = ["accuracy"]
    model.compile(
        keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=accuracy, weighted_metrics=accuracy
    )
    return model


def crossentropy(rows, weight=None):
    """Returns the loss of rows before training, in float64."""
    logits = X[rows].astype("float64") @ KERNEL + BIAS
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    each = -np.log(p[np.arange(len(p)), Y[rows]])
    return (each * (1 if weight is None else weight[rows])).mean()


def fit(rate=0.0, **options):
    return trainer(rate).fit(X, Y, verbose=0, **options).history


CLASS_WEIGHTS = np.array([BY_CLASS[label] for label in Y])
TRAIN, REST = slice(AT), slice(AT, N)


def test_class_weights_apply_to_training_only():
    history = fit(class_weight=BY_CLASS, validation_split=0.3, shuffle=False)
    np.testing.assert_allclose(history["loss"], [crossentropy(TRAIN, CLASS_WEIGHTS)], rtol=1e-5)
    np.testing.assert_allclose(history["val_loss"], [crossentropy(REST)], rtol=1e-5)
    assert history["val_weighted_accuracy"] == history["val_accuracy"]


def test_class_weights_do_not_affect_early_stopping():
    """The best epoch is chosen by the unweighted loss."""
    options = {"epochs": 6, "shuffle": False, "rate": 0.5}
    stopping = {"callbacks": [callbacks.EarlyStopping(patience=1)]}
    split = fit(**options, class_weight=BY_CLASS, validation_split=0.3, **stopping)
    data = trainer(0.5).fit(
        X[:AT],
        Y[:AT],
        validation_data=(X[AT:], Y[AT:]),
        class_weight=BY_CLASS,
        verbose=0,
        epochs=6,
        shuffle=False,
        callbacks=[callbacks.EarlyStopping(patience=1)],
    )
    assert split == data.history


def test_class_weights_may_contain_classes_of_the_validation_data():
    y = np.where(np.arange(N) < AT, Y % 2, 2)
    history = trainer().fit(X, y, class_weight=BY_CLASS, validation_split=0.3, verbose=0).history
    assert np.isfinite(history["val_loss"]).all()


def test_sample_weights_apply_to_both_parts_of_a_split():
    history = fit(sample_weight=WEIGHT, validation_split=0.3)
    np.testing.assert_allclose(history["loss"], [crossentropy(TRAIN, WEIGHT)], rtol=1e-5)
    np.testing.assert_allclose(history["val_loss"], [crossentropy(REST, WEIGHT)], rtol=1e-5)


@pytest.mark.parametrize("weights", ["sample_weight", "class_weight"])
def test_weights_do_not_apply_to_validation_data(weights):
    given = {"sample_weight": WEIGHT, "class_weight": BY_CLASS}[weights]
    history = fit(validation_data=(X[AT:], Y[AT:]), **{weights: given})
    np.testing.assert_allclose(history["val_loss"], [crossentropy(REST)], rtol=1e-5)
    history = fit(validation_data=(X[AT:], Y[AT:], WEIGHT[AT:]), **{weights: given})
    np.testing.assert_allclose(history["val_loss"], [crossentropy(REST, WEIGHT)], rtol=1e-5)


def batches(*arrays):
    return lambda: (tuple(a[i : i + 4] for a in arrays) for i in range(0, len(arrays[0]), 4))


def test_class_weights_of_streams_apply_to_training_only():
    stream = batches(X[:AT], Y[:AT])
    history = trainer().fit(stream, class_weight=BY_CLASS, validation_data=batches(X[AT:], Y[AT:]), verbose=0).history
    np.testing.assert_allclose(history["loss"], [crossentropy(TRAIN, CLASS_WEIGHTS)], rtol=1e-5)
    np.testing.assert_allclose(history["val_loss"], [crossentropy(REST)], rtol=1e-5)


def test_shuffling_does_not_change_validation_data():
    """Only the first validation step is evaluated, so its result depends on the order of the rows."""
    for shuffle in (True, False):
        history = fit(validation_split=0.3, validation_steps=1, validation_batch_size=2, shuffle=shuffle)
        np.testing.assert_allclose(history["loss"], [crossentropy(TRAIN)], rtol=1e-5)
        np.testing.assert_allclose(history["val_loss"], [crossentropy(slice(AT, AT + 2))], rtol=1e-5)


OPTIONS = {
    "class weights and a split": {"class_weight": BY_CLASS, "validation_split": 0.3},
    "some class weights": {"class_weight": {1: 3.0}},
    "sample weights and a split": {"sample_weight": WEIGHT, "validation_split": 0.3},
    "data wins over a split": {"validation_split": 0.3, "validation_data": (X[:7], Y[:7])},
    "data wins, class weights": {"validation_split": 0.3, "validation_data": (X[:7], Y[:7]), "class_weight": BY_CLASS},
    "weights of validation": {"sample_weight": WEIGHT, "validation_data": (X[:7], Y[:7], WEIGHT[:7])},
    "one step": {"steps_per_epoch": 1, "batch_size": 8},
    "two of three steps": {"steps_per_epoch": 2, "batch_size": 8},
    "five of three steps": {"steps_per_epoch": 5, "batch_size": 8},
    "steps without a batch size": {"steps_per_epoch": 3},
    "steps of validation": {"validation_split": 0.5, "validation_steps": 2, "batch_size": 3},
    "steps of validation without a batch size": {"validation_split": 0.5, "validation_steps": 3},
    "too many steps of validation": {"validation_split": 0.5, "validation_steps": 9, "batch_size": 3},
    "a batch size of validation": {"validation_split": 0.5, "validation_steps": 2, "validation_batch_size": 4},
    "every second epoch": {"initial_epoch": 1, "validation_split": 0.2, "validation_freq": 2},
    "the first and the fourth epoch": {"validation_split": 0.2, "validation_freq": [1, 4]},
    "a later epoch and steps": {"initial_epoch": 1, "batch_size": 8, "steps_per_epoch": 2},
    "no epoch": {"initial_epoch": 4},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_fit_matches_keras(case):
    options = {"epochs": 4, "shuffle": False, "verbose": 0} | OPTIONS[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both libraries warn when the data ends early
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            theirs = in_keras()
            want, weights = theirs.fit(X, Y, **options).history, theirs.get_weights()
        ours = trainer(0.1)
        got = ours.fit(X, Y, **options).history
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, err_msg=name)
    for a, b in zip(interop.get_keras_weights(ours.model, ours.variables), weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_evaluate_and_predict_divide_data_into_the_given_steps(steps):
    """100 rows in three steps are 34, 34 and 32; batches of the default size 32 would omit four rows."""
    x, y = np.resize(X, (100, 3)), np.resize(Y, 100)
    ours = trainer()
    assert len(ours.predict(x, steps=steps)) == 100
    assert len(ours.predict(x, steps=steps, batch_size=20)) == 20 * steps
    np.testing.assert_allclose(ours.evaluate(x, y, steps=steps)["loss"], ours.evaluate(x, y)["loss"], rtol=1e-6)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = in_keras()
        assert len(theirs.predict(x, steps=steps, verbose=0)) == 100
