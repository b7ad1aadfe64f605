"""Pascal VOC's files become objects: boxes from pixel 1, masks by their boxes, splits; what cannot be used is named."""

import numpy as np
import pytest
from PIL import Image

from pipelines.checks import Rejected
from pipelines.importers import voc
from tests.pipelines.importers.conversion import add_image, convert, draw, iou, masks, star, write


def xml_object(name="dog", box=(11, 6, 20, 15), extra=""):
    edges = "".join(f"<{edge}>{value}</{edge}>" for edge, value in zip(voc.EDGES, box, strict=True))
    return f"<object><name>{name}</name>{extra}<bndbox>{edges}</bndbox></object>"


def add(folder, name, *objects, filename=None, size="<size><width>60</width><height>40</height></size>", head=""):
    add_image(folder / "JPEGImages" / f"{name}.jpg")
    content = f"<filename>{filename or name + '.jpg'}</filename>{size}{''.join(objects)}"
    write(folder / "Annotations" / f"{name}.xml", f"{head}<annotation>{content}</annotation>")


def read(folder, name="a"):
    (found,) = voc.read(folder / "Annotations" / f"{name}.xml", folder)
    return found


def add_mask(folder, name, ids, mode="P"):
    path = folder / "SegmentationObject" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(ids, np.uint8))
    if mode == "P":
        image.putpalette([value for number in range(256) for value in (number * 7 % 256, number, 255 - number)])
    image.save(path)


