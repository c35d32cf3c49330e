"""An LSTM by cuDNN, as `jax.experimental.rnn` calls it: float32, on an NVIDIA GPU.

cuDNN takes examples padded on the right, of one step at least, and gives zeros where a step does not count; here the
state stays, wherever that is. So steps are sorted, those that count to the front, and the outputs spread out again.

Shapes: T steps, B batch, F features, U units.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.custom_batching
import jax.numpy as jnp
from jax import lax

from flaxmodels.kernels import dispatch, recurrence_gpu
from flaxmodels.kernels.recurrence_choice import using

# Tests put a stand-in for cuDNN on another one.
_platform = "cuda"


def lstm(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    recurrent: jax.Array,
    h: jax.Array,
    c: jax.Array,
    mask: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Takes an LSTM through time.

    Args:
        x: The inputs.
        kernel: Their kernel; its columns are those of the gates i, f, g, o.
        bias: Their bias, or None.
        recurrent: The recurrent kernel.
        h: The output before the first step.
        c: The cell before the first step.
        mask: Which steps count, or None for all.

    Shapes: x [T, B, F], kernel [F, 4 U], bias [4 U], recurrent [U, 4 U], h and c [B, U], mask [T, B] -> h after each
        step [T, B, U], the last h and the last c [B, U].
    """
    weights = packed(kernel, recurrent, bias)
    if mask is None:
        lengths = jnp.full(x.shape[1], x.shape[0], jnp.int32)
        hs, c = _sorted_lstm(x, h, c, weights, lengths)
        return hs, hs[-1], c
    order = jnp.argsort(~mask, axis=0, stable=True)
    count = jnp.sum(mask, axis=0, dtype=jnp.int32)
    # cuDNN takes no example without a step; one step of it is computed, and what it gives is not taken. Zeros there:
    # whatever stands at a step that does not count, gradients times nothing must be nothing.
    x = _permuted(jnp.where(mask[..., None], x, 0), order)
    hs, last = _sorted_lstm(x, h, c, weights, jnp.maximum(count, 1))
    hs = _spread(_permuted(hs, jnp.argsort(order, axis=0)), h, mask)
    return hs, hs[-1], jnp.where((count > 0)[:, None], last, c)


def packed(kernel: jax.Array, recurrent: jax.Array, bias: jax.Array | None) -> jax.Array:
    """The weights as cuDNN takes them: transposed, one after the other, and two biases of which the second is zero."""
    zeros = jnp.zeros(kernel.shape[1], kernel.dtype)
    parts = (kernel.T.ravel(), recurrent.T.ravel(), zeros if bias is None else bias, zeros)
    return jnp.concatenate(parts)


