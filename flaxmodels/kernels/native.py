"""Kernels in C for a CPU: built when they are first needed, kept among the user's caches, called by XLA.

XLA's own code for a convolution or a recurrence on a CPU goes through memory where a kernel of our own keeps to
registers and caches (`benchmarks/README.md` says by how much). Nothing depends on the kernels: without a C compiler,
or with FLAXMODELS_NATIVE=0, the same functions are computed by XLA alone, to rounding. `kernels_info` reports which.

The library's file name is a hash of the sources, the compiler's version and options, the processor and jaxlib's
version. A file beside it holds its digest, so that a library that was cut short is not loaded but built again.
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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive

from flaxmodels.kernels import dispatch

SWITCH = "FLAXMODELS_NATIVE"
SOURCES = ("convolution.c", "convolution.h", "depthwise.c", "native.h", "pooling.c", "recurrence.c", "winograd.c")
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
# Options for all instructions of this processor; the first that the compiler takes.
TUNINGS = (("-march=native",), ("-mcpu=native",), ())
FUNCTIONS = (
    *("conv", "conv_data", "conv_kernel"),
    *("depthwise", "depthwise_data", "depthwise_kernel"),
    *("pool_select", "pool_scatter"),
    *("recurrence", "recurrence_back"),
)
BUILD_SECONDS = 120
# Of a window that reaches over the edge of an image: a list of its taps is on the stack of a thread.
MOST_TAPS = 4096


@dataclasses.dataclass(frozen=True)
class KernelsInfo:
    """What is known of the kernels for a CPU; see `kernels_info`.

    Attributes:
        enabled: Whether programs use the kernels.
        reason: Why they do not, as a sentence; empty if they do.
        library: The path of the library, None if there is none or it was not kept.
        compiler: The command of the C compiler, None without one.
        compiler_version: The first line that it prints of its version.
        vector_width: Numbers of float32 in a vector of the kernels; 0 without them.
        threads: Threads that XLA computes with, and the kernels too.
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
            return f"No kernels for this CPU: {self.reason}"
        return (
            f"Kernels for this CPU: vectors of {self.vector_width} numbers, {self.threads} threads, "
            f"built by {self.compiler_version}"
        )


def kernels_info() -> KernelsInfo:
    """Returns whether programs on a CPU use the kernels of this library and, if not, why.

    The first call in a process builds and loads the library, which takes a few seconds unless it was built before.

    Example:
        >>> info = kernels_info()
        >>> info.enabled == (info.reason == "")
        True
    """
    return _load()[1]


def available() -> bool:
    """Whether the kernels can be called; builds and loads them at the first call.

    Example:
        >>> available() in (True, False)
        True
    """
    return prefix() is not None


def prefix() -> str | None:
    """The start of the names by which XLA knows the kernels; None without kernels."""
    return _load()[0]


def threads() -> int:
    """The number of threads that XLA computes with on a CPU: the cores that this process may use.

    Example:
        >>> threads() > 0
        True
    """
    for name in ("PJRT_NPROC", "NPROC"):  # XLA reads them in this order
        if os.environ.get(name, "").isdecimal():
            return max(1, int(os.environ[name]))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def call(function: str, out: Any, *operands: jax.Array, numbers: Sequence[int]) -> Any:
    """Calls a kernel on a CPU.

    Args:
        function: Its name, one of `FUNCTIONS`.
        out: Shape and dtype of what it returns, or several of them.
        operands: Arrays of float32.
        numbers: What else it is told.
    """
    kernel = jax.ffi.ffi_call(f"{prefix()}_{function}", out, vmap_method="sequential")
    return kernel(*operands, numbers=np.asarray(numbers, np.int64))


