"""By which implementation a recurrence goes through time on a GPU: the rule, and what it goes by.

An implementation is compared with the scan, on this device, before it is used for the first time; one that is too far
away, or that fails, is passed over with a warning.
"""

import contextlib
import functools
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.kernels import dispatch, recurrence_gpu

Name = Literal["auto", "scan", "fused", "cudnn"]

# What a GPU tries for each recurrence, in this order; `on_gpu` says when one is passed over.
ON_GPU: dict[str, tuple[Name, ...]] = {
    "LSTM": ("cudnn", "fused", "scan"),
    "GRU": ("fused", "scan"),
    "SimpleRNN": ("scan",),
}
# A part of the keys by which JAX finds programs again, so that each name has programs of its own.
_asked: Any = jax.make_user_context("auto")

DTYPES = ("float32", "bfloat16", "float16")
# A program reads the recurrent kernel once per step, from the second level cache at some 100 GB/s: above this many
# bytes that takes as long as the few launches of a step in a scan. A first guess: `benchmarks/gpu.py` measures it.
MOST_BYTES = 2**20
# Without tensor cores, which have no full float32, a program multiplies at some 0.4 TFLOP/s.
MOST_UNITS_EXACT = 128
LEAST_CAPABILITY = 8.0
MOST_ELEMENTS = 2**31 - 1
# Largest errors that are let pass, relative to the largest value: sums in another order, or products of few digits.
BOUNDS = {"float32": 1e-4, "tensorfloat32": 2e-2, "float16": 2e-2, "bfloat16": 6e-2}

# Few steps, a batch that fills no whole tile, masks of each kind: padded right, padded left, with holes, none counts.
STEPS, BATCH, FEATURES = 6, 5, 3
MASK = ((1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 0, 0), (0, 0, 1, 1, 1, 1), (1, 0, 1, 1, 0, 1), (0, 0, 0, 0, 0, 0))


@contextlib.contextmanager
def using(name: Name) -> Iterator[None]:
    """Takes one implementation of recurrences in all that this thread traces inside the block.

    Args:
        name: "scan" on every platform; "fused" or "cudnn" on an NVIDIA GPU, without asking how fast or how exact they
            are; "auto" leaves it to the rule, `on_gpu`.

    Raises:
        ValueError: If the name is unknown, and, where a recurrence is traced, if the implementation can't take it.

    Example:
        >>> from flaxmodels.kernels.recurrence import Hidden, Inputs, simple
        >>> with using("scan"):
        ...     hs, last = simple(Inputs(jnp.ones((5, 2, 3))), jnp.ones((3, 3)), Hidden(jnp.zeros((2, 3))), None)
        >>> hs.shape
        (5, 2, 3)
    """
    if name not in ("auto", "scan", "fused", "cudnn"):
        raise ValueError(
            f"`name` of an implementation of recurrences is 'auto', 'scan', 'fused' or 'cudnn', got {name!r}; give one."
        )
    with _asked(name):
        yield


def asked() -> Name:
    """The name that `using` chose here; "scan" inside of `without_kernels`, and "auto" outside of all blocks.

    Example:
        >>> asked()
        'auto'
    """
    return _asked.value if dispatch.kernels_allowed() else "scan"


