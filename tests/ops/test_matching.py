"""Matching: on a 4 x 3 IoU matrix, against a loop and mmdetection. Sampling: exact limits."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.ops import matching
from tests.modes import MODES

# (positive, negative, minimum), positive fraction, True if the sampler prepends the ground-truth boxes.
ASSIGNERS = {
    "rpn": ((0.7, 0.3, 0.3), 0.5, False),
    "s0": ((0.5, 0.5, 0.5), 0.25, True),
    "s1": ((0.6, 0.6, 0.6), 0.25, True),
    "s2": ((0.7, 0.7, 0.7), 0.25, True),
}
# Four boxes (rows) and three objects (columns).
IOU = tf.constant([[[0.8, 0.1, 0.0], [0.5, 0.4, 0.0], [0.0, 0.2, 0.0], [0.1, 0.4, 0.1]]])
ALL = tf.constant([[True, True, True]])


@pytest.fixture(params=MODES)
def compiled(request):
    return MODES[request.param]


def match(compiled, iou, valid, thresholds, **options):
    """Returns the matches of the only image."""
    found = compiled(lambda iou, valid: matching.match(iou, valid, *thresholds, **options))(iou, valid)
    return matching.Matches(*(field.numpy()[0] for field in found))


def match_with_a_loop(iou, positive, negative, minimum):
    """Computes MaxIoUAssigner in mmdetection's form, for one image: 0 negative, -1 ignored, i + 1 object i."""
    given = np.full(len(iou), -1)
    best = iou.max(axis=1)
    given[best < np.float32(negative)] = 0
    high = best >= np.float32(positive)
    given[high] = iou.argmax(axis=1)[high] + 1
    for i in range(iou.shape[1]):
        if iou[:, i].max() >= np.float32(minimum):
            given[iou[:, i] == iou[:, i].max()] = i + 1
    return given


def as_mmdetection(matches):
    return np.where(matches.label == 1, matches.index + 1, matches.label)


def test_thresholds(compiled):
    found = match(compiled, IOU, ALL, (0.7, 0.3, 0.3), low_quality=False)
    np.testing.assert_array_equal(found.label, [1, -1, 0, -1])
    np.testing.assert_array_equal(found.index, [0, 0, 0, 0])
    np.testing.assert_array_equal(found.iou, np.float32([0.8, 0.5, 0.2, 0.4]))


def test_low_quality_takes_every_tie_above_the_minimum(compiled):
    # Object 1's best, 0.4, is shared by boxes 1 and 3; object 2's best, 0.1, is too low.
    found = match(compiled, IOU, ALL, (0.7, 0.3, 0.3))
    np.testing.assert_array_equal(found.label, [1, 1, 0, 1])
    np.testing.assert_array_equal(found.index, [0, 1, 0, 1])
    np.testing.assert_array_equal(found.iou, np.float32([0.8, 0.5, 0.2, 0.4]))


def test_low_quality_takes_a_box_from_its_best_object(compiled):
    found = match(compiled, tf.constant([[[0.98, 0.79], [0.0, 0.1]]]), ALL[:, :2], (0.5, 0.5, 0.5))
    np.testing.assert_array_equal(found.label, [1, 0])
    np.testing.assert_array_equal(found.index, [1, 0])


def test_low_quality_without_reassigning(compiled):
    # Object 1 makes its best box positive only; it stays with object 0, with the larger IoU.
    found = match(compiled, tf.constant([[[0.98, 0.79], [0.0, 0.1]]]), ALL[:, :2], (0.5, 0.5, 0.5), reassign=False)
    np.testing.assert_array_equal(found.label, [1, 0])
    np.testing.assert_array_equal(found.index, [0, 0])
    found = match(compiled, tf.constant([[[0.2, 0.1], [0.0, 0.15]]]), ALL[:, :2], (0.5, 0.5, 1e-6), reassign=False)
    np.testing.assert_array_equal(found.label, [1, 1])
    np.testing.assert_array_equal(found.index, [0, 1])


def test_thresholds_are_reached_by_equality(compiled):
    found = match(compiled, tf.constant([[[0.7], [0.3], [0.9]]]), ALL[:, :1], (0.7, 0.3, 0.3), low_quality=False)
    np.testing.assert_array_equal(found.label, [1, -1, 1])


