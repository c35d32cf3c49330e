"""The process that trains: forks that JAX does not survive, and the threads on which the bits of a run depend.

Nothing heavy is imported here, because the hooks have to be in place before a process forks.
"""

import os
import sys
import warnings
from typing import Any

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
    """Raises in a process that was forked from one in which JAX was in use: there, JAX's threads are missing.

    Raises:
        RuntimeError: If this is such a process; it would wait forever.

    Example:
        >>> check_not_forked()
    """
    if _parent_used_jax:
        raise RuntimeError(
            "JAX computes in threads that a fork does not copy, so this process, forked from one in which JAX was in "
            "use, would wait forever; start it by multiprocessing.get_context('spawn'), or fork before the first use "
            "of JAX."
        )


def threads() -> int | None:
    """The number of threads that decides the order of XLA's sums, None where there is none, as on a GPU.

    Example:
        >>> threads() is None or threads() > 0
        True
    """
    import jax

    from flaxmodels.kernels import native

    return native.threads() if jax.default_backend() == "cpu" else None


def warn_of_other_threads(before: Any, folder: Any) -> None:
    """Warns if a run was saved by a process with another number of threads: it resumes, but not in the same bits.

    Args:
        before: What `threads` returned there, None if that is not known.
        folder: Where the run is saved.
    """
    now = threads()
    if before is not None and now is not None and before != now:
        warnings.warn(
            f"The checkpoints in {folder} were written with {before} threads, and this process has {now}, so XLA adds "
            "in another order: the run continues, equal to an uninterrupted one up to rounding, not in every bit.",
            stacklevel=2,
        )