def test_pixels_count_from_one(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    add(tmp_path, "a", xml_object(" dog "), xml_object("cat", extra="<difficult>1</difficult>" + part))
    found = read(tmp_path)
    assert (found.file_name, found.height, found.width) == ("JPEGImages/a.jpg", 40, 60)
    assert [row.label for row in found.objects] == ["dog", "cat"] and not found.problems
    assert found.objects[0].box == [10, 5, 10, 10] and found.objects[0].segmentation is None
    assert [row.crowd for row in found.objects] == [False, True]


def test_the_image_is_found(tmp_path):
    add(tmp_path, "a", filename="A.JPG")
    add(tmp_path, "b", filename="renamed.png", size="")
    add(tmp_path, "c", filename="C:\\photos\\c.jpg", size="<size><width>0</width><height>0</height></size>")
    for name in "abc":
        found = read(tmp_path, name)
        assert (found.file_name, found.height, found.width) == (f"JPEGImages/{name}.jpg", 40, 60)


def test_a_stated_size_must_be_the_images(tmp_path):
    add(tmp_path, "a", xml_object(), size="<size><width>13000</width><height>13000</height></size>")
    with pytest.raises(Rejected, match="file 60 x 40, annotated 13000 x 13000"):
        read(tmp_path)


def test_random_masks_belong_to_their_objects(tmp_path):
    rng, folder, drawn = np.random.default_rng(1), tmp_path / "in", {}
    for number in range(12):
        shapes = [star(rng) * 0.4 + (offset, 3) for offset in (0, 20, 35)]
        one = [draw([points.ravel().tolist()]) for points in shapes]
        ids = np.zeros((40, 60), np.uint8)
        for value, mask in zip(rng.permutation([1, 2, 7]), one, strict=True):  # the order of ids says nothing
            ids[mask] = value
        ids[0] = 255  # void
        boxes = [(m.any(0).nonzero()[0] + 1, m.any(1).nonzero()[0] + 1) for m in one]
        labels = [f"class{place}" for place in range(3)]
        rows = [xml_object(n, (x[0], y[0], x[-1], y[-1])) for n, (x, y) in zip(labels, boxes, strict=True)]
        add(folder, str(number), *rows)
        add_mask(folder, str(number), ids)
        drawn[f"JPEGImages/{number}.jpg"] = dict(zip(labels, one, strict=True))
    found, left_out = convert("voc", folder, "--val_fraction", "0")
    assert not [line for line in left_out if "SegmentationObject/" not in line]  # its PNGs are no images to label
    for name, objects in masks(found["train"]).items():
        assert len(objects) == 3 and all(iou(mask, drawn[name][label]) > 0.9 for label, mask in objects)


@pytest.mark.parametrize("blue", [200, 255])  # 255 is void in a palette alone
def test_colors_are_ids_too(tmp_path, blue):
    add(tmp_path, "a", xml_object(box=(11, 6, 20, 15)), xml_object("cat", box=(31, 6, 40, 15)))
    colors = np.zeros((40, 60, 3), np.uint8)
    colors[5:15, 10:20], colors[5:15, 30:40], colors[20:30, 10:20], colors[0] = 9, (0, 0, blue), 77, (224, 224, 192)
    add_mask(tmp_path, "a", colors, "RGB")
    found = read(tmp_path)
    for row, left in zip(found.objects, (10, 30), strict=True):
        wanted = np.zeros((40, 60), bool)
        wanted[5:15, left : left + 10] = True
        np.testing.assert_array_equal(draw(row.segmentation), wanted)
    assert len(found.problems) == 1 and "of no object" in found.problems[0]


def polygon(*numbers, extra=""):
    tags = [f"{axis}{number}" for number in range(1, len(numbers) // 2 + 2) for axis in "xy"]
    children = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, numbers, strict=False))
    return f"<polygon>{children}{extra}</polygon>"


def test_polygons_of_roboflow(tmp_path):
    one, two = [1, 2, 30, 2, 9, 20], [40, 2, 50, 2, 50, 9, 40, 9]
    add(
        tmp_path,
        "a",
        xml_object(extra=polygon(*one)),
        xml_object(extra=polygon(*one) + polygon() + polygon(*two)),
        xml_object(extra=polygon()),
        xml_object(extra=polygon(*one, extra="<closed>1</closed>")),
    )
    found = read(tmp_path)
    assert [row.segmentation for row in found.objects] == [[one], [one, two], None, [one]] and not found.problems


def test_the_splits_of_image_sets_are_kept(tmp_path):
    folder = tmp_path / "in"
    for name in ("a", "b", "c"):
        add(folder, name, xml_object())
    write(folder / "ImageSets/Main/train.txt", "a\nb 1\n")
    write(folder / "ImageSets/Main/val.txt", "c\n")
    found, _ = convert("voc", folder)
    names = {split: [image["file_name"][-5:] for image in content["images"]] for split, content in found.items()}
    assert names == {"train": ["a.jpg", "b.jpg"], "val": ["c.jpg"]}


ENTITIES = '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;"><!ENTITY x SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    "text, words",
    [
        (f"{ENTITIES}<annotation><filename>&x;</filename></annotation>", "DOCTYPE"),
        (f"{ENTITIES}<annotation><filename>&x;</filename></annotation>".encode("utf-16"), "DOCTYPE"),
        ("<annotation><filename>&x;</filename></annotation>", "not XML"),
        ("<annotation>", "not XML"),
        ("", "not XML"),
        ("<a>" * 200_000 + "</a>" * 200_000, "root is <a>"),
        (b"<annotation>\xff</annotation>", "UTF-8"),
        ("<annotations/>", "root is <annotations>"),
        ("<annotation/>", "filename is null"),
        ("<annotation><filename>../../b.jpg</filename></annotation>", "outside"),
        ("<annotation><filename>no.jpg</filename></annotation>", "missing"),
        ("<annotation><filename>/etc/passwd</filename></annotation>", "outside"),
        (
            "<annotation><filename>a.jpg</filename><size><width>1000000</width><height>1000000</height></size></annotation>",
            "more than",
        ),
    ],
)
def test_bad_files_are_refused(tmp_path, text, words):
    folder = tmp_path / "in"
    add_image(folder / "JPEGImages/a.jpg")
    add_image(tmp_path / "b.jpg")
    path = folder / "Annotations/x.xml"
    path.parent.mkdir()
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Rejected, match=words):
        list(voc.read(path, folder))


