"""A table with one row per loss and set of arguments, used by all tests of losses."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

F32 = np.float32


class Row(NamedTuple):
    """A loss class, its arguments, and a function (rng, batch) -> (y_true, y_pred)."""

    name: str
    kwargs: dict[str, Any]
    data: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]

    @property
    def id(self) -> str:
        return "-".join([self.name, self.data.__name__, *(f"{k}={v}" for k, v in self.kwargs.items())])

    def arrays(self, batch: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        return self.data(np.random.default_rng(seed), batch)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def one_hot(labels, classes):
    return np.eye(classes, dtype=F32)[labels]


def reals(rng, b):
    return rng.normal(size=(b, 4)).astype(F32), rng.normal(size=(b, 4)).astype(F32)


def positives(rng, b):
    return rng.uniform(0.1, 3.0, (b, 4)).astype(F32), rng.uniform(0.1, 3.0, (b, 4)).astype(F32)


def sequences(rng, b):
    return rng.uniform(0.1, 2.0, (b, 3, 2)).astype(F32), rng.uniform(0.1, 2.0, (b, 3, 2)).astype(F32)


def counts(rng, b):
    return rng.poisson(2.0, (b, 4)).astype(np.int32), rng.uniform(0.1, 3.0, (b, 4)).astype(F32)


def bits(rng, b):
    return rng.integers(0, 2, (b, 4)).astype(F32), rng.uniform(0.02, 0.98, (b, 4)).astype(F32)


def integer_bits(rng, b):
    return rng.integers(0, 2, (b,)).astype(np.int32), rng.uniform(0.02, 0.98, (b, 1)).astype(F32)


def bit_logits(rng, b):
    return rng.integers(0, 2, (b, 4)).astype(F32), rng.normal(0.0, 3.0, (b, 4)).astype(F32)


def signs(rng, b):
    return rng.choice([-1.0, 1.0], (b, 4)).astype(F32), rng.normal(size=(b, 4)).astype(F32)


def classes(rng, b):
    return one_hot(rng.integers(0, 4, b), 4), softmax(rng.normal(size=(b, 4))).astype(F32)


def soft_classes(rng, b):
    return softmax(rng.normal(size=(b, 4))).astype(F32), rng.uniform(0.05, 1.0, (b, 4)).astype(F32)  # sums are not 1


def class_logits(rng, b):
    return one_hot(rng.integers(0, 4, b), 4), rng.normal(0.0, 3.0, (b, 4)).astype(F32)


def class_sequences(rng, b):
    return one_hot(rng.integers(0, 4, (b, 3)), 4), softmax(rng.normal(size=(b, 3, 4))).astype(F32)


def class_channels(rng, b):
    t, p = class_sequences(rng, b)
    return np.moveaxis(t, -1, 1), np.moveaxis(p, -1, 1)


def indices(rng, b):
    return rng.integers(0, 4, b).astype(np.int32), softmax(rng.normal(size=(b, 4))).astype(F32)


def index_columns(rng, b):
    return rng.integers(0, 4, (b, 1)).astype(np.int32), softmax(rng.normal(size=(b, 4))).astype(F32)


def index_logits(rng, b):
    return rng.integers(0, 4, b).astype(np.int32), rng.normal(0.0, 3.0, (b, 4)).astype(F32)


def index_sequences(rng, b):
    return rng.integers(0, 4, (b, 3)).astype(np.int32), softmax(rng.normal(size=(b, 3, 4))).astype(F32)


def images(rng, b):
    return rng.integers(0, 2, (b, 3, 3, 2)).astype(F32), rng.uniform(0.02, 0.98, (b, 3, 3, 2)).astype(F32)


def embeddings(rng, b):
    x = rng.normal(size=(b, 3))
    return rng.integers(0, 2, b).astype(np.int32), (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(F32)


def transcripts(rng, b):
    labels = rng.integers(1, 4, (b, 3))
    labels[np.arange(3)[None] >= rng.integers(0, 4, (b, 1))] = 0  # 0 to 3 labels, some repeated
    return labels.astype(np.int32), rng.normal(size=(b, 6, 4)).astype(F32)


def rows(name, *data, **kwargs):
    return [Row(name, kwargs, d) for d in data]


ROWS = [
    *rows("MeanSquaredError", reals, sequences),
    *rows("MeanAbsoluteError", reals, sequences),
    *rows("MeanAbsolutePercentageError", reals, sequences),
    *rows("MeanSquaredLogarithmicError", positives, sequences),
    *rows("Huber", reals, sequences),
    *rows("Huber", reals, delta=0.3),
    *rows("LogCosh", reals, sequences),
    *rows("Poisson", counts, sequences),
    *rows("CosineSimilarity", reals, sequences),
    *rows("CosineSimilarity", sequences, axis=1),
    *rows("Hinge", signs, bits, sequences),
    *rows("SquaredHinge", signs, bits),
    *rows("CategoricalHinge", classes, class_sequences),
    *rows("BinaryCrossentropy", bits, integer_bits, images),
    *rows("BinaryCrossentropy", bit_logits, from_logits=True),
    *rows("BinaryCrossentropy", bits, label_smoothing=0.2),
    *rows("BinaryCrossentropy", images, axis=1),
    *rows("BinaryFocalCrossentropy", bits, integer_bits),
    *rows("BinaryFocalCrossentropy", bit_logits, from_logits=True, gamma=1.5, label_smoothing=0.1),
    *rows("BinaryFocalCrossentropy", bits, apply_class_balancing=True, alpha=0.7),
    *rows("CategoricalCrossentropy", classes, soft_classes, class_sequences),
    *rows("CategoricalCrossentropy", class_logits, from_logits=True),
    *rows("CategoricalCrossentropy", classes, label_smoothing=0.2),
    *rows("CategoricalCrossentropy", class_channels, axis=1),
    *rows("CategoricalFocalCrossentropy", classes, soft_classes, class_sequences),
    *rows("CategoricalFocalCrossentropy", class_logits, from_logits=True, gamma=1.5, label_smoothing=0.1),
    *rows("CategoricalFocalCrossentropy", classes, alpha=(0.1, 0.2, 0.3, 0.4)),
    *rows("SparseCategoricalCrossentropy", indices, index_columns, index_sequences),
    *rows("SparseCategoricalCrossentropy", index_logits, from_logits=True),
    *rows("SparseCategoricalCrossentropy", indices, index_sequences, ignore_class=2),
    *rows("SparseCategoricalCrossentropy", index_logits, from_logits=True, ignore_class=0),
    *rows("CategoricalGeneralizedCrossEntropy", indices, index_sequences),
    *rows("CategoricalGeneralizedCrossEntropy", indices, q=0.8),
    *rows("KLDivergence", classes, soft_classes, class_sequences),
    *rows("Dice", bits, images),
    *rows("Dice", images, axis=(1, 2, 3)),
    *rows("Dice", images, axis=(0, 1, 2)),
    *rows("Tversky", bits, images),
    *rows("Tversky", images, alpha=0.3, beta=0.7, axis=(1, 2)),
    *rows("Circle", embeddings),
    *rows("Circle", embeddings, gamma=10.0, margin=0.2, remove_diagonal=False),
    *rows("CTC", transcripts),
]
