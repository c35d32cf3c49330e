"""Builds the model of an untrusted file, within limits of time and memory."""

from collections.abc import Callable

import flax.linen as nn
import jax

from flaxmodels.container import Container
from flaxmodels.layers.base import Layer
from flaxmodels.saving import bounds, custom
from flaxmodels.saving.format import Json
from flaxmodels.saving.messages import reason
from flaxmodels.saving.schema import entry, from_config, to_config

MAX_CALLS = 5_000


def build(config: Json, size: int) -> tuple[Layer, dict[tuple[str, ...], jax.ShapeDtypeStruct] | None]:
    """Builds the model that a file describes.

    Args:
        config: The description.
        size: The size of the file in bytes, which limits the number of layers.

    Returns:
        The model, and the shapes and dtypes of its variables if the description includes its input, else None.

    Raises:
        ValueError: If the description is malformed or too large.
    """
    calls = _count_calls(config)
    if calls > MAX_CALLS:
        raise ValueError(f"it calls {calls} layers, but at most {MAX_CALLS} are allowed")
    inferences = bounds.Inferences(bounds.allowed(size), _identify, _cost)
    with nn.intercept_methods(bounds.bounded), inferences.used():
        model = from_config(config)
    known = isinstance(model, Container) and model.symbols()[0] is not None
    return model, inferences.variables_of(model) if known else None


def _identify(layer: Layer) -> dict[str, Json]:
    """Returns the description of a layer; a custom layer is only equal to itself, since its class may do anything."""
    try:
        is_custom = custom.describe(layer) is not None
    except (ValueError, NotImplementedError):
        is_custom = True
    return {"class": f"custom object {id(layer)}"} if is_custom else to_config(layer)


def check_can_be_read(config: Json, size: int) -> None:
    """Raises if a file with this description and size would be refused by `build`."""
    if _count_calls(config) <= MAX_CALLS and _cost(config) <= bounds.allowed(size):
        return
    try:
        build(config, size)
    except ValueError as error:
        raise ValueError(
            f"The model cannot be saved with its architecture, because the file could not be read again: "
            f"{reason(error)}; save its weights alone."
        ) from error


def _count_calls(config: Json) -> int:
    """Returns how many calls of layers a description leads to; a nested model counts at each of its calls."""
    return _weighted_calls(config, lambda kind: 1)


def _cost(config: Json) -> int:
    """Returns the cost of inferring the shapes of a layer or model, if no layer repeats another."""
    costs = bounds.COSTS | bounds.OPERATION_COSTS
    return _weighted_calls(config, lambda kind: costs.get(kind, 1) if isinstance(kind, str) else 1)


def _weighted_calls(config: Json, weight: Callable[[Json], int]) -> int:
    """Returns the sum of the weights of all calls; `weight` takes the name of a class or of an operation."""
    if isinstance(config, list):
        return sum(_weighted_calls(item, weight) for item in config)
    if not isinstance(config, dict):
        return 0
    layers, calls = config.get("layers"), config.get("calls")
    if isinstance(layers, dict) and isinstance(calls, list):
        weights = {name: _weighted_calls(layer, weight) for name, layer in layers.items()}
        return sum(weights.get(entry(call, "layer", str), 1) for call in calls)
    inside = sum(_weighted_calls(value, weight) for value in config.values())
    return inside + sum(weight(config[key]) for key in ("class", "operation") if key in config)
