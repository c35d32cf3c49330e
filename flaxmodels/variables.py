"""Variables of layers that are written as Keras classes: names for values that live in `params` or `batch_stats`."""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import Scope
from jax.typing import ArrayLike, DTypeLike

T = TypeVar("T")

# The collection of the variables by whether they are trainable.
COLLECTIONS = {True: "params", False: "batch_stats"}


class Holder(Protocol):
    """Holds the value of a variable that is not bound."""

    @property
    def value(self) -> jax.Array:
        """The present value."""
        ...

    def assign(self, value: "ArrayLike | Variable") -> object:
        """Replaces the value."""
        ...


class Variable:
    """Describes a weight of a layer; inside `init` and `apply`, it also reads and assigns the weight's value.

    The layer's `add_weight` makes it. A variable of a layer that is not bound has no value, because values live in
    the variables that `init` returns. A variable stands for its value in operators, indexing and JAX functions.

    Args:
        name: Name in its collection.
        shape: Shape of the value.
        dtype: Dtype in which the value is stored.
        initializer: Makes the initial value from (key, shape, dtype).
        trainable: Whether the value is in `params` and trained, otherwise in `batch_stats`.
        regularizer: Computes a loss from the value; None for none.
        constraint: Maps the value to an allowed one after each update; None for none.
        autocast: Whether a floating-point value is read in the dtype of the layer's computation.

    References:
        Keras, `keras.Variable`.

    Example:
        >>> from flaxmodels import initializers
        >>> Variable("scale", (3,), "float32", initializers.get("ones"))
        <Variable 'scale' shape=(3,) dtype=float32>
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        initializer: Callable[..., jax.Array],
        trainable: bool = True,
        regularizer: Callable[[jax.Array], jax.Array] | None = None,
        constraint: Callable[[jax.Array], jax.Array] | None = None,
        autocast: bool = True,
    ):
        self.name, self.shape, self.stored_dtype = name, shape, jnp.dtype(dtype)
        self.initializer, self.regularizer, self.constraint = initializer, regularizer, constraint
        self.autocast, self._trainable = autocast, trainable
        self.descriptor = self
        self._scope: Scope | None = None
        self._compute_dtype: DTypeLike | None = None
        self._is_assignable = False
        self._assigned: jax.Array | None = None
        # Holds the value of a variable that is not bound, if anything does.
        self.holder: Holder | None = None

    def bind(self, scope: Scope, compute_dtype: DTypeLike | None, is_assignable: bool = False) -> "Variable":
        """Returns the variable with the value that it has in a scope of flax.

        Args:
            scope: The scope of the layer.
            compute_dtype: The dtype in which a floating-point value is read, None for the stored one.
            is_assignable: Whether the layer may assign the value although it is a parameter.
        """
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound.descriptor, bound._scope, bound._compute_dtype = self.descriptor, scope, compute_dtype
        bound._is_assignable = is_assignable
        return bound

    @property
    def collection(self) -> str:
        """The collection of the value: `params` or `batch_stats`."""
        return COLLECTIONS[self._trainable]

    @property
    def trainable(self) -> bool:
        """Whether the value is trained; `add_weight` fixes it."""
        return self._trainable

    @property
    def path(self) -> str:
        """The scopes of the layer and the name, joined by "/"; only the name if the layer is not bound."""
        return "/".join([*(self._scope.path if self._scope is not None else ()), self.name])

    @property
    def dtype(self) -> np.dtype:
        """The dtype of `value`."""
        is_cast = self._compute_dtype is not None and self.autocast and jnp.issubdtype(self.stored_dtype, jnp.floating)
        return jnp.dtype(self._compute_dtype if is_cast else self.stored_dtype)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape))

    @property
    def value(self) -> jax.Array:
        """The value, in the dtype of the layer's computation.

        Raises:
            ValueError: If the layer is not bound.
        """
        stored = self._assigned
        if stored is None and self._scope is None and self.holder is not None:
            stored = self.holder.value
        if stored is None:
            if self._scope is None or self._scope.invalid:
                raise ValueError(
                    f"The variable {self.name!r} of shape {self.shape} has no value outside `init` and `apply`; "
                    "read it from the variables that `init` returned."
                )
            stored = nn.meta.unbox(self._scope.get_variable(self.collection, self.name))
            if stored is None:
                raise ValueError(
                    f"The variables must hold {self.collection}/{self.path}, got none; "
                    "pass all variables that `init` returned."
                )
        return jnp.asarray(stored).astype(self.dtype)

    def numpy(self) -> np.ndarray:
        """Returns the value as a NumPy array."""
        return np.asarray(self.value)

    def assign(self, value: "ArrayLike | Variable") -> "Variable":
        """Replaces the value of a variable that is not trainable, and returns the variable.

        The layer reads the new value at once. It is kept in `batch_stats` if that collection is mutable, as in
        training. `init` does not keep it, because it returns the initial values.

        Args:
            value: An array of the variable's shape.

        Raises:
            ValueError: If the variable is trainable or not bound, or the shape differs.
        """
        if self._scope is None and self.holder is not None:
            self.holder.assign(value)
            return self
        if self._trainable and not self._is_assignable:
            raise ValueError(
                f"Only the optimizer may change the trainable variable {self.name!r}, got an assignment; "
                "give add_weight trainable=False, or a `constraint` that computes the value after each update."
            )
        if self._scope is None:
            raise ValueError(
                f"The variable {self.name!r} has no value outside `init` and `apply`, got an assignment; "
                "assign in `call`, or replace the value in the variables that `init` returned."
            )
        stored = jnp.asarray(value).astype(self.stored_dtype)
        if stored.shape != self.shape:
            raise ValueError(
                f"The variable {self.name!r} takes values of shape {self.shape}, got {stored.shape}; "
                "reshape the value, or create the variable with this shape."
            )
        self._assigned = stored
        if self._scope.is_mutable_collection(self.collection) and not self._scope.get_flag("initializing", False):
            self._scope.put_variable(self.collection, self.name, stored)
        return self

    def assign_add(self, value: "ArrayLike | Variable") -> "Variable":
        """Adds to the value; see `assign`."""
        return self.assign(self.value + _plain(value))

    def assign_sub(self, value: "ArrayLike | Variable") -> "Variable":
        """Subtracts from the value; see `assign`."""
        return self.assign(self.value - _plain(value))

    def __repr__(self) -> str:
        if self._scope is None and self.holder is not None:
            return repr(self.holder)
        return f"<Variable {self.path!r} shape={self.shape} dtype={self.dtype.name}>"

    def __jax_array__(self) -> jax.Array:
        return self.value

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.value, dtype)

    # With None, NumPy leaves an operator to the variable on the right side of an array.
    __array_ufunc__: ClassVar[None] = None

    def __getitem__(self, key: object) -> jax.Array:
        return self.value[key]

    def __len__(self) -> int:
        return len(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __eq__(self, other: object) -> jax.Array:
        return cast(jax.Array, self.value == _plain(other))

    def __ne__(self, other: object) -> jax.Array:
        return cast(jax.Array, self.value != _plain(other))

    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        # Operators are found on the class; this serves the methods of arrays, such as `mean` and `astype`.
        if name.startswith("_") or "descriptor" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.value, name)


def _plain(value: "T | Variable") -> T | jax.Array:
    return value.value if isinstance(value, Variable) else value


def _operator(name: str) -> Callable[..., object]:
    """Returns the method that applies an operator to the value."""

    def method(self: Variable, *others: object) -> object:
        return getattr(self.value, name)(*map(_plain, others))

    return method


for _name in (
    "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift radd rsub rmul rtruediv rfloordiv rmod rpow "
    "rmatmul rand ror rxor lt le gt ge neg pos abs invert round divmod rdivmod iter"
).split():
    setattr(Variable, f"__{_name}__", _operator(f"__{_name}__"))
