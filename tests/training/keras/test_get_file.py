"""`keras.utils.get_file`: the cache, checksums, and extraction; downloads are from `file:` URLs."""

import hashlib
import io
import pathlib
import stat
import tarfile
import zipfile

import pytest

from training import keras
from training.keras.utils import files

DATA = b"some data\n"
SHA, MD5 = hashlib.sha256(DATA).hexdigest(), hashlib.md5(DATA).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def origin(tmp_path):
    (tmp_path / "origin").mkdir()
    (tmp_path / "origin" / "data.txt").write_bytes(DATA)
    return tmp_path / "origin" / "data.txt"


def tar_of(path, *members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content
                archive.addfile(member)
    return path


def refusal(call, kind=ValueError):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def test_file_is_downloaded_once_and_verified(cache, origin, capsys):
    url = origin.as_uri()
    path = keras.utils.get_file(origin=url, file_hash=SHA)
    assert path == str(cache / "datasets" / "data.txt") and pathlib.Path(path).read_bytes() == DATA
    assert f"Downloading {url}\n" in capsys.readouterr().out
    origin.unlink()
    for hashes in ({"file_hash": SHA}, {"md5_hash": MD5}, {"file_hash": MD5, "hash_algorithm": "md5"}, {}):
        assert keras.utils.get_file("data.txt", url, **hashes) == path
    assert capsys.readouterr().out == ""
    assert sorted(p.name for p in (cache / "datasets").iterdir()) == ["data.txt"]


def test_damaged_file_is_replaced(cache, origin):
    url = origin.as_uri()
    path = keras.utils.get_file("data.txt", url, cache_subdir="here")
    with open(path, "wb") as file:
        file.write(b"damaged")
    assert keras.utils.get_file("data.txt", url, cache_subdir="here", file_hash=SHA) == path
    assert pathlib.Path(path).read_bytes() == DATA
    origin.write_bytes(b"new")
    keras.utils.get_file("data.txt", url, cache_subdir="here", force_download=True)
    assert pathlib.Path(path).read_bytes() == b"new"


def test_other_cache(tmp_path, origin):
    path = keras.utils.get_file("x", origin.as_uri(), cache_dir=tmp_path / "other", cache_subdir="sub")
    assert path == str(tmp_path / "other" / "sub" / "x")


def test_missing_file_names_file_and_folder(cache, origin):
    url = origin.with_name("absent.txt").as_uri()
    sentence = refusal(lambda: keras.utils.get_file(origin=url), ConnectionError)
    assert sentence.startswith(
        f"The file 'absent.txt' is not in {str(cache / 'datasets')!r} with the right contents and can't be downloaded "
        f"from {url} ("
    )
    assert sentence.endswith("); connect to the network, or copy the file there.")
    assert list((cache / "datasets").iterdir()) == []


def test_wrong_checksum_is_refused(cache, origin):
    url, wrong = origin.as_uri(), "0" * 64
    assert refusal(lambda: keras.utils.get_file(origin=url, file_hash=wrong)) == (
        f"The file from {url} must have the sha256 {wrong}, got another one; download it again, or correct `file_hash`."
    )
    assert list((cache / "datasets").iterdir()) == []


def test_wrong_arguments_are_refused(cache, origin):
    url = origin.as_uri()
    assert refusal(lambda: keras.utils.get_file("x")) == "`origin` must be the URL of the file, got None; pass it."
    for name in ("a/b", "..", "."):
        assert refusal(lambda: keras.utils.get_file(name, url)) == (  # noqa: B023
            f"`fname` must be the name of a file without folders, got {name!r}; name its folder in `cache_dir` and "
            "`cache_subdir`."
        )
    assert refusal(lambda: keras.utils.get_file(origin=url, hash_algorithm="sha1")) == (
        "`hash_algorithm` must be 'auto', 'md5' or 'sha256', got 'sha1'; use 'auto'."
    )
    assert refusal(lambda: keras.utils.get_file("x", "data:,abc")) == (
        "`origin` must be a URL of http, https, ftp or file, got 'data:,abc'; write it in full."
    )


@pytest.mark.parametrize(
    ("fname", "folder"), [(None, "set.tgz"), ("set.tgz", "set_extracted"), ("set", "set")], ids=str
)
def test_archives_are_extracted_where_keras_extracts_them(cache, tmp_path, fname, folder):
    source = tar_of(tmp_path / "set.tgz", ("top/a.txt", DATA), ("top/link", (tarfile.SYMTYPE, "a.txt")))
    path = keras.utils.get_file(fname, source.as_uri(), extract=True)
    assert path == str(cache / "datasets" / folder)
    for name in ("a.txt", "link"):  # a link is a copy
        file = cache / "datasets" / folder / "top" / name
        assert file.read_bytes() == DATA and not file.is_symlink()
    # Again, from the cache
    source.unlink()
    assert keras.utils.get_file(fname, source.as_uri(), untar=True) == path


def test_zip_archives_are_extracted(cache, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("top/a.txt", DATA)
        archive.writestr("empty/", b"")
    path = keras.utils.get_file("set.zip", (tmp_path / "set.zip").as_uri(), extract=True)
    assert (cache / "datasets" / "set_extracted" / "top" / "a.txt").read_bytes() == DATA
    assert (cache / "datasets" / "set_extracted" / "empty").is_dir() and path.endswith("set_extracted")


UNSAFE = {
    "parent": ("../evil", DATA),
    "inner parent": ("a/../../evil", DATA),
    "absolute": ("/tmp/evil", DATA),
    "link out": ("link", (tarfile.SYMTYPE, "/etc/passwd")),
    "link to parent": ("link", (tarfile.SYMTYPE, "../../secret")),
    "hard link out": ("link", (tarfile.LNKTYPE, "/etc/passwd")),
    "device": ("fifo", (tarfile.FIFOTYPE, "")),
}


@pytest.mark.spread
@pytest.mark.parametrize("kind", UNSAFE)
def test_unsafe_archives_write_nothing(tmp_path, kind):
    path = tar_of(tmp_path / "evil.tgz", ("good", DATA), UNSAFE[kind])
    name, content = UNSAFE[kind]
    why = "a path outside the folder" if isinstance(content, bytes) else (
        "a device, or a link to something outside the archive"
    )  # fmt: skip
    sentence = refusal(lambda: files.extract_archive(path, tmp_path / "out"))
    assert sentence == (
        f"An archive must contain only files and folders with relative paths, got {why}, {name!r}, in {str(path)!r}; "
        "do not use this archive."
    )
    assert [p.name for p in tmp_path.iterdir()] == ["evil.tgz"]


def test_unsafe_zip_archives_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    for member in (link, zipfile.ZipInfo("../evil")):
        with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
            archive.writestr(member, "/etc/passwd")
        assert "do not use this archive." in refusal(
            lambda: files.extract_archive(tmp_path / "evil.zip", tmp_path / "out")
        )
        assert [p.name for p in tmp_path.iterdir()] == ["evil.zip"]


def test_too_large_archives_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_FREE_BYTES", 100)
    monkeypatch.setattr(files, "MAX_RATIO", 2)
    path = tar_of(tmp_path / "bomb.tgz", ("zeros", bytes(100_000)))
    assert "an implausibly large file" in refusal(lambda: files.extract_archive(path, tmp_path / "out"))


def test_files_that_are_no_archives_are_refused(tmp_path):
    (tmp_path / "x").write_bytes(DATA)
    assert refusal(lambda: files.extract_archive(tmp_path / "x", tmp_path / "out")) == (
        f"The file {str(tmp_path / 'x')!r} must be an archive of the format tar or zip, got another file; download it "
        "again, or leave `extract` out."
    )
    assert refusal(lambda: files.extract_archive(tmp_path / "x", tmp_path / "out", "rar")) == (
        "`archive_format` must be 'auto', 'tar', 'zip' or a list of them, got 'rar'; use 'auto'."
    )


def test_damaged_archives_are_refused(tmp_path):
    path = tar_of(tmp_path / "x.tgz", ("a", bytes(range(256)) * 1000))
    path.write_bytes(path.read_bytes()[:-300])
    assert "is damaged (" in refusal(lambda: files.extract_archive(path, tmp_path / "out"))
