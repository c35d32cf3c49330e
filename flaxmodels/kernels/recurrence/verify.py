"""Checks the values and gradients of a recurrence implementation against the scan, on the default device."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flaxmodels.kernels.recurrence.products import has_exact_products
from flaxmodels.kernels.recurrence.types import GATES, Hidden, Inputs, Kind, LSTMState, Recurrence

# Largest accepted error, relative to the largest value. Sums in a different order and products with few digits cause
# errors.
BOUNDS = {"float32": 1e-4, "tensorfloat32": 2e-2, "float16": 2e-2, "bfloat16": 6e-2}

# Few steps, a batch that does not fill a tile, and masks of each kind: none, right, left, with holes, all masked.
STEPS, BATCH, FEATURES = 6, 5, 3
MASK = ((1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 0, 0), (0, 0, 1, 1, 1, 1), (1, 0, 1, 1, 0, 1), (0, 0, 0, 0, 0, 0))


def why_wrong(candidate: Recurrence, reference: Recurrence, kind: Kind, units: int, dtype: DTypeLike) -> str | None:
    """Checks an implementation against the scan; returns why it fails, as the end of a sentence, or None.

    A small batch of a few steps, with and without a mask, runs with the units, dtype and matmul precision in question.
    This compiles and compares the same kernel, with the same tiles, that will run.

    Args:
        candidate: The implementation.
        reference: The scan.
        kind: The recurrence.
        units: The size of the recurrence's state.
        dtype: The dtype of all arrays.
    """
    dtype, exact = jnp.dtype(dtype).name, has_exact_products()

    def check() -> float:
        with jax.default_matmul_precision("float32" if exact else "tensorfloat32"):
            return max_error(candidate, reference, kind, units, dtype)

    bound = BOUNDS["tensorfloat32" if dtype == "float32" and not exact else dtype]
    try:
        # The check runs in another thread, because a thread that traces a program cannot compute anything.
        with ThreadPoolExecutor(1) as pool:
            error = pool.submit(check).result()
    except Exception as failure:  # a compiler or a driver may raise any exception
        return f"it failed ({type(failure).__name__}: {str(failure).strip()[:200]})"
    return None if error <= bound else f"its largest error is {error:.2g}, above {bound:.2g}"


def max_error(
    candidate: Recurrence, reference: Recurrence, kind: Kind, units: int, dtype: str, seed: int | None = None
) -> float:
    """Returns the largest error of values and gradients, relative to the largest value of each array or to 1.

    Args:
        candidate: The implementation.
        reference: The scan, which runs in float32 on the same values.
        kind: The recurrence.
        units: The size of the recurrence's state.
        dtype: The dtype of all arrays.
        seed: The seed of the random values; None draws new ones.
    """
    arrays, cotangents = _random_arrays(kind, units, dtype, np.random.default_rng(seed))
    worst = 0.0
    for mask in (jnp.asarray(np.array(MASK).T == 1), None):
        got = _with_gradients(candidate, arrays, mask, cotangents)
        with jax.default_matmul_precision("highest"):
            single, single_cotangents = jax.tree.map(lambda a: a.astype(jnp.float32), (arrays, cotangents))
            want = _with_gradients(reference, single, mask, single_cotangents)
        for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            errors, scale = np.abs(np.asarray(g, np.float64) - np.asarray(w, np.float64)), np.abs(w).max()
            # Values that are not finite have an infinite error, which is above every bound.
            error = float(errors.max() / max(1.0, float(scale))) if np.isfinite(errors).all() else np.inf
            worst = max(worst, error)
    return worst


def _random_arrays(kind: Kind, units: int, dtype: str, rng: np.random.Generator) -> tuple[tuple, tuple]:
    """Returns the arguments of a recurrence except the mask, and cotangents of its results."""

    def normal(*shape: int, scale: float = 1.0) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape, scale=scale), dtype)

    width = GATES[kind] * units
    x, kernel = normal(STEPS, BATCH, FEATURES), normal(FEATURES, width, scale=FEATURES**-0.5)
    inputs, recurrent = Inputs(x, kernel, normal(width)), normal(units, width, scale=units**-0.5)
    h, c = normal(BATCH, units), normal(BATCH, units)
    state = LSTMState(h, c) if kind == "LSTM" else Hidden(h)
    bias = normal(width) if kind == "GRU" else None
    cotangents = (normal(STEPS, BATCH, units), jax.tree.map(jnp.ones_like, state))
    return (inputs, recurrent, bias, state), cotangents


def _with_gradients(
    run: Callable[..., object], arrays: tuple, mask: jax.Array | None, cotangents: tuple
) -> tuple[object, object]:
    def both(arrays: tuple, cotangents: tuple) -> tuple[object, object]:
        out, back = jax.vjp(lambda arrays: run(*arrays, mask), arrays)
        return out, back(cotangents)

    return jax.jit(both)(arrays, cotangents)
