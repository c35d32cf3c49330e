"""C kernels are built once, cached where only the user can write, checked before loading, and optional."""

import hashlib
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from flaxmodels.kernels import native
from flaxmodels.kernels.native import build
from tests.support import kernel_outputs

PROBE = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from flaxmodels.kernels import convolution, native
    import jax.numpy as jnp
    y = convolution.conv(jnp.ones((1, 3, 1)), jnp.ones((2, 1, 1)), strides=(1,), padding="valid", dilation=(1,))
    assert y.ravel().tolist() == [2, 2], y
    print(native.available(), *(warning.message for warning in caught))
"""
CC = os.environ.get("CC") or "cc"
needs_kernels = pytest.mark.skipif(not native.available(), reason="needs a C compiler for the kernels")


def probe(folder, **environment):
    """Returns what a new process with a separate cache prints about the kernels."""
    command = [sys.executable, "-c", PROBE]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder), "JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def library_folder(folder):
    return pathlib.Path(folder) / "flaxmodels" / "native"


def library(folder):
    (found,) = library_folder(folder).glob("*.so")
    return found


@needs_kernels
def test_library_is_built_once_and_reused(tmp_path):
    assert probe(tmp_path) == "True"
    path = library(tmp_path)
    before = path.stat().st_mtime_ns
    assert re.fullmatch(r"flaxmodels_[0-9a-f]{16}", path.stem) and path.stem == native.prefix()
    assert probe(tmp_path) == "True" and library(tmp_path).stat().st_mtime_ns == before
    # A library that others can write to is rebuilt instead of loaded.
    path.chmod(0o666)
    assert probe(tmp_path) == "True" and library(tmp_path).stat().st_mode & 0o22 == 0


@needs_kernels
def test_damaged_library_is_rebuilt(tmp_path):
    """Mapping a truncated file would kill the process with SIGBUS."""
    assert probe(tmp_path) == "True"
    path = library(tmp_path)
    whole, digest = path.read_bytes(), path.with_suffix(".sha256")
    text, changed = digest.read_text(), bytearray(whole)
    assert build._is_intact(path) and hashlib.sha256(whole).hexdigest() == text
    changed[len(whole) // 2] ^= 1
    for damaged in (whole[:2000], b"", bytes(changed), whole + b"0"):
        path.write_bytes(damaged)
        assert not build._is_intact(path)
    path.write_bytes(whole)
    for damaged in ("", text[:10]):
        digest.write_text(damaged)
        assert not build._is_intact(path)
    digest.unlink()
    assert not build._is_intact(path)
    # A compiler that fails leaves no library to load; a working one rebuilds it.
    path.write_bytes(whole[: len(whole) // 2])
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\nfor last; do :; done\n[ "$last" = - ] || exit 1\nexec {CC} "$@"\n')
    compiler.chmod(0o755)
    assert probe(tmp_path, CC=str(compiler)).startswith("False The C kernels can't be built or loaded, ")
    assert probe(tmp_path) == "True" and build._is_intact(path) and len(path.read_bytes()) == len(whole)
    assert {file.name for file in path.parent.iterdir()} == {path.name, digest.name}  # no temporary files remain


@needs_kernels
def test_library_name_depends_on_compiler_version_and_options_but_not_its_path(tmp_path):
    compiler = tmp_path / "my cc"
    compiler.write_text(f'#!/bin/sh\nexec {CC} "$@"\n')
    compiler.chmod(0o755)
    plain = shlex.split(CC)
    assert build._library_name([str(compiler), *plain[1:]]) == build._library_name(plain)
    assert build._library_name([*plain, "-DOTHER"]) != build._library_name(plain)
    compiler.write_text(f'#!/bin/sh\nexec {CC} "$@" -D__VERSION__=1\n')
    assert build._library_name([str(compiler), *plain[1:]]) != build._library_name(plain)
    # A command of several words, as in "ccache cc".
    assert probe(tmp_path, CC=f"env '{compiler}' -U__VERSION__") == "True"


def test_compiler_without_version_message():
    assert (
        build._compiler_version(["false"])
        == build._compiler_version(["/nowhere/cc"])
        == "a compiler that does not print its version"
    )


def test_malformed_compiler_command(tmp_path):
    assert probe(tmp_path, CC="'cc") == (
        "False The C kernels can't be built or loaded, so XLA computes everything, more slowly (No closing "
        'quotation); fix the C compiler "\'cc", or set FLAXMODELS_NATIVE=0 to run without them.'
    )


INFO = """
import logging
logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
import flaxmodels
assert flaxmodels.kernels_info() is flaxmodels.kernels_info()
print(flaxmodels.kernels_info())
print(flaxmodels.kernels_info().reason)
"""


def info(folder, **environment):
    """Returns what a new process logs, its state of the kernels, and the reason if they are off."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    environment |= {"XDG_CACHE_HOME": str(folder)} if folder else {}
    done = subprocess.run([sys.executable, "-c", INFO], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    logged = [line for line in done.stderr.splitlines() if line.startswith("flaxmodels: ")]
    return logged, *done.stdout.rstrip("\n").split("\n", 1)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        (
            {"CC": "", "PATH": "/nowhere"},
            "no C compiler was found, so XLA computes everything, more slowly; install one such as gcc.",
        ),
        ({native.SWITCH: "0"}, "FLAXMODELS_NATIVE=0 disables them, so XLA computes everything, more slowly."),
    ],
)
def test_reason_without_kernels_is_logged_once(tmp_path, environment, reason):
    sentence = f"The C kernels are off: {reason}"
    assert info(tmp_path, **environment) == ([f"flaxmodels: {sentence}"], sentence, reason)