@pytest.mark.parametrize(
    "bad, words",
    [
        ("<object/>", "no name"),
        (xml_object(" "), "no name"),
        (xml_object(box=("x", 1, 2, 3)), "not numbers"),
        (xml_object(box=("nan", 1, 2, 3)), "not numbers"),
        (xml_object(box=(1, 1, "1e300", 3)), "far outside"),
        (xml_object(box=(9, 1, 2, 3)), "xmax"),
        (xml_object(box=(70, 1, 72, 3)), "bbox [69.0, 0.0, 3.0, 3.0] in an image of 60 x 40 pixels"),
        ("<object><name>dog</name></object>", "not numbers"),
        (xml_object(extra="<bndbox/>"), "has 2 bndbox: an object has one"),
        (xml_object(extra=polygon(1, 2, 30, 2, 9, 20, 5)), "polygon has x4 without y4"),
        (xml_object(extra=polygon(1, 2, 30, 2, 9, 20, extra="<y7>3</y7>")), "polygon has y7 without x7"),
        (xml_object(extra=polygon(1, 2, 30, 2, 9, 20, extra="<x5>1</x5><y5>3</y5>")), "polygon has no x4"),
        (xml_object(extra=polygon(1, 2, 30, 2, 9, 20, extra="<x3>1</x3>")), "polygon has x3 more than once"),
        (xml_object(extra=polygon(1, 2, 30, 2, 9, "b")), '"b"] are not numbers'),
        (xml_object(extra=polygon(1, 2, 30, 2)), "a polygon of 2 points: it needs 3"),
        (xml_object(extra="<polygon><pt><x>1</x></pt></polygon>"), "polygon has no x1"),
        (xml_object(extra=polygon(1, 2, 30, 2, 9, 20) + polygon(1, 2, 30)), "polygon has x2 without y2"),
    ],
)
def test_bad_objects_are_named(tmp_path, bad, words):
    folder = tmp_path / "in"
    add(folder, "a", bad, xml_object())
    found, left_out = convert("voc", folder, "--val_fraction", "0")
    assert len(found["train"]["annotations"]) == 1 == len(left_out)
    assert left_out[0].startswith(f"{folder}/Annotations/a.xml: object[0]: ") and words in left_out[0]


def test_bad_masks_are_named(tmp_path):
    add(tmp_path, "a", xml_object())
    (tmp_path / "SegmentationObject").mkdir()
    with pytest.raises(Rejected, match=r"no a\.png"):
        read(tmp_path)
    add_mask(tmp_path, "a", np.zeros((10, 10)))
    with pytest.raises(Rejected, match="pixels"):
        read(tmp_path)
    add_mask(tmp_path, "a", np.random.default_rng(0).integers(0, 256, (40, 60, 3)), "RGB")
    with pytest.raises(Rejected, match="colors"):
        read(tmp_path)
    (tmp_path / "SegmentationObject/a.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(Rejected, match="cannot be read"):
        read(tmp_path)


def test_maps_of_labels_are_no_images(tmp_path):
    """Otherwise each would be left out as an image that no file describes."""
    add(tmp_path / "in", "a", xml_object())
    for name in ("SegmentationObject", "SegmentationClass"):
        add_image(tmp_path / "in" / name / "b.png")
    add_mask(tmp_path / "in", "a", np.pad(np.ones((10, 10)), ((5, 25), (10, 40))))
    found, left_out = convert("voc", tmp_path / "in", "--val_fraction", "0")
    assert len(found["train"]["images"]) == 1 and not left_out


@pytest.mark.parametrize("kind, mode, words", [("BMP", "RGB", "cannot be read"), ("PNG", "I;16", "of mode I;16")])
def test_masks_of_other_kinds(tmp_path, kind, mode, words):
    add(tmp_path / "in", "a", xml_object())
    path = tmp_path / "in/SegmentationObject/a.png"
    path.parent.mkdir()
    Image.new(mode, (60, 40)).save(path, kind)
    with pytest.raises(Rejected, match=words):
        read(tmp_path / "in")
