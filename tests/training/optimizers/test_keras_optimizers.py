"""Compares training runs of 30 steps with Keras on its JAX backend, with every optimizer and its options."""

import itertools

import jax
import numpy as np
import pytest

import flaxmodels
from flaxmodels import Input, interop
from training import Trainer, optimizers, schedules

keras = pytest.importorskip("keras")

EXAMPLES, BATCH, EPOCHS = 46, 8, 5  # five full batches and one of 6, repeated five times
RNG = np.random.default_rng(0)
KIND = RNG.integers(0, 3, EXAMPLES).astype("int32")
IMAGES = RNG.normal(size=(EXAMPLES, 8, 8, 1)).astype("float32") + KIND[:, None, None, None]
SEQUENCES = RNG.normal(size=(EXAMPLES, 5, 3)).astype("float32") + KIND[:, None, None]
SEQUENCES[np.arange(5) >= RNG.integers(1, 6, (EXAMPLES, 1))] = 0
ROWS = RNG.normal(size=(EXAMPLES, 4)).astype("float32") + KIND[:, None]
SIZE = ROWS.sum(axis=1, keepdims=True) + KIND[:, None]


def cnn(library, inputs):
    # If normalization followed a bias, the gradient of the bias would consist of rounding errors.
    of = library.layers
    return library.Sequential(
        [
            inputs((8, 8, 1)),
            of.Conv2D(4, (3, 3), use_bias=False, kernel_regularizer="l2"),
            of.BatchNormalization(momentum=0.8),
            of.Activation("relu", activity_regularizer=library.regularizers.L2(1e-3)),
            of.MaxPooling2D((2, 2)),
            of.Flatten(),
            of.Dense(
                3, activation="softmax", bias_regularizer="l2", kernel_constraint=library.constraints.MaxNorm(0.9)
            ),
        ]
    )


def masked_lstm(library, inputs):
    of = library.layers
    lstm = of.LSTM(4, recurrent_regularizer="l2", kernel_constraint=library.constraints.MaxNorm(0.7))
    return library.Sequential([inputs((5, 3)), of.Masking(), lstm, of.Dense(3, activation="softmax")])


def two_outputs(library, inputs):
    of, x = library.layers, inputs((4,))
    hidden = of.Dense(4, activation="tanh", kernel_regularizer="l2", bias_regularizer="l2", name="hidden")(x)
    kind = of.Dense(3, activation="softmax", activity_regularizer="l2", name="kind")(hidden)
    size = of.Dense(1, kernel_constraint="non_neg", name="size")(of.Concatenate()([hidden, x]))
    return library.Model(x, [kind, size])


CROSS_ENTROPY = "sparse_categorical_crossentropy"
ONE = {"loss": CROSS_ENTROPY, "metrics": ["accuracy"], "weighted_metrics": ["accuracy"]}
TWO = {
    "loss": [CROSS_ENTROPY, "mse"],
    "loss_weights": [1.0, 0.3],
    "metrics": [["accuracy"], ["mae"]],
    "weighted_metrics": [[], ["mse"]],
}
MODELS = {
    "cnn": (cnn, IMAGES, KIND, ONE),
    "lstm": (masked_lstm, SEQUENCES, KIND, ONE),
    "two outputs": (two_outputs, ROWS, [KIND, SIZE], TWO),
}
OPTIMIZERS = [
    ("SGD", {"learning_rate": 0.05, "momentum": 0.9}),
    ("SGD", {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True}),
    ("RMSprop", {"learning_rate": 0.003}),
    ("RMSprop", {"learning_rate": 0.003, "momentum": 0.5, "centered": True}),
    ("Adam", {"learning_rate": 0.01}),
    ("Adam", {"learning_rate": 0.01, "beta_2": 0.7, "amsgrad": True}),
    ("AdamW", {"learning_rate": 0.01, "weight_decay": 0.1}),
    ("Adadelta", {"learning_rate": 0.5}),
    ("Adagrad", {"learning_rate": 0.05}),
    ("Adamax", {"learning_rate": 0.01}),
    ("Adafactor", {"learning_rate": 0.02}),
    ("Nadam", {"learning_rate": 0.01}),
    ("Ftrl", {"learning_rate": 0.1, "l1_regularization_strength": 0.001}),
    ("Lion", {"learning_rate": 0.001}),
    ("Lamb", {"learning_rate": 0.01}),
    ("Muon", {"learning_rate": 0.01}),
    ("ScheduleFreeAdamW", {"learning_rate": 0.01, "warmup_steps": 4}),
    ("LossScaleOptimizer", {"learning_rate": 0.05, "momentum": 0.9}),
]
OPTIONS = [
    {"clipnorm": 0.1},
    {"gradient_accumulation_steps": 4},
    {"weight_decay": 0.05, "schedule": "CosineDecay"},
    {"use_ema": True, "ema_momentum": 0.8},
    {"global_clipnorm": 0.2},
    {"schedule": "ExponentialDecay", "use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": 4},
    {"clipvalue": 0.05, "weight_decay": 0.1, "gradient_accumulation_steps": 2},
]
SCHEDULES = {
    "CosineDecay": {"decay_steps": 40, "alpha": 0.1},
    "ExponentialDecay": {"decay_steps": 9, "decay_rate": 0.5},
}
# Every model with every optimizer; options and sample weights alternate.
CASES = [
    (model, name, config | OPTIONS[i % len(OPTIONS)], i % 2 == 0 and model != "two outputs")
    for i, ((name, config), model) in enumerate(itertools.product(OPTIMIZERS, MODELS))
]
WEIGHT = RNG.uniform(0.2, 2, EXAMPLES).astype("float32")


