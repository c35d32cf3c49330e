"""Compiled programs that outlive their process: the second run of a program starts without compiling it."""

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
