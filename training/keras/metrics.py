"""Keras' metrics, which hold their state, and the base class of custom metrics written as Keras classes."""

import functools
import inspect
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from training import metrics as pure
from training.keras import naming, refused, serialization
from training.keras.docstrings import without_example
from training.keras.metric_state import StatefulMetric
from training.metrics import Metric as PureMetric


class Metric(StatefulMetric, PureMetric[Any]):
    """Base class of custom metrics: a subclass makes variables, and defines `update_state` and `result`.

    Args:
        dtype: The dtype of the result.
        name: The name in logs; by default the class name in snake case, with a number if it is taken.

    References:
        Keras, `keras.metrics.Metric`.

    Example:
        >>> class Count(Metric):
        ...     def __init__(self, **kwargs):
        ...         super().__init__(**kwargs)
        ...         self.count = self.add_weight(name="count")
        ...     def update_state(self, y_true, y_pred, sample_weight=None):
        ...         self.count.assign_add(y_true.shape[0])
        ...     def result(self):
        ...         return self.count.value
        >>> import jax.numpy as jnp
        >>> metric = Count()
        >>> print(metric(jnp.zeros(3), jnp.zeros(3)), metric(jnp.zeros(3), jnp.zeros(3)))
        3.0 6.0
    """

    def __init__(self, dtype: DTypeLike | None = None, name: str | None = None):
        self.name = name or naming.automatic_name(naming.stem_of(type(self)))
        self.dtype = "float32" if dtype is None else jnp.dtype(dtype).name

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the base class."""
        return {"name": self.name, "dtype": self.dtype}


@functools.cache
def stateful_class(cls: type[PureMetric[Any]]) -> type[PureMetric[Any]]:
    """Returns the class that adds state to a class of pure metrics."""
    namespace = {
        "__doc__": without_example(cls),
        "__module__": __name__,
        "__qualname__": cls.__name__,
        "adds_state_to": cls,
    }
    if cls.__name__ in NUMBERED:
        namespace["__init__"] = _numbering_init(cls)
    return type(cls)(cls.__name__, (StatefulMetric, cls), namespace)


# The metrics whose names Keras numbers: "auc", then "auc_1".
NUMBERED = frozenset(
    "AUC BinaryIoU FalseNegatives FalsePositives IoU MeanIoU OneHotIoU OneHotMeanIoU Precision PrecisionAtRecall "
    "Recall RecallAtPrecision SensitivityAtSpecificity SpecificityAtSensitivity TrueNegatives TruePositives".split()
)


def _numbering_init(cls: object) -> Any:
    """Returns the constructor of a class of metrics, with an automatic name."""
    signature = inspect.signature(cls.__init__)

    def __init__(self: Any, *args: object, **kwargs: object) -> None:
        cls.__init__(self, *args, **kwargs)
        if signature.bind(self, *args, **kwargs).arguments.get("name") is None:
            object.__setattr__(self, "name", naming.automatic_name(naming.stem_of(type(self))))

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    return __init__


def get(identifier: object) -> Any:
    """Returns a metric with state for a name.

    Args:
        identifier: A name, a class, an object, a function, a configuration with "class_name" and "config", or None.

    Returns:
        The metric; None for None. An object and a function are returned as they are.

    Raises:
        ValueError: If there is no such metric.

    References:
        Keras, `keras.metrics.get`.

    Example:
        >>> print(get("mse")([1.0, 2.0], [1.0, 4.0]), get({"class_name": "AUC", "config": {"curve": "PR"}}).curve)
        2.0 PR
    """
    if isinstance(identifier, str | Mapping):
        return deserialize(identifier)
    if isinstance(identifier, type):
        return identifier()
    if identifier is None or callable(identifier):
        return identifier
    raise ValueError(
        f"`identifier` must be a name, a metric, a function (y_true, y_pred) or a configuration, got {identifier!r}."
    )


def _resolve(name: str) -> type[PureMetric[Any]]:
    """Returns the class of a name."""
    return stateful_class(type(pure.get(name)))  # type: ignore[arg-type]  # classes are hashable


def serialize(metric: object) -> Any:
    """Describes a metric by plain values.

    References:
        Keras, `keras.metrics.serialize`.
    """
    return serialization.serialize_keras_object(metric)


def deserialize(config: object, custom_objects: Mapping[str, object] | None = None) -> Any:
    """Returns the metric of a configuration, or of a name.

    Args:
        config: What `serialize` returned, here or in Keras.
        custom_objects: Classes and functions by name, in addition to the registered ones.

    Raises:
        ValueError: If the configuration names an unknown class or function.

    References:
        Keras, `keras.metrics.deserialize`.
    """
    return serialization.deserialize_named("keras.metrics", config, custom_objects, _resolve)


# The classes with state are made when they are first used.
if TYPE_CHECKING:
    from training.metrics import binary_accuracy as binary_accuracy
    from training.metrics import binary_crossentropy as binary_crossentropy
    from training.metrics import binary_focal_crossentropy as binary_focal_crossentropy
    from training.metrics import categorical_accuracy as categorical_accuracy
    from training.metrics import categorical_crossentropy as categorical_crossentropy
    from training.metrics import categorical_focal_crossentropy as categorical_focal_crossentropy
    from training.metrics import categorical_hinge as categorical_hinge
    from training.metrics import concordance_correlation as concordance_correlation
    from training.metrics import hinge as hinge
    from training.metrics import huber as huber
    from training.metrics import kl_divergence as kl_divergence
    from training.metrics import log_cosh as log_cosh
    from training.metrics import mean_absolute_error as mean_absolute_error
    from training.metrics import mean_absolute_percentage_error as mean_absolute_percentage_error
    from training.metrics import mean_squared_error as mean_squared_error
    from training.metrics import mean_squared_logarithmic_error as mean_squared_logarithmic_error
    from training.metrics import pearson_correlation as pearson_correlation
    from training.metrics import poisson as poisson
    from training.metrics import sparse_categorical_accuracy as sparse_categorical_accuracy
    from training.metrics import sparse_categorical_crossentropy as sparse_categorical_crossentropy
    from training.metrics import sparse_top_k_categorical_accuracy as sparse_top_k_categorical_accuracy
    from training.metrics import squared_hinge as squared_hinge
    from training.metrics import top_k_categorical_accuracy as top_k_categorical_accuracy

    class AUC(StatefulMetric, pure.AUC): ...

    class Accuracy(StatefulMetric, pure.Accuracy): ...

    class BinaryAccuracy(StatefulMetric, pure.BinaryAccuracy): ...

    class BinaryCrossentropy(StatefulMetric, pure.BinaryCrossentropy): ...

    class BinaryIoU(StatefulMetric, pure.BinaryIoU): ...

    class CategoricalAccuracy(StatefulMetric, pure.CategoricalAccuracy): ...

    class CategoricalCrossentropy(StatefulMetric, pure.CategoricalCrossentropy): ...

    class CategoricalHinge(StatefulMetric, pure.CategoricalHinge): ...

    class ConcordanceCorrelation(StatefulMetric, pure.ConcordanceCorrelation): ...

    class CosineSimilarity(StatefulMetric, pure.CosineSimilarity): ...

    class F1Score(StatefulMetric, pure.F1Score): ...

    class FBetaScore(StatefulMetric, pure.FBetaScore): ...

    class FalseNegatives(StatefulMetric, pure.FalseNegatives): ...

    class FalsePositives(StatefulMetric, pure.FalsePositives): ...

    class Hinge(StatefulMetric, pure.Hinge): ...

    class IoU(StatefulMetric, pure.IoU): ...

    class KLDivergence(StatefulMetric, pure.KLDivergence): ...

    class LogCoshError(StatefulMetric, pure.LogCoshError): ...

    class Mean(StatefulMetric, pure.Mean): ...

    class MeanAbsoluteError(StatefulMetric, pure.MeanAbsoluteError): ...

    class MeanAbsolutePercentageError(StatefulMetric, pure.MeanAbsolutePercentageError): ...

    class MeanIoU(StatefulMetric, pure.MeanIoU): ...

    class MeanMetricWrapper(StatefulMetric, pure.MeanMetricWrapper): ...

    class MeanSquaredError(StatefulMetric, pure.MeanSquaredError): ...

    class MeanSquaredLogarithmicError(StatefulMetric, pure.MeanSquaredLogarithmicError): ...

    class OneHotIoU(StatefulMetric, pure.OneHotIoU): ...

    class OneHotMeanIoU(StatefulMetric, pure.OneHotMeanIoU): ...

    class PearsonCorrelation(StatefulMetric, pure.PearsonCorrelation): ...

    class Poisson(StatefulMetric, pure.Poisson): ...

    class Precision(StatefulMetric, pure.Precision): ...

    class PrecisionAtRecall(StatefulMetric, pure.PrecisionAtRecall): ...

    class R2Score(StatefulMetric, pure.R2Score): ...

    class Recall(StatefulMetric, pure.Recall): ...

    class RecallAtPrecision(StatefulMetric, pure.RecallAtPrecision): ...

    class RootMeanSquaredError(StatefulMetric, pure.RootMeanSquaredError): ...

    class SensitivityAtSpecificity(StatefulMetric, pure.SensitivityAtSpecificity): ...

    class SparseCategoricalAccuracy(StatefulMetric, pure.SparseCategoricalAccuracy): ...

    class SparseCategoricalCrossentropy(StatefulMetric, pure.SparseCategoricalCrossentropy): ...

    class SparseTopKCategoricalAccuracy(StatefulMetric, pure.SparseTopKCategoricalAccuracy): ...

    class SpecificityAtSensitivity(StatefulMetric, pure.SpecificityAtSensitivity): ...

    class SquaredHinge(StatefulMetric, pure.SquaredHinge): ...

    class Sum(StatefulMetric, pure.Sum): ...

    class TopKCategoricalAccuracy(StatefulMetric, pure.TopKCategoricalAccuracy): ...

    class TrueNegatives(StatefulMetric, pure.TrueNegatives): ...

    class TruePositives(StatefulMetric, pure.TruePositives): ...


__all__ = [
    "AUC", "Accuracy", "BinaryAccuracy", "BinaryCrossentropy", "BinaryIoU", "CategoricalAccuracy",
    "CategoricalCrossentropy", "CategoricalHinge", "ConcordanceCorrelation", "CosineSimilarity", "F1Score",
    "FBetaScore", "FalseNegatives", "FalsePositives", "Hinge", "IoU", "KLDivergence", "LogCoshError", "Mean",
    "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanIoU", "MeanMetricWrapper", "MeanSquaredError",
    "MeanSquaredLogarithmicError", "Metric", "OneHotIoU", "OneHotMeanIoU", "PearsonCorrelation", "Poisson", "Precision",
    "PrecisionAtRecall", "R2Score", "Recall", "RecallAtPrecision", "RootMeanSquaredError", "SensitivityAtSpecificity",
    "SparseCategoricalAccuracy", "SparseCategoricalCrossentropy", "SparseTopKCategoricalAccuracy",
    "SpecificityAtSensitivity", "SquaredHinge", "Sum", "TopKCategoricalAccuracy", "TrueNegatives", "TruePositives",
    "binary_accuracy", "binary_crossentropy", "binary_focal_crossentropy", "categorical_accuracy",
    "categorical_crossentropy", "categorical_focal_crossentropy", "categorical_hinge", "concordance_correlation",
    "deserialize", "get", "hinge", "huber", "kl_divergence", "log_cosh", "mean_absolute_error",
    "mean_absolute_percentage_error", "mean_squared_error", "mean_squared_logarithmic_error", "pearson_correlation",
    "poisson", "serialize", "sparse_categorical_accuracy", "sparse_categorical_crossentropy",
    "sparse_top_k_categorical_accuracy", "squared_hinge", "top_k_categorical_accuracy",
]  # fmt: skip
_, __dir__ = refused.attach(__name__, __all__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        refused.raise_missing(__name__, name, sys._getframe(1))
    value = getattr(pure, name)
    if isinstance(value, type) and issubclass(value, PureMetric):
        value = stateful_class(value)  # type: ignore[arg-type]  # classes are hashable
    setattr(sys.modules[__name__], name, value)
    return value
