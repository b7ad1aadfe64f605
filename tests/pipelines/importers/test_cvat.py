"""CVAT's XML files: shapes, groups, frames of videos, names of images, and files from strangers."""

import itertools
import json
import math

import numpy as np
import PIL.Image
import pytest
from pycocotools import mask as coco_mask

from pipelines import to_coco
from pipelines.checks import Rejected
from pipelines.importers import cvat
from pipelines.importers.labeled import LabeledImage
from tests.pipelines.importers.conversion import read_left_out

HEIGHT, WIDTH = 40, 60
POLYGON = '<polygon label="cat" points="1.00,2.00;9.50,2.00;9.50,8.00"><attribute name="age">3</attribute></polygon>'


def add_image(folder, name="a.png"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (WIDTH, HEIGHT)).save(path)


def read(folder, content):
    """Returns what a file with this content yields."""
    path = folder / "annotations.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{content}</annotations>', encoding="utf-8")
    return list(cvat.read(path, folder))


def image(*shapes, name="a.png", **fields):
    fields = {"width": WIDTH, "height": HEIGHT, **fields}
    text = " ".join(f'{key}="{value}"' for key, value in fields.items())
    return f'<image id="0" name="{name}" {text}>{"".join(shapes)}</image>'


def read_shapes(folder, *shapes):
    add_image(folder)
    (found,) = read(folder, image(*shapes))
    return found


def test_the_shapes(tmp_path):
    found = read_shapes(
        tmp_path,
        POLYGON,
        '<box label="dog" xtl="10.0" ytl="20.0" xbr="30.0" ybr="24.0"></box>',
        '<box label="dog" xtl="10.0" ytl="20.0" xbr="30.0" ybr="24.0" rotation="90.0"></box>',
        '<ellipse label="egg" cx="30" cy="20" rx="10" ry="5" rotation="0.00"/>',
        '<mask label="cat" rle="1, 2, 3" left="4" top="5" width="3" height="2"/>',
        '<polyline label="cat" points="1,1;2,2"/>',
        '<points label="cat" points="1,1"/>',
        '<points label="cat" points="2,1"/>',
        '<tag label="cat"/>',
    )
    assert isinstance(found, LabeledImage)
    assert (found.file_name, found.height, found.width, found.split) == ("a.png", HEIGHT, WIDTH, None)
    assert [row.label for row in found.objects] == ["cat", "dog", "dog", "egg", "cat"]
    polygon, box, turned, ellipse, mask = (row.segmentation for row in found.objects)
    assert polygon == [[1, 2, 9.5, 2, 9.5, 8]]
    assert box == [[10, 20, 30, 20, 30, 24, 10, 24]]
    np.testing.assert_allclose(turned, [[22, 12, 22, 32, 18, 32, 18, 12]], atol=1e-9)  # about the center, clockwise
    points = np.reshape(ellipse, (-1, 2))
    np.testing.assert_allclose(((points - (30, 20)) ** 2 / (100, 25)).sum(axis=1), 1)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[5, 5:7] = 1  # outside, inside, inside / outside three times
    np.testing.assert_array_equal(coco_mask.decode(mask), expected)
    assert found.problems == ["a.png: shapes without an area: polyline 1, points 2, tag 1"]


def test_a_turned_box_agrees_with_the_formula_of_cvat(tmp_path):
    rng = np.random.default_rng(0)
    for degrees in rng.uniform(0, 360, 20):
        left, top, right, bottom = np.sort(rng.uniform(0, 30, (2, 2)), axis=0).ravel()
        found = read_shapes(
            tmp_path,
            f'<box label="a" xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}" rotation="{degrees}"/>',
        )
        x, y, angle = (left + right) / 2, (top + bottom) / 2, degrees / 180 * math.pi
        expected = [
            value
            for px, py in ((left, top), (right, top), (right, bottom), (left, bottom))
            for value in (
                x + math.cos(angle) * (px - x) - math.sin(angle) * (py - y),
                y + math.sin(angle) * (px - x) + math.cos(angle) * (py - y),
            )
        ]
        np.testing.assert_allclose(found.objects[0].segmentation, [expected], atol=1e-9)


def run_lengths(values):
    """Returns CVAT's run lengths of a list of 0 and 1."""
    counts = [len(list(group)) for _, group in itertools.groupby(values)]
    return [0, *counts] if values[0] else counts


def test_masks_agree_with_the_pixels(tmp_path):
    rng = np.random.default_rng(1)
    for _ in range(30):
        high, wide = rng.integers(1, HEIGHT + 1), rng.integers(1, WIDTH + 1)
        top, left = rng.integers(0, HEIGHT - high + 1), rng.integers(0, WIDTH - wide + 1)
        inside = rng.integers(0, 2, (high, wide)) if rng.integers(0, 2) else np.ones((high, wide), int)
        rle = ", ".join(map(str, run_lengths(inside.ravel().tolist())))
        shape = f'<mask label="a" rle="{rle}" left="{left}" top="{top}" width="{wide}" height="{high}"/>'
        found = read_shapes(tmp_path, shape)
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        expected[top : top + high, left : left + wide] = inside
        np.testing.assert_array_equal(coco_mask.decode(found.objects[0].segmentation), expected)


