"""Semantic maps: labels of all pixels from the semantic branch's logits (paper, section 3.2), and their drawing."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image, ImageFilter

from htc_tf.data.coco_classes import STUFF_NAMES, THING_NAMES
from htc_tf.structures import SEMANTIC_STRIDE
from htc_tf.visualization import fonts
from htc_tf.visualization.drawing import SMALLEST_LONG_SIDE
from htc_tf.visualization.labels import add_legend
from htc_tf.visualization.palette import palette

STRIP = 2**24  # logits that are enlarged at a time: 64 MiB
MIN_LEGEND_SHARE = 0.002  # share of the image from which a label is in the legend
OPACITY = 0.55  # of the labels' colors


def enlarge(logits: tf.Tensor, shape: Sequence[int], scale: tf.Tensor) -> np.ndarray:
    """Returns the labels of an image from logits at every eighth pixel of the resized image, strip by strip.

    Args:
        logits: [h, w, S] float32; cell [i, j] has its center at that of pixel [8 i, 8 j] of the resized image.
        shape: (H, W), the image's size.
        scale: [2] float32, the resized image's height and width divided by the image's.
    Returns:
        [H, W] uint8, the label with the largest logit, bilinear between the cells.
    """
    height, width = shape
    logits, rows = repeat_border(logits), int(rows_in_strip(width, logits))
    labels = np.empty(shape, np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        labels[top:bottom] = enlarge_strip(logits, top, bottom, width, scale).numpy()
    return labels


def repeat_border(logits: tf.Tensor) -> tf.Tensor:
    """Returns [h + 1, w + 1, S], since up to half a stride of pixels lies beyond the last cell's center."""
    return tf.pad(logits, [[0, 1], [0, 1], [0, 0]], "SYMMETRIC")


def rows_in_strip(width: int | tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the number of pixel rows, [] int32, whose enlarged logits are at most `STRIP` numbers; at least 1."""
    return tf.maximum(STRIP // (width * logits.shape[-1]), 1)


def enlarge_strip(
    logits: tf.Tensor, top: int | tf.Tensor, bottom: int | tf.Tensor, width: int | tf.Tensor, scale: tf.Tensor
) -> tf.Tensor:
    """Returns the labels of some rows of an image, [bottom - top, width] uint8.

    Args:
        logits: [h + 1, w + 1, S] float32, of `repeat_border`.
        top, bottom: First row, and the row after the last one.
        width: Width of the image.
        scale: [2] float32, the resized image's height and width divided by the image's.
    """
    strip = tf.raw_ops.ScaleAndTranslate(
        images=logits[tf.newaxis],
        size=tf.stack([bottom - top, width]),
        scale=SEMANTIC_STRIDE / scale,
        # Cell 0 covers pixels -3.5 to 4.5 of the resized image.
        translation=(0.5 - SEMANTIC_STRIDE / 2) / scale - tf.cast(tf.stack([top, 0]), tf.float32),
        kernel_type="triangle",
        antialias=False,
    )  # [1, bottom - top, width, S]
    return tf.cast(tf.argmax(strip[0], axis=-1, output_type=tf.int32), tf.uint8)


def label_names(
    categories: Sequence[dict[str, Any]], labels: Iterable[int]
) -> dict[int, tuple[str, tuple[int, int, int]]]:
    """Returns {label: (name, color)} of the given labels: things in their masks' colors, stuff in further colors.

    A label is a category's id minus 1, as in COCO's stuff-thing maps. If the things are COCO's, the stuff is too. A
    thing whose name no font can draw is shown by its category's id.
    """
    stuff = STUFF_NAMES if all(THING_NAMES.get(category["id"]) == category["name"] for category in categories) else {}
    things = {category["id"] - 1: index for index, category in enumerate(categories)}
    colors = palette(len(things) + 1 + max((label for label in labels if label not in things), default=-1))
    named = {}
    for label in labels:
        if label in things:
            category = categories[things[label]]
            named[label] = fonts.class_name(category["name"], category["id"]), colors[things[label]]
        else:
            named[label] = stuff.get(label + 1, f"stuff {label}"), colors[len(things) + label]
    return named


def draw_labels(image: np.ndarray, labels: np.ndarray, categories: Sequence[dict[str, Any]]) -> np.ndarray:
    """Draws a semantic map: the labels' colors over the image, light lines between them, and a legend below.

    Args:
        image: [H, W, 3] uint8 RGB.
        labels: [H, W] uint8, as `enlarge` returns them.
        categories: Dicts {"id", "name"} of the things.
    Returns:
        [H', W', 3] uint8 RGB, as wide as the image, or enlarged to 640 pixels along its longer side.
    """
    counts = np.bincount(labels.ravel(), minlength=256)
    present = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    named = label_names(categories, present)
    table = np.zeros((256, 3), np.uint8)
    for label, (_, color) in named.items():
        table[label] = color
    scale = max(1.0, SMALLEST_LONG_SIDE / max(labels.shape))
    size = (max(1, round(labels.shape[1] * scale)), max(1, round(labels.shape[0] * scale)))
    if scale > 1:
        labels = enlarge_smoothly(labels, present, size, scale)
    # Lines lie where the label changes; a slight blur smooths their stairs.
    change = np.zeros(labels.shape, bool)
    change[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    change[1:] |= labels[1:] != labels[:-1]
    edges = Image.fromarray(np.where(change, np.uint8(255), np.uint8(0)))
    width = 2 * round(max(size) / 1280) + 1
    if width > 1:  # a filter of one pixel divides by zero in Pillow
        edges = edges.filter(ImageFilter.MaxFilter(width))
    edges = edges.filter(ImageFilter.GaussianBlur(0.25 * width))
    colors = Image.fromarray(table[labels]).filter(ImageFilter.GaussianBlur(0.5))
    canvas = Image.blend(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), colors, OPACITY)
    canvas.paste((255, 255, 255), mask=edges)
    listed = [named[label] for label in present if counts[label] >= MIN_LEGEND_SHARE * counts.sum()]
    return np.asarray(add_legend(canvas, listed))


def enlarge_smoothly(labels: np.ndarray, present: Sequence[int], size: tuple[int, int], scale: float) -> np.ndarray:
    """Returns labels [H, W] resized to `size` (width, height), with smooth borders instead of enlarged pixels."""
    best, enlarged = np.full((size[1], size[0]), -1.0), np.zeros((size[1], size[0]), np.uint8)
    for label in present:
        region = Image.fromarray(np.where(labels == label, np.uint8(255), np.uint8(0)))
        region = region.resize(size, Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(0.5 * scale))
        share = np.asarray(region, np.float32)
        enlarged[share > best] = label
        best = np.maximum(best, share)
    return enlarged
