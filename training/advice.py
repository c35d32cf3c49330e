"""Warnings and hints for valid but probably wrong programs, such as a loss that does not match the last layer."""

import warnings

import flax.linen as nn
import jax
import optax

from flaxmodels import activations
from flaxmodels.building import Sequential
from flaxmodels.graph import Graph
from flaxmodels.inspection import lookups_of
from training.caller import caller_stacklevel
from training.objective import Objective

PROBABILITIES = ("softmax", "sigmoid", "hard_sigmoid")


def last_layers(model: nn.Module) -> list[nn.Module | None]:
    """Returns the layer that computes each output of a model, with None for unknown layers.

    A Sequential without layers has no outputs. A module that is not a model of this library counts as one layer.

    Args:
        model: The model.
    """
    if isinstance(model, Sequential):
        return last_layers(model.layers[-1]) if len(model.layers) else []
    graph = getattr(model, "graph", None)
    if isinstance(graph, Graph):
        nodes = [symbol.node for symbol in jax.tree.leaves(graph.outputs)]
        return [layer for node in nodes for layer in (last_layers(node.layer) if node else [None])]
    return [model]


def activation_of(layer: nn.Module | None) -> str | None:
    """Returns the name of the activation function of a layer: "linear" if it has none, or None if it is unknown.

    Args:
        layer: The layer.
    """
    # ENDS_IN describes the method `compute` of its class. It does not hold for subclasses that override `compute`.
    defining = next((cls for cls in type(layer).__mro__ if "compute" in vars(cls)), object)
    end = vars(defining).get("ENDS_IN")
    if end != "activation":
        return end
    function = activations.get(getattr(layer, "activation", None))
    return next((name for name, known in activations.ACTIVATIONS.items() if known is function), None)


def warn(model: nn.Module, objective: Objective) -> None:
    """Warns about losses and metrics that do not match the activation of the last layer.

    Args:
        model: The model.
        objective: The losses and metrics of the model.
    """
    layers = last_layers(model)
    if len(layers) != len(objective.shapes):
        return
    ends = [activation_of(layer) for layer in layers]
    for loss, end, shape in zip(objective.losses, ends, objective.shapes, strict=True):
        if loss is None or end is None:
            continue
        from_logits = getattr(loss, "from_logits", None)  # None if the loss has no such argument
        if from_logits and end in PROBABILITIES:
            _warn(
                f"{loss.name} with from_logits=True takes logits, but the model ends in {end!r}; "
                "remove the activation, or use from_logits=False."
            )
        elif not from_logits and loss.predictions == "probabilities" and end not in PROBABILITIES:
            _warn(
                f"{loss.name} takes probabilities, but the model ends in {end!r}; end it in 'softmax' or 'sigmoid'"
                f"{'' if from_logits is None else ', or use the loss with from_logits=True'}."
            )
        if end == "softmax" and shape[-1] == 1:
            _warn("The model ends in the softmax of one unit, which is always 1; end it in 'sigmoid'.")
    for measured in objective.metrics:
        end = ends[measured.output]
        metric = measured.metric
        takes_probabilities = metric.predictions == "probabilities" and not getattr(metric, "from_logits", False)
        if takes_probabilities and end not in (None, *PROBABILITIES):
            _warn(
                f"The metric {measured.name!r} takes probabilities, but the model ends in {end!r}; end it in 'sigmoid'."
            )


def remedy(model: nn.Module, params: optax.Params) -> str:
    """Returns a hint for a loss or parameters that are not finite.

    Args:
        model: The model.
        params: The model's parameters. Embeddings are recognized by their names, including those of linen.
    """
    checked = [lookup.path for lookup in lookups_of(model)]
    paths = [[str(key.key) for key in path] for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    scopes = ["/".join(path[:-1]) for path in paths if path[-1] == "embedding"]
    unchecked = [scope for scope in scopes if scope not in checked]
    general = "lower the learning rate, or clip the gradients"
    if not unchecked:
        return general
    return (
        f"check that the indices for {unchecked[0] or 'the embedding'!r} are in range, because other indices give NaN; "
        f"otherwise {general}"
    )


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=caller_stacklevel())
