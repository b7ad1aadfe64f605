"""Record order: every record once per epoch, ordered by (seed, epoch) alone, in batches of one bucket."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.data import record_order

COUNTS = (7, 5, 9)
RECORDS = [f"{shard}/{index}".encode() for shard, count in enumerate(COUNTS) for index in range(count)]


@pytest.fixture
def paths(tmp_path):
    for shard, count in enumerate(COUNTS):
        with tf.io.TFRecordWriter(str(tmp_path / str(shard))) as writer:
            for index in range(count):
                writer.write(f"{shard}/{index}".encode())
    return [str(tmp_path / str(shard)) for shard in range(len(COUNTS))]


def take(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def texts(entries):
    return [entry.serialized for entry in entries]


@pytest.mark.parametrize("shuffle_buffer", [0, 1, 4, 21, 1000])
def test_an_epoch_is_every_record_once(paths, shuffle_buffer):
    entries = take(record_order.training_entries(paths, COUNTS, 5, shuffle_buffer), 3 * len(RECORDS))
    epochs = np.reshape(texts(entries), [3, -1]).tolist()
    assert all(sorted(epoch) == sorted(RECORDS) for epoch in epochs)
    assert all(entry.serialized.startswith(b"%d/" % entry.shard) for entry in entries)
    if shuffle_buffer < 2:
        assert epochs == [RECORDS] * 3
    else:
        assert len({tuple(epoch) for epoch in [*epochs, RECORDS]}) == 4


def test_order_and_seeds_follow_from_the_seed_alone(paths):
    tf.random.set_seed(1)
    first = take(shuffled(paths), 50)
    tf.random.set_seed(2)
    np.random.seed(2)
    again = take(shuffled(paths), 50)
    other = take(record_order.training_entries(paths, COUNTS, 6, 8), 50)
    assert texts(first) == texts(again) != texts(other)
    np.testing.assert_array_equal([e.seed for e in first], [e.seed for e in again])
    assert len({tuple(entry.seed) for entry in first + other}) == 100


def test_every_position_is_equally_likely(paths):
    places = collections.Counter()
    for epoch in np.reshape(texts(take(record_order.training_entries(paths, COUNTS, 0, 100), 21 * 100)), [100, 21]):
        places[epoch.tolist().index(b"1/3")] += 1
    # 100 draws of 21 places are 4.8 each; 15 in one place would be almost five standard deviations.
    assert len(places) >= 17 and max(places.values()) < 15


def shuffled(paths):
    return record_order.training_entries(paths, COUNTS, seed=5, shuffle_buffer=8)


def odd(serialized):
    return tf.strings.to_number(tf.strings.substr(serialized, 2, 1), tf.int64) % 2


def test_batches_are_of_one_bucket_and_nothing_is_dropped(paths):
    grouped = record_order.group_by_bucket(shuffled(paths), odd, batch_size=4, start_step=0)
    entries = take(grouped, 21 * 8)
    batches = np.reshape(texts(entries), [-1, 4])
    assert all(len({int(text[2:]) % 2 for text in batch}) == 1 for batch in batches)
    assert all(entry.valid for entry in entries)
    counts = collections.Counter(texts(entries))
    # Records waiting in a bucket are late by less than a batch.
    assert set(counts) == set(RECORDS) and set(counts.values()) <= {7, 8, 9}


@pytest.mark.parametrize("start_step", [1, 5, 17])
def test_start_step_continues_the_same_order(paths, start_step):
    whole = take(record_order.group_by_bucket(shuffled(paths), odd, 4, 0), 100)
    rest = take(
        record_order.group_by_bucket(shuffled(paths), odd, 4, start_step),
        100 - 4 * start_step,
    )
    for one, other in zip(whole[4 * start_step :], rest, strict=True):
        assert one.serialized == other.serialized and np.array_equal(one.seed, other.seed)


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_share_a_batch(paths, workers):
    def entries(worker, workers, start_step=2):
        entries = record_order.group_by_bucket(shuffled(paths), odd, 4, start_step, worker, workers)
        return take(entries, 80 // workers)

    whole = np.reshape(
        texts(take(record_order.group_by_bucket(shuffled(paths), odd, 4, 2), 80)),
        [-1, 4],
    )
    shares = [np.reshape(texts(entries(worker, workers)), [-1, 4 // workers]) for worker in range(workers)]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), whole)


def test_paste_sources_are_the_previous_records(paths):
    entries = take(record_order.with_paste_sources(shuffled(paths)), 45)
    plain = take(shuffled(paths), 45)
    assert texts(entries)[:-1] == texts(plain)[1:]
    assert [entry.paste_source for entry in entries] == texts(plain)
    assert all(entry.paste_source.startswith(b"%d/" % entry.paste_source_shard) for entry in entries)


@pytest.mark.parametrize("counts", [(7, 4, 9), (7, 6, 9)])
def test_a_shard_of_another_length_is_an_error_at_its_end(paths, counts):
    entries = iter(record_order.evaluation_entries(paths, counts))
    assert sum(1 for _, _ in zip(range(7), entries, strict=False)) == 7
    with pytest.raises(tf.errors.FailedPreconditionError):
        list(entries)


def test_evaluation_reads_in_file_order_and_pads_the_last_batch(paths):
    entries = list(
        record_order.group_by_bucket(
            record_order.evaluation_entries(paths, COUNTS), lambda _: np.int64(0), 4, 0
        ).as_numpy_iterator()
    )
    assert texts(entries) == RECORDS + [RECORDS[-1]] * 3
    assert [entry.valid for entry in entries] == [True] * 21 + [False] * 3


def test_evaluation_pads_every_bucket(paths):
    entries = list(
        record_order.group_by_bucket(record_order.evaluation_entries(paths, COUNTS), odd, 4, 0).as_numpy_iterator()
    )
    assert sorted(entry.serialized for entry in entries if entry.valid) == sorted(RECORDS)
    batches = np.reshape(texts(entries), [-1, 4])
    assert len(batches) == 6 and all(len({int(text[2:]) % 2 for text in batch}) == 1 for batch in batches)
