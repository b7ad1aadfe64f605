"""COCO metrics: hand-computed on toy data, and equal to plain pycocotools on real annotations."""

import contextlib
import importlib.util
import io
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from htc_tf.errors import UserError
from htc_tf.evaluation.evaluator import IOUS, METRICS, evaluate_results
from htc_tf.evaluation.report import format_table
from tests.evaluation.toy import ground_truth_of, result


def test_golden_metrics(ground_truth):
    results = [
        result(1, 7, (10, 10, 40, 40), 0.9),
        result(1, 7, (150, 150, 20, 20), 0.8),  # nothing there
        result(1, 7, (100, 100, 20, 20), 0.7),
        result(2, 3, (0, 0, 120, 90), 0.6),  # IoU 0.75: found at 0.50, 0.55, ... 0.75
    ]
    metrics = evaluate_results(ground_truth, results)
    # Precision 1 at 51 of 101 recalls, then 2/3.
    square = (51 + 50 * 2 / 3) / 101
    for kind in ("bbox", "segm"):
        assert metrics[f"{kind}/AP50"] == pytest.approx((square + 1) / 2)
        assert metrics[f"{kind}/AP"] == pytest.approx((square + 0.6) / 2)
        assert metrics[f"{kind}/AR1"] == pytest.approx((0.5 + 0.6) / 2)
        assert metrics[f"{kind}/AR100"] == pytest.approx((1 + 0.6) / 2)
        # Small: one object, and a wrong detection of that size ranks first. Medium: the square of 40.
        assert metrics[f"{kind}/APs"] == pytest.approx(0.5)
        assert metrics[f"{kind}/APm"] == pytest.approx(1)
        assert metrics[f"{kind}/APl"] == pytest.approx(0.6)
        assert metrics["per_class"]["square"][f"{kind}/AP"] == pytest.approx(square)
        disc = metrics["per_class"]["disc"]
        assert disc[f"{kind}/AP"] == pytest.approx(0.6) and disc[f"{kind}/AR100"] == pytest.approx(0.6)
        assert disc["objects"] == 1 and disc[f"{kind}/APl"] == pytest.approx(0.6) and disc[f"{kind}/APs"] == -1
        at = [(square + (iou <= 0.75)) / 2 for iou in IOUS]
        assert list(metrics["by_iou"][kind].values()) == pytest.approx(at)
    assert list(metrics["by_iou"]["segm"])[::9] == ["0.50", "0.95"]
    assert metrics["notes"] == [] and metrics["images"] == 2
    assert json.loads(json.dumps(metrics)) == metrics


def test_the_fast_backend_gives_the_same_metrics(ground_truth):
    with pytest.raises(UserError, match=r"'fast'; choose pycocotools or faster-coco-eval"):
        evaluate_results(ground_truth, [], backend="fast")
    if importlib.util.find_spec("faster_coco_eval") is None:
        with pytest.raises(UserError, match=r"faster-coco-eval is not installed.*\[fast\]"):
            evaluate_results(ground_truth, [], backend="faster-coco-eval")
        pytest.skip("faster-coco-eval is not installed")
    results = [result(1, 7, (10, 14, 40, 40), 0.9), result(2, 3, (0, 0, 120, 90), 0.6), result(1, 3, (0, 0, 9, 9), 0.7)]
    plain, fast = (
        evaluate_results(ground_truth, results, backend=name) for name in ("pycocotools", "faster-coco-eval")
    )
    assert flat(fast) == pytest.approx(flat(plain), abs=1e-12)


def flat(metrics):
    """Returns every number of nested metrics under one key, as in "per_class/disc/bbox/AP"."""
    found = {}
    for name, value in metrics.items():
        inner = flat(value) if isinstance(value, dict) else {}
        found |= {f"{name}/{key}": number for key, number in inner.items()}
        if isinstance(value, int | float):
            found[name] = value
    return found


def test_the_order_of_results_does_not_matter(ground_truth):
    results = [result(1, 7, (10 + i, 10, 40, 40), (i * 7 % 11 + 1) / 20) for i in range(9)]
    results += [result(2, 3, (0, 0, 120, 80 + 5 * i), (i * 5 % 7 + 1) / 20) for i in range(6)]
    assert evaluate_results(ground_truth, results[::-1]) == evaluate_results(ground_truth, results)


def test_the_caller_sets_the_class_order(ground_truth):
    results = [result(2, 3, (0, 0, 120, 120), 0.6)]
    assert list(evaluate_results(ground_truth, results)["per_class"]) == ["disc", "square"]
    metrics = evaluate_results(ground_truth, results, category_ids=[7, 3])
    assert list(metrics["per_class"]) == ["square", "disc"]
    assert [row["segm/AP"] for row in metrics["per_class"].values()] == pytest.approx([0, 1])


def test_a_mask_is_sized_by_its_own_area():
    """A wrong small mask in a large box counts against the small objects, not the medium ones."""
    ground_truth = ground_truth_of([(1, 7, (10, 10, 20, 20), 0), (1, 7, (100, 100, 40, 40), 0)])
    wrong = result(1, 7, (150, 10, 20, 20), 0.9) | {"bbox": [140, 10, 50, 50]}
    metrics = evaluate_results(
        ground_truth, [wrong, *(result(1, 7, a["bbox"], 0.5) for a in ground_truth["annotations"])]
    )
    assert metrics["segm/APs"] == pytest.approx(0.5) and metrics["segm/APm"] == pytest.approx(1)
    assert metrics["bbox/APs"] == pytest.approx(1) and metrics["bbox/APm"] == pytest.approx(0.5)