@needs_kernels
def test_kernels_info_and_log_with_kernels():
    logged, shown, *_ = info(None)
    assert logged == [f"flaxmodels: {shown}"]
    found = native.kernels_info()
    assert found.enabled and found.reason == "" and found.library.stem == native.prefix()
    assert shown == (
        f"The C kernels are on: vectors of {found.vector_width} numbers, {found.threads} threads, "
        f"built by {found.compiler_version}"
    )
    assert found.vector_width in (8, 16) and re.search(r"\d+\.\d+", found.compiler_version)
    assert found.threads == len(os.sched_getaffinity(0))


def test_thread_count_follows_xla(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 4, 5}, raising=False)
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    assert native.threads() == 3
    monkeypatch.setenv("NPROC", "2")
    assert native.threads() == 2
    monkeypatch.setenv("PJRT_NPROC", "5")
    assert native.threads() == 5


def test_disabled_by_environment_variable():
    assert probe(".", FLAXMODELS_NATIVE="0") == "False"


def test_without_a_compiler(tmp_path):
    assert probe(tmp_path, PATH=str(tmp_path), CC="") == "False"


def test_failing_compiler_gives_one_warning(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'out of order' >&2\nexit 1\n")
    compiler.chmod(0o755)
    assert probe(tmp_path, CC=str(compiler)) == (
        "False The C kernels can't be built or loaded, so XLA computes everything, more slowly (out of order); "
        f"fix the C compiler '{compiler}', or set FLAXMODELS_NATIVE=0 to run without them."
    )


@needs_kernels
def test_without_cache_folder(tmp_path):
    (tmp_path / "file").write_text("")
    assert probe(tmp_path / "file", TMPDIR=str(tmp_path)) == "True"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # no temporary files remain


@needs_kernels
def test_cache_folder_that_others_can_write_to_is_not_used(tmp_path):
    folder = tmp_path / "flaxmodels" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert probe(tmp_path) == "True"
    assert not list(folder.iterdir())


@pytest.mark.rotate
@needs_kernels
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names instructions of x86 processors")
@pytest.mark.parametrize("without", ["-mno-avx512f", "-mno-avx512f -mno-avx2"])
def test_kernels_with_narrower_vectors(tmp_path, without):
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\nexec {CC} "$@" {without}\n')
    compiler.chmod(0o755)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "CC": str(compiler), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, kernel_outputs.__file__, str(tmp_path / "found.npz")]
    subprocess.run(command, check=True, env=environment, timeout=120)
    assert library(tmp_path).stem != native.prefix()
    with np.load(tmp_path / "found.npz") as narrow:
        for got, want in zip(narrow.values(), kernel_outputs.outputs(), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 * max(1, np.abs(want).max()))