def on_gpu(kind: str, kernel: jax.Array, rows: int, whole: bool = True) -> Name:
    """The rule for a GPU: by which implementation a recurrence goes through time there.

    The first of `ON_GPU` that takes the recurrence (`refusal`: device, dtype, sizes) and that gave, once in this
    process, on this device, the values and gradients of the scan (`verified`).
    cuDNN stands before the fused kernel, as it shares one step out among all of the GPU; the fused kernel before the
    scan, which starts several kernels per step. It is decided where a program is traced, by the platform that JAX
    takes by default: cuDNN keeps other residuals than the rest, and the check has to run before. A program that turns
    out, when it is lowered, to be exported or divided among devices holds the scan instead (`dispatch.alternatives`).

    Args:
        kind: "LSTM", "GRU" or "SimpleRNN".
        kernel: The recurrent kernel, of which dtype and shape count.
        rows: Steps times examples.
        whole: Whether the recurrence with its gradient is to be taken, by cuDNN too, or one way alone.

    Raises:
        ValueError: If `using` names an implementation that can't take it.
    """
    name = asked()
    if name == "scan" or (name == "cudnn" and not whole) or (name == "auto" and jax.default_backend() != "gpu"):
        return "scan"
    if not isinstance(rows, int):  # a symbol, so the program is exported
        return "scan"
    units, dtype = kernel.shape[0], kernel.dtype
    if name != "auto":
        reason = refusal(name, kind, units, dtype, rows, forced=True)
        if reason:
            raise ValueError(f"{kind} can't be taken through time by {name!r}, {reason}; use 'auto'.")
        return name
    for name in ON_GPU[kind]:
        if name == "scan" or (name == "cudnn" and not whole) or refusal(name, kind, units, dtype, rows):
            continue
        if verified(name, kind, units, dtype):
            return name
    return "scan"


def refusal(name: str, kind: str, units: int, dtype: Any, rows: int = 1, forced: bool = False) -> str | None:
    """Why an implementation does not take a recurrence, as the end of a sentence, or None if it does.

    Args:
        name: "fused" or "cudnn".
        kind: "LSTM", "GRU" or "SimpleRNN".
        units: The size of its state.
        dtype: Of its recurrent kernel.
        rows: Steps times examples.
        forced: Whether it was asked for by name: then its speed does not matter.

    Example:
        >>> refusal("cudnn", "GRU", 8, "float32")
        'which takes LSTM alone'
    """
    dtype = jnp.dtype(dtype).name
    takes = {"fused": ("LSTM", "GRU"), "cudnn": ("LSTM",)}[name]
    if kind not in takes:
        return f"which takes {' and '.join(takes)} alone"
    dtypes = DTYPES if name == "fused" else ("float32",)
    if name == "fused" and (count := recurrence_gpu.elements(rows, units, dtype)) > MOST_ELEMENTS:
        return f"which counts elements in 32 bits, got {count} of them"
    # The interpreter takes float64, too.
    if dtype not in dtypes and not recurrence_gpu.interpreted:
        return f"which takes {', '.join(dtypes)}, got {dtype}"
    if (name == "cudnn" or not forced) and capability() < LEAST_CAPABILITY:
        return f"which needs an NVIDIA GPU of compute capability {LEAST_CAPABILITY}, got {jax.default_backend()!r}"
    return _too_slow(kind, units, dtype) if name == "fused" and not forced else None


def _too_slow(kind: str, units: int, dtype: str) -> str | None:
    size = units * units * {"LSTM": 4, "GRU": 3}[kind] * jnp.dtype(dtype).itemsize
    if size > MOST_BYTES:
        return f"which reads the whole kernel at each step, got {size} bytes, more than {MOST_BYTES}"
    if dtype == "float32" and recurrence_gpu.exact() and units > MOST_UNITS_EXACT:
        return f"which multiplies exact float32 slowly, got {units} units, more than {MOST_UNITS_EXACT}"
    return None


def capability() -> float:
    """The compute capability of the NVIDIA GPU that JAX takes by default, 0 without one."""
    if jax.default_backend() != "gpu":
        return 0.0
    try:
        return float(getattr(jax.local_devices()[0], "compute_capability", 0))
    except ValueError:  # of an AMD GPU, a name
        return 0.0


def verified(name: str, kind: str, units: int, dtype: Any) -> bool:
    """Whether an implementation gave the values and gradients of the scan on this device; found once, with a warning.

    A small batch of a few steps, with a mask, is taken with the units and the dtype in question, so that the very
    kernel that will run, with its tiles, has been compiled and compared.
    """
    return _verified(name, kind, units, jnp.dtype(dtype).name, recurrence_gpu.exact())


