"""Keras' losses, and the base class of custom losses written as Keras classes."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.typing import ArrayLike, DTypeLike

from training import losses as pure
from training.keras import refused, serialization
from training.losses import CTC as CTC
from training.losses import BinaryCrossentropy as BinaryCrossentropy
from training.losses import BinaryFocalCrossentropy as BinaryFocalCrossentropy
from training.losses import CategoricalCrossentropy as CategoricalCrossentropy
from training.losses import CategoricalFocalCrossentropy as CategoricalFocalCrossentropy
from training.losses import CategoricalGeneralizedCrossEntropy as CategoricalGeneralizedCrossEntropy
from training.losses import CategoricalHinge as CategoricalHinge
from training.losses import Circle as Circle
from training.losses import CosineSimilarity as CosineSimilarity
from training.losses import Dice as Dice
from training.losses import Hinge as Hinge
from training.losses import Huber as Huber
from training.losses import KLDivergence as KLDivergence
from training.losses import LogCosh as LogCosh
from training.losses import Loss as PureLoss
from training.losses import MeanAbsoluteError as MeanAbsoluteError
from training.losses import MeanAbsolutePercentageError as MeanAbsolutePercentageError
from training.losses import MeanSquaredError as MeanSquaredError
from training.losses import MeanSquaredLogarithmicError as MeanSquaredLogarithmicError
from training.losses import Poisson as Poisson
from training.losses import SparseCategoricalCrossentropy as SparseCategoricalCrossentropy
from training.losses import SquaredHinge as SquaredHinge
from training.losses import Tversky as Tversky
from training.losses import binary_crossentropy as binary_crossentropy
from training.losses import binary_focal_crossentropy as binary_focal_crossentropy
from training.losses import categorical_crossentropy as categorical_crossentropy
from training.losses import categorical_focal_crossentropy as categorical_focal_crossentropy
from training.losses import categorical_generalized_cross_entropy as categorical_generalized_cross_entropy
from training.losses import categorical_hinge as categorical_hinge
from training.losses import circle as circle
from training.losses import cosine_similarity as cosine_similarity
from training.losses import ctc as ctc
from training.losses import dice as dice
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
from training.losses import tversky as tversky
from training.losses.base import check_reduction
from training.metrics.base import snake_case


class Loss(PureLoss):
    """Base class of custom losses: a subclass defines `call(y_true, y_pred)`, which returns a value per example.

    A subclass may define `__call__(y_true, y_pred, sample_weight=None)` instead, which returns the loss of the batch.

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

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "__call__" in vars(cls):
            cls.mixes_rows = True
            cls.__call__ = _without_mask(vars(cls)["__call__"])  # type: ignore[method-assign]

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


def _without_mask(call: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns a user's `__call__` that also takes the mask of a step, if it has no argument for it.

    As in Keras, a step passes the weights by position.
    """
    if "mask" in inspect.signature(call).parameters:
        return call

    @functools.wraps(call)
    def wrapped(
        self: Loss, y_true: object, y_pred: object, sample_weight: object = None, mask: object = None
    ) -> jax.Array:
        return call(self, y_true, y_pred) if sample_weight is None else call(self, y_true, y_pred, sample_weight)

    return wrapped


def get(identifier: object) -> Any:
    """Returns a loss: the function for the name of a function, an object for the name of a class.

    Args:
        identifier: A name, a class, an object, a function, a configuration with "class_name" and "config", or None.

    Returns:
        The loss; None for None. An object and a function are returned as they are.

    Raises:
        ValueError: If there is no such loss.

    References:
        Keras, `keras.losses.get`.

    Example:
        >>> get("mse") is mean_squared_error, get({"class_name": "Huber", "config": {"delta": 2.0}}).delta
        (True, 2.0)
    """
    if isinstance(identifier, str):
        return deserialize(identifier)
    if isinstance(identifier, Mapping):
        return deserialize(identifier)
    if isinstance(identifier, type):
        return identifier()
    if identifier is None or callable(identifier):
        return identifier
    raise ValueError(
        f"`identifier` must be a name, a loss, a function (y_true, y_pred) or a configuration, got {identifier!r}."
    )


_FUNCTIONS: dict[type[PureLoss], Callable[..., jax.Array]] = {cls: function for function, cls in pure.FUNCTIONS.items()}


def _resolve(name: str) -> Any:
    """Returns the class of the name of a class, and the function of any other name."""
    cls = type(pure.get(name))
    return cls if name == cls.__name__ else _FUNCTIONS[cls]


def serialize(loss: object) -> Any:
    """Describes a loss by plain values.

    References:
        Keras, `keras.losses.serialize`.
    """
    return serialization.serialize_keras_object(loss)


def deserialize(config: object, custom_objects: Mapping[str, object] | None = None) -> Any:
    """Returns the loss of a configuration, or of a name.

    Args:
        config: What `serialize` returned, here or in Keras.
        custom_objects: Classes and functions by name, in addition to the registered ones.

    Raises:
        ValueError: If the configuration names an unknown class or function.

    References:
        Keras, `keras.losses.deserialize`.
    """
    return serialization.deserialize_named("keras.losses", config, custom_objects, _resolve)


__all__ = [
    "BinaryCrossentropy", "BinaryFocalCrossentropy", "CTC", "CategoricalCrossentropy", "CategoricalFocalCrossentropy",
    "CategoricalGeneralizedCrossEntropy", "CategoricalHinge", "Circle", "CosineSimilarity", "Dice", "Hinge", "Huber",
    "KLDivergence", "LogCosh", "Loss", "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanSquaredError",
    "MeanSquaredLogarithmicError", "Poisson", "SparseCategoricalCrossentropy", "SquaredHinge", "Tversky",
    "binary_crossentropy", "binary_focal_crossentropy", "categorical_crossentropy", "categorical_focal_crossentropy",
    "categorical_generalized_cross_entropy", "categorical_hinge", "circle", "cosine_similarity", "ctc", "deserialize",
    "dice", "get", "hinge", "huber", "kl_divergence", "log_cosh", "mean_absolute_error",
    "mean_absolute_percentage_error", "mean_squared_error", "mean_squared_logarithmic_error", "poisson", "serialize",
    "sparse_categorical_crossentropy", "squared_hinge", "tversky",
]  # fmt: skip
__getattr__, __dir__ = refused.attach(__name__, __all__)