def test_groups_crowds_and_an_image_without_shapes(tmp_path):
    part = '<polygon label="{}" points="{},2;9,2;9,8" group_id="{}"/>'
    attribute = '<attribute name="is_crowd">true</attribute>'
    crowd = f'<mask label="cat" rle="0,6" left="0" top="0" width="3" height="2">{attribute}</mask>'
    parts = [part.format("cat", 1, 5), part.format("dog", 2, 5), part.format("cat", 3, 5), part.format("cat", 4, 0)]
    found = read_shapes(tmp_path, *parts, part.format("cat", 5, 0), crowd)
    assert [(row.label, len(row.segmentation), row.crowd) for row in found.objects] == [
        ("cat", 2, False),  # two polygons
        ("dog", 1, False),
        ("cat", 1, False),
        ("cat", 1, False),
        ("cat", 2, True),  # run lengths
    ]
    assert read_shapes(tmp_path).objects == []


def test_a_group_that_cannot_be_joined_is_named_and_the_others_stay(tmp_path):
    mask = '<mask label="dog" rle="0,6" left="0" top="0" width="3" height="2" group_id="1"/>'
    far = '<polygon label="dog" points="-100,1;9,1;9,9" group_id="1"/>'  # may be kept, but not drawn
    found = read_shapes(tmp_path, POLYGON, mask, far)
    assert [row.label for row in found.objects] == ["cat"]
    (problem,) = found.problems
    assert problem.startswith("a.png: the dog of group 1: from -100.0 to 9.0")


@pytest.mark.parametrize("place", ["images/birds/a.png", "images/Train/birds/a.png", "birds/a.png", "a.png"])
def test_the_image_in_the_folders_of_an_export(tmp_path, place):
    add_image(tmp_path, place)
    (found,) = read(tmp_path, image(POLYGON, name="birds/a.png", subset="Train"))
    assert found.file_name == place and found.split == "train"


def test_images_of_the_same_name_in_two_folders(tmp_path):
    for folder in ("one", "two"):
        add_image(tmp_path, f"images/{folder}/a.png")
    found = read(tmp_path, image(name="two/a.png") + image(name="one/a.png"))
    assert [row.file_name for row in found] == ["images/two/a.png", "images/one/a.png"]


def track(*shapes, label="car"):
    return f'<track id="0" label="{label}" source="manual">{"".join(shapes)}</track>'


def test_tracks_are_read_frame_by_frame(tmp_path):
    for number in (0, 1):
        add_image(tmp_path, f"images/frame_00000{number}.PNG")
    box = '<box frame="{}" keyframe="1" outside="{}" occluded="0" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    size = "<meta><task><original_size><width>60</width><height>40</height></original_size></task></meta>"
    boxes = track(box.format(0, 0), box.format(1, 0), box.format(2, 1))
    first, second = read(tmp_path, size + boxes + track(box.format(1, 0), label="bus"))
    assert [first.file_name, second.file_name] == ["images/frame_000000.PNG", "images/frame_000001.PNG"]
    assert [row.label for row in first.objects] == ["car"] and (first.height, first.width) == (HEIGHT, WIDTH)
    assert [row.label for row in second.objects] == ["car", "bus"]
    # Without the size in the file, that of the image; frames without an image are named once.
    first, second, bad, missing = read(tmp_path, boxes + track(box.format(7, 0), box.format(8, 0), box.format("x", 0)))
    assert (first.height, first.width) == (HEIGHT, WIDTH)
    assert isinstance(missing, Rejected) and missing.detail.startswith("2 of 5 frames have no image: frame 7: ")
    assert 'choose "CVAT for images 1.1"' in missing.detail
    assert isinstance(bad, Rejected) and bad.detail == "frame x: the number is x, not an integer"


def test_frames_of_an_impossible_size_are_no_missing_images(tmp_path):
    add_image(tmp_path, "images/frame_000000.png")
    size = "<meta><task><original_size><width>{}</width><height>40</height></original_size></task></meta>"
    box = '<box frame="0" outside="0" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    for width, words in ((0, "height is 40, width is 0; both"), ("x", "width is x; both"), (10**9, "more than")):
        with pytest.raises(Rejected, match=words):
            read(tmp_path, size.format(width) + track(box))


def test_frames_of_another_size_are_refused(tmp_path):
    add_image(tmp_path, "images/frame_000000.png")
    size = "<meta><task><original_size><width>6000</width><height>6000</height></original_size></task></meta>"
    (bad,) = read(tmp_path, size + track('<box frame="0" outside="0" xtl="1" ytl="1" xbr="9" ybr="9"/>'))
    assert bad.detail == "frame 0: the image's file 60 x 40, annotated 6000 x 6000"


