"""The state of Keras' metrics: variables, and a mixin that gives a pure metric a state.

The metrics of `training.metrics` are pure: their state is an argument. `StatefulMetric` also keeps a state for
`update_state`, `result` and `reset_state`. Training still uses the pure functions. For a custom class that overrides
the methods with state, the pure functions run these methods on a state that they put in place and take out again.
"""

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from flaxmodels import initializers
from training.losses.base import mask_of
from training.metrics import Metric as PureMetric
from training.metrics.base import RunningSum


class _Holding(threading.local):
    """The metrics and variables of which blocks of this thread hold the states, which may then be traced arrays."""

    def __init__(self) -> None:
        self.held: collections.Counter[int] = collections.Counter()


_holding = _Holding()


def _may_store(owner: object, value: object) -> bool:
    """Returns whether a metric or variable may keep a value: a traced array would outlive its trace."""
    is_held = _holding.held[id(owner)] > 0
    return is_held or not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


class MetricVariable:
    """A variable of a metric: a value that `update_state` assigns.

    Args:
        value: The initial value.
        name: The name.
        owner: The name of the metric.

    References:
        Keras, `keras.Variable`.
    """

    trainable = False

    def __init__(self, value: jax.Array, name: str, owner: str = ""):
        self._value, self.initial, self.name, self._owner = value, value, name, owner

    @property
    def path(self) -> str:
        """The name of the metric, if it is known, and that of the variable, such as "loss/total"."""
        return "/".join(filter(None, (self._owner, self.name)))

    @property
    def value(self) -> jax.Array:
        """The present value."""
        return self._value

    @value.setter
    def value(self, value: jax.Array) -> None:
        self._value = value

    def assign(self, value: object) -> "MetricVariable":
        """Sets the value, in the variable's dtype and shape."""
        new = jnp.asarray(_value_of(value)).astype(self.initial.dtype)
        if _may_store(self, new):
            self.value = jnp.broadcast_to(new, self.initial.shape)
        return self

    def assign_add(self, value: object) -> "MetricVariable":
        """Adds to the value."""
        return self.assign(self.value + _value_of(value))

    def assign_sub(self, value: object) -> "MetricVariable":
        """Subtracts from the value."""
        return self.assign(self.value - _value_of(value))

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
        return str(self.initial.dtype.name)

    def __jax_array__(self) -> jax.Array:
        return self.value

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.value, dtype)

    def __getitem__(self, key: object) -> jax.Array:
        return self.value[key]  # any index of an array

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __repr__(self) -> str:
        return f"<Variable name={self.name}, shape={self.shape}, dtype={self.dtype}, value={self.value}>"


def _value_of(value: object) -> Any:
    return getattr(value, "value", value)


def _operator(name: str) -> Callable[..., jax.Array]:
    def method(self: MetricVariable, *others: object) -> jax.Array:
        return getattr(self.value, name)(*map(_value_of, others))

    return method


for _name in "add radd sub rsub mul rmul truediv rtruediv pow rpow matmul rmatmul lt le gt ge neg abs".split():
    setattr(MetricVariable, f"__{_name}__", _operator(f"__{_name}__"))


class StateVariable(MetricVariable):
    """A variable of a built-in metric: a view of a sum in the metric's state.

    Args:
        metric: The metric.
        field: The name of the sum in the state; None if the state is the sum.
        name: The name in Keras.
    """

    def __init__(self, metric: "StatefulMetric", field: str | None, name: str):
        self._metric, self._field, self.name = metric, field, name
        self._owner = str(getattr(metric, "name", ""))
        self.initial = self._sum(metric.empty()).value

    def _sum(self, state: Any) -> RunningSum:
        found: RunningSum = state if self._field is None else getattr(state, self._field)
        return found

    @property
    def value(self) -> jax.Array:
        """The present value."""
        return self._sum(self._metric.full_state().inner).value

    @value.setter
    def value(self, value: jax.Array) -> None:
        state, new = self._metric.full_state().inner, RunningSum(value, jnp.zeros_like(value))
        self._metric.set_inner(new if self._field is None else state._replace(**{self._field: new}))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return self.value.shape

    def assign(self, value: object) -> MetricVariable:
        """Sets the value."""
        new = jnp.asarray(_value_of(value), jnp.float32)
        if _may_store(self._metric, new):
            self.value = new
        return self


