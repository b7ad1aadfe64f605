"""COCO files of other programs: unambiguous damage is repaired and counted, the rest is refused in one line."""

import copy
import json

import numpy as np
import pytest

from htc_tf.errors import UserError
from htc_tf.evaluation.coco_files import check_file_names, check_same, find_kinds, read_ground_truth, read_results
from htc_tf.evaluation.evaluator import evaluate_results

SQUARE = [10, 10, 50, 10, 50, 50, 10, 50]
FULL = {"size": [100, 100], "counts": [1010, *[40, 60] * 39, 40, 4950 + 100]}


@pytest.fixture
def ground_truth():
    return {
        "images": [{"id": 1, "height": 100, "width": 100, "file_name": "a.jpg"}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "segmentation": [SQUARE], "iscrowd": 0}
        ],
    }


@pytest.fixture
def write(tmp_path):
    """Returns write(content), which returns the path of a new JSON file."""

    def run(content):
        path = tmp_path / "file.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return run


FOUND = {"image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "score": 0.9}


def change_flat(annotation):
    annotation["segmentation"] = SQUARE


def change_ids(annotation):
    annotation |= {"image_id": "1", "category_id": 3.0, "iscrowd": "0"}


def change_box(annotation):
    del annotation["bbox"]


def change_box_to_zeros(annotation):
    annotation["bbox"] = [0, 0, 0, 0]


def change_box_to_nothing(annotation):
    annotation["bbox"] = []


def change_box_of_runs(annotation):
    del annotation["bbox"]
    annotation["segmentation"] = FULL


def change_area(annotation):
    annotation |= {"area": None, "iscrowd": None}


def change_wrapped(annotation):
    annotation["segmentation"] = [FULL]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_flat, "1 repair: one polygon is not inside a list"),
        (change_ids, "3 repairs: an id or a size"),
        (change_box, ""),
        (change_box_to_zeros, ""),
        (change_box_to_nothing, ""),
        (change_box_of_runs, ""),
        (change_area, ""),
        (change_wrapped, "1 repair: run lengths are in a list"),
    ],
)
def test_unambiguous_damage_is_repaired(ground_truth, write, capsys, change, message):
    change(ground_truth["annotations"][0])
    path = write(ground_truth)
    results = [{**FOUND, "segmentation": FULL}]
    metrics = evaluate_results(path, read_results(write_beside(path, results)))
    assert metrics["bbox/AP"] == metrics["segm/AP"] == pytest.approx(1) and message in capsys.readouterr().err


def write_beside(path, content):
    path = path.with_name("results.json")
    path.write_text(json.dumps(content))
    return path


def test_byte_order_mark(ground_truth, write):
    assert read_ground_truth(write(b"\xef\xbb\xbf" + json.dumps(ground_truth).encode())) == ground_truth


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        (
            "annotations",
            {"bbox": ["10", "10", "40", "40"]},
            r"annotations\[0\]: 'bbox' is \['10', .*, not four numbers",
        ),
        ("annotations", {"bbox": "10 10 40 40"}, "not four numbers"),
        ("annotations", {"bbox": [10, 10, 40]}, "not four numbers"),
        ("annotations", {"bbox": None, "segmentation": None}, r"annotations\[0\] has no 'bbox'"),
        ("annotations", {"bbox": [], "segmentation": []}, r"annotations\[0\] has no 'bbox'"),
        ("annotations", {"bbox": [0, 0]}, "not four numbers"),
        ("annotations", {"image_id": "one"}, "'image_id' is 'one'"),
        ("annotations", {"category_id": None}, "'category_id' is None"),
        ("annotations", {"category_id": [3]}, r"'category_id' is \[3\]"),
        ("images", {"height": 0}, "'height' is 0"),
        ("images", {"id": True}, "'id' is True"),
        ("images", {"id": 10**30}, "'id' is 1000000"),
        ("images", {"height": 10**9}, "'height' is 1000000000"),
        ("annotations", {"bbox": [0, 0, 10**400, 1]}, "not four numbers"),
        ("images", {"width": "wide" * 99}, r"'width' is 'widewide.*\.\.\."),
        ("categories", {"id": {"x": 1}}, "'id' is {'x': 1}"),
    ],
)
def test_ambiguous_damage_is_refused(ground_truth, write, key, change, message):
    ground_truth[key][0] |= change
    with pytest.raises(UserError, match=rf"file\.json: .*{message}.*; give COCO's instances JSON$") as refused:
        read_ground_truth(write(ground_truth))
    assert len(str(refused.value)) < 300


def test_entries_that_are_no_objects_and_repeated_ids_are_refused(ground_truth, write):
    for key in ("images", "categories", "annotations"):
        with pytest.raises(UserError, match=rf"{key}\[1\] is not an object"):
            read_ground_truth(write({**ground_truth, key: [ground_truth[key][0], 7]}))
    with pytest.raises(UserError, match="several images have id 1"):
        read_ground_truth(write({**ground_truth, "images": ground_truth["images"] * 2}))


def test_annotations_of_unknown_images_or_categories_are_counted(ground_truth):
    ground_truth["annotations"] += [
        {**ground_truth["annotations"][0], field: 77} for field in ("image_id", "category_id")
    ]
    metrics = evaluate_results(ground_truth, [FOUND], kinds=("bbox",))
    assert metrics["bbox/AP"] == pytest.approx(1)
    assert any(note.startswith("2 annotations of images or categories") for note in metrics["notes"])


