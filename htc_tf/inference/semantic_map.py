"""What the semantic branch says of every pixel, and a picture of it.

Before: a model that has the branch (paper, section 3.2). After: `predict --semantic` and
`Predictor.semantic`.
"""

import numpy as np
import tensorflow as tf
from PIL import Image, ImageFilter

from htc_tf.data.coco_classes import STUFF_NAMES, THING_NAMES
from htc_tf.errors import UserError
from htc_tf.inference.exported import ExportedDetector
from htc_tf.visualization import fonts
from htc_tf.visualization.drawing import SMALLEST_LONG_SIDE
from htc_tf.visualization.labels import add_legend
from htc_tf.visualization.palette import palette

STRIDE = 8  # pixels of the network's input from one of the map's cells to the next
STRIP = 2**24  # logits that are enlarged at a time: 64 MiB
LEAST_SHARE = 0.002  # of the picture, that a label needs for a place in the legend
OPACITY = 0.55


def label_map(detector, image):
    """The most probable label of each pixel.

    Args:
        detector: inference.Detector, or the ExportedDetector of a model that was exported with --semantic.
        image: [H, W, 3] uint8 RGB.
    Returns:
        [H, W] uint8 labels 0 ... S-1.
    Raises:
        UserError: the model has no semantic branch, or was exported without.
    """
    if isinstance(detector, ExportedDetector):
        return detector.label_map(image)
    if detector.model.semantic_head is None:
        raise UserError("a semantic map wants a model that has the semantic branch (SEMANTIC = True)")
    images, sizes = detector.prepare(image)
    logits = detector.semantic_logits(images, sizes)
    return enlarge(logits[0], image.shape[:2], sizes[0] / tf.constant(image.shape[:2], tf.float32))


def enlarge(logits, shape, scale):
    """Logits at every eighth pixel of a resized image to the labels of the image itself, strip by strip.

    Args:
        logits: [h, w, S] float32; cell [i, j] belongs to the centre of pixel [8 i, 8 j] of the resized image.
        shape: height and width of the image, H and W.
        scale: [2] float32, the resized image's size by the image's.
    Returns:
        [H, W] uint8, the label whose logit, bilinear between the cells, is the highest.
    """
    height, width = shape
    # Beyond the last cell there may be half a stride of pixels.
    logits = tf.pad(logits, [[0, 1], [0, 1], [0, 0]], "SYMMETRIC")[tf.newaxis]
    labels = np.empty(shape, np.uint8)
    rows = max(1, STRIP // (width * logits.shape[-1]))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = tf.raw_ops.ScaleAndTranslate(
            images=logits,
            size=[bottom - top, width],
            scale=STRIDE / scale,
            # Cell 0 reaches from -3.5 to 4.5 pixels of the resized image.
            translation=(0.5 - STRIDE / 2) / scale - tf.constant([top, 0], tf.float32),
            kernel_type="triangle",
            antialias=False,
        )
        labels[top:bottom] = tf.argmax(strip[0], axis=-1, output_type=tf.int32).numpy()
    return labels


def label_names(categories, labels):
    """{label: (name, colour)} of the labels given: things as their masks are drawn, stuff in colours of its own.

    A thing whose name no font can write is shown by its category's id.
    A label is a category's id less 1, as in COCO's stuff-thing maps. Where the things are COCO's, the stuff is too.
    """
    stuff = STUFF_NAMES if all(THING_NAMES.get(category["id"]) == category["name"] for category in categories) else {}
    things = {category["id"] - 1: index for index, category in enumerate(categories)}
    colours = palette(len(things) + 1 + max((label for label in labels if label not in things), default=-1))
    named = {}
    for label in labels:
        if label in things:
            category = categories[things[label]]
            named[label] = fonts.class_name(category["name"], category["id"]), colours[things[label]]
        else:
            named[label] = stuff.get(label + 1, f"stuff {label}"), colours[len(things) + label]
    return named


def draw_labels(image, labels, categories):
    """The labels' colours on their picture, light lines between them, and a legend beneath.

    Args:
        image: [H, W, 3] uint8 RGB.
        labels: [H, W] uint8, as `label_map` gives them.
        categories: [{"id", "name"}, ...] of the things.
    Returns:
        [H', W', 3] uint8 RGB, as wide as the picture, or enlarged to 640 pixels along its longer side.
    """
    counts = np.bincount(labels.ravel(), minlength=256)
    present = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    named = label_names(categories, present)
    table = np.zeros((256, 3), np.uint8)
    for label, (_, colour) in named.items():
        table[label] = colour
    scale = max(1.0, SMALLEST_LONG_SIDE / max(labels.shape))
    size = (max(1, round(labels.shape[1] * scale)), max(1, round(labels.shape[0] * scale)))
    if scale > 1:
        labels = smoothly_enlarged(labels, present, size, scale)
    # Lines lie where the label changes; a little blur takes the stairs off.
    change = np.zeros(labels.shape, bool)
    change[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    change[1:] |= labels[1:] != labels[:-1]
    edges = Image.fromarray(np.where(change, np.uint8(255), np.uint8(0)))
    width = 2 * round(max(size) / 1280) + 1
    if width > 1:  # a filter of one pixel would divide by zero in Pillow
        edges = edges.filter(ImageFilter.MaxFilter(width))
    edges = edges.filter(ImageFilter.GaussianBlur(0.25 * width))
    colours = Image.fromarray(table[labels]).filter(ImageFilter.GaussianBlur(0.5))
    picture = Image.blend(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), colours, OPACITY)
    picture.paste((255, 255, 255), mask=edges)
    listed = [named[label] for label in present if counts[label] >= LEAST_SHARE * counts.sum()]
    return np.asarray(add_legend(picture, listed))


def smoothly_enlarged(labels, present, size, scale):
    """Labels at another size (width, height), with round borders in place of enlarged pixels."""
    best, enlarged = np.full((size[1], size[0]), -1.0), np.zeros((size[1], size[0]), np.uint8)
    for label in present:
        region = Image.fromarray(np.where(labels == label, np.uint8(255), np.uint8(0)))
        region = region.resize(size, Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(0.5 * scale))
        share = np.asarray(region, np.float32)
        enlarged[share > best] = label
        best = np.maximum(best, share)
    return enlarged
