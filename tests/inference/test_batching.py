"""Pictures detected several at a time: in their order, each batch of one padded shape, few in memory."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import ModelFailed
from htc_tf.inference.batching import MAX_QUEUED, detect_in_batches
from htc_tf.inference.detector import Detector
from htc_tf.inference.predictor import Predictor


class Counts:
    """A detector whose answer is a picture's height, and which remembers its batches."""

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


def pictures(heights, read=None):
    """Names and pictures: wide ones, but tall where the height is above 10."""
    for name, height in enumerate(heights):
        if read is not None:
            read.append(name)
        yield name, np.zeros([height, 10 if height <= 10 else 5, 3], np.uint8)


@pytest.mark.parametrize("batch", [1, 2, 3, 50])
def test_answers_come_in_order(batch):
    heights, detector = [3, 4, 20, 5, 6, 20, 7, 30], Counts()
    answers = list(detect_in_batches(detector, pictures(heights), batch))
    assert [name for name, _, _ in answers] == list(range(8))
    assert [result for *_, result in answers] == [image.shape[0] for _, image, _ in answers] == heights
    assert sorted(height for heights in detector.batches for height in heights) == sorted(heights)
    if batch == 3:
        assert detector.batches == [[3, 4, 5], [20, 20], [6, 7], [30]]
    assert list(detect_in_batches(detector, pictures([]), batch)) == []


def test_few_pictures_wait():
    """One of a shape of its own does not hold back all that follow."""
    read, detector = [], Counts()
    stream = detect_in_batches(detector, pictures([20] + [3] * 100, read), 2)
    assert next(stream)[2] == 20 and len(read) == MAX_QUEUED * 2 and detector.batches[-1] == [20]


class AsksOneByOne:
    def detect_image(self, image):
        return image.shape[0]


def test_what_takes_one_picture_gets_one():
    assert [result for *_, result in detect_in_batches(AsksOneByOne(), pictures([3, 4]), 2)] == [3, 4]


class FailsOn5(Counts):
    """Runs out of memory where an image is 5 pixels high."""

    def detect_images(self, images, rows):
        found = super().detect_images(images, rows)
        if 5 in found:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\n\t [[{{node mul}}]]")
        return found


@pytest.mark.parametrize("batch", [1, 3])
def test_one_that_fails_takes_no_neighbor_along(batch):
    failed, detector = [], FailsOn5()
    stream = detect_in_batches(
        detector, pictures([3, 5, 4, 20, 5]), batch, lambda name, error: failed.append((name, str(error)))
    )
    assert [(name, result) for name, _, result in stream] == [(0, 3), (2, 4), (3, 20)]
    assert failed == [(1, "the model failed: OOM when allocating tensor"), (4, failed[0][1])]
    with pytest.raises(ModelFailed, match="the model failed: OOM"):
        list(detect_in_batches(detector, pictures([3, 5, 4]), batch))


def test_a_batch_answers_as_its_pictures_do(tiny_model, tiny_data, eagerly):
    experiment, model = tiny_model("NUM_STAGES=1", "IMAGE_MAX_SIDE=100")
    predict = Predictor(Detector(model, experiment), [{"id": i, "name": str(i)} for i in range(8)])
    images = [tiny_data.images / f"{number:012d}.jpg" for number in (1, 2, 3)]
    turned = np.ascontiguousarray(np.rot90(predict(images[0]).image))
    photos = [images[0], turned, images[1], images[2]]
    for one, several in zip(predict(photos), predict(photos, batch=2), strict=True):
        assert len(one) > 3
        np.testing.assert_array_equal(one.image, several.image)
        np.testing.assert_allclose(one.boxes, several.boxes, atol=1e-3)
        np.testing.assert_allclose(one.scores, several.scores, rtol=1e-5)
        np.testing.assert_array_equal(one.classes, several.classes)
        assert one.run_lengths == several.run_lengths
