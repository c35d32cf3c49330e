"""Outputs and gradients of the C kernels, with whole and partial vectors.

Run as a script, this file saves them, so that a test can compare builds for different instruction sets.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.kernels import convolution, native, pooling, recurrence

UNIT = {"strides": (1, 1), "padding": "valid", "dilation": (1, 1)}
SAME = UNIT | {"padding": "same"}
UNITS = 19


def lstm(x, kernel, recurrent):
    zeros = jnp.zeros((x.shape[1], UNITS))
    return recurrence.lstm(recurrence.Inputs(x, kernel), recurrent, recurrence.LSTMState(zeros, zeros), None)[0]


# Convolutions: a plain one and a Winograd one. Windows: inside the image, and across its edge.
CALLS = [
    (lambda x, kernel: convolution.conv(x, kernel, **UNIT), (2, 5, 6, 13), (3, 2, 13, 21)),
    (lambda x, kernel: convolution.conv(x, kernel, **UNIT), (3, 16, 16, 48), (3, 3, 48, 48)),
    (lambda x, kernel: convolution.depthwise_conv(x, kernel, **UNIT), (2, 7, 6, 19), (3, 4, 19, 1)),
    (lambda x, kernel: convolution.depthwise_conv(x, kernel, **SAME), (2, 7, 6, 19), (3, 4, 19, 1)),
    (lambda x: pooling.max_pool(x, (3, 3), (2, 2), "same"), (2, 7, 6, 19)),
    (lstm, (4, 3, 5), (5, 4 * UNITS), (UNITS, 4 * UNITS)),
]


def outputs():
    """Returns the outputs and gradients of all calls, float32 arrays."""
    rng, found = np.random.default_rng(0), []
    for call, *shapes in CALLS:
        operands = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]
        y, vjp = jax.vjp(jax.jit(call), *operands)
        found += [y, *vjp(y)]
    return found


if __name__ == "__main__":
    assert native.available()
    np.savez(sys.argv[1], *outputs())
