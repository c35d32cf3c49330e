"""Finds the variables that layers assign while they compute, outside of training too, and merges their new values.

Batch normalization changes its statistics only in training. A recurrent layer with `stateful=True`, or a class with an
own `call`, may assign variables in every call.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
from flax import traverse_util

from flaxmodels.layers.base import Layer
from flaxmodels.layers.recurrent import Recurrent
from training.state import ArrayOrShape, Variables

Leaves = dict[tuple[str, ...], ArrayOrShape]


def may_assign(module: nn.Module) -> bool:
    """Returns whether a layer in a model may assign variables outside of training.

    Layers inside other kinds of linen modules are not searched.

    Args:
        module: A layer or model.

    Example:
        >>> from flaxmodels.layers import LSTM
        >>> may_assign(LSTM(3, stateful=True)), may_assign(LSTM(3))
        (True, False)
    """
    if not isinstance(module, Layer):
        return False
    if module.BINDS_ATTRIBUTES or (isinstance(module, Recurrent) and module.stateful):
        return True
    return any(may_assign(child) for _, child in module.children())


def changes(before: Variables, after: Variables) -> Variables:
    """Returns the variables whose values are other arrays than before.

    Args:
        before: The variables before a call.
        after: The variables after it; those that are missing are unchanged.
    """
    old = _flat(before)
    return traverse_util.unflatten_dict(
        {path: leaf for path, leaf in _flat(after).items() if old.get(path) is not leaf}
    )


def merged(variables: Variables, changed: Variables) -> Variables:
    """Returns the variables, with the changed ones in their places."""
    return traverse_util.unflatten_dict(_flat(variables) | _flat(changed)) if changed else variables


def changed_by(step: Callable[[Variables], Variables], variables: Variables) -> Variables:
    """Returns the present values of those variables that a step changes.

    Args:
        step: Maps the variables to those after the step. It is traced, not computed.
        variables: The variables.
    """
    found: list[tuple[str, ...]] = []

    def trace(variables: Variables) -> None:
        found.extend(_flat(changes(variables, step(variables))))

    jax.eval_shape(trace, variables)
    leaves = _flat(variables)
    return traverse_util.unflatten_dict({path: leaves[path] for path in found})


def _flat(variables: Variables) -> Leaves:
    return traverse_util.flatten_dict(variables)
