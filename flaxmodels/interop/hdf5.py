"""The arrays of an HDF5 file that nobody vouches for.

HDF5's library can crash, run on or fill the memory where a file is broken, so it never reads one in the caller's
process: `read` starts this file as a program of its own, with limits on its memory, its time and the files it can open.
"""

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

MAX_OBJECTS = 100_000
OBJECT_BYTES = 64  # no object is smaller
MAX_DEPTH = 200
MAX_NAME = 10_000  # characters; a longer name of a layer is left out
MAX_ANSWER_BYTES = 64 * 2**20  # names and shapes, without the arrays
# Of the processor, from one object in the file to the next: other work on the machine does not count.
SECONDS = 1.0
SECONDS_PER_OBJECT = 0.001
BYTES_PER_SECOND = 16 * 2**20
# Of the clock: for what uses no processor, such as a disk that does not answer.
PATIENCE = 60
MEMORY = 512 * 2**20
# What Keras puts beside a model's weights: not read, so it need not fit.
SKIPPED = ("optimizer",)


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
        arrays: The arrays by their paths, such as "layers/dense/vars/0".
        names: Keras' names of layers by the paths of their groups, such as "layers/dense/vars". Nobody vouches for them
            either, and older versions of Keras write none.
    """

    arrays: dict[str, np.ndarray]
    names: dict[str, str]


class Refused(Exception):
    """Why a file is not read: what follows its name in the sentence."""


def read(path: Any, file: BinaryIO, size: int) -> Contents:
    """Reads all arrays but those of an optimizer, and the names of layers.

    Args:
        path: What errors call the file.
        file: The open file; only its descriptor is used.
        size: Its size in bytes, which the arrays cannot exceed.

    Raises:
        ValueError: If the file is damaged or holds anything that Keras does not write.
    """
    seconds = PATIENCE + size / BYTES_PER_SECOND
    with tempfile.TemporaryFile() as answer:
        try:
            # -P: nothing is imported from beside this file.
            command = [sys.executable, "-P", __file__]
            done = subprocess.run(command, stdin=file, stdout=answer, stderr=subprocess.DEVNULL, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise ValueError(
                f"{path} is damaged: HDF5 needs more than {seconds:.0f} s for it; save it again."
            ) from error
        if done.returncode and -done.returncode == getattr(signal, "SIGPROF", None):
            raise ValueError(f"{path} is damaged: HDF5 needs more than {SECONDS:g} s for a part of it; save it again.")
        if done.returncode:
            raise ValueError(f"{path} is damaged: HDF5 failed on it with code {done.returncode}; save it again.")
        answer.seek(0)
        found = _described(path, answer)
        return Contents(dict(_arrays(answer, found["arrays"])), found["names"])


def _described(path: Any, answer: BinaryIO) -> dict[str, Any]:
    length = struct.unpack("<Q", answer.read(8).rjust(8, b"\xff"))[0]
    if length > MAX_ANSWER_BYTES:
        raise ValueError(f"{path} names more than {MAX_ANSWER_BYTES} bytes of arrays; save fewer in one file.")
    found = json.loads(answer.read(length))
    if "refused" in found:
        raise ValueError(f"{path} {found['refused']}; save it again with Keras' save or save_weights.")
    return found


def _arrays(answer: BinaryIO, described: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for name, (kind, shape) in described.items():
        # Keras writes bfloat16 as two opaque bytes.
        array = np.fromfile(answer, np.dtype(kind.replace("V2", "u2")), int(np.prod(shape, dtype=object))).reshape(
            shape
        )
        if kind.endswith("V2"):
            import ml_dtypes

            array = array.view(ml_dtypes.bfloat16)
        yield name, array


# ---------------------------------------------------------------- the program


def main() -> None:
    """Reads the HDF5 file that is the standard input, writes names and shapes as JSON, then the arrays."""
    import h5py

    size = os.fstat(0).st_size
    output = os.fdopen(1, "wb", closefd=False)
    source = os.fdopen(0, "rb", closefd=False)
    try:
        _limit(size)
        with h5py.File(source, "r") as file:
            names: dict[str, str] = {}
            datasets = list(_checked(h5py, file.id, size, names))
            arrays = {name: [dtype.str, shape] for name, _, dtype, shape in datasets}
            _write(output, {"arrays": arrays, "names": names})
            _allow(size / BYTES_PER_SECOND)
            for _, dataset, dtype, shape in datasets:
                array = np.empty(shape, dtype)
                dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array, dataset.get_type())
                output.write(array.tobytes())
            output.flush()
    except Refused as error:
        _write(output, {"refused": str(error)})
    except Exception as error:  # h5py has one for each kind of damage
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        _write(output, {"refused": f"is damaged: {reason}"})
    output.flush()
    os._exit(0)  # what is left of a broken file is not taken down in order


def _write(output: BinaryIO, answer: dict[str, Any]) -> None:
    output.seek(0)
    output.truncate()
    text = json.dumps(answer).encode()
    output.write(struct.pack("<Q", len(text)) + text)


def _limit(size: int) -> None:
    """Takes from this process what reading one file does not need."""
    try:
        import resource
    except ImportError:  # not on every system
        return
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 3),  # the three standard ones: no other file can be opened
        (resource.RLIMIT_FSIZE, size + MAX_ANSWER_BYTES),
        (resource.RLIMIT_DATA, _used() + MEMORY + size),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard),) * 2)
    _allow(SECONDS)


def _allow(seconds: float) -> None:
    """Lets this process use the processor for so much longer, after which the system ends it, whatever HDF5 does."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, signal.getitimer(signal.ITIMER_PROF)[0] + seconds)


