"""Activation functions under Keras' names: pure functions that can be jitted, differentiated and vmapped.

Values and gradients equal those of Keras' JAX backend, including the gradients at kinks. Functions that sum over
many elements (softmax, log_softmax, sparsemax) compute bfloat16 and float16 in float32 and cast the result back.
On a symbol, an activation function adds a node to the graph.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, Protocol, overload

import jax
import jax.numpy as jnp

from flaxmodels.layers import symbolic
from flaxmodels.layers.symbolic import Symbol
from flaxmodels.names import lookup

P = ParamSpec("P")

Activation = Callable[[jax.Array], jax.Array]
# What an `activation` argument accepts: a name, a function, or None for no activation.
ActivationLike = str | Activation | None
Axis = int | Sequence[int]


class ActivationFunction(Protocol[P]):
    """The type of an activation function: it computes on an array, and adds a node to the graph on a symbol."""

    @overload
    def __call__(self, x: Symbol, *args: P.args, **kwargs: P.kwargs) -> Symbol: ...
    @overload
    def __call__(self, x: jax.Array, *args: P.args, **kwargs: P.kwargs) -> jax.Array: ...


# The functions of arrays by name. A node of the function `relu` has the operation "activations.relu".
ON_ARRAYS: dict[str, Callable[..., jax.Array]] = {}


def activation(function: Callable[Concatenate[jax.Array, P], jax.Array]) -> ActivationFunction[P]:
    """Makes an activation function of a function of arrays."""
    name = function.__name__
    signature = inspect.signature(function)
    ON_ARRAYS[name] = function

    @functools.wraps(function)
    def wrapper(x, *args, **kwargs):
        if not isinstance(x, Symbol):
            return function(jnp.asarray(x) if isinstance(x, list | tuple) else x, *args, **kwargs)
        # The node holds all arguments, so that files do not depend on the defaults.
        bound = signature.bind(x, *args, **kwargs)
        bound.apply_defaults()
        return symbolic.call_operation(f"activations.{name}", *bound.args)

    return wrapper


@overload
def linear(x: Symbol) -> Symbol: ...
@overload
def linear(x: jax.Array) -> jax.Array: ...
def linear(x: Symbol | jax.Array) -> Symbol | jax.Array:
    """Returns x unchanged."""
    return x


# --- rectifiers


@activation
def relu(
    x: jax.Array, negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0
) -> jax.Array:
    """Applies the rectified linear unit.

    y = x where x > threshold, negative_slope (x - threshold) elsewhere; positive values are capped at max_value.

    Args:
        x: Any array.
        negative_slope: Slope below the threshold.
        max_value: Largest value returned; None for no cap.
        threshold: Value above which x is returned unchanged.

    Shapes: any -> the same.

    Example:
        >>> relu(jnp.array([-2.0, 0.5, 9.0]), negative_slope=0.5, max_value=6.0).tolist()
        [-1.0, 0.5, 6.0]
    """
    if negative_slope != 0 and max_value is None and threshold == 0:
        return jax.nn.leaky_relu(x, negative_slope)
    # As in Keras, each case has its own function: the values agree, but the gradients at the kinks differ.
    if threshold != 0:
        out = jnp.where(x > threshold, x, 0)
        negative_part = jax.nn.relu(threshold - x)
    else:
        out = jax.nn.relu6(x) if max_value == 6 else jax.nn.relu(x)
        negative_part = jax.nn.relu(-x)
    if max_value is not None and (threshold != 0 or max_value != 6):
        out = jnp.clip(out, 0, max_value)
    return out if negative_slope == 0 else out - negative_slope * negative_part


@activation
def relu6(x: jax.Array) -> jax.Array:
    """Returns min(max(x, 0), 6)."""
    return jax.nn.relu6(x)


@activation
def leaky_relu(x: jax.Array, negative_slope: float = 0.2) -> jax.Array:
    """Returns x where x >= 0, and `negative_slope` x elsewhere."""
    return jax.nn.leaky_relu(x, negative_slope)


@activation
def threshold(x: jax.Array, threshold: float, default_value: float) -> jax.Array:
    """Returns x where x > `threshold`, and `default_value` elsewhere."""
    return jnp.where(x > threshold, x, default_value)


@activation
def hard_shrink(x: jax.Array, threshold: float = 0.5) -> jax.Array:
    """Returns x where |x| > `threshold`, and 0 elsewhere."""
    return jnp.where(jnp.abs(x) > threshold, x, 0.0)


@activation
def soft_shrink(x: jax.Array, threshold: float = 0.5) -> jax.Array:
    """Returns x moved towards 0 by `threshold`, and 0 where |x| <= `threshold`."""
    return jnp.where(x > threshold, x - threshold, jnp.where(x < -threshold, x + threshold, 0.0))


# --- exponential and softplus families


@activation
def exponential(x: jax.Array) -> jax.Array:
    """Returns exp(x)."""
    return jnp.exp(x)


@activation
def elu(x: jax.Array, alpha: float = 1.0) -> jax.Array:
    """Returns x where x > 0, and `alpha` (exp(x) - 1) elsewhere.

    References:
        Clevert et al., Fast and Accurate Deep Network Learning by Exponential Linear Units, 2016,
        https://arxiv.org/abs/1511.07289
    """
    return jax.nn.elu(x, alpha)


@activation
def selu(x: jax.Array) -> jax.Array:
    """Returns 1.0507 elu(x, 1.6733).

    Layers initialized by `LecunNormal` then keep mean 0 and variance 1 from layer to layer.

    References:
        Klambauer et al., Self-Normalizing Neural Networks, 2017, https://arxiv.org/abs/1706.02515
    """
    return jax.nn.selu(x)


@activation
def celu(x: jax.Array, alpha: float = 1.0) -> jax.Array:
    """Returns max(x, 0) + min(0, `alpha` (exp(x / `alpha`) - 1)).

    References:
        Barron, Continuously Differentiable Exponential Linear Units, 2017, https://arxiv.org/abs/1704.07483
    """
    return jax.nn.celu(x, alpha)


@activation
def softplus(x: jax.Array) -> jax.Array:
    """Returns log(1 + exp(x))."""
    return jax.nn.softplus(x)


@activation
def sparse_plus(x: jax.Array) -> jax.Array:
    """Returns 0 where x <= -1, (x + 1)^2 / 4 where -1 < x < 1, and x where x >= 1."""
    return jax.nn.sparse_plus(x)


@activation
def squareplus(x: jax.Array, b: float = 4) -> jax.Array:
    """Returns (x + sqrt(x^2 + `b`)) / 2.

    References:
        Barron, Squareplus: A Softplus-Like Algebraic Rectifier, 2021, https://arxiv.org/abs/2112.11687
    """
    return jax.nn.squareplus(x, b)


# --- sigmoids


@activation
def sigmoid(x: jax.Array) -> jax.Array:
    """Returns 1 / (1 + exp(-x))."""
    return jax.nn.sigmoid(x)


@activation
def hard_sigmoid(x: jax.Array) -> jax.Array:
    """Returns x / 6 + 1/2, clipped to [0, 1]."""
    return jax.nn.hard_sigmoid(x)


@activation
def sparse_sigmoid(x: jax.Array) -> jax.Array:
    """Returns (x + 1) / 2, clipped to [0, 1].

    References:
        Blondel et al., Learning with Fenchel-Young Losses, 2019, https://arxiv.org/abs/1901.02324
    """
    return jax.nn.sparse_sigmoid(x)


@activation
def log_sigmoid(x: jax.Array) -> jax.Array:
    """Returns log(sigmoid(x)) = -softplus(-x)."""
    return jax.nn.log_sigmoid(x)


@activation
def tanh(x: jax.Array) -> jax.Array:
    """Returns the hyperbolic tangent of x."""
    return jnp.tanh(x)


@activation
def tanh_shrink(x: jax.Array) -> jax.Array:
    """Returns x - tanh(x)."""
    return x - jnp.tanh(x)


@activation
def hard_tanh(x: jax.Array) -> jax.Array:
    """Returns x, clipped to [-1, 1]."""
    return jax.nn.hard_tanh(x)


@activation
def softsign(x: jax.Array) -> jax.Array:
    """Returns x / (1 + |x|)."""
    return jax.nn.soft_sign(x)


# --- gates


@activation
def silu(x: jax.Array) -> jax.Array:
    """Returns x sigmoid(x), also called swish.

    References:
        Ramachandran et al., Searching for Activation Functions, 2017, https://arxiv.org/abs/1710.05941
    """
    return jax.nn.silu(x)


@activation
def hard_silu(x: jax.Array) -> jax.Array:
    """Returns x hard_sigmoid(x), also called hard_swish.

    References:
        Howard et al., Searching for MobileNetV3, 2019, https://arxiv.org/abs/1905.02244
    """
    return jax.nn.hard_silu(x)


@activation
def gelu(x: jax.Array, approximate: bool = False) -> jax.Array:
    """Returns x Phi(x), where Phi is the distribution function of the standard normal distribution.

    Args:
        x: Any array.
        approximate: Whether to compute 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) instead.

    Shapes: any -> the same.

    References:
        Hendrycks and Gimpel, Gaussian Error Linear Units, 2016, https://arxiv.org/abs/1606.08415
    """
    return jax.nn.gelu(x, approximate)


@activation
def mish(x: jax.Array) -> jax.Array:
    """Returns x tanh(softplus(x)).

    References:
        Misra, Mish: A Self Regularized Non-Monotonic Activation Function, 2019, https://arxiv.org/abs/1908.08681
    """
    return x * jnp.tanh(jax.nn.softplus(x))


@activation
def glu(x: jax.Array, axis: int = -1) -> jax.Array:
    """Returns a sigmoid(b), where a and b are the two halves of x along `axis`.

    Args:
        x: Array whose size along `axis` is even.
        axis: Axis that is split in half.

    Shapes: x [..., 2 F] -> [..., F].

    Raises:
        ValueError: If the size along `axis` is odd.

    References:
        Dauphin et al., Language Modeling with Gated Convolutional Networks, 2017, https://arxiv.org/abs/1612.08083

    Example:
        >>> glu(jnp.array([[3.0, 5.0, 0.0, 0.0]])).tolist()
        [[1.5, 2.5]]
    """
    if jnp.shape(x)[axis] % 2:
        raise ValueError(
            f"glu splits x in half along `axis`={axis}, whose size must be even, got x of shape {jnp.shape(x)}; "
            "choose another axis or an even number of units."
        )
    return jax.nn.glu(x, axis)


# --- normalized along an axis


@activation
def softmax(x: jax.Array, axis: Axis = -1) -> jax.Array:
    """Returns exp(x) / sum(exp(x)), where the sum runs along `axis`.

    Args:
        x: Any array.
        axis: Axis or axes along which the result sums to 1.

    Shapes: any -> the same.

    Example:
        >>> softmax(jnp.zeros((1, 4))).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """
    return _cast_back(jax.nn.softmax(_to_float32(x), _axes(axis)), like=x)


@activation
def log_softmax(x: jax.Array, axis: Axis = -1) -> jax.Array:
    """Returns x - log(sum(exp(x))), the logarithm of `softmax`, where the sum runs along one or more axes."""
    return _cast_back(jax.nn.log_softmax(_to_float32(x), _axes(axis)), like=x)


@activation
def sparsemax(x: jax.Array, axis: int = -1) -> jax.Array:
    """Returns max(x - tau, 0) along `axis`, with the threshold tau that Keras uses.

    Let z be x sorted in descending order, c_j = z_1 + ... + z_j, and k the number of j with z_j > (c_j - 1) / j.
    The paper defines tau = (c_k - 1) / k, for which the result sums to 1. Keras computes
    tau = (c_1 + ... + c_k - 1) / k, which is the same only for k = 1. This function returns Keras' numbers.

    Args:
        x: Any array.
        axis: Axis along which the result is sparse.

    Shapes: any -> the same.

    References:
        Martins and Astudillo, From Softmax to Sparsemax, 2016, https://arxiv.org/abs/1602.02068

    Example:
        >>> sparsemax(jnp.array([[0.5, 3.0, 1.0]])).tolist()
        [[0.0, 1.0, 0.0]]
    """
    z = jnp.moveaxis(_to_float32(x), axis, -1)
    descending = -jnp.sort(-z, axis=-1)
    cumulative = jnp.cumsum(descending, axis=-1)
    rank = jnp.arange(1, z.shape[-1] + 1, dtype=z.dtype).reshape((1,) * (z.ndim - 1) + (-1,))
    support = descending > (cumulative - 1) / rank
    k = jnp.sum(support, axis=-1, keepdims=True, dtype=z.dtype)
    tau = (jnp.sum(jnp.where(support, cumulative, 0), axis=-1, keepdims=True) - 1) / k
    return _cast_back(jnp.moveaxis(jnp.maximum(z - tau, 0), -1, axis), like=x)


def _to_float32(x: jax.Array) -> jax.Array:
    """Returns x as float32, or unchanged if it is float32 or float64."""
    x = jnp.asarray(x)
    return x if x.dtype in (jnp.float32, jnp.float64) else x.astype(jnp.float32)


def _cast_back(y: jax.Array, like: jax.Array) -> jax.Array:
    """Returns y in the dtype of `like` if that is a floating-point dtype of less than 32 bits, else y unchanged."""
    is_narrow = jnp.issubdtype(like.dtype, jnp.floating) and like.dtype.itemsize < 4
    return y.astype(like.dtype) if is_narrow else y


def _axes(axis: Axis) -> int | tuple[int, ...]:
    return axis if isinstance(axis, int) else tuple(axis)


# --- names

swish = silu
hard_swish = hard_silu

ACTIVATIONS: dict[str, Callable[..., jax.Array]] = {
    "celu": celu,
    "elu": elu,
    "exponential": exponential,
    "gelu": gelu,
    "glu": glu,
    "hard_shrink": hard_shrink,
    "hard_sigmoid": hard_sigmoid,
    "hard_silu": hard_silu,
    "hard_swish": hard_swish,
    "hard_tanh": hard_tanh,
    "leaky_relu": leaky_relu,
    "linear": linear,
    "log_sigmoid": log_sigmoid,
    "log_softmax": log_softmax,
    "mish": mish,
    "relu": relu,
    "relu6": relu6,
    "selu": selu,
    "sigmoid": sigmoid,
    "silu": silu,
    "soft_shrink": soft_shrink,
    "softmax": softmax,
    "softplus": softplus,
    "softsign": softsign,
    "sparse_plus": sparse_plus,
    "sparse_sigmoid": sparse_sigmoid,
    "sparsemax": sparsemax,
    "squareplus": squareplus,
    "swish": swish,
    "tanh": tanh,
    "tanh_shrink": tanh_shrink,
    "threshold": threshold,
}


def get(activation: ActivationLike) -> Callable[..., jax.Array]:
    """Returns the activation function for a layer's `activation` argument.

    Args:
        activation: A name in `ACTIVATIONS`, any function x -> y, or None for `linear`.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If the argument is neither a name, a callable nor None.

    Example:
        >>> get("relu") is relu, get(None) is linear, get(jnp.sin) is jnp.sin
        (True, True, True)
    """
    if activation is None:
        return linear
    if isinstance(activation, str):
        return lookup("activation", activation, ACTIVATIONS, "Or pass a function x -> y.")
    if callable(activation):
        return activation
    raise TypeError(
        f'An activation must be a name, a function or None, got {activation!r}; pass a name such as "relu".'
    )
