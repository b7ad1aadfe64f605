"""Record walk: reads ids, sizes, classes, areas and boxes of all records of a shard without reading their images.

Nine tenths of a record are its image, which TensorFlow's reader would read completely. A serialized record is a map
with each entry's length before its content, so entries can be skipped: of COCO's 19 gigabytes, one is read. The
remaining entries are parsed by protobuf, as a smaller map. `data.shard_index` walks the shards that have no index file.
"""

import mmap
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError

from htc_tf.data import schema
from htc_tf.data.record import Image, Object

FRAME_BEFORE, FRAME_AFTER = 12, 4  # bytes: length and its checksum before a record, the record's checksum after it
MAX_LENGTH = 2**31  # bytes; protobuf parses nothing longer
FIELD_1 = 0x0A  # protobuf's tag of field number 1 with length-delimited content
SIDES = ("ymin", "xmin", "ymax", "xmax")

_KEYS = {field.name: field.key for field in (*schema.IMAGE_FIELDS, *schema.OBJECT_FIELDS)}
_WANTED = {_KEYS[name].encode() for name in ("source_id", "height", "width", "label", "is_crowd", "area", *SIDES)}


class Numbers(NamedTuple):
    """The numbers of a record with G objects."""

    length: int  # bytes
    image_id: int
    height: int  # pixels
    width: int
    labels: list[int]  # [G], COCO's category ids
    crowd: list[int]  # [G], 1 or 0
    areas: list[float]  # [G], square pixels
    sides: list[list[float]]  # 4 lists [G]: top, left, bottom and right of the boxes, 0 ... 1


class Damaged(Exception):
    """The bytes are not records of this format."""


def numbers_of(length: int, image: Image, objects: Iterable[Object]) -> Numbers:
    """Returns the Numbers of a record of `length` bytes, from its `schema.Image` and `schema.Object`s."""
    labels, crowd, areas, *sides = (
        [getattr(item, name) for item in objects] for name in ("label", "is_crowd", "area", *SIDES)
    )
    return Numbers(length, image.source_id, image.height, image.width, labels, crowd, areas, sides)


def open_shard(path: str) -> bytes | mmap.mmap:
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


def walk(buffer: bytes | mmap.mmap) -> Iterator[Numbers]:
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
            if length >= MAX_LENGTH:
                raise Damaged("it has a record of more than 2 GiB")
            yield _numbers(length, _take_features(buffer, offset, offset + length))
    except (struct.error, IndexError, ValueError, DecodeError) as error:
        raise Damaged(str(error)) from error


def _numbers(length, features):
    image_id = int(features[_KEYS["source_id"]].bytes_list.value[0])
    if not -(2**63) <= image_id < 2**63:
        raise ValueError("it has an image id of more than 8 bytes")
    height, width = (features[_KEYS[name]].int64_list.value[0] for name in ("height", "width"))
    labels, crowd = (list(features[_KEYS[name]].int64_list.value) for name in ("label", "is_crowd"))
    areas, *sides = (list(features[_KEYS[name]].float_list.value) for name in ("area", *SIDES))
    if any(len(column) != len(labels) for column in (crowd, areas, *sides)):
        raise ValueError("it has a record whose objects lack some values")
    return Numbers(length, image_id, height, width, labels, crowd, areas, sides)


def _take_features(buffer, position, limit):
    """Returns the wanted features, by key, of the tf.train.Example between two positions."""
    position, end = _enter(buffer, position, limit)
    wanted = []
    while position < end:
        start, (inner, position) = position, _enter(buffer, position, end)
        key = slice(*_enter(buffer, inner, position))
        if buffer[key] in _WANTED:
            wanted.append(buffer[start:position])
    return tf.train.Features.FromString(b"".join(wanted)).feature


def _enter(buffer, position, limit):
    """Returns start and end of the content of a field: Example.features, one of its entries, or an entry's key.

    It must end at `limit` or before: otherwise every record or entry could contain all later ones.
    """
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
            break
    if position + 1 + length > limit:
        raise ValueError("it has a field that is longer than what holds it")
    return position + 1, position + 1 + length
