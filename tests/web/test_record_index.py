"""The record index agrees with a full pass over the records, and reads their exact bytes."""

import json
import shutil
import struct

import numpy as np
import pytest

from htc_tf.data.datasets import load_info, read_shard
from htc_tf.data.schema import unpack
from htc_tf.errors import UserError
from htc_tf.web.record_index import SIZES, RecordIndex


def read_index(info):
    index = RecordIndex(info)
    assert not index.done and len(index.find()) == 0
    index.start()
    index.wait()
    return index


def copy(tiny_data, folder):
    """Copies the records without their index files: they have to be walked."""
    return shutil.copytree(tiny_data.records, folder, ignore=shutil.ignore_patterns("*.index"))


@pytest.fixture(scope="module", params=["from index files", "from a walk"])
def walked(request, tiny_data, tmp_path_factory):
    """The index, and [(shard number, bytes, Record)] by the plain way."""
    folder = tiny_data.records
    if request.param == "from a walk":
        folder = copy(tiny_data, tmp_path_factory.mktemp("walked") / "records")
    assert len(list(folder.glob("*.index"))) == 2 * (folder == tiny_data.records)
    info = load_info(folder)
    plain = [
        (number, serialized, unpack(serialized))
        for number, (path, shard) in enumerate(zip(info.shard_paths, info.shards, strict=True))
        for serialized in read_shard(path, shard.records)
    ]
    return read_index(info), plain


def size_of(item):
    if item.is_crowd:
        return "crowd"
    return "small" if item.area < 32**2 else "medium" if item.area < 96**2 else "large"


def test_every_record_is_found_by_its_bytes(walked):
    index, plain = walked
    assert index.done and not index.problem and index.records == len(plain) == 6
    assert [index.read(position) for position in range(6)] == [(shard, serialized) for shard, serialized, _ in plain]
    for position in (-1, 6):
        with pytest.raises(UserError, match="no image number"):
            index.read(position)


def test_filters(walked):
    index, plain = walked
    records = [record for _, _, record in plain]
    labels = {item.label for record in records for item in record.objects}
    assert len(labels) > 3
    for label in labels:
        for size in (None, *SIZES):
            expected = [
                position
                for position, record in enumerate(records)
                if any(item.label == label and size in (None, size_of(item)) for item in record.objects)
            ]
            found = index.find(label - 1, None if size is None else SIZES.index(size))
            assert found.tolist() == expected
    empty = [position for position, record in enumerate(records) if not record.objects]
    assert index.find(without_objects=True).tolist() == empty and len(empty) == 1
    (position,) = index.find(image_id=records[4].image.source_id)
    assert position == 4 and len(index.find(image_id=10**9)) == 0
    crowd = [position for position, record in enumerate(records) if any(item.is_crowd for item in record.objects)]
    assert index.find(size=SIZES.index("crowd")).tolist() == crowd != []
    counts = index.count_classes()
    assert counts.tolist() == [sum(i.label == k + 1 for r in records for i in r.objects) for k in range(len(counts))]


def test_the_index_keeps_its_small_types(walked):
    """NumPy 2 makes int64 of an int32 array and an int64 scalar, twice the memory."""
    kinds = [column.dtype.name for column in walked[0].known()]
    assert kinds == ["int32", "int64", "int32", "int64", "int32", "int16", "int8"]


def cut(content):
    return content[:-9]


def overwritten(content):
    (length,) = struct.unpack_from("<Q", content)
    second = length + 16
    return content[: second + 12] + b"x" * 40 + content[second + 52 :]


@pytest.mark.parametrize("damage", [cut, overwritten, lambda content: b""])
def test_a_damaged_shard_is_named_and_what_came_before_stays(tiny_data, tmp_path, damage):
    folder = copy(tiny_data, tmp_path / "records")
    info = json.loads((folder / "dataset_info.json").read_text())
    last = folder / info["shards"][1]["file"]
    last.write_bytes(damage(last.read_bytes()))
    info["shards"][1]["bytes"] = last.stat().st_size
    (folder / "dataset_info.json").write_text(json.dumps(info))
    index = read_index(load_info(folder))
    assert last.name in index.problem and "prepare the data again" in index.problem and "\n" not in index.problem
    assert len(index.find()) >= info["shards"][0]["records"]


@pytest.mark.parametrize("source_id", [10**300, 2**63, "9" * 5000, "first"])
def test_an_id_that_is_none_ends_the_reading_in_words(tmp_path, source_id):
    import tensorflow as tf

    from htc_tf.data import schema

    path = tmp_path / "00000-of-00001.tfrecord"
    image = schema.Image(b"", "png", 1, 1, "a.png", 5)
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(schema.example(image, []))
        writer.write(schema.example(image._replace(source_id=source_id), []))
    shard = {"file": path.name, "records": 2, "bytes": path.stat().st_size, "sha256": ""}
    info = {"version": 1, "categories": [], "stuff": {"present": False, "labels": 0}, "masks": False}
    info |= {"images": 2, "objects": 0, "crowd": 0, "shards": [shard], "counters": {}, "options": {}, "inputs": {}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    index = read_index(load_info(tmp_path))
    assert index.done and str(path) in index.problem and "damaged" in index.problem
    assert len(index.problem) < 1000


def test_a_damaged_index_file_is_replaced_by_the_walk(tiny_data, tmp_path):
    folder = shutil.copytree(tiny_data.records, tmp_path / "records")
    for path in folder.glob("*.index"):
        path.write_bytes(path.read_bytes()[:-1])
    index, plain = read_index(load_info(folder)), read_index(load_info(tiny_data.records))
    assert not index.problem
    for column, expected in zip(index.known(), plain.known(), strict=True):
        np.testing.assert_array_equal(column, expected)