def _used() -> int:
    """The memory of this process that counts as data, where the system tells."""
    try:
        with open("/proc/self/status") as file:
            lines = [line.split() for line in file if line.startswith("VmData")]
    except OSError:
        lines = []
    return int(lines[0][1]) * 1024 if lines else 2**32


def _checked(
    h5py: Any, root: Any, size: int, names: dict[str, str]
) -> Iterator[tuple[str, Any, np.dtype, tuple[int, ...]]]:
    """All datasets but those skipped, none of them read yet, after everything in the file was checked.

    Puts the names of layers into `names`.
    """
    h5o, seen, total = h5py.h5o, set(), 0
    open_groups: list[tuple[tuple[str, ...], Any]] = [((), h5o.open(root, b"/"))]
    while open_groups:
        path, group = open_groups.pop()
        for key in group:
            where = (*path, key.decode())
            name = "/".join(where)[:200]
            _check_link(h5py, group, key, name)
            if where[0] in SKIPPED:
                continue
            thing = h5o.open(group, key)
            address = h5o.get_info(thing).addr
            if address in seen:
                raise Refused(f"has two names for one object, the second is {name!r}")
            seen.add(address)
            _allow(SECONDS_PER_OBJECT)
            if len(seen) > min(MAX_OBJECTS, size // OBJECT_BYTES):
                raise Refused(f"holds more objects than {MAX_OBJECTS}, or than its {size} bytes can be")
            if len(where) > MAX_DEPTH:
                raise Refused(f"holds groups more than {MAX_DEPTH} deep")
            if isinstance(thing, h5py.h5g.GroupID):
                open_groups.append((where, thing))
                layer = _name(h5py, thing)
                if layer is not None:
                    names["/".join(where)] = layer
                continue
            dtype, shape = _check_dataset(h5py, thing, name)
            total += int(np.prod(shape, dtype=object)) * dtype.itemsize
            if total > size:
                raise Refused(f"declares arrays of more than its own {size} bytes, up to {name!r}")
            yield "/".join(where), thing, dtype, shape


def _name(h5py: Any, group: Any) -> str | None:
    """The attribute "name" of a group, if it is one string."""
    if not h5py.h5a.exists(group, b"name"):
        return None
    attribute = h5py.h5a.open(group, b"name")
    kind, space = attribute.get_type(), attribute.get_space()
    if kind.get_class() != h5py.h5t.STRING or not kind.is_variable_str():  # which is what Keras writes
        return None
    if space.get_simple_extent_type() != h5py.h5s.SCALAR:
        return None
    value = h5py.AttributeManager(h5py.Group(group))["name"]
    return value if isinstance(value, str) and len(value) <= MAX_NAME else None


def _check_link(h5py: Any, group: Any, key: bytes, name: str) -> None:
    kind = group.links.get_info(key).type
    if kind != h5py.h5l.TYPE_HARD:
        words = {h5py.h5l.TYPE_SOFT: "a soft", h5py.h5l.TYPE_EXTERNAL: "an external"}
        raise Refused(f"leads elsewhere: {name!r} is {words.get(kind, 'an unknown')} link")


def _check_dataset(h5py: Any, dataset: Any, name: str) -> tuple[np.dtype, tuple[int, ...]]:
    """The dtype and shape of a dataset that is numbers in one piece inside the file."""
    if not isinstance(dataset, h5py.h5d.DatasetID):
        raise Refused(f"holds something else than arrays at {name!r}")
    settings = dataset.get_create_plist()
    layout = settings.get_layout()
    if layout == h5py.h5d.VIRTUAL:
        raise Refused(f"leads elsewhere: {name!r} is a virtual dataset")
    if settings.get_external_count():
        raise Refused(f"leads elsewhere: the data of {name!r} is in another file")
    if layout == h5py.h5d.CHUNKED or settings.get_nfilters():
        raise Refused(f"holds {name!r} in chunks or compressed, where an array is in one piece")
    kind = dataset.get_type()
    classes = {h5py.h5t.INTEGER: (1, 2, 4, 8), h5py.h5t.FLOAT: (2, 4, 8), h5py.h5t.OPAQUE: (2,)}
    if kind.get_size() not in classes.get(kind.get_class(), ()):
        raise Refused(f"holds something else than numbers at {name!r}")
    space = dataset.get_space()
    if space.get_simple_extent_type() not in (h5py.h5s.SCALAR, h5py.h5s.SIMPLE):
        raise Refused(f"holds no array at {name!r}")
    shape, dtype = tuple(map(int, dataset.shape)), np.dtype(dataset.dtype)
    bytes_needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if dataset.get_storage_size() != bytes_needed:
        raise Refused(
            f"has {dataset.get_storage_size()} bytes for {name!r} of shape {shape}, which needs {bytes_needed}"
        )
    return dtype, shape


if __name__ == "__main__":
    main()
