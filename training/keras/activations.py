"""Keras' `keras.activations`: activation functions by name, and their configurations."""

import types
from collections.abc import Callable, Mapping
from typing import Any

import jax

from flaxmodels import activations as pure
from flaxmodels.activations import celu as celu
from flaxmodels.activations import elu as elu
from flaxmodels.activations import exponential as exponential
from flaxmodels.activations import gelu as gelu
from flaxmodels.activations import glu as glu
from flaxmodels.activations import hard_shrink as hard_shrink
from flaxmodels.activations import hard_sigmoid as hard_sigmoid
from flaxmodels.activations import hard_silu as hard_silu
from flaxmodels.activations import hard_swish as hard_swish
from flaxmodels.activations import hard_tanh as hard_tanh
from flaxmodels.activations import leaky_relu as leaky_relu
from flaxmodels.activations import linear as linear
from flaxmodels.activations import log_sigmoid as log_sigmoid
from flaxmodels.activations import log_softmax as log_softmax
from flaxmodels.activations import mish as mish
from flaxmodels.activations import relu as relu
from flaxmodels.activations import relu6 as relu6
from flaxmodels.activations import selu as selu
from flaxmodels.activations import sigmoid as sigmoid
from flaxmodels.activations import silu as silu
from flaxmodels.activations import soft_shrink as soft_shrink
from flaxmodels.activations import softmax as softmax
from flaxmodels.activations import softplus as softplus
from flaxmodels.activations import softsign as softsign
from flaxmodels.activations import sparse_plus as sparse_plus
from flaxmodels.activations import sparse_sigmoid as sparse_sigmoid
from flaxmodels.activations import sparsemax as sparsemax
from flaxmodels.activations import squareplus as squareplus
from flaxmodels.activations import swish as swish
from flaxmodels.activations import tanh as tanh
from flaxmodels.activations import tanh_shrink as tanh_shrink
from flaxmodels.activations import threshold as threshold
from training.keras import refused, serialization


def get(identifier: Any) -> Callable[..., jax.Array]:
    """Returns an activation function from a name, a function, a configuration or None.

    Args:
        identifier: One of these; None means `linear`.

    Raises:
        ValueError: If there is no such function.
        TypeError: If the value is none of these.

    References:
        Keras, `keras.activations.get`.

    Example:
        >>> get("relu") is get(serialize(relu)) is relu
        True
    """
    return pure.get(deserialize(identifier) if isinstance(identifier, Mapping) else identifier)


def serialize(activation: Any) -> Any:
    """Returns the name of an activation function of Keras, and the configuration of another one.

    References:
        Keras, `keras.activations.serialize`.

    Example:
        >>> serialize(relu), serialize(swish)
        ('relu', 'silu')
    """
    if activation in pure.ACTIVATIONS.values():
        return activation.__name__
    described = serialization.serialize_keras_object(activation)
    if isinstance(activation, types.FunctionType) and described["config"] == activation.__name__:
        return described["config"]
    return described


def deserialize(config: object, custom_objects: Mapping[str, object] | None = None) -> Any:
    """Returns the activation function of a name or a configuration.

    Args:
        config: What `serialize` returned, here or in Keras.
        custom_objects: Functions and classes by name, in addition to the registered ones.

    Raises:
        ValueError: If there is no such function.

    References:
        Keras, `keras.activations.deserialize`.
    """
    return serialization.deserialize_named("keras.activations", config, custom_objects, pure.get)


__all__ = [
    "celu", "deserialize", "elu", "exponential", "gelu", "get", "glu", "hard_shrink", "hard_sigmoid", "hard_silu",
    "hard_swish", "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu",
    "serialize", "sigmoid", "silu", "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid",
    "sparsemax", "squareplus", "swish", "tanh", "tanh_shrink", "threshold",
]  # fmt: skip
__getattr__, __dir__ = refused.attach(__name__, __all__)
