"""Record walk: reads ids, labels and areas of all records of a shard without reading their images.

Nine tenths of a record are its image, which TensorFlow's reader would read completely. A serialized record is a map
with each entry's length before its content, so entries can be skipped: of COCO's 19 gigabytes, one is read. The
remaining entries are parsed by protobuf, as a smaller map. `data.class_balance` and the dataset browser's index use it.
"""

import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError

from htc_tf.data import schema

FRAME_BEFORE, FRAME_AFTER = 12, 4  # bytes: length and its checksum before a record, the record's checksum after it
FIELD_1 = 0x0A  # protobuf's tag of field number 1 with length-delimited content

_KEYS = {field.name: field.key for field in (*schema.IMAGE_FIELDS, *schema.OBJECT_FIELDS)}
_WANTED = {_KEYS[name].encode() for name in ("source_id", "label", "area", "is_crowd")}


class Numbers(NamedTuple):
    """The numbers read from a record."""

    offset: int  # of its first byte in the shard
    length: int  # bytes
    image_id: int
    labels: list  # COCO's category id of each object
    areas: list  # square pixels
    crowd: list  # 1 or 0


class Damaged(Exception):
    """The bytes are not records of this format."""


def open_shard(path):
    """Returns the bytes of a shard: a local file memory-mapped, a remote file read at once."""
    if "://" in path:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    with open(path, "rb") as file:
        if not file.seek(0, 2):
            return b""
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):
        buffer.madvise(mmap.MADV_RANDOM)  # otherwise the system's read-ahead reads the images as well
    return buffer


def walk(buffer) -> Iterator[Numbers]:
    """Yields the Numbers of each record.

    Raises:
        Damaged: The bytes after the last yielded record are not a record. Damage inside an image is not detected.
    """
    position = 0
    try:
        while position < len(buffer):
            (length,) = struct.unpack_from("<Q", buffer, position)
            offset = position + FRAME_BEFORE
            position = offset + length + FRAME_AFTER
            if position > len(buffer):
                raise Damaged("it is cut short")
            features = _take_features(buffer, offset)
            yield Numbers(
                offset,
                length,
                int(features[_KEYS["source_id"]].bytes_list.value[0]),
                list(features[_KEYS["label"]].int64_list.value),
                list(features[_KEYS["area"]].float_list.value),
                list(features[_KEYS["is_crowd"]].int64_list.value),
            )
    except (struct.error, IndexError, ValueError, DecodeError) as error:
        raise Damaged(str(error)) from error


def _take_features(buffer, position):
    """Returns the wanted features, by key, of the tf.train.Example at a position."""
    position, end = _enter(buffer, position)
    wanted = []
    while position < end:
        start, (inner, position) = position, _enter(buffer, position)
        key = slice(*_enter(buffer, inner))
        if buffer[key] in _WANTED:
            wanted.append(buffer[start:position])
    return tf.train.Features.FromString(b"".join(wanted)).feature


def _enter(buffer, position):
    """Returns start and end of the content of a field: Example.features, one of its entries, or an entry's key."""
    if buffer[position] != FIELD_1:
        raise ValueError("it is not a map of features")
    length = shift = 0
    while True:
        position += 1
        length |= (buffer[position] & 127) << shift
        shift += 7
        if shift > 63:
            raise ValueError("it has a length of more than 63 bits")
        if buffer[position] < 128:
            return position + 1, position + 1 + length
