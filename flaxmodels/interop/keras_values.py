"""Access to the untrusted values of a Keras config."""

from typing import TypeVar

from flaxmodels.saving.format import Json

T = TypeVar("T")


def get(config: object, key: str) -> Json:
    return config.get(key) if isinstance(config, dict) else None


def required(config: object, key: str, kind: type[T]) -> T:
    """Returns the value of a key; raises unless it is there and has the expected type."""
    value = get(config, key)
    if not isinstance(value, kind):
        raise ValueError(f"each part must have a {kind.__name__} {key!r}, got {str(config)[:80]!r}")
    return value
