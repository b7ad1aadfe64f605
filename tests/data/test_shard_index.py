"""The index of a shard: as written it equals the walk of its records, and hostile files are not used."""

import hashlib
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.data import datasets, record_walk, schema, shard_index
from htc_tf.data.integrity import check_counts
from htc_tf.errors import UserError

CATEGORIES = (3, 90, 2**63 - 1)


def random_records(seed, count):
    """Returns [(schema.Image, [schema.Object])]: crowds, images without objects, unknown classes, the largest ids."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        image_id = int(random.choice([0, 5, 2**63 - 1, random.integers(2**63)]))
        encoded = random.bytes(random.integers(1, 400))
        height, width = map(int, random.integers(1, 5000, 2))
        objects = []
        for _ in range(random.choice([0, 0, 1, 7, 40])):
            sides = np.sort(random.random([2, 2]), axis=0).ravel().tolist()
            label = int(random.choice([*CATEGORIES, 4, -7, 0]))
            area = float(random.choice([0.0, 1024.0, 1e-30, 3e38, random.random() * 1e5]))
            objects.append(schema.Object(2**63 - 1, *sides, label, "\u0436", int(random.random() < 0.3), area, b"04"))
        found.append((schema.Image(encoded, "jpeg", height, width, "\u0436.jpg", image_id), objects))
    return found


def write(folder, shards, with_index=True):
    """Writes a dataset of shards, each a list of (image, objects), and returns its DatasetInfo and serialized rows."""
    folder.mkdir(exist_ok=True)
    listed, all_rows = [], []
    for number, records in enumerate(shards):
        path = folder / f"{number:05d}-of-{len(shards):05d}.tfrecord"
        rows = [schema.example(image, objects) for image, objects in records]
        with tf.io.TFRecordWriter(str(path)) as writer:
            for row in rows:
                writer.write(row)
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        listed.append({"file": path.name, "records": len(rows), "bytes": len(content), "sha256": digest})
        all_rows.append(rows)
        if with_index:
            numbers = [record_walk.numbers_of(len(row), *record) for row, record in zip(rows, records, strict=True)]
            path.with_suffix(".index").write_bytes(shard_index.encode(shard_index.make(numbers), digest))
    info = {"version": 1, "categories": [{"id": i, "name": str(i)} for i in CATEGORIES], "shards": listed}
    info |= {"stuff": {"present": False, "labels": 0}, "masks": True, "images": 0, "objects": 0, "crowd": 0}
    (folder / "dataset_info.json").write_text(json.dumps({**info, "counters": {}, "options": {}, "inputs": {}}))
    return datasets.load_info(folder), all_rows


def join(parts):
    return shard_index.ShardIndex(*map(np.concatenate, zip(*parts, strict=True)))


@pytest.mark.parametrize("seed", range(3))
def test_as_written_and_as_walked(tmp_path, seed):
    """Every column, of shards longer than a batch of the walk, of one image, and without any."""
    shards = [random_records(seed, 2 * shard_index.BATCH + 9), random_records(seed + 9, 1), []]
    info, rows = write(tmp_path / "with", shards)
    plain, _ = write(tmp_path / "without", shards, with_index=False)
    written, walked = list(shard_index.read_all(info)), list(shard_index.read_all(plain))
    assert [number for number, _ in written] == [0, 1, 2] and [number for number, _ in walked] == [0, 0, 0, 1]
    assert not shard_index.differences(written[0][1], join(part for number, part in walked if number == 0))
    assert not shard_index.differences(written[1][1], walked[3][1])
    for (_, index), serialized, path in zip(written, rows, info.shard_paths, strict=True):
        content = Path(path).read_bytes()
        places = zip(index.offsets, index.lengths, strict=True)
        assert [content[offset : offset + length] for offset, length in places] == serialized


def test_every_column_against_the_parsed_records(tmp_path):
    info, (rows,) = write(tmp_path, [random_records(4, 50)])
    ((_, index),) = shard_index.read_all(info)
    records = [schema.unpack(row) for row in rows]
    objects = [item for record in records for item in record.objects]
    assert index.image_ids.tolist() == [record.image.source_id for record in records]
    assert index.heights.tolist() == [record.image.height for record in records]
    assert index.widths.tolist() == [record.image.width for record in records]
    assert index.counts.tolist() == [len(record.objects) for record in records]
    assert index.owners.tolist() == [place for place, record in enumerate(records) for _ in record.objects]
    assert index.categories.tolist() == [item.label for item in objects]
    assert index.crowd.tolist() == [item.is_crowd == 1 for item in objects]
    assert index.areas.tolist() == [item.area for item in objects]  # float32 both
    assert index.boxes.tolist() == [[item.ymin, item.xmin, item.ymax, item.xmax] for item in objects]
    known = {category: place for place, category in enumerate(CATEGORIES)}
    assert index.classes(CATEGORIES).tolist() == [known.get(item.label, -1) for item in objects]
    assert {-1, 0, 1, 2} == set(index.classes(CATEGORIES).tolist())
    kinds = [column.dtype.name for column in index]
    assert kinds == ["int64"] * 7 + ["float32"] * 2 + ["bool"]


def signed(content):
    """Returns an index file with the right checksum at its end."""
    return content + hashlib.sha256(content).digest()


def replace(**columns):
    """Returns a function that puts other columns into an index file, with the right checksum."""

    def change(content, info):
        shard = info.shards[0]
        index = shard_index.decode(content, shard.records, shard.bytes, shard.sha256)
        changed = {name: change(getattr(index, name).copy()) for name, change in columns.items()}
        return shard_index.encode(index._replace(**changed), shard.sha256)

    return change


def put(value, place=0):
    def change(column):
        column.flat[place] = value
        return column

    return change


def counted(records, objects):
    """Returns a function that writes other counts into the header, with the right checksum."""
    return lambda content, info: signed(content[:8] + struct.pack("<QQ", records, objects) + content[24:-32])


def zipped(content, info):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("areas.npy", bytes(10**7))
    return stream.getvalue()


class Opens:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of an index file ran')",))


HOSTILE = {
    "empty": lambda content, info: b"",
    "cut": lambda content, info: content[:-1],
    "longer": lambda content, info: content + b"\0",
    "a flipped bit": lambda content, info: content[:90] + bytes([content[90] ^ 1]) + content[91:],
    "a pickle": lambda content, info: pickle.dumps(Opens()),
    "a zip bomb": zipped,
    "of another shard": lambda content, info: signed(content[:24] + bytes(32) + content[56:-32]),
    "records beyond memory": counted(2**63, 2**63),
    "counts that overflow to the size": counted(2**61 + 4, 0),
    "another number of records": lambda content, info: signed(
        shard_index.encode(shard_index.make([]), info.shards[0].sha256)[:-32]
    ),
    "a negative length": replace(lengths=put(-1)),
    "a length beyond the file": replace(lengths=put(2**62)),
    "lengths that overflow to the size": replace(lengths=lambda column: column + 2**62),
    "a negative number of objects": replace(counts=put(-1)),
    "more objects than there are": replace(counts=put(10**12)),
    "areas that are not numbers": replace(areas=put(np.nan)),
    "boxes that are not numbers": replace(boxes=put(np.nan)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_ignored_in_one_line(tmp_path, caplog, name):
    info, _ = write(tmp_path, [random_records(1, 20)])
    path = tmp_path / "00000-of-00001.index"
    ((_, before),) = shard_index.read_all(info)
    path.write_bytes(HOSTILE[name](path.read_bytes(), info))
    caplog.clear()
    ((_, walked),) = shard_index.read_all(info)
    assert not shard_index.differences(walked, before)
    (line,) = caplog.messages
    assert str(path) in line and "is ignored" in line and "\n" not in line and len(line) < 500


def test_a_file_that_is_too_long_is_not_read(tmp_path, caplog):
    info, _ = write(tmp_path, [random_records(1, 20)])
    with open(tmp_path / "00000-of-00001.index", "r+b") as file:
        file.truncate(10**12)  # sparse
    assert shard_index.load(info.shard_paths[0], info.shards[0]) is None
    assert "length is wrong" in caplog.text


def test_a_folder_in_its_place_is_ignored(tmp_path, caplog):
    info, _ = write(tmp_path, [random_records(1, 20)], with_index=False)
    (tmp_path / "00000-of-00001.index").mkdir()
    assert len(list(shard_index.read_all(info))) == 1
    assert len(caplog.messages) == 1


def test_no_index_is_not_an_error(tmp_path, caplog):
    info, _ = write(tmp_path, [random_records(1, 20)], with_index=False)
    assert shard_index.load(info.shard_paths[0], info.shards[0]) is None
    check_counts(info)
    assert not caplog.messages


def test_lengths_of_the_frames_are_compared_with_the_index(tmp_path):
    """Two records exchanged: the shard's size and number of records are right."""
    info, (rows,) = write(tmp_path, [random_records(1, 20)])
    check_counts(info)
    with tf.io.TFRecordWriter(info.shard_paths[0]) as writer:
        for row in rows[1::-1] + rows[2:]:
            writer.write(row)
    with pytest.raises(UserError, match=r"00000-of-00001\.tfrecord holds records of other lengths than its index"):
        check_counts(info)


def test_the_same_bytes_every_time():
    records = [record_walk.numbers_of(50, image, objects) for image, objects in random_records(2, 30)]
    once, again = (shard_index.encode(shard_index.make(iter(records)), "00" * 32) for _ in range(2))
    assert once == again
    # Golden: one record of 50 bytes, image 5 of 4 x 6 pixels, a crowd of class 3.
    item = schema.Object(1, 0, 0.25, 0.5, 1, 3, "cat", 1, 12.5)
    content = shard_index.encode(
        shard_index.make([record_walk.numbers_of(50, schema.Image(b"", "png", 4, 6, "a", 5), [item])]), "ab" * 32
    )
    expected = b"htcidx1\n" + struct.pack("<QQ", 1, 1) + b"\xab" * 32
    expected += struct.pack("<5q", 50, 5, 4, 6, 1) + struct.pack("<q5fB", 3, 12.5, 0, 0.25, 0.5, 1, 1)
    assert content == signed(expected)
