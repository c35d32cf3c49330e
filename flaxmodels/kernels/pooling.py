"""Pooling over windows, channels last: max, sum and average.

On a CPU, a kernel in C (`native/pooling.c`) computes max pooling in one pass over the inputs, and its backward pass in
another. Everything else reduces strided slices of the inputs, one per tap of the window: sums, other platforms, no C
compiler, and few channels.

XLA differentiates its own `reduce_window` maximum by `select_and_scatter`, which is slow on a CPU and has no
deterministic form on a GPU. A running maximum over the taps (`where(x > best, x, best)`) has a derivative without
`select_and_scatter`. Its gradient goes to the same place: to the first of equal maxima, in row-major order.

The backward pass compares the taps of a window again, so a window is decomposed: into its axes, the last one first, and
along each axis into factors of its size. Each stage reduces blocks of neighboring values, so the first maximum stays
the first. Only small windows that do not overlap are faster in one piece.

Shapes: B batch, S one to three spatial axes, C channels.
"""

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import ad

from flaxmodels.kernels import dispatch, native
from flaxmodels.kernels.convolution import ArrayLike, Ints, Pairs, padding_pairs, tap_views, tap_views_along
from flaxmodels.kernels.native import Geometry

# Combines two arrays into one.
Combine: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]

# For fewer channels, most of a vector in the kernel in C would be empty.
MIN_CHANNELS = 8
# Largest number of taps of a window that is reduced in one piece if windows do not overlap.
MAX_TAPS_AT_ONCE = 9
# Largest number of taps along one axis in a single stage.
MAX_STAGE = 8
# Largest prime factor of a window's size along an axis. XLA's `reduce_window` handles larger ones, with fewer slices.
MAX_PRIME = 16


def max_pool(x: jax.Array, window: Ints, strides: Ints, padding: str) -> jax.Array:
    """Returns the maximum of each window, NaN if a window contains NaN.

    Args:
        x: The inputs.
        window: Size of the window along each spatial axis.
        strides: Stride of the window along each spatial axis.
        padding: "valid", or "same": as many outputs as inputs, divided by `strides` and rounded up.

    Shapes: x [B, *S, C] -> [B, *S', C].

    Raises:
        ValueError: If `padding` is an unknown name.

    Example:
        >>> max_pool(jnp.arange(6.0).reshape(1, 6, 1), (2,), (2,), "valid").ravel().tolist()
        [1.0, 3.0, 5.0]
    """
    by_slices = partial(_pool, _larger, lax.max, _lowest(x), window=window, strides=strides, padding=padding)
    ones = (1,) * len(window)
    pads = tuple(padding_pairs(x.shape[1:-1], window, strides, padding, ones))
    geometry = Geometry(x.shape[1:-1], tuple(window), tuple(strides), ones, pads=pads)
    allowed = dispatch.is_static(x) and dispatch.kernels_allowed()
    if not allowed or not _is_supported(x, geometry) or not native.available():
        return by_slices(x)
    return lax.platform_dependent(x, cpu=partial(max_p.bind, geometry=geometry), default=by_slices)


def sum_pool(x: jax.Array, window: Ints, strides: Ints, padding: str) -> jax.Array:
    """Returns the sum of each window; arguments, shapes and errors are those of `max_pool`.

    Example:
        >>> sum_pool(jnp.arange(6.0).reshape(1, 6, 1), (2,), (2,), "valid").ravel().tolist()
        [1.0, 5.0, 9.0]
    """
    return _sum(x, window, strides, padding).astype(x.dtype)


def avg_pool(x: jax.Array, window: Ints, strides: Ints, padding: str) -> jax.Array:
    """Returns the mean of each window, excluding padding; arguments, shapes and errors are those of `max_pool`.

    Example:
        >>> avg_pool(jnp.arange(5.0).reshape(1, 5, 1), (2,), (2,), "same").ravel().tolist()
        [0.5, 2.5, 4.0]
    """
    total = _sum(x, window, strides, padding)
    pads = padding_pairs(x.shape[1:-1], window, strides, padding, (1,) * len(window))
    counts = np.ones((), total.dtype)
    axes = zip(total.shape[1:-1], x.shape[1:-1], window, strides, pads, strict=True)
    for positions, size, taps, stride, (low, _) in axes:
        start = np.arange(positions) * stride - low
        counts = np.multiply.outer(counts, np.minimum(start + taps, size) - np.maximum(start, 0))
    return (total / jnp.asarray(counts[None, ..., None], total.dtype)).astype(x.dtype)


def reference_max_pool(x: jax.Array, window: Ints, strides: Ints, padding: str) -> jax.Array:
    """Computes `max_pool` by `lax.reduce_window`."""
    return _reduce_window(lax.max, _lowest(x), x, window, strides, padding)


def reference_sum_pool(x: jax.Array, window: Ints, strides: Ints, padding: str) -> jax.Array:
    """Computes `sum_pool` by `lax.reduce_window`."""
    return _reduce_window(lax.add, 0, x, window, strides, padding)


# --- pooling by slices


def _sum(x: jax.Array, window: Ints, strides: Ints, padding: str) -> jax.Array:
    # Half precision would lose digits with every tap, so it is summed in float32.
    half = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
    return _pool(lax.add, lax.add, 0, x.astype(jnp.float32) if half else x, window, strides, padding)


