"""Keras' `keras.regularizers`: penalties of weights by name, and their configurations."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from flaxmodels import regularizers as pure
from flaxmodels.names import lookup
from flaxmodels.regularizers import L1 as L1
from flaxmodels.regularizers import L1L2 as L1L2
from flaxmodels.regularizers import L2 as L2
from flaxmodels.regularizers import OrthogonalRegularizer as OrthogonalRegularizer
from flaxmodels.regularizers import Regularizer as Regularizer
from flaxmodels.regularizers import l1 as l1
from flaxmodels.regularizers import l1_l2 as l1_l2
from flaxmodels.regularizers import l2 as l2
from flaxmodels.regularizers import orthogonal_regularizer as orthogonal_regularizer
from training.keras import refused, serialization


def get(identifier: Any) -> Callable[[jax.Array], jax.Array] | None:
    """Returns a regularizer from a name, a class, an object, a function w -> scalar, a configuration or None.

    Args:
        identifier: One of these.

    Raises:
        ValueError: If there is no such regularizer.
        TypeError: If the value is none of these.

    References:
        Keras, `keras.regularizers.get`.

    Example:
        >>> get({"class_name": "L2", "config": {"l2": 0.5}}) == get(L2(0.5))
        True
    """
    return pure.get(deserialize(identifier) if isinstance(identifier, Mapping) else identifier)


def serialize(regularizer: object) -> Any:
    """Describes a regularizer by plain values.

    References:
        Keras, `keras.regularizers.serialize`.

    Example:
        >>> serialize(L2(0.5))["config"]
        {'l2': 0.5}
    """
    return serialization.serialize_keras_object(regularizer)


def deserialize(config: object, custom_objects: Mapping[str, object] | None = None) -> Any:
    """Returns the regularizer of a configuration, or of the name of a class.

    Args:
        config: What `serialize` returned, here or in Keras.
        custom_objects: Classes and functions by name, in addition to the registered ones.

    Raises:
        ValueError: If the configuration names an unknown class or function.

    References:
        Keras, `keras.regularizers.deserialize`.
    """
    return serialization.deserialize_named("keras.regularizers", config, custom_objects, _class_named)


def _class_named(name: str) -> type[Regularizer]:
    """Returns the class of a name."""
    return lookup("regularizer", name, pure.REGULARIZERS)


__all__ = [
    "L1", "L1L2", "L2", "OrthogonalRegularizer", "Regularizer", "deserialize", "get", "l1", "l1_l2", "l2",
    "orthogonal_regularizer", "serialize",
]  # fmt: skip
__getattr__, __dir__ = refused.attach(__name__, __all__)
