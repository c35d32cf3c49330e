"""Reads from the layers of a model which parameters are trained and which constraints they have."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import flax.linen as nn
import jax
from flax import traverse_util

from flaxmodels import constraints
from flaxmodels.inspection import weights_of
from flaxmodels.layers.base import Layer
from flaxmodels.layers.linen import training_flags
from training.state import ArrayOrShapeTree, VariableTree

Path = tuple[str, ...]


class Rules(NamedTuple):
    """Constraints and frozen parameters of a model.

    Attributes:
        constraints: Constraints keyed by the path of the parameter.
        frozen: Paths of the parameters that are not trained.
    """

    constraints: dict[Path, Callable[[jax.Array], jax.Array]]
    frozen: frozenset[Path]


def read_rules(model: nn.Module, x: ArrayOrShapeTree, params: VariableTree | None = None) -> Rules:
    """Reads constraints and frozen parameters from the layers of a model.

    Args:
        model: Any linen module.
        x: An example batch of inputs; shapes and dtypes suffice.
        params: Parameters, of which those of layers count that the model holds but does not call.
    """
    found, frozen = {}, set()
    known = weights_of(model, x, **training_flags(model, train=False))
    for path, (layer, name) in known.items():
        constraint = constraints.get(layer.argument(name, "constraint"))
        if constraint is not None:
            found[path] = constraint
        if layer.frozen:
            frozen.add(path)
    for path in traverse_util.flatten_dict(dict(params or {})):
        outer = layers_around(model, path) if path not in known else []
        if outer:
            constraint = constraints.get(outer[-1].argument(path[-1], "constraint"))
            found |= {} if constraint is None else {path: constraint}
            frozen |= set() if all(layer.trainable for layer in outer) else {path}
    return Rules(found, frozenset(frozen))


def layers_around(model: nn.Module, path: Path) -> list[Layer]:
    """Returns the layers at the scopes of a variable, from the model to its owner; empty if a scope is no layer's.

    Args:
        model: A layer or model.
        path: The path of the variable in its collection.
    """
    found = [model] if isinstance(model, Layer) else []
    for name in path[:-1] if found else ():
        child = next((child for scope, child in found[-1].children() if scope == name), None)
        if not isinstance(child, Layer):
            return []
        found.append(child)
    return found


def uncalled(model: nn.Module, called: Iterable[Path], paths: Iterable[Path]) -> set[Path]:
    """Returns the paths of variables of layers that a model holds in attributes, and that its call does not create.

    Examples are a teacher that only the loss uses, and a layer that is called only in training.

    Args:
        model: A layer or model.
        called: The paths of the variables that the call creates; each starts with the collection.
        paths: Paths of variables.
    """
    scopes = {path[1:-1] for path in called}
    return {path for path in paths if path[1:-1] not in scopes and len(path) > 2 and layers_around(model, path[1:])}


def partition(params: VariableTree, frozen: frozenset[Path]) -> tuple[VariableTree, VariableTree]:
    """Splits parameters into trained and frozen ones; `merge_params` reverses it."""
    if not frozen:
        return params, {}
    flat = traverse_util.flatten_dict(params)
    trained = {path: leaf for path, leaf in flat.items() if path not in frozen}
    rest = {path: leaf for path, leaf in flat.items() if path in frozen}
    return traverse_util.unflatten_dict(trained), traverse_util.unflatten_dict(rest)


def keep_trained(params: VariableTree, assigned: VariableTree | None, frozen: frozenset[Path]) -> VariableTree:
    """Returns the parameters after a call of the model: frozen ones as layers assigned them, trained ones as before.

    Args:
        params: The parameters before the call.
        assigned: The parameters after the call; None if no layer can assign any.
        frozen: Paths of the frozen parameters.
    """
    return params if assigned is None else merge_params(params, partition(assigned, frozen)[1] if frozen else {})


def merge_params(trained: VariableTree, frozen: VariableTree) -> VariableTree:
    """Merges trained and frozen parameters into one tree; the inverse of `partition`."""
    if not frozen:
        return trained
    return traverse_util.unflatten_dict(traverse_util.flatten_dict(trained) | traverse_util.flatten_dict(frozen))


def constrained(params: VariableTree, rules: Rules) -> VariableTree:
    """Applies the constraints to the trained parameters. Frozen parameters keep their values."""
    if not rules.constraints:
        return params
    flat = traverse_util.flatten_dict(params)
    for path, constraint in rules.constraints.items():
        if path in flat and path not in rules.frozen:
            flat[path] = constraint(flat[path])
    return traverse_util.unflatten_dict(flat)
