"""Cityscapes' files: depth order, crowd regions, deleted objects, names of images, and files from strangers."""

import json

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
from pycocotools import mask as coco_mask

from pipelines import to_coco
from pipelines.checks import Rejected
from pipelines.importers import cityscapes, outlines

HEIGHT, WIDTH = 40, 60
CITY = "leftImg8bit/train/ulm"


def square(label, left, top, right, bottom, **fields):
    return {"label": label, "polygon": [[left, top], [right, top], [right, bottom], [left, bottom]], **fields}


def write(folder, *shapes, split="train", **fields):
    """Writes an image and its file in the layout of the data set; returns the file."""
    image = folder / f"leftImg8bit/{split}/ulm/ulm_000000_000019_leftImg8bit.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (WIDTH, HEIGHT)).save(image)
    path = folder / f"gtFine/{split}/ulm/ulm_000000_000019_gtFine_polygons.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": shapes, **fields}))
    return path


def read(folder, *shapes, **fields):
    (found,) = cityscapes.read(write(folder, *shapes, **fields), folder)
    return found


def pixels(found):
    return coco_mask.decode(found.segmentation)


def test_later_objects_hide_earlier_ones(tmp_path):
    image = read(
        tmp_path,
        square("car", 10, 10, 29, 19),
        square("pole", 20, 0, 21, 39),
        square("license plate", 12, 14, 28, 16),  # hides nothing
        square("person", 26, 5, 35, 30),
    )
    assert image.file_name == f"{CITY}/ulm_000000_000019_leftImg8bit.png"
    assert (image.height, image.width, image.split, image.problems) == (HEIGHT, WIDTH, "train", [])
    assert [found.label for found in image.objects] == ["car", "pole", "license plate", "person"]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[10:20, 10:30] = 1  # the corners are pixels, as in the data set's own drawing
    expected[:, 20:22] = 0
    expected[5:31, 26:36] = 0
    np.testing.assert_array_equal(pixels(image.objects[0]), expected)
    assert pixels(image.objects[2]).sum() == 14 * 3  # the person hides the rest
    assert pixels(image.objects[3]).sum() == 26 * 10


def test_groups_are_crowd_regions_and_some_objects_are_left_out(tmp_path):
    image = read(
        tmp_path,
        square("bicyclegroup", 0, 0, 10, 10),
        square("polegroup", 20, 0, 22, 10),
        square("group", 50, 0, 59, 9),  # of no class
        square("car group", 50, 10, 59, 19),
        square("car", 30, 30, 40, 39, deleted=1),
        square("car", 30, 30, 40, 39, deleted=0),
        square("rider", 31, 31, 33, 33),
        square("bus", 30, 30, 40, 39),
        split="val",
    )
    assert [(found.label, found.crowd) for found in image.objects] == [
        ("bicycle", True),
        ("polegroup", False),
        ("group", False),
        ("car", True),
        ("bus", False),
    ]
    assert image.split == "val"
    assert image.problems == [
        "deleted objects: 1",
        "objects[5]: the car is entirely hidden by later objects, or outside of the image",
        "objects[6]: the rider is entirely hidden by later objects, or outside of the image",
    ]


@pytest.mark.parametrize("strip", [1, 300, outlines.STRIP])
def test_masks_agree_with_a_drawing_of_each_object_alone(monkeypatch, strip):
    monkeypatch.setattr(outlines, "STRIP", strip)
    rng = np.random.default_rng(3)
    for _ in range(20):
        polygons = [
            [tuple(point) for point in rng.uniform((-10, -10), (WIDTH + 10, HEIGHT + 10), (rng.integers(3, 9), 2))]
            for _ in range(rng.integers(1, 12))
        ]
        alone = []
        for points in polygons:
            canvas = PIL.Image.new("1", (WIDTH, HEIGHT))
            PIL.ImageDraw.Draw(canvas).polygon(points, fill=1)
            alone.append(np.asarray(canvas))
        for place, mask in enumerate(cityscapes.visible_masks(polygons, HEIGHT, WIDTH)):
            visible = alone[place] & ~np.any([np.zeros((HEIGHT, WIDTH), bool), *alone[place + 1 :]], axis=0)
            if mask is None:
                assert not visible.any()
            else:
                np.testing.assert_array_equal(coco_mask.decode(mask), visible)


def test_a_file_without_objects_is_an_image_of_background(tmp_path):
    image = read(tmp_path, split="test")
    assert image.objects == [] and image.problems == [] and image.split == "test"


