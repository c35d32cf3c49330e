"""Random programs, one per integer: a model, the arguments of compile, and a fit, here and in Keras.

    python -m tests.support.program_fuzz 0 1000    # programs 0 to 999; prints those that differ, and a summary
    python -m tests.support.program_fuzz 17 18 -v  # one program, with its description

Some differences between the libraries are explained. The comparison then ignores a metric,
or uses an equivalent Keras program. `docs/keras-differences.md` lists the explained
differences, and `tests/test_keras_differences.py` shows which library is right.
"""

import collections
import os
import sys
import time
import traceback
import warnings
from typing import Any, NamedTuple
from unittest import mock

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np

import flaxmodels
import training
from flaxmodels import interop
from flaxmodels.graph import snake_case
from tests.support.masked_graphs import attention_that_keeps_masks
from tests.support.program_models import CLASSES, Builder, Head, Library, inputs_for, labels_for
from training import Trainer, schedules

OURS = Library(
    flaxmodels.layers, flaxmodels.Input, flaxmodels.Model, flaxmodels.Sequential,
    training.losses, training.metrics, training.optimizers, schedules, False,
)  # fmt: skip
KERAS = Library(
    keras.layers, keras.Input, keras.Model, keras.Sequential,
    keras.losses, keras.metrics, keras.optimizers, keras.optimizers.schedules, True,
)  # fmt: skip

# Class names with arguments, or names that are passed as strings.
LOSSES: dict[str, list[Any]] = {
    "sparse": ["sparse_categorical_crossentropy", ("SparseCategoricalCrossentropy", {}), ("CategoricalGeneralizedCrossEntropy", {})],
    "one-hot": [
        "categorical_crossentropy", ("CategoricalCrossentropy", {"label_smoothing": 0.1}), "kl_divergence", "mse",
        ("CategoricalFocalCrossentropy", {}), "categorical_hinge",
    ],
    "binary": [
        "binary_crossentropy", "binary_crossentropy", ("BinaryCrossentropy", {"label_smoothing": 0.2}), "mse",
        ("BinaryFocalCrossentropy", {"apply_class_balancing": True}), "squared_hinge", "hinge",
    ],
    "number": [
        "mse", "mae", ("Huber", {"delta": 0.5}), "log_cosh", "msle", ("MeanSquaredError", {"reduction": "sum"}), "mape",
        ("MeanAbsoluteError", {"reduction": "mean_with_sample_weight"}), "cosine_similarity",
    ],
}  # fmt: skip
METRICS: dict[str, list[Any]] = {
    "sparse": [
        "accuracy", "accuracy", "sparse_categorical_accuracy", "sparse_categorical_crossentropy",
        ("SparseTopKCategoricalAccuracy", {"k": 2}), ("MeanIoU", {"num_classes": CLASSES, "sparse_y_pred": False}),
        ("IoU", {"num_classes": CLASSES, "target_class_ids": [0, 2], "sparse_y_pred": False}),
    ],
    "one-hot": [
        "accuracy", "categorical_accuracy", "categorical_crossentropy", ("TopKCategoricalAccuracy", {"k": 2}),
        ("OneHotMeanIoU", {"num_classes": CLASSES}), ("OneHotIoU", {"num_classes": CLASSES, "target_class_ids": [1]}),
        ("AUC", {"num_thresholds": 20}), ("Precision", {}), ("Recall", {"thresholds": 0.3}), "mae",
        ("F1Score", {"average": "macro"}), ("FBetaScore", {"average": "micro", "beta": 2.0}), "kl_divergence",
        ("CategoricalHinge", {}),
    ],
    "binary": [
        "accuracy", ("BinaryAccuracy", {"threshold": 0.4}), ("AUC", {"num_thresholds": 20, "curve": "PR"}),
        ("Precision", {}), ("Recall", {}), ("TruePositives", {}), ("FalseNegatives", {"thresholds": 0.6}),
        ("BinaryIoU", {"target_class_ids": [0, 1], "threshold": 0.5}), "binary_crossentropy", "hinge",
        ("SensitivityAtSpecificity", {"specificity": 0.5, "num_thresholds": 20}), "mse",
    ],
    "number": [
        "mse", "mae", "mape", "msle", ("RootMeanSquaredError", {}), ("R2Score", {}), ("CosineSimilarity", {}),
        ("LogCoshError", {}), ("PearsonCorrelation", {}), ("ConcordanceCorrelation", {}), "poisson",
    ],
}  # fmt: skip
ONLY_VECTORS = {"F1Score", "FBetaScore", "R2Score", "PearsonCorrelation", "ConcordanceCorrelation"}
CONFUSION = {"AUC", "Precision", "Recall", "TruePositives", "FalseNegatives", "SensitivityAtSpecificity"}
IOU = {"MeanIoU", "IoU", "OneHotMeanIoU", "OneHotIoU", "BinaryIoU"}
IGNORES_MASK = CONFUSION | IOU | {"RootMeanSquaredError"}
OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"learning_rate": 0.05}),
    ("SGD", {"learning_rate": 0.05, "momentum": 0.8}),
    ("SGD", {"learning_rate": 0.05, "momentum": 0.8, "nesterov": True}),
    ("RMSprop", {"learning_rate": 0.01}),
    ("RMSprop", {"learning_rate": 0.01, "rho": 0.7, "momentum": 0.6, "centered": True, "epsilon": 1e-3}),
    ("Adam", {"learning_rate": 0.01, "epsilon": 1e-3}),
    ("Adam", {"learning_rate": 0.01, "beta_2": 0.6, "amsgrad": True, "epsilon": 1e-3}),
    ("AdamW", {"learning_rate": 0.01, "weight_decay": 0.1, "epsilon": 1e-3}),
    ("Adamax", {"learning_rate": 0.01, "epsilon": 1e-3}),
    ("Nadam", {"learning_rate": 0.01, "epsilon": 1e-3}),
    ("Adagrad", {"learning_rate": 0.05}),
    ("Adadelta", {"learning_rate": 0.5, "epsilon": 1e-4}),
    ("Adafactor", {"learning_rate": 0.02, "epsilon_1": 1e-4}),
    ("Ftrl", {"learning_rate": 0.05, "l1_regularization_strength": 0.01, "l2_regularization_strength": 0.1}),
    ("Lion", {"learning_rate": 0.003}),
    ("Lamb", {"learning_rate": 0.01, "epsilon": 1e-3}),
    ("Muon", {"learning_rate": 0.01}),
]


