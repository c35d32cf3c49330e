"""Variables of the stateful layers: `Weight`, a view of a value that a layer holds."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import VariableDict
from jax.typing import ArrayLike, DTypeLike

from flaxmodels import constraints, regularizers
from flaxmodels.ops.arrays import Nested
from flaxmodels.variables import Variable
from training.keras import located, paths

# The weights whose names in Keras differ from those in the trees of variables.
KERAS_NAMES = {"embedding": "embeddings"}


class ValueHolder(Protocol):
    """A layer that holds the values of its variables."""

    name: str | None  # flax assigns it
    trainable: bool

    def own_values(self) -> VariableDict:
        """Returns the present values of the layer itself."""

    def set_own_value(self, path: tuple[str, ...], value: jax.Array) -> None:
        """Replaces one value."""

    def argument(self, weight: str, kind: str) -> Any:
        """Returns the argument of a kind for a weight."""


class Weight:
    """A variable of a layer: reads and assigns the value that the layer holds.

    Args:
        layer: The layer.
        path: The collection, and the names inside the layer.

    References:
        Keras, `keras.Variable`.
    """

    def __init__(self, layer: ValueHolder, path: tuple[str, ...]):
        self._layer, self._path = layer, path

    @property
    def value(self) -> jax.Array:
        """The present value; while a model computes, that of the call."""
        found = located.present(located.place_of(self._layer), self._path[0], self._path[1:])
        return self._held() if found is None else found

    def _held(self) -> jax.Array:
        """Returns the value that the layer holds."""
        from_layer: Any = self._layer.own_values()
        for key in self._path:
            from_layer = from_layer[key]
        return from_layer

    def assign(self, value: "Nested | Weight | Variable") -> "Weight":
        """Sets the value, cast to the variable's dtype.

        In `call` of a layer, the value counts for the rest of the call. As in Keras, a value that is not trained is
        kept after it.

        Raises:
            ValueError: If the shape differs.
        """
        place = located.place_of(self._layer)
        stored = None if place is None else place.read(self._path[0], self._path[1:])
        old = self._held() if stored is None else stored
        new = jnp.asarray(getattr(value, "value", value), old.dtype)
        if new.shape != old.shape:
            raise ValueError(
                f"{self.path} must keep the shape {old.shape}, got a value of shape {new.shape}; reshape it first."
            )
        if place is None or (stored is None and not place.is_initializing):
            self._layer.set_own_value(self._path, new)
        else:
            place.write(self._path[0], self._path[1:], new)
        return self

    def assign_add(self, value: "ArrayLike | Weight") -> "Weight":
        """Adds to the value."""
        addend: Any = getattr(value, "value", value)
        return self.assign(self.value + addend)

    def assign_sub(self, value: "ArrayLike | Weight") -> "Weight":
        """Subtracts from the value."""
        subtrahend: Any = getattr(value, "value", value)
        return self.assign(self.value - subtrahend)

    def numpy(self) -> np.ndarray:
        """Returns the value as a NumPy array."""
        return np.asarray(self.value)

    @property
    def name(self) -> str:
        """The name, such as "kernel"."""
        automatic: dict[str, str] = vars(self._layer).get("_weight_names", {})
        return automatic.get(self._path[-1]) or KERAS_NAMES.get(self._path[-1], self._path[-1])

    @property
    def path(self) -> str:
        """The layers around it and the name, such as "dense/kernel" or "model/dense/kernel"."""
        return paths.weight_path(self._layer, self._path[1:-1], self.name)

    def is_of(self, layer: object) -> bool:
        """Returns whether a layer itself holds the value."""
        return self._layer is layer

    @property
    def regularizer(self) -> Callable[[jax.Array], jax.Array] | None:
        """The regularizer of the layer for this weight, or None."""
        return regularizers.get(self._layer.argument(self._path[-1], "regularizer"))

    @property
    def constraint(self) -> Callable[[jax.Array], jax.Array] | None:
        """The constraint of the layer for this weight, or None."""
        return constraints.get(self._layer.argument(self._path[-1], "constraint"))

    @property
    def trainable(self) -> bool:
        """Whether training changes the value by gradients."""
        return self._path[0] == "params" and bool(self._layer.trainable)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return tuple(self.value.shape)

    @property
    def dtype(self) -> str:
        """The name of the dtype."""
        return self.value.dtype.name

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.value.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(self.value.size)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.value, dtype)

    def __jax_array__(self) -> jax.Array:
        return self.value

    def __getitem__(self, key: object) -> jax.Array:
        return self.value[key]

    def __len__(self) -> int:
        return len(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __eq__(self, other: object) -> Any:
        """Compares the values; the attribute of a layer for which `add_weight` made this variable equals it."""
        if other is self or getattr(other, "holder", None) is self:
            return np.True_
        return self.value == (other.value if isinstance(other, Weight) else other)

    def __ne__(self, other: object) -> Any:
        return np.logical_not(self == other)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<Variable path={self.path}, shape={self.shape}, dtype={self.dtype}, value={self.numpy()}>"


def _operator(name: str) -> Callable[..., jax.Array]:
    def method(self: Weight, *others: ArrayLike | Weight) -> jax.Array:
        return getattr(self.value, name)(*(getattr(other, "value", other) for other in others))

    return method


for _name in (
    "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow matmul rmatmul "
    "lt le gt ge neg abs"
).split():
    setattr(Weight, f"__{_name}__", _operator(f"__{_name}__"))
