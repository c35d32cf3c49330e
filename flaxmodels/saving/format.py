"""The bytes of a model file: safetensors with additional metadata, a digest, and checks of untrusted headers."""

import hashlib
import json
import os
import pathlib
import secrets
import struct
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import jax
from flax import traverse_util

from flaxmodels import formats
from flaxmodels.saving.messages import reason, shorten

FORMAT = "1"
MAX_HEADER_BYTES = 16 * 2**20
MAX_DEPTH = 64
MAX_PARTS = 1_000_000
MAX_DIFFERENCES = 10
MAX_DIFFERENCE = 500

Path = str | os.PathLike[str]
Shapes = Mapping[str, tuple[int, ...]]
Json: TypeAlias = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

# ---------------------------------------------------------------- writing


def encode(variables: Mapping[str, jax.Array], texts: Mapping[str, str]) -> bytes:
    """Returns the content of a model file; equal arguments give equal bytes.

    Args:
        variables: Arrays keyed by path, such as "params/dense/kernel".
        texts: Further metadata, such as the architecture as JSON under "model".

    Raises:
        ValueError: If the header would be too long to be read again.
    """
    import safetensors.flax

    metadata = {"flaxmodels": FORMAT} | dict(texts)
    content = _with_digest(safetensors.flax.save(dict(variables), metadata=metadata))
    length = _header_length(content)
    if length > MAX_HEADER_BYTES:
        raise ValueError(
            f"The header of a model file must have at most {MAX_HEADER_BYTES} bytes, got {length}; pass large arrays "
            "in `variables`, not as arguments of layers."
        )
    return content


