"""LabelMe's files and shapes that cannot be used are listed with their reason, and refusals are one line."""

import base64
import errno
import json
import os
import random

import numpy as np
import pytest

from pipelines import to_coco
from pipelines.importers import labelme
from pipelines.importers.labeled import LabeledImage, LabeledObject
from tests.pipelines.importers.labelme_files import add, convert, mask_shape, png, shape

BAD_FILES = {
    "empty": (b"", "blanks"),
    "cut": (b'{"shapes": [', "ends in the middle"),
    "page": (b"<html>", "HTML"),
    "list": (b"[]", "not a file of LabelMe"),
    "coco": (b'{"images": [], "annotations": []}', "no list 'shapes'"),
    "deep": (b"[" * 100_000, "JSON"),
    "latin": (b'{"imagePath": "\xe9"}', "UTF-8"),
    "digits": (b'{"shapes": [], "imageHeight": ' + b"9" * 5000 + b"}", "JSON"),
}
BAD_FIELDS = {
    "missing": ({"imagePath": "no.png"}, "no.png is missing"),
    "none": ({"imagePath": None}, "imagePath is null"),
    "nul": ({"imagePath": "\0.png"}, "is missing"),
    "surrogate": ({"imagePath": "\ud800.png"}, "is missing"),
    "long": ({"imagePath": "x" * 100_000}, "is missing"),
    "size": ({"imageHeight": -3}, "imageHeight is -3, imageWidth is 40; both must be the image's, in pixels"),
    "words": ({"imageWidth": "4O"}, "imageHeight is 32, imageWidth is 4O; both must"),
    "huge": ({"imageHeight": 10**9, "imageWidth": 10**9}, "more than"),
    "shapes": ({"shapes": "dog"}, "no list 'shapes'"),
}
BAD_SHAPES = {
    "null": (None, "no label"),
    "label": (shape(label=7), "label is 7, not a text"),
    "blank": (shape(label=" "), "no label"),
    "line": (shape(kind="line"), "has no area"),
    "kind": (shape(kind=["polygon"]), "has no area"),
    "group": (shape(group_id=[1]), "group_id"),
    "points": ({**shape(), "points": "1 2"}, "not a list of"),
    "triple": (shape(points=[(1, 2, 3)] * 3), "not a list of"),
    "two": (shape(points=[(1, 2), (3, 4)]), "2 points"),
    "nan": (shape(points=[(1, 2), (3, float("nan")), (5, 6)]), "not numbers"),
    "text": (shape(points=[(1, 2), (3, "4"), (5, 6)]), "not numbers"),
    "far": (shape(points=[(1, 2), (3, 1e9), (5, 6)]), "far outside"),
    "digits": (shape(points=[(1, 2), (3, 10**300), (5, 6)]), "far outside"),
    "digits beside a float": (shape(points=[(1.5, 2), (3, 10**400), (5, 6)]), "far outside"),
    "outside": (shape(points=[(-30, -30), (-10, -30), (-10, -10)]), "no pixel"),
    "flat": (shape(points=[(5, 5), (5, 5)], kind="rectangle"), "no pixel"),
    "no mask": (shape(points=[(1, 1), (4, 4)], kind="mask"), "base64"),
    "a number": (shape(points=[(1, 1), (4, 4)], kind="mask", mask=3), "base64"),
    "no png": (shape(points=[(1, 1), (4, 4)], kind="mask", mask="AAAA"), "base64"),
    "no png but a bmp": (shape(points=[(1, 1), (4, 4)], kind="mask", mask=png(np.ones((4, 4)), "BMP")), "not a PNG"),
    "surrogate": (shape(label="\ud800"), "label \\ud800 is not Unicode"),
    "mask size": (shape(points=[(1, 1), (4, 4)], kind="mask", mask=png(np.ones((2, 2)))), "(2, 2) pixels"),
    "mask outside": (mask_shape(np.ones((4, 4)), left=38), "a mask in the box"),
    "mask of nothing": (mask_shape(np.zeros((4, 4))), "no pixel"),
}


def test_bad_files_are_listed_and_the_others_kept(tmp_path, capsys):
    folder = tmp_path / "in"
    add(folder, "good", shape())
    for name, (data, _) in BAD_FILES.items():
        folder.joinpath(f"{name}.json").write_bytes(data)
    for name, (fields, _) in BAD_FIELDS.items():
        add(folder / "fields", name, shape(), **fields)
    (folder / "folder.json").mkdir()
    add(folder, "twin", shape(), imagePath="good.png")
    found, left_out = convert(folder, "--val_fraction", "0")
    assert [image["file_name"] for image in found["train"]["images"]] == ["good.png"]
    for name, (_, words) in (BAD_FILES | BAD_FIELDS).items():
        (line,) = (line for line in left_out if f"/{name}.json: " in line)
        assert words in line
    assert any("twin.json: another entry describes" in line for line in left_out)
    assert any("twin.png: no usable annotation file" in line for line in left_out)
    assert f"left out: {len(left_out)}" in capsys.readouterr().out


def test_bad_shapes_are_listed_and_the_others_kept(tmp_path):
    for name, (bad, _) in BAD_SHAPES.items():
        add(tmp_path / "in", name, bad, shape())
    found, left_out = convert(tmp_path / "in", "--val_fraction", "0")
    assert len(found["train"]["annotations"]) == len(found["train"]["images"]) == len(BAD_SHAPES) == len(left_out)
    for name, (_, words) in BAD_SHAPES.items():
        (line,) = (line for line in left_out if f"/{name}.json: shapes[0]" in line or line.startswith(f"{name}.png: "))
        assert words in line


