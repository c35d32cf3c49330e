"""Builds the C kernels when they are first needed, caches the library, loads it and registers it with XLA.

The library's file name is a hash of the sources, the generated header, the compiler's version and options, the
processor and jaxlib's version, so a stale library is never loaded. The digest of the library is in a file next to it,
so a truncated library is rebuilt instead of loaded.
"""

import concurrent.futures
import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import logging
import os
import pathlib
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax

from flaxmodels.kernels.native import registry

T = TypeVar("T")

SWITCH = "FLAXMODELS_NATIVE"
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
# Options that allow all instructions of this processor. The build uses the first one that the compiler accepts.
TUNINGS = (("-march=native",), ("-mcpu=native",), ())
BUILD_TIMEOUT_SECONDS = 120
FOLDER = pathlib.Path(__file__).parent
GENERATED_HEADER = "registry.h"


@dataclasses.dataclass(frozen=True)
class KernelsInfo:
    """The state of the C kernels in this process; see `kernels_info`.

    Attributes:
        enabled: Whether programs use the kernels.
        reason: Why programs do not use them, as a sentence; empty if they do.
        library: The path of the library; None if there is none or it is not cached.
        compiler: The command of the C compiler; None without one.
        compiler_version: The first line of the compiler's version message.
        vector_width: Number of float32 values in a vector of the kernels; 0 without kernels.
        threads: Number of threads that XLA and the kernels use.
    """

    enabled: bool
    reason: str
    library: pathlib.Path | None
    compiler: str | None
    compiler_version: str | None
    vector_width: int
    threads: int

    def __str__(self) -> str:
        if not self.enabled:
            return f"The C kernels are off: {self.reason}"
        return (
            f"The C kernels are on: vectors of {self.vector_width} numbers, {self.threads} threads, "
            f"built by {self.compiler_version}"
        )


def kernels_info() -> KernelsInfo:
    """Returns whether programs on a CPU use the C kernels and, if not, why.

    The first call in a process loads the library and builds it if it is not cached, which takes a few seconds.

    Example:
        >>> info = kernels_info()
        >>> info.enabled == (info.reason == "")
        True
    """
    return _load()[1]


def available() -> bool:
    """Returns whether the kernels can be called; the first call builds and loads them.

    Example:
        >>> available() in (True, False)
        True
    """
    return prefix() is not None


def prefix() -> str | None:
    """Returns the prefix of the kernels' names in XLA; None without kernels."""
    return _load()[0]


def threads() -> int:
    """Returns the number of threads that XLA uses on a CPU: the cores available to this process.

    Example:
        >>> threads() > 0
        True
    """
    for name in ("PJRT_NPROC", "NPROC"):  # XLA reads them in this order
        if os.environ.get(name, "").isdecimal():
            return max(1, int(os.environ[name]))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _load() -> tuple[str | None, KernelsInfo]:
    """Returns the prefix of the kernels' names and the state of the library, which is logged once."""
    name, info = _build_and_register()
    # A failed build has already raised a warning.
    logging.getLogger("flaxmodels").info("%s", info)
    return name, info


def _build_and_register() -> tuple[str | None, KernelsInfo]:
    def without(reason: str, compiler: str | None = None) -> tuple[None, KernelsInfo]:
        return None, KernelsInfo(False, reason, None, compiler, None, 0, threads())

    if os.environ.get(SWITCH, "1") == "0":
        return without(f"{SWITCH}=0 disables them, so XLA computes everything, more slowly.")
    compiler = _find_compiler()
    if not compiler or platform.system() not in ("Linux", "Darwin"):
        return without("no C compiler was found, so XLA computes everything, more slowly; install one such as gcc.")
    try:
        command = shlex.split(compiler)
        name, cache = _library_name(command), _cache_folder()
        with contextlib.nullcontext(cache) if cache else tempfile.TemporaryDirectory() as folder:
            path = _build_if_needed(command, pathlib.Path(folder) / f"{name}.so")
            library = ctypes.CDLL(str(path))
        handlers = {kernel: getattr(library, f"flaxmodels_{kernel}") for kernel in registry.KERNELS}
        lanes = ctypes.c_int.in_dll(library, "flaxmodels_lanes").value
    except (OSError, AttributeError, ValueError, subprocess.SubprocessError) as error:
        details = (getattr(error, "stderr", None) or str(error)).strip()[-300:]
        warnings.warn(
            f"The C kernels can't be built or loaded, so XLA computes everything, more slowly ({details}); "
            f"fix the C compiler {compiler!r}, or set {SWITCH}=0 to run without them.",
            stacklevel=2,
        )
        reason = f"they can't be built or loaded ({details}), so XLA computes everything, more slowly."
        return without(reason, compiler)
    for kernel, handler in handlers.items():
        jax.ffi.register_ffi_target(f"{name}_{kernel}", jax.ffi.pycapsule(handler), platform="cpu")
    cached_path = path if cache else None
    return name, KernelsInfo(True, "", cached_path, compiler, _compiler_version(command), lanes, threads())


