"""Pooling over windows, channels last: what lies under each tap of a window is a slice, and slices are reduced.

On a CPU a kernel in C (`pooling.c`) finds a maximum in one pass over the inputs, and another one passes gradients back.
What follows is for sums, for elsewhere, for where there are none, and for few channels.

XLA differentiates its own window maximum by `select_and_scatter`, which is slow on CPU and has no deterministic form
on GPU. A maximum kept while going over the taps ("take this one if it is larger") differentiates by itself, and sends
the gradient where XLA does: to the first of equal maxima in row-major order.

A gradient compares the taps of a window again for each of them, so windows are taken apart: first into the axes, the
last one first, then along an axis into the factors of its size, always blocks of neighbours, so that the first
maximum stays the first. Only small windows side by side are faster in one piece.

Shapes: B batch, S one to three spatial axes, C channels.
"""

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import ad

from flaxmodels.kernels import dispatch, native
from flaxmodels.kernels.convolution import Ints, Pairs, padding_pairs, views, views_along
from flaxmodels.kernels.native import Geometry

# For the kernel in C; of fewer, most of a vector is empty.
FEWEST_CHANNELS = 8
# Taps reduced in one piece, if windows do not overlap.
TAPS_AT_ONCE = 9
# Taps reduced together along one axis.
FACTOR = 8
# The largest prime factor of a window's size along an axis; above, the slices get too many: XLA's reduction then.
LARGEST_FACTOR = 16


def max_pool(x: jax.Array, window: Ints, strides: Ints, padding: str) -> jax.Array:
    """Returns the maximum of each window; a NaN in a window is its maximum.

    Args:
        x: The inputs.
        window: Sizes of the window, per spatial axis.
        strides: Steps of the window, per spatial axis.
        padding: "valid", or "same": as many outputs as inputs (divided by `strides`).

    Shapes: x [B, *S, C] -> [B, *S', C].

    Raises:
        ValueError: If `padding` is an unknown name.

    Example:
        >>> max_pool(jnp.arange(6.0).reshape(1, 6, 1), (2,), (2,), "valid").ravel().tolist()
        [1.0, 3.0, 5.0]
    """
    sliced = partial(_pool, _larger, lax.max, _lowest(x), window=window, strides=strides, padding=padding)
    # The rule: on a CPU the kernel in C for float32, enough channels to fill a vector, some outputs, and windows that
    # stay inside or are not enormous; else slices.
    ones = (1,) * len(window)
    pads = tuple(padding_pairs(x.shape[1:-1], window, strides, padding, ones))
    geometry = Geometry(x.shape[1:-1], tuple(window), tuple(strides), ones, pads=pads)
    allowed = dispatch.is_static(x) and dispatch.kernels_allowed()
    if not allowed or not _suits(x, geometry) or not native.available():
        return sliced(x)
    return lax.platform_dependent(x, cpu=partial(max_p.bind, geometry=geometry), default=sliced)


def sum_pool(x: jax.Array, window: Ints, strides: Ints, padding: str) -> jax.Array:
    """Returns the sum of each window; arguments, shapes and errors as in `max_pool`.

    Example:
        >>> sum_pool(jnp.arange(6.0).reshape(1, 6, 1), (2,), (2,), "valid").ravel().tolist()
        [1.0, 5.0, 9.0]
    """
    return _sum(x, window, strides, padding).astype(x.dtype)


def avg_pool(x: jax.Array, window: Ints, strides: Ints, padding: str) -> jax.Array:
    """Returns the mean of what each window sees of x, the padding left out; the rest as in `max_pool`.

    Example:
        >>> avg_pool(jnp.arange(5.0).reshape(1, 5, 1), (2,), (2,), "same").ravel().tolist()
        [0.5, 2.5, 4.0]
    """
    total = _sum(x, window, strides, padding)
    pads = padding_pairs(x.shape[1:-1], window, strides, padding, (1,) * len(window))
    counts = np.ones((), total.dtype)
    for places, size, taps, step, (low, _) in zip(total.shape[1:-1], x.shape[1:-1], window, strides, pads, strict=True):
        start = np.arange(places) * step - low
        counts = np.multiply.outer(counts, np.minimum(start + taps, size) - np.maximum(start, 0))
    return (total / jnp.asarray(counts[None, ..., None], total.dtype)).astype(x.dtype)


def reference_max_pool(x: jax.Array, window: Ints, strides: Ints, padding: str) -> jax.Array:
    """`max_pool` by `lax.reduce_window`."""
    return _reduce_window(lax.max, _lowest(x), x, window, strides, padding)


def reference_sum_pool(x: jax.Array, window: Ints, strides: Ints, padding: str) -> jax.Array:
    """`sum_pool` by `lax.reduce_window`."""
    return _reduce_window(lax.add, 0, x, window, strides, padding)


def _sum(x: jax.Array, window: Ints, strides: Ints, padding: str) -> jax.Array:
    # In float32 at least: half precision loses digits with every tap.
    half = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
    return _pool(lax.add, lax.add, 0, x.astype(jnp.float32) if half else x, window, strides, padding)


