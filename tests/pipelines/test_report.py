"""Rejections, warnings and verdict of a preparation."""

import json

import numpy as np
import PIL.Image
import pytest

from htc_tf.data.datasets import coco_from_records
from pipelines.checks import allowed
from tests.pipelines.tiny_coco import edit, prepare, refuse, report


def test_rejections_are_counted_and_listed(tiny):
    def spoil(content):
        content["annotations"][0]["category_id"] = 77
        content["annotations"][1]["image_id"] = 999
        content["annotations"][2]["id"] = content["annotations"][3]["id"]
        content["annotations"].append(dict(content["annotations"][7]))
        content["annotations"][4]["bbox"] = [1, 1, 0, 5]
        content["annotations"][5]["segmentation"] = [[1e9, 0, 5, 5, 0, 5]]
        content["annotations"][6]["id"] = 0
        content["annotations"] += [None, {"id": "x", "iscrowd": 2}]
        content["images"] += [{"id": 106, "file_name": "again.jpg", "height": 2, "width": 2}, {"file_name": "?"}]
        for identifier, name in enumerate(("../secret.jpg", "a/../../secret.jpg", "/secret.jpg"), 200):
            content["images"].append({"id": identifier, "file_name": name, "height": 2, "width": 2})

    (tiny / "images" / "005.jpg").write_bytes((tiny / "images" / "005.jpg").read_bytes()[:300])
    info = prepare(edit(tiny, spoil), max_bad_fraction=1)
    counters, rows = report(tiny)
    expected = {
        "category_unknown": 1,
        "image_unknown": 1,
        "annotation_duplicate": 1,
        "box_empty": 1,
        "polygon_far_outside": 1,
        "annotation_malformed": 2,
        "image_duplicate": 2,
        "image_malformed": 1,
        "image_outside_root": 3,
        "image_unreadable": 1,
    }
    assert {row["reason"]: counters[row["reason"]] for row in rows} == expected
    assert len(rows) == sum(expected.values())
    assert counters["ids_renumbered"] == 2 and counters["objects_of_rejected_images"] == 5 + 6
    assert (info.images, info.objects) == (5, 21 - 4 - 5 - 6)
    assert {"reason", "detail", "image_id", "file_name"} <= rows[0].keys()
    victims = {(row["reason"], row.get("annotation_id"), row["image_id"]) for row in rows}
    assert victims >= {("category_unknown", 11, 101), ("image_unknown", 21, 999), ("annotation_duplicate", 42, 104)}
    assert victims >= {("box_empty", 32, 103), ("polygon_far_outside", 33, 103), ("annotation_malformed", "x", None)}
    assert victims >= {("image_outside_root", None, identifier) for identifier in (200, 201, 202)}
    assert victims >= {("image_duplicate", None, 106), ("image_malformed", None, None), ("image_unreadable", None, 105)}
    assert next(row["file_name"] for row in rows if row["reason"] == "image_unreadable") == "005.jpg"
    assert {67, 68} < {row["id"] for row in coco_from_records(info)["annotations"]}  # 66 was the largest


