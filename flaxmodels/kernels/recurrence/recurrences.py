"""LSTM, GRU and SimpleRNN over all time steps."""

import jax

from flaxmodels.kernels.recurrence import cpu, cudnn, dispatch, fused, reference
from flaxmodels.kernels.recurrence.types import Hidden, Implementations, Inputs, LSTMState

LSTM = Implementations("LSTM", reference.LSTM, cpu.LSTM, fused.LSTM, cudnn.lstm)
GRU = Implementations("GRU", reference.GRU, cpu.GRU, fused.GRU)
SIMPLE_RNN = Implementations("SimpleRNN", reference.SIMPLE_RNN, cpu.SIMPLE_RNN)

_lstm = dispatch.recurrence(LSTM)
_gru = dispatch.recurrence(GRU)
_simple_rnn = dispatch.recurrence(SIMPLE_RNN)


def lstm(inputs: Inputs, kernel: jax.Array, state: LSTMState, mask: jax.Array | None) -> tuple[jax.Array, LSTMState]:
    """Computes an LSTM with tanh and sigmoid over all steps.

    i, f, g, o = split(x + h @ kernel), c' = sigmoid(f) c + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(c')

    Args:
        inputs: Contributions of inputs and bias to the gates, the x above.
        kernel: The recurrent kernel.
        state: The state before the first step.
        mask: True at valid steps, or None if all are valid. Other steps keep the state.

    Shapes: inputs [T, B, 4 U] or [T, B, F], [F, 4 U], [4 U]; kernel [U, 4 U], state [B, U] each, mask [T, B] -> h after
        each step [T, B, U], and the last state.

    Example:
        >>> zeros = jnp.zeros((2, 3))
        >>> hs, last = lstm(Inputs(jnp.ones((5, 2, 12))), jnp.ones((3, 12)), LSTMState(zeros, zeros), None)
        >>> hs.shape, last.c.shape
        ((5, 2, 3), (2, 3))
    """
    return _lstm(inputs, kernel, None, state, mask)


def gru(
    inputs: Inputs, kernel: jax.Array, bias: jax.Array, state: Hidden, mask: jax.Array | None
) -> tuple[jax.Array, Hidden]:
    """Computes a GRU with tanh and sigmoid over all steps; the reset gate is applied after the recurrent product.

    a, b, d = split(h @ kernel + bias); z, r, g = split(x);
    z = sigmoid(z + a), r = sigmoid(r + b), g = tanh(g + r d), h' = z h + (1 - z) g

    Args:
        inputs: Contributions of the inputs and their bias, the x above.
        kernel: The recurrent kernel.
        bias: The recurrent bias.
        state: The state before the first step.
        mask: True at valid steps, or None if all are valid. Other steps keep the state.

    Shapes: inputs [T, B, 3 U] or [T, B, F], [F, 3 U], [3 U]; kernel [U, 3 U], bias [3 U], state [B, U], mask [T, B]
        -> h after each step [T, B, U], and the last state.

    Example:
        >>> hs, last = gru(Inputs(jnp.ones((5, 2, 9))), jnp.ones((3, 9)), jnp.ones(9), Hidden(jnp.zeros((2, 3))), None)
        >>> hs.shape, last.h.shape
        ((5, 2, 3), (2, 3))
    """
    return _gru(inputs, kernel, bias, state, mask)


def simple_rnn(inputs: Inputs, kernel: jax.Array, state: Hidden, mask: jax.Array | None) -> tuple[jax.Array, Hidden]:
    """Computes a SimpleRNN with tanh over all steps: h' = tanh(x + h @ kernel).

    Args:
        inputs: Contributions of inputs and bias, the x above.
        kernel: The recurrent kernel.
        state: The state before the first step.
        mask: True at valid steps, or None if all are valid. Other steps keep the state.

    Shapes: inputs [T, B, U] or [T, B, F], [F, U], [U]; kernel [U, U], state [B, U], mask [T, B] -> h after each step
        [T, B, U], and the last state.

    Example:
        >>> hs, last = simple_rnn(Inputs(jnp.ones((5, 2, 3))), jnp.ones((3, 3)), Hidden(jnp.zeros((2, 3))), None)
        >>> hs.shape, last.h.shape
        ((5, 2, 3), (2, 3))
    """
    return _simple_rnn(inputs, kernel, None, state, mask)