class Geometry(NamedTuple):
    """What a window does on an image; of a pooling it may begin before the image and end behind it."""

    sizes: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    pads: tuple[tuple[int, int], ...] = ()

    def numbers(self, channels: int, features: int, relu: bool = False, pooled: bool = False) -> list[int]:
        """What the kernels are told: three axes, the first of size 1 where there are fewer."""
        axes = [n for each in (*self[:4], self.places()) for n in (1,) * (3 - len(each)) + each]
        before = [low for low, _ in self.pads]
        return [*axes, *[0] * (3 - len(before)), *before, channels, features, self.groups, relu, pooled]

    def places(self) -> tuple[int, ...]:
        """How many places the window has along each axis."""
        whole = [n + sum(pad) for n, pad in zip(self.sizes, self.pads or [()] * len(self.sizes), strict=True)]
        each = zip(whole, *self[1:4], strict=True)
        return tuple((n - (taps - 1) * apart - 1) // step + 1 for n, taps, step, apart in each)


def operation(
    function: str,
    shape: Callable[..., tuple[int, ...]],
    ends: Callable[..., list[int]],
    mapped: Callable[..., tuple[jax.Array, int]],
    default: Callable[..., jax.Array],
) -> Primitive:
    """Makes an operation on arrays, over windows of a `geometry`, that one kernel computes; derivatives follow.

    Args:
        function: The kernel's name.
        shape: The shape of the result, from the operands and the geometry.
        ends: The numbers of channels and of features, from the operands and the geometry.
        mapped: The batching rule: (operation, operands, axes, geometry=...) -> outputs, axis.
        default: Computes it by operations of XLA alone.
    """

    def out(*operands: Any, geometry: Geometry) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape(*operands, geometry), np.float32)

    def called(*operands: jax.Array, geometry: Geometry) -> jax.Array:
        channels, features = ends(*operands, geometry)
        numbers = geometry.numbers(channels, features)
        return call(function, out(*operands, geometry=geometry), *operands, numbers=numbers)

    return dispatch.primitive(function, out, mapped, default, cpu=called)


