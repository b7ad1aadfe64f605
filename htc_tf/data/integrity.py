"""Damaged shards, and how they are named: before the first step where a count shows it, else at the bad record.

Before it: a data set whose files have the sizes that `datasets.load_info` expects. After it: `data.input` reads them.
"""

import contextlib
import os
import re
import struct

import tensorflow as tf
from google.protobuf.message import DecodeError

from htc_tf.data import datasets, schema
from htc_tf.data.sample import SampleReader
from htc_tf.errors import UserError, reason_of

# What reading a damaged or foreign shard raises; FailedPrecondition is a count that `data.record_order` found to be wrong.
_DAMAGE = (
    tf.errors.DataLossError,
    tf.errors.FailedPreconditionError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    UnicodeDecodeError,
)
# A TFRecord is framed by its length (8 bytes), that number's checksum (4), and behind it its own (4).
_FRAME = 16


def check_counts(info):
    """Counts the records of every shard by the frames around them: 16 bytes a record are read, nothing is decoded.

    Remote shards are left out, where each look costs a request; `data.record_order` counts while it reads.

    Raises:
      UserError: a shard holds another number than its data set's info says, or its frames do not fit in the file.
    """
    for path, shard in zip(info.shard_paths, info.shards, strict=True):
        if "://" in path:
            continue
        count = count_records(path)
        if count != shard.records:
            raise UserError(f"{path} holds {count} records, not {shard.records}; prepare the data again")


def count_records(path):
    """The number of records in a local TFRecord file."""
    count = position = 0
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while position < size:
            header = os.pread(file.fileno(), 8, position)
            position += _FRAME + (struct.unpack("<Q", header)[0] if len(header) == 8 else size)
            if position > size:
                raise UserError(f"{path} is damaged after record {count}; prepare the data again")
            count += 1
    return count


@contextlib.contextmanager
def named_errors(folder):
    """Turns TensorFlow's error about a record of the folder, raised while a dataset is iterated, into a UserError.

    TensorFlow tells neither which shard nor which image is damaged. It is looked for here, by decoding record after
    record until one fails.
    """
    try:
        yield
    # TensorFlow quotes a record that it cannot parse, and Python may be unable to decode the quotation.
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        named = re.search(r"UserError: (.*)", str(error))
        if named:
            raise UserError(named[1]) from None
        if isinstance(error, _DAMAGE):
            _find_damage(datasets.load_info(folder))
        raise


def _find_damage(info):
    reader = SampleReader(info, max_objects=1, mask_size=4)
    for number, (path, shard) in enumerate(zip(info.shard_paths, info.shards, strict=True)):

        @tf.autograph.experimental.do_not_convert
        def decode(serialized, number=number):
            sample = reader.read(tf.constant(number, tf.int64), serialized)
            return tf.size(sample["image"]) + tf.size(sample["semantic"]) + tf.size(sample["masks"])

        count = 0
        try:
            for _ in tf.data.TFRecordDataset(path).map(decode, tf.data.AUTOTUNE, deterministic=True):
                count += 1
        except tf.errors.OpError as error:
            reason = reason_of(error.message)
            raise UserError(f"{_name(path, count)} does not decode ({reason}); prepare the data again") from None
        except UnicodeDecodeError:
            raise UserError(f"{_name(path, count)} is none of ours; prepare the data again") from None
        if count != shard.records:
            raise UserError(f"{path} holds {count} records, not {shard.records}; prepare the data again")


def _name(path, index):
    """The image of a record by its name, or by its number if the record cannot be read."""
    record = tf.data.TFRecordDataset(path).skip(index).take(1)
    try:
        (serialized,) = record.as_numpy_iterator()
        return f"{path}: {schema.unpack(serialized).image.filename}"
    except (tf.errors.OpError, DecodeError, IndexError, ValueError):
        return f"{path}: record {index}"
