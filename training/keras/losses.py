"""Keras' losses, and the base class of custom losses written as Keras classes."""

import sys
from typing import Any

import jax
from jax.typing import ArrayLike, DTypeLike

from training import losses as pure
from training.losses import Loss as PureLoss
from training.losses.base import check_reduction
from training.metrics.base import snake_case


class Loss(PureLoss):
    """Base class of custom losses: a subclass defines `call(y_true, y_pred)`, which returns a value per example.

    Args:
        name: The name of the loss.
        reduction: "sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none" or None.
        dtype: The dtype of the result.

    Raises:
        ValueError: If the reduction is unknown.

    References:
        Keras, `keras.losses.Loss`.

    Example:
        >>> class Cubic(Loss):
        ...     def call(self, y_true, y_pred):
        ...         return abs(y_true - y_pred)[:, 0] ** 3
        >>> import jax.numpy as jnp
        >>> print(Cubic()(jnp.zeros((2, 1)), jnp.array([[1.0], [2.0]])))
        4.5
    """

    def __init__(
        self, name: str | None = None, reduction: str | None = "sum_over_batch_size", dtype: DTypeLike | None = None
    ):
        check_reduction(reduction)
        self.name, self.reduction, self.dtype = name or snake_case(type(self).__name__), reduction, dtype

    # The attributes of a custom loss are unknown, so two objects are equal only if they are the same.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the value of each example."""
        raise TypeError(f"{type(self).__name__} must define call(y_true, y_pred), got a class without it.")

    def values(self, y_true: ArrayLike, y_pred: ArrayLike) -> jax.Array:
        """Returns what `call` returns."""
        return self.call(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the base class."""
        return {"name": self.name, "reduction": self.reduction}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Loss":
        """Returns the loss with the arguments of `get_config`."""
        return cls(**config)


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in dir(pure):
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; dir({__name__}) lists the known ones.",
            name=name,
            obj=sys.modules[__name__],
        )
    return getattr(pure, name)


def __dir__() -> list[str]:
    return sorted(name for name in dir(pure) if not name.startswith("_"))