def test_equal_bad_shapes_count_one_each(tmp_path, capsys):
    outside = shape(points=[(-30, -30), (-10, -30), (-10, -10)])
    add(tmp_path / "in", "a", shape(), *[outside] * 7)
    os.symlink(tmp_path, tmp_path / "in/elsewhere")  # which --input and --images name both
    found, left_out = convert(tmp_path / "in", "--val_fraction", "0")
    assert len(found["train"]["annotations"]) == 1
    assert sum("no pixel" in line for line in left_out) == 7 and sum("elsewhere" in line for line in left_out) == 1
    assert len(left_out) == 8 and "left out: 8" in capsys.readouterr().out


def test_the_place_of_a_bad_object_is_named_with_its_numbers():
    objects = [
        LabeledObject("dog", None, [115.1999999999999, 86.4000000000001, 6.4000000000001, 4.80000000000001]),
        LabeledObject("dog", None, [1.0, 2.0, 0.0, 3.0], place="a.txt: line 3"),
        LabeledObject("dog", [[-9, -8.5, -3, -8.5, -3, -2], [-1, -1, -2, -2, -3, -1]], place="a.txt: line 4"),
        LabeledObject("dog", {"size": [40, 60], "counts": [2400]}, place="a.txt: line 5"),
        LabeledObject("cat", None, [1, 1, 1, 1], place="a.txt: line 6"),
    ]
    image = LabeledImage("a.jpg", 40, 60, objects, [])
    _, problems, _ = to_coco.divide({"a.jpg": image}, ["dog"], set(), 0)
    assert problems == [
        "a.jpg: bbox [115.2, 86.4, 6.4, 4.8] in an image of 60 x 40 pixels",
        "a.txt: line 3: bbox [1.0, 2.0, 0.0, 3.0]: [x, y, width, height] must have a width and height above 0",
        "a.txt: line 4: an object from x -9 to -1, y -8.5 to -1 covers no pixel of the image, 60 x 40",
        "a.txt: line 5: the mask has no pixels",
        "a.txt: line 6: label cat is not one of --classes",
    ]


def test_a_damaged_mask_never_ends_the_command(tmp_path):
    rng = random.Random(0)
    add(tmp_path, "a")
    whole = mask_shape(np.ones((12, 12)))
    data = base64.b64decode(whole["mask"])
    for _ in range(300):
        spoiled = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            spoiled[rng.randrange(len(data))] = rng.randrange(256)
        spoiled = bytes(spoiled[: rng.randrange(len(data) + 1)] if rng.random() < 0.3 else spoiled)
        add(tmp_path, "a", {**whole, "mask": base64.b64encode(spoiled).decode()})
        (found,) = labelme.read(tmp_path / "a.json", tmp_path)
        assert len(found.objects) + len(found.problems) == 1


def test_refusals_are_one_line_and_write_nothing(tmp_path, capsys):
    add(tmp_path / "in", "a", shape("_background_"))
    mine = tmp_path / "other/annotations/instances_train.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    (tmp_path / "taken/annotations/instances_val.json").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.txt").write_bytes(b"dog\n\xe9")
    note = tmp_path / "noted/left_out.txt"
    note.parent.mkdir()
    note.write_text("my own list")
    new, other = str(tmp_path / "new"), str(tmp_path / "other")
    for source, output, words in (
        ("in", new, "no object for training: all are labeled _background_, which are no objects"),
        ("in", other, "instances_train.json is not a file that this command wrote"),
        ("in", str(tmp_path / "taken"), "instances_val.json is not a file that this command wrote"),
        ("in", str(note.parent), "left_out.txt is not a file that this command wrote: move it away"),
        ("latin.txt", new, "is not a file *.json"),
        ("empty", new, "holds no *.json"),
        ("none", new, "no such folder or file"),
    ):
        with pytest.raises(SystemExit, match="2"):
            to_coco.main(["--from", "labelme", "--input", str(tmp_path / source), "--output", output])
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ") and words in last
    assert mine.read_text() == "{}" and note.read_text() == "my own list" and not (tmp_path / "new").exists()


def test_classes_that_are_not_utf8(tmp_path, capsys):
    add(tmp_path / "in", "a", shape())
    (tmp_path / "latin.txt").write_bytes(b"dog\n\xe9")
    with pytest.raises(SystemExit, match="2"):
        convert(tmp_path / "in", "--classes", str(tmp_path / "latin.txt"))
    assert "latin.txt: it is not UTF-8: byte 0xe9 at position 4" in capsys.readouterr().err


@pytest.mark.parametrize("number", [1, 2])  # of the file for which no space is left
def test_what_cannot_be_written_leaves_the_earlier_files(number, tmp_path, capsys, monkeypatch):
    """Train and val belong together: either both are of this call, or both of the earlier one."""
    for name in "01234567":
        add(tmp_path / "in", name, shape())
    before, _ = convert(tmp_path / "in", "--val_fraction", "0.5")
    add(tmp_path / "in", "0", shape("cat"))
    flushed, fsync = [], os.fsync

    def fill_up(descriptor):
        flushed.append(descriptor)
        if len(flushed) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(SystemExit, match="2"):
        convert(tmp_path / "in", "--val_fraction", "0.5")
    assert "No space left on device" in capsys.readouterr().err
    names = sorted(path.name for path in (tmp_path / "coco/annotations").iterdir())
    assert names == ["instances_train.json", "instances_val.json"]
    for split, content in before.items():
        assert json.loads((tmp_path / f"coco/annotations/instances_{split}.json").read_text()) == content
