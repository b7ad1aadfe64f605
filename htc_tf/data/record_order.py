"""Whose turn it is: the order of the records, and which of them make a batch, before anything is decoded.

Before it: the shards of a data set. After it: `data.input` decodes the entries, batch by batch.

The order is a function of (seed, epoch) and nothing else, so that a run resumes from a step number alone: what was
seen before is skipped as serialised bytes. An epoch is all records of the data set, some of them repeatedly where the
classes are balanced (`data.class_balance`); the records that an epoch leaves
over in a bucket go to the first batches of the next, so that none is dropped.
"""

from typing import NamedTuple

import tensorflow as tf

# How many shards are read at a time, record by record, where the order is random.
SHARDS_AT_A_TIME = 8

# What the random numbers are for: one stream each.
_SHARD_ORDER, _RECORD_ORDER, _AUGMENTATION, _REPEATS = range(4)


class Entry(NamedTuple):
    """A record whose turn has come."""

    shard: tf.Tensor  # [] int64, number of the shard
    serialized: tf.Tensor  # [] string
    seed: tf.Tensor  # [2] int64, for its augmentation
    real: tf.Tensor  # [] bool, False if it only fills up a last batch
    partner_shard: tf.Tensor  # [] int64
    partner: tf.Tensor  # [] string, another record, for what takes two images; "" where nothing does


def training_entries(paths, counts, seed, shuffle_buffer, repeats=None):
    """All records, epoch after epoch, without end: in file order, or shuffled.

    Shuffled are the shards of an epoch, and then the records through a buffer.

    Args:
      paths: the shards.
      counts: how many records each holds; a shard that ends before or after is an error where it is seen.
      seed: int.
      shuffle_buffer: serialised records held in memory; 0 or 1 for file order.
      repeats: how often a record comes in an epoch: function of the serialised record [] string and a random number
        [] in 0 ... 1 -> [] int64; None for once.
    """

    def fold(stream, epoch):
        return tf.random.experimental.stateless_fold_in(tf.constant([seed, stream], tf.int64), epoch)

    def draw(stream, epoch):
        return tf.random.stateless_uniform([], fold(stream, epoch), None, None, tf.int64)

    def multiply(records, epoch):
        if repeats is None:
            return records
        key = draw(_REPEATS, epoch)

        def repeat(index, record):
            chance = tf.random.stateless_uniform([], tf.stack([key, index]))
            return tf.data.Dataset.from_tensors(record).repeat(repeats(record[1], chance))

        return records.enumerate().flat_map(repeat)

    def read_epoch(epoch):
        # Dataset.shuffle mixes its seed with the graph's, which tf.random.set_seed reaches: this is the graph of
        # read_epoch alone.
        tf.compat.v1.set_random_seed(1)
        numbers = tf.range(len(paths), dtype=tf.int64)
        if shuffle_buffer > 1:
            numbers = tf.random.experimental.stateless_shuffle(numbers, fold(_SHARD_ORDER, epoch))
            records = multiply(_read(paths, counts, numbers, SHARDS_AT_A_TIME), epoch)
            records = records.shuffle(shuffle_buffer, draw(_RECORD_ORDER, epoch), reshuffle_each_iteration=False)
        else:
            records = multiply(_read(paths, counts, numbers, 1), epoch)
        key = draw(_AUGMENTATION, epoch)
        return records.enumerate().map(lambda index, record: _entry(*record, seed=tf.stack([key, index])))

    return tf.data.Dataset.counter(dtype=tf.int64).flat_map(read_epoch)


def evaluation_entries(paths, counts):
    """All records once, in file order."""
    records = _read(paths, counts, tf.range(len(paths), dtype=tf.int64), 1)
    return records.map(lambda *record: _entry(*record, seed=tf.zeros([2], tf.int64)))


def with_partners(entries):
    """Each entry with the record before it as its partner; the first of all is a partner only."""

    def pair(previous, entry):
        shard, partner = previous
        return (entry.shard, entry.serialized), entry._replace(partner_shard=shard, partner=partner)

    return entries.scan((tf.constant(0, tf.int64), tf.constant("")), pair).skip(1)


def group(entries, bucket_of, batch_size, start_step, worker=0, workers=1):
    """The same entries so ordered that each batch_size of them, one after the other, are of one bucket.

    Where the entries end, each bucket's last batch is filled up with its last entry, marked as not real.

    Args:
      entries: dataset of Entry.
      bucket_of: serialised record [] string -> [] int64.
      batch_size: int.
      start_step: how many batches to leave out at the beginning.
      worker, workers: of each batch, only the worker's part of `workers` equal ones is kept.
    """
    batches = entries.group_by_window(
        key_func=lambda entry: bucket_of(entry.serialized),
        reduce_func=lambda bucket, window: window.batch(batch_size),
        window_size=batch_size,
    )
    share = batch_size // workers
    rows = tf.range(worker * share, (worker + 1) * share)
    return batches.skip(start_step).map(lambda batch: _take(batch, rows)).unbatch()


def _entry(shard, serialized, seed):
    return Entry(shard, serialized, seed, real=True, partner_shard=tf.constant(0, tf.int64), partner="")


def _take(batch, rows):
    count = tf.shape(batch.serialized)[0]
    taken = Entry(*(tf.gather(values, tf.minimum(rows, count - 1)) for values in batch))
    return taken._replace(real=rows < count)


def _read(paths, counts, numbers, cycle_length):
    """Dataset of (shard number, serialised record), the shards `cycle_length` at a time."""
    paths, counts = tf.constant(paths), tf.constant(counts, tf.int64)

    def read_shard(number):
        records = tf.data.TFRecordDataset(paths[number])
        # TensorFlow ends a file that is cut between two records without an error.
        records = records.apply(tf.data.experimental.assert_cardinality(counts[number]))
        return records.map(lambda serialized: (number, serialized))

    return tf.data.Dataset.from_tensor_slices(numbers).interleave(read_shard, cycle_length=cycle_length)
