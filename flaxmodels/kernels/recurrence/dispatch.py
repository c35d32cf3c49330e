"""Chooses the implementation of a recurrence: by platform, by a check against the scan, or by the user."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast, get_args

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxmodels.kernels import dispatch
from flaxmodels.kernels.recurrence import cpu, tiling, verify
from flaxmodels.kernels.recurrence.gradients import differentiable
from flaxmodels.kernels.recurrence.products import has_exact_products
from flaxmodels.kernels.recurrence.types import (
    GATES,
    Implementations,
    Inputs,
    Kind,
    Name,
    Passes,
    Recurrence,
    Residuals,
    State,
)

# Implementations on a GPU, in order of preference; `choose_on_gpu` describes when one is skipped.
ON_GPU: dict[Kind, tuple[Name, ...]] = {
    "LSTM": ("cudnn", "fused", "scan"),
    "GRU": ("fused", "scan"),
    "SimpleRNN": ("scan",),
}
KINDS: dict[Name, tuple[Kind, ...]] = {"fused": ("LSTM", "GRU"), "cudnn": ("LSTM",)}
DTYPES: dict[Name, tuple[str, ...]] = {"fused": ("float32", "bfloat16", "float16"), "cudnn": ("float32",)}
# A program of the fused kernel reads the recurrent kernel once per step, from the L2 cache at about 100 GB/s. Above
# this many bytes, that takes as long as the few launches per step of a scan. This is an estimate; `benchmarks/gpu.py`
# measures the actual speed.
MAX_KERNEL_BYTES = 2**20
# Exact float32 products cannot use tensor cores; a program then multiplies at about 0.4 TFLOP/s.
MAX_UNITS_EXACT = 128
MIN_CAPABILITY = 8.0
MAX_ELEMENTS = 2**31 - 1

# Part of the keys of JAX's caches, so a program traced with one implementation is not reused for another.
_requested: Any = jax.make_user_context("auto")


@contextlib.contextmanager
def use_implementation(name: Name) -> Iterator[None]:
    """Chooses the implementation of all recurrences that this thread traces inside the block.

    Args:
        name: "scan" on every platform. "fused" or "cudnn" on an NVIDIA GPU, without a check of their speed or accuracy.
            "auto" chooses automatically.

    Raises:
        ValueError: If the name is unknown. Also raised while tracing a recurrence that the implementation does not
            support.

    Example:
        >>> from flaxmodels.kernels.recurrence import Hidden, Inputs, simple_rnn
        >>> with use_implementation("scan"):
        ...     hs, last = simple_rnn(Inputs(jnp.ones((5, 2, 3))), jnp.ones((3, 3)), Hidden(jnp.zeros((2, 3))), None)
        >>> hs.shape
        (5, 2, 3)
    """
    if name not in get_args(Name):
        raise ValueError(
            f"`name` of an implementation of recurrences must be 'auto', 'scan', 'fused' or 'cudnn', got {name!r}; "
            "pass one of these."
        )
    with _requested(name):
        yield


def requested() -> Name:
    """Returns the implementation chosen by `use_implementation`, otherwise "auto"; "scan" inside `without_kernels`.

    Example:
        >>> requested()
        'auto'
    """
    return _requested.value if dispatch.kernels_allowed() else "scan"


def recurrence(implementations: Implementations[State]) -> Recurrence[State]:
    """Returns a recurrence that chooses one of its implementations each time a program is traced."""
    by_platform = _by_platform(implementations, lambda *arguments: platform_passes(implementations, *arguments))

    def run(
        inputs: Inputs, kernel: jax.Array, bias: jax.Array | None, state: State, mask: jax.Array | None
    ) -> tuple[jax.Array, State]:
        steps, batch = inputs.x.shape[:2]
        # cuDNN multiplies the inputs by their kernel itself.
        if implementations.cudnn is not None and inputs.kernel is not None:
            if choose_on_gpu(implementations, kernel, steps * batch) == "cudnn":
                return implementations.cudnn(inputs, kernel, bias, state, mask)
        return by_platform(inputs, kernel, bias, state, mask)

    return run


def _by_platform(
    implementations: Implementations[State], choose: Callable[[jax.Array, int, tuple], Mapping[str, Passes[State]]]
) -> Recurrence[State]:
    """Returns a recurrence whose passes depend on the platform; `choose` has the arguments of `platform_passes`.

    A program is lowered for each platform with its own implementation. Second derivatives are those of the scan.
    """

    def forward(
        inputs: Inputs, kernel: jax.Array, bias: jax.Array | None, state: State, mask: jax.Array | None, keep: bool
    ) -> tuple[jax.Array, State, Residuals]:
        def with_keep(passes: Passes[State]) -> Callable[..., tuple[jax.Array, State, Residuals]]:
            run: Callable[..., tuple[jax.Array, State, Residuals]] = passes.forward
            return lambda *arguments: run(*arguments, keep)

        arguments = (inputs, kernel, bias, state, mask)
        steps, batch = inputs.x.shape[:2]
        kernels = {platform: with_keep(passes) for platform, passes in choose(kernel, steps * batch, arguments).items()}
        return dispatch.alternatives(with_keep(implementations.scan), *arguments, **kernels)

    def backward(
        hs: jax.Array,
        residuals: Residuals,
        kernel: jax.Array,
        first: State,
        mask: jax.Array | None,
        d_hs: jax.Array,
        d_last: State,
    ) -> tuple[jax.Array, jax.Array | None, State]:
        arguments = (hs, residuals, kernel, first, mask, d_hs, d_last)
        steps, batch = hs.shape[:2]
        kernels = {platform: passes.backward for platform, passes in choose(kernel, steps * batch, arguments).items()}
        return dispatch.alternatives(implementations.scan.backward, *arguments, **kernels)

    return differentiable(Passes(forward, backward), has_residuals=implementations.kind != "SimpleRNN")


def platform_passes(
    implementations: Implementations[State], kernel: jax.Array, rows: int, arguments: tuple
) -> dict[str, Passes[State]]:
    """Returns implementations of a forward or backward pass, keyed by platform; other platforms use the scan.

    Args:
        implementations: The recurrence.
        kernel: The recurrent kernel.
        rows: Steps times examples.
        arguments: The arguments of the pass.
    """
    passes = {}
    arrays = [a for a in jax.tree.leaves(arguments) if a.dtype != bool]
    if requested() != "scan" and cpu.is_supported(arrays):
        passes["cpu"] = implementations.cpu
    fused = implementations.fused
    if fused is not None and choose_on_gpu(implementations, kernel, rows, single_pass=True) == "fused":
        passes["cuda"] = fused
    return passes


def choose_on_gpu(implementations: Implementations, kernel: jax.Array, rows: int, single_pass: bool = False) -> Name:
    """Chooses the implementation of a recurrence on a GPU.

    Returns the first of `ON_GPU` that supports the recurrence (`why_unsupported`) and that passed the check against the
    scan on this device (`is_verified`). cuDNN comes before the fused kernel, because it distributes one step over the
    whole GPU. The fused kernel comes before the scan, which launches several kernels per step.

    The choice is made while a program is traced, from JAX's default platform. It cannot be made later, because cuDNN
    saves different residuals, and because the check has to run first. A program that is exported or divided among
    devices still contains the scan; `dispatch.alternatives` decides this when the program is lowered.

    Args:
        implementations: The recurrence.
        kernel: The recurrent kernel, of which only dtype and shape are read.
        rows: Steps times examples.
        single_pass: Whether only a forward or a backward pass is computed, which excludes cuDNN.

    Raises:
        ValueError: If `use_implementation` names an implementation that does not support the recurrence.
    """
    kind, name = implementations.kind, requested()
    if name == "scan" or (name == "cudnn" and single_pass) or (name == "auto" and jax.default_backend() != "gpu"):
        return "scan"
    if not isinstance(rows, int):  # a symbolic size: the program will be exported
        return "scan"
    units, dtype = kernel.shape[0], kernel.dtype
    if name != "auto":
        reason = why_unsupported(name, kind, units, dtype, rows, by_user=True)
        if reason:
            raise ValueError(f"{name!r} does not support this {kind}, because {reason}; use 'auto'.")
        return name
    for name in ON_GPU[kind]:
        if name == "scan" or (name == "cudnn" and single_pass) or why_unsupported(name, kind, units, dtype, rows):
            continue
        if is_verified(name, implementations, units, dtype):
            return name
    return "scan"


def why_unsupported(
    name: Name, kind: Kind, units: int, dtype: DTypeLike, rows: int = 1, by_user: bool = False
) -> str | None:
    """Returns why an implementation does not support a recurrence, as the end of a sentence, or None if it does.

    Args:
        name: "fused" or "cudnn".
        kind: The recurrence.
        units: The size of the recurrence's state.
        dtype: The dtype of the recurrent kernel.
        rows: Steps times examples.
        by_user: Whether the user chose the implementation; its speed does not matter then.

    Example:
        >>> why_unsupported("cudnn", "GRU", 8, "float32")
        'it supports only LSTM'
    """
    dtype = jnp.dtype(dtype).name
    if kind not in KINDS[name]:
        return f"it supports only {' and '.join(KINDS[name])}"
    if name == "fused" and (count := tiling.largest_array(rows, units, dtype)) > MAX_ELEMENTS:
        return f"it counts elements in 32 bits, and an array of {count} elements is too large"
    # Pallas' interpreter supports float64, too.
    if dtype not in DTYPES[name] and not tiling.interpreted:
        return f"it supports only {', '.join(DTYPES[name])}, got {dtype}"
    if (name == "cudnn" or not by_user) and compute_capability() < MIN_CAPABILITY:
        return f"it needs an NVIDIA GPU of compute capability {MIN_CAPABILITY} or higher, got {jax.default_backend()!r}"
    return _why_slow(kind, units, dtype) if name == "fused" and not by_user else None


def _why_slow(kind: Kind, units: int, dtype: str) -> str | None:
    size = units * units * GATES[kind] * jnp.dtype(dtype).itemsize
    if size > MAX_KERNEL_BYTES:
        return f"it reads the whole kernel at each step, and {size} bytes is more than the limit of {MAX_KERNEL_BYTES}"
    if dtype == "float32" and has_exact_products() and units > MAX_UNITS_EXACT:
        return f"its exact float32 products are slow, and {units} units is more than the limit of {MAX_UNITS_EXACT}"
    return None


def compute_capability() -> float:
    """Returns the compute capability of JAX's default NVIDIA GPU, or 0 if there is none."""
    if jax.default_backend() != "gpu":
        return 0.0
    try:
        return float(getattr(jax.local_devices()[0], "compute_capability", 0))
    except ValueError:  # on an AMD GPU, it is a name
        return 0.0


def is_verified(name: Name, implementations: Implementations, units: int, dtype: DTypeLike) -> bool:
    """Returns whether an implementation passes the check against the scan on this device (`verify.py`).

    The check runs once per process for each name, kind, number of units, dtype and matmul precision. If it fails, a
    warning says so.
    """
    return _is_verified(name, implementations, units, jnp.dtype(dtype).name, has_exact_products())


@functools.cache
def _is_verified(name: Name, implementations: Implementations, units: int, dtype: str, exact: bool) -> bool:
    kind, scan, _, fused, cudnn = implementations
    on_cuda = {"cuda": cast(Passes, fused)}
    candidate: Any = cudnn if name == "cudnn" else _by_platform(implementations, lambda *_: on_cuda)
    reason = verify.why_wrong(candidate, differentiable(scan), kind, units, dtype)
    if reason is not None:
        warnings.warn(
            f"The {kind} of {units} units in {dtype} is not computed by {name!r} on this device, "
            f"because {reason}; the next implementation is used instead, and no action is needed.",
            stacklevel=2,
        )
    return reason is None
