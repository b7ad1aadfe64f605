"""Image results: detections in each image's own pixels, with masks as COCO run lengths, and COCO's results format.

The network's Detections are in pixels of the padded input, with masks as 28 x 28 probabilities inside their boxes.
Masks are pasted in threads while the device processes the next images.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from htc_tf.ops.paste import encode_masks

if TYPE_CHECKING:  # clients have no TensorFlow
    from htc_tf.structures import Batch, Detections

THREADS = 4


class ImageResult(NamedTuple):
    """The n objects detected in one image, best first, in its own pixels."""

    boxes: np.ndarray  # [n, 4] float32
    scores: np.ndarray  # [n] float32
    classes: np.ndarray  # [n] int32
    # n COCO run lengths {"size": [height, width], "counts": str}; None without mask heads
    masks: list[dict[str, Any]] | None
    labels: np.ndarray | None = None  # [H, W] uint8, the semantic map, if it was wanted
    track_ids: np.ndarray | None = None  # [n] int32, each object's number in its video, 0 without one; if tracked


class ImageDetector(Protocol):
    """What detects objects: `inference.detector.Detector`, `inference.exported.ExportedDetector`, or another."""

    def detect_image(self, image: np.ndarray, semantic: bool = False) -> ImageResult:
        """Returns the ImageResult of an image [H, W, 3] uint8, with the semantic map if it is wanted."""

    def label_map(self, image: np.ndarray) -> np.ndarray:
        """Returns the semantic branch's label of each pixel, [H, W] uint8, of an image [H, W, 3] uint8."""


def image_results(detections: Detections, sizes: np.ndarray, original_sizes: np.ndarray) -> list[ImageResult]:
    """Maps a batch of detections to the images before resizing.

    Args:
        detections: `structures.Detections` whose fields are NumPy arrays or convertible to them.
        sizes: [B, 2] float32, height and width of the resized images without padding.
        original_sizes: [B, 2] int, height and width before resizing.
    Returns:
        List of B ImageResults, with boxes clipped to the image. Invalid rows are left out.
    """
    boxes, scores, classes, valid = (np.asarray(field) for field in detections[:4])
    masks = None if detections.masks is None else np.asarray(detections.masks, np.float32)
    sizes, original_sizes = np.asarray(sizes, np.float32), np.asarray(original_sizes)
    results = []
    for row, (height, width) in enumerate(original_sizes.tolist()):
        keep = valid[row]
        # A row that fills up the last batch may have size 0.
        scale = np.maximum(sizes[row], 1) / np.maximum(original_sizes[row], 1).astype(np.float32)
        scaled = boxes[row][keep] / np.tile(scale, 2)
        limits = np.array([height, width, height, width], np.float32)
        # Masks are pasted into the unclipped boxes.
        runs = None if masks is None else encode_masks(masks[row][keep], scaled, height, width)
        results.append(ImageResult(np.clip(scaled, 0, limits), scores[row][keep], classes[row][keep], runs))
    return results


def stream_results(detected: Iterable[tuple[Batch, Detections]]) -> Iterator[tuple[Batch, list[ImageResult]]]:
    """Maps batches of detections to their images, in threads, while the next are being detected.

    Args:
        detected: Iterable of (`structures.Batch`, its `structures.Detections`).
    Yields:
        (Batch, list of ImageResults), in the same order. At most THREADS batches are queued.
    """
    with ThreadPoolExecutor(THREADS) as threads:
        waiting = deque()
        for batch, detections in detected:
            waiting.append((batch, threads.submit(image_results, detections, batch.sizes, batch.original_sizes)))
            if len(waiting) > THREADS:
                batch, results = waiting.popleft()
                yield batch, results.result()
        for batch, results in waiting:
            yield batch, results.result()


def coco_results(
    results: Iterable[ImageResult], image_ids: Iterable[int], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Converts results to COCO's results format.

    Args:
        results: ImageResult of each image.
        image_ids: Data set's id of each image; a negative id marks a row that fills up a batch and is left out.
        category_ids: Data set's category id of each class, by class index.
    Returns:
        List of dicts for JSON: image_id, category_id, bbox as [x, y, width, height] in pixels to three decimals, score,
        with masks segmentation, and for objects with a number in their video track_id.
    """
    entries = []
    for result, image_id in zip(results, image_ids, strict=True):
        if image_id < 0:
            continue
        y1, x1, y2, x2 = result.boxes.astype(np.float64).T
        xywh = np.round(np.stack([x1, y1, x2 - x1, y2 - y1], axis=1), 3).tolist()
        for index, (box, score, label) in enumerate(
            zip(xywh, result.scores.tolist(), result.classes.tolist(), strict=True)
        ):
            entry = {
                "image_id": int(image_id),
                "category_id": int(category_ids[label]),
                "bbox": box,
                "score": score,
            }
            if result.masks is not None:
                entry["segmentation"] = result.masks[index]
            if result.track_ids is not None and result.track_ids[index]:
                entry["track_id"] = int(result.track_ids[index])
            entries.append(entry)
    return entries