def _pool(
    combine: Callable, xla: Callable, neutral: Any, x: jax.Array, window: Ints, strides: Ints, padding: str | Pairs
) -> jax.Array:
    """Combines what lies under the taps of each window; `neutral` is what padding counts as."""
    stages = [_stages(taps, step) for taps, step in zip(window, strides, strict=True)]
    ones = (1,) * len(window)
    pads = padding_pairs(x.shape[1:-1], window, strides, padding, ones)
    # No window fits into inputs that are smaller, so there are no outputs.
    empty = x.size == 0 or any(n + sum(pad) < taps for n, pad, taps in zip(x.shape[1:-1], pads, window, strict=True))
    if empty or max(taps for axis in stages for taps, _, _ in axis) > LARGEST_FACTOR:
        return _reduce_window(xla, neutral, x, window, strides, padding)
    x = lax.pad(x, jnp.asarray(neutral, x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)])
    apart = all(step >= taps for step, taps in zip(strides, window, strict=True))
    if apart and math.prod(window) <= TAPS_AT_ONCE:
        return reduce(combine, views(x, window, strides, ones))
    for axis in reversed(range(len(window))):
        for taps, step, dilation in stages[axis]:
            x = reduce(combine, views_along(x, axis, taps, step, dilation))
    return x


def _stages(taps: int, step: int) -> list[tuple[int, int, int]]:
    """The (taps, stride, dilation) that, one after the other, make up a window of so many taps."""
    apart, overlapping, dilation = [], [], 1
    while (factor := _factor(math.gcd(taps, step))) > 1:
        apart.append((factor, factor, 1))
        taps, step = taps // factor, step // factor
    while (factor := _factor(taps)) > 1:
        overlapping.append((factor, 1, dilation))
        taps, dilation = taps // factor, dilation * factor
    *others, (factor, stride, dilation) = [*apart, *overlapping] or [(1, 1, 1)]
    return [*others, (factor, stride * step, dilation)]


def _factor(n: int) -> int:
    """The largest factor of n up to `FACTOR`, or the smallest above."""
    few = [k for k in range(2, n + 1) if n % k == 0] or [1]
    return max((k for k in few if k <= FACTOR), default=few[0])


def _reduce_window(
    combine: Callable, neutral: Any, x: jax.Array, window: Ints, strides: Ints, padding: str | Pairs
) -> jax.Array:
    pads = padding_pairs(x.shape[1:-1], window, strides, padding, (1,) * len(window))
    neutral = np.asarray(neutral, x.dtype)[()]
    return lax.reduce_window(x, neutral, combine, (1, *window, 1), (1, *strides, 1), [(0, 0), *pads, (0, 0)])


def _larger(best: jax.Array, x: jax.Array) -> jax.Array:
    return lax.select((x > best) | (x != x), x, best)


def _lowest(x: jax.Array) -> Any:
    return -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min


# --- the kernels in C, as operations that JAX can differentiate and map
#
# Selecting where x is largest is linear in the values. Its transpose scatters, and the reverse; the registry says so.


def _suits(x: jax.Array, geometry: Geometry) -> bool:
    fits = x.dtype == jnp.float32 and x.shape[-1] >= FEWEST_CHANNELS and x.size > 0 and min(geometry.output_sizes()) > 0
    return fits and (not any(map(any, geometry.pads)) or math.prod(geometry.window) <= native.MAX_EDGE_TAPS)


def _max(x: jax.Array, *, geometry: Geometry) -> jax.Array:
    window, strides, pads = geometry.window, geometry.strides, geometry.pads
    return _pool(_larger, lax.max, _lowest(x), x, window, strides, pads)


def _max_by_kernel(x: jax.Array, *, geometry: Geometry) -> jax.Array:
    # Values that are x itself are not selected, but compared.
    out = jax.ShapeDtypeStruct(_selected(x, x, geometry), np.float32)
    return native.call("pool_select", out, x, x, attributes=geometry.attributes(x.shape[-1], 0))


def _select(x: jax.Array, values: jax.Array, *, geometry: Geometry) -> jax.Array:
    return jax.jvp(partial(_max, geometry=geometry), (x,), (values,))[1]


def _scatter(x: jax.Array, dy: jax.Array, *, geometry: Geometry) -> jax.Array:
    return jax.vjp(partial(_max, geometry=geometry), x)[1](dy)[0]


def _selected(x: Any, values: Any, geometry: Geometry) -> tuple[int, ...]:
    return (x.shape[0], *geometry.output_sizes(), x.shape[-1])


def _channels(x: jax.Array, _: jax.Array, geometry: Geometry) -> list[int]:
    return [x.shape[-1], 0]


select_p = native.window_primitive("pool_select", _selected, _channels, _select)
scatter_p = native.window_primitive("pool_scatter", lambda x, dy, geometry: x.shape, _channels, _scatter)
max_p = dispatch.primitive(
    "pool_max",
    lambda x, geometry: jax.ShapeDtypeStruct(_selected(x, x, geometry), np.float32),
    native.fold_into_batch,
    _max,
    cpu=_max_by_kernel,
)

ad.defjvp(max_p, lambda tangent, x, *, geometry: select_p.bind(x, tangent, geometry=geometry))
