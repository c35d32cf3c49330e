"""What a training step reads and writes: a batch of examples, and the state as one pytree of arrays."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from flaxmodels.trees import Tree

# An array, or only its shape and dtype.
ArrayOrShape: TypeAlias = jax.Array | np.ndarray | jax.ShapeDtypeStruct
ArrayOrShapeTree: TypeAlias = Tree[ArrayOrShape | None]
# Nested dictionaries of arrays, such as the parameters of a model.
VariableTree: TypeAlias = Mapping[str, "ArrayOrShape | VariableTree"]
# The variables of a model by the name of their collection, such as "params".
Variables: TypeAlias = dict[str, VariableTree]


class Batch(NamedTuple):
    """A batch of examples: x and y are arrays or trees of arrays [B, ...].

    Attributes:
        x: Inputs.
        y: Labels, or None if there are none.
        weight: Sample weights [B], or None.
        valid: False for padding rows [B]; None if all rows are examples.
    """

    x: Any
    y: Any = None
    weight: Any = None
    valid: Any = None


class Trouble(NamedTuple):
    """The first step at which a loss or a gradient was not finite.

    Attributes:
        step: The first such step of the run, -1 if there is none.
        parameter: Index of the first such gradient among the trained parameters; -1 if only the loss was not finite.
        count: Number of such steps.
    """

    step: jax.Array
    parameter: jax.Array
    count: jax.Array  # type: ignore[assignment]

    @classmethod
    def none(cls) -> "Trouble":
        """Returns the value at the start of a run."""
        return cls(jnp.full((), -1, jnp.int32), jnp.full((), -1, jnp.int32), jnp.zeros((), jnp.int32))


class TrainState(struct.PyTreeNode):
    """Everything that a training step reads and writes.

    Attributes:
        step: Number of steps done, an int32.
        params: The model's parameters.
        batch_stats: The model's running statistics, empty if it has none.
        opt_state: The optimizer's state.
        key: Random key of the run. Each step folds its number into this key.
        trouble: Record of steps that were not finite.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    key: jax.Array
    trouble: Trouble

    @property
    def variables(self) -> Variables:
        """The collections that the model takes."""
        return {"params": self.params} | ({"batch_stats": self.batch_stats} if self.batch_stats else {})
