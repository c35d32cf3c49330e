"""The base classes of losses, and the rules that all losses share: shapes, masks, weights and reductions."""

import contextvars
import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from flaxmodels.configured import Configured

EPSILON = 1e-7  # Keras' default fuzz factor
REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none", None)


# Predictions with their masks while a model computes its own loss; a loss that gets no mask looks for one here.
MASKS: contextvars.ContextVar[tuple[tuple[object, jax.Array], ...]] = contextvars.ContextVar("MASKS", default=())


def mask_of(y_pred: object) -> jax.Array | None:
    """Returns the mask of predictions of the model that computes its own loss; None for other arrays."""
    return next((mask for known, mask in MASKS.get() if known is y_pred), None)


class LabelShapeError(ValueError):
    """Raised when the shapes of labels and predictions are incompatible.

    Args:
        name: The loss or metric that compares labels and predictions.
        rule: The shapes that the loss or metric takes.
        y_true: The shape of the labels.
        y_pred: The shape of the predictions.
        fix: How to fix the shapes.
    """

    def __init__(self, name: str, rule: str, y_true: tuple[int, ...], y_pred: tuple[int, ...], fix: str):
        self.name, self.rule, self.fix = name, rule, fix
        super().__init__(f"{name} takes {rule}, got y_true of shape {y_true} and y_pred of shape {y_pred}; {fix}.")

    def for_data(self, y_true: str, y_pred: str) -> "LabelShapeError":
        """Returns the same error with the given descriptions of the labels and the predictions."""
        error = LabelShapeError(self.name, self.rule, (), (), self.fix)
        error.args = (f"{self.name} takes {self.rule}, got {y_true} and {y_pred}; {self.fix}.",)
        return error


