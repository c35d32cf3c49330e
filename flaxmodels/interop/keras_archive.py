"""Reads the members of a `.keras` file, a zip file that is untrusted.

A zip file declares names, offsets and sizes itself, so a malicious one could overwrite files, expand without bound or
exhaust the memory. The reader accepts only the three members that Keras writes, in bounded sizes, and extracts nothing
into folders.
"""

import collections
import contextlib
import io
import json
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from flaxmodels.saving.format import MAX_DEPTH, Json
from flaxmodels.saving.messages import reason

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
MAX_READ = 2**20  # bytes per read, which also bounds the zip file's table of members
MAX_CONFIG = 16 * 2**20
MAX_PARTS = 250_000
MAX_STRING = 10_000
MAX_COMPRESSION_RATIO = 4  # bound against zip bombs; Keras itself doesn't compress


class _BoundedReader(io.BufferedReader):
    """A file that refuses to seek before its start or to read more than MAX_READ bytes at once.

    `zipfile` takes offsets and sizes from the file itself, so that a malicious file could make it allocate gigabytes.
    """

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Seeks as usual; raises for an offset before the start of the file."""
        if whence == os.SEEK_SET and offset < 0:
            raise zipfile.BadZipFile(f"it refers to a part {-offset} bytes before its start")
        return super().seek(offset, whence)

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads as usual; raises for more than MAX_READ bytes."""
        if size is None or size < 0:
            size = MAX_READ + 1 if os.fstat(self.fileno()).st_size - self.tell() > MAX_READ else MAX_READ
        if size > MAX_READ:
            raise zipfile.BadZipFile(f"it declares a part of {size} bytes, but at most {MAX_READ} are allowed")
        return super().read(size)


@contextlib.contextmanager
def open_members(path: str | os.PathLike[str]) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """Checks the names, types and sizes of the members of a `.keras` file, and yields the file and the members."""
    with _BoundedReader(io.FileIO(os.fspath(path))) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive, _checked_members(path, archive)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, UnicodeError) as error:
            raise ValueError(f"{path} is not a Keras file or is damaged: {reason(error)}; save it again.") from error


def _checked_members(path: str | os.PathLike[str], archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Returns the members keyed by name; raises unless they are regular files that Keras writes, of bounded size."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename
        mode = stat.S_IFMT(member.external_attr >> 16)
        is_known, is_regular = name in (CONFIG, METADATA, WEIGHTS), mode in (0, stat.S_IFREG)
        if not is_known or name in members or not is_regular:
            problem = "too" if not is_known else "twice" if name in members else "as something other than a file"
            raise ValueError(
                f"{path} must contain only {CONFIG}, {METADATA} and {WEIGHTS}, but contains {name[:80]!r} {problem}; "
                "save it again with Keras."
            )
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            raise ValueError(
                f"{path} contains {name!r}, which is encrypted or uses an unsupported compression; "
                "save it again with Keras."
            )
        limit = MAX_COMPRESSION_RATIO * member.compress_size + MAX_READ
        limit = min(limit, MAX_CONFIG) if name != WEIGHTS else limit
        if member.file_size > limit:
            raise ValueError(
                f"{path} declares {member.file_size} bytes for {name!r}, which takes {member.compress_size} bytes in "
                f"the file, but at most {limit} are allowed; save it again with Keras, which does not compress."
            )
        members[name] = member
    missing = [name for name in (CONFIG, WEIGHTS) if name not in members]
    if missing:
        raise ValueError(f"{path} is not a Keras file: it has no {' and no '.join(missing)}; save it again with Keras.")
    return members


def read_text(path: str | os.PathLike[str], archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    """Returns the text of a member."""
    file = io.BytesIO()
    unpack(path, archive, member, file)
    return file.getvalue().decode()


def unpack(path: str | os.PathLike[str], archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: BinaryIO) -> int:
    """Copies a member to an open file in chunks and returns its size; raises unless that is the declared size."""
    size = 0
    with archive.open(member) as source:
        while piece := source.read(MAX_READ // 2):
            size += len(piece)
            target.write(piece)
    target.flush()
    if size != member.file_size:
        raise ValueError(
            f"{path} is damaged: {member.filename!r} has {size} instead of {member.file_size} bytes; save it again."
        )
    target.seek(0)
    return size


def parse_json(path: str | os.PathLike[str], text: str) -> Json:
    """Parses JSON; raises if its size, its depth or one of its strings exceeds the limits.

    The limits bound the time and memory of all later steps, which are recursive and copy values.
    """

    def check_keys(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        duplicates = [key for key, count in collections.Counter(key for key, _ in pairs).items() if count > 1]
        if duplicates:
            raise ValueError(f"one object has the key {duplicates[0][:80]!r} twice")
        return dict(pairs)

    parts = sum(map(text.count, "[{,"))
    if parts > MAX_PARTS:
        raise ValueError(
            f"{path} has a config of {parts} parts, but at most {MAX_PARTS} are allowed; Keras writes no such file."
        )
    try:
        value: Json = json.loads(text, object_pairs_hook=check_keys)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged: its {CONFIG} is not valid JSON ({reason(error)}); save it again."
        ) from error
    depth, level = 0, [value]
    while level:
        depth += 1
        strings = [item for item in level if isinstance(item, str)]
        if depth > MAX_DEPTH or any(len(string) > MAX_STRING for string in strings):
            raise ValueError(
                f"{path} has a config of more than {MAX_DEPTH} levels, or a string of more than {MAX_STRING} "
                "characters; Keras writes no such file."
            )
        level = [inner for item in level if isinstance(item, list | dict) for inner in (
            (*item, *item.values()) if isinstance(item, dict) else item)]  # fmt: skip
    return value
