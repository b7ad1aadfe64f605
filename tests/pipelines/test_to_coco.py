"""LabelMe's files become COCO's: shapes, groups, splits, classes, and the commands that follow."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf.data.datasets import load_info
from pipelines import coco_to_tfrecord, to_coco
from pipelines.importers import labelme
from tests.pipelines.importers.labelme_files import SIDE, add, convert, mask_shape, shape

ROOT = Path(__file__).resolve().parents[2]


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
    for split in ("train", "val"):
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
    (line,) = left_out
    assert line.endswith(": label bird is not one of --classes")


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


def test_folders_named_as_those_that_are_written(tmp_path, capsys):
    """Only what this command and the preparation have written is no input."""
    add(tmp_path / "records", "a", shape())
    add(tmp_path / "annotations", "b", shape())
    words = ["--from", "labelme", "--input", str(tmp_path), "--val_fraction", "0"]
    for output in (tmp_path / "coco", tmp_path):
        to_coco.main([*words, "--output", str(output)])
        content = json.loads((output / "annotations/instances_train.json").read_text())
        assert [row["file_name"] for row in content["images"]] == ["annotations/b.png", "records/a.png"]
        (output / "annotations/instances_train.json").replace(tmp_path / "old")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if f"{tmp_path}/records/" in line)
    coco_to_tfrecord.main(line.replace("coco/annotations/instances_train.json", "old").split()[4:])
    for _ in range(2):
        to_coco.main([*words, "--output", str(tmp_path / "coco")])
        assert not (tmp_path / "coco/left_out.txt").exists()


def test_a_file_without_a_size_takes_the_image_upright(tmp_path):
    image, exif = Image.new("RGB", (30, 20)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    add(tmp_path, "a", shape(), imagePath="a.jpg", imageHeight=None, imageWidth=None)
    (found,) = labelme.read(tmp_path / "a.json", tmp_path)
    assert (found.file_name, found.height, found.width) == ("a.jpg", 30, 20)


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


def test_one_file_as_input(tmp_path, capsys):
    for name in "ab":
        add(tmp_path / "in", name, shape())
    found, left_out = convert(tmp_path / "in/a.json", "--val_fraction", "0")
    assert [image["file_name"] for image in found["train"]["images"]] == ["a.png"]
    assert left_out == [f"{tmp_path}/in/b.png: no usable annotation file"]
    assert f"--images {tmp_path}/in --output" in capsys.readouterr().out


def test_it_runs_as_a_module(tmp_path):
    add(tmp_path / "in", "a", shape())
    words = ["--from", "labelme", "--input", tmp_path / "in", "--output", tmp_path / "out"]
    done = subprocess.run([sys.executable, "-m", "pipelines.to_coco", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "next: python -m pipelines.coco_to_tfrecord" in done.stdout
