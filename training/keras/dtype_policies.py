"""Keras' `keras.dtype_policies`: the dtypes of layers by name."""

from typing import Any

from training.keras import refused, serialization
from training.keras.config import DTypePolicy as DTypePolicy
from training.keras.config import dtype_policy, standardize_dtype

FloatDTypePolicy = DTypePolicy


def get(identifier: Any) -> DTypePolicy:
    """Returns a policy from a name, a policy, a configuration or a dtype; None means the program's policy.

    Args:
        identifier: One of these.

    Raises:
        ValueError: If there is no such policy.

    References:
        Keras, `keras.dtype_policies.get`.

    Example:
        >>> get("mixed_float16"), get({"class_name": "DTypePolicy", "config": {"name": "float32"}})
        (<DTypePolicy "mixed_float16">, <DTypePolicy "float32">)
    """
    if identifier is None:
        return dtype_policy()
    if isinstance(identifier, DTypePolicy):
        return identifier
    if isinstance(identifier, dict):
        return deserialize(identifier)
    return DTypePolicy(identifier if isinstance(identifier, str) else standardize_dtype(identifier))


def serialize(dtype_policy: DTypePolicy) -> Any:
    """Returns the configuration of a policy."""
    return serialization.serialize_keras_object(dtype_policy)


def deserialize(config: dict[str, object], custom_objects: dict[str, object] | None = None) -> DTypePolicy:
    """Returns the policy of a configuration.

    Args:
        config: What `serialize` returned.
        custom_objects: Registered classes by name.

    Raises:
        ValueError: If the configuration describes something else.
    """
    policy = serialization.deserialize_keras_object({"module": "keras", **config}, custom_objects)
    if not isinstance(policy, DTypePolicy):
        raise ValueError(f"`config` must describe a DTypePolicy, got one of {type(policy).__name__}; use `serialize`.")
    return policy


__all__ = ["DTypePolicy", "FloatDTypePolicy", "deserialize", "get", "serialize"]
__getattr__, __dir__ = refused.attach(__name__, __all__)