# The names of the sums in a state, and their names in Keras, for the classes whose names differ or that use some sums.
_MEAN = (("total", "total"), ("weights", "count"))
_COUNTS = tuple((name, name) for name in ("true_positives", "false_positives", "true_negatives", "false_negatives"))
_SUMS: dict[str, tuple[tuple[str | None, str], ...]] = {
    "MeanState": _MEAN,
    "Counts": _COUNTS,
    "FState": (*_COUNTS[:2], _COUNTS[3], ("positives", "intermediate_weights")),
    "R2State": (
        ("num_targets", "num_samples"), ("squares", "squared_sum"), ("sums", "sum"), ("residuals", "residual"),
        ("weights", "count"),
    ),
    "Sum": ((None, "total"),),
    "RunningSum": ((None, "total_confusion_matrix"),),
    "Precision": _COUNTS[:2],
    "Recall": (_COUNTS[0], _COUNTS[3]),
    "TruePositives": (("true_positives", "accumulator"),),
    "FalsePositives": (("false_positives", "accumulator"),),
    "TrueNegatives": (("true_negatives", "accumulator"),),
    "FalseNegatives": (("false_negatives", "accumulator"),),
}  # fmt: skip


class FullState(NamedTuple):
    """Everything that a metric changes; a pytree.

    Attributes:
        inner: The state of the pure metric, None if a custom class computes with variables alone.
        values: The values of the variables of a custom class.
        nested: The states of the metrics in the attributes of a custom class.
    """

    inner: Any
    values: list[jax.Array]
    nested: "list[FullState]"


