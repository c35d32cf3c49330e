"""Checks of the process that trains: forks, which break JAX, and the number of threads, which affects rounding.

This module imports nothing heavy, because its hooks must be in place before the process forks.
"""

import os
import sys
import warnings

from training.caller import caller_stacklevel

_parent_used_jax = False
_in_use_at_fork = False


def _before_fork() -> None:
    global _in_use_at_fork
    bridge = sys.modules.get("jax._src.xla_bridge")
    _in_use_at_fork = bridge is not None and bridge.backends_are_initialized()


def _after_fork_in_child() -> None:
    global _parent_used_jax
    _parent_used_jax = _parent_used_jax or _in_use_at_fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)


def check_not_forked() -> None:
    """Raises in a process that was forked from one that used JAX, because a fork does not copy JAX's threads.

    Raises:
        RuntimeError: If this is such a process. Computing in it would wait forever.

    Example:
        >>> check_not_forked()
    """
    if _parent_used_jax:
        raise RuntimeError(
            "This process was forked from one that used JAX, whose threads a fork does not copy, so it would wait "
            "forever; start it with multiprocessing.get_context('spawn'), or fork before the first use of JAX."
        )


def threads() -> int | None:
    """Returns the number of threads, which affects the order of XLA's sums on a CPU, or None on other devices.

    Example:
        >>> threads() is None or threads() > 0
        True
    """
    import jax

    from flaxmodels.kernels import native

    return native.threads() if jax.default_backend() == "cpu" else None


def warn_of_other_threads(before: int | None, folder: str | os.PathLike[str]) -> None:
    """Warns if a run was saved by a process with another number of threads, because it cannot resume bit-identically.

    Args:
        before: The result of `threads` in that process, or None if it is unknown.
        folder: Folder of the checkpoints.
    """
    now = threads()
    if before is not None and now is not None and before != now:
        warnings.warn(
            f"The checkpoints in {folder} were written with {before} threads, and this process has {now}, so XLA sums "
            "in a different order; the run continues, and its results equal those of an uninterrupted run up to "
            "rounding.",
            stacklevel=caller_stacklevel(),
        )
