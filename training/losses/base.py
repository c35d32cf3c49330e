"""What every loss shares: how arrays meet, how padding stays out, how one number comes of many."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

EPSILON = 1e-7  # Keras' default fuzz factor
REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none", None)


class LabelShapeError(ValueError):
    """Reports labels and predictions whose shapes do not fit each other.

    Args:
        name: The function that compares them.
        rule: What it takes.
        y_true: The shape of the labels.
        y_pred: The shape of the predictions.
        fix: What to do about it.
    """

    def __init__(self, name: str, rule: str, y_true: Any, y_pred: Any, fix: str):
        self.name, self.rule, self.fix = name, rule, fix
        super().__init__(f"{name} takes {rule}, got y_true of shape {y_true} and y_pred of shape {y_pred}; {fix}.")

    def for_data(self, y_true: str, y_pred: str) -> "LabelShapeError":
        """Returns the same error about the arrays that these texts describe."""
        error = LabelShapeError(self.name, self.rule, None, None, self.fix)
        error.args = (f"{self.name} takes {self.rule}, got {y_true} and {y_pred}; {self.fix}.",)
        return error


def as_float(x: ArrayLike) -> jax.Array:
    """Casts to float32; float64 stays, half precision goes up."""
    x = jnp.asarray(x)
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def match_ranks(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Drops or adds a last axis of size 1 where the ranks differ by one.

    Example:
        >>> a, b = match_ranks(jnp.zeros((4,)), jnp.zeros((4, 1)))
        >>> a.shape, b.shape
        ((4, 1), (4, 1))
    """
    if a.ndim == b.ndim + 1 and a.shape[-1] == 1:
        return (a, b[:, None]) if b.ndim == 1 else (a[..., 0], b)
    if b.ndim == a.ndim + 1 and b.shape[-1] == 1:
        return (a[:, None], b) if a.ndim == 1 else (a, b[..., 0])
    return a, b


def match(name: str, y_true: ArrayLike, y_pred: ArrayLike, categorical: bool = False) -> tuple[jax.Array, jax.Array]:
    """Returns labels and predictions in the dtype of the computation and of one shape.

    Args:
        name: Whose arguments these are, for the error.
        y_true: The labels.
        y_pred: The predictions, which set the dtype.
        categorical: Whether the last axis holds one number for each class.

    Raises:
        LabelShapeError: If the shapes differ by more than a last axis of size 1.
    """
    y_pred = as_float(y_pred)
    y_true, y_pred = match_ranks(jnp.asarray(y_true).astype(y_pred.dtype), y_pred)
    if y_true.shape != y_pred.shape:
        fix = "reshape the labels, or change the number of units of the last layer"
        if categorical and math.prod(y_true.shape) == math.prod(y_pred.shape[:-1]):
            fix = "use sparse_categorical_crossentropy for labels that are class numbers, or make them one-hot"
        raise LabelShapeError(name, "labels and predictions of the same shape", y_true.shape, y_pred.shape, fix)
    return y_true, y_pred


def align(x: jax.Array, ndim: int) -> jax.Array:
    """Lets the axes of `x` stand for the first of `ndim` axes: [B] becomes [B, 1, ...]."""
    while x.ndim > ndim > 0 and x.shape[-1] == 1:
        x = x[..., 0]
    return x.reshape(x.shape + (1,) * (ndim - x.ndim))


def hide(x: jax.Array, mask: jax.Array, filler: float) -> jax.Array:
    """Puts `filler` where the mask is False, so that neither value nor gradient can be NaN there."""
    return jnp.where(align(mask, x.ndim), x, jnp.asarray(filler, x.dtype))


def divide_no_nan(a: jax.Array, b: jax.Array) -> jax.Array:
    """Divides; 0 where the divisor is 0."""
    return jnp.where(b == 0, jnp.zeros_like(a), a / jnp.where(b == 0, jnp.ones_like(b), b))


