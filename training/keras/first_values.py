"""Values of weights that `add_weight` creates at once, before their layer has all of its variables.

As in Keras, a weight that a custom class creates in `__init__` or `build` can be read and assigned immediately. The
layer keeps the value apart until `initialize` creates the other variables.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxmodels.layers import keras_state, symbolic
from flaxmodels.variables import Variable
from training.keras import naming, seeds
from training.keras.variables import Weight

if TYPE_CHECKING:
    from training.keras.stateful import Stateful

Values = dict[str, dict[str, Any]]
_ATTRIBUTE = "_first_values"


def create(layer: "Stateful", variable: Variable, initializer: Callable[..., jax.Array]) -> None:
    """Creates the value of a variable of a layer that is not bound.

    Args:
        layer: The layer.
        variable: The variable.
        initializer: The initializer with its seed, called as (key, shape, dtype).
    """
    token = symbolic.INFERRING.set(False)
    try:
        with jax.ensure_compile_time_eval():  # also while another function is traced
            drawn = initializer(seeds.next_key(), variable.shape, variable.stored_dtype)
            value = jnp.asarray(drawn, variable.stored_dtype)
    finally:
        symbolic.INFERRING.reset(token)
    if value.shape != variable.shape:
        raise ValueError(
            f"The initializer of `{variable.name}` of {layer.name} must return the shape {variable.shape}, got "
            f"{value.shape}; use the `shape` that it is called with."
        )
    values: Values = layer.__dict__.setdefault(_ATTRIBUTE, {})
    values.setdefault(variable.collection, {})[variable.name] = value
    variable.holder = layer.weight_at((variable.collection, variable.name))


def values_of(layer: object) -> Values:
    """Returns the values that a layer holds: all of them, or those that were created first."""
    values: Values | None = layer.__dict__.get("_values")
    return layer.__dict__.get(_ATTRIBUTE, {}) if values is None else values


def set_value(layer: object, path: tuple[str, ...], value: jax.Array) -> None:
    """Replaces the value at a path, the collection and the name, that was created first."""
    collection, name = path
    layer.__dict__[_ATTRIBUTE][collection][name] = value


def set_all(layer: "Stateful", values: Sequence[Any]) -> None:
    """Sets the values of all weights that exist, given in Keras' order."""
    known: list[Weight] = layer.weights
    if len(known) != len(values):
        name: str = vars(layer)["name"]
        raise ValueError(
            f"{name} has {len(known) or 'no'} weights yet, got {len(values)} arrays; "
            "build it, or call it on data first."
        )
    for weight, value in zip(known, values, strict=True):
        weight.assign(value)


def take(layer: object) -> Values:
    """Returns the values that were created first, and removes them: the layer holds all of its values now."""
    values: Values = layer.__dict__.pop(_ATTRIBUTE, {})
    return values


def put_back(layer: object, values: Values) -> None:
    """Lets a layer hold only the values that were created first, as before it had all of its values."""
    object.__setattr__(layer, "_values", None)
    if values:
        layer.__dict__[_ATTRIBUTE] = values


def exists(layer: object, name: str) -> bool:
    """Returns whether the value of a weight was created first."""
    return any(name in values for values in layer.__dict__.get(_ATTRIBUTE, {}).values())


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Initializes a weight whose value exists already, where only its shape is needed."""
    return jnp.zeros(shape, dtype)


def weight_names(layer: "Stateful") -> Iterator[tuple[str, str]]:
    """Yields the collection and the name of each weight that exists, trainable ones first."""
    values = values_of(layer)
    variables = keras_state.state_of(layer).variables
    for variable in sorted(variables, key=lambda variable: not variable.trainable):
        if variable.name in values.get(variable.collection, {}):
            yield variable.collection, variable.name


def automatic_name(layer: object, scope_name: str) -> None:
    """Gives a weight without a name Keras' automatic one, which is numbered through the whole program."""
    layer.__dict__.setdefault("_weight_names", {})[scope_name] = naming.automatic_name("variable")


def may_assign(layer: "Stateful") -> bool:
    """Returns whether a layer may change its state or add losses in a call that is not one of training."""
    return bool(layer.BINDS_ATTRIBUTES or vars(layer).get("stateful") or layer.activity_regularizer is not None)