@pytest.mark.parametrize("place", ["train/ulm", "ulm", "", "beside"])
def test_the_image_in_other_folders(tmp_path, place):
    path = write(tmp_path / "a", square("car", 1, 1, 5, 5))
    name = "ulm_000000_000019_leftImg8bit.png"
    images = tmp_path / "images"
    target = path.parent / name if place == "beside" else images / place / name
    target.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "a" / CITY / name).rename(target)
    root = tmp_path / "a" if place == "beside" else images
    (found,) = cityscapes.read(path, root)
    assert found.file_name == target.relative_to(root).as_posix()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (3, "has no label"),
        ({"label": "", "polygon": []}, "has no label"),
        ({"label": 1, "polygon": []}, "label is 1, not a text in quotes"),
        ({"label": "car"}, "the polygon of the car is not a list"),
        ({"label": "car", "polygon": [[1, 2], [3, 4]]}, "has 2 points: it needs 3"),
        ({"label": "car", "polygon": [[1, 2], [3, "4"], [5, 6]]}, "points are not numbers"),
        ({"label": "car", "polygon": [[1, 2], [3, 1e300], [5, 6]]}, "points are not numbers, or far outside"),
        ({"label": "car", "polygon": [[1, 2], [3, float("nan")], [5, 6]]}, "points are not numbers"),
        ({"label": "car", "polygon": [[[1], 2], [3, 4], [5, 6]]}, "points are not numbers"),
    ],
)
def test_a_bad_object_is_named_and_the_others_stay(tmp_path, shape, message):
    image = read(tmp_path, square("car", 1, 1, 9, 9), shape)
    assert len(image.objects) == 1
    assert len(image.problems) == 1 and image.problems[0].startswith("objects[1]: ") and message in image.problems[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objects": {}}, "not a file of Cityscapes"),
        ({"imgHeight": "40.5"}, "imgHeight is 40.5, imgWidth is 60; both must be the image's, in pixels"),
        ({"imgHeight": 6000, "imgWidth": 6000}, "the image's file 60 x 40, annotated 6000 x 6000"),
        ({"imgHeight": 10**9, "imgWidth": 10**9}, "are more than"),
    ],
)
def test_a_bad_file_is_rejected(tmp_path, fields, message):
    path = write(tmp_path, square("car", 1, 1, 9, 9))
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(Rejected, match=message):
        list(cityscapes.read(path, tmp_path))


def test_a_size_in_another_notation_and_the_place_of_each_object(tmp_path):
    path = write(tmp_path, square("pole", 1, 1, 9, 9, deleted=1), square("car", 1, 1, 9, 9), imgHeight="40")
    (found,) = cityscapes.read(path, tmp_path)
    assert found.height == HEIGHT and [row.place for row in found.objects] == [f"{path}: objects[1]"]


def test_outlines_and_masks_that_take_too_much_memory(tmp_path, monkeypatch):
    comb = {"label": "car", "polygon": [[row % 4 // 2 * 50, row] for row in range(40)]}
    monkeypatch.setattr(cityscapes, "MAX_OUTLINE", 500)
    found = read(tmp_path, square("bus", 1, 1, 9, 9), comb)
    assert [row.label for row in found.objects] == ["bus"]
    assert found.problems == ["objects[1]: the outline of the car is 1,020 pixels long, more than 500"]
    monkeypatch.setattr(outlines, "MAX_RUNS", 10)
    with pytest.raises(Rejected, match="masks of more than 10 runs of pixels"):
        read(tmp_path, square("bus", 1, 1, 9, 9))


def test_a_missing_image_is_rejected(tmp_path):
    path = write(tmp_path, square("car", 1, 1, 9, 9))
    (tmp_path / CITY / "ulm_000000_000019_leftImg8bit.png").unlink()
    with pytest.raises(Rejected, match=r"ulm_000000_000019_leftImg8bit\.png is missing"):
        list(cityscapes.read(path, tmp_path))


def convert(folder, *flags):
    to_coco.main(["--from", "cityscapes", "--input", str(folder), "--output", str(folder.parent / "coco"), *flags])
    return json.loads((folder.parent / "coco/annotations/instances_train.json").read_text())


def test_the_classes_of_the_data_set_unless_others_are_named(tmp_path, capsys):
    folder = tmp_path / "cityscapes"
    shapes = [square("road", 0, 20, 59, 39), square("car", 1, 1, 9, 9), square("caravan", 20, 1, 29, 9)]
    shapes.append(square("license plate", 2, 2, 3, 3))
    write(folder, *shapes, square("cargroup", 40, 1, 49, 9))
    content = convert(folder)
    assert [row["name"] for row in content["categories"]] == list(cityscapes.CLASSES)
    assert [(row["category_id"], row["iscrowd"], row["bbox"]) for row in content["annotations"]] == [
        (3, 0, [1, 1, 9, 9]),
        (3, 1, [40, 1, 10, 9]),
    ]
    assert content["images"][0]["file_name"] == f"{CITY}/ulm_000000_000019_leftImg8bit.png"
    assert "3 objects labeled road or caravan or license plate are no objects" in capsys.readouterr().out
    content = convert(folder, "--classes", "caravan", "car", "license plate")
    assert [row["category_id"] for row in content["annotations"]] == [2, 1, 3, 2]


def test_maps_of_labels_are_no_images(tmp_path, capsys):
    path = write(tmp_path / "in", square("car", 10, 10, 29, 19))
    for kind in ("color", "instanceIds", "labelIds", "instanceTrainIds", "labelTrainIds"):
        PIL.Image.new("L", (WIDTH, HEIGHT)).save(path.with_name(path.name.replace("polygons.json", f"{kind}.png")))
    to_coco.main(["--from", "cityscapes", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "coco")])
    assert "left out" not in capsys.readouterr().out