def reduce_values(
    values: ArrayLike,
    sample_weight: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reduction: str | None = "sum_over_batch_size",
) -> jax.Array:
    """Makes one number of a loss's values.

    `sum_over_batch_size` (or `mean`) divides the weighted sum by the number of values that the mask lets
    through, not by the sum of the weights; `mean_with_sample_weight` divides by the sum of the weights.
    Nothing let through gives 0.

    Args:
        values: The loss per example, or per example and time step.
        sample_weight: Factors, of the shape of `values` or of its first axes, or one number.
        mask: False where a value must not count; of the shape of `values` or of its first axes.
        reduction: One of Keras' names, see above; `sum`; `none` or None for the weighted values themselves.

    Shapes: values [B, ...], sample_weight and mask [B, ...] or [B] -> [], or [B, ...] without reduction.

    Raises:
        ValueError: If the reduction is unknown or the weights or mask do not fit the values.

    References:
        Keras `losses.loss.reduce_weighted_values`; a mask also as there, but it may be shorter than `values`.

    Example:
        >>> print(reduce_values(jnp.array([1.0, 2.0, 6.0]), mask=jnp.array([True, True, False])))
        1.5
    """
    check_reduction(reduction)
    values, weight = as_float(values), None
    if sample_weight is not None:
        values, weight = match_ranks(values, jnp.asarray(sample_weight).astype(values.dtype))
        aligned = align(weight, values.ndim)
        shape = fit("sample_weight", aligned, values)
        # An example's weight applies to each of its values, so it also counts once per value in the sum of weights.
        weight = jnp.broadcast_to(aligned, shape) if aligned.ndim > weight.ndim else aligned
        values = jnp.broadcast_to(values, shape) * weight
    if mask is None:
        count = jnp.asarray(values.size, values.dtype)
    elif values.ndim == 0:  # one value for the whole batch: it counts if any example does
        values = jnp.where(jnp.any(jnp.asarray(mask)), values, jnp.zeros_like(values))
    else:
        keep = align(jnp.asarray(mask).astype(bool), values.ndim)
        fit("mask", keep, values)
        count = jnp.sum(jnp.broadcast_to(keep, values.shape), dtype=values.dtype)
        values = jnp.where(keep, values, jnp.zeros_like(values))
        weight = None if weight is None else jnp.where(keep, weight, jnp.zeros_like(weight))
    if reduction in (None, "none") or values.ndim == 0:
        return values
    total = jnp.sum(values)
    if reduction == "sum":
        return total
    if reduction == "mean_with_sample_weight" and weight is not None:
        count = jnp.sum(weight)
    return divide_no_nan(total, count)


def fit(name: str, x: jax.Array, values: jax.Array) -> tuple[int, ...]:
    """The common shape of the values and of weights or a mask already aligned with them."""
    sizes = zip(x.shape, values.shape, strict=False)
    if values.ndim and (x.ndim != values.ndim or any(n not in (1, m) for n, m in sizes)):
        raise ValueError(
            f"{name} must have the shape of the loss values {values.shape} or of their first axes; "
            f"found {x.shape}; give one number per example"
        )
    return values.shape if values.ndim else x.shape


def check_reduction(reduction: str | None) -> None:
    """Refuses a reduction that Keras does not know."""
    if reduction not in REDUCTIONS:
        known = ", ".join(repr(r) for r in REDUCTIONS)
        raise ValueError(f"reduction must be one of {known}; found {reduction!r}")