def test_padding_is_not_an_object(compiled):
    found = match(compiled, IOU, tf.constant([[False, True, False]]), (0.7, 0.3, 0.3))
    np.testing.assert_array_equal(found.label, [0, 1, 0, 1])
    np.testing.assert_array_equal(found.index, [0, 1, 0, 1])
    np.testing.assert_array_equal(found.iou, np.float32([0.1, 0.4, 0.2, 0.4]))


def test_without_objects_all_candidates_are_negative(compiled):
    candidates = tf.constant([[True, False, True, True]])
    found = match(compiled, IOU, ~ALL, (0.7, 0.3, 0.3), candidates=candidates)
    np.testing.assert_array_equal(found.label, [0, -1, 0, 0])
    np.testing.assert_array_equal(found.index, [0, 0, 0, 0])
    np.testing.assert_array_equal(found.iou, [0, 0, 0, 0])


def test_other_boxes_than_candidates_are_not_taken(compiled):
    # Without boxes 1 and 3, object 1's best IoU is box 2's 0.2, above the minimum of 0.15.
    candidates = tf.constant([[True, False, True, False]])
    found = match(compiled, IOU, ALL, (0.7, 0.3, 0.15), candidates=candidates)
    np.testing.assert_array_equal(found.label, [1, -1, 1, -1])
    np.testing.assert_array_equal(found.index, [0, 0, 1, 0])


def test_match_equals_the_loop():
    random = np.random.RandomState(0)
    # Few different values give many ties.
    iou = (random.randint(0, 21, [3, 200, 12]) * random.randint(0, 2, [3, 200, 12]) / 20).astype(np.float32)
    candidates = random.rand(3, 200) < 0.8
    for thresholds in ((0.7, 0.3, 0.3), (0.5, 0.5, 0.5), (0.95, 0.9, 0.2)):
        found = matching.match(iou, tf.ones([3, 12], bool), *thresholds, candidates=tf.constant(candidates))
        result = np.where(found.label == 1, found.index + 1, found.label)
        for i in range(3):
            expected = np.full(200, -1)
            expected[candidates[i]] = match_with_a_loop(iou[i][candidates[i]], *thresholds)
            np.testing.assert_array_equal(result[i], expected)


@pytest.mark.parametrize("name", ASSIGNERS)
def test_match_equals_mmdetection(reference, compiled, compare, name):
    arrays, (thresholds, _, _) = reference("op_assign_sample"), ASSIGNERS[name]
    iou = tf.constant(arrays["iou"].T[None])
    found = match(compiled, iou, tf.ones([1, 7], bool), thresholds)
    compare("objects that boxes are matched to", as_mmdetection(found), arrays[f"{name}_gt_inds"])
    compare("best IoU of each box", found.iou, arrays[f"{name}_max_iou"])

    found = match(compiled, iou, tf.zeros([1, 7], bool), thresholds)
    compare("objects that boxes are matched to", as_mmdetection(found), arrays[f"{name}_nogt_gt_inds"])
    compare("best IoU of each box", found.iou, arrays[f"{name}_nogt_max_iou"])

    found = match(compiled, tf.constant(arrays["lq_iou"].T[None]), ALL, thresholds)
    compare("objects that boxes are matched to", as_mmdetection(found), arrays[f"lq_{name}_gt_inds"])


@pytest.mark.parametrize("limit", [512, 32])
@pytest.mark.parametrize("name", ASSIGNERS)
def test_sample_equals_mmdetection(reference, compare, name, limit):
    arrays, (thresholds, fraction, prepended) = reference("op_assign_sample"), ASSIGNERS[name]
    iou = tf.constant(arrays["iou"].T[None])
    for case, valid in (("", True), ("nogt_", False)):
        label = matching.match(iou, tf.fill([1, 7], valid), *thresholds).label
        if prepended and valid:
            label = tf.concat([tf.ones([1, 7], tf.int32), label], axis=1)
        positive, negative = matching.sample(label, limit, fraction, matching.subsample_evenly)
        compare("positives sampled", np.flatnonzero(positive[0]), arrays[f"{name}_{case}n{limit}_pos_inds"])
        compare("negatives sampled", np.flatnonzero(negative[0]), arrays[f"{name}_{case}n{limit}_neg_inds"])
        objects = tf.boolean_mask(matching.match(iou, tf.fill([1, 7], valid), *thresholds).index, positive[:, -200:])
        skip = len(arrays[f"{name}_{case}n{limit}_pos_assigned"]) - len(objects)
        np.testing.assert_array_equal(objects, arrays[f"{name}_{case}n{limit}_pos_assigned"][skip:])


