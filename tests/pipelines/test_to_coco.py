"""LabelMe's files become COCO's: shapes, groups, splits, classes; what cannot be used is listed, whatever it is."""

import base64
import io
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf.data.datasets import load_info
from pipelines import coco_to_tfrecord, labelme, to_coco

ROOT = Path(__file__).resolve().parents[2]
SIDE = 40


def shape(label="dog", points=((4, 4), (14, 4), (14, 12), (4, 12)), kind="polygon", **fields):
    return {"label": label, "points": [list(point) for point in points], "shape_type": kind, "group_id": None, **fields}


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def mask_shape(pixels, left=3, top=5, **fields):
    height, width = np.shape(pixels)[:2]
    corners = ((left, top), (left + width - 1, top + height - 1))
    return shape(points=corners, kind="mask", mask=png(pixels), **fields)


def add(folder, name, *shapes, **fields):
    """Writes an image, and LabelMe's file of it."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / f"{name}.png"
    if not image.exists():
        Image.new("RGB", (SIDE, SIDE - 8)).save(image)
    content = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": f"{name}.png", "imageData": None}
    content |= {"imageHeight": SIDE - 8, "imageWidth": SIDE, **fields}
    (folder / f"{name}.json").write_text(json.dumps(content))


def convert(folder, *flags):
    """Returns {split: content} of what the command writes, and the lines of left_out.txt."""
    output = folder.parent / "coco"
    to_coco.main(["--from", "labelme", "--input", str(folder), "--output", str(output), *flags])
    files = {split: output / "annotations" / f"instances_{split}.json" for split in to_coco.SPLITS}
    left_out = output / "left_out.txt"
    return (
        {split: json.loads(path.read_text()) for split, path in files.items() if path.exists()},
        left_out.read_text().splitlines() if left_out.exists() else [],
    )


def masks(content, height=SIDE - 8, width=SIDE):
    """Returns [objects, H, W], the masks of a file's annotations."""
    drawn = []
    for row in content["annotations"]:
        found = row["segmentation"]
        found = coco_mask.merge(coco_mask.frPyObjects(found, height, width)) if isinstance(found, list) else found
        drawn.append(coco_mask.decode(found))
        assert row["area"] == drawn[-1].sum() and row["bbox"] == coco_mask.toBbox(found).tolist()
    return np.array(drawn)