def test_the_place_of_each_object(tmp_path):
    part = '<polygon label="cat" points="1,2;9,2;9,8" group_id="5"/>'
    found = read_shapes(tmp_path, part, POLYGON, part)
    path = tmp_path / "annotations.xml"
    expected = [f"{path}: a.png: the cat of group 5", f"{path}: a.png: the polygon at 1 of its shapes"]
    assert [row.place for row in found.objects] == expected


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ('<polygon points="1,1;2,2;3,1"/>', "has no label"),
        ('<polygon label="a" points="1,1;2,2"/>', "three or more"),
        ('<polygon label="a" points="1,1;2,2;3"/>', "three or more"),
        ('<polygon label="a" points="1,1;2,2;3,b"/>', "not x,y;x,y"),
        ('<polygon label="a" points="1,1;2,nan;3,1"/>', "points are not numbers"),
        ('<polygon label="a" points="1,1;2,1e9;3,1"/>', "far outside"),
        ('<box label="a" xtl="1" ytl="2" xbr="3"/>', "xtl, ytl, xbr, ybr are not numbers"),
        ('<box label="a" xtl="1" ytl="2" xbr="3" ybr="inf"/>', "far outside"),
        ('<box label="a" xtl="1" ytl="2" xbr="3" ybr="4" rotation="inf"/>', "rotation is inf"),
        ('<ellipse label="a" cx="1" cy="2" rx="0" ry="3"/>', "its radii are 0 and 3"),
        ('<ellipse label="a" cx="1" cy="2" rx="1e300" ry="3"/>', "far outside"),
        ('<mask label="a" rle="6" left="59" top="0" width="3" height="2"/>', "a box of 3 x 2 at 59, 0"),
        ('<mask label="a" rle="6" left="0" top="0" width="3" height="-2"/>', "a box of 3 x -2"),
        ('<mask label="a" rle="6" left="0" top="0" width="3"/>', "height is null, not an integer"),
        ('<mask label="a" rle="2,3" left="0" top="0" width="3" height="2"/>', "not the run lengths of 3 x 2"),
        ('<mask label="a" rle="7,-1" left="0" top="0" width="3" height="2"/>', "not the run lengths of 3 x 2"),
        (f'<mask label="a" rle="{10**30}" left="0" top="0" width="3" height="2"/>', "not the run lengths"),
        ('<mask label="a" rle="" left="0" top="0" width="3" height="2"/>', "not numbers with commas"),
    ],
)
def test_a_bad_shape_is_named_and_the_others_stay(tmp_path, shape, message):
    found = read_shapes(tmp_path, POLYGON, shape)
    assert len(found.objects) == 1 and len(found.problems) == 1
    assert found.problems[0].startswith("a.png: the ") and " at 1 of its shapes: " in found.problems[0]
    assert message in found.problems[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "../a.png"}, "outside of"),
        ({"name": "missing.png"}, "missing.png is missing"),
        ({"name": ""}, "not the name of an image"),
        ({"name": "x" * 5000}, "is missing"),
        ({"width": "60.5"}, "height is 40, width is 60.5; both must be the image's, in pixels"),
        ({"width": 6000, "height": 6000}, "the image's file 60 x 40, annotated 6000 x 6000"),
        ({"width": 10**9, "height": 10**9}, "are more than"),
        ({"height": 0}, "height is 0, width is 60; both"),
    ],
)
def test_a_bad_image_is_rejected_and_the_others_stay(tmp_path, fields, message):
    add_image(tmp_path / "set")
    add_image(tmp_path)
    bad, good = read(tmp_path / "set", image(POLYGON, **fields) + image(POLYGON))
    assert isinstance(bad, Rejected) and message in bad.detail
    assert isinstance(good, LabeledImage)


@pytest.mark.parametrize("content", ["", "<meta/>", "<image", "<object/>"])
def test_another_file_is_rejected(tmp_path, content):
    with pytest.raises(Rejected, match="not"):
        read(tmp_path, content)


def test_entities_are_refused(tmp_path):
    path = tmp_path / "annotations.xml"
    path.write_text(
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><annotations><image name="&b;"/></annotations>'
    )
    with pytest.raises(Rejected, match="DOCTYPE"):
        list(cvat.read(path, tmp_path))


def test_the_conversion_to_coco(tmp_path):
    folder = tmp_path / "cvat"
    add_image(folder / "images")
    mask = '<mask label="dog" rle="0,6" left="0" top="0" width="3" height="2"/>'
    read(folder, image(POLYGON, mask, '<points label="cat" points="1,1"/>'))
    flags = ["--input", str(folder), "--output", str(tmp_path / "coco"), "--val_fraction", "0"]
    to_coco.main(["--from", "cvat", *flags])
    content = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
    assert [row["file_name"] for row in content["images"]] == ["images/a.png"]
    assert [row["name"] for row in content["categories"]] == ["cat", "dog"]
    assert [(row["category_id"], row["bbox"]) for row in content["annotations"]][1] == (2, [0, 0, 3, 2])
    (line,) = read_left_out(tmp_path / "coco")
    assert line.endswith("annotations.xml: images/a.png: shapes without an area: points 1")
