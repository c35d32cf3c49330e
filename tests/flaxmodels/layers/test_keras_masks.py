"""Masks in Sequential and functional models, compared with Keras: outputs, and losses, metrics and weights after training."""

import jax
import numpy as np
import pytest

import flaxmodels
from flaxmodels import interop
from training import Trainer, optimizers

keras = pytest.importorskip("keras")

RNG = np.random.default_rng(0)
N, T = 14, 6
IDS = RNG.integers(1, 9, (N, T)).astype("int32")
STEPS = RNG.normal(size=(N, T, 3)).astype("float32")
for i, length in enumerate(RNG.integers(1, T + 1, N)):
    IDS[i, length:] = 0
    STEPS[i, length:] = 0
IDS[3, 1] = 0  # a hole
STEPS[3, 1] = 0
STEPS[4] = 0  # nothing at all
CLASS = RNG.integers(0, 3, N).astype("int32")
CLASS_PER_STEP = RNG.integers(0, 3, (N, T)).astype("int32")
NUMBER_PER_STEP = RNG.normal(size=(N, T, 2)).astype("float32")


def embedding_lstm_dense(library):
    layers = library.layers
    return library.Sequential(
        [
            library.Input((T,), dtype="int32"),
            layers.Embedding(9, 4, mask_zero=True),
            layers.LSTM(5),
            layers.Dense(3, activation="softmax"),
        ]
    )


def masking_bidirectional_gru(library):
    layers = library.layers
    return library.Sequential(
        [
            library.Input((T, 3)),
            layers.Masking(0.0),
            layers.Bidirectional(layers.GRU(4, return_sequences=True)),
            layers.Bidirectional(layers.GRU(2), merge_mode="sum"),
            layers.Dense(3, activation="softmax"),
        ]
    )


def concatenated_branches(library):
    """Both branches have masks; the merged mask reaches the per-step outputs."""
    layers = library.layers
    ids, steps = library.Input((T,), dtype="int32"), library.Input((T, 3))
    embedded = layers.Embedding(9, 4, mask_zero=True)(ids)
    masked = layers.Masking(0.0)(steps)
    both = layers.Concatenate()([embedded, masked])
    return library.Model(
        [ids, steps], layers.Dense(3, activation="softmax")(layers.LSTM(4, return_sequences=True)(both))
    )


def time_distributed_dense(library):
    layers = library.layers
    return library.Sequential(
        [
            library.Input((T, 3)),
            layers.Masking(0.0),
            layers.TimeDistributed(layers.Dense(4, activation="tanh")),
            layers.SimpleRNN(3, return_sequences=True),
            layers.TimeDistributed(layers.Dense(2)),
        ]
    )


SPARSE = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
CASES = {
    "embedding": (embedding_lstm_dense, IDS, CLASS, SPARSE),
    "bidirectional": (masking_bidirectional_gru, STEPS, CLASS, SPARSE),
    "concatenate": (concatenated_branches, [IDS, STEPS], CLASS_PER_STEP, SPARSE),
    "time distributed": (time_distributed_dense, STEPS, NUMBER_PER_STEP, {"loss": "mse", "metrics": ["mae"]}),
}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("case", CASES)
def test_masks_as_keras(case, weighted):
    build, x, y, arguments = CASES[case]
    shape = y.shape if y.ndim == 1 else (N, T)
    weight = RNG.uniform(0.5, 2, shape).astype("float32") if weighted else None
    arguments = arguments | ({"weighted_metrics": arguments["metrics"]} if weighted else {})
    options = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0, "sample_weight": weight}
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = build(keras)
        start = theirs.get_weights()
        theirs.compile(optimizer="adam", **arguments)
        outputs = theirs.predict(x, verbose=0)
        want = theirs.fit(x, y, **options).history
        evaluated = theirs.evaluate(x, y, batch_size=5, verbose=0, return_dict=True)
        weights = theirs.get_weights()

    ours = build(flaxmodels)
    one = jax.tree.map(lambda a: a[:1], x)
    variables = interop.set_keras_weights(ours, ours.init(jax.random.key(0), one), start)
    trainer = Trainer(ours, "adam", variables=variables, **arguments)
    np.testing.assert_allclose(trainer.predict(x), outputs, rtol=1e-5, atol=1e-6)
    got = trainer.fit(x, y, **options).history
    assert set(got) == set(want)
    np.testing.assert_allclose(got["loss"], want["loss"], rtol=2e-5)
    if y.ndim == 1:  # Keras' fit, unlike its evaluate, forgets the mask of the outputs in metrics
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=2e-5, err_msg=name)
    for name, value in trainer.evaluate(x, y, batch_size=5).items():
        np.testing.assert_allclose(value, evaluated[name], rtol=2e-5, err_msg=name)
    for a, b in zip(interop.get_keras_weights(ours, trainer.variables), weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["concatenate", "time distributed"])
def test_training_metrics_use_the_mask_as_evaluation_does(case):
    build, x, y, arguments = CASES[case]
    trainer = Trainer(build(flaxmodels), optimizers.SGD(0.0), **arguments)
    trained = trainer.fit(x, y, batch_size=4, verbose=0).history
    evaluated = trainer.evaluate(x, y, batch_size=5)
    (name,) = arguments["metrics"]
    np.testing.assert_allclose(trained[name][0], evaluated[name], rtol=1e-6)
