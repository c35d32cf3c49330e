"""Kernels in C for a CPU: built when they are first needed, kept among the user's caches, called by XLA.

XLA's own code for a convolution or a recurrence on a CPU goes through memory where a kernel of our own keeps to
registers and caches (`benchmarks/README.md` says by how much). Nothing depends on the kernels: without a C compiler,
or with FLAXMODELS_NATIVE=0, the same functions are computed by XLA alone, to rounding.

What is built is named by the hash of all that decides it: sources, compiler, processor and the version of jaxlib.
"""

import concurrent.futures
import contextlib
import ctypes
import functools
import hashlib
import os
import pathlib
import platform
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

from flaxmodels.ops import dispatch

SWITCH = "FLAXMODELS_NATIVE"
SOURCES = ("convolution.c", "convolution.h", "depthwise.c", "native.h", "pooling.c", "recurrence.c", "winograd.c")
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
# Whatever this processor can do; the first that the compiler takes.
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


def available() -> bool:
    """Whether the kernels can be called; builds and loads them at the first call.

    Example:
        >>> available() in (True, False)
        True
    """
    return prefix() is not None


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
def prefix() -> str | None:
    """How the names begin by which XLA knows the kernels, or None where there are none."""
    if os.environ.get(SWITCH, "1") == "0":
        return None
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or platform.system() not in ("Linux", "Darwin"):
        return None
    try:
        name, kept = _name(compiler), _caches()
        with contextlib.nullcontext(kept) if kept else tempfile.TemporaryDirectory() as folder:
            library = ctypes.CDLL(str(_built(compiler, pathlib.Path(folder) / f"{name}.so")))
        handlers = [getattr(library, f"flaxmodels_{function}") for function in FUNCTIONS]
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        told = (getattr(error, "stderr", None) or str(error)).strip()[-300:]
        warnings.warn(
            f"The kernels for this processor can't be built or loaded, so XLA computes all, slower ({told}); "
            f"mend the C compiler {compiler!r}, or set {SWITCH}=0 to do without.",
            stacklevel=2,
        )
        return None
    for function, handler in zip(FUNCTIONS, handlers, strict=True):
        jax.ffi.register_ffi_target(f"{name}_{function}", jax.ffi.pycapsule(handler), platform="cpu")
    return name


def _name(compiler: str) -> str:
    """A name for what these sources, this compiler and this processor give."""
    import jaxlib

    parts = [(_here() / source).read_bytes() for source in SOURCES]
    parts += [part.encode() for part in (*FLAGS, compiler, _processor(), jaxlib.__version__)]
    return f"flaxmodels_{hashlib.sha256(bytes(1).join(parts)).hexdigest()[:16]}"


def _processor() -> str:
    """What decides which instructions there are."""
    info = pathlib.Path("/proc/cpuinfo")
    if not info.exists():
        return f"{platform.machine()} {platform.processor()}"
    told = [line for line in info.read_text().splitlines() if line.startswith(("model name", "flags", "Features"))]
    return "\n".join(sorted(set(told)))


def _caches() -> pathlib.Path | None:
    """The folder for libraries among the user's caches, if there is one that only the user can write to."""
    try:
        caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        folder = caches / "flaxmodels" / "native"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):  # no home, or none to write to
        return None
    return folder if _ours(folder) else None


def _built(compiler: str, path: pathlib.Path) -> pathlib.Path:
    """The library at a path, built anew unless it is there."""
    if path.exists() and _ours(path):
        return path
    # Built aside and renamed, so that no process loads a part of it.
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        made = pathlib.Path(aside) / path.name
        _compile(compiler, made)
        os.replace(made, path)
    return path


def _ours(path: pathlib.Path) -> bool:
    """Whether nobody else can have written there: code is loaded from it."""
    found = path.stat()
    return (
        found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and os.access(path, os.W_OK)
    )


def _compile(compiler: str, to: pathlib.Path) -> None:
    """Makes the library: all sources at once, each by a process of its own, because a user waits for it."""
    sources = [_here() / source for source in SOURCES if source.endswith(".c")]
    objects = [str(to.with_name(f"{source.stem}.o")) for source in sources]
    for tuning in TUNINGS:
        flags = [*FLAGS, *tuning, f"-I{jax.ffi.include_dir()}"]
        commands = [[*flags, "-c", str(source), "-o", made] for source, made in zip(sources, objects, strict=True)]
        try:
            with concurrent.futures.ThreadPoolExecutor() as pool:
                list(pool.map(functools.partial(_run, compiler), commands))
            _run(compiler, [*FLAGS, *tuning, "-shared", *objects, "-o", str(to)])
            return
        except subprocess.CalledProcessError:
            if tuning == TUNINGS[-1]:
                raise


def _run(compiler: str, arguments: Sequence[str]) -> None:
    subprocess.run([compiler, *arguments], check=True, capture_output=True, text=True, timeout=BUILD_SECONDS)


def _here() -> pathlib.Path:
    return pathlib.Path(__file__).parent
