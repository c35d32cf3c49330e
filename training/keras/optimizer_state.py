"""The variables of Keras' optimizers: views of the state of an optax transformation."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from training.keras.metric_state import MetricVariable
from training.keras.variables import KERAS_NAMES
from training.optimizers.base import OptimizerState
from training.optimizers.keras_variables import COUNT, RATE, SHARED, UNUSED, Path, get_value, variable_keys, with_value
from training.optimizers.state import LossScaleState

Read: TypeAlias = Callable[[optax.OptState], jax.Array]
Write: TypeAlias = Callable[[optax.OptState, jax.Array], optax.OptState]
Access: TypeAlias = tuple[Read, Write]
Node = TypeVar("Node", OptimizerState, LossScaleState)
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
    arguments: dict[str, Any]

    def set_iterations(self, count: int) -> None:
        """Sets the number of updates."""


# The names of parts and slots in Keras where they differ.
_SLOT_NAMES = {"accumulated_delta": "accumulated_delta_var", "accumulated": "gradient_accumulator"}
# The same for an optimizer whose slots have the names of another one's.
_SLOT_NAMES_OF = {"Adamax": {"velocity": "norm"}}
# The names of variables that belong to no weight, and whether their paths start with the name of the optimizer.
_ALONE = {COUNT: ("iteration", True), RATE: ("learning_rate", True), SHARED: ("variable", False)}


class OptimizerVariable(MetricVariable):
    """A variable of an optimizer: a view of one array of its state.

    Args:
        optimizer: The optimizer, whose `opt_state` is the state.
        name: The name in Keras.
        read: Returns the array of a state.
        write: Returns the state with another array.
        path: The path in Keras, by default the name of the optimizer and that of the variable.

    References:
        Keras, `keras.Variable`.
    """

    def __init__(self, optimizer: HasState, name: str, read: Read, write: Write, path: str | None = None):
        self._optimizer, self.name, self.read, self.write, self._path = optimizer, name, read, write, path

    @property
    def path(self) -> str:
        """The optimizer and the name, such as "adam/learning_rate"."""
        return self._path or f"{self._optimizer.name}/{self.name}"

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


def variables_before(optimizer: HasState) -> list[OptimizerVariable]:
    """Returns the variables that an optimizer has before it has a state: the count, and the rate unless scheduled."""
    inner: HasState | None = getattr(optimizer, "inner_optimizer", None)
    rate = optimizer.arguments.get("learning_rate")  # an inner optimizer has its own
    if isinstance(rate, float) and np.isnan(rate):
        return []  # an optax transformation, whose variables only its state shows
    made = [
        OptimizerVariable(optimizer, "iteration", lambda state: jnp.int32(update_count(state)), _set_count(optimizer))
    ]
    if not callable(rate):
        made.append(OptimizerVariable(optimizer, "learning_rate", _read_rate(optimizer), _set_rate(optimizer)))
    return made if inner is None else made + variables_before(inner)


def _read_rate(optimizer: HasState) -> Read:
    return lambda _: jnp.float32(optimizer.learning_rate)


def _set_rate(optimizer: HasState) -> Write:
    def write(state: optax.OptState, value: jax.Array) -> optax.OptState:
        optimizer.learning_rate = value
        return optimizer.opt_state

    return write


def _set_count(optimizer: HasState) -> Write:
    def write(state: optax.OptState, value: jax.Array) -> optax.OptState:
        if int(value):
            optimizer.set_iterations(int(value))  # raises without a state
        return optimizer.opt_state

    return write


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


def variables_of(optimizer: HasState, weights: Sequence[tuple[Path, str]]) -> list[OptimizerVariable]:
    """Returns the variables of an optimizer, in Keras' order and with its names.

    Args:
        optimizer: The optimizer, which has a state.
        weights: The path of each trained weight in the trees of the state, and its name.
    """
    state = optimizer.opt_state
    holders = [node for node in _nodes(state) if isinstance(node, OptimizerState)]
    if len(holders) != 1:
        return [
            OptimizerVariable(optimizer, jax.tree_util.keystr(path, simple=True, separator="/"), *_leaf(i))
            for i, (path, _) in enumerate(jax.tree_util.tree_leaves_with_path(state))
        ]
    labels, kind = dict(weights), type(optimizer).__name__
    is_scaled = any(isinstance(node, LossScaleState) for node in _nodes(state))
    owner: HasState = getattr(optimizer, "inner_optimizer", optimizer)
    made = [] if not is_scaled else [
        OptimizerVariable(optimizer, "iteration", *_constant(np.int32(0))),
        OptimizerVariable(optimizer, "learning_rate", *_constant(np.float32(0))),
        OptimizerVariable(optimizer, "step_counter", *_scale("finite_steps")),
        OptimizerVariable(optimizer, "dynamic_scale", *_scale("scale")),
    ]  # fmt: skip
    for key in variable_keys(holders[0], list(labels)):
        name, has_prefix = _name_of(key, labels, kind)
        path = f"{owner.name}/{name}" if has_prefix else name
        made.append(OptimizerVariable(optimizer, name, *_part(key), path))
    return made


def update_count(state: optax.OptState | None) -> int:
    """Returns how often `update` was called, on which schedules depend."""
    holders = [node for node in _nodes(state) if isinstance(node, OptimizerState)]
    return int(holders[0].count) if holders else 0


def _name_of(key: Path, labels: Mapping[Path, str], kind: str) -> tuple[str, bool]:
    """Returns the name of a variable in Keras, and whether its path starts with the name of the optimizer."""
    part, *path = key
    if key in _ALONE:
        return _ALONE[key]
    is_unused = (part,) == UNUSED
    if is_unused:
        part, *path = path
    if part in ("row", "column"):  # Adafactor names them after the weight alone
        own = path[-1].rpartition("/")[2]
        return KERAS_NAMES.get(own, own), not is_unused
    return f"{labels[tuple(path)]}_{_SLOT_NAMES_OF.get(kind, {}).get(part) or _SLOT_NAMES.get(part, part)}", True


def _nodes(state: object) -> Iterator[object]:
    """Yields a state and all parts of it."""
    yield state
    if isinstance(state, dict):
        state = tuple(state.values())
    for child in state if isinstance(state, tuple | list) else ():
        yield from _nodes(child)


def _replace_node(state: optax.OptState, kind: type[Node], change: Callable[[Node], Node]) -> optax.OptState:
    """Returns a state whose part of a kind is changed."""
    return jax.tree.map(
        lambda node: change(node) if isinstance(node, kind) else node,
        state,
        is_leaf=lambda node: isinstance(node, kind),
    )


def _node(state: object, kind: type[Node]) -> Node:
    return next(node for node in _nodes(state) if isinstance(node, kind))


def _part(key: Path) -> Access:
    def read(state: optax.OptState) -> jax.Array:
        return get_value(_node(state, OptimizerState), key)

    def write(state: optax.OptState, value: jax.Array) -> optax.OptState:
        return _replace_node(state, OptimizerState, lambda node: with_value(node, key, value))

    return read, write


def _constant(value: np.generic) -> Access:
    """Gives access to a variable that Keras creates and never reads."""
    return lambda _: jnp.asarray(value), lambda state, _: state


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