# Runs with perturbed weights: an optimizer that uses signs, such as Lion, amplifies the rounding errors of gradients near 0.
PERTURBATIONS = 4


class Program(NamedTuple):
    """The parts of a program that do not depend on the library.

    Attributes:
        number: The integer that determines the program.
        metrics: For each output, (argument, metric) pairs; a metric is a name or a class name with arguments.
        tests: Arguments of `evaluate`.
        options: Arguments of `fit`.
        compiled: A function from a library to the arguments of `compile`.
    """

    number: int
    summary: list[str]
    kinds: list[str]
    heads: list[Head]
    data: tuple[Any, Any]
    tests: dict[str, Any]
    metrics: list[list[tuple[str, Any]]]
    options: dict[str, Any]
    optimizer: dict[str, Any]
    compiled: Any
    reasons: set[str]


def instantiate(module: Any, thing: Any, **more: Any) -> Any:
    return thing if isinstance(thing, str) else getattr(module, thing[0])(**thing[1], **more)


def draw_optimizer(rng: np.random.Generator) -> tuple[str, dict[str, Any]]:
    name, config = OPTIMIZERS[int(rng.integers(len(OPTIMIZERS)))]
    config = dict(config)
    if rng.random() < 0.15 and name != "AdamW":
        config["weight_decay"] = 0.05
    if rng.random() < 0.2:
        clip = ["clipnorm", "global_clipnorm", "clipvalue"][int(rng.integers(3))]
        config[clip] = float(rng.choice([0.05, 0.5]))
    if rng.random() < 0.15:
        config |= {"use_ema": True, "ema_momentum": 0.8}
        config |= {"ema_overwrite_frequency": 2} if rng.random() < 0.5 else {}
    if rng.random() < 0.15:
        config["gradient_accumulation_steps"] = 2
    if rng.random() < 0.2:
        rate = config["learning_rate"]
        config["learning_rate"] = [
            ("ExponentialDecay", {"initial_learning_rate": rate, "decay_steps": 2, "decay_rate": 0.7}),
            ("PiecewiseConstantDecay", {"boundaries": [2, 4], "values": [rate, rate / 2, rate / 4]}),
            ("CosineDecay", {"initial_learning_rate": rate, "decay_steps": 6, "alpha": 0.1}),
            ("InverseTimeDecay", {"initial_learning_rate": rate, "decay_steps": 2, "decay_rate": 0.5}),
            ("PolynomialDecay", {"initial_learning_rate": rate, "decay_steps": 5, "power": 2.0}),
        ][int(rng.integers(5))]
    return name, config


