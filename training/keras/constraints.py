"""Keras' `keras.constraints`: constraints of weights by name, and their configurations."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from flaxmodels import constraints as pure
from flaxmodels.constraints import Constraint as Constraint
from flaxmodels.constraints import MaxNorm as MaxNorm
from flaxmodels.constraints import MinMaxNorm as MinMaxNorm
from flaxmodels.constraints import NonNeg as NonNeg
from flaxmodels.constraints import UnitNorm as UnitNorm
from flaxmodels.constraints import max_norm as max_norm
from flaxmodels.constraints import min_max_norm as min_max_norm
from flaxmodels.constraints import non_neg as non_neg
from flaxmodels.constraints import unit_norm as unit_norm
from flaxmodels.names import lookup
from training.keras import refused, serialization


def get(identifier: Any) -> Callable[[jax.Array], jax.Array] | None:
    """Returns a constraint from a name, a class, an object, a function w -> w, a configuration or None.

    Args:
        identifier: One of these.

    Raises:
        ValueError: If there is no such constraint.
        TypeError: If the value is none of these.

    References:
        Keras, `keras.constraints.get`.

    Example:
        >>> get({"class_name": "MaxNorm", "config": {"max_value": 3.0, "axis": 0}}) == get(MaxNorm(3))
        True
    """
    return pure.get(deserialize(identifier) if isinstance(identifier, Mapping) else identifier)


def serialize(constraint: object) -> Any:
    """Describes a constraint by plain values.

    References:
        Keras, `keras.constraints.serialize`.

    Example:
        >>> serialize(MaxNorm(3))["config"]
        {'max_value': 3.0, 'axis': 0}
    """
    return serialization.serialize_keras_object(constraint)


def deserialize(config: object, custom_objects: Mapping[str, object] | None = None) -> Any:
    """Returns the constraint of a configuration, or of the name of a class.

    Args:
        config: What `serialize` returned, here or in Keras.
        custom_objects: Classes and functions by name, in addition to the registered ones.

    Raises:
        ValueError: If the configuration names an unknown class or function.

    References:
        Keras, `keras.constraints.deserialize`.
    """
    return serialization.deserialize_named("keras.constraints", config, custom_objects, _class_named)


def _class_named(name: str) -> type[Constraint]:
    """Returns the class of a name."""
    return lookup("constraint", name, pure.CONSTRAINTS)


__all__ = [
    "Constraint", "MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm", "deserialize", "get", "max_norm", "min_max_norm",
    "non_neg", "serialize", "unit_norm",
]  # fmt: skip
__getattr__, __dir__ = refused.attach(__name__, __all__)