def relaxed():
    """Allows the rank and dtype promotion that Keras needs."""
    return jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard")


@pytest.fixture(scope="module")
def built():
    """Returns a function from a model name to the Keras model, its weights, our model and its variables; cached."""
    cache = {}

    def of(name):
        if name not in cache:
            build, x, *_ = MODELS[name]
            ranks, dtypes = relaxed()
            with ranks, dtypes:
                keras.utils.set_random_seed(1)
                theirs = build(keras, keras.Input)
                start = theirs.get_weights()
            ours = build(flaxmodels, Input)
            variables = interop.set_keras_weights(ours, ours.init(jax.random.key(0), x[:1]), start)
            cache[name] = theirs, start, ours, variables
        return cache[name]

    return of


def made(name, config, library, schedules):
    """Makes an optimizer of either library."""
    config = dict(config)
    if schedule := config.pop("schedule", None):
        rate = config["learning_rate"]
        config["learning_rate"] = getattr(schedules, schedule)(rate, **SCHEDULES[schedule])
    if name == "LossScaleOptimizer":
        return library.LossScaleOptimizer(library.SGD(**config), initial_scale=64.0, dynamic_growth_steps=7)
    return getattr(library, name)(**config)


def case_id(value):
    if isinstance(value, dict):
        return ",".join(key for key in value if key not in ("learning_rate", "ema_momentum"))
    return value if isinstance(value, str) else "class_weight" if value else "sample_weight"


@pytest.mark.parametrize(("model", "name", "config", "by_class"), CASES, ids=case_id)
def test_thirty_steps_equal_keras(model, name, config, by_class, built):
    _, x, y, compiled = MODELS[model]
    theirs, start, ours, variables = built(model)
    options = {"batch_size": BATCH, "epochs": EPOCHS, "shuffle": False, "verbose": 0}
    if by_class:
        options["class_weight"] = {0: 0.5, 1: 2.0, 2: 1.0}
    else:
        options["sample_weight"] = [WEIGHT, WEIGHT[::-1]] if isinstance(y, list) else WEIGHT
    ranks, dtypes = relaxed()
    with ranks, dtypes:
        theirs.set_weights(start)
        theirs.compile(made(name, config, keras.optimizers, keras.optimizers.schedules), **compiled)
        want = theirs.fit(x, y, **options).history
        want_weights = theirs.get_weights()

    trainer = Trainer(ours, made(name, config, optimizers, schedules), variables=variables, **compiled)
    got = trainer.fit(x, y, **options).history
    assert set(got) == set(want)
    for log in want:
        np.testing.assert_allclose(got[log], want[log], rtol=1e-4, err_msg=log)
    weights = interop.get_keras_weights(ours, trainer.variables)
    for i, (a, b, before) in enumerate(zip(weights, want_weights, start, strict=True)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max(), err_msg=f"weight {i}, {b.shape}")
        assert np.abs(b - before).max() > 1e-4  # the weights have changed
