"""Files that are complete or absent: written under a temporary name, then renamed; on this machine or in a store.

A path with a scheme (gs://bucket/folder, s3://…, hdfs://…) goes through Beam's FileSystems; some of them need an extra
of Beam to be installed. Any other path is on this machine, and needs no Beam.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO

from htc_tf.flush import flush

TEMPORARY = ".tmp-"
CHECKSUM = "checksum"
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
    """Returns the path as any worker can use it: absolute and without links, if it is on this machine."""
    return os.fspath(path).rstrip("/") if is_remote(path) else os.path.realpath(path)


def is_folder(path: PathLike) -> bool:
    """True if the folder exists; in a store, which has no folders, if anything lies below the path."""
    if not is_remote(path):
        return os.path.isdir(path)
    return bool(_systems().match([join(path, "**")], limits=[1])[0].metadata_list)


def size(path: PathLike) -> int | None:
    """Returns the size of the file in bytes, or None if it does not exist."""
    if is_remote(path):
        found = _systems().match([os.fspath(path)])[0].metadata_list
        return found[0].size_in_bytes if found else None
    return os.path.getsize(path) if os.path.isfile(path) else None


def names(folder: PathLike, pattern: str) -> list[str]:
    """Returns the sorted names of the files in the folder that match the pattern."""
    if is_remote(folder):
        found = [base_name(row.path) for row in _systems().match([join(folder, "*")])[0].metadata_list]
    else:
        found = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(name for name in found if fnmatch(name, pattern))


def stamp_reader(folder: PathLike) -> Callable[[str], list[int] | None]:
    """Returns a function from the name of a file below the folder to its stamp, which changes whenever the file does.

    The stamp of a missing file is None. On this machine a stamp is size, modification and status change time in ns; in
    a store it is size and, if the store reports it, modification time, from a single listing of the folder.
    """
    if not is_remote(folder):
        return lambda name: _stamp(join(folder, name))
    found = _systems().match([join(folder, "**")])[0].metadata_list
    listing = {row.path: [row.size_in_bytes, int(row.last_updated_in_seconds * 1e9)] for row in found}
    return lambda name: listing.get(join(folder, name))


def make_folder(path: PathLike) -> None:
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)
    elif not _systems().exists(os.fspath(path)):
        _systems().mkdirs(os.fspath(path))


def remove(path: PathLike) -> None:
    """Removes the file if it exists."""
    if not is_remote(path):
        Path(path).unlink(missing_ok=True)
    elif _systems().exists(os.fspath(path)):
        _systems().delete([os.fspath(path)])


def open_to_read(path: PathLike) -> BinaryIO:
    """Opens a file as a binary stream.

    Raises:
        FileNotFoundError: The file does not exist. Other errors of a store are passed on, as they do not mean that.
    """
    if not is_remote(path):
        return open(path, "rb")
    path = os.fspath(path)
    # Stores raise different errors for a missing file, some only while reading.
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
def atomic_write(path: PathLike) -> Iterator[Path]:
    """Yields a local path to write to; it replaces `path` if the block ends without an error."""
    unfinished = f"{os.fspath(path)}{TEMPORARY}{uuid.uuid4().hex}"
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder, base_name(path))
            yield local
            _upload(local, unfinished, os.fspath(path))
        return
    try:
        yield Path(unfinished)
        # Some file systems report an exhausted disk or quota only now; and after a loss of power the file must be
        # complete or absent, so its data are in permanent storage before it gets its name.
        with open(unfinished, "rb+") as file:
            flush(file.fileno())
        os.replace(unfinished, path)
    finally:
        remove(unfinished)


def remove_temporaries(folder: PathLike) -> None:
    """Removes the unfinished files of killed runs."""
    for name in names(folder, f"*{TEMPORARY}*"):
        if re.search(rf"{re.escape(TEMPORARY)}[0-9a-f]{{32}}$", name):  # a UUID: not a user's file
            remove(join(folder, name))


def write_json(path: PathLike, content: Any) -> None:
    """Writes JSON, unless the file has the same content already: a finished folder may be read-only."""
    encoded = (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
    if not _holds(path, encoded):
        with atomic_write(path) as temporary:
            temporary.write_bytes(encoded)


def write_json_lines(path: PathLike, rows: list[Any]) -> str:
    """Writes JSON lines, unless the file has the same content already; returns the sha256 of the content."""
    encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode
    encoded = "".join(encode(row) + "\n" for row in rows).encode(errors="backslashreplace")  # lone surrogates
    if not _holds(path, encoded):
        with atomic_write(path) as temporary:
            temporary.write_bytes(encoded)
    return hashlib.sha256(encoded).hexdigest()


def write_checksummed_json(path: PathLike, content: dict[str, Any]) -> None:
    """Writes JSON with a checksum inside, so that even damage that is still valid JSON is noticed."""
    write_json(path, content | {CHECKSUM: _checksum(content)})


def read_checksummed_json(path: PathLike) -> dict[str, Any] | None:
    """Returns the content without its checksum, or None if the file is missing or damaged."""
    content = read_json(path)
    if not isinstance(content, dict) or content.pop(CHECKSUM, None) != _checksum(content):
        return None
    return content


def read_json(path: PathLike) -> Any:
    """Returns the content, or None if the file is missing or not JSON."""
    try:
        return json.loads(read_bytes(path))
    except (OSError, ValueError):
        if is_remote(path) and size(path):
            raise
        return None


def sha256(path: PathLike) -> str:
    """Returns the file's digest in hexadecimal."""
    digest = hashlib.sha256()
    with open_to_read(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe_error(error: Exception, path: PathLike) -> str:
    """Describes in one line why a file cannot be read or written.

    Args:
        error: An OSError, or one of TensorFlow's errors.
        path: The file, if the error does not name one.
    """
    name = getattr(error, "filename", None)
    name = path if name is None or isinstance(name, int) else name
    # TensorFlow's errors have the message of its file system in `message`.
    why = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error) or type(error).__name__
    name, why = (re.sub(rf"{re.escape(TEMPORARY)}[0-9a-f]+", "", text) for text in (os.fsdecode(name), str(why)))
    return " ".join(f"{name}: {why.removeprefix(f'{name}; ')}".split())


def _stamp(path):
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError if no file can have such a name
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _holds(path, encoded):
    try:
        return size(path) == len(encoded) and read_bytes(path) == encoded
    except FileNotFoundError:
        return False


def _checksum(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _upload(local, unfinished, path):
    try:
        with open(local, "rb") as source, _systems().create(unfinished, compression_type="uncompressed") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        remove(path)  # not every store can rename onto an existing file
        _systems().rename([unfinished], [path])
    except BaseException:
        with contextlib.suppress(Exception):
            remove(unfinished)
        raise


def _systems():
    from apache_beam.io.filesystems import FileSystems

    return FileSystems