def draw(number: int) -> Program:
    """Draws the program that an integer determines."""
    rng = np.random.default_rng([number, 1])
    builder = Builder(OURS, number)
    model, kinds, heads = builder.build()
    n, pick = int(rng.integers(9, 14)), lambda *things: things[int(rng.integers(len(things)))]
    x = inputs_for(kinds, _Inputs(model.input_spec), rng, n)
    heads = masked_heads(model, heads, x)
    sparse = [bool(rng.integers(2)) for _ in heads]
    y = [labels_for(head, rng, n, s) for head, s in zip(heads, sparse, strict=True)]
    tables = [
        ("sparse" if s else "one-hot") if h.kind == "classes" else h.kind for h, s in zip(heads, sparse, strict=True)
    ]
    losses = [pick(*LOSSES[table]) for table in tables]
    metrics: list[list[tuple[str, Any]]] = []
    for table, head in zip(tables, heads, strict=True):
        usable = [m for m in METRICS[table] if len(head.shape) == 1 or m[0] not in ONLY_VECTORS]
        names, found = set(), []
        for _ in range(int(rng.integers(0, 4))):
            metric = pick(*usable)
            name = metric if isinstance(metric, str) else metric[0]
            if name not in names:
                names.add(name)
                found.append((pick("metrics", "metrics", "weighted_metrics"), metric))
        metrics.append(found)
    loss_weights = [float(rng.choice([0.5, 1.0, 2.0])) for _ in heads] if rng.random() < 0.3 else None
    optimizer = draw_optimizer(rng)

    def compiled(library: Library) -> dict[str, Any]:
        name, config = optimizer
        if isinstance(config["learning_rate"], tuple):
            config = config | {"learning_rate": instantiate(library.schedules, config["learning_rate"])}
        arguments = {
            "optimizer": getattr(library.optimizers, name)(**config),
            "loss": [instantiate(library.losses, loss) for loss in losses],
            "loss_weights": loss_weights,
        }
        for argument in ("metrics", "weighted_metrics"):
            chosen = [
                [instantiate(library.metrics, m, name=snake_case(m[0])) for a, m in several if a == argument]
                for several in metrics
            ]
            arguments[argument] = chosen if any(chosen) else None
        if len(heads) == 1:
            arguments |= {key: value[0] for key, value in arguments.items() if isinstance(value, list)}
        return arguments

    tests, options = draw_fit(rng, n, x, y, heads)
    reasons = set(builder.rewritten)
    if any(summary.startswith("MultiHeadAttention") for summary in builder.summary) and any(
        "mask" in summary for summary in builder.summary
    ):
        reasons.add("attention removes masks from its arguments")
    if tests["sample_weight"] is not None:
        # In these metrics, Keras cannot broadcast weights of examples or time steps to such outputs.
        for several, head in zip(metrics, heads, strict=True):
            unweighted = CONFUSION | IOU if len(head.shape) > 1 else {"BinaryIoU"} if head.shape != (1,) else set()
            several[:] = [("metrics" if m[0] in unweighted else a, m) for a, m in several]
        if for_steps(tests["sample_weight"], heads) is not tests["sample_weight"]:
            reasons.add("Keras cannot apply weights per example to a loss per step")
    one = lambda trees: trees[0] if len(trees) == 1 else trees  # noqa: E731
    summary = [
        *builder.summary,
        f"losses {losses}",
        f"metrics {metrics}",
        f"loss weights {loss_weights}",
        f"{optimizer}",
    ]
    return Program(
        number,
        summary,
        kinds,
        heads,
        (one(x), one(y)),
        tests,
        metrics,
        options,
        dict(optimizer[1]),
        compiled,
        reasons,
    )


def masked_heads(model: Any, heads: list[Head], x: list[Any]) -> list[Head]:
    """Returns the heads with exact values of `masked`, which the builder only estimates."""
    inputs = x[0] if len(x) == 1 else x
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
    _, masks = jax.eval_shape(lambda v, x: model.apply(v, x, method="outputs_and_mask"), variables, inputs)
    masks = masks if isinstance(masks, list | tuple) else [masks]
    return [head._replace(masked=mask is not None) for head, mask in zip(heads, masks, strict=True)]


