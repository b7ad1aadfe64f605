"""Ground truth and results that a file may hold and COCO's metrics cannot take: counted, noted or refused."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc_tf.errors import UserError
from htc_tf.evaluation.coco_inputs import prepare_inputs
from htc_tf.evaluation.evaluator import evaluate_results
from pipelines import objects
from pipelines.checks import Counters
from tests.evaluation.toy import SIDE, ground_truth_of, result


@pytest.mark.parametrize("area", [None, "1600", -1.0, 0, float("nan")])
def test_an_object_without_an_area_is_sized_by_its_mask(area):
    """As the preparation does: a thin diagonal object is small, however large its box is."""
    ground_truth = ground_truth_of([(1, 7, (0, 0, 40, 40), 0)])
    (annotation,) = ground_truth["annotations"]
    mask = np.asfortranarray(np.pad(np.eye(40, dtype=np.uint8), (0, SIDE - 40)))
    annotation |= {"area": area, "segmentation": coco_mask.encode(mask)}
    found = [{**result(1, 7, (0, 0, 40, 40), 0.9), "segmentation": annotation["segmentation"]}]
    metrics = evaluate_results(ground_truth, found)
    assert [metrics["segm/APs"], metrics["bbox/ARs"]] == pytest.approx([1, 1])
    assert metrics["segm/APm"] == metrics["bbox/APm"] == -1
    del annotation["segmentation"]
    assert evaluate_results(ground_truth, found, kinds=["bbox"])["bbox/APm"] == pytest.approx(1)


THIN = [10.1, 10.2, 50, 10.2, 50, 10.3]


@pytest.mark.parametrize("outline", [[10.2, 10.2, 50.4, 10.2, 50.4, 50.4, 10.2, 50.4], THIN])
def test_a_missing_box_is_the_one_that_the_preparation_computes(outline):
    """The drawn mask's; a line too thin to cover a pixel has the extent of its points."""
    ground_truth = ground_truth_of([(1, 7, (0, 0, 40, 40), 0)])
    (annotation,) = ground_truth["annotations"]
    del annotation["bbox"]
    annotation["segmentation"] = [outline]
    made = objects.convert({**annotation, "id": 1}, "", SIDE, SIDE, True, Counters())
    box = [SIDE * v for v in (made.xmin, made.ymin, made.xmax - made.xmin, made.ymax - made.ymin)]
    (usable,) = prepare_inputs(ground_truth, [], kinds=("bbox",)).annotations["bbox"]
    assert usable["bbox"] == pytest.approx(box)


@pytest.mark.parametrize("make", [tuple, np.array, np.float32])
def test_boxes_from_python(ground_truth, make):
    results = [result(1, 7, (10, 10, 40, 40), 0.9), result(1, 7, (100, 100, 20, 20), 0.8)]
    expected = evaluate_results(ground_truth, results)
    results = [{**row, "bbox": make(row["bbox"])} for row in results]
    assert evaluate_results(ground_truth, results) == expected and expected["bbox/AP50"] == pytest.approx(0.5)


@pytest.mark.parametrize(("crowd", "objects"), [(1, 0), (True, 0), (0, 1), (None, 1), ("0", 1), (2, 1)])
def test_an_object_is_counted_as_it_is_evaluated(crowd, objects):
    metrics = evaluate_results(ground_truth_of([(1, 7, (0, 0, 40, 40), crowd)]), [result(1, 7, (0, 0, 40, 40), 0.9)])
    assert metrics["per_class"]["square"]["objects"] == objects
    assert metrics["bbox/AR100"] == (1 if objects else -1)


def test_ground_truth_without_a_usable_mask_is_ignored_and_noted(ground_truth):
    short, wild = {"size": [SIDE, SIDE], "counts": [5, 5]}, {"size": [SIDE, SIDE], "counts": "05"}
    bad = [[[1e9, 0, 5, 5, 0, 9]], [[0, 0, 9, 9]], [[float("nan")] * 6], [], None, {"size": [3, 3]}, short, wild]
    bad += [[[0, 0, 199, 199] * 9000], [[10**400, 0, 9, 9, 0, 9]]]
    bad += [[10.0, 10, 50, 10, 50, 50], [["10", "10", "50", "10", "50", "50"]], "mask", [None], 7]
    for segmentation in bad:
        ground_truth["annotations"][0]["segmentation"] = segmentation
        results = [result(1, 7, (10, 10, 40, 40), 0.9), result(1, 7, (100, 100, 20, 20), 0.7)]
        metrics = evaluate_results(ground_truth, results, category_ids=[7])
        assert [metrics["bbox/AP"], metrics["segm/AP"]] == pytest.approx([1, 1])
        assert any("segm: 1 annotations without a usable mask" in note for note in metrics["notes"])


