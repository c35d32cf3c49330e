"""The values that layers hold, as trees: collected from a layer and those inside it, and given back to them."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import jax

from flaxmodels.layers import keras_state
from flaxmodels.layers.base import Layer
from flaxmodels.layers.wrappers import Bidirectional
from training import assigned
from training.keras import first_values
from training.keras.attributes import KerasAttributes

if TYPE_CHECKING:
    from training.keras.stateful import Stateful

COLLECTIONS = ("params", "batch_stats")
Variables = dict[str, Any]
# The attribute of a layer that another one holds, and does not call: its variables are created when it is called.
UNCALLED = "_is_uncalled"
keras_state.UNTRACKED.add(UNCALLED)


def is_stateful(layer: object) -> "TypeGuard[Stateful]":
    """Returns whether a layer holds the values of its variables."""
    return isinstance(layer, KerasAttributes)


def held_copies(layer: object) -> list[tuple[str, "Stateful"]]:
    """Returns the layers inside a wrapper that it made itself as copies, such as the two directions of an RNN."""
    return held_layers(layer) if isinstance(layer, Bidirectional) else []


def held_layers(layer: object) -> list[tuple[str, "Stateful"]]:
    """Returns the scopes and the layers inside a layer that hold values themselves."""
    if not isinstance(layer, Layer):
        return []
    return [(name, child) for name, child in layer.children() if is_stateful(child)]


def with_held(layer: "Stateful") -> Iterator["Stateful"]:
    """Yields a layer and the distinct layers inside it that hold values."""
    return (held for _, held in scopes_of(layer))


def scopes_of(layer: "Stateful") -> Iterator[tuple[tuple[str, ...], "Stateful"]]:
    """Yields the scope of a layer and those of the distinct layers inside it that hold values.

    The scope of a layer in several places is that of its first place, as in `flaxmodels.layers.scopes`.
    """
    known: dict[int, Stateful] = {}  # by id, which is unique only among living objects

    def visit(layer: "Stateful", scope: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], "Stateful"]]:
        if id(layer) in known:
            return
        known[id(layer)] = layer
        yield scope, layer
        for name, child in held_layers(layer):
            yield from visit(child, (*scope, name))

    return visit(layer, ())


def gather(layer: "Stateful") -> Variables:
    """Returns the variables of a layer as a tree, collected from the layers inside it."""
    refresh()
    return present_values(layer)


def present_values(layer: "Stateful") -> Variables:
    """Returns the variables that the layers hold, without asking a trainer for newer ones."""
    values: Variables = {}
    for scope, held in scopes_of(layer):
        for kind, tree in first_values.values_of(held).items():
            if tree or not scope:
                inside = values.setdefault(kind, {})
                for name in scope:
                    inside = inside.setdefault(name, {})
                inside.update(tree)
    return values


def scatter(layer: "Stateful", variables: Mapping[str, Any], only_missing: bool = False) -> None:
    """Gives variables to a layer and the layers inside it; collections that are not given keep their values.

    Args:
        layer: The layer.
        variables: Collections of variables.
        only_missing: Whether layers that have values keep them.
    """
    for scope, held in scopes_of(layer):
        if only_missing and held.__dict__.get("_values") is not None:
            continue
        names = {name for name, _ in held_layers(held)}
        own: Variables = {}
        is_given = False
        for kind in COLLECTIONS:
            if kind in variables:
                inside = variables[kind] or {}
                for name in scope:
                    inside = inside.get(name) or {}
                own[kind] = {name: leaf for name, leaf in inside.items() if name not in names}
                is_given = is_given or bool(inside)
        if not is_given and held.__dict__.get(UNCALLED):
            continue
        held.__dict__.pop(UNCALLED, None)
        for kind, tree in first_values.take(held).items():
            own[kind] = own.get(kind, {}) | tree if only_missing else tree | own.get(kind, {})
        object.__setattr__(held, "_values", (held.__dict__.get("_values") or {}) | own)
        Changes.count += 1


def store_assigned(layer: "Stateful", before: Variables, after: Variables) -> None:
    """Gives a layer, and those inside it, the variables that a call has assigned.

    Traced values are given only to layers that hold traced values for a while. Otherwise they would outlive their
    trace.

    Args:
        layer: The layer that was called.
        before: Its variables before the call.
        after: Those after the call.
    """
    changed = assigned.changes(before, after)
    is_traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(changed))
    if changed and (_Holding.depth or not is_traced):
        scatter(layer, {kind: tree for kind, tree in assigned.merged(before, changed).items() if kind in changed})
        push()


class _Holding:
    """How many contexts of `holding_values` are active."""

    depth = 0


def has_values(layer: "Stateful") -> bool:
    """Returns whether a layer and all layers inside it have values."""
    if layer.BINDS_ATTRIBUTES and not layer.__dict__.get("built"):
        return False  # its variables and the layers inside it are not known yet
    if layer.__dict__.get("_values") is None:
        return False
    return all(has_values(child) for _, child in held_layers(layer) if not child.__dict__.get(UNCALLED))


# ---------------------------------------------------------------- running fits


@contextlib.contextmanager
def holding_values(layer: "Stateful", variables: Mapping[str, object]) -> Iterator[None]:
    """Puts variables, which may be traced, in place of those that layers hold, and puts the former ones back."""
    held = [(inner, inner.__dict__.get("_values"), first_values.values_of(inner)) for inner in with_held(layer)]
    training, TRAINING[:] = list(TRAINING), []
    _Holding.depth += 1
    try:
        scatter(layer, variables)
        for inner, values, first in held:
            known = {id(leaf) for leaf in jax.tree.leaves(first)}
            if values is None and all(id(leaf) in known for leaf in jax.tree.leaves(inner.__dict__.get("_values"))):
                first_values.put_back(inner, first)  # a layer that has not all of its variables yet
        yield
    finally:
        for inner, values, first in held:
            now = inner.__dict__.get("_values")
            if values is not None:
                object.__setattr__(inner, "_values", values)
            elif any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(now)):
                first_values.put_back(inner, first)
        _Holding.depth -= 1
        TRAINING[:] = training


class Changes:
    """Counts the changes of values in all layers, so that a model need not look for them."""

    count = 0


def changes() -> int:
    """Returns a number that differs after any change of a value that a layer holds."""
    return Changes.count


# The models that `fit` is training: their layers hold older values than their trainers.
TRAINING: list[Any] = []


def refresh() -> None:
    """Gives the layers of models in training the present values of their trainers."""
    for model in TRAINING:
        model.pull_values()


def push() -> None:
    """Gives the trainers of models in training the values of the layers, after a change."""
    for model in TRAINING:
        model.push_values()
