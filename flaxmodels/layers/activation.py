"""Activations as layers."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels import activations
from flaxmodels.layers import checks
from flaxmodels.layers.base import Layer, accumulation_dtype
from flaxmodels.layers.checks import checked_axes


class Activation(Layer):
    """Applies a function to each element, or whatever the function does.

    Args:
        activation: Name or function.

    Shapes: any -> the function's.

    Raises:
        ValueError: If the name is unknown.

    References:
        Keras, `keras.layers.Activation`.

    Example:
        >>> Activation("relu").apply({}, jnp.array([[-3.0, 2.0]])).tolist()
        [[0.0, 2.0]]
    """

    activation: Any

    SUPPORTS_MASKING: ClassVar[bool] = True
    ENDS_IN: ClassVar[str] = "activation"

    def __post_init__(self) -> None:
        activations.get(self.activation)
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        return activations.get(self.activation)(self.cast_floats(inputs))


class ReLU(Layer):
    """Rectifies: x above `threshold`, capped at `max_value`; `negative_slope` (x - threshold) below.

    Args:
        max_value: The largest output; None for no cap.
        negative_slope: The slope below the threshold.
        threshold: Where the positive part begins.

    Shapes: any -> the same.

    Raises:
        ValueError: If an argument is negative.

    References:
        Keras, `keras.layers.ReLU`.

    Example:
        >>> ReLU(max_value=6.0, negative_slope=0.5).apply({}, jnp.array([-2.0, 0.5, 9.0])).tolist()
        [-1.0, 0.5, 6.0]
    """

    max_value: float | None = None
    negative_slope: float = 0.0
    threshold: float = 0.0

    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.max_value is not None:
            checks.check_not_negative(self, "max_value", fix="None for no cap")
        checks.check_not_negative(self, "negative_slope", "threshold", fix="0 for none")
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        return activations.relu(self.cast(inputs), self.negative_slope, self.max_value, self.threshold)


class LeakyReLU(Layer):
    """x where x >= 0, else `negative_slope` x.

    Args:
        negative_slope: The slope below 0.

    Shapes: any -> the same.

    Raises:
        ValueError: If the slope is negative.

    References:
        Keras, `keras.layers.LeakyReLU`.

    Example:
        >>> LeakyReLU(negative_slope=0.5).apply({}, jnp.array([-10.0, 5.0])).tolist()
        [-5.0, 5.0]
    """

    negative_slope: float = 0.3

    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.check_not_negative(self, "negative_slope", fix="0 for none")
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        return activations.leaky_relu(self.cast(inputs), self.negative_slope)


class PReLU(Layer):
    """x where x >= 0, else alpha x, with a learned alpha for each feature.

    Args:
        alpha_initializer: Name or initializer of `alpha`.
        alpha_regularizer: Adds a loss on `alpha`.
        alpha_constraint: Applied to `alpha` after each update.
        shared_axes: The axes along which one alpha serves all, such as (1, 2) for the space of images; the
            batch, axis 0, always shares.

    Shapes: x [B, ...] -> the same.

    Raises:
        ValueError: If a shared axis is none of the input's.

    References:
        He et al., Delving Deep into Rectifiers, 2015, https://arxiv.org/abs/1502.01852; Keras,
        `keras.layers.PReLU`.

    Example:
        >>> layer = PReLU(alpha_initializer="ones", shared_axes=(1, 2))
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
        >>> variables["params"]["alpha"].shape
        (1, 1, 3)
    """

    alpha_initializer: Any = "zeros"
    alpha_regularizer: Any = None
    alpha_constraint: Any = None
    shared_axes: Any = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("alpha",)
    SUPPORTS_MASKING: ClassVar[bool] = True

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        shared = self.shared_axes
        axes = () if shared is None else tuple(shared) if isinstance(shared, list | tuple) else (shared,)
        if not all(checks.is_integer(axis) and 1 <= axis < inputs.ndim for axis in axes):
            raise ValueError(
                f"`shared_axes` of {self.label} are axes from 1 to {inputs.ndim - 1} of inputs of shape "
                f"{inputs.shape}, got {axes}; leave out the batch, and count from the front."
            )
        shape = tuple(1 if axis in axes else n for axis, n in enumerate(inputs.shape))[1:]
        alpha = self.add_weight("alpha", shape)[None]
        inputs = self.cast(inputs)
        return jax.nn.relu(inputs) - alpha * jax.nn.relu(-inputs)


class ELU(Layer):
    """x where x > 0, else `alpha` (exp(x) - 1).

    Args:
        alpha: The value that large negative x approach, negated.

    Shapes: any -> the same.

    References:
        Clevert et al., Fast and Accurate Deep Network Learning by Exponential Linear Units, 2016,
        https://arxiv.org/abs/1511.07289; Keras, `keras.layers.ELU`.

    Example:
        >>> ELU(alpha=2.0).apply({}, jnp.array([-100.0, 5.0])).tolist()
        [-2.0, 5.0]
    """

    alpha: float = 1.0

    SUPPORTS_MASKING: ClassVar[bool] = True

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        return activations.elu(self.cast(inputs), self.alpha)


class Softmax(Layer):
    """exp(x) / sum(exp(x)), the sum along `axis` and over what the mask keeps.

    Args:
        axis: The axis or axes along which the outputs sum to 1.

    Shapes: x [...] -> the same. A mask has as many axes or fewer, aligned at the end, each of x's size or 1;
    numbers in it keep where they are above 0.5. Where all is masked, the outputs are 0.

    Raises:
        ValueError: If an axis is none of x's, or the mask does not fit.

    References:
        Keras, `keras.layers.Softmax`.

    Example:
        >>> Softmax().apply({}, jnp.zeros((1, 4)), mask=jnp.array([[True, False, False, True]])).tolist()
        [[0.5, 0.0, 0.0, 0.5]]
    """

    axis: Any = -1

    SUPPORTS_MASKING: ClassVar[bool] = True
    ENDS_IN: ClassVar[str] = "softmax"

    @nn.compact
    def compute(self, inputs: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        checked_axes(self, self.axis, inputs)
        inputs = self.cast(inputs)
        if mask is None:
            return activations.softmax(inputs, self.axis)
        return masked_softmax(inputs, self._aligned(mask, inputs), self.axis)

    def _aligned(self, mask: jax.Array, inputs: jax.Array) -> jax.Array:
        missing = inputs.ndim - mask.ndim
        if missing < 0 or any(m not in (1, n) for m, n in zip(mask.shape, inputs.shape[missing:], strict=True)):
            raise ValueError(
                f"The mask of {self.label} has the inputs' sizes or 1 on its axes, aligned at the end, got a "
                f"mask of shape {mask.shape} for inputs of shape {inputs.shape}; expand the mask's axes."
            )
        keep = mask if mask.dtype == bool else mask > 0.5
        return jnp.expand_dims(keep, tuple(range(missing)))


def masked_softmax(x: jax.Array, keep: jax.Array, axis: int | tuple[int, ...] = -1) -> jax.Array:
    """Softmax over what `keep`, of as many axes as x, keeps: 0 elsewhere, also where nothing is kept.

    The sums are in float32 for narrower x.
    """
    # -1e9 and not -inf: its gradient is finite where nothing is kept.
    weights = activations.softmax(jnp.where(keep, x.astype(accumulation_dtype(x.dtype)), -1e9), axis)
    return jnp.where(keep, weights, 0).astype(x.dtype)