UNDRAWABLE = [[0, 0, 9, 9]]


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": [0, 0, float("inf"), 5]},
        {"bbox": [1e9, 0, 5, 5]},
        {"bbox": [0, 0, -5, 5]},
        {"bbox": None, "segmentation": UNDRAWABLE},
        {"bbox": [], "segmentation": UNDRAWABLE},
        {"bbox": [0, 0, 0, 0], "segmentation": UNDRAWABLE},
    ],
)
def test_ground_truth_without_a_usable_box_is_left_out_and_noted(ground_truth, change):
    ground_truth["annotations"][0] |= change
    metrics = evaluate_results(ground_truth, [result(1, 7, (100, 100, 20, 20), 0.7)], category_ids=[7])
    assert [metrics["bbox/AP"], metrics["segm/AP"]] == pytest.approx([1, 1])
    (note,) = metrics["notes"]
    assert note.startswith("1 annotations without a usable box")
    assert metrics["per_class"]["square"]["objects"] == 1


@pytest.mark.parametrize("kinds", [("bbox",), ("segm",), ("segm", "bbox")])
def test_objects_left_out_are_not_counted(ground_truth, kinds):
    """A class with AP "-" has no object, and is in the note on such classes."""
    ground_truth["annotations"][2]["bbox"] = [0, 0, float("nan"), 5]
    metrics = evaluate_results(ground_truth, [], kinds=kinds)
    disc = metrics["per_class"]["disc"]
    assert disc["objects"] == 0 and {disc[f"{kind}/AP"] for kind in kinds} == {-1}
    assert metrics["per_class"]["square"]["objects"] == 2
    assert metrics["notes"][1:] == ["1 of 2 classes have no object here; they are in no mean."]


def test_objects_whose_mask_is_unusable_count_for_boxes_alone(ground_truth):
    del ground_truth["annotations"][2]["segmentation"]
    counts = {
        kinds: evaluate_results(ground_truth, [], kinds=kinds)["per_class"]["disc"]["objects"]
        for kinds in (("bbox",), ("segm",), ("bbox", "segm"))
    }
    assert counts == {("bbox",): 1, ("segm",): 0, ("bbox", "segm"): 1}
    (note,) = evaluate_results(ground_truth, [], kinds=("bbox", "segm"))["notes"]
    assert note.startswith("segm: 1 annotations without a usable mask")
    assert evaluate_results(ground_truth, [], kinds=("bbox",))["notes"] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": float("nan")}, "score is nan"),
        ({"bbox": [0, 0, float("inf"), 1]}, "not four finite numbers"),
        ({"bbox": ["0", "0", "9", "9"]}, "not four finite numbers"),
        ({"bbox": [0, 0, 9]}, "not four finite numbers"),
        ({"score": "0.9"}, "score is '0.9'"),
        ({"score": 10**400}, "score is 1000"),
        ({"image_id": [1]}, r"have no image \[1\]"),
        ({"image_id": 9}, r"have no image 9 \(1 of 1 results\)"),
        ({"category_id": 9}, r"have no category 9 \(1 of 1 results\)"),
        ({"segmentation": {"size": [3, 3], "counts": "9"}}, "height and width"),
        ({"segmentation": [[0, 0, 9, 0, 9, 9]]}, "run lengths"),
    ],
)
def test_results_that_cannot_be_counted_are_refused(ground_truth, change, message):
    with pytest.raises(UserError, match=message):
        evaluate_results(ground_truth, [result(1, 7, (10, 10, 40, 40), 0.9) | change])


def test_equal_names_get_their_ids_until_all_differ(ground_truth):
    names = ["cat", "cat", "cat (1)", "dog"]
    ground_truth |= {"annotations": [], "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)]}
    metrics = evaluate_results(ground_truth, [])
    assert list(metrics["per_class"]) == ["cat (1) (1)", "cat (2)", "cat (1) (3)", "dog"]


@pytest.mark.parametrize("kinds", ["segm", ("mask",), ()])
def test_unknown_kinds_are_refused(ground_truth, kinds):
    with pytest.raises(UserError, match=r"kinds=.*: give a list of one or both of bbox, segm"):
        evaluate_results(ground_truth, [], kinds=kinds)


def test_unreadable_ground_truth_is_refused(tmp_path, ground_truth):
    (tmp_path / "broken.json").write_text('{"images": [')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "bare.json").write_text(json.dumps(ground_truth | {"images": [{"id": 1}]}))
    for name, message in [("none", "cannot be read"), ("broken", "it was cut"), ("list", "images"), ("bare", "height")]:
        with pytest.raises(UserError, match=f"{name}.json.*{message}.*give COCO's instances JSON"):
            evaluate_results(tmp_path / f"{name}.json", [])
    with pytest.raises(UserError, match="category id 5 "):
        evaluate_results(ground_truth, [], category_ids=[5])
    with pytest.raises(UserError, match="no image"):
        evaluate_results(ground_truth | {"images": []}, [])


def test_arguments_are_not_changed_and_nothing_is_printed(ground_truth, capsys):
    results = [result(1, 7, (10, 10, 40, 40), 0.9)]
    before = copy.deepcopy((ground_truth, results))
    evaluate_results(ground_truth, results)
    assert (ground_truth, results) == before
    assert capsys.readouterr().out == ""
