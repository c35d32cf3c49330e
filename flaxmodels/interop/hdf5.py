"""Reads the arrays of an untrusted HDF5 file in a separate process.

A damaged or malicious file can make the HDF5 library crash, hang or exhaust the memory. The caller's process therefore
never opens the file with this library. Instead, `read` runs this module as a program with limits on memory, time and
open files.
"""

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, NotRequired, TypedDict

import numpy as np

if TYPE_CHECKING:
    import h5py

MAX_OBJECTS = 100_000
OBJECT_BYTES = 64  # no object is smaller
MAX_DEPTH = 200
MAX_NAME_LENGTH = 10_000  # characters; longer layer names are ignored
MAX_HEADER_BYTES = 64 * 2**20  # names and shapes, without the arrays
# CPU time between two objects of the file. It is not wall-clock time, so a busy machine causes no error.
CPU_SECONDS = 1.0
CPU_SECONDS_PER_OBJECT = 0.001
BYTES_PER_SECOND = 16 * 2**20
# Wall-clock time, for a process that waits without using the CPU, for example for a disk that doesn't respond.
WALL_SECONDS = 60
EXTRA_MEMORY = 512 * 2**20
# The group in which Keras stores the variables of the optimizer. It is opened only if they are wanted.
OPTIMIZER = "optimizer"


class Contents(NamedTuple):
    """The contents of a file.

    Attributes:
        arrays: The arrays keyed by path, such as "layers/dense/vars/0".
        names: Keras' layer names keyed by the path of their groups, such as "layers/dense/vars". They are untrusted
            too, and older versions of Keras don't write them.
        optimizer: The variables of the optimizer by their path in its group, such as "vars/0"; empty unless wanted.
    """

    arrays: dict[str, np.ndarray]
    names: dict[str, str]
    optimizer: dict[str, np.ndarray]


class Rejected(Exception):
    """Raised when a file is rejected; the message continues a sentence that starts with the file's path."""


class Header(TypedDict):
    """What the separate process writes before the arrays: their dtypes and shapes, and the names of layers."""

    arrays: dict[str, tuple[str, list[int]]]
    names: dict[str, str]
    error: NotRequired[str]


def read(path: str | os.PathLike[str], file: BinaryIO, size: int, with_optimizer: bool = False) -> Contents:
    """Reads the arrays and layer names of an HDF5 file.

    Args:
        path: Path of the file, for error messages only.
        file: The open file; only its descriptor is used.
        size: Size of the file in bytes, which the arrays cannot exceed.
        with_optimizer: Whether to read the variables of an optimizer too.

    Raises:
        ValueError: If the file is damaged or contains anything that Keras does not write.
    """
    seconds = WALL_SECONDS + size / BYTES_PER_SECOND
    with tempfile.TemporaryFile() as output:
        try:
            # -P keeps the folder of this file out of sys.path, so that no module in it is imported by accident.
            command = [sys.executable, "-P", __file__, *([OPTIMIZER] if with_optimizer else [])]
            done = subprocess.run(command, stdin=file, stdout=output, stderr=subprocess.DEVNULL, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise ValueError(
                f"{path} is damaged: HDF5 needs more than {seconds:.0f} s to read it; save it again."
            ) from error
        if done.returncode and -done.returncode == getattr(signal, "SIGPROF", None):
            raise ValueError(
                f"{path} is damaged: HDF5 needs more than {CPU_SECONDS:g} s to read a part of it; save it again."
            )
        if done.returncode:
            raise ValueError(f"{path} is damaged: HDF5 failed on it with code {done.returncode}; save it again.")
        output.seek(0)
        header = _read_header(path, output)
        arrays = dict(_read_arrays(output, header["arrays"]))
        prefix = f"{OPTIMIZER}/"
        optimizer = {name.removeprefix(prefix): arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}
        return Contents(arrays, header["names"], optimizer)


def _read_header(path: str | os.PathLike[str], output: BinaryIO) -> Header:
    length = struct.unpack("<Q", output.read(8).rjust(8, b"\xff"))[0]
    if length > MAX_HEADER_BYTES:
        raise ValueError(
            f"{path} has more than {MAX_HEADER_BYTES} bytes of array names; save fewer arrays in one file."
        )
    header: Header = json.loads(output.read(length))
    if "error" in header:
        raise ValueError(f"{path} {header['error']}; save it again with Keras' save or save_weights.")
    return header


def _read_arrays(
    output: BinaryIO, dtypes_and_shapes: Mapping[str, tuple[str, list[int]]]
) -> Iterator[tuple[str, np.ndarray]]:
    for name, (dtype, shape) in dtypes_and_shapes.items():
        # Keras writes bfloat16 as two opaque bytes, NumPy's "V2".
        count = int(np.prod(shape, dtype=object))
        array = np.fromfile(output, np.dtype(dtype.replace("V2", "u2")), count).reshape(shape)
        if dtype.endswith("V2"):
            import ml_dtypes

            array = array.view(ml_dtypes.bfloat16)
        yield name, array


# ---------------------------------------------------------------- the code that runs in the separate process


def main() -> None:
    """Reads an HDF5 file from stdin and writes names and shapes as JSON, followed by the arrays, to stdout.

    The variables of an optimizer are read if the program has the argument `OPTIMIZER`.
    """
    import h5py

    size = os.fstat(0).st_size
    output = os.fdopen(1, "wb", closefd=False)
    source = os.fdopen(0, "rb", closefd=False)
    try:
        _limit_resources(size)
        with h5py.File(source, "r") as file:
            names: dict[str, str] = {}
            skipped = () if OPTIMIZER in sys.argv[1:] else (OPTIMIZER,)
            datasets = list(_checked_datasets(h5py, file.id, size, names, skipped))
            arrays = {name: [dtype.str, shape] for name, _, dtype, shape in datasets}
            _write_header(output, {"arrays": arrays, "names": names})
            _allow_cpu_seconds(size / BYTES_PER_SECOND)
            for _, dataset, dtype, shape in datasets:
                array = np.empty(shape, dtype)
                dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array, dataset.get_type())
                output.write(array.tobytes())
            output.flush()
    except Rejected as error:
        _write_header(output, {"error": str(error)})
    except Exception as error:  # h5py raises many exception types for damaged files
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        _write_header(output, {"error": f"is damaged: {reason}"})
    output.flush()
    os._exit(0)  # without cleanup, because HDF5 could crash when it closes a damaged file


