"""The state of an optimizer as the list of variables that a Keras optimizer has, in Keras' order."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from training.optimizers.base import OptimizerState, Scheduled
from training.optimizers.state import LossScaleState

Path = tuple[str, ...]

# Keras creates the variables of a group weight by weight, and one group after the other.
GROUPS: dict[str, tuple[tuple[str, ...], ...]] = {
    "MomentSlots": (("momentum", "velocity"),),
    "AmsgradSlots": (("momentum", "velocity"), ("velocity_hat",)),
    "RMSpropSlots": (("velocity",), ("momentum",), ("average_gradient",)),
    "AdagradSlots": (("accumulator",),),
    "AdadeltaSlots": (("accumulated_grad", "accumulated_delta"),),
    "AdafactorSlots": (("row", "column", "velocity"),),
    "FtrlSlots": (("accumulator", "linear"),),
    "MomentumSlots": (("momentum",),),
    "MuonSlots": (("momentum", "velocity"),),
}
COUNT, RATE, SHARED = ("count",), ("learning_rate",), ("shared",)
# A variable that Keras creates and never reads.
UNUSED = ("unused",)


def get_keras_variables(opt_state: optax.OptState, weights: Mapping[Path, ArrayLike]) -> list[np.ndarray]:
    """Returns the values of `optimizer.variables` of a Keras optimizer with this state.

    Args:
        opt_state: The state of an optimizer of `training.optimizers`.
        weights: The trained weights by their path in the parameters, in Keras' order.

    Raises:
        TypeError: If the state belongs to another optimizer.

    Example:
        >>> from training.optimizers import Adam
        >>> params = {"w": jnp.ones(2)}
        >>> variables = get_keras_variables(Adam(0.5).init(params), {("w",): params["w"]})
        >>> [variable.tolist() for variable in variables]  # iterations, learning rate, moments
        [0, 0.5, [0.0, 0.0], [0.0, 0.0]]
    """
    state = _known(opt_state)
    if isinstance(state, LossScaleState):
        own = [np.int32(0), np.float32(0), np.asarray(state.finite_steps), np.asarray(state.scale)]
        return [np.asarray(value) for value in own] + get_keras_variables(state.inner_state, weights)
    return [np.asarray(get_value(state, key)) for key in variable_keys(state, list(weights))]


def set_keras_variables(
    opt_state: optax.OptState, weights: Mapping[Path, ArrayLike], variables: Sequence[np.ndarray]
) -> optax.OptState:
    """Returns the state with the values of `optimizer.variables` of a Keras optimizer.

    Args:
        opt_state: The state of an optimizer of `training.optimizers`.
        weights: The trained weights by their path in the parameters, in Keras' order.
        variables: The values.

    Raises:
        TypeError: If the state belongs to another optimizer.
        ValueError: If the number of values or a shape differs.

    Example:
        >>> from training.optimizers import SGD
        >>> params = {"w": jnp.ones(2)}
        >>> state = set_keras_variables(SGD().init(params), {("w",): params["w"]}, [np.int32(7), np.float32(0.5)])
        >>> int(state.count), float(state.learning_rate)
        (7, 0.5)
    """
    state = _known(opt_state)
    if isinstance(state, LossScaleState):
        _check_count(len(variables), 4, exact=False)
        inner = set_keras_variables(state.inner_state, weights, variables[4:])
        steps, scale = _like(state.finite_steps, variables[2]), _like(state.scale, variables[3])
        return state._replace(finite_steps=steps, scale=scale, inner_state=inner)
    keys = variable_keys(state, list(weights))
    _check_count(len(variables), len(keys))
    for key, value in zip(keys, variables, strict=True):
        state = with_value(state, key, _like(get_value(state, key), value))
    return state


def _known(opt_state: optax.OptState) -> OptimizerState | LossScaleState:
    if isinstance(opt_state, OptimizerState | LossScaleState):
        return opt_state
    raise TypeError(
        f"Keras has no variables for the state of this optimizer, got {type(opt_state).__name__}; use an optimizer of "
        "training.optimizers."
    )


def _check_count(given: int, expected: int, exact: bool = True) -> None:
    if given < expected or (exact and given != expected):
        raise ValueError(
            f"The optimizer must have {expected} variables for the trained weights, got {given}; use the optimizer and "
            "the layers that were saved."
        )


def _like(old: jax.Array, new: ArrayLike) -> jax.Array:
    if np.shape(old) != np.shape(new):
        raise ValueError(
            f"A variable of the optimizer must have shape {np.shape(old)}, got {np.shape(new)}; use the layers that "
            "were saved."
        )
    return jnp.array(new, old.dtype)  # a copy, because the state is donated


def variable_keys(state: OptimizerState, paths: Sequence[Path]) -> list[Path]:
    """Returns the keys of the variables of a state, in the order of Keras' variables.

    A key is the name of a part or slot, followed by the path of the weight.

    Args:
        state: The state.
        paths: The paths of the trained weights in the parameters, in Keras' order.
    """
    keys: list[Path] = [COUNT, *([] if isinstance(state.learning_rate, Scheduled) else [RATE])]
    for part in ("average", "accumulated"):
        keys += [] if getattr(state, part) is None else [(part, *path) for path in paths]
    kind = type(state.slots).__name__
    for group in GROUPS.get(kind, ()):
        for path in paths:
            for name in group:
                if _has_slot(state, (name, *path)):
                    keys.append((name, *path))
                elif kind == "AdafactorSlots":
                    keys.append((*UNUSED, name, *path))
    return keys if state.shared is None else [*keys, SHARED]


def get_value(state: OptimizerState, key: Path) -> jax.Array:
    """Returns the array of a key of `variable_keys`."""
    name, *path = key
    if key == RATE:
        rate = state.learning_rate
        return rate.value if isinstance(rate, Scheduled) else rate
    if (name,) == UNUSED:
        return _adafactor_product(state, path[1:]) if path[0] == "velocity" else jnp.int32(0)
    return _at(state if name in OptimizerState._fields else state.slots, key)


def with_value(state: OptimizerState, key: Path, value: jax.Array) -> OptimizerState:
    """Returns the state with another array for a key of `variable_keys`.

    A variable that Keras creates and never reads stays as it is.
    """
    name, *path = key
    if (name,) == UNUSED:
        return state
    if name in OptimizerState._fields:
        part: dict[str, Any] = {name: _replaced(getattr(state, name), path, value)}
        return state._replace(**part)
    slots: Any = state.slots
    return state._replace(slots=slots._replace(**{name: _replaced(getattr(slots, name), path, value)}))


def _has_slot(state: OptimizerState, key: Path) -> bool:
    try:
        return _at(state.slots, key) is not None
    except (AttributeError, KeyError, TypeError):  # a mask has put another object in the place of a tree
        return False


def _at(holder: object, key: Path) -> jax.Array:
    found: Any = getattr(holder, key[0])
    for name in key[1:]:
        found = found[name]
    value: jax.Array = found
    return value


def _replaced(tree: Any, path: Sequence[str], value: jax.Array) -> object:
    return {**tree, path[0]: _replaced(tree[path[0]], path[1:], value)} if path else value


def _adafactor_product(state: OptimizerState, path: Sequence[str]) -> jax.Array:
    """Returns the second moments of a kernel that Adafactor keeps as rows and columns, which Keras stores as well."""
    row, column = _at(state.slots, ("row", *path)), _at(state.slots, ("column", *path))
    mean = jnp.mean(row, -1, keepdims=True)
    share = jnp.where(mean == 0, 0, row / jnp.where(mean == 0, 1, mean))  # before the first step
    return share[..., None] * column[..., None, :]
