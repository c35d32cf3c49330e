"""What changes while a model trains, as one pytree of arrays."""

from typing import Any

import jax
from flax import struct


class TrainState(struct.PyTreeNode):
    """Everything that a training step reads and writes.

    Attributes:
        step: Number of steps done, an int32.
        params: The model's parameters.
        batch_stats: Its running statistics, empty if it has none.
        opt_state: The optimizer's state.
        key: Random key of the run; every step folds its number in, so that a step's randomness is a function of it.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    key: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """The collections that the model takes."""
        return {"params": self.params} | ({"batch_stats": self.batch_stats} if self.batch_stats else {})
