"""Several annotation files as one dataset: ids, classes, shared images, image folders, and the file for evaluation."""

import copy
import json
import os

import pytest
from pycocotools.coco import COCO

from htc_tf.data.datasets import coco_from_records, load_info
from htc_tf.evaluation import coco_files
from pipelines import coco_to_tfrecord, merging
from pipelines.checks import Counters
from pipelines.sources import find_annotations
from tests.pipelines.tiny_coco import contents, prepare, records, refuse, report


def image(image_id, name, **more):
    return {"id": image_id, "file_name": name, "height": 20, "width": 30} | more


def item(annotation_id, image_id, category_id, x=1):
    return {"id": annotation_id, "image_id": image_id, "category_id": category_id, "bbox": [x, 2, 3, 4]}


def file(images, annotations, **classes):
    categories = [{"id": key, "name": name} for name, key in classes.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def merge(*contents, folders=None):
    """Returns (content, same ids, counters) of `merging.merge`, for files a.json, b.json, ..."""
    counters = Counters()
    paths = [f"{chr(97 + number)}.json" for number in range(len(contents))]
    folders = folders or ["images"] * len(paths)
    return *merging.merge(copy.deepcopy(contents), paths, folders, counters), counters


def test_ids_of_later_files_change_only_if_they_are_taken():
    a = file([image(1, "1.jpg"), image(2, "2.jpg")], [item(7, 2, 1)], cat=1)
    b = file([image(2, "3.jpg"), image(5, "4.jpg")], [item(7, 2, 1), item(8, 5, 1)], cat=1)
    merged, same, counters = merge(a, b)
    assert [(row["id"], row["file_name"]) for row in merged["images"]] == [
        (1, "1.jpg"),
        (2, "2.jpg"),
        (6, "3.jpg"),  # above every id of both files
        (5, "4.jpg"),
    ]
    assert [row["image_id"] for row in merged["annotations"]] == [2, 6, 5]
    assert not same and counters.counts["image_ids_renumbered"] == 1 and not counters.warnings
    assert merge(a, file([image(3, "3.jpg")], [], cat=1))[1]


def test_classes_are_matched_by_name():
    a = file([image(1, "1.jpg")], [item(1, 1, 1), item(2, 1, 2)], cat=1, dog=2)
    b = file([image(2, "2.jpg")], [item(3, 2, 1), item(4, 2, 2)], dog=1, cow=2)
    merged, _, counters = merge(a, b)
    assert merged["categories"] == [
        {"id": 1, "name": "cat"},
        {"id": 2, "name": "dog"},
        {"id": 3, "name": "cow"},  # 2 is dog's
    ]
    assert [row["category_id"] for row in merged["annotations"]] == [1, 2, 2, 3]
    assert counters.warnings == [
        "a.json has other classes than all files together: it lacks cow, so its images count as without them",
        "b.json has other classes than all files together: it lacks cat, so its images count as without them; category "
        "ids: dog is 1 there and 2 in the records, cow is 2 there and 3 in the records",
    ]


def test_classes_of_one_name_in_one_file_remain_separate():
    twice = {"categories": [{"id": 1, "name": "cat"}, {"id": 4, "name": "cat"}]}
    a, b = (file([], []) | copy.deepcopy(twice) for _ in range(2))
    b["categories"][0]["id"] = 3
    merged, _, _ = merge(a, b)
    assert merged["categories"] == twice["categories"]


def test_an_image_of_several_files_has_the_objects_of_all():
    a = file([image(1, "1.jpg")], [item(1, 1, 1), item(2, 1, 1, x=9)], cat=1)
    images = [image(4, "1.jpg"), image(5, "1.jpg", width=31)]  # another size: another image
    b = file(images, [item(1, 4, 8), item(2, 4, 9), item(3, 5, 8)], cat=8, dog=9)
    merged, same, counters = merge(a, b)
    assert [(row["id"], row["width"]) for row in merged["images"]] == [(1, 30), (5, 31)]
    # b.json's annotation 1 repeats a.json's, apart from ids.
    found = [(row["image_id"], row["category_id"], row["bbox"][0]) for row in merged["annotations"]]
    assert found == [(1, 1, 1), (1, 1, 9), (1, 9, 1), (5, 1, 1)]
    assert not same
    assert +counters.counts == {"images_united": 1, "annotations_repeated": 1}
    assert merge(a, a)[1]
    # The same name in another folder is another image.
    assert len(merge(a, b, folders=["x", "y"])[0]["images"]) == 3


def test_repeated_objects_may_be_written_in_other_ways():
    polygon = [[1, 1, 5, 1, 5, 5]]
    a = file([image(1, "1.jpg")], [item(7, 1, 1), item(8, 1, 1, 5) | {"segmentation": polygon}], cat=1)
    b = copy.deepcopy(a)
    b["annotations"][0] |= {"bbox": [1.0, 2.0, 3.0, 4.0], "iscrowd": 0, "segmentation": []}
    b["annotations"][1]["segmentation"] = [[float(value) for value in polygon[0]]]
    merged, _, counters = merge(a, b)
    assert len(merged["annotations"]) == 2 and counters.counts["annotations_repeated"] == 2
    b["annotations"][0]["bbox"][0] += 0.5
    assert len(merge(a, b)[0]["annotations"]) == 3


def test_objects_nested_too_deeply_are_left_for_the_checks():
    deep = []
    for _ in range(2000):
        deep = [deep]
    content = file([image(1, "1.jpg")], [item(7, 1, 1) | {"segmentation": deep}], cat=1)
    paths, folders = ["a.json", "b.json"], ["images"] * 2
    other = file([image(1, "1.jpg")], [item(7, 1, 1) | {"segmentation": deep}], cat=1)
    assert len(merging.merge([content, other], paths, folders, Counters())[0]["annotations"]) == 2


def test_references_stay_within_their_file():
    a = file([image(1, "1.jpg")], [], cat=1)
    b = file([image(2, "2.jpg")], [item(1, 1, 5), item(2, 2, 1), item(3, 2, 5)], dog=5)
    merged, _, counters = merge(a, b)
    assert [row["id"] for row in merged["annotations"]] == [3]
    assert [(row["reason"], row["annotation_id"], row["detail"]) for row in counters.rejected] == [
        ("image_unknown", 1, "image_id 1 is not among the images of b.json"),
        ("category_unknown", 2, "category_id 1 is not defined by the categories of b.json"),
    ]


@pytest.mark.parametrize("odd", [None, "text", {}, {"id": []}, {"id": 1.5}, {"id": {}, "file_name": []}, {"id": True}])
def test_unusable_entries_stay_for_the_checks(odd):
    a = file([image(1, "1.jpg"), odd], [odd, {"image_id": 1, "category_id": odd}], cat=1)
    merged, _, counters = merge(a, file([odd], [odd], cat=1))
    assert [row for row in merged["images"] if row == odd] == [odd, odd]
    assert len(merged["annotations"]) == 3 and not counters.rejected


def test_lvis_lists_get_the_new_ids():
    a = file([image(1, "1.jpg")], [], cat=1)
    b = file([image(2, "2.jpg", neg_category_ids=[1, 7], not_exhaustive_category_ids=[2])], [], dog=1, cat=2)
    assert merge(a, b)[0]["images"][1]["neg_category_ids"] == [3, None]
    assert merge(a, b)[0]["images"][1]["not_exhaustive_category_ids"] == [1]


@pytest.fixture
def two(tiny):
    """The tiny dataset in two files, the second with ids from 1 and the classes in another order."""
    whole = json.loads((tiny / "instances.json").read_text())
    for name, ids in (("a", range(100, 104)), ("b", range(104, 107))):
        part = whole | {
            "images": [row for row in whole["images"] if row["id"] in ids],
            "annotations": [row for row in whole["annotations"] if row["image_id"] in ids],
        }
        if name == "b":
            part = json.loads(json.dumps(part))
            part["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
            for row in part["images"]:
                row["id"] -= 3  # 101 is in both files
            for number, row in enumerate(part["annotations"]):
                row |= {"id": number + 1, "image_id": row["image_id"] - 3}
                row["category_id"] = {2: 1, 9: 2}[row["category_id"]]
        (tiny / f"{name}.json").write_text(json.dumps(part))
    return tiny


def prepare_files(folder, *words, output="records", images="images"):
    folders = [str(folder / name) for name in images.split()]
    output = f"--output={folder / output}"
    coco_to_tfrecord.main(["--annotations", *words, "--images", *folders, output, "--shards=3"])


def test_records_of_two_files_equal_those_of_the_whole(two, capsys):
    prepare_files(two, str(two / "[ab].json"))
    assert "b.json has other classes" in capsys.readouterr().out
    info = load_info(two / "records")
    whole = prepare(two, "whole", shards=3)
    assert info.class_names == whole.class_names and info.category_ids == whole.category_ids
    assert list(info.inputs) == ["1/a.json", "2/b.json"]

    def by_name(info):
        return {record.image.filename: [item._replace(id=0) for item in record.objects] for record in records(info)}

    assert by_name(info) == by_name(whole)
    ids = [item.id for record in records(info) for item in record.objects]
    assert len(set(ids)) == 21
    assert len({record.image.source_id for record in records(info)}) == 7


def test_the_merged_file_is_the_records_ground_truth(two):
    prepare_files(two, str(two / "a.json"), str(two / "b.json"))
    recorded = coco_from_records(load_info(two / "records"))
    ground_truth = coco_files.read_ground_truth(two / "records" / "annotations.json")
    coco_files.check_same(recorded, ground_truth, "records", "annotations.json")
    made = COCO(two / "records" / "annotations.json")
    assert made.imgs == {row["id"]: row for row in recorded["images"]}
    assert made.anns.keys() == {row["id"] for row in recorded["annotations"]}
    for row in recorded["annotations"]:
        counts = made.annToRLE(made.anns[row["id"]])["counts"]
        assert row["segmentation"]["counts"] == (counts if isinstance(counts, str) else counts.decode())
        assert row["category_id"] == made.anns[row["id"]]["category_id"]


def test_the_merged_file_lacks_what_the_records_lack(two):
    (two / "images" / "002.jpg").write_bytes(b"no image")
    content = json.loads((two / "b.json").read_text())
    content["annotations"][0]["bbox"] = [0, 0, 0, 5]
    (two / "b.json").write_text(json.dumps(content))
    prepare_files(two, str(two / "a.json"), str(two / "b.json"))
    assert {row["reason"] for row in report(two)[1]} == {"image_unreadable", "box_empty"}
    recorded = coco_from_records(load_info(two / "records"))
    merged = json.loads((two / "records" / "annotations.json").read_text())
    for key, number in (("images", 6), ("annotations", 18)):
        assert sorted(row["id"] for row in merged[key]) == sorted(row["id"] for row in recorded[key])
        assert len(merged[key]) == number


@pytest.mark.parametrize("boxes", ["checked", "mask"])
def test_the_merged_file_has_the_boxes_and_areas_that_the_records_compute(two, boxes):
    content = json.loads((two / "b.json").read_text())
    absent, zeros, other = content["annotations"][:3]
    del absent["bbox"], absent["area"]
    zeros |= {"bbox": [0, 0, 0, 0], "area": float("nan")}
    other["bbox"][0] += 1
    (two / "b.json").write_text(json.dumps(content))
    prepare_files(two, str(two / "a.json"), str(two / "b.json"), f"--boxes={boxes}")
    made = COCO(two / "records" / "annotations.json")
    for row in coco_from_records(load_info(two / "records"))["annotations"]:
        for key in ("bbox", "area"):
            assert made.anns[row["id"]][key] == pytest.approx(row[key], abs=1e-4)


def test_a_rerun_gives_the_same_bytes(two, capsys):
    words = [str(two / "a.json"), str(two / "b.json")]
    prepare_files(two, *words)
    before = contents(two / "records")
    times = {path.name: path.stat().st_mtime_ns for path in (two / "records").iterdir()}
    prepare_files(two, *words)
    assert {path.name: path.stat().st_mtime_ns for path in (two / "records").iterdir()} == times
    (two / "records" / "annotations.json").write_text("damaged")
    (two / "records" / "plan" / "00000.jsonl").unlink()
    prepare_files(two, *words)
    assert contents(two / "records") == before
    prepare_files(two, *words, output="again")
    assert contents(two / "again") == before
    with pytest.raises(SystemExit):
        prepare_files(two, *words[::-1])
    assert "other content of 1/b.json, 2/a.json" in capsys.readouterr().err


def test_a_folder_for_each_file(two):
    (two / "more").mkdir()
    for name in ("004", "005", "006"):
        (two / "images" / f"{name}.jpg").rename(two / "more" / f"{name}.jpg")
    words = [str(two / "a.json"), str(two / "b.json")]
    prepare_files(two, *words, images="images more")
    names = {record.image.filename for record in records(load_info(two / "records"))}
    assert names == {f"{'images' if number < 4 else 'more'}/{number:03d}.jpg" for number in range(7)}
    # Links may not leave the folders, even if they stay in the folder around them.
    (two / "images" / "000.jpg").rename(two / "secret.jpg")
    (two / "images" / "000.jpg").symlink_to(two / "secret.jpg")
    prepare_files(two, *words, images="images more", output="links")
    assert load_info(two / "links").counters["image_outside_root"] == 1


def test_one_file_keeps_its_ids_and_needs_no_merged_file(tiny):
    prepare(tiny)
    assert not (tiny / "records" / "annotations.json").exists()


def test_unusable_words(two, capsys):
    line = refuse(capsys, two, "--images", str(two), str(two))
    assert "--images names 2 folders for 1 annotation files" in line
    for words in (["--annotations", f"{two}/a.json", ""], ["--images", ""]):
        assert "is empty: give a value" in refuse(capsys, two, *words)
    assert "no such file" in refuse(capsys, two, "--annotations", f"{two}/a.json", f"{two}/c.json")


def test_patterns_and_repeated_names(two):
    os.link(two / "a.json", two / "[x].json")
    a, b, odd = (str(two / name) for name in ("a.json", "b.json", "[x].json"))
    assert find_annotations([b, f"{two}/[a-b].json", a]) == [b, a]
    assert find_annotations([b, f"{two}/[a-b].json"]) == [b, a]
    assert find_annotations([odd]) == [odd]  # an existing file is no pattern


def test_a_panoptic_file_needs_unchanged_ids(two, capsys):
    (two / "panoptic").mkdir()
    (two / "panoptic.json").write_text(
        json.dumps({"annotations": [{"image_id": 100}], "categories": [{"id": 1, "name": "sky"}]})
    )
    words = ["--annotations", f"{two}/a.json", f"{two}/b.json", f"--stuff={two}/panoptic.json"]
    assert "need new ids: give each image an integer id of its own" in refuse(capsys, two, *words)