def _write_header(output: BinaryIO, header: Mapping[str, object]) -> None:
    output.seek(0)
    output.truncate()
    text = json.dumps(header).encode()
    output.write(struct.pack("<Q", len(text)) + text)


def _limit_resources(size: int) -> None:
    """Limits this process to the resources that reading one file of the given size needs."""
    try:
        import resource
    except ImportError:  # not on every system
        return
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 3),  # only the standard streams: no other file can be opened
        (resource.RLIMIT_FSIZE, size + MAX_HEADER_BYTES),
        (resource.RLIMIT_DATA, _data_bytes() + EXTRA_MEMORY + size),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard),) * 2)
    _allow_cpu_seconds(CPU_SECONDS)


def _allow_cpu_seconds(seconds: float) -> None:
    """Adds to the CPU time that this process may use; the system kills it afterwards, even if HDF5 hangs."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, signal.getitimer(signal.ITIMER_PROF)[0] + seconds)


def _data_bytes() -> int:
    """Returns the size of this process's data segment, or 4 GiB if the system does not report it."""
    try:
        with open("/proc/self/status") as file:
            lines = [line.split() for line in file if line.startswith("VmData")]
    except OSError:
        lines = []
    return int(lines[0][1]) * 1024 if lines else 2**32


def _checked_datasets(
    h5py: ModuleType, root: "h5py.h5f.FileID", size: int, names: dict[str, str], skipped: Sequence[str]
) -> Iterator[tuple[str, "h5py.h5d.DatasetID", np.dtype, tuple[int, ...]]]:
    """Yields path, dataset, dtype and shape of each dataset without reading it; raises unless all objects are allowed.

    Args:
        h5py: The module.
        root: Identifier of the file.
        size: Size of the file in bytes.
        names: A dictionary that receives the names of layers, keyed by the path of their groups.
        skipped: Outermost groups that are not opened.
    """
    h5o, seen, total = h5py.h5o, set(), 0
    open_groups: list[tuple[tuple[str, ...], Any]] = [((), h5o.open(root, b"/"))]
    while open_groups:
        path, group = open_groups.pop()
        for key in group:
            object_path = (*path, key.decode())
            name = "/".join(object_path)[:200]
            _check_link(h5py, group, key, name)
            if object_path[0] in skipped:
                continue
            item = h5o.open(group, key)
            address = h5o.get_info(item).addr
            if address in seen:
                raise Rejected(f"has two names for one object, the second is {name!r}")
            seen.add(address)
            _allow_cpu_seconds(CPU_SECONDS_PER_OBJECT)
            if len(seen) > min(MAX_OBJECTS, size // OBJECT_BYTES):
                raise Rejected(f"contains more than {MAX_OBJECTS} objects, or more than fit in its {size} bytes")
            if len(object_path) > MAX_DEPTH:
                raise Rejected(f"contains groups nested more than {MAX_DEPTH} deep")
            if isinstance(item, h5py.h5g.GroupID):
                open_groups.append((object_path, item))
                layer_name = _layer_name(h5py, item)
                if layer_name is not None:
                    names["/".join(object_path)] = layer_name
                continue
            dtype, shape = _check_dataset(h5py, item, name)
            total += int(np.prod(shape, dtype=object)) * dtype.itemsize
            if total > size:
                raise Rejected(f"declares arrays that exceed its own size of {size} bytes, up to {name!r}")
            yield "/".join(object_path), item, dtype, shape


def _layer_name(h5py: ModuleType, group: "h5py.h5g.GroupID") -> str | None:
    """Returns the attribute "name" of a group, or None unless it is a single string as Keras writes it."""
    if not h5py.h5a.exists(group, b"name"):
        return None
    attribute = h5py.h5a.open(group, b"name")
    kind, space = attribute.get_type(), attribute.get_space()
    if kind.get_class() != h5py.h5t.STRING or not kind.is_variable_str():
        return None
    if space.get_simple_extent_type() != h5py.h5s.SCALAR:
        return None
    value = h5py.AttributeManager(h5py.Group(group))["name"]
    return value if isinstance(value, str) and len(value) <= MAX_NAME_LENGTH else None


def _check_link(h5py: ModuleType, group: "h5py.h5g.GroupID", key: bytes, name: str) -> None:
    """Raises unless the link is a hard link: other links can refer to other files or form cycles."""
    kind = group.links.get_info(key).type
    if kind != h5py.h5l.TYPE_HARD:
        words = {h5py.h5l.TYPE_SOFT: "a soft", h5py.h5l.TYPE_EXTERNAL: "an external"}
        raise Rejected(f"refers to other data: {name!r} is {words.get(kind, 'an unknown')} link")


def _check_dataset(h5py: ModuleType, dataset: "h5py.h5d.DatasetID", name: str) -> tuple[np.dtype, tuple[int, ...]]:
    """Returns dtype and shape of a dataset; raises unless it is an uncompressed array of numbers inside the file.

    Keras writes only such datasets. The code of the HDF5 library for virtual, external, chunked and compressed ones is
    large, and small files of these kinds can expand without bound.
    """
    if not isinstance(dataset, h5py.h5d.DatasetID):
        raise Rejected(f"contains an object that is not an array, {name!r}")
    settings = dataset.get_create_plist()
    layout = settings.get_layout()
    if layout == h5py.h5d.VIRTUAL:
        raise Rejected(f"refers to other data: {name!r} is a virtual dataset")
    if settings.get_external_count():
        raise Rejected(f"refers to other data: the data of {name!r} is in another file")
    if layout == h5py.h5d.CHUNKED or settings.get_nfilters():
        raise Rejected(f"stores {name!r} in chunks or compressed, but must store it contiguously")
    kind = dataset.get_type()
    classes = {h5py.h5t.INTEGER: (1, 2, 4, 8), h5py.h5t.FLOAT: (2, 4, 8), h5py.h5t.OPAQUE: (2,)}
    if kind.get_size() not in classes.get(kind.get_class(), ()):
        raise Rejected(f"contains an array that is not numeric, {name!r}")
    space = dataset.get_space()
    if space.get_simple_extent_type() not in (h5py.h5s.SCALAR, h5py.h5s.SIMPLE):
        raise Rejected(f"contains an empty dataset, {name!r}")
    shape, dtype = tuple(map(int, dataset.shape)), np.dtype(dataset.dtype)
    bytes_needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if dataset.get_storage_size() != bytes_needed:
        raise Rejected(
            f"stores {dataset.get_storage_size()} bytes for {name!r} of shape {shape}, which needs {bytes_needed}"
        )
    return dtype, shape


if __name__ == "__main__":
    main()
