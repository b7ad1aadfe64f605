"""Checkpoint files of PyTorch and Paddle, without PyTorch and without Paddle: from bytes to names and arrays.

Comes first when weights are converted. A size that a file claims counts only as far as its bytes are there. PyTorch >=
1.6 writes a zip archive: a pickle, and beside it each storage as a file. Before that it wrote a row of pickles (magic
number, version, machine, the object, the storages' keys), then the storages. Paddle writes a single pickle that holds
NumPy's arrays.
"""

import contextlib
import functools
import io
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from htc_tf.errors import UserError
from htc_tf.weights.pickled_arrays import check_key
from htc_tf.weights.pickles import ArrayUnpickler, Budget

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
ZIP_ENTRY = b"PK\x01\x02"
MOST_MEMBERS = 100_000  # of an archive
# Bytes of all arrays, by those of what they are made of: float16 doubles, and a few names may share a storage.
MOST_BYTES = 4
SLACK = 1 << 20  # bytes, for small ones


def read(path):
    """The object that a checkpoint file holds: containers, numbers, strings, and arrays that `collect` brings out.

    Raises:
        UserError: no such file, a damaged one, or one that names anything but arrays.
    """
    try:
        data = Path(path).read_bytes() if stat.S_ISREG(os.stat(path).st_mode) or Path(path).is_dir() else None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if data is None:
        raise UserError(f"{path} cannot be read: it is no file but a device or a pipe")
    with naming(path):
        return read_zip(data, path) if data.startswith(ZIP_MAGIC) else read_pickles(data, path)


def collect(named, path):
    """{name: what stands for an array} -> {name: array}, every fraction as float32, whole numbers as int64.

    Raises:
        UserError: what stands there is no array, or leaves its storage; or all together have more than four times the
            bytes that they are made of, as where many names share one storage.
    """
    arrays, sources, held, made = {}, set(), 0, 0
    for name, value in named.items():
        # Paddle gives a tensor as (its inner name, array) too.
        value = value[1] if type(value) is tuple and len(value) == 2 else value
        if not hasattr(value, "array"):
            raise UserError(f"{path}: {name} is no array but a {type(value).__name__}")
        with naming(f"{path}: {name}"):
            array = value.array()
            dtype = np.dtype(np.int64 if array.dtype.kind in "biu" else np.float32)
            source, size = value.source()
            held += size if id(source) not in sources else 0
            sources.add(id(source))
            made += array.size * dtype.itemsize
            if made > MOST_BYTES * held + SLACK:
                raise ValueError(f"{made} bytes of arrays made of {held}: too many names share a storage")
            # In a copy that is contiguous, wherever it came from.
            arrays[name] = np.array(array, dtype, order="C")
    return arrays


def read_zip(data, path):
    """An archive NAME/data.pkl, NAME/data/KEY, and perhaps NAME/byteorder."""
    if data.count(ZIP_ENTRY) > MOST_MEMBERS:
        raise ValueError(f"more than {MOST_MEMBERS} files in one archive")
    archive = zipfile.ZipFile(io.BytesIO(data))
    members = {info.filename: info for info in archive.infolist()}
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise ValueError("a compressed archive, as PyTorch writes none")
    if sum(info.file_size for info in archive.infolist()) > len(data):
        raise ValueError("files that overlap in the archive")
    (pickled,) = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
    folder = pickled.removesuffix("data.pkl")
    if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("numbers with the large end first")
    unpickler = ArrayUnpickler(io.BytesIO(archive.read(pickled)), path, Budget(len(data)))
    content = unpickler.load()
    for key, storage in unpickler.storages.items():
        storage.fetch = functools.cache(lambda name=f"{folder}data/{key}": stored(data, members[name]))
    return content


def stored(data, info):
    """The bytes of an archive's uncompressed file, as a view: many tensors may look at one.

    Args:
        data: bytes of the archive.
        info: zipfile.ZipInfo.
    """
    # APPNOTE.TXT of PKWARE, 4.3.7: a header of 30 bytes, the file's name, an extra field.
    name, extra = struct.unpack_from("<HH", data, info.header_offset + 26)
    start = info.header_offset + 30 + name + extra
    part = memoryview(data)[start : start + info.file_size]
    if len(part) != info.file_size or zlib.crc32(part) != info.CRC:
        raise ValueError(f"{info.filename} is cut or changed")
    return part


def read_pickles(data, path):
    """The older format of PyTorch, or, without its magic number, Paddle's single pickle."""
    file, budget = io.BytesIO(data), Budget(len(data))
    content = ArrayUnpickler(file, path, budget).load()
    if content != LEGACY_MAGIC:
        return content
    version, machine = (ArrayUnpickler(file, path, budget).load() for _ in range(2))
    if version != LEGACY_VERSION or not machine["little_endian"]:
        raise ValueError("another version than 1001, or numbers with the large end first")
    unpickler = ArrayUnpickler(file, path, budget)
    content = unpickler.load()
    keys = ArrayUnpickler(file, path, budget).load()
    view, position = memoryview(data), file.tell()
    for key in keys:
        storage = unpickler.storages[check_key(key)]
        (count,) = struct.unpack_from("<q", data, position)
        start = position + 8
        position = start + storage.count * storage.dtype.itemsize
        if count != storage.count or position > len(data):
            raise ValueError(f"storage {key} is cut short")
        storage.fetch = lambda part=slice(start, position): view[part]
    return content


@contextlib.contextmanager
def naming(what):
    """Damaged bytes can raise anything: whatever it is, it becomes a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UserError(f"{what} is damaged, or no checkpoint of PyTorch or Paddle ({reason})") from error
