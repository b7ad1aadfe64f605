"""The inspection counts the records, draws them, and notices damage."""

import io
import json

import numpy as np
import PIL.Image
import pytest
from pycocotools import mask as coco_mask

from htc_tf.data import record_walk, schema, shard_index
from htc_tf.data.datasets import Category
from htc_tf.errors import UserError
from pipelines import contact_sheet, files, inspect_records

HEIGHT, WIDTH = 40, 60
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}, {"id": 9, "name": "eel"}]


def record(identifier, objects, color=(90, 90, 90)):
    stream = io.BytesIO()
    PIL.Image.new("RGB", (WIDTH, HEIGHT), color).save(stream, "PNG")
    image = schema.Image(stream.getvalue(), "png", HEIGHT, WIDTH, f"{identifier}.png", identifier)
    return schema.example(image, objects)


def square(identifier, label, text, is_crowd=0):
    """An object whose box is the right half of the image, and whose mask is the left half of its box."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[:, 30:45] = 1
    return schema.Object(identifier, 0, 0.5, 1, 1, label, text, is_crowd, 600, coco_mask.encode(mask)["counts"])


@pytest.fixture
def folder(tmp_path):
    """Two shards: an image without objects, one with a cat and a crowd of dogs, and one with two cats."""
    import tensorflow as tf

    images = [
        [record(1, []), record(2, [square(1, 3, "cat"), square(2, 8, "dog", 1)])],
        [record(3, [square(3, 3, "cat"), square(4, 3, "cat")])],
    ]
    shards = []
    for index, rows in enumerate(images):
        path = tmp_path / f"{index:05d}-of-00002.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for row in rows:
                writer.write(row)
        sizes = {"records": len(rows), "bytes": path.stat().st_size, "sha256": files.sha256(path)}
        shards.append({"file": path.name, **sizes})
    info = {"version": 1, "categories": CATEGORIES, "stuff": {"present": False, "labels": 0}, "masks": True}
    info |= {"images": 3, "objects": 4, "crowd": 1, "shards": shards, "counters": {}, "options": {}, "inputs": {}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    return tmp_path


def draw(name, filename="1.png", crowd=0):
    image = schema.unpack(record(1, [square(1, 3, name, crowd)]))
    image = image._replace(image=image.image._replace(filename=filename))
    return np.asarray(contact_sheet.draw_sheet([image], "title", "subtitle", [Category(3, name)]))


def test_names_beyond_ascii_without_letters_and_of_any_length():
    """A name that no font can draw becomes the category's id."""
    assert (draw("\u0436\u0443\u043a") != draw("\u0434\u0443\u043a")).any()
    assert (draw("cat", "\u0436.png") != draw("cat", "\u0434.png")).any()
    np.testing.assert_array_equal(draw("\U000e0fff"), draw("3"))
    for name in ("w" * 10_000, "a\nb\x1b[31m", "\u202egnp", "z" + "\u0301" * 99, "\ud800"):
        assert draw(name if name != "\ud800" else "x", name).shape == draw("cat").shape
    assert (draw("w" * 10_000, crowd=1) != draw("w" * 10_000)).any()  # the crowd is still labeled


