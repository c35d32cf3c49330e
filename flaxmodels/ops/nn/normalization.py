"""Keras' operations of normalization and their statistics."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from flaxmodels.ops.arrays import Tensor, as_array
from flaxmodels.ops.base import operation

EPSILON = 1e-7  # the default of Keras' `epsilon` arguments


@operation
def moments(
    x: Tensor, axes: int | Sequence[int], keepdims: bool = False, synchronized: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and the variance over axes.

    Half precision is computed in float32 and clipped to the range of float16.

    Args:
        x: Any array.
        axes: Axis or axes of the mean.
        keepdims: Whether to keep these axes with size 1.
        synchronized: True is refused: under `jax.jit`, statistics are those of the whole batch on all devices anyway.

    Raises:
        ValueError: If `synchronized` is True.

    Example:
        >>> mean, variance = moments(jnp.array([1.0, 3.0]), 0)
        >>> mean.item(), variance.item()
        (2.0, 1.0)
    """
    if synchronized:
        raise ValueError(
            "`moments` takes the statistics of the array it is given, got synchronized=True; leave it out, because "
            "an array that is divided among devices counts as a whole."
        )
    array = as_array(x)
    along = tuple(axes) if isinstance(axes, Sequence) else axes
    is_half = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4
    values = array.astype(jnp.float32) if is_half else array
    mean, variance = jnp.mean(values, along, keepdims=keepdims), jnp.var(values, along, keepdims=keepdims)
    if is_half:
        limits = jnp.finfo(jnp.float16)
        mean, variance = (jnp.clip(y, limits.min, limits.max).astype(array.dtype) for y in (mean, variance))
    return mean, variance


@operation
def batch_normalization(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    axis: int,
    offset: Tensor | None = None,
    scale: Tensor | None = None,
    epsilon: float = 1e-3,
) -> jax.Array:
    """Returns (x - mean) / sqrt(variance + epsilon) * scale + offset, with one value of each per channel.

    Args:
        x: Any array.
        mean: Mean of each channel.
        variance: Variance of each channel.
        axis: The axis of the channels.
        offset: Added to the result; None for 0.
        scale: Factor; None for 1.
        epsilon: Added to the variance.

    Example:
        >>> batch_normalization(jnp.array([[3.0]]), jnp.ones(1), jnp.full(1, 4.0), axis=-1, epsilon=0.0).tolist()
        [[1.0]]
    """
    array = as_array(x)

    def per_channel(values: Tensor) -> jax.Array:
        shape = [1] * array.ndim
        shape[axis] = -1
        return as_array(values).reshape(shape)

    factor = jax.lax.rsqrt(per_channel(variance) + epsilon)
    if scale is not None:
        factor = factor * per_channel(scale)
    shift = -per_channel(mean) * factor
    if offset is not None:
        shift = shift + per_channel(offset)
    return array * factor + shift


@operation
def layer_normalization(
    x: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    axis: int | Sequence[int] = -1,
    epsilon: float | None = None,
) -> jax.Array:
    """Returns x with mean 0 and variance 1 over axes, times gamma, plus beta.

    Args:
        x: Any array.
        gamma: Factor, of the sizes of the axes; None for 1.
        beta: Added to the result, of the sizes of the axes; None for 0.
        axis: Axis or axes of the mean and variance.
        epsilon: Added to the variance; 1e-7 by default.

    Example:
        >>> layer_normalization(jnp.array([[1.0, 3.0]])).round(3).tolist()
        [[-1.0, 1.0]]
    """
    array = as_array(x)
    values = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    axes = sorted(i % values.ndim for i in ([axis] if isinstance(axis, int) else axis))

    def broadcast(weight: Tensor) -> jax.Array:
        weights = as_array(weight).astype(values.dtype)
        if weights.ndim == values.ndim:
            return weights
        return weights.reshape([n if i in axes else 1 for i, n in enumerate(values.shape)])

    mean, variance = moments(values, axes, keepdims=True)
    factor = jax.lax.rsqrt(variance + (EPSILON if epsilon is None else epsilon))
    if gamma is not None:
        factor = factor * broadcast(gamma)
    shift = -mean * factor
    if beta is not None:
        shift = shift + broadcast(beta)
    return (values * factor + shift).astype(array.dtype)


@operation
def rms_normalization(
    x: Tensor, scale: Tensor | None = None, axis: int | Sequence[int] = -1, epsilon: float | None = None
) -> jax.Array:
    """Returns x / sqrt(mean(x^2) + epsilon) * scale, with the mean over axes.

    Args:
        x: Any array.
        scale: Factor, broadcast to x; None for 1.
        axis: Axis or axes of the mean.
        epsilon: Added to the mean; 1e-7 by default.

    Example:
        >>> rms_normalization(jnp.array([[3.0, 3.0]])).round(3).tolist()
        [[1.0, 1.0]]
    """
    array = as_array(x)
    values = jnp.atleast_1d(array.astype(jnp.promote_types(array.dtype, jnp.float32)))
    axes = axis if isinstance(axis, int) else tuple(axis)
    mean = jnp.mean(jnp.square(values), axis=axes, keepdims=True)
    out = values * jax.lax.rsqrt(mean + (EPSILON if epsilon is None else epsilon))
    if scale is not None:
        factor = as_array(scale).astype(values.dtype)
        out = out * factor.reshape((1,) * (out.ndim - factor.ndim) + factor.shape)
    return out.astype(array.dtype)


@operation
def normalize(x: Tensor, axis: int | Sequence[int] = -1, order: int = 2, epsilon: float | None = None) -> jax.Array:
    """Returns x divided by its norm along an axis.

    Args:
        x: Any array.
        axis: Axis or axes of the norm.
        order: The order of the norm, at least 1.
        epsilon: Smallest norm to divide by; 1e-7 by default.

    Raises:
        ValueError: If `order` is not a positive integer.

    Example:
        >>> normalize(jnp.array([0.0, 4.0])).tolist()
        [0.0, 1.0]
    """
    if not isinstance(order, int) or order < 1:
        raise ValueError(f"`order` of `normalize` must be a positive integer, got {order!r}; give 1 or more.")
    array = jnp.atleast_1d(as_array(x))
    smallest = EPSILON if epsilon is None else epsilon
    axes = axis if isinstance(axis, int) else tuple(axis)
    if order == 2:
        inverse = jax.lax.rsqrt(jnp.sum(jnp.square(array), axis=axes, keepdims=True))
        return array * jnp.minimum(inverse, 1.0 / smallest)
    lengths = jnp.linalg.norm(array, ord=order, axis=axes, keepdims=True)
    return array / jnp.maximum(lengths, smallest)
