"""The custom gradient of the recurrences.

Automatic differentiation of a scan would add up the gradient of the kernel step by step. A backward pass of `Passes`
computes only what the previous step needs, from factors that are computed for all steps at once. The gradients of the
kernels then follow as single products over all steps. See Appleyard, Kocisky and Blunsom, "Optimizing Performance of
Recurrent Neural Networks on GPUs" (2016).
"""

import jax
import jax.numpy as jnp

from flaxmodels.kernels.recurrence.products import input_gradients, kernel_gradient
from flaxmodels.kernels.recurrence.types import Inputs, Passes, Recurrence, Residuals, State


def differentiable(passes: Passes[State], has_residuals: bool = True) -> Recurrence[State]:
    """Returns the recurrence whose value and gradient are computed by a forward and a backward pass.

    Args:
        passes: Both passes.
        has_residuals: Whether the forward pass saves residuals for the backward pass, in addition to the outputs.
    """

    @jax.custom_vjp
    def recurrence(
        inputs: Inputs, kernel: jax.Array, bias: jax.Array | None, state: State, mask: jax.Array | None
    ) -> tuple[jax.Array, State]:
        return passes.forward(inputs, kernel, bias, state, mask, False)[:2]

    def forward(
        inputs: Inputs, kernel: jax.Array, bias: jax.Array | None, state: State, mask: jax.Array | None
    ) -> tuple[tuple[jax.Array, State], tuple]:
        residuals: Residuals = ()
        if has_residuals:
            hs, last, residuals = passes.forward(inputs, kernel, bias, state, mask, True)
        else:  # the recurrence itself, so that second derivatives use the custom gradient, too
            hs, last = recurrence(inputs, kernel, bias, state, mask)
        return (hs, last), (inputs, hs, residuals, kernel, bias, state, mask)

    def backward(saved: tuple, cotangents: tuple[jax.Array, State]) -> tuple:
        inputs, hs, residuals, kernel, bias, first, mask = saved
        d_product, d_inputs, d_state = passes.backward(hs, residuals, kernel, first, mask, *cotangents)
        d_bias = None if bias is None else jnp.sum(d_product, axis=(0, 1))
        of_inputs = input_gradients(inputs, d_product if d_inputs is None else d_inputs)
        return of_inputs, kernel_gradient(hs, first.h, d_product), d_bias, d_state, None

    recurrence.defvjp(forward, backward)
    return recurrence
