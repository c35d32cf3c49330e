"""Downloads files into Keras' cache, verifies them, and extracts archives safely."""

import contextlib
import gzip
import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import urllib.response
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

from training.keras.progbar import Progbar

CONNECT_SECONDS = 10.0
PIECE = 2**20
MAX_RATIO, MAX_FREE_BYTES = 1000, 2**30  # an archive larger than both, relative to its file, is refused


def cache_folder() -> Path:
    """Returns the root of Keras' cache: $KERAS_HOME, or `~/.keras`."""
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()


def get_file(
    fname: str | os.PathLike[str] | None = None,
    origin: str | None = None,
    untar: bool = False,
    md5_hash: str | None = None,
    file_hash: str | None = None,
    cache_subdir: str = "datasets",
    hash_algorithm: str = "auto",
    extract: bool = False,
    archive_format: str | list[str] | None = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    force_download: bool = False,
) -> str:
    """Returns the path of a file in Keras' cache; downloads the file if it is not there.

    A file that is present and has the right checksum is used without a network. A download has a temporary name until
    its checksum is known to be right.

    Args:
        fname: The name in the cache; by default the last part of `origin`.
        origin: The URL.
        untar: Like `extract`, for tar archives only.
        md5_hash: The md5 of the file; `file_hash` is preferred.
        file_hash: The sha256 or md5 of the file in hexadecimal digits.
        cache_subdir: The folder inside the cache.
        hash_algorithm: "sha256" or "md5"; "auto" chooses by the number of digits.
        extract: Whether to extract the archive and to return the path of the folder with its files.
        archive_format: "tar", "zip", a list of them, or "auto" for both.
        cache_dir: The cache; by default $KERAS_HOME, or `~/.keras`.
        force_download: Whether to download the file even if it is present.

    Raises:
        ValueError: If an argument is wrong, the checksum differs, or an archive is unsafe.
        ConnectionError: If the file is not present and cannot be downloaded.

    References:
        Keras, `keras.utils.get_file`.
    """
    if origin is None:
        raise ValueError("`origin` must be the URL of the file, got None; pass it.")
    expected = file_hash if file_hash is not None else md5_hash
    algorithm = _algorithm("md5" if file_hash is None and md5_hash is not None else hash_algorithm, expected)
    folder = Path(cache_folder() if cache_dir is None else cache_dir).expanduser() / cache_subdir
    name = os.fspath(fname) if fname else PurePosixPath(urllib.parse.urlsplit(origin).path).name
    if not name or name in (".", "..") or "/" in name or os.sep in name:
        raise ValueError(
            f"`fname` must be the name of a file without folders, got {name!r}; name its folder in `cache_dir` and "
            "`cache_subdir`."
        )
    folder.mkdir(parents=True, exist_ok=True)
    target, extracted = folder / name, folder / name
    if extract or untar:
        if fname and "." in name:
            extracted = folder / f"{name.partition('.')[0]}_extracted"
        else:
            target = folder / f"{name}_archive"
    if force_download or not target.is_file() or not _is_right(target, expected, algorithm):
        _download(origin, target, expected, algorithm)
    if not (extract or untar):
        return str(target)
    extract_archive(target, extracted, "tar" if untar else archive_format)
    return str(extracted)


# ---------------------------------------------------------------- checksums


def _algorithm(algorithm: str, expected: str | None) -> str:
    if algorithm not in ("auto", "md5", "sha256"):
        raise ValueError(f"`hash_algorithm` must be 'auto', 'md5' or 'sha256', got {algorithm!r}; use 'auto'.")
    if algorithm == "auto":
        return "sha256" if expected is not None and len(str(expected)) == 64 else "md5"
    return algorithm


def _is_right(path: Path, expected: str | None, algorithm: str) -> bool:
    """Returns whether a file has the expected checksum, or none is known."""
    if expected is None:
        return True
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    return digest == str(expected).lower()


# ---------------------------------------------------------------- download


def _download(origin: str, target: Path, expected: str | None, algorithm: str) -> None:
    if urllib.parse.urlsplit(origin).scheme not in ("http", "https", "ftp", "file"):
        raise ValueError(f"`origin` must be a URL of http, https, ftp or file, got {origin!r}; write it in full.")
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    print(f"Downloading {origin}", flush=True)
    try:
        try:
            with urllib.request.urlopen(origin, timeout=CONNECT_SECONDS) as source, open(temporary, "xb") as file:
                _copy(source, file, source.headers.get("Content-Length"))
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = getattr(error, "reason", None) or error
            raise ConnectionError(
                f"The file {target.name!r} is not in {str(target.parent)!r} with the right contents and can't be "
                f"downloaded from {origin} ({reason}); connect to the network, or copy the file there."
            ) from error
        if not _is_right(temporary, expected, algorithm):
            raise ValueError(
                f"The file from {origin} must have the {algorithm} {expected}, got another one; download it again, or "
                "correct `file_hash`."
            )
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _copy(
    source: IO[bytes] | http.client.HTTPResponse | urllib.response.addinfourl, file: IO[bytes], length: str | None
) -> None:
    total, done = int(length) if length else None, 0
    progress = Progbar(total, unit_name="byte", interval=0.5)
    while piece := source.read(PIECE):
        file.write(piece)
        done += len(piece)
        if total is None or done < total:
            progress.update(done)
    if total is not None and done != total:
        raise ConnectionError(f"it ended after {done} of {total} bytes")
    progress.update(done, finalize=True)


