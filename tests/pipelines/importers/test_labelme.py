"""LabelMe's files: sizes that differ from the image's, masks of every kind of PNG, labels, and where objects stand."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pipelines.checks import Rejected
from pipelines.importers import labelme, outlines
from tests.pipelines.importers.labelme_files import SIDE, add, mask_shape, shape


def read(folder, *shapes, **fields):
    add(folder, "a", *shapes, **fields)
    (found,) = labelme.read(folder / "a.json", folder)
    return found


@pytest.mark.parametrize("size", [("32", "40"), (32.0, 40.0), (" 32.0", 40)])
def test_sizes_that_the_preparation_repairs(tmp_path, size):
    found = read(tmp_path, shape(), imageHeight=size[0], imageWidth=size[1])
    assert (found.height, found.width) == (32, 40) and all(type(side) is int for side in found[1:3])


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (("32x", 40), "imageHeight is 32x, imageWidth is 40; both must be the image's, in pixels"),
        ((32, 40.5), "imageHeight is 32, imageWidth is 40.5; both"),
        (([32], 40), r"imageHeight is \[32\], imageWidth is 40; both"),
        ((None, 40), "no imageHeight, imageWidth is 40; both"),
        ((6000, 6000), "the image's file 40 x 32, annotated 6000 x 6000"),
        ((40, 32), "the image's file 40 x 32, annotated 32 x 40"),
    ],
)
def test_another_size_is_shown_before_any_mask_is_decoded(tmp_path, monkeypatch, size, words):
    monkeypatch.setattr(labelme, "read_shape", None)
    with pytest.raises(Rejected, match=words):
        read(tmp_path, mask_shape(np.ones((4, 4))), imageHeight=size[0], imageWidth=size[1])


def test_a_label_that_is_no_text_is_named(tmp_path):
    found = read(tmp_path, shape(1), shape(["dog"]), shape(None), None)
    assert found.problems == [
        "shapes[0]: label is 1, not a text in quotes",
        'shapes[1]: label is ["dog"], not a text in quotes',
        "shapes[2]: has no label",
        "shapes[3]: has no label",
    ]


def test_the_place_of_each_object(tmp_path):
    found = read(tmp_path, shape(group_id=4), shape("cat"), shape(group_id=4))
    places = [f"{tmp_path}/a.json: group 4 of dog", f"{tmp_path}/a.json: shapes[1]"]
    assert [row.place for row in found.objects] == places


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_masks_of_every_mode_in_strips(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(outlines, "STRIP", 50)
    inside = np.random.default_rng(0).random((20, 30)) < 0.5
    image = Image.fromarray(inside.astype(np.uint16)) if mode == "I;16" else Image.fromarray(inside.astype(np.uint8))
    if mode == "1":
        image = Image.fromarray(inside)
    elif mode == "P":
        image.putpalette([0, 0, 0, 0, 0, 0])  # the indexes count, not the colors
    elif mode != "I;16":
        image = Image.merge(mode, [image] * len(mode))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    (found,) = read(tmp_path, {**mask_shape(inside), "mask": base64.b64encode(stream.getvalue()).decode()}).objects
    expected = np.zeros((SIDE - 8, SIDE), bool)
    expected[5:25, 3:33] = inside
    np.testing.assert_array_equal(coco_mask.decode(found.segmentation), expected)


def test_a_mask_of_too_many_runs_is_named_and_the_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(outlines, "MAX_RUNS", 20)
    rows = np.zeros((12, 12))
    rows[::2] = 1
    found = read(tmp_path, mask_shape(rows), shape("cat"))
    assert [row.label for row in found.objects] == ["cat"]
    assert found.problems == ["shapes[0]: masks of more than 20 runs of pixels, as of noise: smooth the outlines"]
