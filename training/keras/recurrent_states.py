"""The states that recurrent layers with `stateful=True` carry from batch to batch, as variables of the layer."""

from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp

from flaxmodels.layers.cells import StateSize
from training.keras.held_values import has_values
from training.keras.initialization import ensure_initialized
from training.keras.variables import Weight

if TYPE_CHECKING:
    from training.keras.stateful import Stateful as _Base
else:
    _Base = object


class RecurrentStates(_Base):
    """Mixin of recurrent layers: reads and resets the states."""

    if TYPE_CHECKING:
        stateful: ClassVar[bool]
        state_size: ClassVar[StateSize]

    @property
    def states(self) -> Any:
        """The states as variables, in the structure of the cell's states; None if the layer carries none yet.

        References:
            Keras, `keras.layers.RNN`.
        """
        if not self.stateful:
            return None
        ensure_initialized(self)
        if not has_values(self):
            return None
        names = [name for name in self.own_values().get("batch_stats", {}) if name.startswith("state_")]
        names.sort(key=lambda name: int(name.removeprefix("state_")))
        size = self.state_size
        structure = jax.tree.structure(list(size) if isinstance(size, list | tuple) else [size])
        return jax.tree.unflatten(structure, [self.weight_at(("batch_stats", name)) for name in names])

    def reset_state(self) -> None:
        """Sets the states to zero.

        References:
            Keras, `keras.layers.RNN.reset_state`.
        """
        for state in jax.tree.leaves(self.states, is_leaf=lambda leaf: isinstance(leaf, Weight)):
            state.assign(jnp.zeros_like(state.value))

    def reset_states(self) -> None:
        """Sets the states to zero; another name of `reset_state`."""
        self.reset_state()


class DirectionStates(_Base):
    """Mixin of `Bidirectional`: reads and resets the states of both directions."""

    @property
    def states(self) -> tuple[Weight, ...] | None:
        """The states of the forward layer, followed by those of the backward layer; None if there are none yet.

        References:
            Keras, `keras.layers.Bidirectional`.
        """
        ensure_initialized(self)
        states = [layer.states for _, layer in self.children()]
        return None if None in states else (*states[0], *states[1])

    def reset_state(self) -> None:
        """Sets the states of both directions to zero.

        Raises:
            AttributeError: If the layer is not stateful.

        References:
            Keras, `keras.layers.Bidirectional.reset_state`.
        """
        layers = [layer for _, layer in self.children()]
        if not layers[0].stateful:
            raise AttributeError(
                f"Only a layer with stateful=True has states to reset, got {self.name!r} without it; pass "
                "stateful=True to the layer inside."
            )
        for layer in layers:
            layer.reset_state()

    def reset_states(self) -> None:
        """Sets the states of both directions to zero; another name of `reset_state`."""
        self.reset_state()
