"""Runs a model on a batch, for training, evaluation and prediction."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import VariableDict

from flaxmodels.layers.base import Layer
from flaxmodels.layers.linen import training_flags
from training.assigned import may_assign
from training.state import Batch


class Outputs(NamedTuple):
    """What a model returns for a batch.

    Attributes:
        values: The outputs, an array or a tree of arrays [B, ...].
        masks: A mask for each output, or None; None for a model that has no masks.
        batch_stats: The running statistics after this batch.
        added_losses: The layers' penalties and what they add by `add_loss`, scalars.
        params: The parameters after this batch, which layers may assign; None if none can.
    """

    values: Any
    masks: Any
    batch_stats: Any
    added_losses: tuple[jax.Array, ...]
    params: Any = None

    @property
    def regularization(self) -> jax.Array:
        """Sum of the losses that the layers add, a scalar."""
        return sum(self.added_losses, jnp.zeros((), jnp.float32))


def forward(
    model: nn.Module,
    variables: VariableDict,
    batch: Batch,
    train: bool = False,
    key: jax.Array | None = None,
) -> Outputs:
    """Runs a model on a batch. Layers that mix rows receive the flags of padding rows.

    Args:
        model: Any linen module.
        variables: The model's variables.
        batch: The batch; only its inputs and the flags of padding rows are used.
        train: Whether the model runs in training mode.
        key: The key of dropout, needed in training mode.
    """
    collections = dict(variables) | ({} if batch.valid is None else {"batch": {"valid": batch.valid}})
    assigns = may_assign(model)
    moving = ["params", "batch_stats"] if assigns else ["batch_stats"] if train else []
    options: dict[str, Any] = {"mutable": [*moving, "losses"]}
    if train:
        options["rngs"] = {"dropout": key}
    if isinstance(model, Layer):
        options |= {"train": model.training_flag(train), "method": "outputs_and_mask"}
        (values, masks), new = model.apply(collections, batch.x, **options)
    else:
        options |= training_flags(model, train)
        (values, new), masks = model.apply(collections, batch.x, **options), None
    added = tuple(jax.tree.leaves(new.get("losses", {})))
    batch_stats = new.get("batch_stats", variables.get("batch_stats", {}))
    return Outputs(values, masks, batch_stats, added, new.get("params"))


def adds_losses(model: nn.Module, variables: VariableDict, batch: Batch) -> bool:
    """Returns whether layers of a model add losses in training, by regularizers or `add_loss`.

    Args:
        model: Any linen module.
        variables: The model's variables; shapes and dtypes suffice.
        batch: A batch; shapes and dtypes suffice.
    """
    key = jax.random.key(0)
    return bool(jax.eval_shape(lambda v, b: forward(model, v, b, True, key).added_losses, variables, batch))
