"""The process that reads HDF5: what it may open, and that its crashes, its hangs and its memory stay its own."""

import pathlib
import re
import resource
import subprocess
import sys

import h5py
import numpy as np
import pytest

from flaxmodels.interop import hdf5

PROGRAM = pathlib.Path(hdf5.__file__)


def raises(sentence):
    return pytest.raises(ValueError, match=f"^{re.escape(sentence)}$")


@pytest.fixture
def path(tmp_path):
    """A file of 300 arrays."""
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        for i in range(300):
            file[f"layers/dense_{i}/vars/0"] = np.full((2,), i, np.float32)
    return path


def read(path):
    with open(path, "rb") as file:
        return hdf5.read(path, file, path.stat().st_size).arrays


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts another program into the place of the one that reads arrays."""

    def put(text):
        script = tmp_path / "program.py"
        script.write_text(text)
        monkeypatch.setattr(hdf5, "__file__", str(script))

    return put


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "PATH is damaged: HDF5 failed on it with code -11; save it again."),
        ("while True: pass", "PATH is damaged: HDF5 needs more than 1 s for it; save it again."),
        ("x = bytearray(2**60)", "PATH is damaged: HDF5 failed on it with code 1; save it again."),
        ("print('\\xff' * 20)", "PATH names more than 67108864 bytes of arrays; save fewer in one file."),
    ],
    ids=["crash", "endless", "memory", "nonsense"],
)  # fmt: skip
def test_crashes_stay_outside(path, program, monkeypatch, text, sentence):
    monkeypatch.setattr(hdf5, "PATIENCE", 1)
    program(text)
    with raises(sentence.replace("PATH", str(path))):
        read(path)


def test_a_hang_costs_little_more_than_a_second_of_the_processor(path, program):
    """Other work on the machine may take the clock's time, so the processor's is what is limited and measured."""
    program(f"import runpy; runpy.run_path({str(PROGRAM)!r})['_limit'](0)\nwhile True: pass")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with raises(f"{path} is damaged: HDF5 needs more than 1 s for a part of it; save it again."):
        read(path)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2


def test_many_arrays_have_more_time(path, program):
    program(PROGRAM.read_text().replace("SECONDS = 1.0", "SECONDS = 0.02"))
    found = read(path)
    assert [found[f"layers/dense_{i}/vars/0"][0] for i in range(300)] == list(range(300))


def test_no_more_objects_than_a_file_can_hold(path, program):
    """Objects that lie over one another, each of which would cost time."""
    program(PROGRAM.read_text().replace("OBJECT_BYTES = 64", "OBJECT_BYTES = 2000"))
    size = path.stat().st_size
    with raises(
        f"{path} holds more objects than 100000, or than its {size} bytes can be; save it again with Keras' save or "
        "save_weights."
    ):
        read(path)


def test_the_program_opens_no_other_file():
    """After its limits are set, nothing can be opened, and memory ends."""
    code = (
        "from flaxmodels.interop import hdf5; hdf5._limit(0)\n"
        "try: open('/etc/passwd')\nexcept OSError as e: print(e.errno)\n"
        "try: bytearray(2**30)\nexcept MemoryError: print('full')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["24", "full"], done.stderr