class Loss:
    """How wrong predictions are: a function of labels and predictions, and the rule that reduces its values.

    A subclass is a frozen dataclass with Keras' arguments as fields, and defines `values`. Calling the loss
    reduces them with `reduce_values`. Half precision is computed in float32.

    Attributes:
        reduction: `sum_over_batch_size` (the mean over all values), `mean`, `mean_with_sample_weight`, `sum`,
            `none` or None.
        name: What the loss is called.
        dtype: The dtype of the result; None keeps that of the computation.
        labels: "index" if the labels are class numbers, "unit" if they lie between 0 and 1, else "any".
        predictions: "probabilities" if the loss takes these (unless `from_logits` is set), else "any".
        filler: What stands in for labels and predictions that the mask hides.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Cubic(Loss):
        ...     reduction: str | None = "sum_over_batch_size"
        ...     def values(self, y_true, y_pred):
        ...         return jnp.mean(jnp.abs(y_true - y_pred) ** 3, axis=-1)
        >>> print(Cubic()(jnp.zeros((2, 1)), jnp.array([[1.0], [2.0]])))
        4.5
    """

    reduction: str | None = "sum_over_batch_size"
    name: str | None = None
    dtype: Any = None
    labels: ClassVar[str] = "any"
    predictions: ClassVar[str] = "any"
    filler: ClassVar[float] = 1.0  # harmless to logarithms, quotients and the test for 0/1 labels

    def __post_init__(self) -> None:
        check_reduction(self.reduction)

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """The unreduced loss, usually one number per example [B]."""
        raise TypeError(f"{type(self).__name__} must define values(y_true, y_pred) -> [B]; found no such method")

    def masked_values(
        self, y_true: jax.Array, y_pred: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """The values, and which of them count; what the mask hides enters no value and no gradient."""
        if mask is None:
            return self.values(y_true, y_pred), None
        values = self.values(hide(y_true, mask, self.filler), hide(y_pred, mask, self.filler))
        if values.ndim == 0:  # one number for the batch, from which nothing can be left out afterwards
            return self.values(y_true, y_pred), mask
        axis = getattr(self, "axis", None)
        if axis is not None and axis % y_pred.ndim == 0:
            raise ValueError(
                f"{self.name or type(self).__name__} must return one number per example [B], so that a mask can leave "
                f"examples out; got the shape {values.shape}; give another `axis`, or no mask"
            )
        return values, mask

    def __call__(
        self,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> jax.Array:
        """Reduces the values.

        Args:
            y_true: The labels.
            y_pred: The predictions.
            sample_weight: Factors per example [B], or per value.
            mask: False where an example [B], or a value, must not count, such as padding.
        """
        y_true, y_pred = match_ranks(jnp.asarray(y_true), jnp.asarray(y_pred))
        values, mask = self.masked_values(y_true, y_pred, None if mask is None else jnp.asarray(mask).astype(bool))
        loss = reduce_values(values, sample_weight, mask, self.reduction)
        return loss if self.dtype is None else loss.astype(self.dtype)


class AveragingLoss(Loss):
    """A loss whose values are means over the last axis; for predictions [B] that is the batch itself."""

    def masked_values(
        self, y_true: jax.Array, y_pred: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        if mask is None or y_pred.ndim != 1 or y_true.ndim != 1:
            return super().masked_values(y_true, y_pred, mask)
        values, mask = super().masked_values(y_true[:, None], y_pred[:, None], mask)
        return reduce_values(values, None, mask), mask


@dataclasses.dataclass(frozen=True)
class LossFunctionWrapper(Loss):
    """A plain function as a loss.

    Args:
        fn: The function (y_true, y_pred) -> [B]. Integers reach it as int32, floats in at least float32.
        reduction: How its values are reduced.
        name: What the loss is called; by default as the function.
        dtype: The dtype of the result.

    Example:
        >>> loss = LossFunctionWrapper(lambda y_true, y_pred: jnp.abs(y_true - y_pred)[:, 0])
        >>> print(loss(jnp.zeros((2, 1)), jnp.array([[1.0], [2.0]])))
        1.5
    """

    fn: Callable[[jax.Array, jax.Array], jax.Array]
    reduction: str | None = "sum_over_batch_size"
    name: str | None = None
    dtype: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is None:
            object.__setattr__(self, "name", getattr(self.fn, "__name__", type(self.fn).__name__))

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        y_true, y_pred = match_ranks(*(jnp.asarray(y) for y in (y_true, y_pred)))
        return as_float(self.fn(*(_plain(y) for y in (y_true, y_pred))))


def _plain(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jnp.floating):
        return as_float(x)
    return x.astype(jnp.int32) if jnp.issubdtype(x.dtype, jnp.integer) else x
