"""Error analysis: hand-computed reasons and AP costs on toy data, and AP50 equal to COCO's."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc_tf.evaluation.coco_inputs import prepare_inputs
from htc_tf.evaluation.error_analysis import analyze_errors, count_confusions, pair_images
from htc_tf.evaluation.evaluator import evaluate

SIDE = 200
KINDS = ("bbox", "segm")


def entry(label, where, image_id=1):
    x, y, width, height = where
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    runs = {"size": [SIDE, SIDE], "counts": coco_mask.encode(mask)["counts"].decode()}
    return {"image_id": image_id, "category_id": label, "bbox": list(where), "segmentation": runs}


def ground_truth_of(objects, images=(1,)):
    """COCO's dictionary of (class, rectangle, iscrowd); class 9 comes first in the model's order."""
    annotations = [
        entry(label, where, *rest) | {"id": i + 1, "iscrowd": crowd, "area": where[2] * where[3]}
        for i, (label, where, crowd, *rest) in enumerate(objects)
    ]
    categories = [{"id": 9, "name": "square"}, {"id": 4, "name": "disc"}]
    return {
        "images": [{"id": i, "height": SIDE, "width": SIDE} for i in images],
        "categories": categories,
        "annotations": annotations,
    }


def found(label, where, score, image_id=1):
    return entry(label, where, image_id) | {"score": score}


SQUARE, DISC, FAR = (10, 10, 40, 40), (100, 100, 40, 40), (10, 120, 40, 40)


def split_of(objects, results, kind):
    inputs = prepare_inputs(ground_truth_of(objects), results, [9, 4])
    pairs = pair_images(inputs, kind)
    return analyze_errors(pairs, 2), count_confusions(pairs, 2, 0.3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (found(4, SQUARE, 0.9), "class"),
        (found(9, (10, 34, 40, 40), 0.9), "localization"),  # IoU 0.25
        (found(4, (10, 34, 40, 40), 0.9), "both"),
        (found(9, (100, 98, 40, 40), 0.4), "duplicate"),
        (found(9, (60, 60, 20, 20), 0.9), "background"),
    ],
)
def test_reasons_by_hand(kind, wrong, reason):
    objects = [(9, SQUARE, 0), (9, DISC, 0)]
    split, _ = split_of(objects, [found(9, DISC, 0.5), wrong], kind)
    missed = reason in ("both", "duplicate", "background")
    assert split.counts == {name: int(name == reason) for name in split.counts} | {"missed": int(missed)}
    # One of two objects is found. The wrong detection ranks first, or costs nothing (duplicate, other class).
    harmless = reason in ("class", "both", "duplicate")
    assert split.ap50 == pytest.approx(51 / 101 * (1 if harmless else 0.5))
    corrected = {"class": 1, "localization": 1, "background": 51 / 101}.get(reason, split.ap50)
    assert split.ap_cost[reason] == pytest.approx(corrected - split.ap50)
    if missed:
        assert split.ap_cost["missed"] == pytest.approx((1 if harmless else 0.5) - split.ap50)


@pytest.mark.parametrize("kind", KINDS)
def test_a_corrected_detection_does_not_find_an_object_twice(kind):
    results = [found(9, SQUARE, 0.5), found(9, (10, 34, 40, 40), 0.9), found(4, SQUARE, 0.8), found(4, SQUARE, 0.7)]
    split, _ = split_of([(9, SQUARE, 0)], results, kind)
    assert split.counts["localization"] == 1 and split.counts["class"] == 2
    assert split.ap50 == pytest.approx(0.5)
    assert split.ap_cost["localization"] == pytest.approx(0.5) and split.ap_cost["class"] == pytest.approx(0)


@pytest.mark.parametrize("kind", KINDS)
def test_crowds_and_images_without_ground_truth(kind):
    inside = [found(9, (110, 110, 20, 20), 0.9), found(9, (150, 150, 20, 20), 0.8)]
    split, confusion = split_of([(9, SQUARE, 0), (9, (100, 100, 90, 90), 1)], [*inside, found(9, SQUARE, 0.5)], kind)
    assert split.ap50 == pytest.approx(1) and set(split.counts.values()) == {0}
    np.testing.assert_array_equal(confusion, [[1, 0, 0], [0, 0, 0], [0, 0, 0]])
    for results in [], inside:
        split, confusion = split_of([], results, kind)
        assert split.ap50 == -1 and split.counts["background"] == len(results)
        assert confusion[2].tolist() == [len(results), 0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_confusions_by_hand(kind):
    objects = [(9, SQUARE, 0), (4, DISC, 0), (4, FAR, 0)]
    results = [
        found(9, SQUARE, 0.9),
        found(9, (12, 10, 40, 40), 0.8),  # a duplicate: no unmatched object is there
        found(9, DISC, 0.7),  # a disc classified as a square
        found(4, (150, 10, 20, 20), 0.6),  # nothing there
        found(4, FAR, 0.2),  # below the threshold: missed
    ]
    _, confusion = split_of(objects, results, kind)
    np.testing.assert_array_equal(confusion, [[1, 0, 0], [1, 0, 1], [1, 1, 0]])


def test_it_starts_from_cocos_ap50():
    random = np.random.RandomState(0)
    images = (3, 1, 2)

    def place():
        return tuple(int(v) for v in (*random.randint(0, 150, 2), *random.randint(10, 50, 2)))

    objects = [(int(random.choice([9, 4])), place(), int(i % 9 == 0), images[i % 3]) for i in range(30)]
    results = []
    for i in range(200):
        label, (x, y, width, height), _, image_id = objects[i % 30]
        dx, dy = random.randint(-8, 9, 2)
        where = (int(np.clip(x + dx, 0, 150)), int(np.clip(y + dy, 0, 150)), width, height)
        results.append(found(9 if i % 5 == 0 else label, where, i * 7 % 100 / 200 + 0.2, image_id))
    evaluation = evaluate(ground_truth_of(objects, images), results, [9, 4])
    for kind in KINDS:
        split = analyze_errors(pair_images(evaluation.inputs, kind), 2)
        assert split.ap50 == pytest.approx(evaluation.metrics[f"{kind}/AP50"], abs=1e-12)
        assert 0.1 < split.ap50 < 0.9 and min(split.counts[r] for r in ("class", "localization", "duplicate")) > 0
        assert all(0 <= cost <= 1 - split.ap50 + 1e-9 for cost in split.ap_cost.values())


def test_equal_scores_are_ordered_by_image_ids_as_in_coco():
    """Records list images in any order."""
    results = [found(9, SQUARE, 0.5, image_id=1), found(9, FAR, 0.5, image_id=2)]
    evaluation = evaluate(ground_truth_of([(9, SQUARE, 0, 1)], images=(1, 2)), results, [9, 4], [2, 1])
    pairs = pair_images(evaluation.inputs, "bbox")
    assert [analyze_errors(pairs, 2).ap50, evaluation.metrics["bbox/AP50"]] == pytest.approx([1, 1])
