"""Reads from the layers of a model which parameters are trained and which constraints they have."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
from flax import traverse_util

from flaxmodels import constraints
from flaxmodels.inspection import weights_of
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


def read_rules(model: nn.Module, x: ArrayOrShapeTree) -> Rules:
    """Reads constraints and frozen parameters from the layers of a model.

    Args:
        model: Any linen module.
        x: An example batch of inputs; shapes and dtypes suffice.
    """
    found, frozen = {}, set()
    for path, (layer, name) in weights_of(model, x, **training_flags(model, train=False)).items():
        constraint = constraints.get(layer.argument(name, "constraint"))
        if constraint is not None:
            found[path] = constraint
        if layer.frozen:
            frozen.add(path)
    return Rules(found, frozenset(frozen))


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