def as_one_batch(
    made: Primitive, operands: Sequence[jax.Array], axes: Sequence[int | None], *, geometry: Geometry
) -> tuple[jax.Array, int]:
    """Under `vmap`, for operands that all have a batch: a larger one."""
    size = next(a.shape[axis] for a, axis in zip(operands, axes, strict=True) if axis is not None)
    fronts = [
        jnp.broadcast_to(a[None], (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(operands, axes, strict=True)
    ]
    out = made.bind(*(a.reshape(-1, *a.shape[2:]) for a in fronts), geometry=geometry)
    return out.reshape(size, -1, *out.shape[1:]), 0


@functools.cache
def _load() -> tuple[str | None, KernelsInfo]:
    """The names' start, and what is known of the library; reports it once."""
    name, info = _built_and_registered()
    # A build that failed has given a warning.
    logging.getLogger("flaxmodels").info("%s", info)
    return name, info


def _built_and_registered() -> tuple[str | None, KernelsInfo]:
    def without(reason: str, compiler: str | None = None) -> tuple[None, KernelsInfo]:
        return None, KernelsInfo(False, reason, None, compiler, None, 0, threads())

    if os.environ.get(SWITCH, "1") == "0":
        return without(f"{SWITCH}=0 switches them off, so XLA computes everything, slower.")
    compiler = _compiler()
    if not compiler or platform.system() not in ("Linux", "Darwin"):
        return without("there is no C compiler, so XLA computes everything, slower; install one such as gcc.")
    try:
        command = shlex.split(compiler)
        name, caches = _name(command), _caches()
        with contextlib.nullcontext(caches) if caches else tempfile.TemporaryDirectory() as folder:
            path = _built(command, pathlib.Path(folder) / f"{name}.so")
            library = ctypes.CDLL(str(path))
        handlers = [getattr(library, f"flaxmodels_{function}") for function in FUNCTIONS]
        lanes = ctypes.c_int.in_dll(library, "flaxmodels_lanes").value
    except (OSError, AttributeError, ValueError, subprocess.SubprocessError) as error:
        found = (getattr(error, "stderr", None) or str(error)).strip()[-300:]
        warnings.warn(
            f"The kernels for this CPU can't be built or loaded, so XLA computes everything, slower ({found}); "
            f"repair the C compiler {compiler!r}, or set {SWITCH}=0 to do without.",
            stacklevel=2,
        )
        return without(f"they can't be built or loaded ({found}), so XLA computes everything, slower.", compiler)
    for function, handler in zip(FUNCTIONS, handlers, strict=True):
        jax.ffi.register_ffi_target(f"{name}_{function}", jax.ffi.pycapsule(handler), platform="cpu")
    kept = path if caches else None
    return name, KernelsInfo(True, "", kept, compiler, _version(command), lanes, threads())


def _compiler() -> str | None:
    """The command of the C compiler, as a shell reads it: the variable CC may hold arguments, as in "ccache cc"."""
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    return os.environ.get("CC", "").strip() or (found and shlex.quote(found))


def _version(command: Sequence[str]) -> str:
    """The first line of what the compiler prints of its version."""
    try:
        return (_run([*command, "--version"]).strip().splitlines() or [""])[0]
    except (OSError, subprocess.SubprocessError):
        return "a compiler that does not print its version"


def _tuned(command: Sequence[str], make: Callable[[list[str]], Any]) -> Any:
    """What is made by the compiler with the first of `TUNINGS` that it takes."""
    for tuning in TUNINGS[:-1]:
        with contextlib.suppress(subprocess.CalledProcessError):
            return make([*command, *FLAGS, *tuning])
    return make([*command, *FLAGS, *TUNINGS[-1]])


def _name(command: Sequence[str]) -> str:
    """The library's name, a hash of everything that decides its content; where the compiler lies does not."""
    import jaxlib

    # All that the compiler defines: its version, and the instructions that it may use.
    macros = _tuned(command, lambda tuned: _run([*tuned, "-dM", "-E", "-x", "c", os.devnull]))
    parts = [(_here() / source).read_bytes() for source in SOURCES]
    parts += [part.encode() for part in (*FLAGS, *command[1:], macros, _processor(), jaxlib.__version__)]
    return f"flaxmodels_{hashlib.sha256(bytes(1).join(parts)).hexdigest()[:16]}"


def _processor() -> str:
    """What decides which instructions there are."""
    info = pathlib.Path("/proc/cpuinfo")
    if not info.exists():
        return f"{platform.machine()} {platform.processor()}"
    lines = [line for line in info.read_text().splitlines() if line.startswith(("model name", "flags", "Features"))]
    return "\n".join(sorted(set(lines)))


def _caches() -> pathlib.Path | None:
    """The folder for libraries among the user's caches, if there is one that only the user can write to."""
    try:
        caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        folder = caches / "flaxmodels" / "native"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):  # no home, or none to write to
        return None
    return folder if _ours(folder) else None


def _built(command: Sequence[str], path: pathlib.Path) -> pathlib.Path:
    """The library at a path, built again unless it is there and whole."""
    if _is_whole(path):
        return path
    # Built aside and renamed, so that no process loads a part of it. Until the digest follows, it counts as damaged.
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        made = pathlib.Path(aside) / path.name
        _tuned(command, functools.partial(_compile, made))
        digest = made.with_name(_digest_of(path).name)
        digest.write_text(hashlib.sha256(made.read_bytes()).hexdigest())
        for file, to in ((made, path), (digest, _digest_of(path))):
            _sync(file)
            os.replace(file, to)
        _sync(path.parent)
    return path


def _is_whole(path: pathlib.Path) -> bool:
    """Whether the library is there, has its digest, and nobody else can have written it.

    Mapping a file that was cut short, by a full disk or a loss of power, would end the process with SIGBUS.
    """
    digest = _digest_of(path)
    if not (path.exists() and digest.exists() and _ours(path) and _ours(digest)):
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == digest.read_text(errors="replace")


def _digest_of(path: pathlib.Path) -> pathlib.Path:
    return path.with_suffix(".sha256")


def _sync(path: pathlib.Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _ours(path: pathlib.Path) -> bool:
    """Whether nobody else can have written there: code is loaded from it."""
    found = path.stat()
    return (
        found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and os.access(path, os.W_OK)
    )


def _compile(to: pathlib.Path, command: Sequence[str]) -> None:
    """Makes the library: all sources at once, each by a process of its own, because a user waits for it."""
    sources = [_here() / source for source in SOURCES if source.endswith(".c")]
    objects = [str(to.with_name(f"{source.stem}.o")) for source in sources]
    each = [
        [*command, f"-I{jax.ffi.include_dir()}", "-c", str(source), "-o", made]
        for source, made in zip(sources, objects, strict=True)
    ]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(_run, each))
    _run([*command, "-shared", *objects, "-o", str(to)])


def _run(command: Sequence[str]) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=BUILD_SECONDS).stdout


def _here() -> pathlib.Path:
    return pathlib.Path(__file__).parent
