"""Integrity checks of shards: record counts before the first step, and the name of a damaged record after an error."""

import contextlib
import os
import struct
from collections.abc import Iterator

import tensorflow as tf
from google.protobuf.message import DecodeError

from htc_tf.data import datasets, schema, shard_index
from htc_tf.data.sample import SampleReader
from htc_tf.errors import UserError, reason_of, user_error_in

# Errors of reading a damaged or foreign shard. FailedPrecondition is a wrong record count (see `data.record_order`).
_DAMAGE = (
    tf.errors.DataLossError,
    tf.errors.FailedPreconditionError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    UnicodeDecodeError,
)
# A TFRecord follows its length (8 bytes) and the length's checksum (4), and is followed by its own checksum (4).
_FRAME = 16


def check_counts(info: datasets.DatasetInfo) -> None:
    """Checks the frames of every local shard: the record count and, if the shard has an index, every record's length.

    8 bytes per record are read; nothing is decoded.

    Remote shards are skipped, because each read costs a request; `data.record_order` counts their records during
    training.

    Raises:
        UserError: A shard holds another number of records than the dataset's info says, or records of other lengths
            than its index says, or a frame exceeds the file.
    """
    for path, shard in zip(info.shard_paths, info.shards, strict=True):
        if "://" in path:
            continue
        lengths = record_lengths(path)
        if len(lengths) != shard.records:
            raise UserError(f"{path} holds {len(lengths)} records, not {shard.records}; prepare the data again")
        index = shard_index.load(path, shard)
        if index is not None and index.lengths.tolist() != lengths:
            raise UserError(f"{path} holds records of other lengths than its index; prepare the data again")


def record_lengths(path: str) -> list[int]:
    """Returns the lengths in bytes of the records in a local TFRecord file."""
    lengths, position = [], 0
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while position < size:
            header = os.pread(file.fileno(), 8, position)
            length = struct.unpack("<Q", header)[0] if len(header) == 8 else size
            position += _FRAME + length
            if position > size:
                raise UserError(f"{path} is damaged after record {len(lengths)}; prepare the data again")
            lengths.append(length)
    return lengths


@contextlib.contextmanager
def named_errors(folder: str | os.PathLike) -> Iterator[None]:
    """Turns TensorFlow's error about a record, raised during iteration, into a UserError that names the image.

    TensorFlow names neither the shard nor the image. This decodes record after record of the folder until one fails.
    """
    try:
        yield
    # TensorFlow quotes a record that it cannot parse, and Python may fail to decode the quote.
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        if quoted := user_error_in(str(error)):
            raise UserError(quoted) from None
        if isinstance(error, _DAMAGE) and "Collective ops" not in str(error):  # an error of several workers
            _find_damage(datasets.load_info(folder))
        raise


def _find_damage(info):
    reader = SampleReader(info, max_objects=2**31 - 1, mask_size=4)
    for number, (path, shard) in enumerate(zip(info.shard_paths, info.shards, strict=True)):

        @tf.autograph.experimental.do_not_convert
        def decode(serialized, number=number):
            sample = reader.read(tf.constant(number, tf.int64), serialized)
            return tf.size(sample["image"]) + tf.size(sample["semantic"]) + tf.size(sample["masks"])

        count = 0
        try:
            decoded = tf.data.TFRecordDataset(path).map(decode, tf.data.AUTOTUNE, deterministic=True)
            for _ in datasets.without_autotune(decoded):
                count += 1
        except tf.errors.OpError as error:
            reason = reason_of(error.message)
            raise UserError(f"{_name(path, count)} does not decode ({reason}); prepare the data again") from None
        except UnicodeDecodeError:
            raise UserError(f"{_name(path, count)} is not a record of htc_tf; prepare the data again") from None
        if count != shard.records:
            raise UserError(f"{path} holds {count} records, not {shard.records}; prepare the data again")


def _name(path, index):
    """Returns the file name of a record's image, or the record's number if it cannot be read."""
    record = datasets.without_autotune(tf.data.TFRecordDataset(path).skip(index).take(1))
    try:
        (serialized,) = record.as_numpy_iterator()
        return f"{path}: {schema.unpack(serialized).image.filename}"
    except (tf.errors.OpError, DecodeError, IndexError, ValueError):
        return f"{path}: record {index}"
