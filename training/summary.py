"""The table of a trainer, as HTML for notebooks."""

from collections.abc import Mapping

import flax.linen as nn

from flaxmodels import html
from flaxmodels.summary import parameter_count
from training import optimizers
from training.state import TrainState


def as_html(model: nn.Module, loss: object, metrics: object, state: TrainState | None) -> str:
    """Returns the table of a trainer.

    Args:
        model: The model.
        loss: The loss as given to the trainer.
        metrics: The metrics as given to the trainer.
        state: The state of training, or None if the model has no parameters yet.
    """
    rows = [
        ["model", getattr(model, "name", None) or type(model).__name__],
        ["loss", _label(loss)],
        ["metrics", _label(metrics)],
    ]
    if state is None:
        rows.append(["parameters", "not initialized"])
    else:
        rows.append(["parameters", f"{parameter_count(state.params):,}"])
        rows.append(["steps done", f"{int(state.step):,}"])
        rows += [
            [name.replace("_", " "), f"{rate:g}"] for name, rate in optimizers.learning_rates(state.opt_state).items()
        ]
    return html.table([], rows, "Trainer")


def _label(thing: object) -> str:
    """Returns a short name of a loss or a metric, or of a list or dictionary of them."""
    if thing is None:
        return "none"
    if isinstance(thing, str):
        return thing
    if isinstance(thing, Mapping):
        return ", ".join(f"{name}: {_label(value)}" for name, value in thing.items())
    if isinstance(thing, list | tuple) and not hasattr(thing, "_fields"):
        return ", ".join(map(_label, thing))
    return getattr(thing, "__name__", None) or type(thing).__name__
