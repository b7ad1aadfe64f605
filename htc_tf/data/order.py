"""Whose turn it is: the order of the records, and which of them make a batch, before anything is decoded.

Before it: the shards of a data set. After it: `data.input` decodes the entries, batch by batch.

The order is a function of (seed, epoch) and nothing else, so that a run resumes from a step number alone: what was
seen before is skipped as serialised bytes. An epoch is all records of the data set; the records that an epoch leaves
over in a bucket go to the first batches of the next, so that none is dropped.
"""

from typing import NamedTuple

import tensorflow as tf

# How many shards are read at a time, record by record, where the order is random.
SHARDS_AT_A_TIME = 8

# What the random numbers are for: one stream each.
_SHARD_ORDER, _RECORD_ORDER, _AUGMENTATION = range(3)


class Entry(NamedTuple):
    """A record whose turn has come."""

    shard: tf.Tensor  # [] int64, number of the shard
    serialized: tf.Tensor  # [] string
    seed: tf.Tensor  # [2] int64, for its augmentation
    real: tf.Tensor  # [] bool, False if it only fills up a last batch


def training_entries(paths, seed, shuffle_buffer):
    """All records, epoch after epoch, without end: in file order, or shuffled.

    Shuffled are the shards of an epoch, and then the records through a buffer.

    Args:
      paths: the shards.
      seed: int.
      shuffle_buffer: serialised records held in memory; 0 or 1 for file order.
    """

    def fold(stream, epoch):
        return tf.random.experimental.stateless_fold_in(tf.constant([seed, stream], tf.int64), epoch)

    def draw(stream, epoch):
        return tf.random.stateless_uniform([], fold(stream, epoch), None, None, tf.int64)

    def read_epoch(epoch):
        # Dataset.shuffle mixes its seed with the graph's, which tf.random.set_seed reaches: this is the graph of
        # read_epoch alone.
        tf.compat.v1.set_random_seed(1)
        numbers = tf.range(len(paths), dtype=tf.int64)
        if shuffle_buffer > 1:
            numbers = tf.random.experimental.stateless_shuffle(numbers, fold(_SHARD_ORDER, epoch))
            records = _read(paths, numbers, SHARDS_AT_A_TIME)
            records = records.shuffle(shuffle_buffer, draw(_RECORD_ORDER, epoch), reshuffle_each_iteration=False)
        else:
            records = _read(paths, numbers, 1)
        key = draw(_AUGMENTATION, epoch)
        return records.enumerate().map(lambda index, record: Entry(*record, seed=tf.stack([key, index]), real=True))

    return tf.data.Dataset.counter(dtype=tf.int64).flat_map(read_epoch)


def evaluation_entries(paths):
    """All records once, in file order."""
    records = _read(paths, tf.range(len(paths), dtype=tf.int64), 1)
    return records.map(lambda shard, serialized: Entry(shard, serialized, tf.zeros([2], tf.int64), True))


def group(entries, bucket_of, batch_size, start_step):
    """The same entries so ordered that each batch_size of them, one after the other, are of one bucket.

    Where the entries end, each bucket's last batch is filled up with its last entry, marked as not real.

    Args:
      entries: dataset of Entry.
      bucket_of: serialised record [] string -> [] int64.
      batch_size: int.
      start_step: how many batches to leave out at the beginning.
    """
    batches = entries.group_by_window(
        key_func=lambda entry: bucket_of(entry.serialized),
        reduce_func=lambda bucket, window: window.batch(batch_size),
        window_size=batch_size,
    )
    return batches.skip(start_step).map(lambda batch: _fill(batch, batch_size)).unbatch()


def _fill(batch, batch_size):
    count = tf.shape(batch.serialized)[0]
    rows = tf.range(batch_size)
    filled = Entry(*(tf.gather(values, tf.minimum(rows, count - 1)) for values in batch))
    return filled._replace(real=rows < count)


def _read(paths, numbers, cycle_length):
    """Dataset of (shard number, serialised record), the shards `cycle_length` at a time."""
    paths = tf.constant(paths)

    def read_shard(number):
        return tf.data.TFRecordDataset(paths[number]).map(lambda serialized: (number, serialized))

    return tf.data.Dataset.from_tensor_slices(numbers).interleave(read_shard, cycle_length=cycle_length)
