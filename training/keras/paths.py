"""Where layers and weights are: "model/dense/kernel", as in Keras.

A layer gets its path when it is built first: one that is called on a symbol gets its own name, and one that another
layer builds gets the path of that layer in front.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from flaxmodels.layers.conv_recurrent import ConvLSTM
from flaxmodels.layers.normalization import SpectralNormalization
from flaxmodels.layers.recurrent import GRU, LSTM, SimpleRNN

# In Keras, the weights of these layers belong to a cell inside.
CELLS = {LSTM: "lstm_cell", GRU: "gru_cell", SimpleRNN: "simple_rnn_cell", ConvLSTM: "conv_lstm_cell"}


class _Building(threading.local):
    """Whether this thread builds layers whose outer layer is not complete yet, and the layers whose `build` it runs."""

    is_deferred = False

    def __init__(self) -> None:
        self.layers: list[object] = []


_building = _Building()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Leaves the layers that are called on symbols without a path; the outer layer gives them one later."""
    before, _building.is_deferred = _building.is_deferred, True
    try:
        yield
    finally:
        _building.is_deferred = before


@contextlib.contextmanager
def inside(layer: object) -> Iterator[None]:
    """Puts the paths of layers that are built inside, by the `build` of a layer, behind the path of that layer."""
    _building.layers.append(layer)
    try:
        yield
    finally:
        _building.layers.pop()


def is_deferred() -> bool:
    """Returns whether layers that are called on symbols get their paths later."""
    return _building.is_deferred


def put(layer: Any, outer: str, name: str | None = None) -> str:
    """Gives a layer the path of the outer one, unless it has one already; returns its own path.

    Args:
        layer: The layer.
        outer: The path of the layer that builds it, or an empty string.
        name: The name in the path, by default that of the layer.
    """
    if "_outer_path" not in layer.__dict__:
        around = [other for other in _building.layers if other is not layer]
        object.__setattr__(layer, "_outer_path", around[-1] if around and not outer else outer)
        object.__setattr__(layer, "_path_name", name or layer.name)
    return path_of(layer)


def path_of(layer: Any) -> str:
    """Returns the path of a layer; only its name if it is not built yet."""
    name = layer.__dict__.get("_path_name") or layer.name
    outer = layer.__dict__.get("_outer_path")  # that of a layer whose `build` is running is not known yet
    return "/".join(filter(None, (outer if isinstance(outer, str | None) else path_of(outer), name)))


def weight_path(layer: object, inner: Sequence[str], name: str) -> str:
    """Returns the path of a weight.

    Args:
        layer: The layer that holds the weight.
        inner: The scopes between the layer and the weight.
        name: The name of the weight.
    """
    cell = next((cell for cls, cell in CELLS.items() if isinstance(layer, cls)), None)
    wrapped = layer.layer.name if isinstance(layer, SpectralNormalization) and name != "vector_u" else None
    return "/".join(filter(None, (path_of(layer), cell, wrapped, *inner, name)))
