"""What is legal and almost surely wrong: losses and metrics that do not go with what the last layer gives."""

import warnings
from typing import Any

import jax

from flaxmodels import activations
from flaxmodels.building import Sequential
from flaxmodels.graph import Graph
from flaxmodels.inspection import lookups_of
from training.objective import Objective

PROBABILITIES = ("softmax", "sigmoid", "hard_sigmoid")


def last_layers(model: Any) -> list[Any]:
    """The layers that make the outputs of a model of ours; none where that can't be told."""
    if isinstance(model, Sequential):
        return last_layers(model.layers[-1]) if len(model.layers) else []
    graph = getattr(model, "graph", None)
    if isinstance(graph, Graph):
        made = [symbol.node for symbol in jax.tree.leaves(graph.outputs)]
        return [layer for node in made for layer in (last_layers(node.layer) if node else [None])]
    return [model]


def activation_of(layer: Any) -> str | None:
    """The name of the function that a layer ends in; "linear" if there is none, None if that can't be told."""
    # The class that defines `compute` says what it ends in; a subclass with another one does not inherit that.
    defining = next((cls for cls in type(layer).__mro__ if "compute" in vars(cls)), object)
    end = vars(defining).get("ENDS_IN")
    if end != "activation":
        return end
    function = activations.get(layer.activation)
    return next((name for name, known in activations.ACTIVATIONS.items() if known is function), None)


def warn(model: Any, objective: Objective) -> None:
    """Warns, in one sentence each, of what will most likely not learn or not be measured as it was meant."""
    layers = last_layers(model)
    if len(layers) != len(objective.shapes):
        return
    ends = [activation_of(layer) for layer in layers]
    for loss, end, shape in zip(objective.losses, ends, objective.shapes, strict=True):
        if loss is None or end is None:
            continue
        scores = getattr(loss, "from_logits", None)  # None where the loss has no such argument
        if scores and end in PROBABILITIES:
            _tell(
                f"{loss.name} has from_logits=True, which takes scores, but the model ends in {end!r}; "
                "drop one of the two."
            )
        elif not scores and loss.predictions == "probabilities" and end not in PROBABILITIES:
            _tell(
                f"{loss.name} takes probabilities, but the model ends in {end!r}; end it in 'softmax' or 'sigmoid'"
                f"{'' if scores is None else ', or use the loss with from_logits=True'}."
            )
        if end == "softmax" and shape[-1] == 1:
            _tell("The softmax of one unit is always 1, and the model ends in it; end it in 'sigmoid'.")
    for measured in objective.metrics:
        end = ends[measured.output]
        metric = measured.metric
        cuts = hasattr(metric, "thresholds") or hasattr(metric, "num_thresholds")
        if end not in (None, *PROBABILITIES) and cuts and not getattr(metric, "from_logits", False):
            _tell(
                f"The metric {measured.name!r} takes probabilities, but the model ends in {end!r}; end it in 'sigmoid'."
            )


def remedy(model: Any, params: Any) -> str:
    """Returns what to do about numbers that are not finite.

    Args:
        model: The model.
        params: Its parameters. Embeddings are found among them by name, also those of linen.
    """
    checked = [lookup.path for lookup in lookups_of(model)]
    paths = [[str(key.key) for key in path] for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    scopes = ["/".join(path[:-1]) for path in paths if path[-1] == "embedding"]
    unchecked = [scope for scope in scopes if scope not in checked]
    usual = "lower the learning rate, or clip the gradients"
    if not unchecked:
        return usual
    return (
        f"check that the integers which reach {unchecked[0] or 'the embedding'!r} have rows there, as others give NaN; "
        f"otherwise {usual}"
    )


def _tell(sentence: str) -> None:
    warnings.warn(sentence, UserWarning, stacklevel=6)
