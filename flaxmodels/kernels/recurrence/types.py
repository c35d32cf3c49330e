"""Types shared by all implementations of the recurrences: inputs, states, and passes over time.

Shapes in this package: T steps, B batch, F features of the inputs, U units, G gates (see `GATES`).
"""

from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

import jax

Kind: TypeAlias = Literal["LSTM", "GRU", "SimpleRNN"]
Name: TypeAlias = Literal["auto", "scan", "fused", "cudnn"]

# Blocks of columns in the kernels: i, f, g, o of an LSTM; z, r, g of a GRU.
GATES: dict[Kind, int] = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}


class Hidden(NamedTuple):
    """The state of a cell that remembers only its output h."""

    h: jax.Array


class LSTMState(NamedTuple):
    """The state of an LSTM: its output h and its cell state c."""

    h: jax.Array
    c: jax.Array


class Inputs(NamedTuple):
    """The inputs of a recurrence, which contribute x @ kernel + bias to each step.

    Without a kernel, x already is that product. A recurrence that receives the three parts adds the bias where it reads
    the product, which saves a pass over the arrays of all steps.
    """

    x: jax.Array
    kernel: jax.Array | None = None
    bias: jax.Array | None = None


State = TypeVar("State", Hidden, LSTMState)
# The arrays that a forward pass saves for the backward pass.
Residuals: TypeAlias = tuple[jax.Array, ...]


class Passes(NamedTuple, Generic[State]):
    """One implementation of a recurrence.

    Attributes:
        forward: (inputs, kernel, bias, state, mask, keep) -> outputs of all steps, last state, residuals. The kernel
            and the bias are those of the recurrent product; the bias is an array for a GRU, otherwise None. The
            residuals are empty unless `keep`. All implementations of a recurrence save the same residuals, so any
            backward pass can follow any forward pass.
        backward: (outputs, residuals, kernel, first state, mask, gradient of the outputs, gradient of the last state)
            -> gradients of the recurrent product [T, B, G U], of the inputs' contribution, and of the first state. The
            second is None if it equals the first, as in an LSTM and a SimpleRNN.
    """

    forward: Callable[[Inputs, jax.Array, Any, State, jax.Array | None, bool], tuple[jax.Array, State, Residuals]]
    backward: Callable[
        [jax.Array, Residuals, jax.Array, State, jax.Array | None, jax.Array, State],
        tuple[jax.Array, jax.Array | None, State],
    ]


# (inputs, recurrent kernel, recurrent bias, state, mask) -> outputs of all steps, last state
Recurrence: TypeAlias = Callable[[Inputs, jax.Array, Any, State, jax.Array | None], tuple[jax.Array, State]]


class Implementations(NamedTuple, Generic[State]):
    """All implementations of one recurrence.

    Attributes:
        kind: The name of the recurrence.
        scan: `jax.lax.scan` over time, the reference.
        cpu: Kernels in C for float32 on a CPU.
        fused: One Pallas kernel for all steps on an NVIDIA GPU.
        cudnn: cuDNN's recurrence, which has its own residuals and so does both passes.
    """

    kind: Kind
    scan: Passes[State]
    cpu: Passes[State]
    fused: Passes[State] | None = None
    cudnn: Recurrence[State] | None = None
