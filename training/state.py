"""What changes while a model trains, as one pytree of arrays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct


class Trouble(NamedTuple):
    """Where a loss or a gradient was not finite.

    Attributes:
        step: The first such step of the run, -1 if there is none.
        parameter: Which gradient it was, as the trained parameters are ordered; -1 if it was the loss alone.
        count: How many such steps there were.
    """

    step: jax.Array
    parameter: jax.Array
    count: jax.Array  # type: ignore[assignment]

    @classmethod
    def none(cls) -> "Trouble":
        return cls(jnp.full((), -1, jnp.int32), jnp.full((), -1, jnp.int32), jnp.zeros((), jnp.int32))


class TrainState(struct.PyTreeNode):
    """Everything that a training step reads and writes.

    Attributes:
        step: Number of steps done, an int32.
        params: The model's parameters.
        batch_stats: Its running statistics, empty if it has none.
        opt_state: The optimizer's state.
        key: Random key of the run; every step folds its number in, so that a step's randomness is a function of it.
        trouble: Where numbers were not finite.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    key: jax.Array
    trouble: Trouble

    @property
    def variables(self) -> dict[str, Any]:
        """The collections that the model takes."""
        return {"params": self.params} | ({"batch_stats": self.batch_stats} if self.batch_stats else {})
