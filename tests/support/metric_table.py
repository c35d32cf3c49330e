"""A table with one row per metric and set of arguments, used by all tests of metrics."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests.support import loss_table as data

F32 = np.float32


class Row(NamedTuple):
    """A metric class, its arguments, and a function (rng, batch) -> the arguments of an update."""

    name: str
    kwargs: dict[str, Any]
    data: Callable[[np.random.Generator, int], tuple[np.ndarray, ...]]
    weighted: bool = True  # whether Keras takes weights [B] for such data

    @property
    def id(self) -> str:
        return "-".join([self.name, self.data.__name__, *(f"{k}={v}" for k, v in self.kwargs.items())])

    def arrays(self, batch: int = 7, seed: int = 0) -> tuple[np.ndarray, ...]:
        return self.data(np.random.default_rng(seed), batch)


def values(rng, b):
    return (rng.normal(size=(b,)).astype(F32),)


def value_sequences(rng, b):
    return (rng.normal(size=(b, 3)).astype(F32),)


def flat_reals(rng, b):
    return rng.normal(size=(b,)).astype(F32), rng.normal(size=(b,)).astype(F32)


def wide_reals(rng, b):
    return rng.normal(size=(b, 6)).astype(F32), rng.normal(size=(b, 6)).astype(F32)


def numbers(rng, b):
    return rng.integers(0, 3, (b, 1)).astype(np.int32), rng.integers(0, 3, (b, 1)).astype(np.int32)


def flat_bits(rng, b):
    return rng.integers(0, 2, (b,)).astype(F32), rng.uniform(0, 1, (b,)).astype(F32)


def round_bits(rng, b):
    """Returns predictions that are equal to thresholds."""
    return rng.integers(0, 2, (b, 3)).astype(F32), (rng.integers(0, 5, (b, 3)) / 4).astype(F32)


def sorted_ids(rng, b):
    ranks = np.argsort(rng.random((b, 6)), axis=-1)
    return rng.integers(0, 6, (b,)).astype(np.int32), ranks.astype(np.int32)


def one_hot_rows(rng, b):
    return data.one_hot(rng.integers(0, 6, b), 6), rng.normal(size=(b, 6)).astype(F32)


def label_rows(rng, b):
    return rng.integers(0, 6, (b,)).astype(np.int32), rng.normal(size=(b, 6)).astype(F32)


def tied_rows(rng, b):
    return rng.integers(0, 4, (b,)).astype(np.int32), rng.integers(0, 3, (b, 4)).astype(F32)


def label_images(rng, b):
    return rng.integers(0, 3, (b, 2, 2)).astype(np.int32), rng.integers(0, 3, (b, 2, 2)).astype(np.int32)


def class_images(rng, b):
    return data.one_hot(rng.integers(0, 3, (b, 2, 2)), 3), rng.normal(size=(b, 2, 2, 3)).astype(F32)


def labels_alone(rng, b):
    return rng.integers(0, 3, (b,)).astype(np.int32), rng.integers(0, 3, (b,)).astype(np.int32)


def one_hot_labels(rng, b):
    return data.one_hot(rng.integers(0, 3, b), 3), rng.normal(size=(b, 3)).astype(F32)


def soft_bits(rng, b):
    return rng.integers(0, 2, (b, 3)).astype(F32), rng.uniform(0.0, 1.0, (b, 3)).astype(F32)


def rows(name, *kinds, weighted=True, **kwargs):
    return [Row(name, kwargs, kind, weighted) for kind in kinds]


ROWS = [
    *rows("Mean", values, value_sequences),
    *rows("Sum", values, value_sequences),
    *rows("Accuracy", numbers),
    *rows("BinaryAccuracy", data.bits, flat_bits, data.integer_bits),
    *rows("BinaryAccuracy", data.bits, threshold=0.3),
    *rows("CategoricalAccuracy", data.classes, data.class_sequences),
    *rows("SparseCategoricalAccuracy", data.indices, data.index_columns, data.index_sequences),
    *rows("TopKCategoricalAccuracy", one_hot_rows),
    *rows("TopKCategoricalAccuracy", data.class_sequences, k=2),
    *rows("SparseTopKCategoricalAccuracy", label_rows),
    *rows("SparseTopKCategoricalAccuracy", tied_rows, data.index_sequences, k=2),
    *rows("SparseTopKCategoricalAccuracy", sorted_ids, k=3, from_sorted_ids=True),
    *rows("MeanSquaredError", data.reals, data.sequences),
    *rows("MeanAbsoluteError", data.reals, data.sequences),
    *rows("MeanAbsolutePercentageError", data.reals),
    *rows("MeanSquaredLogarithmicError", data.positives),
    *rows("RootMeanSquaredError", data.reals, flat_reals, data.sequences),
    *rows("LogCoshError", data.reals),
    *rows("CosineSimilarity", data.reals),
    *rows("CosineSimilarity", data.sequences, axis=1),
    *rows("PearsonCorrelation", wide_reals),
    *rows("ConcordanceCorrelation", wide_reals),
    *rows("R2Score", data.reals),
    *rows("R2Score", data.reals, class_aggregation=None),
    *rows("R2Score", data.reals, class_aggregation="variance_weighted_average", num_regressors=2),
    *rows("BinaryCrossentropy", data.bits),
    *rows("BinaryCrossentropy", data.bit_logits, from_logits=True, label_smoothing=0.1),
    *rows("CategoricalCrossentropy", data.classes, data.class_sequences),
    *rows("CategoricalCrossentropy", data.class_logits, from_logits=True, label_smoothing=0.1),
    *rows("SparseCategoricalCrossentropy", data.indices, data.index_sequences),
    *rows("SparseCategoricalCrossentropy", data.index_logits, from_logits=True, ignore_class=1),
    *rows("KLDivergence", data.soft_classes),
    *rows("Poisson", data.counts),
    *rows("Hinge", data.signs, data.bits),
    *rows("SquaredHinge", data.signs),
    *rows("CategoricalHinge", data.classes),
    *rows("TruePositives", data.bits, flat_bits),
    *rows("FalsePositives", data.bits, thresholds=[0.2, 0.7]),
    *rows("TrueNegatives", round_bits, thresholds=[0.0, 0.25, 0.5, 0.75, 1.0]),
    *rows("FalseNegatives", round_bits, thresholds=[0.25, 0.5]),
    *rows("Precision", data.bits),
    *rows("Precision", round_bits, thresholds=[0.0, 0.5, 1.0]),
    *rows("Precision", soft_bits, top_k=2),
    *rows("Precision", soft_bits, top_k=2, class_id=1),
    *rows("Recall", data.bits, thresholds=0.3),
    *rows("Recall", soft_bits, top_k=1, thresholds=[0.2, 0.6]),
    *rows("Recall", soft_bits, class_id=2),
    *rows("SensitivityAtSpecificity", flat_bits, data.bits, specificity=0.4),
    *rows("SpecificityAtSensitivity", flat_bits, sensitivity=0.6, num_thresholds=1),
    *rows("SpecificityAtSensitivity", data.bits, sensitivity=0.6),
    *rows("PrecisionAtRecall", flat_bits, recall=0.5),
    *rows("PrecisionAtRecall", soft_bits, recall=0.5, class_id=0),
    *rows("RecallAtPrecision", flat_bits, precision=0.5, num_thresholds=2),
    *rows("RecallAtPrecision", data.bits, precision=0.5),
    *rows("AUC", flat_bits, round_bits),
    *rows("AUC", data.bit_logits, from_logits=True, summation_method="minoring"),
    *rows("AUC", flat_bits, curve="PR"),
    *rows("AUC", flat_bits, curve="PR", summation_method="majoring", num_thresholds=7),
    *rows("AUC", flat_bits, curve="PRGAIN"),
    *rows("AUC", round_bits, thresholds=[0.6, 0.1, 0.5]),
    *rows("AUC", round_bits, thresholds=[0.25, 0.5, 0.75]),
    *rows("AUC", soft_bits, multi_label=True),
    *rows("AUC", soft_bits, multi_label=True, num_labels=3, label_weights=[0.1, 0.5, 2.0], curve="PR"),
    *rows("AUC", soft_bits, label_weights=[0.1, 0.5, 2.0]),
    *rows("AUC", soft_bits, multi_label=True, thresholds=[0.2, 0.5]),
    *rows("F1Score", soft_bits),
    *rows("F1Score", soft_bits, average="macro", threshold=0.4),
    *rows("FBetaScore", soft_bits, average="micro", beta=2.0),
    *rows("FBetaScore", one_hot_labels, average="weighted", beta=0.5),
    *rows("IoU", labels_alone, num_classes=3, target_class_ids=[0, 2], dtype="float32"),
    *rows("IoU", label_images, num_classes=3, target_class_ids=(1,), dtype="float32", weighted=False),
    *rows("BinaryIoU", flat_bits, dtype="float32"),
    *rows("BinaryIoU", round_bits, target_class_ids=[1], threshold=0.25, dtype="float32", weighted=False),
    *rows("MeanIoU", labels_alone, num_classes=5, dtype="float32"),
    *rows("MeanIoU", label_images, num_classes=3, ignore_class=0, weighted=False),
    *rows("MeanIoU", class_images, num_classes=3, sparse_y_true=False, sparse_y_pred=False, weighted=False),
    *rows("OneHotIoU", one_hot_labels, num_classes=3, target_class_ids=[0, 1], dtype="float32"),
    *rows("OneHotMeanIoU", class_images, num_classes=3, weighted=False),
]
