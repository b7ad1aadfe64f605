"""Checkpoint files of PyTorch, Paddle and safetensors, read without PyTorch or Paddle: from bytes to named arrays.

PyTorch >= 1.6 writes a zip archive: a pickle, and each storage as a file beside it. Older versions wrote a sequence of
pickles (magic number, version, machine, the object, the keys of the storages), then the storages. Paddle writes a
single pickle with NumPy arrays. Any of them may be packed into a zip archive once more, as some authors publish them.
No size that a file states is believed beyond the bytes that it has.
"""

import contextlib
import functools
import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from htc_tf.errors import UserError
from htc_tf.weights.other_files import check_kind, check_path
from htc_tf.weights.pickled_arrays import Inert, check_key
from htc_tf.weights.pickles import ArrayUnpickler, Budget
from htc_tf.weights.safetensors_files import is_safetensors, read_safetensors

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
SUFFIXES = (".pth", ".pt", ".pdparams", ".safetensors")  # of checkpoints in an archive
ZIP_ENTRY = b"PK\x01\x02"
MAX_MEMBERS = 100_000  # files in an archive
# Bytes of all arrays, as a multiple of the bytes stored for them: float16 doubles, and a few names may share a storage.
MAX_EXPANSION = 4
SLACK = 1 << 20  # bytes that small checkpoints may take anyway


def read(path: str | os.PathLike) -> Any:
    """Returns the object in a checkpoint file: containers, numbers, strings, and stored arrays for `collect`.

    Raises:
        UserError: The file is missing, damaged or of another kind, or names a global that runs commands.
    """
    try:
        check_path(path)
        data = Path(path).read_bytes() if stat.S_ISREG(os.stat(path).st_mode) or Path(path).is_dir() else None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    if data is None:
        raise UserError(f"{path} cannot be read: it is a device or a pipe, not a file")
    return decode(data, path)


def decode(data: bytes, path: str | os.PathLike, packed: bool = False) -> Any:
    """Returns the object in the bytes of a checkpoint file.

    Args:
        data: Bytes.
        path: Path of the file, for messages.
        packed: If True, the bytes come out of a zip archive, and are not unpacked again.
    """
    if not is_safetensors(data):
        check_kind(data, path)
    with reading(path):
        if is_safetensors(data):
            return read_safetensors(data)
        return read_zip(data, path, packed) if data.startswith(ZIP_MAGIC) else read_pickles(data, path)


