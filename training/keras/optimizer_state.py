"""The variables of Keras' optimizers: views of the state of an optax transformation."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import jax
import numpy as np
import optax
from jax.typing import ArrayLike

from training.keras.metric_state import MetricVariable
from training.optimizers.base import OptimizerState, Scheduled
from training.optimizers.state import LossScaleState

Read: TypeAlias = Callable[[optax.OptState], jax.Array]
Write: TypeAlias = Callable[[optax.OptState, jax.Array], optax.OptState]
Access: TypeAlias = tuple[Read, Write]
Arrays: TypeAlias = dict[str, jax.Array]


class Assignable(Protocol):
    """A variable that an optimizer updates, such as a weight of a layer."""

    @property
    def value(self) -> jax.Array:
        """The present value."""

    def assign(self, value: jax.Array) -> object:
        """Sets the value."""


class HasState(Protocol):
    """An optimizer with a name and a state."""

    name: str
    opt_state: optax.OptState
    learning_rate: Any

    def set_iterations(self, count: int) -> None:
        """Sets the number of updates."""


# The names of slots in Keras where they differ.
_SLOT_NAMES = {
    "accumulated_delta": "accumulated_delta_var",
    "average_gradient": "average_grad",
    "row": "r",
    "column": "c",
}
# The same for an optimizer whose slots have the names of another one's.
_SLOT_NAMES_OF = {"Adamax": {"velocity": "norm"}}
# Slots that follow those of all weights, instead of the other slots of their weight.
_GROUPED = ("velocity_hat",)


class OptimizerVariable(MetricVariable):
    """A variable of an optimizer: a view of one array of its state.

    Args:
        optimizer: The optimizer, whose `opt_state` is the state.
        name: The name in Keras.
        read: Returns the array of a state.
        write: Returns the state with another array.

    References:
        Keras, `keras.Variable`.
    """

    def __init__(self, optimizer: HasState, name: str, read: Read, write: Write):
        self._optimizer, self.name, self.read, self.write = optimizer, name, read, write

    @property
    def path(self) -> str:
        """The optimizer and the name, such as "adam/learning_rate"."""
        return f"{self._optimizer.name}/{self.name}"

    @property
    def value(self) -> jax.Array:
        """The present value."""
        return self.read(self._optimizer.opt_state)

    @value.setter
    def value(self, value: jax.Array) -> None:
        self._optimizer.opt_state = self.write(self._optimizer.opt_state, value)

    @property
    def initial(self) -> jax.Array:  # of the same shape and dtype
        """The present value."""
        return self.value

    def __repr__(self) -> str:
        return f"<Variable path={self.path}, shape={self.shape}, dtype={self.dtype}, value={self.value}>"


class Outside:
    """The state of an optimizer that a program applies itself.

    Args:
        transformation: The optax transformation.
        weights: The weights that it updates, in order.

    Attributes:
        opt_state: The state.
        keys: The key of each weight in the trees of the state.
    """

    def __init__(self, transformation: optax.GradientTransformation, weights: Sequence[Assignable]):
        self.transformation, self.weights = optax.with_extra_args_support(transformation), list(weights)
        paths = [str(getattr(weight, "path", "")) or f"variable_{i}" for i, weight in enumerate(weights)]
        self.keys = [path if path not in paths[:i] else f"{path}_{i}" for i, path in enumerate(paths)]
        self.opt_state = transformation.init({k: w.value for k, w in zip(self.keys, self.weights, strict=True)})
        self._update = jax.jit(self.updated)

    def updated(
        self, opt_state: optax.OptState, grads: Mapping[str, jax.Array], params: Mapping[str, jax.Array]
    ) -> tuple[Arrays, optax.OptState]:
        """Returns the new values of some weights, and the new state; the slots of other weights stay."""
        part = _only(opt_state, params)
        updates, new = self.transformation.update(dict(grads), part, dict(params))
        values: Arrays = optax.apply_updates(dict(params), updates)  # of the same structure
        return values, _merged(opt_state, new)

    def apply(self, grads: Sequence[ArrayLike], weights: Sequence[Assignable]) -> None:
        """Updates weights by their gradients."""
        known = {id(weight): key for weight, key in zip(self.weights, self.keys, strict=True)}
        unknown = [weight for weight in weights if id(weight) not in known]
        if unknown:
            raise ValueError(
                "An optimizer updates the variables for which it was built, got "
                f"{getattr(unknown[0], 'path', unknown[0])!r}; make an optimizer for each list of variables."
            )
        params = {known[id(weight)]: weight.value for weight in weights}
        given = dict(zip(params, grads, strict=True))
        new, self.opt_state = self._update(self.opt_state, given, params)
        for weight in weights:
            value = new[known[id(weight)]]
            constraint = getattr(weight, "constraint", None)
            weight.assign(value if constraint is None else constraint(value))


def _is_slots_of(tree: object, keys: Mapping[str, object]) -> bool:
    return isinstance(tree, dict) and bool(tree) and set(keys) <= set(tree)


def _only(state: optax.OptState, params: Mapping[str, jax.Array]) -> optax.OptState:
    """Returns the state with the slots of some weights alone."""

    def reduce(tree: Arrays) -> Arrays:
        return {key: tree[key] for key in params} if _is_slots_of(tree, params) else tree

    return jax.tree.map(reduce, state, is_leaf=lambda tree: _is_slots_of(tree, params))


def _merged(old: optax.OptState, new: optax.OptState) -> optax.OptState:
    """Returns the old state with the arrays of the new one, which may lack slots."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {key: _merged(value, new[key]) if key in new else value for key, value in old.items()}
    if isinstance(old, tuple) and isinstance(new, tuple):
        items = [_merged(a, b) for a, b in zip(old, new, strict=True)]
        return type(old)(*items) if hasattr(old, "_fields") else tuple(items)
    return new