class StatefulMetric:
    """Mixin in front of a pure metric: keeps a state, as Keras' metrics do.

    References:
        Keras, `keras.metrics.Metric`.
    """

    # The pure class whose functions compute; None for `Metric`, whose subclasses compute with variables alone.
    adds_state_to: ClassVar[type[PureMetric[Any]] | None] = None
    # Whether a class of the user overrides a method that uses the state.
    is_custom: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "adds_state_to" not in vars(cls) and {"update_state", "result", "reset_state", "__init__"} & set(vars(cls)):
            # The attributes of a custom metric are unknown, so it can be set and is compared by identity.
            cls.is_custom = True
            cls.may_return_dictionary = True  # type: ignore[attr-defined]
            cls.__setattr__ = object.__setattr__  # type: ignore[method-assign]
            cls.__eq__ = object.__eq__  # type: ignore[method-assign]
            cls.__hash__ = object.__hash__  # type: ignore[method-assign]

    # ------------------------------------------------------------ with state

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Adds a batch to the state."""
        state = self.__dict__.get("_state")
        base: Any = self._pure()
        mask = mask_of(args[1]) if len(args) > 1 and "mask" not in kwargs else None
        if mask is not None:
            kwargs["mask"] = mask
        self.set_inner(base.update(self, base.empty(self) if state is None else state, *args, **kwargs))

    def result(self) -> Any:
        """Returns the value of the metric for the batches since the last reset."""
        state = self.__dict__.get("_state")
        base: Any = self._pure()
        return base.compute(self, base.empty(self) if state is None else state)

    def reset_state(self) -> None:
        """Removes all batches from the state; as in Keras, the variables of a custom class become zero."""
        object.__setattr__(self, "_state", None)
        for variable in self._own_variables():
            variable.assign(jnp.zeros_like(variable.initial))
        for metric in self._nested():
            metric.reset_state()

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Adds a batch to the state and returns the value."""
        self.update_state(*args, **kwargs)
        return self.result()

    def merge_state(self, metrics: Sequence["StatefulMetric"]) -> None:
        """Adds the states of other metrics of the same kind.

        Raises:
            TypeError: If a metric is of another class.
        """
        for metric in metrics:
            if type(metric) is not type(self):
                raise TypeError(
                    f"merge_state of {type(self).__name__} takes metrics of the same class, got "
                    f"{type(metric).__name__}; merge metrics of one class."
                )
            if self.is_custom:
                for mine, other in zip(self.variables, metric.variables, strict=True):
                    mine.assign_add(other)
            else:
                merge: Any = self._pure().merge
                self.set_inner(merge(self, self.full_state().inner, metric.full_state().inner))

    def stateless_update_state(
        self, metric_variables: Sequence[ArrayLike], *args: object, **kwargs: object
    ) -> list[Any]:
        """Returns the values of the variables after a batch, without changing the metric.

        Args:
            metric_variables: The values of `variables` before the batch.
            *args: The arguments of `update_state`.
            **kwargs: The keyword arguments of `update_state`.

        References:
            Keras, `keras.metrics.Metric.stateless_update_state`.
        """
        with self._with_values(metric_variables):
            self.update_state(*args, **kwargs)
            return [variable.value for variable in self.variables]

    def stateless_result(self, metric_variables: Sequence[ArrayLike]) -> Any:
        """Returns the value of the metric for given values of the variables.

        References:
            Keras, `keras.metrics.Metric.stateless_result`.
        """
        with self._with_values(metric_variables):
            return self.result()

    def stateless_reset_state(self) -> list[Any]:
        """Returns the values of the variables after a reset, without changing the metric.

        References:
            Keras, `keras.metrics.Metric.stateless_reset_state`.
        """
        with holding([self], [self.full_state()]):
            self.reset_state()
            return [variable.value for variable in self.variables]

    @contextlib.contextmanager
    def _with_values(self, values: Sequence[ArrayLike]) -> Iterator[None]:
        """Puts values in place of those of the variables, and puts the former ones back."""
        if len(values) != len(self.variables):
            raise ValueError(
                f"`metric_variables` of {type(self).__name__} must have a value for each of its {len(self.variables)} "
                f"variables, got {len(values)}; pass [v.value for v in metric.variables]."
            )
        with holding([self], [self.full_state()]):
            for variable, value in zip(self.variables, values, strict=True):
                variable.value = jnp.asarray(_value_of(value))
            yield

    def add_variable(
        self,
        shape: tuple[int, ...] = (),
        initializer: object = "zeros",
        dtype: DTypeLike | None = None,
        aggregation: str | None = "sum",
        name: str | None = None,
    ) -> MetricVariable:
        """Makes a variable of the metric.

        Args:
            shape: Its shape.
            initializer: Initializer of the value, or its name.
            dtype: Its dtype.
            aggregation: Keras' rule for several devices; the metrics of this package compute with whole batches.
            name: Its name.
        """
        made: Any = initializers.get(initializer if initializer is not None else "zeros")  # type: ignore[arg-type]
        value = made(jax.random.key(0), tuple(shape), jnp.dtype(dtype or "float32"))
        variable = MetricVariable(value, name or "variable", str(getattr(self, "name", "")))
        self._own_variables().append(variable)
        return variable

    def add_weight(
        self,
        shape: tuple[int, ...] = (),
        initializer: object = None,
        dtype: DTypeLike | None = None,
        name: str | None = None,
    ) -> MetricVariable:
        """Makes a variable of the metric; see `add_variable`."""
        return self.add_variable(shape, initializer, dtype, name=name)

    @property
    def variables(self) -> list[MetricVariable]:
        """The variables, in Keras' order and with its names."""
        found = [*self._state_variables(), *self._own_variables()]
        return found + [variable for metric in self._nested() for variable in metric.variables]

    def _own_variables(self) -> list[MetricVariable]:
        own: list[MetricVariable] = self.__dict__.setdefault("_variables", [])
        return own

    def _state_variables(self) -> Sequence[MetricVariable]:
        if self._computes_alone():
            return ()
        if "_state_views" not in self.__dict__:
            views = [StateVariable(self, *pair) for pair in _SUMS[self._state_kind()]]
            object.__setattr__(self, "_state_views", views)
        found: list[MetricVariable] = self.__dict__["_state_views"]
        return found

    def _nested(self) -> "list[StatefulMetric]":
        """Returns the metrics in the attributes of a custom class."""
        return metrics_in(self.__dict__) if self.is_custom else []

    def _pure(self) -> type[PureMetric[Any]]:
        for cls in type(self).__mro__:
            found: type[PureMetric[Any]] | None = vars(cls).get("adds_state_to")
            if found is not None:
                return found
        raise TypeError(
            f"{type(self).__name__} must define update_state and result, got a class without them; add the methods."
        )

    def _computes_alone(self) -> bool:
        return all(vars(cls).get("adds_state_to") is None for cls in type(self).__mro__)

    # ------------------------------------------------------------ the whole state

    def full_state(self) -> FullState:
        """Returns everything that the metric changes."""
        inner = self.__dict__.get("_state")
        if inner is None and not self._computes_alone():
            inner = self._pure().empty(self)  # type: ignore[arg-type]
        values = [variable.value for variable in self._own_variables()]
        return FullState(inner, values, [metric.full_state() for metric in self._nested()])

    def initial_state(self) -> FullState:
        """Returns the state after a reset."""
        with holding([self], [self.full_state()]):
            self.reset_state()
            return self.full_state()

    def put_state(self, state: FullState) -> None:
        """Replaces everything that the metric changes."""
        object.__setattr__(self, "_state", state.inner)
        for variable, value in zip(self._own_variables(), state.values, strict=True):
            variable.value = value
        for metric, nested in zip(self._nested(), state.nested, strict=True):
            metric.put_state(nested)

    def parts(self) -> "list[StatefulMetric | MetricVariable]":
        """Returns the metric, its variables, and those of the metrics inside it."""
        nested = [part for metric in self._nested() for part in metric.parts()]
        return [self, *self._own_variables(), *nested]

    def set_inner(self, inner: object) -> None:
        """Replaces the state of the pure metric, unless a trace outside of training would leave its arrays in it."""
        if _may_store(self, inner):
            object.__setattr__(self, "_state", inner)

    # ------------------------------------------------------------ pure, for training

    def empty(self) -> Any:
        """Returns the state before any update."""
        return self.initial_state() if self.is_custom else self._pure().empty(self)  # type: ignore[arg-type]

    def update(self, state: Any, *args: Any, mask: Any = None, **kwargs: Any) -> Any:
        """Returns the state with a batch added."""
        if not self.is_custom:
            return self._pure().update(self, state, *args, mask=mask, **kwargs)  # type: ignore[arg-type]
        with holding([self], [state]):
            # As in Keras, a custom metric does not see the mask of the predictions.
            self.update_state(*args, **kwargs)
            return self.full_state()

    def compute(self, state: Any) -> Any:
        """Returns the result; a dictionary if that of a custom class is one."""
        if not self.is_custom:
            return self._pure().compute(self, state)  # type: ignore[arg-type]
        with holding([self], [state]):
            return as_arrays(self.result())

    # ------------------------------------------------------------ configuration

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor.

        References:
            Keras, `keras.metrics.Metric.get_config`.
        """
        config: dict[str, Any] = {"name": self.name, "dtype": self._dtype_name()}  # type: ignore[attr-defined]
        names = [field.name for field in dataclasses.fields(self._pure()) if field.init]  # type: ignore[arg-type]
        values = {name: getattr(self, name) for name in names if name not in ("kwargs", *config)}
        config |= {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        if "num_thresholds" in config and config.get("thresholds", ()) is None:
            del config["thresholds"]  # as in Keras, one of the two is given
        return config | dict(getattr(self, "kwargs", ()))

    def _dtype_name(self) -> str:
        is_matrix = any(sum_name == "total_confusion_matrix" for _, sum_name in _SUMS[self._state_kind()])
        default = "int32" if is_matrix else "float32"
        return default if self.dtype is None else str(jnp.dtype(self.dtype).name)  # type: ignore[attr-defined]

    def _state_kind(self) -> str:
        names = (self._pure().__name__, type(self._pure().empty(self)).__name__)  # type: ignore[arg-type]
        return next(name for name in names if name in _SUMS)

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Any:
        """Returns the metric with the arguments of `get_config`."""
        return cls(**config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}>"  # type: ignore[attr-defined]


def as_arrays(result: object) -> Any:
    """Returns a result, or the entries of a dictionary of results, as arrays."""
    if isinstance(result, Mapping):
        return {name: as_arrays(value) for name, value in result.items()}
    return jnp.asarray(_value_of(result))


def metrics_in(attributes: Mapping[str, object]) -> list[StatefulMetric]:
    """Returns the metrics among the values of attributes, also in lists, tuples and dictionaries."""
    found: list[StatefulMetric] = []

    def visit(value: object) -> None:
        if isinstance(value, StatefulMetric):
            if all(value is not known for known in found):
                found.append(value)
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)
        elif isinstance(value, dict):
            for item in value.values():
                visit(item)

    for name, value in attributes.items():
        if name not in ("_variables", "_state", "_state_views"):
            visit(value)
    return found


@contextlib.contextmanager
def holding(metrics: Sequence[StatefulMetric], states: Sequence[FullState]) -> Iterator[None]:
    """Puts states in place of those of metrics, and puts the former ones back."""
    own = [metric.full_state() for metric in metrics]
    held = [id(part) for metric in metrics for part in metric.parts()]
    _holding.held.update(held)
    try:
        for metric, state in zip(metrics, states, strict=True):
            metric.put_state(state)
        yield
    finally:
        for metric, state in zip(metrics, own, strict=True):
            metric.put_state(state)
        _holding.held.subtract(held)
