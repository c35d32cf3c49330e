"""Keras' `keras.optimizers.schedules`."""

from collections.abc import Mapping
from typing import Any

from training import schedules as pure
from training.keras import refused, serialization
from training.schedules import CosineDecay as CosineDecay
from training.schedules import CosineDecayRestarts as CosineDecayRestarts
from training.schedules import ExponentialDecay as ExponentialDecay
from training.schedules import InverseTimeDecay as InverseTimeDecay
from training.schedules import PiecewiseConstantDecay as PiecewiseConstantDecay
from training.schedules import PolynomialDecay as PolynomialDecay


class LearningRateSchedule:
    """Base class of schedules: a subclass defines `__call__(step)`, which runs inside compiled steps.

    References:
        Keras, `keras.optimizers.schedules.LearningRateSchedule`.
    """

    def __call__(self, step: object) -> Any:
        """Returns the learning rate of a step, counted from 0."""
        raise TypeError(f"{type(self).__name__} must define __call__(step), got a class without it.")

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        raise TypeError(f"{type(self).__name__} must define get_config to be saved, got a class without it.")

    @classmethod
    def from_config(cls, config: dict[str, object]) -> "LearningRateSchedule":
        """Returns the schedule with the arguments of `get_config`."""
        return cls(**config)


def serialize(learning_rate_schedule: object) -> Any:
    """Describes a learning rate schedule by plain values.

    References:
        Keras, `keras.optimizers.schedules.serialize`.
    """
    return serialization.serialize_keras_object(learning_rate_schedule)


def deserialize(config: object, custom_objects: Mapping[str, object] | None = None) -> Any:
    """Returns the learning rate schedule of a configuration, or of a name.

    Args:
        config: What `serialize` returned, here or in Keras.
        custom_objects: Classes and functions by name, in addition to the registered ones.

    Raises:
        ValueError: If the configuration names an unknown class or function.

    References:
        Keras, `keras.optimizers.schedules.deserialize`.
    """
    return serialization.deserialize_named("keras.optimizers.schedules", config, custom_objects, pure.get)


__all__ = [
    "CosineDecay", "CosineDecayRestarts", "ExponentialDecay", "InverseTimeDecay", "LearningRateSchedule",
    "PiecewiseConstantDecay", "PolynomialDecay", "deserialize", "serialize",
]  # fmt: skip
__getattr__, __dir__ = refused.attach("training.keras.optimizers.schedules", __all__)
