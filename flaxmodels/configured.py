"""The arguments of initializers, regularizers and constraints as dictionaries."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self


class Configured:
    """Mixin of objects that can be made again from their arguments.

    The arguments of a dataclass are its fields. Another class overrides `get_config`.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Scale(Configured):
        ...     factor: float = 2.0
        >>> Scale.from_config(Scale(3.0).get_config())
        Scale(factor=3.0)
    """

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor.

        References:
            Keras, `keras.initializers.Initializer.get_config`.
        """
        if "__dataclass_fields__" not in vars(type(self)):
            return {}
        fields = (field.name for field in dataclasses.fields(self) if field.init)  # type: ignore[arg-type]
        return {name: getattr(self, name) for name in fields}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Returns the object with the arguments of `get_config`."""
        return cls(**config)
