"""The persistent cache of compiled programs."""

import os
import pathlib


def compilation_cache(folder: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Stores compiled programs in a folder, for this process and later ones.

    The command line calls this function. A process reuses a program if the versions of jax and of this library and the
    kind of device are the same.

    Args:
        folder: The folder; by default JAX_COMPILATION_CACHE_DIR, or `flaxmodels` in the user's cache folder.

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
