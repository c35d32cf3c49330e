"""Checks examples against a model: shapes of inputs, classes of labels, and integers that embeddings look up."""

import flax.linen as nn
import jax
import numpy as np

from flaxmodels.container import Container
from flaxmodels.inspection import lookups_of
from flaxmodels.layers.symbolic import Symbol
from training import losses
from training.data.examples import Examples
from training.objective import Objective, ordered


def check_inputs(model: nn.Module, x: object) -> None:
    """Raises if x does not match the inputs that the model declares; only models of `flaxmodels` declare any."""
    if isinstance(model, Container) and model.input_spec is not None:
        spec = model.input_spec
        # The batch size of the data is still unknown.
        batched = jax.tree.map(lambda s: Symbol((None, *s.shape[1:]), s.dtype, name=s.name), spec)
        model.check_inputs(batched, x)


def check_labels(examples: Examples, objective: Objective) -> None:
    """Raises if a label is a class that the output does not have."""
    if examples.y is None or objective.mixes_rows:
        return
    y = ordered(examples.y, objective.names)
    for labels, loss, one_hot, shape in zip(y, objective.losses, objective.one_hot, objective.shapes, strict=True):
        if loss is not None and loss.labels == "unit":
            low, high = float(np.min(labels)), float(np.max(labels))
            if low < 0 or high > 1:
                raise ValueError(
                    f"{loss.name} takes labels from 0 to 1, got values from {low:g} to {high:g}; use "
                    "sparse_categorical_crossentropy and a unit for each class, or map the labels to 0 and 1."
                )
        if loss is not None and (loss.labels == "index" or one_hot):
            ignored = getattr(loss, "ignore_class", None)
            losses.check_labels(np.asarray(labels), shape[-1], ignore_class=ignored)


def check_ids(examples: Examples, model: nn.Module) -> None:
    """Raises if an integer of the inputs has no row in the embedding that receives it.

    A compiled step cannot raise: it would compute NaN, or use the vector of another integer.
    """
    lookups = lookups_of(model)
    if not lookups:
        return
    spec = model.input_spec if isinstance(model, Container) else None
    arrays = jax.tree.leaves(examples.x) if spec is None else model.match_structure(spec, examples.x)
    names = [symbol.name for symbol in jax.tree.leaves(spec)] if len(arrays) > 1 else ["x"]
    for lookup in lookups:
        array = np.asarray(arrays[lookup.source])
        # The layer truncates a float to an integer.
        if not array.size or (
            int(array.min() * examples.scale) >= 0 and int(array.max() * examples.scale) < lookup.size
        ):
            continue
        ids = (array * examples.scale).astype(np.int64)
        wrong = (ids < 0) | (ids >= lookup.size)
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        name = names[lookup.source] or f"input {lookup.source}"
        more = f" and {int(wrong.sum()) - 1} more" if wrong.sum() > 1 else ""
        raise ValueError(
            f"{lookup.layer} {lookup.path!r} looks up integers from 0 to {lookup.size - 1}, got {ids[first]} at "
            f"{list(first)} of `{name}`{more}; give a larger `input_dim`, or map values outside of the vocabulary to "
            "a reserved index."
        )