def write(path: Path, content: bytes) -> None:
    """Writes a temporary file and renames it: a reader sees the old file or the new one, never a partial one."""
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder {path.parent} for {path.name} does not exist; create it first.")
    if path.is_dir():
        raise IsADirectoryError(f"A model is saved in a file, but {path} is a folder; add a file name.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise type(error)(
            f"The model can't be written to {path} ({error.strerror or error}), and an existing file is unchanged; "
            "free some space, or choose another path."
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _header_length(content: bytes) -> int:
    return int(struct.unpack("<Q", content[:8])[0])


def _with_digest(content: bytes) -> bytes:
    """Adds the digest of header and arrays to the metadata of a safetensors file, and sorts the metadata."""
    end = 8 + _header_length(content)
    header, data = json.loads(content[8:end]), memoryview(content)[end:]
    digest = {"digest": _digest(header, [data])}
    # The safetensors library writes metadata in the order of a hash table, which differs between processes.
    text = json.dumps(header | {"__metadata__": dict(sorted((header["__metadata__"] | digest).items()))}).encode()
    text += b" " * (-len(text) % 8)  # Arrays start at a multiple of 8 bytes.
    return b"".join((struct.pack("<Q", len(text)), text, data))


def _digest(header: Mapping[str, Json], data: Iterable[bytes | memoryview]) -> str:
    """Returns the SHA-256 of a header without its digest and of the arrays."""
    metadata = {name: text for name, text in _metadata(header).items() if name != "digest"}
    digest = hashlib.sha256(json.dumps({**header, "__metadata__": metadata}, sort_keys=True).encode())
    for part in data:
        digest.update(part)
    return digest.hexdigest()


# ---------------------------------------------------------------- reading


def read_header(path: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Reads the metadata of a file and the shapes of its arrays, without reading the arrays.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file is not a model file of this library or is damaged.
    """
    formats.check_is_file(path)
    formats.check_suffix(path, ".safetensors")
    formats.check_content(path)
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        length = _header_length(start) if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(
                f"{path} is not a model file: its header should have 2 to {MAX_HEADER_BYTES} bytes within the file's "
                f"{size}, got {length}; save the model again."
            )
        header = _parse_header(path, file.read(length))
    metadata = _metadata(header)
    if "flaxmodels" not in metadata:
        raise ValueError(f"{path} was not written by flaxmodels; read it with safetensors.")
    if metadata["flaxmodels"] != FORMAT:
        raise ValueError(
            f"{path} has format {metadata['flaxmodels'][:80]!r}, but this version reads {FORMAT!r}; "
            "install a newer version."
        )
    return metadata, {name: _shape(path, name, entry) for name, entry in header.items() if name != "__metadata__"}


def _parse_header(path: Path, content: bytes) -> dict[str, Json]:
    header = parse_json(path, content.decode(errors="replace"))
    if not isinstance(header, dict):
        raise ValueError(f"{path} is not a model file: its header is not a JSON object; save the model again.")
    return header


def _metadata(header: Mapping[str, Json]) -> dict[str, str]:
    """Returns the metadata of a header; an empty dictionary unless all of it is text."""
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict):
        return {}
    texts = {name: text for name, text in metadata.items() if isinstance(text, str)}
    return texts if len(texts) == len(metadata) else {}


def _shape(path: Path, name: str, entry: Json) -> tuple[int, ...]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if isinstance(shape, list):
        sizes = tuple(n for n in shape if type(n) is int and 0 <= n < 2**48)
        if len(sizes) == len(shape):
            return sizes
    raise ValueError(f"{path} is damaged: the shape of {name[:80]!r} is {str(shape)[:80]}; save the model again.")


def parse_json(path: Path, text: str) -> Json:
    """Parses the JSON of an untrusted file, within limits of size and depth; error messages name `path`."""
    parts = text.count("[") + text.count("{")
    if parts > MAX_PARTS:
        raise ValueError(
            f"{path} describes {parts} parts, but at most {MAX_PARTS} are allowed; use a file that fm.save wrote."
        )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged: its header is not valid JSON ({reason(error)}); save the model again."
        ) from error
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, list | dict)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"{path} nests more than {MAX_DEPTH} levels deep; use a file that fm.save wrote.")
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return value


def check_shapes(path: Path, expected: Shapes, given: Shapes) -> None:
    """Raises a ValueError that lists the first differences between the arrays of a model and those of a file."""
    wrong = [f"{name} is missing" for name in sorted(set(expected) - set(given))]
    wrong += [f"{name} is not expected" for name in sorted(set(given) - set(expected))]
    wrong += [
        f"{name} has shape {given[name]}, expected {expected[name]}"
        for name in sorted(set(expected) & set(given))
        if given[name] != expected[name]
    ]
    if wrong:
        first = [shorten(text, MAX_DIFFERENCE) for text in wrong[:MAX_DIFFERENCES]]
        more = f"; and {len(wrong) - len(first)} more" if len(wrong) > len(first) else ""
        raise ValueError(f"The arrays in {path} do not fit the model: {'; '.join(first)}{more}.")


def read_arrays(path: Path) -> dict[str, Any]:
    """Reads the variables of a file whose header was checked by `read_header`."""
    import safetensors.flax

    try:
        flat = safetensors.flax.load_file(os.fspath(path))
        variables = traverse_util.unflatten_dict({tuple(name.split("/")): value for name, value in flat.items()})
    except Exception as error:  # Depending on the damage, safetensors raises its own or other exceptions.
        raise ValueError(f"{path} is damaged: {reason(error)}; save the model again.") from error
    _check_digest(path)  # The file is now known to be no longer than its arrays, so hashing it takes bounded time.
    return variables


def _check_digest(path: Path) -> None:
    """Raises if the digest in a file differs from that of its content; files of the first version have none."""
    with open(path, "rb") as file:
        length = _header_length(file.read(8))
        header = _parse_header(path, file.read(length))
        written = _metadata(header).get("digest")
        if written is not None and written != _digest(header, iter(lambda: file.read(2**20), b"")):
            raise ValueError(f"{path} is damaged: its content differs from what was written; save the model again.")
