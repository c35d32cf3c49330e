"""Recurrent networks that classify sequences or forecast their next values."""

from collections.abc import Callable, Sequence

from flaxmodels import layers
from flaxmodels.building import Input, Sequential
from flaxmodels.layers.symbolic import Symbol
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
    """Builds a stack of recurrent layers followed by a softmax classifier of the last output.

    Args:
        input_shape: Shape (T, F) of one sequence; T may be None.
        num_category: Number of classes.
        cell: "lstm", "gru" or "simple_rnn".
        units: Number of units of a single layer, or one number for each layer of the stack.
        bidirectional: Whether each layer also processes the sequence backwards.
        dropout: Fraction of each layer's outputs that is dropped in training.
        mask_value: A step whose features all equal this value is padding and is masked; None for no mask.
        name: Name of the model.

    Shapes: sequences [B, T, F] -> probabilities [B, num_category].

    Raises:
        ValueError: If the cell is unknown or `units` is empty.

    Example:
        >>> rnn_classifier((8, 2), 10, cell="gru", units=(16, 8), bidirectional=True).output_shape
        (None, 10)
    """
    stack = _recurrent_stack(input_shape, cell, units, bidirectional, dropout, mask_value)
    return Sequential([*stack, layers.Dense(num_category, activation="softmax")], name=name)


def rnn_forecaster(
    input_shape: tuple[int | None, int],
    horizon: int = 1,
    cell: str = "lstm",
    units: int | Sequence[int] = 64,
    bidirectional: bool = False,
    dropout: float = 0.0,
    mask_value: float | None = None,
    targets: int | None = None,
    name: str | None = None,
) -> Sequential:
    """Builds a stack of recurrent layers whose last output is mapped linearly to the next values.

    Args:
        input_shape: Shape (T, F) of one window; T may be None.
        horizon: Number of values to forecast.
        cell: "lstm", "gru" or "simple_rnn".
        units: Number of units of a single layer, or one number for each layer of the stack.
        bidirectional: Whether each layer also processes the sequence backwards.
        dropout: Fraction of each layer's outputs that is dropped in training.
        mask_value: A step whose features all equal this value is padding and is masked; None for no mask.
        targets: Number of quantities to forecast at each step; None for one, without an axis of its own.
        name: Name of the model.

    Shapes: windows [B, T, F] -> values [B, horizon], or [B, horizon, targets].

    Raises:
        ValueError: If the cell is unknown or `units` is empty.

    Example:
        >>> rnn_forecaster((12, 1)).output_shape
        (None, 1)
        >>> rnn_forecaster((96, 7), horizon=24, targets=7).output_shape
        (None, 24, 7)
    """
    stack = _recurrent_stack(input_shape, cell, units, bidirectional, dropout, mask_value)
    if targets is None:
        return Sequential([*stack, layers.Dense(horizon)], name=name)
    return Sequential([*stack, layers.Dense(horizon * targets), layers.Reshape((horizon, targets))], name=name)


def _recurrent_stack(
    input_shape: tuple[int | None, int],
    cell: str,
    units: int | Sequence[int],
    bidirectional: bool,
    dropout: float,
    mask_value: float | None,
) -> list[Symbol | layers.Layer]:
    """Returns the input and the layers that both models share; the last recurrent layer returns its last output."""
    make_layer: Callable[..., layers.Layer] = getattr(layers, lookup("cell", cell, CELLS))
    sizes = [units] if isinstance(units, int) else list(units)
    if not sizes:
        raise ValueError("`units` must contain the size of at least one layer, got none; give an integer or a list.")
    stack: list[Symbol | layers.Layer] = [Input(input_shape)]
    if mask_value is not None:
        stack.append(layers.Masking(mask_value))
    for i, size in enumerate(sizes):
        layer = make_layer(size, return_sequences=i < len(sizes) - 1)
        stack.append(layers.Bidirectional(layer) if bidirectional else layer)
        if dropout:
            stack.append(layers.Dropout(dropout))
    return stack
