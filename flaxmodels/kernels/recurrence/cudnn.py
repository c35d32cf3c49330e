"""LSTM by cuDNN, called through `jax.experimental.rnn`: float32, on an NVIDIA GPU.

cuDNN supports only padding on the right, needs at least one step per example, and returns zeros at padded steps. Here a
mask may be False at any step, which then keeps the state. The steps of each example are therefore sorted, valid steps
first, and the outputs are then distributed over all steps.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.custom_batching
import jax.numpy as jnp
from jax import lax

from flaxmodels.kernels import dispatch
from flaxmodels.kernels.recurrence import reference
from flaxmodels.kernels.recurrence.products import has_exact_products
from flaxmodels.kernels.recurrence.types import Inputs, LSTMState

Result = TypeVar("Result", bound=tuple[jax.Array, ...])

# Tests run a stand-in for cuDNN on another platform.
_platform = "cuda"


def lstm(
    inputs: Inputs, kernel: jax.Array, bias: None, state: LSTMState, mask: jax.Array | None
) -> tuple[jax.Array, LSTMState]:
    """Computes an LSTM over all steps.

    Args:
        inputs: The inputs, with their kernel.
        kernel: The recurrent kernel.
        bias: None, because the recurrent product of an LSTM has no bias.
        state: The state before the first step.
        mask: True at valid steps, or None if all are valid.

    Shapes: inputs [T, B, F], [F, 4 U], [4 U]; kernel [U, 4 U], state [B, U] each, mask [T, B] -> h after each step
        [T, B, U], and the last state.

    Raises:
        ValueError: If the inputs have no kernel.
    """
    if inputs.kernel is None:
        raise ValueError("cuDNN multiplies the inputs by their kernel itself, got inputs without a kernel; pass one.")
    x, (h, c) = inputs.x, state
    weights = pack_weights(inputs.kernel, kernel, inputs.bias)
    if mask is None:
        lengths = jnp.full(x.shape[1], x.shape[0], jnp.int32)
        hs, c = _padded_lstm(x, h, c, weights, lengths)
        return hs, LSTMState(hs[-1], c)
    order = jnp.argsort(~mask, axis=0, stable=True)
    count = jnp.sum(mask, axis=0, dtype=jnp.int32)
    # cuDNN needs at least one step per example. An example without valid steps runs one step, and its result is
    # discarded. Masked inputs are replaced by zeros, because zero gradients times infinity or NaN would not be zero.
    x = _reorder_steps(jnp.where(mask[..., None], x, 0), order)
    hs, last = _padded_lstm(x, h, c, weights, jnp.maximum(count, 1))
    hs = _fill_forward(_reorder_steps(hs, jnp.argsort(order, axis=0)), h, mask)
    return hs, LSTMState(hs[-1], jnp.where((count > 0)[:, None], last, c))


def pack_weights(kernel: jax.Array, recurrent: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Packs the weights in cuDNN's order: both kernels transposed, and two biases, of which the second is zero."""
    zeros = jnp.zeros(kernel.shape[1], kernel.dtype)
    parts = (kernel.T.ravel(), recurrent.T.ravel(), zeros if bias is None else bias, zeros)
    return jnp.concatenate(parts)


