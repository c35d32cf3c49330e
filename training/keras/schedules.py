"""Keras' `keras.optimizers.schedules`."""

from typing import Any

from training.keras import refused
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

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of a step, counted from 0."""
        raise TypeError(f"{type(self).__name__} must define __call__(step), got a class without it.")

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        raise TypeError(f"{type(self).__name__} must define get_config to be saved, got a class without it.")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LearningRateSchedule":
        """Returns the schedule with the arguments of `get_config`."""
        return cls(**config)


__all__ = [
    "CosineDecay", "CosineDecayRestarts", "ExponentialDecay", "InverseTimeDecay", "LearningRateSchedule",
    "PiecewiseConstantDecay", "PolynomialDecay",
]  # fmt: skip
__getattr__, __dir__ = refused.attach("training.keras.optimizers.schedules", __all__)