class _Inputs:
    """Has the attribute `inputs` of a Keras model."""

    def __init__(self, spec: Any):
        self.inputs = jax.tree.leaves(spec)


def draw_fit(
    rng: np.random.Generator, n: int, x: list[Any], y: list[Any], heads: list[Head]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draws the arguments of `evaluate` and of `fit`."""
    options: dict[str, Any] = {"batch_size": int(rng.choice([3, 4, 5, 16])), "epochs": int(rng.integers(1, 4))}
    options |= {"shuffle": False, "verbose": 0}
    weight, kind = None, rng.random()
    if kind < 0.3:
        weight = [rng.uniform(0.3, 2, n).astype("float32") for _ in heads]
        if len(heads) == 1 and len(heads[0].shape) == 2 and rng.random() < 0.5:
            weight = [rng.uniform(0.3, 2, (n, heads[0].shape[0])).astype("float32")]
        weight = weight[0] if len(heads) == 1 or rng.random() < 0.5 else weight
        options["sample_weight"] = weight
    elif kind < 0.4 and len(heads) == 1 and heads[0].kind == "classes" and len(heads[0].shape) == 1:
        options["class_weight"] = {0: 0.5, 1: 2.0}
    one = lambda trees: trees[0] if len(trees) == 1 else trees  # noqa: E731
    tests = {"batch_size": int(rng.choice([5, n])), "sample_weight": weight}
    validation = rng.random()
    if validation < 0.25:
        options["validation_split"] = float(rng.choice([0.3, 0.5]))
    elif validation < 0.5:
        m = int(rng.integers(4, n))
        given = (one([a[:m] for a in x]), one([a[:m] for a in y]))
        if weight is not None and rng.random() < 0.5:
            given += ([w[:m] for w in weight] if isinstance(weight, list) else weight[:m],)
        options["validation_data"] = given
        options["validation_batch_size"] = tests["batch_size"]
    if validation < 0.5 and rng.random() < 0.3:
        options["validation_steps"] = 1
    if validation < 0.5 and rng.random() < 0.3:
        options["validation_freq"] = [2, [1, 3]][int(rng.integers(2))]
    if rng.random() < 0.15:
        options["steps_per_epoch"] = int(rng.integers(1, 4))
        if rng.random() < 0.4:
            del options["batch_size"]
    if options["epochs"] > 1 and rng.random() < 0.15:
        options["initial_epoch"] = 1
    return tests, options


# ---------------------------------------------------------------- running


class Outcome(NamedTuple):
    """The results of a program, with the same names for both libraries."""

    before: dict[str, float]
    predicted_before: list[np.ndarray]
    history: dict[str, list[float]]
    weights: list[np.ndarray]
    predicted: list[np.ndarray]
    after: dict[str, float]


def run_keras(program: Program) -> tuple[list[np.ndarray], Outcome]:
    """Runs a program in Keras; returns its initial weights and the outcome."""
    keras.utils.clear_session(free_memory=False)
    attention = mock.patch.object(keras.layers.MultiHeadAttention, "call", attention_that_keeps_masks)
    with attention, jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        model, _, _ = Builder(KERAS, program.number).build()
        layers = in_our_order(model.layers, program.number)
        start = [start_weights(layer.get_weights(), program.number) for layer in layers]
        for layer, weights in zip(layers, start, strict=True):
            layer.set_weights(weights)
        model.compile(**program.compiled(KERAS))
        x, y = program.data
        tests = program.tests | {"verbose": 0, "return_dict": True}
        options = dict(program.options)
        for given in (tests, options):
            if given.get("sample_weight") is not None:
                given["sample_weight"] = for_steps(given["sample_weight"], program.heads)
        if len(options.get("validation_data", ())) == 3:
            vx, vy, weight = options["validation_data"]
            options["validation_data"] = vx, vy, for_steps(weight, program.heads)
        predicted_before = model.predict(x, batch_size=16, verbose=0)
        before = model.evaluate(x, y, **tests)
        history = model.fit(x, y, **options).history
        weights = [w for layer in layers for w in layer.get_weights()]
        predicted = model.predict(x, batch_size=16, verbose=0)
        after = model.evaluate(x, y, **tests)
    leaves = jax.tree.leaves
    start = [w for weights in start for w in weights]
    return start, Outcome(before, leaves(predicted_before), history, weights, leaves(predicted), after)


def in_our_order(layers: list[Any], number: int) -> list[Any]:
    """Sorts Keras' layers in the order of ours; layers that exist only in equivalent Keras programs are first.

    The latter have no weights, but change the order of other layers in Keras' graph.
    """
    names = [layer.name for layer in Builder(OURS, number).build()[0].layers]
    return sorted(layers, key=lambda layer: names.index(layer.name) if layer.name in names else -1)


def start_weights(weights: list[np.ndarray], number: int) -> list[np.ndarray]:
    """Adds small positive numbers to Keras' initial values, so that biases are not 0 and variances are positive."""
    rng = np.random.default_rng([number, 2])
    return [
        (w + rng.uniform(0.02, 0.1, w.shape)).astype(w.dtype) if np.issubdtype(w.dtype, np.floating) else w
        for w in weights
    ]


def for_steps(weight: Any, heads: list[Head]) -> Any:
    """Broadcasts weights [N] to [N, T] for outputs [N, T, C], which Keras does not support."""
    each = weight if isinstance(weight, list) else [weight] * len(heads)
    sequences = [len(head.shape) > 1 and w.ndim == 1 for w, head in zip(each, heads, strict=True)]
    if not any(sequences):
        return weight
    wide = [
        np.repeat(w[:, None], head.shape[0], 1) if repeated else w
        for w, head, repeated in zip(each, heads, sequences, strict=True)
    ]
    return wide[0] if len(wide) == 1 else wide


def our_trainer(program: Program) -> Trainer:
    return Trainer(Builder(OURS, program.number).build()[0], nonfinite="ignore", **program.compiled(OURS))


def run_ours(program: Program, trainer: Trainer, start: list[np.ndarray]) -> Outcome:
    x, y = program.data
    empty = jax.eval_shape(trainer.model.init, jax.random.key(0), jax.tree.map(lambda a: a[:1], x))
    empty = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), {k: v for k, v in empty.items() if k != "losses"})
    trainer.state = None
    trainer.variables = interop.set_keras_weights(trainer.model, empty, start)
    predicted_before = trainer.predict(x, batch_size=4)
    before = trainer.evaluate(x, y, **program.tests)
    history = trainer.fit(x, y, **program.options).history
    weights = interop.get_keras_weights(trainer.model, trainer.variables)
    predicted, after = trainer.predict(x, batch_size=4), trainer.evaluate(x, y, **program.tests)
    leaves = jax.tree.leaves
    return Outcome(before, leaves(predicted_before), history, weights, leaves(predicted), after)


