"""Detections become results in each image's own pixels, with masks as COCO run lengths.

Before: `models.htc` gives `Detections` in pixels of the padded input, masks as 28 x 28 probabilities inside their
boxes. After: `evaluation.evaluator` compares the results with the truth, `visualization.drawing` draws them, and
`predict` writes them in COCO's results format.

`ops.paste` does the masks; here they are done in threads, while the device is busy with the next images.
"""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from htc_tf.ops.paste import encode_masks

THREADS = 4


class ImageResult(NamedTuple):
    """What was found in one image, best first, in its own pixels."""

    boxes: np.ndarray  # [n, 4] float32
    scores: np.ndarray  # [n] float32
    classes: np.ndarray  # [n] int32
    masks: list | None  # n COCO run-length dicts {"size": [height, width], "counts": str}; None without a mask branch


def image_results(detections, sizes, original_sizes):
    """Takes a batch of detections back to the images before resizing.

    Args:
        detections: `structures.Detections` whose fields are NumPy arrays (or anything that NumPy reads).
        sizes: [B, 2] height and width of the resized images inside their padding.
        original_sizes: [B, 2] height and width before resizing.

    Returns:
        A list of B `ImageResult`, boxes clipped to the image. Rows that are not valid are left out.
    """
    boxes, scores, classes, valid = (np.asarray(field) for field in detections[:4])
    masks = None if detections.masks is None else np.asarray(detections.masks, np.float32)
    sizes, original_sizes = np.asarray(sizes, np.float32), np.asarray(original_sizes)
    results = []
    for row, (height, width) in enumerate(original_sizes.tolist()):
        keep = valid[row]
        # A row that only fills up the last batch may have no size at all.
        scale = np.maximum(sizes[row], 1) / np.maximum(original_sizes[row], 1).astype(np.float32)
        scaled = boxes[row][keep] / np.tile(scale, 2)
        limits = np.array([height, width, height, width], np.float32)
        runs = None
        if masks is not None:
            runs = encode_masks(masks[row][keep], scaled, height, width)
        results.append(ImageResult(np.clip(scaled, 0, limits), scores[row][keep], classes[row][keep], runs))
    return results


def stream_results(detected):
    """Takes batches of detections back to their images, in threads, while the next are being detected.

    Args:
        detected: yields (`structures.Batch`, its `structures.Detections`).

    Yields:
        (Batch, [ImageResult]), in the same order. No more batches than there are threads wait for their turn.
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


def coco_results(results, image_ids, category_ids):
    """Writes results as COCO's results format wants them.

    Args:
        results: `ImageResult` per image.
        image_ids: the data set's id per image; a negative one marks a row that only fills up a batch and is left out.
        category_ids: the data set's category id of each class, in the model's order of classes.

    Returns:
        A list of dicts that json can write: image_id, category_id, bbox as [x, y, width, height] in pixels to three
        decimals, score, and segmentation where there are masks.
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
            entries.append(entry)
    return entries


def encode_pasted(mask, box, height, width):
    """One mask [M, M], resized into its box and cut at 0.5, as COCO run lengths of the whole image."""
    return encode_masks(mask[np.newaxis], np.asarray(box)[np.newaxis], height, width)[0]
