"""Checkpoint files of PyTorch and Paddle, without PyTorch and without Paddle: from bytes to names and arrays.

Comes first when weights are converted. PyTorch >= 1.6 writes a zip archive: a pickle, and beside it each storage as a
file. Before that it wrote a row of pickles (magic number, version, machine, the object, the storages' keys), then the
storages. Paddle writes a single pickle that holds NumPy's arrays.
"""

import contextlib
import io
import struct
import zipfile
from pathlib import Path

import numpy as np

from htc_tf.engine.weights.pickles import ArrayUnpickler
from htc_tf.errors import UserError

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001


def read(path):
    """The object that a checkpoint file holds: containers, numbers, strings, and arrays that `collect` brings out.

    Raises:
        UserError: no such file, a damaged one, or one that names anything but arrays.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    with naming(path):
        return read_zip(data, path) if data.startswith(ZIP_MAGIC) else read_pickles(data, path)


def collect(named, path):
    """{name: what stands for an array} -> {name: array}, every fraction as float32.

    Raises:
        UserError: what stands there is no array, or leaves its storage.
    """
    arrays = {}
    for name, value in named.items():
        # Paddle gives a tensor as (its inner name, array) too.
        value = value[1] if type(value) is tuple and len(value) == 2 else value
        if not hasattr(value, "array"):
            raise UserError(f"{path}: {name} is no array but a {type(value).__name__}")
        with naming(f"{path}: {name}"):
            array = value.array()
            # In a copy that is contiguous, wherever it came from.
            arrays[name] = np.array(array, np.int64 if array.dtype.kind in "biu" else np.float32, order="C")
    return arrays


def read_zip(data, path):
    """An archive NAME/data.pkl, NAME/data/KEY, and perhaps NAME/byteorder."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    (pickled,) = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
    folder = pickled.removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("numbers with the large end first")
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise ValueError("a compressed archive, as PyTorch writes none")
    unpickler = ArrayUnpickler(io.BytesIO(archive.read(pickled)), path)
    content = unpickler.load()
    for key, storage in unpickler.storages.items():
        storage.fetch = lambda name=f"{folder}data/{key}": archive.read(name)
    return content


def read_pickles(data, path):
    """The older format of PyTorch, or, without its magic number, Paddle's single pickle."""
    file = io.BytesIO(data)
    content = ArrayUnpickler(file, path).load()
    if content != LEGACY_MAGIC:
        return content
    version, machine = ArrayUnpickler(file, path).load(), ArrayUnpickler(file, path).load()
    if version != LEGACY_VERSION or not machine["little_endian"]:
        raise ValueError(f"version {version} on {machine}")
    unpickler = ArrayUnpickler(file, path)
    content = unpickler.load()
    keys = ArrayUnpickler(file, path).load()
    view, position = memoryview(data), file.tell()
    for key in keys:
        storage = unpickler.storages[key]
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
