"""Keras' metrics, which hold their state, and the base class of custom metrics written as Keras classes.

The metrics of `training.metrics` are pure: their state is an argument. A metric of this module also keeps a state for
`update_state`, `result` and `reset_state`. Training still uses the pure functions. For a custom class that overrides
the methods with state, the pure functions run these methods on a state that they put in place and take out again.
"""

import contextlib
import dataclasses
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flaxmodels import initializers
from training import metrics as pure
from training.keras import naming, refused, serialization
from training.keras.docstrings import without_example
from training.metrics import Metric as PureMetric
from training.metrics.base import snake_case


class MetricVariable:
    """A variable of a custom metric: a value that `update_state` assigns.

    Args:
        value: The initial value.
        name: The name.
    """

    def __init__(self, value: jax.Array, name: str):
        self.value, self.initial, self.name = value, value, name

    def assign(self, value: Any) -> None:
        """Sets the value, in the variable's dtype and shape."""
        new = jnp.asarray(getattr(value, "value", value)).astype(self.initial.dtype)
        self.value = jnp.broadcast_to(new, self.initial.shape)

    def assign_add(self, value: Any) -> None:
        """Adds to the value."""
        self.assign(self.value + getattr(value, "value", value))

    def assign_sub(self, value: Any) -> None:
        """Subtracts from the value."""
        self.assign(self.value - getattr(value, "value", value))

    def numpy(self) -> np.ndarray:
        """Returns the value as a NumPy array."""
        return np.asarray(self.value)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return self.initial.shape

    @property
    def dtype(self) -> str:
        """The name of the dtype."""
        return self.initial.dtype.name

    def __jax_array__(self) -> jax.Array:
        return self.value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.value, dtype)

    def __getitem__(self, key: Any) -> jax.Array:
        return self.value[key]

    def __float__(self) -> float:
        return float(self.value)

    def __repr__(self) -> str:
        return f"<Variable name={self.name}, shape={self.shape}, dtype={self.dtype}, value={self.value}>"


def _operator(name: str) -> Any:
    def method(self: MetricVariable, *others: Any) -> Any:
        return getattr(self.value, name)(*(getattr(other, "value", other) for other in others))

    return method


for _name in "add radd sub rsub mul rmul truediv rtruediv pow rpow matmul rmatmul lt le gt ge neg abs".split():
    setattr(MetricVariable, f"__{_name}__", _operator(f"__{_name}__"))