def collect(named: Mapping[str, Any], path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns {name: array} of {name: stored array}: floating point numbers as float32, integers as int64.

    Raises:
        UserError: A value is not an array, or reaches beyond its storage; or all arrays together need more than four
            times the bytes stored for them, because many names share one storage.
    """
    arrays, sources, held, made = {}, set(), 0, 0
    for name, value in named.items():
        # Paddle also stores a tensor as (inner name, array).
        value = value[1] if type(value) is tuple and len(value) == 2 else value
        if isinstance(value, Inert):
            raise UserError(
                f"{path}: {name} is not an array but an object of {value.name}: save only the weights with their own "
                "framework: torch.save(model.state_dict(), NEW)"
            )
        if not hasattr(value, "array"):
            raise UserError(f"{path}: {name} is not an array but a {type(value).__name__}")
        with reading(f"{path}: {name}"):
            array = value.array()
            dtype = np.dtype(np.int64 if array.dtype.kind in "biu" else np.float32)
            source, size = value.source()
            held += size if id(source) not in sources else 0
            sources.add(id(source))
            made += array.size * dtype.itemsize
            if made > MAX_EXPANSION * held + SLACK:
                raise ValueError(f"{made} bytes of arrays from {held} stored: too many names share a storage")
            # A contiguous copy, which does not keep the file's bytes in memory; what float32 cannot hold is infinite.
            with np.errstate(over="ignore", invalid="ignore"):
                arrays[name] = np.array(array, dtype, order="C")
    return arrays


def read_zip(data: bytes, path: str | os.PathLike, packed: bool) -> Any:
    """Reads the format since PyTorch 1.6: an archive of NAME/data.pkl, NAME/data/KEY and perhaps NAME/byteorder."""
    if data.count(ZIP_ENTRY) > MAX_MEMBERS:
        raise ValueError(f"more than {MAX_MEMBERS} files in one archive")
    archive = zipfile.ZipFile(io.BytesIO(data))
    members = {info.filename: info for info in archive.infolist()}
    checkpoints = [info for info in archive.infolist() if is_checkpoint(info.filename)]
    if checkpoints and not packed:
        return decode(unpack(archive, checkpoints, len(data)), path, packed=True)
    if any(name.endswith("/constants.pkl") for name in members):
        raise ValueError("a program of TorchScript, save the weights instead: torch.save(model.state_dict(), NEW)")
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise ValueError("a compressed archive, which PyTorch never writes")
    if sum(info.file_size for info in archive.infolist()) > len(data):
        raise ValueError("files that overlap in the archive")
    pickled = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickled) != 1:
        raise ValueError("an archive without a checkpoint of PyTorch")
    folder = pickled[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("big-endian numbers")
    unpickler = ArrayUnpickler(io.BytesIO(archive.read(pickled[0])), path, Budget(len(data)))
    content = unpickler.load()
    for key, storage in unpickler.storages.items():
        storage.fetch = functools.cache(lambda name=f"{folder}data/{key}": member_bytes(data, members[name]))
    return content


def is_checkpoint(name: str) -> bool:
    """Returns True for the name of a checkpoint in an archive; macOS adds a folder of its own with the same names."""
    return name.endswith(SUFFIXES) and not name.startswith("__MACOSX/")


def unpack(archive: zipfile.ZipFile, checkpoints: Sequence[zipfile.ZipInfo], size: int) -> bytes:
    """Returns the bytes of the only checkpoint in a zip archive of `size` bytes."""
    if len(checkpoints) > 1:
        raise ValueError(f"{len(checkpoints)} checkpoints in one archive, unpack it and name one of them")
    (info,) = checkpoints
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("an archive of another compression than deflate")
    if info.file_size > MAX_EXPANSION * size + SLACK:
        raise ValueError(f"{info.file_size} bytes packed into {size}")
    return archive.read(info)


def member_bytes(data: bytes, info: zipfile.ZipInfo) -> memoryview:
    """Returns the bytes of an uncompressed file in an archive as a view, since many tensors may share it.

    Args:
        data: Bytes of the archive.
        info: The file's zipfile.ZipInfo.
    """
    # PKWARE's APPNOTE.TXT, 4.3.7: a header of 30 bytes, which ends with the lengths of the name and the extra field.
    name, extra = struct.unpack_from("<HH", data, info.header_offset + 26)
    start = info.header_offset + 30 + name + extra
    part = memoryview(data)[start : start + info.file_size]
    if len(part) != info.file_size or zlib.crc32(part) != info.CRC:
        raise ValueError(f"{info.filename} is truncated or changed")
    return part


def read_pickles(data: bytes, path: str | os.PathLike) -> Any:
    """Reads the older format of PyTorch or, without its magic number, the single pickle of Paddle."""
    file, budget = io.BytesIO(data), Budget(len(data))
    content = ArrayUnpickler(file, path, budget).load()
    if content != LEGACY_MAGIC:
        return content
    version, machine = (ArrayUnpickler(file, path, budget).load() for _ in range(2))
    if version != LEGACY_VERSION or not machine["little_endian"]:
        raise ValueError("a version other than 1001, or big-endian numbers")
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
            raise ValueError(f"storage {key} is truncated")
        storage.fetch = lambda part=slice(start, position): view[part]
    return content


@contextlib.contextmanager
def reading(what: object) -> Iterator[None]:
    """Turns any exception into a UserError that names the file, since damaged bytes can raise anything."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UserError(
            f"{what} is damaged or not a checkpoint of PyTorch, Paddle or safetensors ({reason})"
        ) from error
