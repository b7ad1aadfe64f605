"""Shard index: offsets, ids, sizes, classes, areas and boxes of a shard's records, in a file beside the shard.

`pipelines.shards` writes it with the shard, so browsing, class balance and statistics read no record. Shards without a
usable index file are walked (`data.record_walk`), with the same result. The file, little-endian: MAGIC; the numbers of
records n and of objects m; the shard's SHA-256; the columns of `_COLUMNS`, one after another; the SHA-256 of all of
this. Its size follows from n and m, and offsets from lengths, so no number of a hostile file reaches beyond it.
"""

import hashlib
import itertools
import logging
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from htc_tf.data.datasets import DatasetInfo, Shard
from htc_tf.data.record_walk import FRAME_AFTER, FRAME_BEFORE, MAX_LENGTH, Damaged, Numbers, open_shard, walk
from htc_tf.errors import UserError, reason_of

logger = logging.getLogger(__name__)

MAGIC = b"htcidx1\n"
BATCH = 256  # records of a walk that are indexed at a time

_HEADER = struct.Struct("<8sQQ32s")
_RECORD_COLUMNS = ("lengths", "image_ids", "heights", "widths", "counts")
_COLUMNS = {  # name: type in the file, values per record or object
    **{name: ("<i8", 1) for name in (*_RECORD_COLUMNS, "categories")},
    "areas": ("<f4", 1),
    "boxes": ("<f4", 4),
    "crowd": ("u1", 1),
}


class ShardIndex(NamedTuple):
    """The index of n successive records of a shard, with m objects."""

    offsets: np.ndarray  # [n] int64, first byte of the record in the shard
    lengths: np.ndarray  # [n] int64, bytes
    image_ids: np.ndarray  # [n] int64, COCO's
    heights: np.ndarray  # [n] int64, pixels
    widths: np.ndarray  # [n] int64, pixels
    counts: np.ndarray  # [n] int64, number of objects
    categories: np.ndarray  # [m] int64, COCO's category ids
    areas: np.ndarray  # [m] float32, square pixels
    boxes: np.ndarray  # [m, 4] float32, top, left, bottom, right, 0 ... 1
    crowd: np.ndarray  # [m] bool

    @property
    def owners(self) -> np.ndarray:
        """The position in this index of each object's record, [m] int64."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def classes(self, category_ids: Iterable[int]) -> np.ndarray:
        """Returns the position of each object's category in `category_ids`, -1 if it is not listed, [m] int64."""
        known = {category: place for place, category in enumerate(category_ids)}
        found, inverse = np.unique(self.categories, return_inverse=True)
        return np.array([known.get(category, -1) for category in found.tolist()], np.int64)[inverse]


class Unusable(Exception):
    """The bytes are not the index of this shard."""


def make(records: Iterable[Numbers], start: int = 0) -> ShardIndex:
    """Returns the index of successive records. The frame of the first record begins at byte `start` of the shard."""
    records = list(records)

    def gather(name, dtype):
        return np.fromiter(itertools.chain.from_iterable(getattr(record, name) for record in records), dtype)

    lengths, image_ids, heights, widths = (
        np.array([record[place] for record in records], np.int64) for place in range(4)
    )
    sides = [list(itertools.chain.from_iterable(record.sides[side] for record in records)) for side in range(4)]
    return ShardIndex(
        offsets=_offsets(lengths, start),
        lengths=lengths,
        image_ids=image_ids,
        heights=heights,
        widths=widths,
        counts=np.array([len(record.labels) for record in records], np.int64),
        categories=gather("labels", np.int64),
        areas=gather("areas", np.float32),
        boxes=np.array(sides, np.float32).T,
        crowd=gather("crowd", np.int64) > 0,
    )


def differences(one: ShardIndex, other: ShardIndex) -> list[str]:
    """Returns the names of the columns that differ; a NaN equals a NaN."""
    return [
        name
        for name, left, right in zip(ShardIndex._fields, one, other, strict=True)
        if not np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
    ]


def index_path(shard_path: str) -> str:
    return f"{shard_path.removesuffix('.tfrecord')}.index"


def encode(index: ShardIndex, sha256: str) -> bytes:
    """Returns the content of an index file.

    Args:
        index: The index of all records of the shard.
        sha256: SHA-256 of the shard in hexadecimal.
    """
    header = _HEADER.pack(MAGIC, len(index.counts), len(index.categories), bytes.fromhex(sha256))
    columns = (np.ascontiguousarray(getattr(index, name), kind).tobytes() for name, (kind, _) in _COLUMNS.items())
    body = b"".join((header, *columns))
    return body + hashlib.sha256(body).digest()


