"""The variables of a model as nested dictionaries: `get_state_tree` and `set_state_tree`."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from training.keras.metric_state import MetricVariable
from training.keras.variables import Weight

if TYPE_CHECKING:
    from training.keras.compiled import CompiledModel

Tree = dict[str, Any]  # values, or trees, by name
GROUPS = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")
FORMATS = ("backend_tensor", "numpy_array")


def _variables(model: "CompiledModel", group: str) -> list[MetricVariable | Weight]:
    """Returns the variables of a group."""
    if group != "optimizer_variables":
        found: list[MetricVariable | Weight] = getattr(model, group)
        return found
    optimizer = vars(model)["optimizer"]
    return [] if optimizer is None else optimizer.variables


def values_of(model: "CompiledModel", value_format: str) -> Tree:
    """Returns the values of all variables of a model.

    Args:
        model: The model.
        value_format: One of `FORMATS`.
    """
    if value_format not in FORMATS:
        raise ValueError(f"`value_format` must be one of {', '.join(FORMATS)}, got {value_format!r}; choose one.")
    return {group: _nested(_variables(model, group), value_format == "numpy_array") for group in GROUPS}


def _nested(variables: list[MetricVariable | Weight], is_numpy: bool) -> Tree:
    tree: Tree = {}
    for variable in variables:
        *outer, last = variable.path.split("/")
        inside = tree
        for name in outer:
            inside = inside.setdefault(name, {})
        if last in inside:
            raise ValueError(
                f"A state tree needs a path of its own for each variable, got {variable.path!r} twice; give the layers "
                "different names."
            )
        inside[last] = variable.numpy() if is_numpy else variable.value
    return tree


def assign(model: "CompiledModel", tree: Mapping[str, object]) -> None:
    """Sets variables of a model.

    Args:
        model: The model.
        tree: Values in the structure of `values_of`.
    """
    for group, values in tree.items():
        if group not in GROUPS:
            raise ValueError(f"A state tree has the groups {', '.join(GROUPS)}, got {group!r}; leave it out.")
        known = {variable.path: variable for variable in _variables(model, group)}
        if not isinstance(values, Mapping):
            raise TypeError(
                f"`{group}` of a state tree must be a dictionary, got {type(values).__name__}; pass "
                "nested dictionaries as get_state_tree returns them."
            )
        for path, value in _flat(values, ""):
            if path not in known:
                raise ValueError(f"{model.name} has no variable {path!r} among its {group}; leave it out of the tree.")
            known[path].assign(np.asarray(value))


def _flat(tree: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value
