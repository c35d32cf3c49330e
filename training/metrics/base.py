"""The base classes of metrics, their states, and the rules for weights and masks."""

import dataclasses
import re
from collections.abc import Callable
from typing import ClassVar, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from training.losses.base import align_leading, as_float, divide_no_nan, fill_masked, match_ranks

# The state of a metric: a pytree of `RunningSum`, or of the arrays that a custom metric adds up.
State = TypeVar("State")


class RunningSum(NamedTuple):
    """A float32 sum with error compensation, so that counts are exact up to 2^48.

    A plain float32 sum of ones stops growing at 2^24, the number of pixels in 16 images of a megapixel.

    Attributes:
        total: The sum, rounded to float32.
        rest: The accumulated rounding error of `total`.

    References:
        Knuth, The Art of Computer Programming, volume 2, section 4.2.2 (the error-free sum of two numbers).

    Example:
        >>> s = RunningSum.zeros().add(2.0**24).add(1.0).add(1.0).add(1.0).add(1.0)
        >>> print(int(s.value) - 2**24)
        4
    """

    total: jax.Array
    rest: jax.Array

    @classmethod
    def zeros(cls, shape: tuple[int, ...] = ()) -> "RunningSum":
        """Returns an empty sum; one of shape () broadcasts to the shape of the first array added."""
        return cls(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))

    @property
    def value(self) -> jax.Array:
        """The compensated sum as float32."""
        return self.total + self.rest

    def add(self, x: ArrayLike) -> "RunningSum":
        """Returns the sum with `x` added."""
        x = jnp.asarray(x).astype(jnp.float32)
        shape = jnp.broadcast_shapes(self.total.shape, x.shape)
        old, x, rest = (jnp.broadcast_to(a, shape) for a in (self.total, x, self.rest))
        new = old + x
        added = new - old  # the part of x that the rounded sum contains; the differences below are exact
        error = rest + ((old - (new - added)) + (x - added))
        error = jnp.where(jnp.isfinite(error), error, jnp.zeros_like(error))
        total = new + error  # keeps the rest smaller than the last digit of the total
        return RunningSum(total, jnp.where(jnp.isfinite(total), error - (total - new), jnp.zeros_like(error)))

    def merge(self, other: "RunningSum") -> "RunningSum":
        """Returns the sum of two sums."""
        return self.add(other.total).add(other.rest)


