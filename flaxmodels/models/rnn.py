"""Recurrent networks that classify sequences or forecast their next values."""

from collections.abc import Sequence
from typing import Any

from flaxmodels import layers
from flaxmodels.building import Input, Sequential
from flaxmodels.names import lookup

CELLS = {"gru": "GRU", "lstm": "LSTM", "simple_rnn": "SimpleRNN"}


def rnn_classifier(
    input_shape: tuple[int | None, int],
    num_category: int,
    cell: str = "lstm",
    units: int | Sequence[int] = 128,
    bidirectional: bool = False,
    dropout: float = 0.0,
    mask_value: float | None = None,
    name: str | None = None,
) -> Sequential:
    """Builds a stack of recurrent layers whose last output is classified.

    Args:
        input_shape: Shape of a sequence (T, F); T may be None.
        num_category: Number of classes.
        cell: "lstm", "gru" or "simple_rnn".
        units: Size of the layers: one number, or one for each layer.
        bidirectional: Whether each layer also reads backwards.
        dropout: Fraction dropped of each layer's outputs.
        mask_value: Steps that hold this value alone are padding.
        name: Name of the model.

    Shapes: sequences [B, T, F] -> probabilities [B, num_category].

    Raises:
        ValueError: If the cell is unknown or there are no units.

    Example:
        >>> rnn_classifier((8, 2), 10, cell="gru", units=(16, 8), bidirectional=True).output_shape
        (None, 10)
    """
    stack = _recurrent(input_shape, cell, units, bidirectional, dropout, mask_value)
    return Sequential([*stack, layers.Dense(num_category, activation="softmax")], name=name)


def rnn_forecaster(
    input_shape: tuple[int | None, int],
    horizon: int = 1,
    cell: str = "lstm",
    units: int | Sequence[int] = 64,
    bidirectional: bool = False,
    dropout: float = 0.0,
    mask_value: float | None = None,
    name: str | None = None,
) -> Sequential:
    """Builds a stack of recurrent layers whose last output is mapped to the next values.

    Args:
        input_shape: Shape of a window (T, F); T may be None.
        horizon: How many values are forecast.
        cell: "lstm", "gru" or "simple_rnn".
        units: Size of the layers: one number, or one for each layer.
        bidirectional: Whether each layer also reads backwards.
        dropout: Fraction dropped of each layer's outputs.
        mask_value: Steps that hold this value alone are padding.
        name: Name of the model.

    Shapes: windows [B, T, F] -> values [B, horizon].

    Raises:
        ValueError: If the cell is unknown or there are no units.

    Example:
        >>> rnn_forecaster((12, 1)).output_shape
        (None, 1)
    """
    stack = _recurrent(input_shape, cell, units, bidirectional, dropout, mask_value)
    return Sequential([*stack, layers.Dense(horizon)], name=name)


def _recurrent(
    input_shape: tuple[int | None, int],
    cell: str,
    units: int | Sequence[int],
    bidirectional: bool,
    dropout: float,
    mask_value: float | None,
) -> list[Any]:
    """The layers that both kinds share; only the last one gives its last output alone."""
    make: Any = getattr(layers, lookup("cell", cell, CELLS))
    sizes = [units] if isinstance(units, int) else list(units)
    if not sizes:
        raise ValueError("`units` names the size of at least one layer, got none; give a number or a list of them.")
    stack: list[Any] = [Input(input_shape)]
    if mask_value is not None:
        stack.append(layers.Masking(mask_value))
    for i, size in enumerate(sizes):
        layer = make(size, return_sequences=i < len(sizes) - 1)
        stack.append(layers.Bidirectional(layer) if bidirectional else layer)
        if dropout:
            stack.append(layers.Dropout(dropout))
    return stack
