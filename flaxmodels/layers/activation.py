"""Activation functions as layers."""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels import activations
from flaxmodels.activations import ActivationLike
from flaxmodels.constraints import ConstraintLike
from flaxmodels.initializers import InitializerLike
from flaxmodels.layers import checks
from flaxmodels.layers.base import Layer, accumulation_dtype
from flaxmodels.layers.checks import checked_axes
from flaxmodels.regularizers import RegularizerLike


class Activation(Layer):
    """Applies an activation function to the inputs.

    Args:
        activation: Activation function or its name.

    Shapes: any -> the shape that the function returns.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If `activation` is neither a name nor callable.

    References:
        Keras, `keras.layers.Activation`.

    Example:
        >>> Activation("relu").apply({}, jnp.array([[-3.0, 2.0]])).tolist()
        [[0.0, 2.0]]
    """

    activation: ActivationLike

    SUPPORTS_MASKING: ClassVar[bool] = True
    ENDS_IN: ClassVar[str] = "activation"

    def __post_init__(self) -> None:
        activations.get(self.activation)
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Applies the activation function."""
        return activations.get(self.activation)(self.cast_floats(inputs))


class ReLU(Layer):
    """Applies the rectified linear unit.

    y = x where x > threshold, negative_slope (x - threshold) elsewhere; positive values are capped at max_value.

    Args:
        max_value: Largest output; None for no cap.
        negative_slope: Slope below the threshold.
        threshold: Value above which x is returned unchanged.

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
        """Applies the activation function."""
        return activations.relu(self.cast(inputs), self.negative_slope, self.max_value, self.threshold)


class LeakyReLU(Layer):
    """Applies the leaky rectified linear unit: x where x >= 0, and `negative_slope` x elsewhere.

    Args:
        negative_slope: Slope below 0.

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
        """Applies the activation function."""
        return activations.leaky_relu(self.cast(inputs), self.negative_slope)


class PReLU(Layer):
    """Applies the parametric rectified linear unit: x where x >= 0, and alpha x elsewhere, with a learned alpha.

    Args:
        alpha_initializer: Initializer of `alpha`, or its name.
        alpha_regularizer: Regularizer of `alpha`, or its name.
        alpha_constraint: Constraint on `alpha` after each update, or its name.
        shared_axes: Axes along which all elements share one alpha, such as (1, 2) for the positions of images. The
            examples of a batch always share alpha.

    Shapes: x [B, ...] -> the same.

    Raises:
        ValueError: If one of `shared_axes` is not an axis of the inputs.

    References:
        He et al., Delving Deep into Rectifiers, 2015, https://arxiv.org/abs/1502.01852; Keras,
        `keras.layers.PReLU`.

    Example:
        >>> layer = PReLU(alpha_initializer="ones", shared_axes=(1, 2))
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
        >>> variables["params"]["alpha"].shape
        (1, 1, 3)
    """

    alpha_initializer: InitializerLike = "zeros"
    alpha_regularizer: RegularizerLike = None
    alpha_constraint: ConstraintLike = None
    shared_axes: int | Sequence[int] | None = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("alpha",)
    SUPPORTS_MASKING: ClassVar[bool] = True

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Applies the activation function."""
        shared = self.shared_axes
        axes = () if shared is None else tuple(shared) if isinstance(shared, list | tuple) else (shared,)
        if not all(checks.is_integer(axis) and 1 <= axis < inputs.ndim for axis in axes):
            raise ValueError(
                f"`shared_axes` of {self.label} must be axes from 1 to {inputs.ndim - 1} of inputs of shape "
                f"{inputs.shape}, got {axes}; leave out the batch axis, and count from the front."
            )
        shape = tuple(1 if axis in axes else n for axis, n in enumerate(inputs.shape))[1:]
        alpha = self.add_weight("alpha", shape)[None]
        inputs = self.cast(inputs)
        return jax.nn.relu(inputs) - alpha * jax.nn.relu(-inputs)


class ELU(Layer):
    """Applies the exponential linear unit: x where x > 0, and `alpha` (exp(x) - 1) elsewhere.

    Args:
        alpha: Factor of the negative part; outputs approach -alpha for large negative x.

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
        """Applies the activation function."""
        return activations.elu(self.cast(inputs), self.alpha)


class Softmax(Layer):
    """Normalizes the inputs to probabilities: exp(x) / sum(exp(x)), where the sum runs along `axis`.

    Masked elements do not count in the sum, and their outputs are 0. If all elements are masked, the outputs are 0.

    Args:
        axis: Axis or axes along which the outputs sum to 1.

    Shapes: x [...] -> the same. A mask has at most as many axes as x, aligned at the end; each has x's size or size 1.
        A mask of numbers keeps the elements where it exceeds 0.5.

    Raises:
        ValueError: If `axis` is not an axis of x, or the mask does not fit.

    References:
        Keras, `keras.layers.Softmax`.

    Example:
        >>> Softmax().apply({}, jnp.zeros((1, 4)), mask=jnp.array([[True, False, False, True]])).tolist()
        [[0.5, 0.0, 0.0, 0.5]]
    """

    axis: int | Sequence[int] = -1

    SUPPORTS_MASKING: ClassVar[bool] = True
    ENDS_IN: ClassVar[str] = "softmax"

    @nn.compact
    def compute(self, inputs: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Applies the activation function."""
        checked_axes(self, self.axis, inputs)
        inputs = self.cast(inputs)
        if mask is None:
            return activations.softmax(inputs, self.axis)
        return masked_softmax(inputs, self._align_mask(mask, inputs), self.axis)

    def _align_mask(self, mask: jax.Array, inputs: jax.Array) -> jax.Array:
        """Returns the mask as booleans with as many axes as the inputs."""
        missing = inputs.ndim - mask.ndim
        if missing < 0 or any(m not in (1, n) for m, n in zip(mask.shape, inputs.shape[missing:], strict=True)):
            raise ValueError(
                f"The mask of {self.label} must have the inputs' sizes or 1 on its axes, aligned at the end, got a "
                f"mask of shape {mask.shape} for inputs of shape {inputs.shape}; add the missing axes to the mask."
            )
        keep = mask if mask.dtype == bool else mask > 0.5
        return jnp.expand_dims(keep, tuple(range(missing)))


def masked_softmax(x: jax.Array, keep: jax.Array, axis: int | Sequence[int] = -1) -> jax.Array:
    """Returns the softmax of x over the elements where `keep` is true, and 0 elsewhere.

    Args:
        x: Any array; sums of dtypes narrower than float32 are computed in float32.
        keep: Booleans with as many axes as x. If none is true along `axis`, the result is 0.
        axis: Axis or axes along which the result sums to 1.
    """
    # With -1e9 the gradient is finite even if no element is kept; with -inf it would be NaN.
    weights = activations.softmax(jnp.where(keep, x.astype(accumulation_dtype(x.dtype)), -1e9), axis)
    return jnp.where(keep, weights, 0).astype(x.dtype)
