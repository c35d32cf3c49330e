"""What is kept between two runs of a program: its compiled form, for the next process, and the memory it worked in."""

import ctypes
import os
import pathlib


def compilation_cache(folder: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Keeps what is compiled from now on in a folder, for this and later processes.

    The command line does this by itself. A program is used again by the same versions of jax and this library on the
    same kind of device, and compiled anew by others.

    Args:
        folder: Where; by default what JAX_COMPILATION_CACHE_DIR says, else `flaxmodels` among the user's caches.

    Returns:
        The folder.

    References:
        JAX, persistent compilation cache.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, jax.enable_x64(False):
        ...     before = jax.config.jax_compilation_cache_dir
        ...     compilation_cache(folder) == pathlib.Path(folder)
        ...     jax.config.update("jax_compilation_cache_dir", before)
        True
    """
    import jax

    caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    chosen = pathlib.Path(folder or os.environ.get("JAX_COMPILATION_CACHE_DIR") or pathlib.Path(caches) / "flaxmodels")
    jax.config.update("jax_compilation_cache_dir", str(chosen))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return chosen


def keep_memory() -> bool:
    """Keeps the memory that compiled programs worked in, instead of giving it back to the system after each run.

    A program on a CPU takes memory for its intermediate results each time it is called. The C library returns large
    pieces at once, and the system fills them with zeros, page by page, when they are taken again: measured, a third of
    a short step and a twentieth of a chunk of ten. The command line keeps it; a library leaves that to the process,
    because it holds for all of it: its threads share one pool, and what was needed once stays taken until the end.

    Returns:
        Whether this system's C library can be told so: glibc can.

    References:
        GNU C library, `mallopt`.

    Example:
        >>> keep_memory() in (True, False)
        True
    """
    try:
        tell = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    # A thread with a pool of its own would still map what is larger than 64 MiB: one pool for all.
    map_at_most, trim_above, pools_at_most = -4, -1, -8  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX
    return all([tell(map_at_most, 0), tell(trim_above, 2**31 - 1), tell(pools_at_most, 1)])
