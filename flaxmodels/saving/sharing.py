"""Layers that several layers of a model hold, in descriptions of models: each has a number, and readers share it."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TypeVar

import flax.linen as nn

from flaxmodels.layers import keras_state
from flaxmodels.layers.scopes import places_of

T = TypeVar("T")

# The numbers of the shared layers of the model that is described, by the `id` of each.
_NUMBERS: ContextVar[Mapping[int, int] | None] = ContextVar("numbers_of_shared_layers", default=None)
# The shared layers of the model that is built, by number.
_BUILT: ContextVar[dict[int, object] | None] = ContextVar("built_shared_layers", default=None)


@contextlib.contextmanager
def describing(model: nn.Module, shares: bool = True) -> Iterator[None]:
    """Gives the shared layers of a model numbers in its description, unless a model around it is described.

    Args:
        model: The model.
        shares: Whether shared layers have numbers. Otherwise each place gets a layer of its own.
    """
    if _NUMBERS.get() is not None:
        yield
        return
    counts = Counter(id(keras_state.origin_of(place.layer)) for place in places_of(model) if shares)
    shared = [key for key, count in counts.items() if count > 1]
    token = _NUMBERS.set({key: number for number, key in enumerate(shared)})
    try:
        yield
    finally:
        _NUMBERS.reset(token)


def number_of(layer: nn.Module) -> int | None:
    """Returns the number of a shared layer, or None for a layer in one place."""
    return (_NUMBERS.get() or {}).get(id(keras_state.origin_of(layer)))


@contextlib.contextmanager
def building() -> Iterator[None]:
    """Lets descriptions with the same number give the same layer, unless a model around it is built."""
    if _BUILT.get() is not None:
        yield
        return
    token = _BUILT.set({})
    try:
        yield
    finally:
        _BUILT.reset(token)


def built(number: object) -> object | None:
    """Returns the layer of a number that is built already, or None."""
    return (_BUILT.get() or {}).get(number) if isinstance(number, int) else None


def note_built(number: object, layer: T) -> T:
    """Notes the layer of a number, if there is one, and returns the layer."""
    known = _BUILT.get()
    if isinstance(number, int) and known is not None:
        known[number] = layer
    return layer