def _unpack_weights(weights: jax.Array, features: int, units: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the kernel, the recurrent kernel and the sum of the biases."""
    width = 4 * units
    ends = (features * width, (features + units) * width, (features + units + 1) * width)
    kernel, recurrent, bias, second = jnp.split(weights, ends)
    return kernel.reshape(width, features).T, recurrent.reshape(width, units).T, bias + second


# --- the LSTM of examples that are padded on the right


@jax.custom_vjp
def _padded_lstm(
    x: jax.Array, h: jax.Array, c: jax.Array, weights: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns h after each step, undefined at padded steps, and the last c."""
    hs, c, _ = _forward_pass(x, h, c, weights, lengths)
    return hs, c


def _padded_lstm_forward(*arguments: jax.Array) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    hs, c, reserve = _forward_pass(*arguments)
    return (hs, c), (*arguments, hs, reserve)


def _padded_lstm_backward(residuals: tuple[jax.Array, ...], cotangents: tuple[jax.Array, jax.Array]) -> tuple:
    return *_backward_pass(*residuals, *cotangents), None


_padded_lstm.defvjp(_padded_lstm_forward, _padded_lstm_backward)


def _forward_pass(*arguments: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns h after each step, the last c, and the reserve space that cuDNN's backward pass needs."""
    reserve = jax.eval_shape(_forward, *arguments)[2]

    def scanned(*arguments: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return *_scan(*arguments), jnp.zeros(reserve.shape, reserve.dtype)

    return _by_platform(_forward, scanned, *arguments)


def _backward_pass(*arguments: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the gradients of x, h, c and the weights."""

    def scanned(*arguments: jax.Array) -> tuple[jax.Array, ...]:
        x, h, c, weights, lengths, _, _, d_hs, d_c = arguments
        back = jax.vjp(lambda x, h, c, weights: _scan(x, h, c, weights, lengths), x, h, c, weights)[1]
        return back((d_hs, d_c))

    return _by_platform(_backward, scanned, *arguments)


def _by_platform(by_cudnn: Callable[..., Result], scanned: Callable[..., Result], *arguments: jax.Array) -> Result:
    """Calls cuDNN on its platform (under `vmap` once per example), else the scan, which also defines derivatives."""
    each_example = jax.custom_batching.sequential_vmap(by_cudnn)
    return dispatch.alternatives(scanned, *arguments, **{_platform: each_example})


def _scan(
    x: jax.Array, h: jax.Array, c: jax.Array, weights: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
    kernel, recurrent, bias = _unpack_weights(weights, x.shape[-1], h.shape[-1])
    mask = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None] < lengths[None]
    hs, last = reference.lstm(Inputs(x, kernel, bias), recurrent, None, LSTMState(h, c), mask)
    return hs, last.c


def _forward(
    x: jax.Array, h: jax.Array, c: jax.Array, weights: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    from jax.experimental import rnn

    arrays = (jnp.swapaxes(x, 0, 1), h[None], c[None], weights, lengths)
    (y, _, c_last), residuals = rnn.lstm_fwd(*arrays, *_options(x, h))
    return jnp.swapaxes(y, 0, 1), c_last[0], residuals[-1]


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
) -> tuple[jax.Array, ...]:
    from jax.experimental import rnn

    residuals = (jnp.swapaxes(x, 0, 1), h[None], c[None], weights, lengths, jnp.swapaxes(hs, 0, 1), reserve)
    cotangents = (jnp.swapaxes(d_hs, 0, 1), jnp.zeros_like(h[None]), d_c[None])
    d_x, d_h, d_c, d_weights, _ = rnn.lstm_bwd(*_options(x, h), residuals=residuals, gradients=cotangents)
    return jnp.swapaxes(d_x, 0, 1), d_h[0], d_c[0], d_weights


def _options(x: jax.Array, h: jax.Array) -> tuple[Any, ...]:
    """Returns input size, units, number of layers, dropout, whether bidirectional, and the products' precision."""
    precision = lax.Precision.HIGHEST if has_exact_products() else lax.Precision.HIGH
    return x.shape[-1], h.shape[-1], 1, 0.0, False, precision


# --- masks


@jax.custom_vjp
def _reorder_steps(values: jax.Array, order: jax.Array) -> jax.Array:
    """Returns values[order[t, b], b]: permutes the steps of each example. Its gradient is a gather, not a scatter."""
    return jnp.take_along_axis(values, order[..., None], axis=0)


def _reorder_steps_back(order: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, None]:
    return jnp.take_along_axis(cotangent, jnp.argsort(order, axis=0)[..., None], axis=0), None


_reorder_steps.defvjp(lambda values, order: (_reorder_steps(values, order), order), _reorder_steps_back)


@jax.custom_vjp
def _fill_forward(hs: jax.Array, first: jax.Array, mask: jax.Array) -> jax.Array:
    """Repeats the output of the last valid step; before the first valid step, repeats the first state."""
    positions = jnp.where(mask, jnp.arange(mask.shape[0], dtype=jnp.int32)[:, None], -1)
    source = lax.cummax(positions, axis=0)
    filled = jnp.take_along_axis(hs, jnp.maximum(source, 0)[..., None], axis=0)
    return jnp.where((source >= 0)[..., None], filled, first[None])


def _fill_forward_back(mask: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    # Each step passes its gradient to the last valid step before it. These are sums over segments of steps, from the
    # end to the start, each ending with a valid step. An associative scan computes them in log T passes and in a fixed
    # order, which a scatter would not have.
    def add(later: tuple[jax.Array, jax.Array], earlier: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        (sum_later, ends_later), (sum_earlier, ends_earlier) = later, earlier
        carried = jnp.where(ends_earlier, 0, sum_later)
        return sum_earlier + carried, ends_later | ends_earlier

    # Going back in time, a new segment starts just before each valid step.
    starts = jnp.concatenate([mask[1:], jnp.ones_like(mask[:1])])[..., None]
    starts = jnp.broadcast_to(starts, cotangent.shape)
    sums, _ = lax.associative_scan(add, (cotangent, starts), reverse=True)
    d_first = jnp.where(mask[0][:, None], 0, sums[0])
    return jnp.where(mask[..., None], sums, 0), d_first, None


_fill_forward.defvjp(lambda hs, first, mask: (_fill_forward(hs, first, mask), mask), _fill_forward_back)
