"""The state of an optimizer as the list of variables that a Keras optimizer has, in Keras' order."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
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
# A variable that Keras creates and never uses.
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
    values = _values(state)
    return [_unused(state, key, weights) if key[0] == UNUSED[0] else np.asarray(values[key])
            for key in _keys(state, list(weights))]  # fmt: skip


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
    values, keys = _values(state), _keys(state, list(weights))
    _check_count(len(variables), len(keys))
    new = {key: _like(values[key], value) for key, value in zip(keys, variables, strict=True) if key in values}
    return _with_values(state, values | new)


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


def _keys(state: OptimizerState, paths: Sequence[Path]) -> list[Path]:
    """Returns the keys of `_values` in the order of Keras' variables."""
    keys: list[Path] = [COUNT, *([] if isinstance(state.learning_rate, Scheduled) else [RATE])]
    for part in ("average", "accumulated"):
        keys += [] if getattr(state, part) is None else [(part, *path) for path in paths]
    values, kind = _values(state), type(state.slots).__name__
    for group in GROUPS.get(kind, ()):
        for path in paths:
            for name in group:
                if (name, *path) in values:
                    keys.append((name, *path))
                elif kind == "AdafactorSlots":
                    keys.append((*UNUSED, name, *path))
    return keys if state.shared is None else [*keys, SHARED]


def _unused(state: OptimizerState, key: Path, weights: Mapping[Path, ArrayLike]) -> np.ndarray:
    """Returns the value of a variable of Keras' Adafactor that it does not use for this weight."""
    _, name, *path = key
    return np.zeros(np.shape(weights[tuple(path)]) if name == "velocity" else (), np.float32)


def _values(state: OptimizerState) -> dict[Path, jax.Array]:
    """Returns the arrays of a state by the name of the part or slot and the path of the weight."""
    rate = state.learning_rate
    values: dict[Path, jax.Array] = {COUNT: state.count, RATE: rate.value if isinstance(rate, Scheduled) else rate}
    for name, tree in _trees(state).items():
        flat = {} if tree is None else traverse_util.flatten_dict(tree)
        values |= {(name, *path): leaf for path, leaf in flat.items() if leaf is not None}
    return values if state.shared is None else values | {SHARED: state.shared}


def _with_values(state: OptimizerState, values: Mapping[Path, jax.Array]) -> OptimizerState:
    """Returns the state with other arrays; reverses `_values`."""
    trees: dict[str, Any] = {}
    for name, tree in _trees(state).items():
        flat = None if tree is None else traverse_util.flatten_dict(tree, keep_empty_nodes=True)
        new = None if flat is None else {path: values.get((name, *path), leaf) for path, leaf in flat.items()}
        trees[name] = None if new is None else traverse_util.unflatten_dict(new)
    slots = {name: trees[name] for name in getattr(state.slots, "_fields", ())}
    is_scheduled = isinstance(state.learning_rate, Scheduled)
    return state._replace(
        count=values[COUNT],
        learning_rate=state.learning_rate if is_scheduled else values[RATE],
        slots=state.slots._replace(**slots) if slots else state.slots,  # type: ignore[attr-defined]
        shared=values.get(SHARED),
        accumulated=trees["accumulated"],
        average=trees["average"],
    )


def _trees(state: OptimizerState) -> dict[str, Any]:
    """Returns the trees of a state like the parameters, by the name of the part or slot."""
    slots = dict(zip(getattr(state.slots, "_fields", ()), state.slots, strict=True))
    return {"average": state.average, "accumulated": state.accumulated} | slots
