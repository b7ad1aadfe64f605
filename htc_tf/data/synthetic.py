"""Synthetic images, boxes and records, as heavy as COCO's, for benchmarks that are given no data."""

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf.data import datasets, schema

# COCO's most frequent image sizes, in proportion; its images hold 7 objects and take 160 kB on average.
SIZES = ((480, 640), (480, 640), (427, 640), (640, 480))
OBJECTS = 7
CLASSES = 80
# The median scale (the root of the area) of a trained network's proposals, pixels of an image whose short side has 800.
MEDIAN_SCALE = 90.0


def draw_image(height: int, width: int, seed: int | np.random.Generator = 0) -> np.ndarray:
    """Returns [H, W, 3] uint8: smooth color patches of 16 pixels with fine noise on top."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (-(-height // 16), -(-width // 16), 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(smooth + generator.normal(0, 10, smooth.shape), 0, 255).astype(np.uint8)


def draw_boxes(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Returns [n, 4] float32 inside the image: log-normal scales and aspect ratios, uniform centers."""
    generator = np.random.default_rng(seed)
    median = MEDIAN_SCALE * min(height, width) / 800
    scale = np.exp(generator.normal(np.log(median), 0.9, (count, 1)))  # [n, 1]
    aspect = np.exp(generator.normal(0, 0.5, (count, 1)))
    sides = np.maximum(scale * np.concatenate([aspect**0.5, aspect**-0.5], axis=1), 4)  # [n, 2] height, width
    limits = np.array([height, width])
    # A box that leaves the image is moved inward; one that is larger than the image is cut.
    sides = np.minimum(sides, limits)
    start = np.clip(generator.uniform(0, limits, (count, 2)) - sides / 2, 0, limits - sides)
    return np.concatenate([start, start + sides], axis=1).astype(np.float32)


def write_records(
    folder: str | os.PathLike,
    images: int = 48,
    classes: int = CLASSES,
    objects: int = OBJECTS,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> None:
    """Writes a dataset of one shard into an existing folder, as `pipelines.coco_to_tfrecord` would.

    Args:
        folder: Path.
        images: Number of images.
        classes: K; the objects' classes are uniform. The semantic map has as many labels.
        objects: Objects per image.
        sizes: (height, width) pairs, in turn.
    """
    generator = np.random.default_rng(0)
    path = Path(folder) / "00000-of-00001.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(images):
            writer.write(draw_record(generator, number + 1, sizes[number % len(sizes)], classes, objects))
    content = path.read_bytes()
    info = datasets.DatasetInfo(
        folder=str(folder),
        categories=tuple(datasets.Category(number + 1, f"class {number + 1}") for number in range(classes)),
        stuff=datasets.Stuff(True, classes),
        masks=True,
        images=images,
        objects=images * objects,
        crowd=0,
        shards=(datasets.Shard(path.name, images, len(content), hashlib.sha256(content).hexdigest()),),
    )
    described = {**dataclasses.asdict(info), "version": datasets.VERSION}
    described.pop("folder")
    (Path(folder) / datasets.INFO_FILE).write_text(json.dumps(described))


def draw_record(
    generator: np.random.Generator, number: int, size: tuple[int, int], classes: int = CLASSES, objects: int = OBJECTS
) -> bytes:
    """Returns a serialized record: a JPEG with elliptic objects, their masks and a semantic map."""
    height, width = size
    ys, xs = np.mgrid[:height, :width]
    pixels = draw_image(height, width, generator).astype(np.int16)
    labels, drawn = np.zeros(size, np.uint8), []
    for index in range(objects):
        center = generator.uniform((0, 0), size)
        radii = np.exp(generator.uniform(np.log(8), np.log(160), 2))
        inside = ((ys - center[0]) / radii[0]) ** 2 + ((xs - center[1]) / radii[1]) ** 2 <= 1  # [H, W]
        category = int(generator.integers(classes)) + 1
        labels[inside] = category - 1
        pixels[inside] += generator.integers(-90, 90, 3).astype(np.int16)
        drawn.append(_describe(number * objects + index, inside, category))
    drawing = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    image = schema.Image(_encode(drawing, "jpeg", quality=93), "jpeg", height, width, f"{number}.jpg", number)
    return schema.example(image, drawn, _encode(Image.fromarray(labels), "png"))


def _describe(number, bitmap, category):
    rle = coco_mask.encode(np.asfortranarray(bitmap, np.uint8))
    left, top, width, height = coco_mask.toBbox(rle).tolist()
    sides = np.divide((top, left, top + height, left + width), np.tile(bitmap.shape, 2)).tolist()
    return schema.Object(number, *sides, category, f"class {category}", 0, float(bitmap.sum()), rle["counts"])


def _encode(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()