class Metric(Generic[State]):
    """Base class of metrics: statistics of labels and predictions that are accumulated over batches.

    A metric has no mutable state. `empty` returns an initial state, `update` adds a batch to a state, `merge`
    adds two states, and `compute` returns the result. All four are pure and work inside `jit`, `lax.scan` and
    `vmap`. The result depends neither on how the data is split into batches nor on padding that is masked.

    A subclass is a frozen dataclass with Keras' arguments as fields. It defines `empty`, `update` and
    `compute`, and also `merge` if its states are not added leaf by leaf.

    Attributes:
        name: The name of the metric in logs; by default the class name in snake case.
        dtype: The dtype of the result, float32 by default. Sums are kept in float32 with error compensation.
        predictions: "probabilities" if the metric takes probabilities (unless `from_logits` is set), otherwise
            "any".
        direction: "up" if larger values are better, "down" if smaller values are, or None if neither is known.
            Callbacks with `mode="auto"` use it.

    Example:
        >>> from training.metrics import Mean
        >>> m = Mean()
        >>> state = m.update(m.empty(), jnp.array([1.0, 3.0]))
        >>> print(m.compute(m.merge(state, m.update(m.empty(), jnp.array([5.0])))))
        3.0
    """

    name: str | None = None
    dtype: DTypeLike | None = None
    predictions: ClassVar[str] = "any"
    direction: ClassVar[str | None] = None
    # Whether the result may be a dictionary; only custom classes written as in Keras have such results.
    may_return_dictionary: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.name is None and "name" not in cls.__dict__:  # a class that is not a dataclass has no field for it
            cls.name = snake_case(cls.__name__)

    def __post_init__(self) -> None:
        if self.name is None:
            object.__setattr__(self, "name", snake_case(type(self).__name__))

    def empty(self) -> State:
        """Returns the state before any update."""
        raise TypeError(f"{type(self).__name__} must define empty, update and compute, got a class without empty.")

    def update(
        self,
        state: State,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> State:
        """Returns the state with a batch added.

        Args:
            state: The state before the batch.
            y_true: The labels.
            y_pred: The predictions.
            sample_weight: Weights per example [B], or per value.
            mask: False for examples [B], or values, to ignore, such as padding.
        """
        raise TypeError(f"{type(self).__name__} must define empty, update and compute, got a class without update.")

    def merge(self, a: State, b: State) -> State:
        """Returns the state for the combined data of two states."""
        return jax.tree.map(_add, a, b, is_leaf=lambda x: isinstance(x, RunningSum))

    def compute(self, state: State) -> jax.Array:
        """Returns the result."""
        raise TypeError(f"{type(self).__name__} must define empty, update and compute, got a class without compute.")

    def empty_for(self, *args: ArrayLike | jax.ShapeDtypeStruct) -> State:
        """Returns an empty state with the shapes of the state after an update, as the carry of `lax.scan` needs.

        It differs from `empty()` only if the first update broadcasts the state to the number of classes.

        Args:
            *args: The arguments of `update` after the state: arrays or `jax.ShapeDtypeStruct`.

        Example:
            >>> from training.metrics import F1Score
            >>> y = jax.ShapeDtypeStruct((32, 10), jnp.float32)
            >>> F1Score().empty_for(y, y).true_positives.total.shape
            (10,)
        """
        empty = self.empty()
        shapes = jax.eval_shape(self.update, empty, *args)
        # A custom metric may start with other numbers than zero.
        return jax.tree.map(lambda a, s: jnp.broadcast_to(jnp.asarray(a, s.dtype), s.shape), empty, shapes)

    def cast(self, x: jax.Array) -> jax.Array:
        """Casts a result to the dtype of the metric."""
        return x if self.dtype is None else x.astype(self.dtype)


def _add(a: RunningSum | jax.Array, b: RunningSum | jax.Array) -> RunningSum | jax.Array:
    return a.merge(b) if isinstance(a, RunningSum) else a + b  # type: ignore[arg-type, operator]


def snake_case(name: str) -> str:
    """Converts a class name to snake case with Keras' rules.

    Example:
        >>> snake_case("MeanSquaredError"), snake_case("BinaryIoU")
        ('mean_squared_error', 'binary_io_u')
    """
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def as_mask(mask: ArrayLike | None) -> jax.Array | None:
    """Converts a mask to booleans."""
    return None if mask is None else jnp.asarray(mask).astype(bool)


def broadcast(name: str, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Broadcasts weights or a mask along the leading axes of `shape`.

    Raises:
        ValueError: If the shapes are incompatible.
    """
    aligned = align_leading(x, len(shape))
    if aligned.ndim != len(shape) or any(n not in (1, m) for n, m in zip(aligned.shape, shape, strict=True)):
        raise ValueError(
            f"`{name}` must have the shape of the metric's values {shape} or of their leading axes, "
            f"got {x.shape}; pass one number per example."
        )
    return jnp.broadcast_to(aligned, shape)


def per_example(
    values: ArrayLike,
    sample_weight: ArrayLike | None,
    mask: jax.Array | None,
    reduce: Callable[..., jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Reduces weighted values, and their weights, to one number per example, as Keras does.

    Args:
        values: The values [B, ...].
        sample_weight: The weights of the values, with the same leading axes.
        mask: False for values to ignore, with the same leading axes.
        reduce: `jnp.mean` or `jnp.sum`, applied to all axes but the first.

    Returns:
        The reduced weighted values [B] and the reduced weights [B].
    """
    values = as_float(values)
    weight = jnp.ones((), values.dtype)
    if sample_weight is not None:
        values, weight = match_ranks(values, jnp.asarray(sample_weight).astype(values.dtype))
    mask = jnp.ones((), bool) if mask is None else mask
    rank = min(max(weight.ndim, mask.ndim, 1), values.ndim)
    values = reduce(values, axis=tuple(range(rank, values.ndim)))
    # The axes of the weights are reduced only here, after the weights of masked values were set to 0.
    weight, mask = broadcast("sample_weight", weight, values.shape), broadcast("mask", mask, values.shape)
    weight = jnp.where(mask, weight, jnp.zeros_like(weight))
    values = jnp.where(mask, values * weight, jnp.zeros_like(values))
    rest = tuple(range(1, values.ndim))
    return reduce(values, axis=rest), reduce(weight, axis=rest)


class MeanState(NamedTuple):
    """State of a mean: the weighted sum of values, and the sum of their weights."""

    total: RunningSum
    weights: RunningSum


def empty_mean() -> MeanState:
    """Returns the state of a mean of no values."""
    return MeanState(RunningSum.zeros(), RunningSum.zeros())


def add_values(
    state: MeanState, values: ArrayLike, sample_weight: ArrayLike | None, mask: jax.Array | None
) -> MeanState:
    """Returns the state of a mean with values added."""
    values = jnp.asarray(values)
    unweighted = sample_weight is None and mask is None
    totals, weights = per_example(values, sample_weight, mask, jnp.mean)
    count = jnp.float32(values.shape[0] if values.ndim else 1) if unweighted else jnp.sum(weights)
    return MeanState(state.total.add(jnp.sum(totals)), state.weights.add(count))


def mean(state: MeanState) -> jax.Array:
    """Returns the mean; 0 if there are no values."""
    return divide_no_nan(state.total.value, state.weights.value)


@dataclasses.dataclass(frozen=True)
class Sum(Metric[RunningSum]):
    """Weighted sum of values.

    Args:
        name: The name of the metric.
        dtype: The dtype of the result.

    Shapes: `update(state, values, sample_weight, mask)` with values [B, ...].

    Example:
        >>> m = Sum()
        >>> print(m.compute(m.update(m.empty(), jnp.array([1.0, 3.0]))))
        4.0
    """

    name: str | None = "sum"
    dtype: DTypeLike | None = None

    def empty(self) -> RunningSum:
        """Returns a sum of 0."""
        return RunningSum.zeros()

    def update(
        self,
        state: RunningSum,
        values: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> RunningSum:
        """Returns the sum with values added."""
        return state.add(jnp.sum(per_example(values, sample_weight, as_mask(mask), jnp.sum)[0]))

    def compute(self, state: RunningSum) -> jax.Array:
        """Returns the sum."""
        return self.cast(state.value)


@dataclasses.dataclass(frozen=True)
class Mean(Metric[MeanState]):
    """Weighted mean of values, sum(w v) / sum(w); the values of each example are averaged first.

    Args:
        name: The name of the metric.
        dtype: The dtype of the result.

    Shapes: `update(state, values, sample_weight, mask)` with values [B, ...].

    Example:
        >>> m = Mean("loss")
        >>> print(m.compute(m.update(m.empty(), jnp.array([1.0, 3.0]), sample_weight=jnp.array([3.0, 1.0]))))
        1.5
    """

    name: str | None = "mean"
    dtype: DTypeLike | None = None

    def empty(self) -> MeanState:
        """Returns the state of no values."""
        return empty_mean()

    def update(
        self,
        state: MeanState,
        values: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> MeanState:
        """Returns the state with values added."""
        return add_values(state, values, sample_weight, as_mask(mask))

    def compute(self, state: MeanState) -> jax.Array:
        """Returns the mean."""
        return self.cast(mean(state))


class MeanMetric(Metric[MeanState]):
    """Base class of weighted means of a function of labels and predictions; a subclass defines `values`.

    Attributes:
        over_features: Whether `values` are means over the last axis. Labels and predictions of shape [B] are
            then reshaped to [B, 1], so that the last axis is not the batch.
        mask_fill: Replaces masked labels and predictions.
    """

    over_features: ClassVar[bool] = False
    mask_fill: ClassVar[float] = 1.0

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns the values [B, ...] to average."""
        raise TypeError(f"{type(self).__name__} must define values(y_true, y_pred) -> [B], got a class without it.")

    def empty(self) -> MeanState:
        """Returns the state of no values."""
        return empty_mean()

    def update(
        self,
        state: MeanState,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> MeanState:
        """Returns the state with a batch added."""
        y_true, y_pred, mask = jnp.asarray(y_true), jnp.asarray(y_pred), as_mask(mask)
        if self.over_features and y_true.ndim == y_pred.ndim == 1:
            y_true, y_pred = y_true[:, None], y_pred[:, None]
        if mask is not None:
            y_true, y_pred = fill_masked(y_true, mask, self.mask_fill), fill_masked(y_pred, mask, self.mask_fill)
        return add_values(state, self.values(y_true, y_pred), sample_weight, mask)

    def compute(self, state: MeanState) -> jax.Array:
        """Returns the mean."""
        return self.cast(mean(state))


@dataclasses.dataclass(frozen=True, init=False)
class MeanMetricWrapper(MeanMetric):
    """Turns a function into a metric, the weighted mean of its values.

    Args:
        fn: The function (y_true, y_pred, **kwargs) -> [B]. The arrays are passed without a conversion.
        name: The name of the metric; by default the name of the function.
        dtype: The dtype of the result.
        **kwargs: Keyword arguments for the function.

    Example:
        >>> m = MeanMetricWrapper(lambda y_true, y_pred: jnp.abs(y_true - y_pred), name="off")
        >>> print(m.compute(m.update(m.empty(), jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0]))))
        0.5
    """

    fn: Callable[..., jax.Array]
    name: str | None
    dtype: DTypeLike | None
    kwargs: tuple[tuple[str, object], ...]

    def __init__(
        self, fn: Callable[..., jax.Array], name: str | None = None, dtype: DTypeLike | None = None, **kwargs: object
    ) -> None:
        name = getattr(fn, "__name__", type(fn).__name__) if name is None else name
        for field, value in (("fn", fn), ("name", name), ("dtype", dtype), ("kwargs", tuple(kwargs.items()))):
            object.__setattr__(self, field, value)

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns what the function returns."""
        return self.fn(y_true, y_pred, **dict(self.kwargs))