def as_float(x: ArrayLike) -> jax.Array:
    """Casts to float32; float64 is kept."""
    x = jnp.asarray(x)
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def match_ranks(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Squeezes or adds a last axis of size 1 if the ranks differ by one.

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


def match_shapes(
    name: str, y_true: ArrayLike, y_pred: ArrayLike, categorical: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Returns labels and predictions with the same shape and dtype (float32 or float64).

    Args:
        name: The name of the calling function, for the error message.
        y_true: The labels.
        y_pred: The predictions; they determine the dtype.
        categorical: Whether the last axis is the class axis.

    Raises:
        LabelShapeError: If the shapes differ by more than a last axis of size 1.
    """
    y_pred = as_float(y_pred)
    y_true, y_pred = match_ranks(jnp.asarray(y_true).astype(y_pred.dtype), y_pred)
    if y_true.shape != y_pred.shape:
        fix = "reshape the labels, or change the number of units of the last layer"
        if categorical and math.prod(y_true.shape) == math.prod(y_pred.shape[:-1]):
            fix = "use sparse_categorical_crossentropy for class indices, or convert the labels to one-hot"
        raise LabelShapeError(name, "labels and predictions of the same shape", y_true.shape, y_pred.shape, fix)
    return y_true, y_pred


def align_leading(x: jax.Array, ndim: int) -> jax.Array:
    """Appends axes of size 1 up to `ndim` axes, so that `x` broadcasts along the leading axes: [B] -> [B, 1, ...].

    If `x` has more than `ndim` axes, trailing axes of size 1 are squeezed first.
    """
    while x.ndim > ndim > 0 and x.shape[-1] == 1:
        x = x[..., 0]
    return x.reshape(x.shape + (1,) * (ndim - x.ndim))


def fill_masked(x: jax.Array, mask: jax.Array, mask_fill: float) -> jax.Array:
    """Replaces masked values with `mask_fill`, so that neither they nor their gradients can be NaN."""
    return jnp.where(align_leading(mask, x.ndim), x, jnp.asarray(mask_fill, x.dtype))


def divide_no_nan(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes a / b, and 0 where b is 0."""
    return jnp.where(b == 0, jnp.zeros_like(a), a / jnp.where(b == 0, jnp.ones_like(b), b))


def reduce_values(
    values: ArrayLike,
    sample_weight: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reduction: str | None = "sum_over_batch_size",
) -> jax.Array:
    """Reduces the values of a loss to a scalar.

    `sum_over_batch_size` (or `mean`) divides the weighted sum by the number of unmasked values, not by the
    sum of the weights. `mean_with_sample_weight` divides by the sum of the weights. If every value is masked,
    the result is 0.

    Args:
        values: The loss per example, or per example and time step.
        sample_weight: Weights with the shape of `values` or of its leading axes, or a scalar.
        mask: False for values to ignore; with the shape of `values` or of its leading axes.
        reduction: `sum_over_batch_size`, `mean`, `mean_with_sample_weight` or `sum`; `none` or None returns
            the weighted values.

    Shapes: values [B, ...], sample_weight and mask [B, ...] or [B] -> [], or [B, ...] without reduction.

    Raises:
        ValueError: If the reduction is unknown or the weights or mask do not fit the values.

    References:
        Keras `losses.loss.reduce_weighted_values`. Unlike in Keras, the mask may have fewer axes than `values`.

    Example:
        >>> print(reduce_values(jnp.array([1.0, 2.0, 6.0]), mask=jnp.array([True, True, False])))
        1.5
    """
    check_reduction(reduction)
    values, weight = as_float(values), None
    if sample_weight is not None:
        values, weight = match_ranks(values, jnp.asarray(sample_weight).astype(values.dtype))
        aligned = align_leading(weight, values.ndim)
        shape = _broadcast_shape("sample_weight", aligned, values)
        # The weight of an example applies to each of its values, so the sum of weights counts it once per value.
        weight = jnp.broadcast_to(aligned, shape) if aligned.ndim > weight.ndim else aligned
        values = jnp.broadcast_to(values, shape) * weight
    if mask is None:
        count = jnp.asarray(values.size, values.dtype)
    elif values.ndim == 0:  # one value for the whole batch: it counts if any example is unmasked
        values = jnp.where(jnp.any(jnp.asarray(mask)), values, jnp.zeros_like(values))
    else:
        keep = align_leading(jnp.asarray(mask).astype(bool), values.ndim)
        _broadcast_shape("mask", keep, values)
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


def _broadcast_shape(name: str, x: jax.Array, values: jax.Array) -> tuple[int, ...]:
    """Returns the common shape of the values and of aligned weights or an aligned mask."""
    sizes = zip(x.shape, values.shape, strict=False)
    if values.ndim and (x.ndim != values.ndim or any(n not in (1, m) for n, m in sizes)):
        raise ValueError(
            f"`{name}` must have the shape of the loss values {values.shape} or of their leading axes, "
            f"got {x.shape}; pass one number per example."
        )
    return values.shape if values.ndim else x.shape


def check_reduction(reduction: str | None) -> None:
    """Raises ValueError unless `reduction` is one of Keras' names."""
    if reduction not in REDUCTIONS:
        known = ", ".join(repr(r) for r in REDUCTIONS)
        raise ValueError(f"`reduction` must be one of {known}, got {reduction!r}.")


class Loss(Configured):
    """Base class of losses: a function of labels and predictions, and a reduction.

    A subclass is a frozen dataclass with Keras' arguments as fields, and defines `values`. Calling the loss
    reduces the values with `reduce_values`. Half precision inputs are computed in float32.

    Attributes:
        reduction: `sum_over_batch_size` (the mean over all values), `mean`, `mean_with_sample_weight`, `sum`,
            `none` or None; see `reduce_values`.
        name: The name of the loss.
        dtype: The dtype of the result; None for the dtype of the computation.
        labels: "index" if the labels are class indices, "unit" if they lie between 0 and 1, otherwise "any".
        predictions: "probabilities" if the loss takes probabilities (unless `from_logits` is set), otherwise
            "any".
        mask_fill: Replaces masked labels and predictions.
        mixes_rows: Whether the loss may be any function of the whole batch, which then gets no padding rows.

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
    dtype: DTypeLike | None = None
    labels: ClassVar[str] = "any"
    predictions: ClassVar[str] = "any"
    mixes_rows: ClassVar[bool] = False
    mask_fill: ClassVar[float] = 1.0  # safe in logarithms, in quotients and in the test for 0/1 labels

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, without a dtype that was not given."""
        config = super().get_config()
        return {name: value for name, value in config.items() if name != "dtype" or value is not None}

    def __post_init__(self) -> None:
        check_reduction(self.reduction)

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns the unreduced loss, usually one number per example [B]."""
        raise TypeError(f"{type(self).__name__} must define values(y_true, y_pred) -> [B], got a class without it.")

    def call(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns the unreduced loss by Keras' name of `values`."""
        return self.values(y_true, y_pred)

    def masked_values(
        self, y_true: jax.Array, y_pred: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns the values and the mask of the values to reduce.

        Masked labels and predictions affect no value and no gradient.
        """
        if mask is None:
            return self.values(y_true, y_pred), None
        values = self.values(fill_masked(y_true, mask, self.mask_fill), fill_masked(y_pred, mask, self.mask_fill))
        if values.ndim == 0:  # a scalar for the batch, from which no example can be excluded afterwards
            return self.values(y_true, y_pred), mask
        axis = getattr(self, "axis", None)
        if axis is not None and axis % y_pred.ndim == 0:
            raise ValueError(
                f"{self.name or type(self).__name__} must return one number per example [B], so that a mask can "
                f"exclude examples, got values of shape {values.shape}; use another `axis`, or pass no mask."
            )
        return values, mask

    def __call__(
        self,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> jax.Array:
        """Returns the reduced loss.

        Args:
            y_true: The labels.
            y_pred: The predictions.
            sample_weight: Weights per example [B], or per value.
            mask: False for examples [B], or values, to ignore, such as padding.
        """
        mask = mask_of(y_pred) if mask is None else mask
        y_true, y_pred = match_ranks(jnp.asarray(y_true), jnp.asarray(y_pred))
        values, mask = self.masked_values(y_true, y_pred, None if mask is None else jnp.asarray(mask).astype(bool))
        loss = reduce_values(values, sample_weight, mask, self.reduction)
        return loss if self.dtype is None else loss.astype(self.dtype)


class AveragingLoss(Loss):
    """Base class of losses whose values are means over the last axis.

    For predictions of shape [B] the last axis is the batch. With a mask, their mean is taken over the unmasked
    examples.
    """

    def masked_values(
        self, y_true: jax.Array, y_pred: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns the values and their mask, and for predictions of shape [B] the mean of the unmasked values."""
        if mask is None or y_pred.ndim != 1 or y_true.ndim != 1:
            return super().masked_values(y_true, y_pred, mask)
        values, mask = super().masked_values(y_true[:, None], y_pred[:, None], mask)
        return reduce_values(values, None, mask), mask


@dataclasses.dataclass(frozen=True)
class LossFunctionWrapper(Loss):
    """Turns a function into a loss.

    Args:
        fn: The function (y_true, y_pred) -> [B]. It receives integers as int32 and floats as float32 or float64.
        reduction: As for `Loss`.
        name: The name of the loss; by default the name of the function.
        dtype: The dtype of the result.

    Example:
        >>> loss = LossFunctionWrapper(lambda y_true, y_pred: jnp.abs(y_true - y_pred)[:, 0])
        >>> print(loss(jnp.zeros((2, 1)), jnp.array([[1.0], [2.0]])))
        1.5
    """

    fn: Callable[[jax.Array, jax.Array], jax.Array]
    reduction: str | None = "sum_over_batch_size"
    name: str | None = None
    dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is None:
            object.__setattr__(self, "name", getattr(self.fn, "__name__", type(self.fn).__name__))

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns what the function returns, in at least float32."""
        y_true, y_pred = match_ranks(*(jnp.asarray(y) for y in (y_true, y_pred)))
        return as_float(self.fn(*(_promote(y) for y in (y_true, y_pred))))


def _promote(x: jax.Array) -> jax.Array:
    """Casts integers to int32 and half precision to float32."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        return as_float(x)
    return x.astype(jnp.int32) if jnp.issubdtype(x.dtype, jnp.integer) else x