def test_negatives_fill_up_the_sample(compiled):
    label = tf.constant([[1, 0, 0, -1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, -1, -1]])
    draw = matching.subsample_randomly(tf.constant([3, 4]))
    positive, negative = compiled(lambda label: matching.sample(label, 4, 0.5, draw))(label)
    np.testing.assert_array_equal(np.sum(positive, axis=1), [1, 2])
    np.testing.assert_array_equal(np.sum(negative, axis=1), [3, 1])
    assert not np.any(positive & (label != 1)) and not np.any(negative & (label != 0))


@pytest.mark.parametrize("choose", [matching.subsample_evenly, matching.subsample_randomly(tf.constant([1, 2]))])
def test_subsampling_takes_exactly_the_limit(compiled, choose):
    random = np.random.RandomState(0)
    candidates = tf.constant(random.rand(5, 300) < [[0.0], [0.01], [0.1], [0.5], [1.0]])
    available = np.sum(candidates, axis=1)
    for limit in (0, 7, 1000):
        chosen = compiled(lambda candidates, limit=limit: choose(candidates, limit))(candidates)
        assert not np.any(chosen & ~candidates)
        np.testing.assert_array_equal(np.sum(chosen, axis=1), np.minimum(available, limit))

    limits = tf.constant([3, 1, 0, 20, 64])
    for maximum in (None, 64):
        chosen = compiled(lambda c, limits, maximum=maximum: choose(c, limits, maximum=maximum))(candidates, limits)
        assert not np.any(chosen & ~candidates)
        np.testing.assert_array_equal(np.sum(chosen, axis=1), np.minimum(available, limits))


def test_subsample_evenly_golden(compiled):
    # Ten candidates at 0, 2, ... 18; of them those with ranks 0, 3, 6 = (j * 10) // 3.
    candidates = tf.constant([[True, False] * 10])
    chosen = compiled(lambda candidates: matching.subsample_evenly(candidates, 3))(candidates)
    np.testing.assert_array_equal(np.flatnonzero(chosen[0]), [0, 6, 12])


@pytest.mark.parametrize("count", [1, 5, 97, 300])
def test_subsample_evenly_is_its_formula(count):
    for limit in (1, 2, 3, 32, 96, 97, 299):
        chosen = matching.subsample_evenly(tf.ones([1, count], bool), limit)
        places = (np.arange(limit) * count) // limit if count > limit else np.arange(count)
        np.testing.assert_array_equal(np.flatnonzero(chosen[0]), places)


def test_subsample_randomly_is_exact_among_tying_keys():
    # With 24 bits for each of 300,000 keys hundreds tie; at these limits the last one taken ties with the next.
    candidates = tf.ones([1, 300_000], bool)
    choose = matching.subsample_randomly(tf.constant([5, 6]))
    bits = tf.random.stateless_uniform([1, 300_000], [5, 6], None, None, tf.uint32, alg="philox") // 256
    ordered = np.sort(bits[0])[::-1].astype(np.int64)
    ties = np.flatnonzero(ordered[:-1] == ordered[1:])[:3] + 1
    assert len(ties) == 3
    for limit in ties:
        assert np.sum(choose(candidates, int(limit))) == limit


def test_subsample_randomly_depends_on_the_seed_alone():
    candidates = tf.ones([2, 400], bool)
    results = [
        mode(lambda seed: matching.subsample_randomly(seed)(candidates, 40))(tf.constant([7, 8]))
        for mode in MODES.values()
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    assert np.any(results[0] != matching.subsample_randomly(tf.constant([7, 9]))(candidates, 40))
    assert np.any(results[0][0] != results[0][1])


def test_subsample_randomly_is_uniform():
    # 4000 rows that each choose 3 of 6 candidates: every one is taken 2000 times, within 5 sigma (158).
    row = tf.constant([True, True, False, True, True, False, True, True])
    chosen = matching.subsample_randomly(tf.constant([0, 1]))(tf.tile(row[None], [4000, 1]), 3)
    times = np.sum(chosen, axis=0)
    np.testing.assert_array_equal(times[~row.numpy()], [0, 0])
    assert np.all(np.abs(times[row.numpy()] - 2000) < 158)
