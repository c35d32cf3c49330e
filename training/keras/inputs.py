"""Keras' `Input` and `InputLayer`: the beginning of a model."""

import functools
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flaxmodels.layers import symbolic
from flaxmodels.layers.builds import Shape
from flaxmodels.layers.symbolic import Symbol
from training.keras import config, naming, serialization
from training.keras.refused_methods import Refusing


class InputLayer(Refusing):
    """The first layer of a model in `model.layers`: it has a symbol and computes nothing.

    Args:
        shape: Shape of one example, with None for sizes that vary.
        batch_size: Batch size, if it is fixed.
        dtype: The array's dtype.
        name: The name of the layer, by default "input_layer", and of the symbol, by default "keras_tensor"; both are
            numbered from the second one.
        batch_shape: Shape with the batch, instead of `shape` and `batch_size`.
        input_tensor: The symbol of an existing input.

    References:
        Keras, `keras.layers.InputLayer`.

    Example:
        >>> InputLayer((3,), name="features").output.shape
        (None, 3)
    """

    trainable = True
    built = True
    supports_masking = False
    input_spec = None
    quantization_mode = None

    def __init__(
        self,
        shape: Shape | None = None,
        batch_size: int | None = None,
        dtype: DTypeLike | None = None,
        name: str | None = None,
        *,
        batch_shape: Shape | None = None,
        input_tensor: Symbol | None = None,
    ):
        if input_tensor is None:
            symbol_name = name or naming.automatic_name("keras_tensor")
            input_tensor = symbolic.Input(shape, batch_size, dtype, symbol_name, batch_shape=batch_shape)
            input_tensor.layer_name = name or naming.automatic_name("input_layer")
        self.output = self.input = input_tensor
        self.name = name or input_tensor.layer_name or input_tensor.name or naming.automatic_name("input_layer")
        input_tensor.__dict__.setdefault("input_layer", self)

    @property
    def batch_shape(self) -> Shape:
        """The shape with the batch."""
        return self.output.shape

    @property
    def dtype(self) -> str:
        """The name of the dtype."""
        return jnp.dtype(self.output.dtype).name

    @property
    def weights(self) -> list[Any]:
        """An input has no weights, and no losses and metrics."""
        return []

    trainable_weights = non_trainable_weights = variables = trainable_variables = non_trainable_variables = weights
    losses = metrics = metrics_variables = weights

    @property
    def dtype_policy(self) -> config.DTypePolicy:
        """The policy of the program; the dtype of the input is another one."""
        return config.dtype_policy()

    @property
    def compute_dtype(self) -> str:
        """The name of the dtype in which the policy computes."""
        return self.dtype_policy.compute_dtype

    input_dtype = compute_dtype

    @property
    def variable_dtype(self) -> str:
        """The name of the dtype of weights under the policy."""
        return self.dtype_policy.variable_dtype

    @property
    def path(self) -> str:
        """The name."""
        return self.name

    def get_weights(self) -> list[np.ndarray]:
        """Returns an empty list."""
        return []

    def set_weights(self, weights: list[object]) -> None:
        """Raises unless the list is empty."""
        if weights:
            raise ValueError(f"{self.name} is an input and has no weights, got {len(weights)} arrays; leave them out.")

    def count_params(self) -> int:
        """Returns 0."""
        return 0

    def get_config(self) -> serialization.Config:
        """Returns the arguments."""
        return {
            "batch_shape": self.batch_shape, "dtype": self.dtype, "sparse": False, "ragged": False, "name": self.name,
            "optional": False,
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: serialization.Config) -> Self:
        """Returns the layer with the arguments of `get_config`.

        Args:
            config: The result of `get_config`.
        """
        return cls(**{name: config[name] for name in ("batch_shape", "dtype", "name") if name in config})

    def __repr__(self) -> str:
        return f"<InputLayer name={self.name}, built={self.built}>"


def layer_of(symbol: Symbol) -> InputLayer:
    """Returns the layer of the symbol of an input; each call returns the same one."""
    layer = symbol.__dict__.get("input_layer")
    return layer if isinstance(layer, InputLayer) else InputLayer(input_tensor=symbol)


# Symbols that layers and operations return are named, too.
symbolic.name_of_output = functools.partial(naming.automatic_name, "keras_tensor")
symbolic.name_of_operation = lambda class_name: naming.automatic_name(naming.snake_case(class_name))


def Input(  # noqa: N802 - Keras' name
    shape: Shape | None = None,
    batch_size: int | None = None,
    dtype: DTypeLike | None = None,
    name: str | None = None,
    *,
    batch_shape: Shape | None = None,
    tensor: Symbol | None = None,
) -> Symbol:
    """Makes the symbol of an input of a model; see `flaxmodels.Input`.

    References:
        Keras, `keras.Input`.

    Example:
        >>> Input((3,), name="features").name
        'features'
    """
    return InputLayer(shape, batch_size, dtype, name, batch_shape=batch_shape, input_tensor=tensor).output