# ---------------------------------------------------------------- archives


def extract_archive(path: Path, folder: Path, archive_format: str | list[str] | None = "auto") -> None:
    """Extracts an archive into a folder; nothing is written outside it, and no links are made.

    A link in a tar archive becomes a copy of the member that it leads to.

    The files are written to a temporary folder first, whose contents then replace those of the same names.

    Args:
        path: A tar or zip archive.
        folder: The folder, which may exist.
        archive_format: "tar", "zip", a list of them, or "auto" for both.

    Raises:
        ValueError: If the file is no such archive, or a member is a device, has a path or a link that leads outside, or
            is implausibly large.
    """
    formats = ["tar", "zip"] if archive_format == "auto" else archive_format
    formats = [formats] if isinstance(formats, str) else list(formats or ())
    if not formats or not set(formats) <= {"tar", "zip"}:
        raise ValueError(
            f"`archive_format` must be 'auto', 'tar', 'zip' or a list of them, got {archive_format!r}; use 'auto'."
        )
    is_kind = {"tar": tarfile.is_tarfile, "zip": zipfile.is_zipfile}
    kind = next((kind for kind in formats if is_kind[kind](path)), None)
    if kind is None:
        raise ValueError(
            f"The file {str(path)!r} must be an archive of the format {' or '.join(formats)}, got another file; "
            "download it again, or leave `extract` out."
        )
    allowed = max(MAX_FREE_BYTES, path.stat().st_size * MAX_RATIO)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="extracting-") as temporary:
        try:
            for name, is_folder, source in (_tar_members if kind == "tar" else _zip_members)(path):
                allowed -= _write_member(path, Path(temporary), name, is_folder, source, allowed)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError, RuntimeError) as error:
            raise ValueError(
                f"The archive {str(path)!r} is damaged ({error}); delete it and download it again."
            ) from error
        _move_into(Path(temporary), folder)


def _tar_members(path: Path) -> Iterator[tuple[str, bool, IO[bytes] | None]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isdir():
                yield member.name, True, None
                continue
            source = None
            if member.isreg() or member.issym() or member.islnk():
                # The contents of a link are those of another member, so a link to anything else has none.
                with contextlib.suppress(KeyError):
                    source = archive.extractfile(member)
            if source is None:
                _refuse(path, member.name, "a device, or a link to something outside the archive")
            yield member.name, False, source


def _zip_members(path: Path) -> Iterator[tuple[str, bool, IO[bytes] | None]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            kind = (member.external_attr >> 16) & 0o170000
            if kind not in (0, 0o100000, 0o040000):
                _refuse(path, member.filename, "a device or a link")
            if member.is_dir():
                yield member.filename, True, None
                continue
            with archive.open(member) as source:
                yield member.filename, False, source


def _refuse(path: Path, member: str, why: str) -> NoReturn:
    raise ValueError(
        f"An archive must contain only files and folders with relative paths, got {why}, {member!r}, in {str(path)!r}; "
        "do not use this archive."
    )


def _write_member(path: Path, folder: Path, name: str, is_folder: bool, source: IO[bytes] | None, allowed: int) -> int:
    """Writes a member into a folder and returns its size."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in (parts.parts or ("",))[0]:
        _refuse(path, name, "a path outside the folder")
    target = folder.joinpath(*parts.parts)
    if is_folder or source is None:
        target.mkdir(parents=True, exist_ok=True)
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with open(target, "wb") as file:
        while piece := source.read(PIECE):
            size += len(piece)
            if size > allowed:
                _refuse(path, name, "an implausibly large file")
            file.write(piece)
    return size


def _move_into(source: Path, folder: Path) -> None:
    """Moves the contents of a folder into another one; files of the same name are replaced."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"The place for the extracted files must be a folder, got {str(folder)!r}; remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    for item in source.iterdir():
        place = folder / item.name
        if item.is_dir():
            _move_into(item, place)
        elif place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
            os.replace(item, place)
        else:
            os.replace(item, place)