def decode(content: bytes, records: int, size: int, sha256: str) -> ShardIndex:
    """Returns the index in the content of an index file.

    Args:
        content: Bytes.
        records, size, sha256: Number of records, bytes and SHA-256 of the shard, as dataset_info.json lists them.
    Raises:
        Unusable: The file is damaged, not an index, or that of another shard.
    """
    if len(content) < _HEADER.size or not content.startswith(MAGIC):
        raise Unusable("it is not an index")
    _, count, objects, owner = _HEADER.unpack_from(content)
    counts = {name: count if name in _RECORD_COLUMNS else objects for name in _COLUMNS}
    places = {name: counts[name] * width for name, (_, width) in _COLUMNS.items()}
    sizes = [places[name] * np.dtype(kind).itemsize for name, (kind, _) in _COLUMNS.items()]
    end = _HEADER.size + sum(sizes)  # of Python's integers, which do not overflow
    if len(content) != end + hashlib.sha256().digest_size:
        raise Unusable("its length is wrong")
    if hashlib.sha256(memoryview(content)[:end]).digest() != content[end:]:
        raise Unusable("its checksum is wrong")
    if owner.hex() != sha256 or count != records:
        raise Unusable("it describes another shard")
    starts = itertools.accumulate(sizes, initial=_HEADER.size)
    columns = {
        name: np.frombuffer(content, kind, places[name], start).astype(kind.lstrip("<"), copy=False)
        for (name, (kind, _)), start in zip(_COLUMNS.items(), starts, strict=False)
    }
    index = ShardIndex(_offsets(columns["lengths"], 0), **columns)
    index = index._replace(boxes=index.boxes.reshape(-1, 4), crowd=index.crowd > 0)
    _check(index, size)
    return index


def load(shard_path: str, shard: Shard) -> ShardIndex | None:
    """Reads the index file of a shard.

    Args:
        shard_path: Path of the shard.
        shard: `datasets.Shard`.
    Returns:
        The index; None if the shard has none, or one that is unusable, which is logged.
    """
    path = index_path(shard_path)
    try:
        if not tf.io.gfile.exists(path):
            return None
        # An object takes at least 27 bytes of its record and 29 of the index: a longer file is not read.
        if tf.io.gfile.stat(path).length > 2 * shard.bytes + 2 * _HEADER.size:
            raise Unusable("its length is wrong")
        with tf.io.gfile.GFile(path, "rb") as file:
            content = file.read()
        return decode(content, shard.records, shard.bytes, shard.sha256)
    except tf.errors.OpError as error:
        reason = reason_of(error.message)
    except Unusable as error:
        reason = error
    logger.warning("%s is ignored: %s; the same preparation again writes it anew", path, reason)
    return None


def read_all(info: DatasetInfo) -> Iterator[tuple[int, ShardIndex]]:
    """Yields the index of all records of a dataset, in order: that of a whole shard, or parts as a walk reads them.

    Args:
        info: `datasets.DatasetInfo`.
    Yields:
        (number of the shard, index of its next records).
    Raises:
        UserError: A shard is damaged, cannot be read, or holds another number of records than the info lists.
    """
    for number, (path, shard) in enumerate(zip(info.shard_paths, info.shards, strict=True)):
        index = load(path, shard)
        for part in _walk(path, shard) if index is None else (index,):
            yield number, part


def _walk(path, shard):
    count = start = 0
    try:
        records = walk(open_shard(path))
        while batch := list(itertools.islice(records, BATCH)):
            part = make(batch, start)
            count, start = count + len(batch), int(part.offsets[-1] + part.lengths[-1]) + FRAME_AFTER
            yield part
    except Damaged as error:
        raise UserError(f"{path} is damaged: {error}; prepare the data again") from None
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if count != shard.records:
        raise UserError(f"{path} holds {count} records, not {shard.records}; prepare the data again")


def _offsets(lengths, start):
    frames = lengths + (FRAME_BEFORE + FRAME_AFTER)
    return start + FRAME_BEFORE + np.cumsum(frames) - frames


def _check(index, size):
    """Raises Unusable for numbers that no preparation writes, even if the checksum is right."""
    lengths, counts, objects = index.lengths, index.counts, len(index.categories)
    if ((lengths <= 0) | (lengths >= MAX_LENGTH)).any() or (lengths + FRAME_BEFORE + FRAME_AFTER).sum() != size:
        raise Unusable("its lengths are not those of the shard's records")
    if ((counts < 0) | (counts > objects)).any() or counts.sum() != objects:
        raise Unusable("its numbers of objects do not add up")
    if np.isnan(index.areas).any() or np.isnan(index.boxes).any():
        raise Unusable("it holds areas or boxes that are not numbers")
