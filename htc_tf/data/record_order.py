"""Record order: deterministic shuffling, repetition and aspect-ratio bucketing of serialized records.

Nothing is decoded here. The order is a function of (seed, epoch) alone, so a run resumes from its step number:
records already used are skipped as serialized bytes. An epoch is all records of the dataset, some of them repeated if
classes are balanced (`data.class_balance`). Records left in a bucket at the end of an epoch go to the first batches of
the next epoch; none is dropped.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

# AutoGraph has nothing to convert in the functions of a dataset, and takes a second to find out.
_unconverted = tf.autograph.experimental.do_not_convert

# Shards read in parallel, record by record, when the order is random.
SHARDS_AT_A_TIME = 8

# Streams of random numbers, one per purpose.
_SHARD_ORDER, _RECORD_ORDER, _AUGMENTATION, _REPEATS = range(4)


class Entry(NamedTuple):
    """A record in the order of training or evaluation."""

    shard: tf.Tensor  # [] int64, index of the record's shard
    serialized: tf.Tensor  # [] string
    seed: tf.Tensor  # [2] int64, for its augmentation
    valid: tf.Tensor  # [] bool, False if it only pads the last batch of an evaluation
    paste_source_shard: tf.Tensor  # [] int64
    paste_source: tf.Tensor  # [] string, the record whose objects are pasted; "" without copy-paste


def training_entries(
    paths: Sequence[str],
    counts: Sequence[int],
    seed: int,
    shuffle_buffer: int,
    repeats: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
) -> tf.data.Dataset:
    """Returns an endless dataset of entries, epoch after epoch, in file order or shuffled.

    Shuffling permutes the shards of an epoch and then the records in a buffer.

    Args:
        paths: Paths of the shards.
        counts: Numbers of records of the shards; a shard of another length raises an error when it ends.
        seed: Int.
        shuffle_buffer: Int, serialized records in memory; 0 or 1 for file order.
        repeats: Function of a serialized record [] string and a random number [] in [0, 1) that returns how often the
            record occurs in the epoch, [] int64; None for once.
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
        # Dataset.shuffle combines its seed with the graph's seed, which tf.random.set_seed changes. This sets the seed
        # of the graph of read_epoch only.
        tf.compat.v1.set_random_seed(1)
        shards = tf.range(len(paths), dtype=tf.int64)
        if shuffle_buffer > 1:
            shards = tf.random.experimental.stateless_shuffle(shards, fold(_SHARD_ORDER, epoch))
            records = multiply(_read(paths, counts, shards, SHARDS_AT_A_TIME), epoch)
            records = records.shuffle(shuffle_buffer, draw(_RECORD_ORDER, epoch), reshuffle_each_iteration=False)
        else:
            records = multiply(_read(paths, counts, shards, 1), epoch)
        key = draw(_AUGMENTATION, epoch)
        return records.enumerate().map(lambda index, record: _entry(*record, seed=tf.stack([key, index])))

    return tf.data.Dataset.counter(dtype=tf.int64).flat_map(_unconverted(read_epoch))


def evaluation_entries(paths: Sequence[str], counts: Sequence[int]) -> tf.data.Dataset:
    """Returns a dataset of every record once, in file order."""
    records = _read(paths, counts, tf.range(len(paths), dtype=tf.int64), 1)
    return records.map(_unconverted(lambda shard, serialized: _entry(shard, serialized, tf.zeros([2], tf.int64))))


def with_paste_sources(entries: tf.data.Dataset) -> tf.data.Dataset:
    """Sets the paste source of each entry to the previous record; the very first record is only a source."""

    def pair(previous, entry):
        shard, serialized = previous
        return (entry.shard, entry.serialized), entry._replace(paste_source_shard=shard, paste_source=serialized)

    return entries.scan((tf.constant(0, tf.int64), tf.constant("")), _unconverted(pair)).skip(1)


def group_by_bucket(
    entries: tf.data.Dataset,
    bucket_of: Callable[[tf.Tensor], tf.Tensor],
    batch_size: int,
    start_step: int,
    worker: int = 0,
    workers: int = 1,
) -> tf.data.Dataset:
    """Reorders entries so that each batch_size consecutive entries are of one bucket.

    Where the entries end, the last batch of each bucket is padded with its last entry, marked as not valid.

    Args:
        entries: Dataset of Entry.
        bucket_of: Function of a serialized record [] string that returns its bucket, [] int64.
        batch_size: Int.
        start_step: Int, batches to skip.
        worker, workers: Ints. Only this worker's part of each batch, one of `workers` equal parts, is kept.
    """
    batches = entries.group_by_window(
        key_func=_unconverted(lambda entry: bucket_of(entry.serialized)),
        reduce_func=_unconverted(lambda bucket, window: window.batch(batch_size)),
        window_size=batch_size,
    )
    share = batch_size // workers
    rows = tf.range(worker * share, (worker + 1) * share)
    return batches.skip(start_step).map(_unconverted(lambda batch: _take(batch, rows))).unbatch()


def _entry(shard, serialized, seed):
    return Entry(shard, serialized, seed, valid=True, paste_source_shard=tf.constant(0, tf.int64), paste_source="")


def _take(batch, rows):
    """Gathers rows of a batch of entries; rows beyond its end repeat the last entry and are not valid."""
    count = tf.shape(batch.serialized)[0]  # less than batch_size in the last batch of a bucket
    taken = Entry(*(tf.gather(values, tf.minimum(rows, count - 1)) for values in batch))
    return taken._replace(valid=rows < count)


def _read(paths, counts, shards, cycle_length):
    """Returns a dataset of (shard index, serialized record) that reads `cycle_length` shards at a time."""
    paths, counts = tf.constant(paths), tf.constant(counts, tf.int64)

    def read_shard(shard):
        records = tf.data.TFRecordDataset(paths[shard])
        # TensorFlow ends a file that is cut between two records without an error.
        records = records.apply(tf.data.experimental.assert_cardinality(counts[shard]))
        return records.map(lambda serialized: (shard, serialized))

    return tf.data.Dataset.from_tensor_slices(shards).interleave(_unconverted(read_shard), cycle_length=cycle_length)
