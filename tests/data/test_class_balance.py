"""Repeat factors computed by hand, and epochs that repeat images by their factors."""

import collections
import hashlib
import json

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.data import record_order, schema
from htc_tf.data.class_balance import ClassBalance, find_classes
from htc_tf.data.datasets import load_info
from htc_tf.errors import UserError

# Categories 5, 9 and 11 are classes 0, 1 and 2. Of 16 images, 15 contain class 0, one contains class 1, another one
# contains class 1 as a crowd only, and none contains class 2.
COMMON, RARE, CROWD, EMPTY = [(5, 0)], [(5, 0), (9, 0)], [(9, 1), (5, 0)], []
IMAGES = [COMMON] * 13 + [RARE, CROWD, EMPTY]


@pytest.fixture
def folder(tmp_path):
    listed = []
    for number in range(2):
        path = tmp_path / f"{number}.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for place in range(number, len(IMAGES), 2):
                objects = [
                    schema.Object(n, 0.1, 0.1, 0.5, 0.5, label, "?", crowd, 9.0)
                    for n, (label, crowd) in enumerate(IMAGES[place])
                ]
                image = schema.Image(
                    tf.io.encode_png(tf.zeros([8, 8, 3], tf.uint8)).numpy(), "png", 8, 8, "x.png", place
                )
                writer.write(schema.example(image, objects))
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        listed.append({"file": path.name, "records": 8, "bytes": len(content), "sha256": digest})
    info = {"version": 1, "categories": [{"id": i, "name": str(i)} for i in (5, 9, 11)], "shards": listed}
    info |= {"stuff": {"present": False, "labels": 1}, "masks": False, "images": 16, "objects": 17, "crowd": 1}
    (tmp_path / "dataset_info.json").write_text(json.dumps({**info, "counters": {}, "options": {}, "inputs": {}}))
    return tmp_path


def test_classes_and_factors(folder):
    info = load_info(folder)
    found = find_classes(info)
    assert found.images == 16
    # The shards hold the images of even and of odd numbers: RARE is 13, EMPTY 15.
    pairs = [(place, 0) for place in range(15)] + [(8 + 13 // 2, 1)]
    assert list(zip(found.owners.tolist(), found.classes.tolist(), strict=True)) == sorted(pairs)
    # Class 0 is in 15 of 16 images, class 1 in one.
    np.testing.assert_allclose(ClassBalance(0.25).factors(found, info), [1, 2, 1])
    np.testing.assert_allclose(ClassBalance(1.0).factors(found, info), [np.sqrt(16 / 15), 4, 1])


def entries(info, threshold, shuffle_buffer, seed=3):
    counts = [shard.records for shard in info.shards]
    repeats = ClassBalance(threshold).repeats(info)
    return record_order.training_entries(info.shard_paths, counts, seed, shuffle_buffer, repeats)


@pytest.mark.parametrize("shuffle_buffer", [0, 8])
def test_whole_factors(folder, shuffle_buffer):
    found = list(entries(load_info(folder), 0.25, shuffle_buffer).take(51).as_numpy_iterator())
    serialized = collections.Counter(e.serialized for e in found)
    assert sorted(serialized.values()) == [3] * 15 + [6]  # three epochs of 17
    assert len({tuple(e.seed) for e in found}) == 51


def test_fractional_factors_are_rounded_by_the_seed(folder):
    # The factor is 2.5: of an epoch's 17 or 18 entries two or three are the rare image.
    info, threshold = load_info(folder), 2.5**2 / 16
    first = list(entries(info, threshold, 8).take(700).as_numpy_iterator())
    counts = collections.Counter(e.serialized for e in first)
    assert len(counts) == 16
    (_, rare), (_, common) = counts.most_common(2)
    assert rare / common == pytest.approx(2.5, abs=0.3)
    rest = list(entries(info, threshold, 8).skip(100).take(40).as_numpy_iterator())
    assert [e.serialized for e in rest] == [e.serialized for e in first[100:140]]
    np.testing.assert_array_equal([e.seed for e in rest], [e.seed for e in first[100:140]])
    other = list(entries(info, threshold, 8, seed=4).take(40).as_numpy_iterator())
    assert [e.serialized for e in other] != [e.serialized for e in first[:40]]


def test_a_damaged_shard_is_named(folder):
    info = load_info(folder)
    path = folder / "1.tfrecord"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"1\.tfrecord is damaged: it is cut short"):
        find_classes(info)


def test_threshold():
    with pytest.raises(UserError, match="threshold = 0"):
        ClassBalance(0)


def test_the_override(folder):
    """Evaluation is not balanced."""
    experiment, _ = config.load(
        ["tests/tiny.gin", "gin/options/class_balanced.gin"], ["ClassBalance.threshold=1.0", "NUM_STAGES=1"]
    )
    batches = experiment.train_input.dataset(folder, seed=0).take(19)
    ids = collections.Counter(int(i) for batch in batches for i in batch.image_ids)
    (rare, often), (_, next_often) = ids.most_common(2)
    # Two epochs of 19 or 20 images; the common ones' factor is just above 1.
    assert IMAGES[rare] == RARE and 7 <= often <= 8 and next_often <= 4
    assert experiment.eval_input.balance is None