# ---------------------------------------------------------------- explained differences


def ignored_values(program: Program) -> dict[str, str]:
    """Returns the values that are known to differ from Keras, each with the reason.

    The keys are "fit", "val" or "test", followed by the name of the metric in Keras' logs.
    """
    found: dict[str, str] = {}
    several = len(program.heads) > 1
    for head, metrics in zip(program.heads, program.metrics, strict=True):
        for argument, metric in metrics:
            cls = metric if isinstance(metric, str) else metric[0]
            stem = metric if isinstance(metric, str) else snake_case(metric[0])
            names = {f"{head.name}_{stem}" if several else stem}
            weighted = argument == "weighted_metrics" and (
                program.tests["sample_weight"] is not None or "class_weight" in program.options
            )
            for name in names:
                if head.masked:
                    found[f"fit {name}"] = "`fit` computes metrics without the mask"
                if head.masked and cls in IGNORES_MASK:
                    reason = "confusion, IoU and root-mean metrics ignore the mask"
                    found |= {f"{place} {name}": reason for place in ("val", "test")}
                if weighted and cls in IOU:
                    reason = "IoU metrics cast weights to integers"
                    found |= {f"{place} {name}": reason for place in ("fit", "val", "test")}
    return found


# ---------------------------------------------------------------- comparing


