"""Batched detection: results in input order, one padded shape per batch, a bounded number of images in memory."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import ModelFailed, UserError
from htc_tf.inference.batching import MAX_QUEUED, detect_in_batches
from htc_tf.inference.detector import Detector
from htc_tf.inference.predictor import Predictor


class RecordingDetector:
    """A detector whose result is the image's height; it records its batches."""

    def __init__(self):
        self.batches = []

    def padded_shape(self, image):
        return max(image.shape[:2])

    def detect_images(self, images, rows):
        self.batches.append([image.shape[0] for image in images])
        assert len(images) <= rows and len({self.padded_shape(image) for image in images}) == 1
        return [image.shape[0] for image in images]

    def detect_image(self, image):
        return self.detect_images([image], 1)[0]


def make_images(heights, read=None):
    """Yields (name, image): landscape up to a height of 10, portrait above."""
    for name, height in enumerate(heights):
        if read is not None:
            read.append(name)
        yield name, np.zeros([height, 10 if height <= 10 else 5, 3], np.uint8)


@pytest.mark.parametrize("batch", [1, 2, 3, 50])
def test_results_come_in_order(batch):
    heights, detector = [3, 4, 20, 5, 6, 20, 7, 30], RecordingDetector()
    outputs = list(detect_in_batches(detector, make_images(heights), batch))
    assert [name for name, _, _ in outputs] == list(range(8))
    assert [result for *_, result in outputs] == [image.shape[0] for _, image, _ in outputs] == heights
    assert sorted(height for heights in detector.batches for height in heights) == sorted(heights)
    if batch == 3:
        assert detector.batches == [[3, 4, 5], [20, 20], [6, 7], [30]]
    assert list(detect_in_batches(detector, make_images([]), batch)) == []


def test_few_images_wait():
    """An image whose shape no other has does not hold back all the following ones."""
    read, detector = [], RecordingDetector()
    stream = detect_in_batches(detector, make_images([20] + [3] * 100, read), 2)
    assert next(stream)[2] == 20 and len(read) == MAX_QUEUED * 2 and detector.batches[-1] == [20]


def test_the_queue_is_bounded_if_the_image_that_fills_it_completes_a_batch():
    read, detector = [], RecordingDetector()
    detector.padded_shape = lambda image: image.shape[0]
    heights = [20, 30] + [3] * 100  # the first two wait; the eighth image fills the queue and completes a batch
    for name, _, _ in detect_in_batches(detector, make_images(heights, read), 2):
        assert len(read) - name <= MAX_QUEUED * 2


class SingleImageDetector:
    def detect_image(self, image):
        return image.shape[0]


def test_a_detector_without_batches_gets_single_images():
    assert [result for *_, result in detect_in_batches(SingleImageDetector(), make_images([3, 4]), 2)] == [3, 4]


class FailsOn5(RecordingDetector):
    """Runs out of memory on images of 5 pixels height."""

    def detect_images(self, images, rows):
        found = super().detect_images(images, rows)
        if 5 in found:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\n\t [[{{node mul}}]]")
        return found


@pytest.mark.parametrize("batch", [1, 3])
def test_a_failed_image_does_not_affect_its_neighbors(batch):
    failed, detector = [], FailsOn5()
    stream = detect_in_batches(
        detector, make_images([3, 5, 4, 20, 5]), batch, lambda name, error: failed.append((name, str(error)))
    )
    assert [(name, result) for name, _, result in stream] == [(0, 3), (2, 4), (3, 20)]
    assert failed == [(1, "the model failed: OOM when allocating tensor"), (4, failed[0][1])]
    with pytest.raises(ModelFailed, match="the model failed: OOM"):
        list(detect_in_batches(detector, make_images([3, 5, 4]), batch))


def test_a_batch_gives_the_results_of_its_images(tiny_model, tiny_data, eagerly):
    experiment, model = tiny_model("NUM_STAGES=1", "IMAGE_MAX_SIDE=100")
    predict = Predictor(Detector(model, experiment), [{"id": i, "name": str(i)} for i in range(8)])
    images = [tiny_data.images / f"{number:012d}.jpg" for number in (1, 2, 3)]
    turned = np.ascontiguousarray(np.rot90(predict(images[0]).image))
    mixed = [images[0], turned, images[1], images[2]]
    for one, several in zip(predict(mixed), predict(mixed, batch=2), strict=True):
        assert len(one) > 3
        np.testing.assert_array_equal(one.image, several.image)
        np.testing.assert_allclose(one.boxes, several.boxes, atol=1e-3)
        np.testing.assert_allclose(one.scores, several.scores, rtol=1e-5)
        np.testing.assert_array_equal(one.classes, several.classes)
        assert one.run_lengths == several.run_lengths


@pytest.mark.parametrize("batch", [0, -1, 2.0, "2", None])
def test_batches_out_of_range(batch):
    with pytest.raises(UserError, match=f"batch={batch}: give a number of images, 1 or more"):
        list(detect_in_batches(RecordingDetector(), make_images([3]), batch))
