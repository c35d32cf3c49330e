"""What every metric shares: a state of sums, and the rules of weights and masks."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from training.losses.base import align_leading, as_float, divide_no_nan, fill_masked, match_ranks

State = Any  # a pytree of RunningSum, or of whatever arrays a metric of one's own adds up


class RunningSum(NamedTuple):
    """A sum in float32 that keeps what rounding takes away, so that counts stay exact up to 2^48.

    A plain float32 sum of ones stops growing at 2^24, one batch of 16 images of a megapixel.

    Example:
        >>> s = RunningSum.zeros().add(2.0**24).add(1.0).add(1.0).add(1.0).add(1.0)
        >>> print(int(s.value) - 2**24)
        4
    """

    total: jax.Array
    rest: jax.Array

    @classmethod
    def zeros(cls, shape: tuple[int, ...] = ()) -> "RunningSum":
        """Nothing added yet; a shape () takes the shape of the first array added."""
        return cls(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))

    @property
    def value(self) -> jax.Array:
        """The sum, rounded to float32."""
        return self.total + self.rest

    def add(self, x: ArrayLike) -> "RunningSum":
        """The sum with `x` added."""
        x = jnp.asarray(x).astype(jnp.float32)
        shape = jnp.broadcast_shapes(self.total.shape, x.shape)
        old, x, rest = (jnp.broadcast_to(a, shape) for a in (self.total, x, self.rest))
        new = old + x
        gained = new - old  # what rounding let through of x; the differences below are exact
        lost = rest + ((old - (new - gained)) + (x - gained))
        lost = jnp.where(jnp.isfinite(lost), lost, jnp.zeros_like(lost))
        total = new + lost  # so that the rest stays below the last digit of the total
        return RunningSum(total, jnp.where(jnp.isfinite(total), lost - (total - new), jnp.zeros_like(lost)))

    def merge(self, other: "RunningSum") -> "RunningSum":
        """The sum of two sums."""
        return self.add(other.total).add(other.rest)


class Metric:
    """A number about labels and predictions, made of sums that batches add to.

    A metric holds no state: `empty` gives one, `update` adds a batch, `merge` adds two, `compute` makes the
    number. All are pure and work inside `jit`, `lax.scan` and `vmap`. However the data are cut into batches,
    and however the batches are padded and masked, the number is the same.
    A subclass is a frozen dataclass with Keras' arguments as fields, and defines those of the four that differ.

    Attributes:
        name: What the metric is called in logs; None is the class's name in snake case.
        dtype: The dtype of the result, float32 by default. Sums are kept in float32 with their rounding errors.

    Example:
        >>> from training.metrics import Mean
        >>> m = Mean()
        >>> state = m.update(m.empty(), jnp.array([1.0, 3.0]))
        >>> print(m.compute(m.merge(state, m.update(m.empty(), jnp.array([5.0])))))
        3.0
    """

    name: str | None = None
    dtype: DTypeLike | None = None

    def __init_subclass__(cls) -> None:
        if cls.name is None and "name" not in cls.__dict__:  # a plain class, which has no field for it
            cls.name = snake_case(cls.__name__)

    def __post_init__(self) -> None:
        if self.name is None:
            object.__setattr__(self, "name", snake_case(type(self).__name__))

    def empty(self) -> State:
        """The state that has seen nothing."""
        raise TypeError(f"{type(self).__name__} must define empty, update and compute; found no empty")

    def update(
        self,
        state: State,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> State:
        """The state with a batch added.

        Args:
            state: What was seen before.
            y_true: The labels.
            y_pred: The predictions.
            sample_weight: Factors per example [B], or per value.
            mask: False where an example [B], or a value, does not count, such as padding.
        """
        raise TypeError(f"{type(self).__name__} must define empty, update and compute; found no update")

    def merge(self, a: State, b: State) -> State:
        """The state of what either state has seen."""
        return jax.tree.map(_merge, a, b, is_leaf=lambda x: isinstance(x, RunningSum))

    def compute(self, state: State) -> jax.Array:
        """The number."""
        raise TypeError(f"{type(self).__name__} must define empty, update and compute; found no compute")

    def empty_for(self, *args: Any) -> State:
        """The empty state in the shape that it has after an update with such arguments, as `lax.scan` needs it.

        It differs from `empty()` only where the state grows with the number of classes.

        Args:
            *args: What `update` will be given after the state: arrays or `jax.ShapeDtypeStruct`.

        Example:
            >>> from training.metrics import F1Score
            >>> y = jax.ShapeDtypeStruct((32, 10), jnp.float32)
            >>> F1Score().empty_for(y, y).true_positives.total.shape
            (10,)
        """
        shapes = jax.eval_shape(self.update, self.empty(), *args)
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def cast(self, x: jax.Array) -> jax.Array:
        """The result in the metric's dtype."""
        return x if self.dtype is None else x.astype(self.dtype)


