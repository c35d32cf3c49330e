"""The methods of Keras' optimizers that read and assign the values of variables."""

from collections.abc import Mapping, MutableMapping, Sequence

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from training.keras.optimizer_state import Assignable, OptimizerVariable


class HasVariables:
    """Mixin of optimizers: reads and assigns the values of `variables`."""

    @property
    def variables(self) -> list[OptimizerVariable]:
        """The variables of the optimizer."""
        raise NotImplementedError

    def set_weights(self, weights: Sequence[ArrayLike]) -> None:
        """Sets the values of `variables`.

        Args:
            weights: An array for each variable.

        Raises:
            ValueError: If the number of arrays, or a shape, differs.

        References:
            Keras, `keras.optimizers.Optimizer.set_weights`.
        """
        variables = self.variables
        if len(weights) != len(variables):
            raise ValueError(
                f"set_weights of {type(self).__name__} needs {len(variables)} arrays, one for each variable, got "
                f"{len(weights)}; call build(variables) first if the optimizer has no state yet."
            )
        for variable, value in zip(variables, weights, strict=True):
            if np.shape(value) != variable.shape:
                raise ValueError(
                    f"{variable.name!r} of {type(self).__name__} has the shape {variable.shape}, got an array of shape "
                    f"{np.shape(value)}; pass the arrays in the order of `variables`."
                )
            variable.assign(value)

    def save_own_variables(self, store: MutableMapping[str, np.ndarray]) -> None:
        """Puts the values of `variables` into a dictionary, with their indices as keys.

        Args:
            store: The dictionary.

        References:
            Keras, `keras.optimizers.Optimizer.save_own_variables`.
        """
        for i, variable in enumerate(self.variables):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store: Mapping[str, ArrayLike]) -> None:
        """Sets `variables` to the values that `save_own_variables` has put into a dictionary.

        Args:
            store: The dictionary.

        Raises:
            ValueError: If the number of values, or a shape, differs.

        References:
            Keras, `keras.optimizers.Optimizer.load_own_variables`.
        """
        self.set_weights([store[str(i)] for i in range(len(store))])

    def assign(self, variable: "Assignable | OptimizerVariable", value: ArrayLike) -> None:
        """Sets a variable."""
        variable.assign(jnp.asarray(value))

    def assign_add(self, variable: "Assignable | OptimizerVariable", value: ArrayLike) -> None:
        """Adds to a variable."""
        variable.assign(variable.value + value)

    def assign_sub(self, variable: "Assignable | OptimizerVariable", value: ArrayLike) -> None:
        """Subtracts from a variable."""
        variable.assign(variable.value - value)