class StatefulMetric:
    """Mixin in front of a pure metric: keeps a state, as Keras' metrics do."""

    # The pure class whose functions compute; None for `Metric`, whose subclasses compute with variables alone.
    adds_state_to: ClassVar[type[PureMetric[Any]] | None] = None
    # Whether a class of the user overrides a method that uses the state.
    is_custom: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "adds_state_to" not in vars(cls) and {"update_state", "result", "__init__"} & set(vars(cls)):
            # The attributes of a custom metric are unknown, so it can be set and is compared by identity.
            cls.is_custom = True
            cls.__setattr__ = object.__setattr__  # type: ignore[method-assign]
            cls.__eq__ = object.__eq__  # type: ignore[method-assign]
            cls.__hash__ = object.__hash__  # type: ignore[method-assign]

    # ------------------------------------------------------------ with state

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Adds a batch to the state."""
        state = self.__dict__.get("_state")
        base: Any = self._pure()
        object.__setattr__(
            self, "_state", base.update(self, base.empty(self) if state is None else state, *args, **kwargs)
        )

    def result(self) -> Any:
        """Returns the value of the metric for the batches since the last reset."""
        state = self.__dict__.get("_state")
        base: Any = self._pure()
        return base.compute(self, base.empty(self) if state is None else state)

    def reset_state(self) -> None:
        """Removes all batches from the state."""
        object.__setattr__(self, "_state", None)
        for variable in self.variables:
            variable.value = variable.initial

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Adds a batch to the state and returns the value."""
        self.update_state(*args, **kwargs)
        return self.result()

    def add_variable(
        self,
        shape: tuple[int, ...] = (),
        initializer: Any = "zeros",
        dtype: DTypeLike | None = None,
        name: str | None = None,
    ) -> MetricVariable:
        """Makes a variable of the metric.

        Args:
            shape: Its shape.
            initializer: Initializer of the value, or its name.
            dtype: Its dtype.
            name: Its name.
        """
        made: Any = initializers.get(initializer if initializer is not None else "zeros")
        value = made(jax.random.key(0), tuple(shape), jnp.dtype(dtype or "float32"))
        variable = MetricVariable(value, name or "variable")
        self.variables.append(variable)
        return variable

    def add_weight(
        self,
        shape: tuple[int, ...] = (),
        initializer: Any = None,
        dtype: DTypeLike | None = None,
        name: str | None = None,
    ) -> MetricVariable:
        """Makes a variable of the metric; see `add_variable`."""
        return self.add_variable(shape, initializer, dtype, name)

    @property
    def variables(self) -> list[MetricVariable]:
        """The variables of a custom metric."""
        return self.__dict__.setdefault("_variables", [])

    def _pure(self) -> type[PureMetric[Any]]:
        for cls in type(self).__mro__:
            found = vars(cls).get("adds_state_to")
            if found is not None:
                return found
        raise TypeError(
            f"{type(self).__name__} must define update_state and result, got a class without them; add the methods."
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor.

        References:
            Keras, `keras.metrics.Metric.get_config`.
        """
        fields = [field.name for field in dataclasses.fields(self._pure()) if field.init]  # type: ignore[arg-type]
        config = {name: getattr(self, name) for name in fields}
        return config | ({"dtype": "float32"} if config.get("dtype", "") is None else {})

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Returns the metric with the arguments of `get_config`."""
        return cls(**config)

    # ------------------------------------------------------------ pure, for training

    def empty(self) -> Any:
        """Returns the state before any update."""
        if not self.is_custom:
            return self._pure().empty(self)  # type: ignore[arg-type]
        inner = None if self._computes_alone() else self._pure().empty(self)  # type: ignore[arg-type]
        return inner, [variable.initial for variable in self.variables]

    def update(self, state: Any, *args: Any, mask: Any = None, **kwargs: Any) -> Any:
        """Returns the state with a batch added."""
        if not self.is_custom:
            return self._pure().update(self, state, *args, mask=mask, **kwargs)  # type: ignore[arg-type]
        with self._holding(state):
            # As in Keras, a custom metric does not see the mask of the predictions.
            self.update_state(*args, **kwargs)
            return self._taken()

    def compute(self, state: Any) -> jax.Array:
        """Returns the result."""
        if not self.is_custom:
            return self._pure().compute(self, state)  # type: ignore[arg-type]
        with self._holding(state):
            result = self.result()
        if isinstance(result, dict):
            raise TypeError(
                f"`result` of {type(self).__name__} must return one value, got a dictionary of {sorted(result)}; use "
                "one metric for each value."
            )
        return jnp.asarray(getattr(result, "value", result))

    def _computes_alone(self) -> bool:
        return all(vars(cls).get("adds_state_to") is None for cls in type(self).__mro__)

    @contextlib.contextmanager
    def _holding(self, state: Any) -> Iterator[None]:
        """Puts a state in place of the metric's own, and puts the own one back."""
        own = self.__dict__.get("_state"), [variable.value for variable in self.variables]
        self._put(state)
        try:
            yield
        finally:
            self._put(own)

    def _put(self, state: Any) -> None:
        inner, values = state
        object.__setattr__(self, "_state", inner)
        for variable, value in zip(self.variables, values, strict=True):
            variable.value = value

    def _taken(self) -> Any:
        return self.__dict__.get("_state"), [variable.value for variable in self.variables]


class Metric(StatefulMetric, PureMetric[Any]):
    """Base class of custom metrics: a subclass makes variables, and defines `update_state` and `result`.

    Args:
        dtype: The dtype of the result.
        name: The name in logs; by default the class name in snake case.

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
        >>> metric = Count()
        >>> print(metric(jnp.zeros(3), jnp.zeros(3)), metric(jnp.zeros(3), jnp.zeros(3)))
        3.0 6.0
    """

    def __init__(self, dtype: DTypeLike | None = None, name: str | None = None):
        self.name, self.dtype = name or snake_case(type(self).__name__), dtype

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


def _numbering_init(cls: Any) -> Any:
    """Returns the constructor of a class of metrics, with an automatic name."""
    signature = inspect.signature(cls.__init__)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, *args, **kwargs)
        if signature.bind(self, *args, **kwargs).arguments.get("name") is None:
            object.__setattr__(self, "name", naming.automatic_name(naming.stem_of(type(self))))

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    return __init__


def get(identifier: Any) -> Any:
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


def serialize(metric: Any) -> Any:
    """Describes a metric by plain values.

    References:
        Keras, `keras.metrics.serialize`.
    """
    return serialization.serialize_keras_object(metric)


def deserialize(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
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
_refuse, __dir__ = refused.attach(__name__, __all__)


def __getattr__(name: str) -> Any:
    value = getattr(pure, name) if name in __all__ else _refuse(name)
    if isinstance(value, type) and issubclass(value, PureMetric):
        value = stateful_class(value)  # type: ignore[arg-type]  # classes are hashable
    setattr(sys.modules[__name__], name, value)
    return value