# ---------------------------------------------------------------- views


def variables_of(optimizer: HasState, weights: Sequence[tuple[tuple[str, ...], str]]) -> list[OptimizerVariable]:
    """Returns the variables of an optimizer, in Keras' order and with its names.

    Args:
        optimizer: The optimizer, which has a state.
        weights: The path of each trained weight in the trees of the state, and its name.
    """
    state = optimizer.opt_state
    holders = [node for node in _nodes(state) if isinstance(node, OptimizerState)]
    if len(holders) != 1:
        return [
            _variable(optimizer, jax.tree_util.keystr(path, simple=True, separator="/"), _leaf(i))
            for i, (path, _) in enumerate(jax.tree_util.tree_leaves_with_path(state))
        ]
    holder = holders[0]
    made = [
        _variable(optimizer, "iteration", _field("count")),
        _variable(optimizer, "learning_rate", _field("learning_rate")),
    ]
    if any(isinstance(node, LossScaleState) for node in _nodes(state)):
        counters = [_variable(optimizer, "step_counter", _scale("finite_steps"))]
        made = [*made, *counters, _variable(optimizer, "dynamic_scale", _scale("scale")), *made]
    for field, name in (("average", "average"), ("accumulated", "gradient_accumulator")):
        if getattr(holder, field) is not None:
            made += [_variable(optimizer, f"{label}_{name}", _field(field, path)) for path, label in weights]
    names = _SLOT_NAMES | _SLOT_NAMES_OF.get(type(optimizer).__name__, {})
    fields = [field for field in getattr(holder.slots, "_fields", ()) if field not in _GROUPED]
    made += [
        _variable(optimizer, f"{label}_{names.get(field, field)}", _slot(field, path))
        for path, label in weights
        for field in fields
        if _has_slot(holder, field, path)
    ]
    made += [
        _variable(optimizer, f"{label}_{field}", _slot(field, path))
        for field in _GROUPED
        for path, label in weights
        if _has_slot(holder, field, path)
    ]
    return made + ([_variable(optimizer, "variable", _field("shared"))] if holder.shared is not None else [])


def _variable(optimizer: HasState, name: str, access: Access) -> OptimizerVariable:
    return OptimizerVariable(optimizer, name, *access)


def _nodes(state: object) -> Iterator[object]:
    """Yields a state and all parts of it."""
    yield state
    if isinstance(state, dict):
        state = tuple(state.values())
    for child in state if isinstance(state, tuple | list) else ():
        yield from _nodes(child)


def _replace_node(state: optax.OptState, kind: type, change: Callable[[Any], object]) -> optax.OptState:
    """Returns a state whose part of a kind is changed."""
    return jax.tree.map(
        lambda node: change(node) if isinstance(node, kind) else node,
        state,
        is_leaf=lambda node: isinstance(node, kind),
    )


def _node(state: object, kind: type) -> Any:
    return next(node for node in _nodes(state) if isinstance(node, kind))


