"""Files that are whole or absent: written under another name, then renamed; here, or in a store that Beam can reach.

Used by every step of the preparation; knows nothing of records. A path with a scheme (gs://bucket/folder, s3://…,
hdfs://…) goes through Beam's FileSystems, of which some need an extra of Beam to be installed; any other path is of
this machine, and needs no Beam.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY = ".tmp-"
SCHEME = "://"
PathLike = str | os.PathLike


def is_remote(path: PathLike) -> bool:
    return SCHEME in (path := os.fspath(path)) and not os.path.isabs(path)


def join(folder: PathLike, *names: str) -> str:
    folder = os.fspath(folder)
    return "/".join((folder.rstrip("/"), *names)) if is_remote(folder) else os.path.join(folder, *names)


def base_name(path: PathLike) -> str:
    return os.fspath(path).rstrip("/").rpartition("/")[2]


def resolve(path: PathLike) -> str:
    """The path as any worker may use it: real and absolute if it is of this machine."""
    return os.fspath(path).rstrip("/") if is_remote(path) else os.path.realpath(path)


def is_folder(path: PathLike) -> bool:
    """Whether there is such a folder; in a store, which has none, whether anything lies below the path."""
    if not is_remote(path):
        return os.path.isdir(path)
    return bool(_systems().match([join(path, "**")], limits=[1])[0].metadata_list)


def size(path: PathLike) -> int | None:
    """Bytes of the file, or None where there is none."""
    if is_remote(path):
        found = _systems().match([os.fspath(path)])[0].metadata_list
        return found[0].size_in_bytes if found else None
    return os.path.getsize(path) if os.path.isfile(path) else None


def names(folder: PathLike, pattern: str) -> list[str]:
    """Names of the files in the folder that fit the pattern, in order."""
    if is_remote(folder):
        found = [base_name(row.path) for row in _systems().match([join(folder, "*")])[0].metadata_list]
    else:
        found = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(name for name in found if fnmatch(name, pattern))


def make_folder(path: PathLike) -> None:
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)
    elif not _systems().exists(os.fspath(path)):
        _systems().mkdirs(os.fspath(path))


def remove(path: PathLike) -> None:
    """Removes the file if it is there."""
    if not is_remote(path):
        Path(path).unlink(missing_ok=True)
    elif _systems().exists(os.fspath(path)):
        _systems().delete([os.fspath(path)])


def open_to_read(path: PathLike) -> BinaryIO:
    """The file's bytes as a stream.

    Raises:
      FileNotFoundError: there is none. Whatever else a store raises is passed on: its refusal says nothing of the data.
    """
    if not is_remote(path):
        return open(path, "rb")
    path = os.fspath(path)
    # Stores differ in what they raise for a missing file, and when.
    if not _systems().exists(path):
        raise FileNotFoundError(errno.ENOENT, "no such file", path)
    return _systems().open(path, compression_type="uncompressed")


def read_bytes(path: PathLike) -> bytes:
    with open_to_read(path) as file:
        return file.read()


def read_lines(path: PathLike) -> Iterator[str]:
    with io.TextIOWrapper(open_to_read(path), encoding="utf-8") as file:
        yield from file


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Yields a local path to write to; the file takes the place of `path` when the block ends without an error."""
    unfinished = f"{os.fspath(path)}{TEMPORARY}{uuid.uuid4().hex}"
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder, base_name(path))
            yield local
            _upload(local, unfinished, os.fspath(path))
        return
    try:
        yield Path(unfinished)
        os.replace(unfinished, path)
    finally:
        remove(unfinished)


def remove_temporaries(folder: PathLike) -> None:
    """Removes what a killed run left half written."""
    for name in names(folder, f"*{TEMPORARY}*"):
        remove(join(folder, name))


def write_json(path: PathLike, content: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_json_lines(path: PathLike, rows: list[Any]) -> None:
    encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(encode(row) + "\n" for row in rows)


def read_json(path: PathLike) -> Any:
    """The content, or None where there is no such file or it is no JSON."""
    try:
        return json.loads(read_bytes(path))
    except (OSError, ValueError):
        if is_remote(path) and size(path):
            raise
        return None


def sha256(path: PathLike) -> str:
    """The file's digest, in hexadecimal."""
    digest = hashlib.sha256()
    with open_to_read(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _upload(local, unfinished, path):
    try:
        with open(local, "rb") as source, _systems().create(unfinished, compression_type="uncompressed") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        remove(path)  # Not every store renames onto a file that is there.
        _systems().rename([unfinished], [path])
    except BaseException:
        with contextlib.suppress(Exception):
            remove(unfinished)
        raise


def _systems():
    from apache_beam.io.filesystems import FileSystems

    return FileSystems
