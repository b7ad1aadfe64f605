"""The records of a shard one after the other, without their images: the few numbers of each that an index wants.

Before: a shard that `pipelines.coco_to_tfrecord` wrote. After: the web album's index keeps the numbers;
`data.class_balance` counts classes.

Nine tenths of a record are its image, which TensorFlow would read to the last byte. A record is a map that lists each
entry's length before its content, so that entries can be passed over: of COCO's 19 gigabytes one is touched. What is
wanted is handed to protobuf, as a smaller map.
"""

import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError

from htc_tf.data import schema

FRAME_BEFORE, FRAME_AFTER = 12, 4  # bytes of a TFRecord's length and checksums
FIELD_1 = 0x0A  # protobuf: field number 1, of a length that follows

_KEYS = {field.name: field.key for field in (*schema.IMAGE_FIELDS, *schema.OBJECT_FIELDS)}
_WANTED = {_KEYS[name].encode() for name in ("source_id", "label", "area", "is_crowd")}


class Numbers(NamedTuple):
    """What is taken of a record."""

    offset: int  # of its first byte in the shard
    length: int  # bytes
    image_id: int
    labels: list  # COCO's category id of each object
    areas: list  # square pixels
    crowd: list  # 1 or 0


class Damaged(Exception):
    """The bytes are no records of ours."""


def open_shard(path):
    """The bytes of a shard: of a local file as they are looked at, of a remote one all at once."""
    if "://" in path:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    with open(path, "rb") as file:
        if not file.seek(0, 2):
            return b""
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):
        buffer.madvise(mmap.MADV_RANDOM)  # or the system reads the images as well, ahead of where we look
    return buffer


def walk(buffer) -> Iterator[Numbers]:
    """The Numbers of each record.

    Raises:
        Damaged: what follows the last one is no record. Damage within an image is not seen.
    """
    position = 0
    try:
        while position < len(buffer):
            (length,) = struct.unpack_from("<Q", buffer, position)
            offset = position + FRAME_BEFORE
            position = offset + length + FRAME_AFTER
            if position > len(buffer):
                raise Damaged("it is cut")
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
    """Of the tf.train.Example at a position its wanted features, by their keys."""
    position, end = _enter(buffer, position)
    wanted = []
    while position < end:
        start, (inner, position) = position, _enter(buffer, position)
        key = slice(*_enter(buffer, inner))
        if buffer[key] in _WANTED:
            wanted.append(buffer[start:position])
    return tf.train.Features.FromString(b"".join(wanted)).feature


def _enter(buffer, position):
    """Where the content of the field at a position starts and ends: Example.features, one of its entries, its key."""
    if buffer[position] != FIELD_1:
        raise ValueError("it is no map of features")
    length = shift = 0
    while True:
        position += 1
        length |= (buffer[position] & 127) << shift
        shift += 7
        if shift > 63:
            raise ValueError("it has a length of more than 63 bits")
        if buffer[position] < 128:
            return position + 1, position + 1 + length
