"""Matrix products of recurrences: of the inputs before the loop over time, and of the gradients after it.

Sums run in float32, or in float64 for float64 arrays.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxmodels.kernels.recurrence.types import Inputs

# Values of `jax_default_matmul_precision` for products that keep all digits of float32.
EXACT_PRECISIONS = ("highest", "float32", "float64", "F32_F32_F32", "F64_F64_F64")


def accumulation_dtype(dtype: DTypeLike) -> DTypeLike:
    """Returns the dtype in which sums run: float64 for float64, otherwise float32."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def has_exact_products() -> bool:
    """Returns whether JAX's default matmul precision keeps all digits of float32."""
    return str(jax.config.jax_default_matmul_precision) in EXACT_PRECISIONS  # type: ignore[attr-defined]


def upcast(x: jax.Array) -> jax.Array:
    """Converts an array to the dtype in which sums run."""
    return x.astype(accumulation_dtype(x.dtype))


def dot(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns x @ kernel, multiplied in the kernel's dtype and summed in float32 or float64."""
    return jnp.matmul(x.astype(kernel.dtype), kernel, preferred_element_type=accumulation_dtype(kernel.dtype))


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns x @ kernel for x [..., F]."""
    # On a CPU, the gradient of a product with more axes would transpose whole arrays of x's size.
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def project(inputs: Inputs, scale: jax.Array | None = None) -> tuple[jax.Array, jax.Array | float]:
    """Returns x @ kernel of all steps, and the upcast bias that each step still has to add (0.0 if there is none).

    Args:
        inputs: The inputs.
        scale: Factors by which the columns of both results are multiplied.
    """
    x, kernel, bias = inputs
    if kernel is not None:
        x = product(x, kernel if scale is None else kernel * scale[None])
    elif scale is not None:
        x = x * scale[None, None]
    if bias is None:
        return x, 0.0
    return x, (upcast(bias) if scale is None else upcast(bias) * upcast(scale))[None]


def input_gradients(inputs: Inputs, d_contribution: jax.Array) -> Inputs:
    """Returns the gradients of x, kernel and bias from the gradient of x @ kernel + bias."""
    x, kernel, bias = inputs
    d_bias = None if bias is None else jnp.sum(upcast(d_contribution), axis=(0, 1)).astype(bias.dtype)
    if kernel is None:
        return Inputs(d_contribution, None, d_bias)
    rows = d_contribution.reshape(-1, d_contribution.shape[-1])
    d_kernel = dot(x.reshape(-1, x.shape[-1]).T, rows).astype(kernel.dtype)
    return Inputs(product(d_contribution, kernel.T), d_kernel, d_bias)


def kernel_gradient(hs: jax.Array, first: jax.Array, d_product: jax.Array) -> jax.Array:
    """Returns the gradient of the recurrent kernel, the sum over t of h[t-1].T @ dz[t], as one product."""
    h = jnp.concatenate([first[None], hs[:-1]]).reshape(-1, hs.shape[-1])
    return dot(h.T, d_product.reshape(-1, d_product.shape[-1])).astype(d_product.dtype)