def test_nothing_found_is_zero(ground_truth):
    metrics = evaluate_results(ground_truth, [])
    assert {metrics[f"{kind}/{name}"] for kind in ("bbox", "segm") for name in METRICS} == {0}
    assert {row[f"{kind}/AP"] for row in metrics["per_class"].values() for kind in ("bbox", "segm")} == {0}


@pytest.mark.parametrize("objects", [[], [(1, 7, (10, 10, 40, 40), 1)]])
def test_missing_objects_are_noted(objects):
    for results in [], [result(1, 7, (10, 10, 40, 40), 0.5)]:
        metrics = evaluate_results(ground_truth_of(objects), results)
        assert {metrics[f"{kind}/{name}"] for kind in ("bbox", "segm") for name in METRICS} == {-1}
        assert "no object" in metrics["notes"][0]
        assert "–" in format_table(metrics) and "-1.000" not in format_table(metrics)


def test_results_in_a_crowd_are_not_counted():
    ground_truth = ground_truth_of([(1, 7, (10, 10, 40, 40), 0), (1, 7, (100, 0, 90, 90), 1)])
    results = [result(1, 7, (110 + 10 * i, 10, 20, 20), 0.9) for i in range(3)] + [result(1, 7, (10, 10, 40, 40), 0.5)]
    metrics = evaluate_results(ground_truth, results)
    assert [metrics["bbox/AP"], metrics["segm/AP"]] == pytest.approx([1, 1])


def test_part_of_the_images(ground_truth):
    results = [result(1, 7, (10, 10, 40, 40), 0.9), result(2, 3, (0, 0, 120, 120), 0.6)]
    metrics = evaluate_results(ground_truth, results, image_ids=np.int64([2]))
    assert [metrics["bbox/AP"], metrics["segm/AP"]] == pytest.approx([1, 1])
    square = metrics["per_class"]["square"]
    assert square["objects"] == 0 and square["bbox/AP"] == square["segm/AP"] == -1
    assert any("1 results" in note for note in metrics["notes"])
    assert any("1 of 2 classes" in note for note in metrics["notes"])


def test_boxes_alone(ground_truth):
    results = [{k: v for k, v in result(2, 3, (0, 0, 120, 120), 0.6).items() if k != "segmentation"}]
    metrics = evaluate_results(ground_truth, results, kinds=("bbox",))
    assert metrics["bbox/APl"] == pytest.approx(1) and "segm/AP" not in metrics
    assert "mask" not in format_table(metrics)
    with pytest.raises(UserError, match="result 0 has no 'segmentation'"):
        evaluate_results(ground_truth, results)


def results_of(annotations, path, offset=0.0):
    """Returns the ground truth as detections, shifted by a fraction of the object's size."""
    coco = quiet(COCO, path)
    results = []
    for index, annotation in enumerate(a for a in annotations if not a["iscrowd"]):
        x, y, width, height = annotation["bbox"]
        mask = coco.annToMask(annotation)
        moved = np.roll(mask, (round(offset * height), round(offset * width)), axis=(0, 1))
        runs = coco_mask.encode(np.asfortranarray(moved))
        results.append(
            {"image_id": annotation["image_id"], "category_id": annotation["category_id"]}
            | {"bbox": [x + offset * width, y + offset * height, width, height]}
            | {"segmentation": {"size": runs["size"], "counts": runs["counts"].decode()}}
            | {"score": 1.0 if not offset else (index * 7919 % 1000) / 1000}
        )
    return results


def quiet(function, *arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)


@pytest.fixture(scope="module")
def sample(coco_sample):
    path = coco_sample / "annotations" / "instances_val2017.json"
    return path, json.loads(path.read_text())["annotations"]


def test_ground_truth_as_results_is_perfect(sample):
    path, annotations = sample
    metrics = evaluate_results(path, results_of(annotations, path))
    for kind in ("bbox", "segm"):
        for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "ARs", "ARm", "ARl"):
            assert metrics[f"{kind}/{name}"] == pytest.approx(1, abs=1e-9), (kind, name)
    assert len(metrics["per_class"]) == 80
    assert {round(row["segm/AP"], 9) for row in metrics["per_class"].values()} <= {1, -1}


def test_shifted_ground_truth_gets_the_metrics_of_plain_pycocotools(sample):
    path, annotations = sample
    results = results_of(annotations, path, offset=0.08)
    images = sorted({entry["image_id"] for entry in results})[:50]
    metrics = evaluate_results(path, results, image_ids=images)
    for kind, field in (("bbox", "segmentation"), ("segm", "bbox")):
        plain = [{k: v for k, v in entry.items() if k != field} for entry in results]
        ground_truth = quiet(COCO, path)
        evaluation = COCOeval(ground_truth, quiet(ground_truth.loadRes, plain), kind)
        evaluation.params.imgIds = images
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            quiet(step)
        assert [metrics[f"{kind}/{name}"] for name in METRICS] == evaluation.stats.tolist()
        assert 0.05 < metrics[f"{kind}/AP"] < 0.95
