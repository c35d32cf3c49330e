"""Compiled programs: compiled ahead of the first call, so that compile time and run time are measured separately."""

import time
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.kernels.dispatch import kernels_allowed
from flaxmodels.kernels.recurrence import requested


class Program:
    """A jitted function that separates compile time from run time.

    Args:
        function: A pure function of arrays.
        donate: Positions of the arguments whose buffers may be overwritten.
        deterministic: Whether to compile without operations whose rounding depends on the order of threads.
    """

    def __init__(self, function: Callable[..., object], donate: tuple[int, ...] = (), deterministic: bool = False):
        self._jitted = jax.jit(function, donate_argnums=donate, compiler_options=compiler_options(deterministic))
        self._compiled: dict[Hashable, jax.stages.Compiled] = {}

    def compile(self, *args: object) -> float:
        """Compiles for arguments like these unless this was done before; returns the seconds it took."""
        key = signature(args)
        if key in self._compiled:
            return 0.0
        start = time.perf_counter()
        self._compiled[key] = self._jitted.lower(*args).compile()
        return time.perf_counter() - start

    def is_compiled(self, *args: object) -> bool:
        """Returns whether a call with arguments like these runs without compiling."""
        return signature(args) in self._compiled

    def __call__(self, *args: object) -> Any:
        compiled = self._compiled.get(signature(args))
        if compiled is None:
            self.compile(*args)
            compiled = self._compiled[signature(args)]
        return compiled(*args)


def compiler_options(deterministic: bool) -> dict[str, bool] | None:
    """Returns the options of XLA for bit-identical runs. A CPU needs none."""
    # This option implies deterministic scatters, sorts and convolutions, and no choice of algorithms by measured time.
    return {"xla_gpu_deterministic_ops": True} if deterministic and jax.default_backend() == "gpu" else None


def signature(args: object) -> Hashable:
    """Returns the key of a compiled program: structure, shapes and dtypes of the arguments, and the kernels in use."""
    leaves, structure = jax.tree.flatten(args)
    return structure, tuple(_kind(leaf) for leaf in leaves), kernels_allowed(), requested()


def _kind(leaf: Any) -> tuple[tuple[int, ...], np.dtype, bool]:
    # This runs for every array before every chunk. Attributes of the array take a tenth of the time of `result_type`.
    if not hasattr(leaf, "dtype"):
        return np.shape(leaf), jnp.result_type(leaf), True
    return leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)
