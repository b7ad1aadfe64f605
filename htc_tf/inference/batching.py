"""Many pictures, detected several at a time, and answered in their order.

Before: `inference.image_files` or `inference.video` read them. After: `inference.predictor` and `inference.predict_files` take
the answers. Pictures of one padded shape make a batch; those that wait for others of theirs hold back the answers after
them, so that no more than HELD batches' worth is ever in memory.
"""

from collections import deque

from htc_tf.errors import ModelFailed
from htc_tf.inference.failures import model_errors

HELD = 4
LEFT_OUT = object()  # in place of a result: the model failed on the image


class Waiting:
    """A picture whose turn to be answered has not come."""

    def __init__(self, name, image):
        self.name, self.image, self.result = name, image, None


def detect_in_batches(detector, pictures, batch=1, failed=None):
    """Detects in a stream of pictures.

    A batch's results are those of its pictures one by one, but for the rounding of float32: the last digits of scores.

    Args:
        detector: an inference.Detector; or what has `detect_image` alone, such as an export, which is asked one by one.
        pictures: yields (anything, [H, W, 3] uint8), of any sizes.
        batch: how many are detected at once.
        failed: (anything, ModelFailed) -> None, called for an image on which the model failed, which is then left
            out; the error is raised if None. The images of a batch that fails are detected one by one.
    Yields:
        (anything, image, its ImageResult), in the same order.
    """

    def detect_alone(name, image):
        try:
            with model_errors():
                return detector.detect_image(image)
        except ModelFailed as error:
            if failed is None:
                raise
            failed(name, error)
            return LEFT_OUT

    if batch == 1 or not hasattr(detector, "detect_images"):
        for name, image in pictures:
            result = detect_alone(name, image)
            if result is not LEFT_OUT:
                yield name, image, result
        return
    order, groups = deque(), {}

    def detect(shape):
        group = groups.pop(shape)
        try:
            with model_errors():
                results = detector.detect_images([waiting.image for waiting in group], batch)
        except ModelFailed:
            results = [detect_alone(waiting.name, waiting.image) for waiting in group]
        for waiting, result in zip(group, results, strict=True):
            waiting.result = result

    def pop():
        """The first that wait and have been detected, but for those left out."""
        while order and order[0].result is not None:
            answered = order.popleft()
            if answered.result is not LEFT_OUT:
                yield answered.name, answered.image, answered.result

    for name, image in pictures:
        waiting, shape = Waiting(name, image), detector.padded_shape(image)
        order.append(waiting)
        groups.setdefault(shape, []).append(waiting)
        if len(groups[shape]) == batch:
            detect(shape)
        elif len(order) == HELD * batch:
            detect(detector.padded_shape(order[0].image))
        yield from pop()
    for shape in list(groups):
        detect(shape)
    yield from pop()