def box(top, left, bottom, right):
    mask = np.zeros((SIDE - 8, SIDE), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def test_every_shape_becomes_its_mask(tmp_path):
    corner = np.array([[1, 1, 0], [1, 0, 0]])
    add(
        tmp_path / "in",
        "a",
        shape(points=[(4, 4), (14, 4), (14, 12), (4, 12)]),
        shape(points=[(20, 6), (30, 16)], kind="rectangle"),
        shape(points=[(30, 6), (20, 6), (20, 16), (30, 16)], kind="rectangle"),
        shape(points=[(20, 15), (20, 25)], kind="circle"),
        mask_shape(255 * corner),
        mask_shape(np.repeat(corner[..., np.newaxis], 3, axis=2)),
    )
    found, left_out = convert(tmp_path / "in", "--val_fraction", "0")
    drawn = masks(found["train"])
    np.testing.assert_array_equal(drawn[0], box(4, 4, 12, 14))
    np.testing.assert_array_equal(drawn[1], box(6, 20, 16, 30))
    np.testing.assert_array_equal(drawn[2], drawn[1])
    rows, columns = np.mgrid[: SIDE - 8, :SIDE] + 0.5
    circle = np.hypot(rows - 15, columns - 20) < 10
    assert (circle & ~drawn[3].astype(bool)).sum() + (drawn[3] & ~circle).sum() <= 20  # of the 314, at the outline
    pasted = box(0, 0, 0, 0)
    pasted[5:7, 3:6] = corner
    np.testing.assert_array_equal(drawn[4], pasted)
    np.testing.assert_array_equal(drawn[5], pasted)
    assert not left_out and list(found) == ["train"]


def test_a_group_of_one_label_is_one_object(tmp_path):
    one, two = [(0, 0), (5, 0), (5, 5), (0, 5)], [(10, 10), (16, 10), (16, 15), (10, 15)]
    add(
        tmp_path / "in",
        "a",
        shape(points=one, group_id=1),
        shape("cat", points=one, group_id=1),
        shape(points=two, group_id=1),
        shape(points=one, group_id=2),
        mask_shape(np.ones((4, 6)), left=20, top=8, group_id=2),
        shape(points=two),
        shape(points=two),
    )
    found, _ = convert(tmp_path / "in", "--val_fraction", "0")
    assert [row["category_id"] for row in found["train"]["annotations"]] == [2, 1, 2, 2, 2]
    drawn = masks(found["train"])
    first, second = box(0, 0, 5, 5), box(10, 10, 15, 16)
    wanted = [first | second, first, first | box(8, 20, 12, 26), second, second]
    np.testing.assert_array_equal(drawn, wanted)
    assert len(found["train"]["annotations"][0]["segmentation"]) == 2  # two polygons stay two


def test_the_split_depends_on_names_alone(tmp_path):
    for number in range(30):
        add(tmp_path / "in", f"{number:03}", shape())
    before, _ = convert(tmp_path / "in")
    for number in range(30, 60):
        add(tmp_path / "in", f"{number:03}", shape())
    after, _ = convert(tmp_path / "in")
    for split in to_coco.SPLITS:
        names = [{image["file_name"] for image in found[split]["images"]} for found in (before, after)]
        assert names[0] < names[1]
    assert 4 <= len(after["val"]["images"]) <= 20
    ids = [row["id"] for found in after.values() for row in found["annotations"]]
    assert len(set(ids)) == len(ids) == 60
    assert after["train"]["categories"] == after["val"]["categories"]


@pytest.mark.parametrize("as_file", [False, True])
def test_classes_in_a_given_order(tmp_path, as_file):
    add(tmp_path / "in", "a", shape("dog"), shape("cat"), shape("bird"), shape("_background_"), shape("__ignore__"))
    words = ["dog", "cat"]
    if as_file:
        (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ndog\n\ncat\n")
        words = [str(tmp_path / "labels.txt")]
    found, left_out = convert(tmp_path / "in", "--val_fraction", "0", "--classes", *words)
    assert [(row["id"], row["name"]) for row in found["train"]["categories"]] == [(1, "dog"), (2, "cat")]
    assert [row["category_id"] for row in found["train"]["annotations"]] == [1, 2]
    assert left_out == ["a.png: label bird is not one of --classes"]


def test_classes_are_sorted_and_background_is_none(tmp_path, capsys):
    add(tmp_path / "in", "a", shape("dog"), shape("_background_"), shape("cat"), shape("__ignore__"))
    found, left_out = convert(tmp_path / "in", "--val_fraction", "0")
    assert [row["name"] for row in found["train"]["categories"]] == ["cat", "dog"] and not left_out
    assert "2 objects labeled _background_ or __ignore__" in capsys.readouterr().out


def test_images_are_found_in_their_folder(tmp_path):
    add(tmp_path / "in/labels", "a", shape(), imagePath="..\\images\\a.png")
    add(tmp_path / "in/labels", "b", shape(), imagePath="/elsewhere/b.png")
    add(tmp_path / "in/labels", "c", shape(), imagePath="../../c.png")
    (tmp_path / "in/images").mkdir()
    (tmp_path / "in/labels/a.png").rename(tmp_path / "in/images/a.png")
    (tmp_path / "in/labels/c.png").rename(tmp_path / "c.png")
    found, left_out = convert(tmp_path / "in", "--val_fraction", "0")
    assert [image["file_name"] for image in found["train"]["images"]] == ["images/a.png", "labels/b.png"]
    assert len(left_out) == 1 and "c.json" in left_out[0] and "--images" in left_out[0]


@pytest.mark.usefixtures("exact_names")
def test_images_are_found_by_names_of_other_systems(tmp_path):
    for name, path in (("a", "A.PNG"), ("u\u0308", "/photos of otto/\u00fc.png"), ("c", "C:\\Users\\Otto\\C.png")):
        add(tmp_path / "in", name, shape(), imagePath=path)
    found, left_out = convert(tmp_path / "in", "--val_fraction", "0")
    assert [image["file_name"] for image in found["train"]["images"]] == ["a.png", "c.png", "u\u0308.png"]
    assert not left_out


def test_classes_that_differ_by_case(tmp_path, capsys):
    add(tmp_path / "in", "a", shape("dog"), shape(" dog"), shape("Dog"), shape("cat"))
    found, _ = convert(tmp_path / "in", "--val_fraction", "0")
    assert [row["name"] for row in found["train"]["categories"]] == ["Dog", "cat", "dog"]
    assert "warning: different classes by case alone: Dog and dog; rename" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["in", "."])
def test_the_output_may_hold_the_input(tmp_path, place, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add(Path("in"), "a", shape())
    for _ in range(2):  # the second call does not read what the first has written
        to_coco.main(["--from", "labelme", "--input", "in", "--output", place, "--val_fraction", "0"])
        assert not (Path(place) / "left_out.txt").exists()
    assert len(json.loads((Path(place) / "annotations/instances_train.json").read_text())["images"]) == 1


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
    "size": ({"imageHeight": -3}, "imageHeight"),
    "words": ({"imageWidth": "40"}, "imageWidth"),
    "huge": ({"imageHeight": 10**9, "imageWidth": 10**9}, "more than"),
    "shapes": ({"shapes": "dog"}, "no list 'shapes'"),
}
BAD_SHAPES = {
    "null": (None, "no label"),
    "label": (shape(label=7), "no label"),
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
    "outside": (shape(points=[(-30, -30), (-10, -30), (-10, -10)]), "no pixel"),
    "flat": (shape(points=[(5, 5), (5, 5)], kind="rectangle"), "no pixel"),
    "no mask": (shape(points=[(1, 1), (4, 4)], kind="mask"), "base64"),
    "a number": (shape(points=[(1, 1), (4, 4)], kind="mask", mask=3), "base64"),
    "no png": (shape(points=[(1, 1), (4, 4)], kind="mask", mask="AAAA"), "base64"),
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
    assert any("twin.json: another file describes" in line for line in left_out)
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
        _, found, problems = labelme.read(tmp_path / "a.json", tmp_path)
        assert len(found) + len(problems) == 1


def test_a_file_without_a_size_takes_the_image_upright(tmp_path):
    image, exif = Image.new("RGB", (30, 20)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    add(tmp_path, "a", shape(), imagePath="a.jpg", imageHeight=None, imageWidth=None)
    found, _, _ = labelme.read(tmp_path / "a.json", tmp_path)
    assert found == {"file_name": "a.jpg", "height": 30, "width": 20}


def test_refusals_are_one_line_and_write_nothing(tmp_path, capsys):
    add(tmp_path / "in", "a", shape("_background_"))
    mine = tmp_path / "other/annotations/instances_train.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    (tmp_path / "empty").mkdir()
    new, other = str(tmp_path / "new"), str(tmp_path / "other")
    for source, output, words in (
        ("in", new, "no object for training"),
        ("in", other, "instances_train.json is not a file that this command wrote"),
        ("empty", new, "holds no *.json"),
        ("none", new, "no such folder"),
    ):
        with pytest.raises(SystemExit, match="2"):
            to_coco.main(["--from", "labelme", "--input", str(tmp_path / source), "--output", output])
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ") and words in last
    assert mine.read_text() == "{}" and not (tmp_path / "new").exists()


def test_the_printed_commands_prepare_the_records(tmp_path, capsys):
    for number in range(8):
        add(
            tmp_path / "in",
            str(number),
            shape("dog"),
            mask_shape(np.ones((6, 9)), label="cat"),
            shape("cat", group_id=1),
        )
    convert(tmp_path / "in", "--val_fraction", "0.5")
    commands = [line.split()[1:] for line in capsys.readouterr().out.splitlines() if "coco_to_tfrecord" in line]
    assert len(commands) == 2
    for words in commands:
        assert words[:3] == ["python", "-m", "pipelines.coco_to_tfrecord"]
        coco_to_tfrecord.main(words[3:])
    assert commands[0][-1] == str(tmp_path / "records/train")
    infos = [load_info(words[-1]) for words in commands]
    assert sum(info.records for info in infos) == 8 and sum(info.objects for info in infos) == 24
    assert all(info.masks and list(info.class_names) == ["cat", "dog"] for info in infos)


def test_it_runs_as_a_module(tmp_path):
    add(tmp_path / "in", "a", shape())
    words = ["--from", "labelme", "--input", tmp_path / "in", "--output", tmp_path / "out"]
    done = subprocess.run([sys.executable, "-m", "pipelines.to_coco", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "next: python -m pipelines.coco_to_tfrecord" in done.stdout