def _get(tree: Any, path: Sequence[str]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _set(tree: Any, path: Sequence[str], value: jax.Array) -> object:
    if not path:
        return value
    return dict(tree) | {path[0]: _set(tree[path[0]], path[1:], value)}


def _field(name: str, path: Sequence[str] = ()) -> Access:
    def read(state: optax.OptState) -> jax.Array:
        found = _get(getattr(_node(state, OptimizerState), name), path)
        value: jax.Array = found.value if isinstance(found, Scheduled) else found
        return value

    def write(state: optax.OptState, value: jax.Array) -> optax.OptState:
        def change(node: OptimizerState) -> OptimizerState:
            old = getattr(node, name)
            new: Any = Scheduled(value) if isinstance(old, Scheduled) else _set(old, path, value)
            return node._replace(**{name: new})

        return _replace_node(state, OptimizerState, change)

    return read, write


def _slot(name: str, path: Sequence[str]) -> Access:
    def read(state: optax.OptState) -> jax.Array:
        found: jax.Array = _get(getattr(_node(state, OptimizerState).slots, name), path)
        return found

    def write(state: optax.OptState, value: jax.Array) -> optax.OptState:
        def change(node: OptimizerState) -> OptimizerState:
            slots: Any = node.slots
            return node._replace(slots=slots._replace(**{name: _set(getattr(slots, name), path, value)}))

        return _replace_node(state, OptimizerState, change)

    return read, write


def _has_slot(holder: OptimizerState, field: str, path: Sequence[str]) -> bool:
    if field not in getattr(holder.slots, "_fields", ()):
        return False
    try:
        return _get(getattr(holder.slots, field), path) is not None
    except (KeyError, TypeError):
        return False


def _scale(name: str) -> Access:
    def read(state: optax.OptState) -> jax.Array:
        found: jax.Array = getattr(_node(state, LossScaleState), name)
        return found

    def write(state: optax.OptState, value: jax.Array) -> optax.OptState:
        return _replace_node(state, LossScaleState, lambda node: node._replace(**{name: value}))

    return read, write


def _leaf(index: int) -> Access:
    def read(state: optax.OptState) -> jax.Array:
        found: jax.Array = jax.tree.leaves(state)[index]
        return found

    def write(state: optax.OptState, value: jax.Array) -> optax.OptState:
        leaves, structure = jax.tree.flatten(state)
        leaves[index] = value
        return jax.tree.unflatten(structure, leaves)

    return read, write


def as_patterns(names: Sequence[str] | None, weights: Sequence[object] | None) -> tuple[str, ...]:
    """Returns the patterns of names, and patterns that match only the paths of weights."""
    return (*(names or ()), *(f"^{re.escape(str(getattr(weight, 'path', weight)))}$" for weight in weights or ()))


def as_number(value: object) -> float:
    """Returns a number, an array or a variable as a Python number."""
    return float(getattr(value, "value", value))  # type: ignore[arg-type]  # raises for other values


class LearningRate(float):
    """The learning rate as a number, which can also be read and assigned like a variable of Keras."""

    name = "learning_rate"

    def __new__(cls, value: float, optimizer: HasState) -> "LearningRate":
        """Returns the number."""
        made = super().__new__(cls, np.float32(value))
        made._optimizer = optimizer
        return made

    _optimizer: HasState

    def assign(self, value: object) -> None:
        """Sets the learning rate of the optimizer."""
        self._optimizer.learning_rate = value

    @property
    def value(self) -> float:
        """The number."""
        return float(self)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a scalar."""
        return ()

    @property
    def dtype(self) -> str:
        """The name of the dtype."""
        return "float32"

    def numpy(self) -> np.float32:
        """Returns the number as a NumPy scalar."""
        return np.float32(self)


class Iterations(int):
    """The number of updates, which can also be read and assigned like a variable of Keras."""

    name = "iteration"

    def __new__(cls, value: int, optimizer: HasState) -> "Iterations":
        """Returns the number."""
        made = super().__new__(cls, value)
        made._optimizer = optimizer
        return made

    _optimizer: HasState

    @property
    def value(self) -> int:
        """The number."""
        return int(self)

    def numpy(self) -> np.int32:
        """Returns the number as a NumPy scalar."""
        return np.int32(self)

    def assign(self, value: object) -> None:
        """Sets the number of updates, on which schedules and corrections of moments depend."""
        self._optimizer.set_iterations(int(as_number(value)))
