"""The process that reads HDF5 cannot open other files, and its crashes, hangs and memory do not affect the caller."""

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
    """Writes a file of 300 arrays and returns its path."""
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
    """Replaces the program that reads arrays."""

    def put(text):
        script = tmp_path / "program.py"
        script.write_text(text)
        monkeypatch.setattr(hdf5, "__file__", str(script))

    return put


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "PATH is damaged: HDF5 failed on it with code -11; save it again."),
        ("while True: pass", "PATH is damaged: HDF5 needs more than 1 s to read it; save it again."),
        ("x = bytearray(2**60)", "PATH is damaged: HDF5 failed on it with code 1; save it again."),
        ("print('\\xff' * 20)", "PATH has more than 67108864 bytes of array names; save fewer arrays in one file."),
    ],
    ids=["crash", "endless", "memory", "nonsense"],
)  # fmt: skip
def test_crashes_do_not_reach_the_caller(path, program, monkeypatch, text, sentence):
    monkeypatch.setattr(hdf5, "WALL_SECONDS", 1)
    program(text)
    with raises(sentence.replace("PATH", str(path))):
        read(path)


def test_a_hang_costs_about_one_second_of_cpu_time(path, program):
    """CPU time is limited and measured, because wall-clock time depends on other work of the machine."""
    program(f"import runpy; runpy.run_path({str(PROGRAM)!r})['_limit_resources'](0)\nwhile True: pass")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with raises(f"{path} is damaged: HDF5 needs more than 1 s to read a part of it; save it again."):
        read(path)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2


def test_more_arrays_get_more_time(path, program):
    program(PROGRAM.read_text().replace("CPU_SECONDS = 1.0", "CPU_SECONDS = 0.02"))
    found = read(path)
    assert [found[f"layers/dense_{i}/vars/0"][0] for i in range(300)] == list(range(300))


def test_number_of_objects_is_bounded_by_the_file_size(path, program):
    """Overlapping objects would each cost time."""
    program(PROGRAM.read_text().replace("OBJECT_BYTES = 64", "OBJECT_BYTES = 2000"))
    size = path.stat().st_size
    with raises(
        f"{path} contains more than 100000 objects, or more than fit in its {size} bytes; save it again with Keras' save or "
        "save_weights."
    ):
        read(path)


def test_the_program_opens_no_other_file():
    """After the limits are set, no file can be opened and memory is bounded."""
    code = (
        "from flaxmodels.interop import hdf5; hdf5._limit_resources(0)\n"
        "try: open('/etc/passwd')\nexcept OSError as e: print(e.errno)\n"
        "try: bytearray(2**30)\nexcept MemoryError: print('full')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["24", "full"], done.stderr


def test_variables_of_an_optimizer_are_read_and_checked_only_if_wanted(path):
    with h5py.File(path, "a") as file:
        file["optimizer/vars/0"] = np.int32(7)
        file["layers/nested/optimizer/vars/0"] = np.int32(8)
    with open(path, "rb") as file:
        without = hdf5.read(path, file, path.stat().st_size)
        file.seek(0)
        contents = hdf5.read(path, file, path.stat().st_size, with_optimizer=True)
    assert without.optimizer == {} and contents.optimizer == {"vars/0": 7}
    assert len(contents.arrays) == len(without.arrays) == 301
    with h5py.File(path, "a") as file:
        file.create_dataset("optimizer/vars/1", data=np.zeros(1000), compression="gzip")
    assert len(read(path)) == 301
    sentence = f"{path} stores 'optimizer/vars/1' in chunks or compressed, but must store it contiguously; "
    with open(path, "rb") as file, raises(f"{sentence}save it again with Keras' save or save_weights."):
        hdf5.read(path, file, path.stat().st_size, with_optimizer=True)
