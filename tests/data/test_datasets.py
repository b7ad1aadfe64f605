"""Datasets: the info is read, and incomplete or damaged folders are refused by name."""

import json
import shutil

import pytest
import tensorflow as tf

from htc_tf.data import datasets, schema
from htc_tf.errors import UserError

CATEGORIES = [{"id": 2, "name": "dog"}, {"id": 9, "name": "cat"}]
OBJECTS = (
    schema.Object(7, 0.25, 0.5, 0.5, 1.0, 9, "cat", 0, 123.5, b"04`1"),
    schema.Object(8, 0.0, 0.0, 1.0, 0.125, 2, "dog", 1, 3200.0, b""),
)


@pytest.fixture
def folder(tmp_path):
    """Two shards, of two records and of one; the last record has no objects."""
    rows = [schema.example(schema.Image(b"jpeg", "jpeg", 40, 80, f"{i}.jpg", i), OBJECTS[: 2 - i]) for i in range(3)]
    shards = []
    for index, part in enumerate((rows[:2], rows[2:])):
        path = tmp_path / f"{index:05d}-of-00002.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for row in part:
                writer.write(row)
        shards.append({"file": path.name, "records": len(part), "bytes": path.stat().st_size, "sha256": "0"})
    info = {"version": 1, "categories": CATEGORIES, "stuff": {"present": True, "labels": 13}, "masks": True}
    info |= {"images": 3, "objects": 3, "crowd": 1, "shards": shards, "counters": {}, "options": {}, "inputs": {}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    return tmp_path


def edit(folder, **changes):
    path = folder / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_info(folder):
    info = datasets.load_info(folder)
    assert (info.num_classes, info.class_names, info.category_ids) == (2, ("dog", "cat"), (2, 9))
    assert (info.records, info.images, info.objects, info.crowd) == (3, 3, 3, 1)
    assert (info.stuff.present, info.stuff.labels, info.masks) == (True, 13, True)
    assert info.shard_paths == tuple(str(folder / f"0000{i}-of-00002.tfrecord") for i in range(2))


def test_coco_from_records(folder):
    coco = datasets.coco_from_records(datasets.load_info(folder))
    assert coco["categories"] == CATEGORIES
    assert coco["images"] == [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 80} for i in range(3)]
    first, second, third = coco["annotations"]
    assert first == {
        "id": 7,
        "image_id": 0,
        "category_id": 9,
        "bbox": [40, 10, 40, 10],
        "area": 123.5,
        "iscrowd": 0,
        "segmentation": {"size": [40, 80], "counts": "04`1"},
    }
    assert second["iscrowd"] == 1 and "segmentation" not in second
    assert third["image_id"] == 1


@pytest.mark.parametrize(
    "record",
    [
        b"text",
        b"",
        schema.example(schema.Image(b"", "jpeg", 40, 80, "a.jpg", "first"), []),
        schema.example(schema.Image(b"", "jpeg", 40, 80, "a.jpg", 1), [OBJECTS[0]._replace(mask_rle=b"\xff")]),
        schema.example(schema.Image(b"", "jpeg", 40, 80, "a.jpg", 1), OBJECTS).replace(b"object/area", b"object/axxx"),
    ],
)
def test_a_record_of_another_shape_is_named(folder, record):
    shard = folder / "00001-of-00002.tfrecord"
    with tf.io.TFRecordWriter(str(shard)) as writer:
        writer.write(record)
    content = json.loads((folder / "dataset_info.json").read_text())
    content["shards"][1]["bytes"] = shard.stat().st_size
    edit(folder, shards=content["shards"])
    with pytest.raises(UserError, match=f"{shard}: record 0 was not written by the preparation"):
        datasets.coco_from_records(datasets.load_info(folder))


def refused(folder):
    with pytest.raises(UserError) as error:
        datasets.load_info(folder)
    return str(error.value)


def test_incomplete_folders_are_named(folder):
    assert str(folder / "nowhere") in refused(folder / "nowhere")
    (folder / "00001-of-00002.tfrecord").unlink()
    assert str(folder / "00001-of-00002.tfrecord") in refused(folder)
    shard = folder / "00000-of-00002.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert str(shard) in refused(folder)
    (folder / "dataset_info.json").unlink()
    assert "did not finish" in refused(folder)


def test_the_folder_above_names_the_folders_of_records(folder):
    parent = folder.with_name("parent")
    for name in ("val", "train"):
        shutil.copytree(folder, parent / name)
    (parent / "notes.txt").touch()
    wanted = f"{parent} has no dataset_info.json: the records are in its train, val: give one of these folders"
    assert refused(parent) == wanted


NESTED = f'{{"version": 1, "categories": {"[" * 100_000}'


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"version": 1}', '{"version": 2}', NESTED])
def test_unreadable_info_is_named(folder, content):
    (folder / "dataset_info.json").write_text(content)
    assert "dataset_info.json" in refused(folder)


SHARD = {"file": "a.tfrecord", "records": 1, "bytes": 1, "sha256": "0"}
OTHER_SHAPES = [
    {"categories": [{"id": 1}]},
    {"categories": [{"id": 2**63, "name": "dog"}]},
    {"categories": [{"id": 1, "name": None}]},
    {"categories": 1},
    {"shards": [{"name": 1}]},
    {"shards": [SHARD | {"file": 1}]},
    {"shards": [SHARD | {"records": "1"}]},
    {"shards": [SHARD | {"bytes": 1.0}]},
    {"shards": [[]]},
    {"stuff": None},
    {"stuff": {"present": True, "labels": "13"}},
    {"images": "3"},
    {"crowd": None},
    {"masks": 1},
    {"counters": []},
]


@pytest.mark.parametrize("change", OTHER_SHAPES)
def test_info_of_another_shape_is_named(folder, change):
    edit(folder, **change)
    assert "dataset_info.json was not written by the preparation: " in refused(folder)


def read(folder, records):
    return list(datasets.read_shard(str(folder / "00000-of-00002.tfrecord"), records))


@pytest.mark.parametrize("records", [1, 3])
def test_wrong_number_of_records(folder, records):
    assert len(read(folder, 2)) == 2
    with pytest.raises(UserError, match=f"holds 2 records, not {records}"):
        read(folder, records)


def test_a_cut_between_records_and_a_flipped_bit(folder):
    shard = folder / "00000-of-00002.tfrecord"
    content = bytearray(shard.read_bytes())
    content[-8] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match="damaged after record 1"):
        read(folder, 2)
    length = int.from_bytes(content[:8], "little") + 16
    shard.write_bytes(content[:length])
    with pytest.raises(UserError, match="holds 1 records, not 2"):
        read(folder, 2)