@pytest.mark.parametrize("listed, most", [(0, 0), (1, 0), (2, 0), (3, 1), (6, 2), (7, 3), (100, 3), (5000, 5)])
def test_a_few_rejected_entries_are_always_allowed_but_never_half(listed, most):
    assert allowed(listed, 0.001) == most
    assert allowed(listed, 0.5) == max(listed // 2, most)
    assert allowed(listed, 0) == 0


def test_fractions_that_floats_round_down_allow_whole_numbers():
    for listed in (100, 200, 699, 10**8):
        for thousandths in range(10, 1000):
            assert allowed(listed, thousandths / 1000) == max(thousandths * listed // 1000, 3)


def test_names_do_not_control_the_terminal(tiny, capsys):
    def spoil(content):
        content["images"][0]["file_name"] = "\x1b[2Jred.jpg"
        content["images"][2]["file_name"] = content["images"][3]["file_name"] = "\x1b[2Jtwo.jpg"
        content["annotations"][0] |= {"image_id": 101, "category_id": 10**4000}

    prepare(edit(tiny, spoil))
    out = capsys.readouterr().out
    assert r"left out: \x1b[2Jred.jpg: image_missing" in out and "\x1b" not in out
    assert "warning: 2 images share files" in out
    line = refuse(capsys, tiny, "--max_bad_fraction=0")
    assert "category ids an integer of more than 20 digits" in line and len(line) < 2000


def test_the_message_gives_the_bound_that_would_pass(tiny, capsys):
    def spoil(content):
        for row in content["annotations"][:4]:
            row["bbox"] = [1, 1, 0, 5]

    edit(tiny, spoil)
    line = refuse(capsys, tiny)
    assert "4 of 21 annotations were rejected (box_empty 4)" in line and "to continue without them: " in line
    assert "--max_bad_fraction 0.191" in line
    assert prepare(tiny, max_bad_fraction=0.191).objects == 17


def test_a_dataset_without_usable_images_fails_at_any_bound(tiny, capsys):
    for path in (tiny / "images").iterdir():
        path.write_bytes(b"")
    line = refuse(capsys, tiny, max_bad_fraction=1)
    assert "7 of 7 images were rejected" in line and "to continue" not in line
    # The images of two files are the same.
    (tiny / "again.json").write_text((tiny / "instances.json").read_text())
    flag = f"--annotations={tiny}/*.json"
    assert "7 of 14 images were rejected" in (line := refuse(capsys, tiny, flag, output="two", max_bad_fraction=1))
    assert "to continue" not in line and not (tiny / "two" / "dataset_info.json").exists()


def test_warnings_of_what_would_harm_training(tiny, capsys):
    def all_crowd(content):
        for row in content["annotations"]:
            row["iscrowd"] = 1
        content["categories"].append({"id": 10, "name": "cat"})
        content["images"][2]["file_name"] = content["images"][3]["file_name"]
        content["images"][2] |= {key: content["images"][3][key] for key in ("height", "width")}
        content["annotations"] = [row for row in content["annotations"] if row["image_id"] not in (102, 103)]

    info = prepare(edit(tiny, all_crowd))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 4
    assert "2 images share files with others, the first is 003.jpg (ids 102, 103)" in lines[0] or "share" in lines[1]
    assert any("2 classes are named 'cat' (category ids 9, 10)" in line for line in lines)
    assert any("1 of 3 classes have no object: cat" in line for line in lines)
    assert any("all 16 objects are crowd regions" in line for line in lines)
    assert info.counters["images_sharing_a_file"] == 2


def test_dark_images_are_a_warning(tiny, capsys):
    for path in (tiny / "images").iterdir():
        pixels = np.asarray(PIL.Image.open(path).convert("L"), np.uint16)
        PIL.Image.fromarray(pixels).save(path.with_suffix(".png"))
        path.unlink()

    def rename(content):
        for row in content["images"]:
            row["file_name"] = row["file_name"].replace("jpg", "png")

    prepare(edit(tiny, rename))
    assert "warning: 7 of 7 images are nearly or all black" in capsys.readouterr().out


def test_corners_and_fractions_are_recognized(tiny, capsys):
    def corners(content):
        for row in content["annotations"]:
            x, y, w, h = row["bbox"]
            row["bbox"] = [x, y, x + w, y + h]

    line = refuse(capsys, edit(tiny, corners))
    assert "it looks as if bbox is [x1, y1, x2, y2]" in line and "--boxes mask" in line
    assert prepare(tiny, "taken", boxes="mask").counters["boxes_computed"] == 21

    def fractions(content):
        for row in content["annotations"]:
            row["bbox"] = [0.1, 0.2, 0.3, 0.4]
            del row["segmentation"]

    edit(tiny, fractions)
    line = refuse(capsys, tiny, f"--output={tiny / 'boxes'}")
    assert "21 of 21 objects are smaller than one pixel: their boxes look like fractions" in line
    assert prepare(tiny, "kept", boxes="unchecked").counters["objects_tiny"] == 21


def test_every_reason_reaches_the_report_by_name(tiny):
    """Files with different damage in one job: each row names its image, its annotation and the reason."""
    spoilers = {
        "image_missing": lambda path: path.unlink(),
        "image_unreadable": lambda path: path.write_text("<html>404</html>"),
        "image_size_differs": lambda path: PIL.Image.new("RGB", (9, 9)).save(path),
        "image_mode": lambda path: PIL.Image.new("F", PIL.Image.open(path).size).save(path, "TIFF"),
        "image_outside_root": lambda path: link_elsewhere(path),
    }
    for index, spoil in enumerate(spoilers.values(), 2):
        spoil(tiny / "images" / f"{index:03d}.jpg")

    def spoil_masks(content):
        content["annotations"][0]["segmentation"] = {"size": [1, 1], "counts": [1]}

    info = prepare(edit(tiny, spoil_masks), max_bad_fraction=1)
    assert info.images == 2
    named = {(row["reason"], row["image_id"], row["file_name"], row.get("annotation_id")) for row in report(tiny)[1]}
    expected = {(reason, 100 + index, f"{index:03d}.jpg", None) for index, reason in enumerate(spoilers, 2)}
    assert named == expected | {("rle_size_differs", 101, "001.jpg", 11)}


def test_every_fault_of_a_stuff_map_is_reported_by_name(tiny):
    spoilers = {
        "stuff_missing": lambda path: path.unlink(),
        "stuff_size_differs": lambda path: PIL.Image.new("L", (9, 9)).save(path),
        "stuff_label_unknown": lambda path: PIL.Image.new("L", PIL.Image.open(path).size, 6).save(path),
        "stuff_unreadable": lambda path: path.write_bytes(b"GIF"),
    }
    for index, spoil in zip((0, 1, 2, 5), spoilers.values(), strict=True):
        spoil(tiny / "stuff" / f"{index:03d}.png")
    prepare(tiny, stuff=True, stuff_labels=6, max_pixels=620, max_bad_fraction=1)
    named = {(row["reason"], row["image_id"], row["file_name"]) for row in report(tiny)[1]}
    found = {(reason, 100 + i, f"{i:03d}.jpg") for i, reason in zip((0, 1, 2, 5), spoilers, strict=True)}
    assert named == found | {("image_too_large", 103, "003.jpg")}


def link_elsewhere(path):
    path.rename(path.parent.parent / "elsewhere.jpg")
    path.symlink_to(path.parent.parent / "elsewhere.jpg")


def test_objects_per_image_are_reported(tiny):
    prepare(tiny)
    content = json.loads((tiny / "records" / "report.json").read_text())
    assert content["objects_per_image"] == {str(number): 1 for number in range(7)}


def test_unknown_categories_are_named(tiny, capsys):
    def spoil(content):
        for row, category in zip(content["annotations"], (77, 78, 77), strict=False):
            row["category_id"] = category

    line = refuse(capsys, edit(tiny, spoil), max_bad_fraction=0)
    assert "instances.json" in line and "category ids 77, 78" in line and "rejected.jsonl" in line
    assert [row["category_id"] for row in report(tiny)[1]] == [77, 78, 77]
    assert not list((tiny / "records").glob("*.tfrecord"))