def _find_compiler() -> str | None:
    """Returns the shell command of the C compiler; the variable CC may contain arguments, as in "ccache cc"."""
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    return os.environ.get("CC", "").strip() or (found and shlex.quote(found))


def _compiler_version(command: Sequence[str]) -> str:
    """Returns the first line of the compiler's version message."""
    try:
        return (_run([*command, "--version"]).strip().splitlines() or [""])[0]
    except (OSError, subprocess.SubprocessError):
        return "a compiler that does not print its version"


def _with_tuning(command: Sequence[str], action: Callable[[list[str]], T]) -> T:
    """Runs an action with the first of `TUNINGS` that the compiler accepts."""
    for tuning in TUNINGS[:-1]:
        with contextlib.suppress(subprocess.CalledProcessError):
            return action([*command, *FLAGS, *tuning])
    return action([*command, *FLAGS, *TUNINGS[-1]])


def _library_name(command: Sequence[str]) -> str:
    """Returns the library's name: a hash of everything that determines its content, but not the compiler's path."""
    import jaxlib

    # The compiler's predefined macros contain its version and the instructions that it may use.
    macros = _with_tuning(command, lambda tuned: _run([*tuned, "-dM", "-E", "-x", "c", "-"]))
    files = [*registry.sources(), *sorted(path.name for path in FOLDER.glob("*.h"))]
    parts = [(FOLDER / file).read_bytes() for file in files]
    texts = (registry.header(), *FLAGS, *command[1:], macros, _processor(), jaxlib.__version__)
    parts += [text.encode() for text in texts]
    return f"flaxmodels_{hashlib.sha256(bytes(1).join(parts)).hexdigest()[:16]}"


def _processor() -> str:
    """Returns a description of the processor, which differs between processors with different instructions."""
    info = pathlib.Path("/proc/cpuinfo")
    if not info.exists():
        return f"{platform.machine()} {platform.processor()}"
    lines = [line for line in info.read_text().splitlines() if line.startswith(("model name", "flags", "Features"))]
    return "\n".join(sorted(set(lines)))


def _cache_folder() -> pathlib.Path | None:
    """Returns the folder for libraries in the user's cache; None unless only the user can write to it."""
    try:
        caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        folder = caches / "flaxmodels" / "native"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):  # no home folder, or it is read-only
        return None
    return folder if _is_private(folder) else None


def _build_if_needed(command: Sequence[str], path: pathlib.Path) -> pathlib.Path:
    """Returns the path of the library, after building it unless it exists and is intact."""
    if _is_intact(path):
        return path
    # Files are built in a temporary folder and renamed, so that no process loads a partial library. A library without
    # its digest counts as damaged.
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        built = pathlib.Path(temporary) / path.name
        _with_tuning(command, functools.partial(_compile, built))
        digest = built.with_name(_digest_path(path).name)
        digest.write_text(hashlib.sha256(built.read_bytes()).hexdigest())
        for source, target in ((built, path), (digest, _digest_path(path))):
            _sync(source)
            os.replace(source, target)
        _sync(path.parent)
    return path


def _is_intact(path: pathlib.Path) -> bool:
    """Returns whether the library exists, matches its digest, and only this user can have written it.

    Mapping a file that a full disk or a power loss has truncated would kill the process with SIGBUS.
    """
    digest = _digest_path(path)
    if not (path.exists() and digest.exists() and _is_private(path) and _is_private(digest)):
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == digest.read_text(errors="replace")


def _digest_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_suffix(".sha256")


def _sync(path: pathlib.Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_private(path: pathlib.Path) -> bool:
    """Returns whether only this user can write to a path, so that code may be loaded from it."""
    status = path.stat()
    others_can_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return status.st_uid == os.getuid() and not others_can_write and os.access(path, os.W_OK)


def _compile(library: pathlib.Path, command: Sequence[str]) -> None:
    """Builds the library with one compiler process per source file, because a user is waiting."""
    library.with_name(GENERATED_HEADER).write_text(registry.header())
    includes = [f"-I{jax.ffi.include_dir()}", f"-I{library.parent}"]
    sources = [FOLDER / source for source in registry.sources()]
    objects = [str(library.with_name(f"{source.stem}.o")) for source in sources]
    commands = [
        [*command, *includes, "-c", str(source), "-o", output] for source, output in zip(sources, objects, strict=True)
    ]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(_run, commands))
    _run([*command, "-shared", *objects, "-o", str(library)])


def _run(command: Sequence[str]) -> str:
    """Runs a command with empty input and returns what it prints."""
    return subprocess.run(
        command, check=True, input="", capture_output=True, text=True, timeout=BUILD_TIMEOUT_SECONDS
    ).stdout
