"""Batched detection of a stream of images, returned in input order; an image on which the model fails can be skipped.

Images of one padded shape form a batch. Images that wait for others of their shape hold back the results of all later
ones, so the queue is limited to MAX_QUEUED batches.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from htc_tf.errors import ModelFailed, UserError, reason_of
from htc_tf.inference.results import ImageDetector, ImageResult

MAX_QUEUED = 4  # batches' worth of images in memory
FAILED = object()  # the result of an image on which the model failed


@contextlib.contextmanager
def model_errors() -> Iterator[None]:
    """Turns a TensorFlow error inside this context into a ModelFailed with a one-line message."""
    try:
        yield
    except tf.errors.OpError as error:
        raise ModelFailed(f"the model failed: {reason_of(error.message)}") from error


class QueuedImage:
    """An image in the queue. `result` is None until it has been detected."""

    def __init__(self, name: Any, image: np.ndarray) -> None:
        self.name, self.image, self.result = name, image, None


def detect_in_batches(
    detector: ImageDetector,
    images: Iterable[tuple[Any, np.ndarray]],
    batch: int = 1,
    failed: Callable[[Any, ModelFailed], None] | None = None,
    semantic: bool = False,
) -> Iterator[tuple[Any, np.ndarray, ImageResult]]:
    """Detects objects in a stream of images.

    A batch gives the same results as its images one by one, except for float32 rounding in the last digits.

    Args:
        detector: `inference.detector.Detector`, or an object with `detect_image` alone, such as an ExportedDetector,
            which processes one image at a time.
        images: Iterable of (name, [H, W, 3] uint8); the names are returned unchanged, and sizes may differ.
        batch: int, images per batch.
        failed: Function (name, ModelFailed) -> None, called for each image on which the model fails; the image is then
            left out. If None, the error is raised. The images of a failed batch are detected one by one.
        semantic: If True, the results have the semantic map too.
    Yields:
        (name, image, ImageResult), in input order.
    Raises:
        UserError: `batch` is not a whole number of at least 1.
    """
    if not isinstance(batch, (int, np.integer)) or batch < 1:
        raise UserError(f"batch={batch}: give a number of images, 1 or more")
    options = {"semantic": True} if semantic else {}

    def detect_one(name, image):
        try:
            with model_errors():
                return detector.detect_image(image, **options)
        except ModelFailed as error:
            if failed is None:
                raise
            failed(name, error)
            return FAILED

    if batch == 1 or not hasattr(detector, "detect_images"):
        for name, image in images:
            result = detect_one(name, image)
            if result is not FAILED:
                yield name, image, result
        return
    padded_shape = detector.padded_shape  # type: ignore[attr-defined]  # as a Detector has it
    queue, groups = deque(), {}  # all queued images in input order; those not yet detected, by padded shape

    def detect(shape):
        group = groups.pop(shape)
        try:
            with model_errors():
                results = detector.detect_images([queued.image for queued in group], batch, **options)
        except ModelFailed:
            results = [detect_one(queued.name, queued.image) for queued in group]
        for queued, result in zip(group, results, strict=True):
            queued.result = result

    def pop_finished():
        while queue and queue[0].result is not None:
            queued = queue.popleft()
            if queued.result is not FAILED:
                yield queued.name, queued.image, queued.result

    for name, image in images:
        queued, shape = QueuedImage(name, image), padded_shape(image)
        queue.append(queued)
        groups.setdefault(shape, []).append(queued)
        if len(groups[shape]) == batch:
            detect(shape)
        if len(queue) >= MAX_QUEUED * batch and queue[0].result is None:
            detect(padded_shape(queue[0].image))  # the first image holds back all others
        yield from pop_finished()
    for shape in list(groups):
        detect(shape)
    yield from pop_finished()
