"""Mode `masks`: what it costs to paste the masks of an image and to encode them, equal bit for bit to the plain way.

Before it: `htc_tf.benchmark`; --batch is the number of masks. The plain way draws each pixel inside each box, lays the
result into an image of zeros, and has pycocotools encode it. The limit that it is held against is that of reading the
masks.
"""

import time

import numpy as np
from pycocotools import mask as coco_mask

from htc_tf.benchmarks.machine import Share, copy_rate
from htc_tf.benchmarks.measure import measure
from htc_tf.errors import UserError
from htc_tf.ops.paste import encode_masks, paste_columns


def run(work):
    """Work -> Measurement, of one image with all its masks."""
    masks, boxes = draw_objects(work.batch, work.height, work.width)
    large = np.tile(np.float32([0, 0, work.height, work.width]), (work.batch, 1))
    image = (work.height, work.width)
    before = time.process_time()
    plain = [encode_plainly(mask, box, *image) for mask, box in zip(masks, boxes, strict=True)]
    plain_seconds = time.process_time() - before
    before = time.process_time()
    encode_masks(masks, large, *image)
    large_seconds = time.process_time() - before
    if encode_masks(masks, boxes, *image) != plain:
        raise UserError("the run lengths are not those of the plain way: run tests/engine/evaluation/test_paste.py")
    details = {
        "masks": f"{work.batch}, their boxes of all sizes",
        "plain way": f"{1e3 * plain_seconds:.0f} ms, the same run lengths to the bit",
        "large masks": f"{1e3 * large_seconds:.0f} ms where each is as large as the image",
    }
    found = measure(lambda: encode_masks(masks, boxes, *image), "image", 1, work.repeats, warmup=2, details=details)
    limit = Share("B", masks.nbytes + boxes.nbytes, copy_rate(), found.cpu_seconds["median"])
    return found._replace(details={**details, "share of the limit": limit})


def draw_objects(count, height, width):
    """Masks [n, 28, 28] of ragged blobs, and boxes [n, 4] of all sizes, some of which reach beyond the image."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:28, :28] - 13.5
    logits = 6 * (1 - np.hypot(y, x) / draw.uniform(8, 20, (count, 1, 1))) + draw.normal(0, 1, (count, 28, 28))
    centres = draw.uniform(0, [height, width], (count, 2))
    halves = np.exp(draw.uniform(0, np.log(min(height, width)), (count, 2))) / 2
    boxes = np.concatenate([centres - halves, centres + halves], axis=1)
    return (1 / (1 + np.exp(-logits))).astype(np.float32), boxes.astype(np.float32)


def encode_plainly(mask, box, height, width):
    image = np.zeros((height, width), np.uint8, order="F")
    columns, top, left = paste_columns(mask, box, height, width)
    image[top : top + columns.shape[1], left : left + columns.shape[0]] = columns.T
    runs = coco_mask.encode(image)
    return {"size": list(runs["size"]), "counts": runs["counts"].decode()}
