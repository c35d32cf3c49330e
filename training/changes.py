"""Detects changes to layers between two calls of a trainer, such as `layer.trainable = False`, and applies them."""

import dataclasses
import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from flax.typing import VariableDict

from flaxmodels.layers import keras_state
from flaxmodels.layers.base import Layer
from flaxmodels.layers.linen import training_flags
from training.caller import caller_stacklevel
from training.rules import Path, partition, uncalled
from training.state import ArrayOrShapeTree, VariableTree

PLAIN = (bool, int, float, str, type(None))


class IdentityKey:
    """Compares an unhashable object by identity, and keeps it alive so that its identity stays unique."""

    def __init__(self, value: object):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdentityKey) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def settings(module: nn.Module) -> tuple[object, ...]:
    """Returns the arguments of a module and of all modules inside it; the result differs after any change.

    Example:
        >>> from flaxmodels import Sequential, layers
        >>> model = Sequential([layers.Dense(2), layers.Dropout(0.5)])
        >>> before = settings(model)
        >>> model.layers[1].rate = 0.4
        >>> settings(model) == before
        False
    """
    found: list[object] = []
    seen: dict[int, int] = {}

    def visit(value: object) -> None:
        if type(value) in PLAIN:
            found.append(value)
        elif isinstance(value, nn.Module):
            known = id(value) in seen
            found.append((type(value), seen.setdefault(id(value), len(seen))))
            if known:
                return
            held = vars(value)
            cls: Any = type(value)
            for name in _fields(cls):
                visit(held.get(name))
            if isinstance(value, Layer):
                if value.KERAS_STYLE:
                    own = keras_state.attributes(value)
                    visit({name: own[name] for name in own if name not in keras_state.UNTRACKED})
                visit([child for _, child in value.children()])
        elif isinstance(value, Mapping):
            visit(list(value))
            visit(list(value.values()))
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            found.append(len(value))
            for item in value:
                visit(item)
        else:
            try:
                hash(value)
            except TypeError:
                value = IdentityKey(value)
            found.append(value)

    visit(module)
    return tuple(found)


@functools.cache
def _fields(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls) if field.name not in ("parent", "name"))


def check_variables(model: nn.Module, x: ArrayOrShapeTree, variables: VariableDict) -> None:
    """Raises if a changed model needs variables that differ from those it has."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    made = jax.eval_shape(lambda x: model.init(rngs, x, **training_flags(model, train=False)), x)
    now, before = (
        {path: tuple(np.shape(nn.meta.unbox(leaf))) for path, leaf in traverse_util.flatten_dict(dict(tree)).items()}
        for tree in ({kind: made.get(kind, {}) for kind in ("params", "batch_stats")}, variables)
    )
    others = uncalled(model, now, before)
    for path in [*now, *before]:
        if path not in others and now.get(path) != before.get(path):
            name, old, new = "/".join(path), before.get(path), now.get(path)
            what = f"{name!r} is new" if old is None else f"{name!r} is gone" if new is None else ""
            raise ValueError(
                "A model must keep its variables once a Trainer has created them, got a change after which "
                f"{what or f'{name!r} has the shape {new}, not {old}'}; make a new Trainer, and pass the variables to "
                "keep as `variables`."
            )


def transfer_opt_state(
    optimizer: optax.GradientTransformation,
    opt_state: optax.OptState,
    params: VariableTree,
    frozen: frozenset[Path],
) -> optax.OptState:
    """Returns the optimizer's state for another set of trained parameters.

    Parameters that stay trained keep their state, and so do counts and the learning rate. Parameters that become
    trained start with a fresh state. The state of parameters that become frozen is dropped.

    Args:
        optimizer: The transformation that the state is for.
        opt_state: The state so far.
        params: All parameters.
        frozen: Paths of the parameters that are not trained from now on.
    """
    fresh = jax.tree.map(jnp.copy, optimizer.init(partition(params, frozen)[0]))  # both are donated
    paths = set(_leaves(params))
    old, new = _leaves(opt_state), _leaves(fresh)

    def belongs(keys: tuple[str, ...]) -> bool:
        return any(keys[i:] in paths for i in range(len(keys)))

    def shapes(leaves: Mapping[Path, jax.Array]) -> dict[Path, tuple[tuple[int, ...], np.dtype]]:
        return {keys: (leaf.shape, leaf.dtype) for keys, leaf in leaves.items() if not belongs(keys)}

    if shapes(old) != shapes(new):
        warnings.warn(
            "The optimizer's state does not have the structure of the parameters, so all trained parameters start with "
            "a fresh state; use an optimizer whose state has that structure.",
            stacklevel=caller_stacklevel(),
        )
        return fresh

    leaves = [old[keys] if keys in old and old[keys].shape == leaf.shape else leaf for keys, leaf in new.items()]
    return jax.tree.unflatten(jax.tree.structure(fresh), leaves)


def _leaves(tree: object) -> dict[Path, jax.Array]:
    """Returns the leaves keyed by path, in the order of the tree."""
    return {
        tuple(jax.tree_util.keystr((key,), simple=True) for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