def _merge(a: Any, b: Any) -> Any:
    return a.merge(b) if isinstance(a, RunningSum) else a + b


def snake_case(name: str) -> str:
    """Keras' spelling of a class as a name.

    Example:
        >>> snake_case("MeanSquaredError"), snake_case("BinaryIoU")
        ('mean_squared_error', 'binary_io_u')
    """
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def as_mask(mask: ArrayLike | None) -> jax.Array | None:
    """A mask as booleans."""
    return None if mask is None else jnp.asarray(mask).astype(bool)


def broadcast(name: str, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Spreads weights or a mask of the first axes of `shape` over all of them.

    Raises:
        ValueError: If they do not fit.
    """
    aligned = align_leading(x, len(shape))
    if aligned.ndim != len(shape) or any(n not in (1, m) for n, m in zip(aligned.shape, shape, strict=True)):
        raise ValueError(
            f"{name} must have the shape of the metric's values {shape} or of their first axes; "
            f"found {x.shape}; give one number per example"
        )
    return jnp.broadcast_to(aligned, shape)


def per_example(
    values: ArrayLike,
    sample_weight: ArrayLike | None,
    mask: jax.Array | None,
    reduce: Callable[..., jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Reduces weighted values and their weights to one number per example, as Keras does.

    Args:
        values: The values [B, ...].
        sample_weight: Their weights, of the same first axes.
        mask: Which of them count, of the same first axes.
        reduce: jnp.mean or jnp.sum, over all axes but the first.
    """
    values = as_float(values)
    weight = jnp.ones((), values.dtype)
    if sample_weight is not None:
        values, weight = match_ranks(values, jnp.asarray(sample_weight).astype(values.dtype))
    mask = jnp.ones((), bool) if mask is None else mask
    rank = min(max(weight.ndim, mask.ndim, 1), values.ndim)
    values = reduce(values, axis=tuple(range(rank, values.ndim)))
    # Every axis of the weights is kept up to here, so that the weights of masked values go with them.
    weight, mask = broadcast("sample_weight", weight, values.shape), broadcast("mask", mask, values.shape)
    weight = jnp.where(mask, weight, jnp.zeros_like(weight))
    values = jnp.where(mask, values * weight, jnp.zeros_like(values))
    rest = tuple(range(1, values.ndim))
    return reduce(values, axis=rest), reduce(weight, axis=rest)


class MeanState(NamedTuple):
    """The weighted sum of values, and the sum of their weights."""

    total: RunningSum
    weights: RunningSum


def no_values() -> MeanState:
    """The state of a mean of nothing."""
    return MeanState(RunningSum.zeros(), RunningSum.zeros())


def add_values(
    state: MeanState, values: ArrayLike, sample_weight: ArrayLike | None, mask: jax.Array | None
) -> MeanState:
    """The state of a mean with values added."""
    values = jnp.asarray(values)
    unweighted = sample_weight is None and mask is None
    totals, weights = per_example(values, sample_weight, mask, jnp.mean)
    count = jnp.float32(values.shape[0] if values.ndim else 1) if unweighted else jnp.sum(weights)
    return MeanState(state.total.add(jnp.sum(totals)), state.weights.add(count))


def mean(state: MeanState) -> jax.Array:
    """The mean; 0 of nothing."""
    return divide_no_nan(state.total.value, state.weights.value)


@dataclasses.dataclass(frozen=True)
class Sum(Metric):
    """The weighted sum of values.

    Shapes: `update(state, values, sample_weight, mask)` with values [B, ...].

    Example:
        >>> m = Sum()
        >>> print(m.compute(m.update(m.empty(), jnp.array([1.0, 3.0]))))
        4.0
    """

    name: str | None = "sum"
    dtype: DTypeLike | None = None

    def empty(self) -> RunningSum:
        return RunningSum.zeros()

    def update(
        self,
        state: RunningSum,
        values: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> RunningSum:
        return state.add(jnp.sum(per_example(values, sample_weight, as_mask(mask), jnp.sum)[0]))

    def compute(self, state: RunningSum) -> jax.Array:
        return self.cast(state.value)


@dataclasses.dataclass(frozen=True)
class Mean(Metric):
    """The weighted mean of values, sum(w v) / sum(w), each example's values averaged first.

    Shapes: `update(state, values, sample_weight, mask)` with values [B, ...].

    Example:
        >>> m = Mean("loss")
        >>> print(m.compute(m.update(m.empty(), jnp.array([1.0, 3.0]), sample_weight=jnp.array([3.0, 1.0]))))
        1.5
    """

    name: str | None = "mean"
    dtype: DTypeLike | None = None

    def empty(self) -> MeanState:
        return no_values()

    def update(
        self,
        state: MeanState,
        values: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> MeanState:
        return add_values(state, values, sample_weight, as_mask(mask))

    def compute(self, state: MeanState) -> jax.Array:
        return self.cast(mean(state))


class MeanMetric(Metric):
    """The weighted mean of a function of labels and predictions; a subclass defines `values`.

    Attributes:
        over_features: Whether `values` are means over the last axis. Labels and predictions of shape [B] are
            then taken as [B, 1], so that a mean over the batch is one over examples.
        mask_fill: What stands in for labels and predictions that the mask hides.
    """

    over_features: ClassVar[bool] = False
    mask_fill: ClassVar[float] = 1.0

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """The values [B, ...] whose mean is the metric."""
        raise TypeError(f"{type(self).__name__} must define values(y_true, y_pred) -> [B]; found none")

    def empty(self) -> MeanState:
        return no_values()

    def update(
        self,
        state: MeanState,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> MeanState:
        y_true, y_pred, mask = jnp.asarray(y_true), jnp.asarray(y_pred), as_mask(mask)
        if self.over_features and y_true.ndim == y_pred.ndim == 1:
            y_true, y_pred = y_true[:, None], y_pred[:, None]
        if mask is not None:
            y_true, y_pred = fill_masked(y_true, mask, self.mask_fill), fill_masked(y_pred, mask, self.mask_fill)
        return add_values(state, self.values(y_true, y_pred), sample_weight, mask)

    def compute(self, state: MeanState) -> jax.Array:
        return self.cast(mean(state))


@dataclasses.dataclass(frozen=True, init=False)
class MeanMetricWrapper(MeanMetric):
    """The weighted mean of what a function returns.

    Args:
        fn: The function (y_true, y_pred, **kwargs) -> [B]; it gets the arrays as they are.
        name: What the metric is called; by default as the function.
        dtype: The dtype of the result.
        **kwargs: Passed on to the function.

    Example:
        >>> m = MeanMetricWrapper(lambda y_true, y_pred: jnp.abs(y_true - y_pred), name="off")
        >>> print(m.compute(m.update(m.empty(), jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0]))))
        0.5
    """

    fn: Callable[..., jax.Array]
    name: str | None
    dtype: DTypeLike | None
    kwargs: tuple[tuple[str, Any], ...]

    def __init__(self, fn: Callable[..., jax.Array], name: str | None = None, dtype: DTypeLike | None = None, **kwargs: Any) -> None:
        name = getattr(fn, "__name__", type(fn).__name__) if name is None else name
        for field, value in (("fn", fn), ("name", name), ("dtype", dtype), ("kwargs", tuple(kwargs.items()))):
            object.__setattr__(self, field, value)

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        return self.fn(y_true, y_pred, **dict(self.kwargs))