def refuse(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        inspect_records.main(list(map(str, arguments)))
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def rows_of(text):
    """Returns the counts of the histograms by name."""
    rows = (line.rstrip("█ ").rsplit(maxsplit=1) for line in text.splitlines() if line.startswith("  "))
    return {name.strip(): int(number) for name, number in rows}


def test_counts(folder, capsys):
    inspect_records.main(["--records", str(folder), "--verify"])
    printed = capsys.readouterr().out
    assert "3 images, 4 objects (1 crowd regions), 3 classes" in printed
    assert "masks; no stuff maps" in printed
    counts = rows_of(printed)
    assert (counts["cat"], counts["dog"]) == (3, 1)
    assert (counts["0"], counts["1"], counts["2 to 3"], counts["32 or more"]) == (1, 0, 2, 0)
    assert "1.3 on average, at most 2" in printed
    assert "without an object: eel" in printed
    assert "verified: 2 checksums, 3 records, 4 objects, 0 of 2 indexes" in printed


def write_indexes(folder):
    for path in sorted(folder.glob("*.tfrecord")):
        numbers = record_walk.walk(path.read_bytes())
        content = shard_index.encode(shard_index.make(numbers), files.sha256(path))
        path.with_suffix(".index").write_bytes(content)
    return path.with_suffix(".index")


def test_counts_of_the_index(folder, capsys):
    """The same text; and without --verify, and without a sheet, no record is read."""
    inspect_records.main(["--records", str(folder)])
    walked = capsys.readouterr().out
    write_indexes(folder)
    inspect_records.main(["--records", str(folder), "--verify"])
    printed = capsys.readouterr().out
    assert printed.startswith(walked) and "4 objects, 2 of 2 indexes" in printed
    for path in folder.glob("*.tfrecord"):
        path.write_bytes(bytes(path.stat().st_size))
    inspect_records.main(["--records", str(folder)])
    assert capsys.readouterr().out == walked


def test_a_damaged_or_wrong_index_is_named(folder, capsys):
    path = write_indexes(folder)
    shard = path.with_suffix(".tfrecord")
    index = shard_index.make(record_walk.walk(shard.read_bytes()))
    path.write_bytes(shard_index.encode(index._replace(areas=index.areas + 1), files.sha256(shard)))
    line = refuse(capsys, "--records", folder, "--verify")
    assert f"{path} disagrees with the records in areas; run the same preparation again" in line
    flip(path, 70)
    assert f"{path} is damaged: its checksum is wrong" in refuse(capsys, "--records", folder, "--verify")


def test_sheet(folder):
    sheet = folder / "sheets" / "sheet.png"
    inspect_records.main(["--records", str(folder), "--output", str(sheet), "--images", "2"])
    image = PIL.Image.open(sheet)
    cell = contact_sheet.CELL + contact_sheet.GAP
    assert image.size[0] == contact_sheet.GAP + 2 * cell
    center = contact_sheet.HEADER + contact_sheet.CELL // 2
    colors = [image.getpixel((contact_sheet.GAP + contact_sheet.CELL // 4, center))]
    left = contact_sheet.GAP + cell
    colors += [image.getpixel((left + contact_sheet.CELL * part // 16, center)) for part in (4, 10, 14)]
    empty, outside, masked, beside = colors
    assert empty == outside == beside == (90, 90, 90)
    assert masked != (90, 90, 90)


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_damage_is_named(folder, capsys):
    shard = folder / "00001-of-00002.tfrecord"
    flip(shard, 100)
    line = refuse(capsys, "--records", folder, "--verify")
    assert str(shard) in line and "sha256" in line
    shard.write_bytes(shard.read_bytes()[:50])
    assert str(shard) in refuse(capsys, "--records", folder)


def test_wrong_counts_are_named(folder, capsys):
    path = folder / "dataset_info.json"
    path.write_text(path.read_text().replace('"objects": 4', '"objects": 5'))
    assert "lists 5 objects, the records hold 4" in refuse(capsys, "--records", folder, "--verify")


def test_mistaken_flags(folder, capsys):
    assert "no such folder" in refuse(capsys, "--records", folder / "nowhere")
    assert "must end in .png, .jpg, .jpeg, .webp" in refuse(capsys, "--records", folder, "--output", "sheet.txt")
    assert "--images: 0" in refuse(capsys, "--records", folder, "--images", "0")
    assert "--images: only with --output; leave it out" in refuse(capsys, "--records", folder, "--images", "3")


@pytest.mark.parametrize("encoded", [b"", b"<html>", "bomb"])
def test_an_image_that_cannot_be_drawn_is_named(encoded):
    if encoded == "bomb":
        stream = io.BytesIO()
        PIL.Image.new("1", (20_000, 20_000)).save(stream, "PNG")
        encoded = stream.getvalue()
    image = schema.Image(encoded, "png", HEIGHT, WIDTH, "7.png", 7)
    with pytest.raises(UserError, match=r"image 7\.png of the records: "):
        contact_sheet.draw_record(schema.Record(image, [], b""), [])


def test_a_category_that_is_not_listed_is_drawn_by_its_number(monkeypatch):
    names = []
    monkeypatch.setattr(contact_sheet.drawing, "draw", lambda image, **drawn: names.append(drawn) or np.asarray(image))
    found = schema.unpack(record(1, [square(1, 7, "x"), square(2, 3, "cat"), square(3, 7, "x", 1)]))
    contact_sheet.draw_record(found, [Category(3, "cat")])
    (drawn,) = names
    assert [drawn["class_names"][number] for number in drawn["classes"]] == ["7", "cat", "7 (crowd)"]


@pytest.mark.parametrize(
    "changes",
    [{"ymin": float("nan")}, {"xmax": 1e38}, {"ymin": 0.9, "ymax": 0.1}, {"mask_rle": b"04"}, {"mask_rle": b"zzzz"}],
)
def test_an_object_that_cannot_be_drawn_is_named(changes):
    found = schema.unpack(record(1, [square(5, 3, "cat")._replace(**changes)]))
    with pytest.raises(UserError, match=r"image 1\.png of the records: its object 5 has "):
        contact_sheet.draw_record(found, [Category(3, "cat")])