BITS = """
import hashlib
import jax, jax.numpy as jnp, numpy as np
from flaxmodels.kernels import convolution, native, pooling
from flaxmodels.kernels.biased_convolution import conv_bias

rng, digest = np.random.default_rng(0), hashlib.sha256()
draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
spec = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
unit = {"strides": (1, 1), "padding": "valid", "dilation": (1, 1)}

def add_to_digest(function, *operands):
    y, vjp = jax.vjp(jax.jit(function), *operands)
    for array in (y, *vjp(y)):
        digest.update(np.asarray(array).tobytes())

for batch in (3, 37):
    add_to_digest(lambda x, k: convolution.conv(x, k, **unit), draw(batch, 9, 9, 5), draw(3, 3, 5, 21))
    add_to_digest(lambda x, k: convolution.conv(x, k, **unit), draw(batch, 14, 14, 48), draw(3, 3, 48, 48))
    add_to_digest(lambda x, k: convolution.conv(x, k, **unit), draw(batch, 5, 5, 128), draw(3, 3, 128, 64))
    add_to_digest(lambda *of: conv_bias(*of, **unit, relu=True), draw(batch, 9, 9, 5), draw(3, 3, 5, 21), draw(21))
    add_to_digest(lambda *of: conv_bias(*of, **unit, pooled=True), draw(batch, 9, 9, 5), draw(3, 3, 5, 21), draw(21))
    add_to_digest(lambda x, k: convolution.depthwise_conv(x, k, **unit), draw(batch, 9, 9, 19), draw(3, 3, 19, 1))
    add_to_digest(lambda x: pooling.max_pool(x, (3, 3), (2, 2), "same"), draw(batch, 9, 9, 19))
    for cell_type, gates in ((native.LSTM, 4), (native.GRU, 3), (native.SIMPLE, 1)):
        lstm, gru, units, none = cell_type == native.LSTM, cell_type == native.GRU, 13, jnp.zeros(0)
        x, kernel, recurrent, h = draw(6, batch, 5), draw(5, gates * units), draw(units, gates * units), draw(batch, units)
        c, recurrent_bias = h if lstm else none, draw(gates * units) if gru else none
        attributes = {"cell_type": cell_type, "units": units, "features": 5, "keep_residuals": 1}
        sequence, width, mask = spec(6, batch, units), spec(6, batch, gates * units), jnp.zeros((0, 0), jnp.uint8)
        out = [sequence, sequence if lstm else none, spec(6, batch, 4 * units) if lstm or gru else none]
        operands = x, kernel, jnp.zeros(gates * units), recurrent, recurrent_bias, h, c, mask
        hs, cs, kept = native.call("recurrence", out, *operands, attributes=attributes)
        out = [width, width if gru else none, h, c]
        operands = kept, hs, cs, h, c, hs, h, c, recurrent, mask
        gradients = native.call("recurrence_backward", out, *operands, attributes=attributes | {"features": 0})
        for array in (hs, cs, kept, *gradients):
            digest.update(np.asarray(array).tobytes())
print(digest.hexdigest())
"""


@needs_kernels
def test_results_are_bit_identical_with_any_number_of_threads():
    found = set()
    for threads in (1, 2, 7):
        environment = os.environ | {"NPROC": str(threads), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", BITS], capture_output=True, text=True, env=environment, timeout=300
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1
