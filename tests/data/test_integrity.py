"""Damaged shards and records: a UserError that names the shard and the image."""

import json

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.data import input, record_order
from htc_tf.errors import UserError
from tests.data.records import encode_image, make, record, rectangle, write_dataset


def read_all(folder):
    with input.named_errors(folder):
        for _ in make(training=False).dataset(folder, 0):
            pass


def broken_jpeg(cut):
    return encode_image(np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8), "jpeg")[:cut]


@pytest.mark.parametrize(
    "bad, message",
    [
        (record(7, (20, 30), encoded=broken_jpeg(400), format="jpeg"), r"00001-of-00002\.tfrecord: photos/7\.jpeg"),
        (record(7, (20, 30), encoded=b"no image", format="jpeg"), r"00001-of-00002\.tfrecord: photos/7\.jpeg"),
        (
            record(7, (20, 31), encoded=encode_image(np.zeros((20, 30, 3), np.uint8))),
            r"photos/7.*20 x 30, its.*20 x 31",
        ),
        (record(7, (20, 30), semantic=b"no map"), r"00001-of-00002\.tfrecord: photos/7\.png"),
        (record(7, (20, 30), semantic=encode_image(np.zeros((20, 31), np.uint8))), r"map 20 x 31.*20 x 30"),
        (record(7, (20, 30), [rectangle(1, 2, 2, 9, 9, 5, (20, 30))]), r"photos/7\.png.*category \[5\]"),
        (b"\xff\xff", r"00001-of-00002\.tfrecord: record 0"),
    ],
)
def test_a_bad_record_is_named(tmp_path, bad, message):
    folder = write_dataset(tmp_path, [record(1, (20, 30)), bad, record(3, (20, 30))], shards=2)
    with pytest.raises(UserError, match=message) as error:
        read_all(folder)
    assert "\n" not in str(error.value)


def test_the_search_for_a_bad_record_limits_no_objects(tmp_path, caplog):
    objects = [rectangle(number, 2, 2, 9, 9, 3, (20, 30)) for number in (1, 2)]
    bad = record(7, (20, 30), encoded=b"no image", format="jpeg")
    with pytest.raises(UserError, match=r"photos/7\.jpeg"):
        read_all(write_dataset(tmp_path, [record(1, (20, 30), objects), bad]))
    assert "max_objects" not in caplog.text


def test_a_damaged_shard_is_named(tmp_path):
    """A flipped bit is found when its record is read, a wrong length or count before the first batch."""
    folder = write_dataset(tmp_path, [record(k, (20, 30)) for k in range(1, 7)], shards=2)
    path = tmp_path / "00001-of-00002.tfrecord"
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    path.write_bytes(flipped)
    seen = []
    with pytest.raises(UserError, match=r"00001-of-00002\.tfrecord: record 1"), input.named_errors(folder):
        for batch in make(training=False, batch_size=1).dataset(folder, 0):
            seen.append(int(batch.image_ids[0]))
    assert seen in ([1, 3, 5], [1, 3, 5, 2])  # reading may be ahead
    with pytest.raises(UserError, match=r"00001-of-00002\.tfrecord: record 1"), input.named_errors(folder):
        list(make().dataset(folder, 0).take(20))

    flipped = bytearray(content)
    flipped[2] ^= 1  # in the first record's length
    path.write_bytes(flipped)
    with pytest.raises(UserError, match=r"00001-of-00002\.tfrecord is damaged after record 0"):
        make().dataset(folder, 0)
    path.write_bytes(content[:-40])
    with pytest.raises(UserError, match=r"00001-of-00002\.tfrecord has"):
        make().dataset(folder, 0)
    path.unlink()
    with pytest.raises(UserError, match=r"00001-of-00002\.tfrecord is missing"):
        make().dataset(folder, 0)


@pytest.mark.parametrize("listed", [2, 4])
def test_a_shard_of_the_right_size_and_another_count(tmp_path, listed):
    folder = write_dataset(tmp_path, [record(k, (20, 30)) for k in range(1, 4)])
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    info["shards"][0]["records"] = listed
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=rf"00000-of-00001\.tfrecord holds 3 records, not {listed}"):
        make().dataset(folder, 0)
    # Without the count before, as with remote shards, reading finds it.
    entries = record_order.evaluation_entries([str(tmp_path / "00000-of-00001.tfrecord")], [listed])
    with pytest.raises(UserError, match=rf"holds 3 records, not {listed}"), input.named_errors(folder):
        list(entries)


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(tf.errors.ResourceExhaustedError), input.named_errors(tmp_path):
        raise tf.errors.ResourceExhaustedError(None, None, "too large")