@functools.cache
def _verified(name: str, kind: str, units: int, dtype: str, exactly: bool) -> bool:
    def check() -> float:
        with jax.default_matmul_precision("float32" if exactly else "tensorfloat32"):
            return error(name, kind, units, dtype)

    bound = BOUNDS["tensorfloat32" if dtype == "float32" and not exactly else dtype]
    try:
        # In a thread of its own: where a program is being traced, nothing could be computed.
        with ThreadPoolExecutor(1) as pool:
            apart = pool.submit(check).result()
        reason = None if apart <= bound else f"its largest error is {apart:.2g}, above {bound:.2g}"
    except Exception as failure:  # of a compiler or a driver: of any class
        reason = f"it failed ({type(failure).__name__}: {str(failure).strip()[:200]})"
    if reason is not None:
        warnings.warn(
            f"{kind} of {units} units in {dtype} is not taken through time by {name!r} on this device, because "
            f"{reason}; the next implementation takes its place, nothing need be done.",
            stacklevel=2,
        )
    return reason is None


def error(name: str, kind: str, units: int, dtype: str, seed: int | None = None) -> float:
    """The largest error of values and gradients, relative to the largest value of each array, at least to 1.

    Args:
        name: The implementation, "fused", "cudnn" or "scan".
        kind: "LSTM" or "GRU".
        units: The size of the state.
        dtype: Of all arrays; they are compared with a scan in float32, of the same values.
        seed: Of the random values; fresh ones without.
    """
    arrays, cotangents = _draw(kind, units, dtype, np.random.default_rng(seed))
    mask = jnp.asarray(np.array(MASK).T == 1)
    worst = 0.0
    for given in (mask, None):
        with using(name):  # type: ignore[arg-type]
            got = _with_gradients(kind, arrays, given, cotangents)
        with using("scan"), jax.default_matmul_precision("highest"):
            wide = jax.tree.map(lambda a: a.astype(jnp.float32), (arrays, cotangents))
            want = _with_gradients(kind, wide[0], given, wide[1])
        for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            apart, scale = np.abs(np.asarray(g, np.float64) - np.asarray(w, np.float64)), np.abs(w).max()
            # Of what is not finite the largest error is not finite either, which no bound lets pass.
            worst = max(worst, float(apart.max() / max(1.0, float(scale)))) if np.isfinite(apart).all() else np.inf
    return worst


def _draw(kind: str, units: int, dtype: str, rng: np.random.Generator) -> tuple[Any, Any]:
    from flaxmodels.kernels import recurrence

    def normal(*shape: int, scale: float = 1.0) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape, scale=scale), dtype)

    width = {"LSTM": 4, "GRU": 3}[kind] * units
    x, kernel = normal(STEPS, BATCH, FEATURES), normal(FEATURES, width, scale=FEATURES**-0.5)
    inputs, weights = recurrence.Inputs(x, kernel, normal(width)), [normal(units, width, scale=units**-0.5)]
    states = (normal(BATCH, units), normal(BATCH, units))
    if kind == "LSTM":
        state: Any = recurrence.LSTMState(*states)
    else:
        weights, state = [*weights, normal(width)], recurrence.Hidden(states[0])
    cotangents = (normal(STEPS, BATCH, units), jax.tree.map(jnp.ones_like, state))
    return [inputs, *weights, state], cotangents


def _with_gradients(kind: str, arrays: Any, mask: Any, cotangents: Any) -> Any:
    from flaxmodels.kernels import recurrence

    run: Any = {"LSTM": recurrence.lstm, "GRU": recurrence.gru}[kind]

    def both(arrays: Any, cotangents: Any) -> Any:
        out, back = jax.vjp(lambda arrays: run(*arrays, mask), arrays)
        return out, back(cotangents)

    return jax.jit(both)(arrays, cotangents)
