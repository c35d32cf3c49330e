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
    """Whether this thread builds layers whose outer layer is not complete yet."""

    is_deferred = False


_building = _Building()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Leaves the layers that are called on symbols without a path; the outer layer gives them one later."""
    before, _building.is_deferred = _building.is_deferred, True
    try:
        yield
    finally:
        _building.is_deferred = before


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
        object.__setattr__(layer, "_outer_path", outer)
        object.__setattr__(layer, "_path_name", name or layer.name)
    return path_of(layer)


def path_of(layer: Any) -> str:
    """Returns the path of a layer; only its name if it is not built yet."""
    name = layer.__dict__.get("_path_name") or layer.name
    return "/".join(filter(None, (layer.__dict__.get("_outer_path"), name)))


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
