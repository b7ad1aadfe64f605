"""The input pipeline: batches of records on disk, their bitwise repetition, and refused settings."""

import functools
import json
import logging
import shutil
import subprocess
import sys
import textwrap

import gin
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config as tf_config

from htc_tf import structures
from htc_tf.data import augment, copy_paste, input
from htc_tf.errors import UserError
from tests.data.records import encode_image, make, record, rectangle, write_dataset


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Eleven images, seven of them landscape, with 0 to 2 objects, in three shards."""
    records = []
    for number in range(11):
        size = (24, 36) if number % 3 else (45, 30)
        objects = [rectangle(2 * number + k + 1, 4 + k, 6, 20, 24, (3, 90)[k], size) for k in range(number % 3)]
        semantic = encode_image(np.full(size, number, np.uint8))
        records.append(record(number + 1, size, objects, semantic=semantic))
    return write_dataset(tmp_path_factory.mktemp("mixed"), records, shards=3)


def batches(folder, count, seed=0, start_step=0, **kwargs):
    return list(make(**kwargs).dataset(folder, seed, start_step).take(count).as_numpy_iterator())


def assert_equal(one, other):
    for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_image(tmp_path):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[5:10, 6:18] = (200, 100, 50)
    labels = np.where(pixels[..., 0] > 0, 7, 9).astype(np.uint8)
    objects = [
        rectangle(1, 0, 0, 20, 30, 3, (20, 30), crowd=1),
        rectangle(2, 5, 6, 10, 18, 90, (20, 30)),
    ]
    written = record(139, (20, 30), objects, pixels, semantic=encode_image(labels))
    folder = write_dataset(tmp_path, [written], crowd=1)
    (batch,) = batches(folder, 1, training=False, batch_size=1, min_side=40, max_side=64)
    assert isinstance(batch, structures.Batch) and isinstance(batch.truth, structures.GroundTruth)
    assert batch.images.shape == (1, 64, 64, 3) and batch.images.dtype == np.uint8
    np.testing.assert_array_equal(batch.sizes, [[40, 60]])
    np.testing.assert_array_equal(batch.original_sizes, [[20, 30]])
    np.testing.assert_array_equal(batch.image_ids, [139])
    np.testing.assert_array_equal(batch.images[0, 14, 20], (200, 100, 50))
    assert not batch.images[0, 40:].any() and not batch.images[0, :, 60:].any()
    truth = batch.truth
    np.testing.assert_array_equal(truth.valid, [[True, False, False, False]])
    np.testing.assert_allclose(truth.boxes[0], [[10, 12, 20, 36], *np.zeros((3, 4))], atol=1e-5)
    np.testing.assert_array_equal(truth.classes, [[1, 0, 0, 0]])
    assert truth.masks.shape == (1, 4, 16, 16) and truth.masks.dtype == np.uint8
    # 12 pixels and a margin of 1.5 cells of 12 / 13 pixels on each side, times the scale 2.
    margins = 2 * np.array([1.0, 1.5 * 12 / 13])
    crop_box = [10 - margins[0], 12 - margins[1], 20 + margins[0], 36 + margins[1]]
    np.testing.assert_allclose(truth.crop_boxes[0, 0], crop_box, rtol=1e-5)
    cell = (crop_box[2] - crop_box[0]) * (crop_box[3] - crop_box[1]) / 16**2
    assert truth.masks[0, 0].sum() / 255 * cell == pytest.approx(10 * 24, rel=0.02)
    semantic = np.full((8, 8), 255)
    semantic[:5, :8] = 9
    semantic[2, 2:5] = 7  # rows 10 ... 19 and columns 12 ... 35 contain row 16 and columns 16, 24, 32
    np.testing.assert_array_equal(truth.semantic[0], semantic)


def test_static_shapes(mixed):
    spec = make(max_side=48).dataset(mixed, 0).element_spec
    assert spec.images.shape == (2, 64, 64, 3) and spec.truth.semantic.shape == (2, 8, 8)
    assert spec.truth.masks.shape == (2, 4, 16, 16)
    assert all(part.shape.is_fully_defined() for part in tf.nest.flatten(spec))


def test_a_batch_is_of_one_shape(mixed):
    dataset = make(max_side=80).dataset(mixed, 0)
    assert all(part.shape[0] == 2 for part in tf.nest.flatten(dataset.element_spec))
    assert {batch.images.shape for batch in dataset.take(12)} == {(2, 64, 96, 3), (2, 96, 64, 3)}


def test_gray_images_get_three_channels(tmp_path):
    pixels = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)
    written = [record(1, (20, 30), pixels=pixels), record(2, (20, 30), pixels=pixels, format="jpeg")]
    (batch,) = batches(write_dataset(tmp_path, written), 1, min_side=20, max_side=30, training=False)
    np.testing.assert_array_equal(batch.images[0, :20, :30], np.repeat(pixels[..., None], 3, axis=2))
    assert np.ptp(batch.images[1].astype(int), axis=-1).max() == 0 and batch.images[1].any()


@pytest.mark.parametrize("crowd", [False, True])
def test_images_without_objects_or_with_only_crowd(tmp_path, crowd):
    objects = [rectangle(1, 2, 2, 9, 9, 3, (20, 30), crowd=1)] if crowd else []
    folder = write_dataset(tmp_path, [record(1, (20, 30), objects)], crowd=len(objects), stuff=False)
    for batch in batches(folder, 2, augment=(augment.flip, augment.photometric)):
        assert not batch.truth.valid.any() and not batch.truth.masks.any() and not batch.truth.boxes.any()
        assert (batch.truth.semantic == 255).all() and batch.images.any()


def test_images_with_too_many_objects_are_counted(tmp_path, caplog):
    objects = [rectangle(k + 1, k, k, k + 8, k + 8, 3, (20, 30)) for k in range(7)]
    folder = write_dataset(tmp_path, [record(k, (20, 30), objects) for k in range(1, 5)])
    with caplog.at_level(logging.WARNING, "htc_tf"):
        (batch,) = batches(folder, 1, min_side=20, max_side=30)
    assert batch.truth.valid.all()
    np.testing.assert_allclose(batch.truth.boxes[0], [[k, k, k + 8, k + 8] for k in range(4)], atol=1e-5)
    (message,) = [entry.getMessage() for entry in caplog.records]
    assert "photos/" in message and "7 objects" in message and "first 4" in message


@pytest.mark.parametrize("shuffle_buffer", [0, 6])
def test_resuming_repeats_every_bit(mixed, shuffle_buffer):
    settings = {"augment": (augment.flip, augment.photometric), "max_side": 80, "shuffle_buffer": shuffle_buffer}
    # Eleven images in batches of two: the second and the third epoch begin in batches 5 and 11.
    whole = batches(mixed, 14, seed=3, **settings)
    assert_equal(whole[4:], batches(mixed, 10, 3, start_step=4, **settings))
    assert len({batch.images.tobytes() for batch in whole}) == 14


def test_a_step_is_the_same_however_it_is_divided_and_resumed(mixed):
    """All augmentations, four replicas of two workers."""
    settings = {
        "augment": (augment.flip,),
        "resize": augment.large_scale_jitter,
        "color_jitter": augment.photometric,
    }
    settings |= {"paste": copy_paste.copy_paste, "batch_size": 4, "max_side": 80}
    whole = batches(mixed, 5, seed=3, **settings)
    shares = [list(make(**settings).dataset(mixed, 3, 2, worker, 2, 4).take(6)) for worker in range(2)]
    assert all(batch.images.shape[0] == 1 for share in shares for batch in share)
    for step, expected in enumerate(whole[2:]):
        parts = [batch for share in shares for batch in share[2 * step : 2 * step + 2]]
        assert_equal(tf.nest.map_structure(lambda *rows: np.concatenate(rows), *parts), expected)
    for batch in whole:
        boxes = batch.truth.boxes[batch.truth.valid]
        assert np.all(boxes[:, 2:] > boxes[:, :2]) and np.all(boxes >= 0)
        assert np.all(batch.truth.boxes[..., 2:] <= batch.sizes[:, None])


def test_only_the_workers_own_rows_are_decoded(tmp_path):
    """The second record is damaged; the first worker of two never decodes it."""
    records = [record(1, (20, 30)), record(2, (20, 30), encoded=b"no image", format="jpeg")]
    folder, settings = write_dataset(tmp_path, records), {"training": False}
    (batch,) = make(**settings).dataset(folder, 0, worker=0, workers=2, replicas=2)
    np.testing.assert_array_equal(batch.image_ids, [1])
    with pytest.raises(UserError, match=r"photos/2"), input.named_errors(folder):
        list(make(**settings).dataset(folder, 0, worker=1, workers=2, replicas=2))


@pytest.mark.parametrize("division", [{"replicas": 4}, {"replicas": 2, "workers": 3}, {"worker": 1}])
def test_batches_that_cannot_be_divided(mixed, division):
    with pytest.raises(UserError, match=r"batch_size = 2 cannot be divided"):
        make().dataset(mixed, 0, **division)


def test_pasting_uses_the_previous_record(mixed):
    settings = {"shuffle_buffer": 0, "max_side": 80, "batch_size": 1}
    plain = {int(batch.image_ids[0]): batch for batch in batches(mixed, 11, **settings)}
    paste = functools.partial(copy_paste.copy_paste, probability=1.0)
    pasted = {int(batch.image_ids[0]): batch for batch in batches(mixed, 11, paste=paste, **settings)}
    assert sorted(plain) == sorted(pasted) == list(range(1, 12))
    # In file order, 7 follows 4 (neither has objects), and 5 follows 2 (both have one).
    assert not pasted[7].truth.valid.any()
    np.testing.assert_array_equal(plain[7].images, pasted[7].images)
    assert plain[5].truth.valid.sum() == 1 and pasted[5].truth.valid.sum() >= 1
    assert np.any(plain[5].images != pasted[5].images)
    assert {batch.images.shape for batch in pasted.values()} == {batch.images.shape for batch in plain.values()}


def test_pasting_needs_masks(mixed, tmp_path):
    folder = shutil.copytree(mixed, tmp_path / "boxes")
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**info, "masks": False}))
    with pytest.raises(UserError, match=r"no masks.*Input\.paste"):
        make(paste=copy_paste.copy_paste).dataset(folder, 0)


def test_operations_may_be_required_to_be_deterministic(mixed):
    settings = {"augment": (augment.flip, augment.photometric), "shuffle_buffer": 6}
    expected = batches(mixed, 8, **settings)
    tf_config.enable_op_determinism()
    try:
        found = batches(mixed, 8, **settings)
    finally:
        tf_config.disable_op_determinism()
    assert_equal(found, expected)


def test_multi_scale_stays_inside_the_padded_shape(mixed):
    def scale(sample):
        return augment.multi_scale(sample, (32, 40, 48))

    sizes = np.concatenate([batch.sizes for batch in batches(mixed, 20, augment=(scale,), max_side=80)])
    assert set(sizes.min(axis=1)) == {32, 40, 48} and sizes.max() == 72


def test_flipping_moves_image_and_ground_truth_alike(mixed):
    def flip(sample):
        return augment.flip(sample, probability=1.0)

    settings = {"shuffle_buffer": 0, "max_side": 80, "min_side": 48}
    for plain, flipped in zip(
        batches(mixed, 8, **settings), batches(mixed, 8, augment=(flip,), **settings), strict=True
    ):
        for row, (height, width) in enumerate(plain.sizes.astype(int)):
            image = plain.images[row, :height, :width]
            np.testing.assert_allclose(flipped.images[row, :height, :width], image[:, ::-1].astype(int), atol=1)
            valid = plain.truth.valid[row]
            y1, x1, y2, x2 = plain.truth.boxes[row, valid].T
            mirrored = np.stack([y1, width - x2, y2, width - x1], axis=-1)
            np.testing.assert_allclose(flipped.truth.boxes[row, valid], mirrored, atol=1e-4)
            np.testing.assert_array_equal(flipped.truth.masks[row], plain.truth.masks[row, :, :, ::-1])


def test_evaluation_sees_every_image_once(mixed):
    found = batches(mixed, -1, training=False, batch_size=4, max_side=80)
    ids = np.concatenate([batch.image_ids for batch in found])
    assert sorted(ids[ids >= 0]) == list(range(1, 12))
    assert len(ids) == 12 and not any(batch.truth.valid[batch.image_ids < 0].any() for batch in found)
    (one,) = batches(mixed, -1, training=False, batch_size=16, max_side=48)
    # The images are distributed round-robin over three shards.
    np.testing.assert_array_equal(one.image_ids, [1, 4, 7, 10, 2, 5, 8, 11, 3, 6, 9, -1, -1, -1, -1, -1])


def test_batches_can_be_distributed(mixed):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    distributed = iter(strategy.experimental_distribute_dataset(make(max_side=48).dataset(mixed, 0)))
    (expected,) = batches(mixed, 1, max_side=48)
    found = next(distributed)
    assert isinstance(found, structures.Batch) and found.images.shape == (2, 64, 64, 3)
    assert_equal(found, expected)


def test_gin_builds_it(mixed):
    gin.parse_config("Input.augment = [@flip, @multi_scale]\nflip.probability = 1.0\nmulti_scale.min_sides = (32,)")
    try:
        configured = gin.get_configurable(input.Input)(2, 48, 64, 4, 16)
        batch = next(configured.dataset(mixed, 0).as_numpy_iterator())
    finally:
        gin.clear_config()
    assert (batch.sizes.min(axis=1) == 32).all()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batch_size": 0}, r"Input\.batch_size = 0"),
        ({"max_side": 40}, r"Input\.max_side = 40.*Input\.min_side = 48"),
        ({"mask_size": 3}, r"Input\.mask_size = 3"),
        ({"semantic_stride": 4}, r"Input\.semantic_stride = 4"),
        ({"size_divisor": 48}, r"Input\.size_divisor = 48 is not a multiple of 32"),
        ({"aspects": (1.5, 0.5)}, r"Input\.aspects = .*0\.5"),
    ],
)
def test_contradicting_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        make(**settings)


def test_an_impossible_augmentation_is_refused_before_the_first_batch(mixed):
    def scale(sample):
        return augment.multi_scale(sample, (32, 500))

    with pytest.raises(UserError) as error:
        make(augment=(scale,)).dataset(mixed, 0)
    assert "\n" not in str(error.value) and "500" in str(error.value)


def test_an_empty_data_set(tmp_path):
    with pytest.raises(UserError, match="no images"):
        make().dataset(write_dataset(tmp_path, []), 0)


@pytest.mark.parametrize("training", [True, False])
def test_the_end_of_an_iterator_waits_for_no_tuning(mixed, training):
    """TensorFlow's tuning of a dataset's threads made it wait, often as long as the iterator had lived."""
    assert make(training=training).dataset(mixed, 0).options().autotune.enabled is False


def test_a_program_that_holds_an_iterator_ends(mixed):
    program = f"""
        from htc_tf.data.input import Input
        iterator = iter(Input(2, 48, 64, 4, 16).dataset({mixed!r}, 0))
        for _ in range(20):
            next(iterator)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=120, check=True)