def _pool(
    combine: Combine,
    xla: Combine,
    neutral: float,
    x: jax.Array,
    window: Ints,
    strides: Ints,
    padding: str | Pairs,
) -> jax.Array:
    """Reduces each window.

    Args:
        combine: Combines the values under two taps.
        xla: The same operation, in a form that `lax.reduce_window` recognizes.
        neutral: The value of padding.
        x: The inputs.
        window: Size of the window along each spatial axis.
        strides: Stride of the window along each spatial axis.
        padding: As in `padding_pairs`.
    """
    stages = [_stages(taps, stride) for taps, stride in zip(window, strides, strict=True)]
    ones = (1,) * len(window)
    pads = padding_pairs(x.shape[1:-1], window, strides, padding, ones)
    # Inputs smaller than the window have no outputs.
    empty = x.size == 0 or any(n + sum(pad) < taps for n, pad, taps in zip(x.shape[1:-1], pads, window, strict=True))
    if empty or max(taps for axis in stages for taps, _, _ in axis) > MAX_PRIME:
        return _reduce_window(xla, neutral, x, window, strides, padding)
    x = lax.pad(x, jnp.asarray(neutral, x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)])
    disjoint = all(stride >= taps for stride, taps in zip(strides, window, strict=True))
    if disjoint and math.prod(window) <= MAX_TAPS_AT_ONCE:
        return reduce(combine, tap_views(x, window, strides, ones))
    for axis in reversed(range(len(window))):
        for taps, stride, dilation in stages[axis]:
            x = reduce(combine, tap_views_along(x, axis, taps, stride, dilation))
    return x


def _stages(taps: int, stride: int) -> list[tuple[int, int, int]]:
    """Decomposes a window along one axis into windows (taps, stride, dilation) that are applied one after the other."""
    disjoint, overlapping, dilation = [], [], 1
    while (factor := _factor(math.gcd(taps, stride))) > 1:
        disjoint.append((factor, factor, 1))
        taps, stride = taps // factor, stride // factor
    while (factor := _factor(taps)) > 1:
        overlapping.append((factor, 1, dilation))
        taps, dilation = taps // factor, dilation * factor
    *others, (factor, last_stride, dilation) = [*disjoint, *overlapping] or [(1, 1, 1)]
    return [*others, (factor, last_stride * stride, dilation)]


def _factor(n: int) -> int:
    """Returns the largest factor of n up to `MAX_STAGE`, otherwise its smallest factor."""
    factors = [k for k in range(2, n + 1) if n % k == 0] or [1]
    return max((k for k in factors if k <= MAX_STAGE), default=factors[0])


def _reduce_window(
    combine: Combine, neutral: float, x: jax.Array, window: Ints, strides: Ints, padding: str | Pairs
) -> jax.Array:
    pads = padding_pairs(x.shape[1:-1], window, strides, padding, (1,) * len(window))
    start = np.asarray(neutral, x.dtype)[()]
    return lax.reduce_window(x, start, combine, (1, *window, 1), (1, *strides, 1), [(0, 0), *pads, (0, 0)])


def _larger(best: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the larger value, `best` if they are equal, and x if it is NaN."""
    return lax.select((x > best) | (x != x), x, best)


def _lowest(x: jax.Array) -> float:
    return -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min


# --- the kernels in C as primitives
#
# y = select(x, values) returns the values at the position where x is largest in each window. It is linear in the
# values; its transpose scatters y to these positions. The registry declares both. Max pooling is select(x, x).


def _is_supported(x: jax.Array, geometry: Geometry) -> bool:
    """Returns whether the kernel in C supports these inputs and is worth it."""
    enough = x.dtype == jnp.float32 and x.shape[-1] >= MIN_CHANNELS
    has_outputs = x.size > 0 and min(geometry.output_sizes()) > 0
    padded = any(map(any, geometry.pads))
    return enough and has_outputs and (not padded or math.prod(geometry.window) <= native.MAX_EDGE_TAPS)


def _max(x: jax.Array, *, geometry: Geometry) -> jax.Array:
    window, strides, pads = geometry.window, geometry.strides, geometry.pads
    return _pool(_larger, lax.max, _lowest(x), x, window, strides, pads)


def _max_by_c_kernel(x: jax.Array, *, geometry: Geometry) -> jax.Array:
    # If the values are x itself, the kernel needs no positions.
    out = jax.ShapeDtypeStruct(_output_shape(x, x, geometry), np.float32)
    return native.call("pool_select", out, x, x, attributes=geometry.attributes(x.shape[-1], 0))


def _select(x: jax.Array, values: jax.Array, *, geometry: Geometry) -> jax.Array:
    return jax.jvp(partial(_max, geometry=geometry), (x,), (values,))[1]


def _scatter(x: jax.Array, dy: jax.Array, *, geometry: Geometry) -> jax.Array:
    return jax.vjp(partial(_max, geometry=geometry), x)[1](dy)[0]


def _output_shape(x: ArrayLike, _: ArrayLike, geometry: Geometry) -> tuple[int, ...]:
    return (x.shape[0], *geometry.output_sizes(), x.shape[-1])


def _input_shape(x: ArrayLike, _: ArrayLike, geometry: Geometry) -> tuple[int, ...]:
    return x.shape


def _channels(x: ArrayLike, _: ArrayLike, geometry: Geometry) -> list[int]:
    return [x.shape[-1], 0]


select_p = native.window_primitive("pool_select", _output_shape, _channels, _select)
scatter_p = native.window_primitive("pool_scatter", _input_shape, _channels, _scatter)
max_p = dispatch.primitive(
    "pool_max",
    lambda x, geometry: jax.ShapeDtypeStruct(_output_shape(x, x, geometry), np.float32),
    native.fold_into_batch,
    _max,
    cpu=_max_by_c_kernel,
)

ad.defjvp(max_p, lambda tangent, x, *, geometry: select_p.bind(x, tangent, geometry=geometry))