DAMAGED = [{"size": [100, 100], "counts": counts} for counts in ("5", [5, 5], "o" * 40, "04", [10_000, 7], None)]
DAMAGED += [{"size": size, "counts": "04"} for size in (None, 5, [100], "x", {}, [10, 10], [True, True])]


@pytest.mark.parametrize("mask", [*DAMAGED, {"counts": "04"}, {"size": [100, 100]}, None, "04", [[1, 2, 3, 4, 5, 6]]])
def test_results_with_damaged_run_lengths(ground_truth, write, mask):
    """They would make pycocotools loop forever or write out of bounds."""
    results = read_results(write([{**FOUND, "segmentation": found} for found in (runs(), mask)]))
    message = r"result 1 \(image 1\): its mask must be run lengths that fill .* \[100, 100\]"
    with pytest.raises(UserError, match=message):
        evaluate_results(ground_truth, results)


def test_run_lengths_as_lists(ground_truth):
    listed = {"size": [100, 100], "counts": [1010, *[40, 60] * 39, 40, 5050]}
    results = [{**FOUND, "segmentation": listed}]
    assert evaluate_results(ground_truth, results)["segm/AP"] == pytest.approx(1)
    assert results[0]["segmentation"] is listed


def test_kinds():
    both = {"bbox": [], "segmentation": {}}
    assert find_kinds([both]) == find_kinds([]) == ("bbox", "segm")
    assert find_kinds([{"bbox": []}]) == ("bbox",) and find_kinds([{"segmentation": {}}]) == ("segm",)
    with pytest.raises(UserError, match=r"result 1 has no 'segmentation' \(1 of 2 have none\)"):
        find_kinds([both, {"bbox": []}])
    with pytest.raises(UserError, match="neither"):
        find_kinds([{}])


def test_masks_alone(ground_truth):
    results = [{name: value for name, value in FOUND.items() if name != "bbox"} | {"segmentation": runs()}]
    metrics = evaluate_results(ground_truth, results, kinds=find_kinds(results))
    assert metrics["segm/AP"] == pytest.approx(1) and "bbox/AP" not in metrics


def runs():
    from pycocotools import mask as coco_mask

    bitmap = np.zeros((100, 100), np.uint8, order="F")
    bitmap[10:50, 10:50] = 1
    return {"size": [100, 100], "counts": coco_mask.encode(bitmap)["counts"].decode()}


def test_the_same_data(ground_truth):
    """Ids are compared in any order of the file; the names of equal ids must be equal."""
    same = copy.deepcopy(ground_truth)
    same["categories"].reverse()
    same["categories"].append({"id": 9, "name": "cow"})
    same["images"][0]["file_name"] = "images\\val\\A.png"
    check_same(ground_truth, same, "RECORDS", "FILE")
    del same["images"][0]["file_name"]
    check_same(ground_truth, same, "RECORDS", "FILE")

    def refuse(key, entry, message):
        with pytest.raises(UserError, match=message):
            check_same(ground_truth, {**ground_truth, key: entry}, "RECORDS", "FILE")

    swapped = [{"id": 3, "name": "dog"}, {"id": 5, "name": "cat"}]
    refuse("categories", swapped, r"category 3 is 'dog' in FILE, but 'cat' in RECORDS \(2 such ids\)")
    refuse("categories", swapped[:1], "FILE has no category 5, which RECORDS has")
    refuse("images", [{**ground_truth["images"][0], "id": 2}], "FILE has no image 1, which RECORDS has")
    refuse(
        "images", [{**ground_truth["images"][0], "file_name": "b.jpg"}], "image 1 is 'b' in FILE, but 'a' in RECORDS"
    )


def test_results_of_another_image(ground_truth):
    check_file_names(
        [FOUND, {**FOUND, "file_name": "folder/a.jpg"}, {**FOUND, "image_id": 8, "file_name": "b"}], ground_truth
    )
    with pytest.raises(UserError, match="result 1 is of b, but image 1 is a in the annotations"):
        check_file_names([FOUND, {**FOUND, "file_name": "b.jpg"}], ground_truth)


@pytest.mark.parametrize("number", [[1], {}, None, "one", 10**400])
def test_results_of_no_image_are_refused(ground_truth, number):
    results = [{**FOUND, "image_id": number, "file_name": "a.jpg"}]
    check_file_names(results, ground_truth)
    with pytest.raises(UserError, match=r"the annotations have no image .* \(1 of 1 results\)"):
        evaluate_results(ground_truth, results, kinds=("bbox",))


@pytest.mark.parametrize(
    ("score", "message"), [("0.5", "is '0.5', not a number"), (None, "not a number"), (float("nan"), "weights")]
)
def test_scores_that_cannot_be_ordered(ground_truth, score, message):
    with pytest.raises(UserError, match=rf"result 0 \(image 1\): its score .*{message}"):
        evaluate_results(ground_truth, [{**FOUND, "score": score}], kinds=("bbox",))


def test_results_are_read_back_from_a_file(tmp_path):
    results = [{"image_id": 1, "category_id": 2, "bbox": [0.1, 1 / 3, 2.0, 3.0], "score": 0.1 + 0.2}]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert read_results(tmp_path / "results.json") == results


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), ("[", "it was cut"), ("{}", "not a list"), ("[1]", "not a list")]
)
def test_files_without_a_list_of_results_are_refused(tmp_path, content, message):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=rf"results\.json.*{message}.*results in COCO's format"):
        read_results(path)