def differences(want: Outcome, got: Outcome, floor: Outcome | None, ignored: dict[str, str]) -> dict[str, str]:
    """Returns the differences that exceed rounding errors, in a dictionary keyed by name.

    Args:
        want: The outcome of Keras.
        got: Our outcome.
        floor: Our outcome for perturbed initial weights. Differences of this size are rounding errors and are
            accepted. None for the first comparison.
        ignored: Values that are not compared, from `ignored_values`.
    """
    found: dict[str, str] = {}

    def compare(name: str, a: Any, b: Any, c: Any, rtol: float, atol: float) -> None:
        a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
        if a.shape != b.shape:
            found[name] = f"shape {a.shape} in Keras, {b.shape} here"
            return
        room = atol + rtol * np.abs(a) + (0 if c is None else 20 * np.abs(b - np.asarray(c, "float64")).max(initial=0))
        same = (np.abs(a - b) <= room) | (a == b) | (np.isnan(a) & np.isnan(b))
        if not same.all():
            at = np.argmax(np.where(same, 0, np.nan_to_num(np.abs(a - b), nan=np.inf)))
            found[name] = f"{a.flat[at]:.7g} in Keras, {b.flat[at]:.7g} here"

    def values(place: str, keras_values: dict[str, Any], ours: dict[str, Any], third: Any, rtol: float) -> None:
        if set(keras_values) != set(ours):
            found[f"{place} names"] = f"{sorted(set(keras_values) ^ set(ours))}"
        for name in sorted(set(keras_values) & set(ours)):
            kind = "val" if name.startswith("val_") and place == "fit" else place
            key = f"{kind} {name.removeprefix('val_') if kind == 'val' else name}"
            if key not in ignored:
                compare(f"{place} {name}", keras_values[name], ours[name], third and third[name], rtol, 1e-6)

    for i, (a, b) in enumerate(zip(want.predicted_before, got.predicted_before, strict=True)):
        compare(f"prediction {i} before", a, b, floor and floor.predicted_before[i], 1e-4, 1e-5)
    values("test", want.before, got.before, floor and floor.before, 1e-4)
    found = {name if "before" in name else f"before: {name}": text for name, text in found.items()}
    if found:
        return found
    values("fit", want.history, got.history, floor and floor.history, 3e-4)
    for i, (a, b) in enumerate(zip(want.weights, got.weights, strict=True)):
        compare(f"weight {i}", a, b, floor and floor.weights[i], 1e-3, 1e-4)
    for i, (a, b) in enumerate(zip(want.predicted, got.predicted, strict=True)):
        compare(f"prediction {i}", a, b, floor and floor.predicted[i], 1e-3, 1e-4)
    values("test", want.after, got.after, floor and floor.after, 1e-3)
    return found


def perturbed(start: list[np.ndarray], number: int, seed: int) -> list[np.ndarray]:
    """Perturbs weights by relative errors of two units in the last place."""
    rng = np.random.default_rng([number, 3, seed])
    return [(w * (1 + rng.choice([-2.4e-7, 2.4e-7], w.shape))).astype(w.dtype) for w in start]


class Report(NamedTuple):
    """The result of a comparison: the differences, and why values were ignored or the Keras program was replaced by an
    equivalent one."""

    different: dict[str, str]
    reasons: set[str]


def check(number: int) -> Report:
    """Draws a program with an integer as seed, runs it in both libraries, and compares the results."""
    program = draw(number)
    ignored = ignored_values(program)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start, want = run_keras(program)
        trainer = our_trainer(program)
        got = run_ours(program, trainer, start)
        found = differences(want, got, None, ignored)
        for seed in range(PERTURBATIONS):
            if found:
                again = run_ours(program, trainer, perturbed(start, number, seed))
                still = differences(want, got, again, ignored)
                found = {name: text for name, text in found.items() if name in still}
    return Report(found, set(ignored.values()) | program.reasons)


def main(arguments: list[str]) -> int:
    numbers, verbose = range(*map(int, arguments[:2])), "-v" in arguments
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    counts: collections.Counter[str] = collections.Counter()
    for number in numbers:
        start_time = time.perf_counter()
        if verbose:
            program = draw(number)
            print("\n".join(program.summary), program.kinds, program.heads, program.options, sep="\n")
        try:
            report = check(number)
            different = report.different
        except Exception as error:
            report, different = Report({}, set()), {"error": f"{type(error).__name__}: {str(error)[:300]}"}
            if verbose:
                traceback.print_exc()
        outcome = "different" if different else "explained" if report.reasons else "agreed"
        counts.update([outcome, *(f"  {reason}" for reason in report.reasons)])
        for name, text in different.items():
            print(f"{number} {name}: {text}", flush=True)
        if verbose or number % 20 == 19:
            print(f"-- {number}: {outcome}, {time.perf_counter() - start_time:.1f} s; {dict(counts)}", flush=True)
        if number % 20 == 19:
            jax.clear_caches()
    print("\n".join(f"{count:5d} {name}" for name, count in sorted(counts.items())))
    return int(counts["different"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
