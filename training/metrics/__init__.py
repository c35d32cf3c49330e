"""Metrics with Keras' names, arguments and numbers, as pure functions of an explicit state.

Synopsis:
    m = metrics.AUC()
    state = m.empty()
    state = m.update(state, y_true, y_pred, sample_weight=weights, mask=is_example)
    m.compute(state)
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax

from flaxmodels.names import lookup, refuse_keras
from training.losses import Loss, kind_of_labels
from training.losses import binary_crossentropy as binary_crossentropy
from training.losses import binary_focal_crossentropy as binary_focal_crossentropy
from training.losses import categorical_crossentropy as categorical_crossentropy
from training.losses import categorical_focal_crossentropy as categorical_focal_crossentropy
from training.losses import categorical_hinge as categorical_hinge
from training.losses import hinge as hinge
from training.losses import huber as huber
from training.losses import kl_divergence as kl_divergence
from training.losses import log_cosh as log_cosh
from training.losses import mean_absolute_error as mean_absolute_error
from training.losses import mean_absolute_percentage_error as mean_absolute_percentage_error
from training.losses import mean_squared_error as mean_squared_error
from training.losses import mean_squared_logarithmic_error as mean_squared_logarithmic_error
from training.losses import poisson as poisson
from training.losses import sparse_categorical_crossentropy as sparse_categorical_crossentropy
from training.losses import squared_hinge as squared_hinge
from training.metrics.accuracies import Accuracy as Accuracy
from training.metrics.accuracies import BinaryAccuracy as BinaryAccuracy
from training.metrics.accuracies import CategoricalAccuracy as CategoricalAccuracy
from training.metrics.accuracies import SparseCategoricalAccuracy as SparseCategoricalAccuracy
from training.metrics.accuracies import SparseTopKCategoricalAccuracy as SparseTopKCategoricalAccuracy
from training.metrics.accuracies import TopKCategoricalAccuracy as TopKCategoricalAccuracy
from training.metrics.accuracies import accuracy as accuracy
from training.metrics.accuracies import binary_accuracy as binary_accuracy
from training.metrics.accuracies import categorical_accuracy as categorical_accuracy
from training.metrics.accuracies import sparse_categorical_accuracy as sparse_categorical_accuracy
from training.metrics.accuracies import sparse_top_k_categorical_accuracy as sparse_top_k_categorical_accuracy
from training.metrics.accuracies import top_k_categorical_accuracy as top_k_categorical_accuracy
from training.metrics.auc import AUC as AUC
from training.metrics.base import Mean as Mean
from training.metrics.base import MeanMetricWrapper as MeanMetricWrapper
from training.metrics.base import Metric as Metric
from training.metrics.base import RunningSum as RunningSum
from training.metrics.base import Sum as Sum
from training.metrics.base import snake_case
from training.metrics.classification import BinaryCrossentropy as BinaryCrossentropy
from training.metrics.classification import CategoricalCrossentropy as CategoricalCrossentropy
from training.metrics.classification import CategoricalHinge as CategoricalHinge
from training.metrics.classification import Hinge as Hinge
from training.metrics.classification import KLDivergence as KLDivergence
from training.metrics.classification import Poisson as Poisson
from training.metrics.classification import SparseCategoricalCrossentropy as SparseCategoricalCrossentropy
from training.metrics.classification import SquaredHinge as SquaredHinge
from training.metrics.confusion import FalseNegatives as FalseNegatives
from training.metrics.confusion import FalsePositives as FalsePositives
from training.metrics.confusion import Precision as Precision
from training.metrics.confusion import PrecisionAtRecall as PrecisionAtRecall
from training.metrics.confusion import Recall as Recall
from training.metrics.confusion import RecallAtPrecision as RecallAtPrecision
from training.metrics.confusion import SensitivityAtSpecificity as SensitivityAtSpecificity
from training.metrics.confusion import SpecificityAtSensitivity as SpecificityAtSensitivity
from training.metrics.confusion import TrueNegatives as TrueNegatives
from training.metrics.confusion import TruePositives as TruePositives
from training.metrics.fscore import F1Score as F1Score
from training.metrics.fscore import FBetaScore as FBetaScore
from training.metrics.overlap import BinaryIoU as BinaryIoU
from training.metrics.overlap import IoU as IoU
from training.metrics.overlap import MeanIoU as MeanIoU
from training.metrics.overlap import OneHotIoU as OneHotIoU
from training.metrics.overlap import OneHotMeanIoU as OneHotMeanIoU
from training.metrics.overlap import confusion_matrix as confusion_matrix
from training.metrics.overlap import plot_confusion_matrix as plot_confusion_matrix
from training.metrics.regression import ConcordanceCorrelation as ConcordanceCorrelation
from training.metrics.regression import CosineSimilarity as CosineSimilarity
from training.metrics.regression import LogCoshError as LogCoshError
from training.metrics.regression import MeanAbsoluteError as MeanAbsoluteError
from training.metrics.regression import MeanAbsolutePercentageError as MeanAbsolutePercentageError
from training.metrics.regression import MeanSquaredError as MeanSquaredError
from training.metrics.regression import MeanSquaredLogarithmicError as MeanSquaredLogarithmicError
from training.metrics.regression import PearsonCorrelation as PearsonCorrelation
from training.metrics.regression import R2Score as R2Score
from training.metrics.regression import RootMeanSquaredError as RootMeanSquaredError
from training.metrics.regression import concordance_correlation as concordance_correlation
from training.metrics.regression import pearson_correlation as pearson_correlation

CLASSES: tuple[type[Metric], ...] = (
    AUC,
    Accuracy,
    BinaryAccuracy,
    BinaryCrossentropy,
    BinaryIoU,
    CategoricalAccuracy,
    CategoricalCrossentropy,
    CategoricalHinge,
    ConcordanceCorrelation,
    CosineSimilarity,
    F1Score,
    FBetaScore,
    FalseNegatives,
    FalsePositives,
    Hinge,
    IoU,
    KLDivergence,
    LogCoshError,
    Mean,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanIoU,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    OneHotIoU,
    OneHotMeanIoU,
    PearsonCorrelation,
    Poisson,
    Precision,
    PrecisionAtRecall,
    R2Score,
    Recall,
    RecallAtPrecision,
    RootMeanSquaredError,
    SensitivityAtSpecificity,
    SparseCategoricalAccuracy,
    SparseCategoricalCrossentropy,
    SparseTopKCategoricalAccuracy,
    SpecificityAtSensitivity,
    SquaredHinge,
    Sum,
    TopKCategoricalAccuracy,
    TrueNegatives,
    TruePositives,
)

METRICS: dict[str, Callable[..., Metric]] = {
    **{m.__name__: m for m in CLASSES},
    **{snake_case(m.__name__): m for m in CLASSES},
    **dict.fromkeys(("bce", "BCE"), BinaryCrossentropy),
    **dict.fromkeys(("mae", "MAE"), MeanAbsoluteError),
    **dict.fromkeys(("mape", "MAPE"), MeanAbsolutePercentageError),
    **dict.fromkeys(("mse", "MSE"), MeanSquaredError),
    **dict.fromkeys(("msle", "MSLE"), MeanSquaredLogarithmicError),
}


MetricLike = str | Metric | type[Metric] | Loss | Callable[..., jax.Array]
_OfOutput = MetricLike | Sequence[MetricLike] | None
# The metrics of a model with one output, or a list or dictionary of metrics by output.
MetricsLike = MetricLike | Sequence[_OfOutput] | Mapping[str, _OfOutput]


def get(x: MetricLike) -> Metric:
    """Returns a metric.

    Args:
        x: A name, which also becomes the name of the metric; a `Metric` object or class; a loss, whose values
            are averaged; or a function (y_true, y_pred) -> [B].

    Raises:
        TypeError: If `x` has another type.
        ValueError: If no metric has that name.

    Example:
        >>> get("mse").name
        'mse'
    """
    if isinstance(x, Metric):
        return x
    if isinstance(x, str):
        return lookup("metric", x, METRICS, "Or pass a function (y_true, y_pred) -> [B].")(name=x)
    if isinstance(x, type) and issubclass(x, Metric):
        return x()
    if isinstance(x, Loss):
        return MeanMetricWrapper(x.values, x.name)
    refuse_keras(x)
    if isinstance(x, type) or not callable(x):
        raise TypeError(f"A metric must be a name, a Metric or a function (y_true, y_pred) -> [B], got {x!r}.")
    return MeanMetricWrapper(x)


def resolve(x: MetricLike, y_true_shape: Sequence[int], y_pred_shape: Sequence[int]) -> Metric:
    """Returns a metric like `get`, and chooses "accuracy", "acc", "crossentropy" and "ce" by the shapes.

    Args:
        x: A name, a metric or a function.
        y_true_shape: The shape of the labels.
        y_pred_shape: The shape of the predictions.

    Example:
        >>> resolve("acc", (32, 1), (32, 10))
        SparseCategoricalAccuracy(name='acc', dtype=None)
    """
    if isinstance(x, str) and x.lower() in BY_SHAPE:
        return resolve_accuracy(y_true_shape, y_pred_shape, x)
    return get(x)


def resolve_accuracy(y_true_shape: Sequence[int], y_pred_shape: Sequence[int], name: str = "accuracy") -> Metric:
    """Chooses the accuracy or cross-entropy by the shapes of labels and predictions.

    A single output is binary. Labels of lower rank, or with a last axis of size 1, are class indices. Other
    labels are one-hot.

    Args:
        y_true_shape: The shape of the labels.
        y_pred_shape: The shape of the predictions.
        name: "accuracy", "acc", "crossentropy" or "ce", in any case, which is also the name of the metric.

    References:
        Keras `trainers.compile_utils.get_metric`, for the accuracies.

    Example:
        >>> resolve_accuracy((32, 10), (32, 10))
        CategoricalAccuracy(name='accuracy', dtype=None)
    """
    kinds = lookup("metric chosen by shapes", name.lower(), BY_SHAPE)
    return dataclasses.replace(kinds[kind_of_labels(y_true_shape, y_pred_shape)], name=name)  # type: ignore[type-var]  # all are dataclasses


_ACCURACY: dict[str, Metric] = {
    "binary": BinaryAccuracy(),
    "sparse": SparseCategoricalAccuracy(),
    "one-hot": CategoricalAccuracy(),
}
_CROSSENTROPY: dict[str, Metric] = {
    "binary": BinaryCrossentropy(),
    "sparse": SparseCategoricalCrossentropy(),
    "one-hot": CategoricalCrossentropy(),
}
BY_SHAPE: dict[str, dict[str, Metric]] = {
    "accuracy": _ACCURACY,
    "acc": _ACCURACY,
    "crossentropy": _CROSSENTROPY,
    "ce": _CROSSENTROPY,
}