def _unpacked(weights: jax.Array, features: int, units: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The kernel, the recurrent kernel and the sum of the biases."""
    width = 4 * units
    ends = (features * width, (features + units) * width, (features + units + 1) * width)
    kernel, recurrent, bias, second = jnp.split(weights, ends)
    return kernel.reshape(width, features).T, recurrent.reshape(width, units).T, bias + second


# --- the call, for examples padded on the right


@jax.custom_vjp
def _sorted_lstm(
    x: jax.Array, h: jax.Array, c: jax.Array, weights: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """h after each step that counts, anything after the others; and the last c."""
    hs, c, _ = _there(x, h, c, weights, lengths)
    return hs, c


def _sorted_lstm_forward(*arguments: jax.Array) -> Any:
    hs, c, reserve = _there(*arguments)
    return (hs, c), (*arguments, hs, reserve)


def _sorted_lstm_backward(residuals: Any, cotangents: Any) -> Any:
    return *_back(*residuals, *cotangents), None


_sorted_lstm.defvjp(_sorted_lstm_forward, _sorted_lstm_backward)


def _there(*arguments: jax.Array) -> Any:
    """The way there: h after each step, the last c, and what cuDNN keeps for the way back."""
    reserve = jax.eval_shape(_forward, *arguments)[2]

    def scanned(*arguments: jax.Array) -> Any:
        x, h, c, weights, lengths = arguments
        return *_scan(x, h, c, weights, lengths), jnp.zeros(reserve.shape, reserve.dtype)

    return _chosen(_forward, scanned, *arguments)


def _back(*arguments: jax.Array) -> Any:
    """The way back: the gradients by x, h, c and the weights."""

    def scanned(*arguments: jax.Array) -> Any:
        x, h, c, weights, lengths, _, _, d_hs, d_c = arguments
        back = jax.vjp(lambda x, h, c, weights: _scan(x, h, c, weights, lengths), x, h, c, weights)[1]
        return back((d_hs, d_c))

    return _chosen(_backward, scanned, *arguments)


def _chosen(called: Callable[..., Any], scanned: Callable[..., Any], *arguments: jax.Array) -> Any:
    """cuDNN where it is, one example of a `vmap` after the other; a scan on other platforms, and to differentiate."""
    called = jax.custom_batching.sequential_vmap(called)
    return dispatch.alternatives(scanned, *arguments, **{_platform: called})


def _scan(
    x: jax.Array, h: jax.Array, c: jax.Array, weights: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
    from flaxmodels.kernels import recurrence

    kernel, recurrent, bias = _unpacked(weights, x.shape[-1], h.shape[-1])
    mask = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None] < lengths[None]
    inputs, state = recurrence.Inputs(x, kernel, bias), recurrence.LSTMState(h, c)
    with using("scan"):
        hs, last = recurrence.lstm(inputs, recurrent, state, mask)
    return hs, last.c


def _forward(x: jax.Array, h: jax.Array, c: jax.Array, weights: jax.Array, lengths: jax.Array) -> Any:
    from jax.experimental import rnn

    arrays = (jnp.swapaxes(x, 0, 1), h[None], c[None], weights, lengths)
    (y, _, c_last), kept = rnn.lstm_fwd(*arrays, *_sizes(x, h))
    return jnp.swapaxes(y, 0, 1), c_last[0], kept[-1]


def _backward(
    x: jax.Array,
    h: jax.Array,
    c: jax.Array,
    weights: jax.Array,
    lengths: jax.Array,
    hs: jax.Array,
    reserve: jax.Array,
    d_hs: jax.Array,
    d_c: jax.Array,
) -> Any:
    from jax.experimental import rnn

    kept = (jnp.swapaxes(x, 0, 1), h[None], c[None], weights, lengths, jnp.swapaxes(hs, 0, 1), reserve)
    cotangents = (jnp.swapaxes(d_hs, 0, 1), jnp.zeros_like(h[None]), d_c[None])
    d_x, d_h, d_c, d_weights, _ = rnn.lstm_bwd(*_sizes(x, h), residuals=kept, gradients=cotangents)
    return jnp.swapaxes(d_x, 0, 1), d_h[0], d_c[0], d_weights


def _sizes(x: jax.Array, h: jax.Array) -> tuple[Any, ...]:
    """Sizes of inputs and state, one layer, no dropout, one direction, and whether products keep all digits."""
    precision = lax.Precision.HIGHEST if recurrence_gpu.exact() else lax.Precision.HIGH
    return x.shape[-1], h.shape[-1], 1, 0.0, False, precision


# --- masks


@jax.custom_vjp
def _permuted(values: jax.Array, order: jax.Array) -> jax.Array:
    """Steps in another order, per example: values[order[t, b], b]. Its gradient is a gathering, too."""
    return jnp.take_along_axis(values, order[..., None], axis=0)


def _permuted_back(order: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, None]:
    return jnp.take_along_axis(cotangent, jnp.argsort(order, axis=0)[..., None], axis=0), None


_permuted.defvjp(lambda values, order: (_permuted(values, order), order), _permuted_back)


@jax.custom_vjp
def _spread(hs: jax.Array, first: jax.Array, mask: jax.Array) -> jax.Array:
    """The output of the last step that counts, up to each step; before all of them, the first state."""
    places = jnp.where(mask, jnp.arange(mask.shape[0], dtype=jnp.int32)[:, None], -1)
    source = lax.cummax(places, axis=0)
    taken = jnp.take_along_axis(hs, jnp.maximum(source, 0)[..., None], axis=0)
    return jnp.where((source >= 0)[..., None], taken, first[None])


def _spread_back(mask: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    # Each step gives its gradient to the last one that counts: sums over runs of steps, back to front, each of which
    # ends with a step that counts. By a scan in log T passes over all steps; a scattering would add in any order.
    def joined(later: Any, earlier: Any) -> Any:
        (sum_later, ends_later), (sum_earlier, ends_earlier) = later, earlier
        carried = jnp.where(ends_earlier, 0, sum_later)
        return sum_earlier + carried, ends_later | ends_earlier

    # A sum begins anew after a step that counts, so at the step before it.
    fresh = jnp.concatenate([mask[1:], jnp.ones_like(mask[:1])])[..., None]
    fresh = jnp.broadcast_to(fresh, cotangent.shape)
    sums, _ = lax.associative_scan(joined, (cotangent, fresh), reverse=True)
    d_first = jnp.where(mask[0][:, None], 0, sums[0])
    return jnp.where(mask[..., None], sums, 0), d_first, None


_spread.defvjp(lambda hs, first, mask: (_spread(hs, first, mask), mask), _spread_back)
