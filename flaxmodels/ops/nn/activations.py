"""Keras' activation functions as operations; their numerics are those of `flaxmodels.activations`."""

from collections.abc import Sequence

import jax

from flaxmodels import activations
from flaxmodels.ops.arrays import Tensor, as_array
from flaxmodels.ops.base import operation

# --- rectifiers


@operation
def relu(x: Tensor) -> jax.Array:
    """Returns max(x, 0)."""
    return activations.relu(as_array(x))


@operation
def relu6(x: Tensor) -> jax.Array:
    """Returns min(max(x, 0), 6)."""
    return activations.relu6(as_array(x))


@operation
def leaky_relu(x: Tensor, negative_slope: float = 0.2) -> jax.Array:
    """Returns x where x >= 0, and `negative_slope` x elsewhere."""
    return activations.leaky_relu(as_array(x), negative_slope)


@operation
def threshold(x: Tensor, threshold: float, default_value: float) -> jax.Array:
    """Returns x where x > `threshold`, and `default_value` elsewhere."""
    return activations.threshold(as_array(x), threshold, default_value)


@operation
def hard_shrink(x: Tensor, threshold: float = 0.5) -> jax.Array:
    """Returns x where |x| > `threshold`, and 0 elsewhere."""
    return activations.hard_shrink(as_array(x), threshold)


@operation
def soft_shrink(x: Tensor, threshold: float = 0.5) -> jax.Array:
    """Returns x moved towards 0 by `threshold`, and 0 where |x| <= `threshold`."""
    return activations.soft_shrink(as_array(x), threshold)


# --- exponential and softplus families


@operation
def elu(x: Tensor, alpha: float = 1.0) -> jax.Array:
    """Returns x where x > 0, and `alpha` (exp(x) - 1) elsewhere."""
    return activations.elu(as_array(x), alpha)


@operation
def selu(x: Tensor) -> jax.Array:
    """Returns 1.0507 elu(x, 1.6733)."""
    return activations.selu(as_array(x))


@operation
def celu(x: Tensor, alpha: float = 1.0) -> jax.Array:
    """Returns max(x, 0) + min(0, `alpha` (exp(x / `alpha`) - 1))."""
    return activations.celu(as_array(x), alpha)


@operation
def softplus(x: Tensor) -> jax.Array:
    """Returns log(1 + exp(x))."""
    return activations.softplus(as_array(x))


@operation
def sparse_plus(x: Tensor) -> jax.Array:
    """Returns 0 where x <= -1, (x + 1)^2 / 4 where -1 < x < 1, and x where x >= 1."""
    return activations.sparse_plus(as_array(x))


@operation
def squareplus(x: Tensor, b: float = 4) -> jax.Array:
    """Returns (x + sqrt(x^2 + `b`)) / 2."""
    return activations.squareplus(as_array(x), b)


# --- sigmoids


@operation
def sigmoid(x: Tensor) -> jax.Array:
    """Returns 1 / (1 + exp(-x))."""
    return activations.sigmoid(as_array(x))


@operation
def hard_sigmoid(x: Tensor) -> jax.Array:
    """Returns x / 6 + 1/2, clipped to [0, 1]."""
    return activations.hard_sigmoid(as_array(x))


@operation
def sparse_sigmoid(x: Tensor) -> jax.Array:
    """Returns (x + 1) / 2, clipped to [0, 1]."""
    return activations.sparse_sigmoid(as_array(x))


@operation
def log_sigmoid(x: Tensor) -> jax.Array:
    """Returns log(sigmoid(x))."""
    return activations.log_sigmoid(as_array(x))


@operation
def tanh_shrink(x: Tensor) -> jax.Array:
    """Returns x - tanh(x)."""
    return activations.tanh_shrink(as_array(x))


@operation
def hard_tanh(x: Tensor) -> jax.Array:
    """Returns x, clipped to [-1, 1]."""
    return activations.hard_tanh(as_array(x))


@operation
def softsign(x: Tensor) -> jax.Array:
    """Returns x / (1 + |x|)."""
    return activations.softsign(as_array(x))


# --- gates


@operation
def silu(x: Tensor) -> jax.Array:
    """Returns x sigmoid(x), also called swish."""
    return activations.silu(as_array(x))


@operation
def hard_silu(x: Tensor) -> jax.Array:
    """Returns x hard_sigmoid(x), also called hard_swish."""
    return activations.hard_silu(as_array(x))


@operation
def gelu(x: Tensor, approximate: bool = True) -> jax.Array:
    """Returns x Phi(x), where Phi is the distribution function of the standard normal distribution.

    Args:
        x: Any array.
        approximate: Whether to compute 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) instead. As in Keras, this
            is the default here, but not in `flaxmodels.activations.gelu`.

    Example:
        >>> gelu([1.0]).round(3).tolist(), gelu([1.0], approximate=False).round(3).tolist()
        ([0.841...], [0.841...])
    """
    return activations.gelu(as_array(x), approximate)


@operation
def glu(x: Tensor, axis: int = -1) -> jax.Array:
    """Returns a sigmoid(b), where a and b are the two halves of x along `axis`.

    Raises:
        ValueError: If the size along `axis` is odd.

    Example:
        >>> glu([3.0, 5.0, 0.0, 0.0]).tolist()
        [1.5, 2.5]
    """
    return activations.glu(as_array(x), axis)


# --- normalized along an axis


@operation
def softmax(x: Tensor, axis: int | Sequence[int] = -1) -> jax.Array:
    """Returns exp(x) / sum(exp(x)), where the sum runs along one or several axes.

    Example:
        >>> softmax([0.0, 0.0]).tolist()
        [0.5, 0.5]
    """
    return activations.softmax(as_array(x), axis)


@operation
def log_softmax(x: Tensor, axis: int | Sequence[int] = -1) -> jax.Array:
    """Returns x - log(sum(exp(x))), where the sum runs along one or several axes."""
    return activations.log_softmax(as_array(x), axis)


@operation
def sparsemax(x: Tensor, axis: int = -1) -> jax.Array:
    """Returns max(x - tau, 0) along `axis`, with Keras' threshold tau; see `flaxmodels.activations.sparsemax`."""
    return activations.sparsemax(as_array(x), axis)


swish = silu
hard_swish = hard_silu

# On a symbol, a function of `flaxmodels.activations` adds a node with one of these names.
for _name, _function in activations.ON_ARRAYS.items():
    operation(_function, f"activations.{_name}")
