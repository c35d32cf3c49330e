"""Kernels in C: built once, kept, trusted only where nobody else can write, and never needed."""

import os
import pathlib
import platform
import re
import subprocess
import sys

import kernel_outputs
import numpy as np
import pytest

from flaxmodels.ops import native

PROBE = """
import warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    from flaxmodels.ops import convolution, native
    import jax.numpy as jnp
    y = convolution.conv(jnp.ones((1, 3, 1)), jnp.ones((2, 1, 1)), strides=(1,), padding="valid", dilation=(1,))
    assert y.ravel().tolist() == [2, 2], y
    print(native.available(), *(warning.message for warning in told))
"""
needs_kernels = pytest.mark.skipif(not native.available(), reason="needs a C compiler for the kernels")


def probe(folder, **environment):
    """What a fresh process with its own caches says of the kernels."""
    command = [sys.executable, "-c", PROBE]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder), "JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def library(folder):
    (found,) = pathlib.Path(folder).glob("flaxmodels/native/*.so")
    return found


@needs_kernels
def test_built_once_and_used_again(tmp_path):
    assert probe(tmp_path) == "True"
    path = library(tmp_path)
    before = path.stat().st_mtime_ns
    assert re.fullmatch(r"flaxmodels_[0-9a-f]{16}", path.stem) and path.stem == native.prefix()
    # A compiler that can't be started is no trouble to who has the library.
    assert probe(tmp_path) == "True" and library(tmp_path).stat().st_mtime_ns == before
    # What others may have written is not loaded, but built anew elsewhere.
    path.write_bytes(b"no library")
    path.chmod(0o666)
    assert probe(tmp_path) == "True"


def test_switched_off():
    assert probe(".", FLAXMODELS_NATIVE="0") == "False"


def test_without_a_compiler(tmp_path):
    assert probe(tmp_path, PATH=str(tmp_path), CC="") == "False"


def test_a_compiler_that_fails_is_told_of_in_one_sentence(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'out of order' >&2\nexit 1\n")
    compiler.chmod(0o755)
    assert probe(tmp_path, CC=str(compiler)) == (
        "False The kernels for this processor can't be built or loaded, so XLA computes all, slower (out of order); "
        f"mend the C compiler '{compiler}', or set FLAXMODELS_NATIVE=0 to do without."
    )


@needs_kernels
def test_without_a_folder_for_caches(tmp_path):
    (tmp_path / "file").write_text("")
    assert probe(tmp_path / "file", TMPDIR=str(tmp_path)) == "True"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # nothing is left behind


@needs_kernels
def test_a_folder_that_others_may_write_to_is_not_used(tmp_path):
    folder = tmp_path / "flaxmodels" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert probe(tmp_path) == "True"
    assert not list(folder.iterdir())


@needs_kernels
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names instructions of x86 processors")
@pytest.mark.parametrize("without", ["-mno-avx512f", "-mno-avx512f -mno-avx2"])
def test_kernels_for_processors_with_narrower_vectors(tmp_path, without):
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\nexec {os.environ.get("CC") or "cc"} "$@" {without}\n')
    compiler.chmod(0o755)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "CC": str(compiler), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, kernel_outputs.__file__, str(tmp_path / "found.npz")]
    subprocess.run(command, check=True, env=environment, timeout=120)
    assert library(tmp_path).stem != native.prefix()
    with np.load(tmp_path / "found.npz") as narrow:
        for got, want in zip(narrow.values(), kernel_outputs.outputs(), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 * max(1, np.abs(want).max()))
