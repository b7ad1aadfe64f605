"""Records for a benchmark that has none: noise with ellipses in it, as heavy as COCO's images.

Before it: a mode that reads records. After it: the same, as if `pipelines.coco_to_tfrecord` had written them.
"""

import dataclasses
import hashlib
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf.data import datasets, schema

# COCO's most frequent sizes, by their share; its images have 7 objects and 160 kB on average.
SIZES = ((480, 640), (480, 640), (427, 640), (640, 480))
OBJECTS = 7
CLASSES = 80


def write_records(folder, images=48, seed=0, classes=CLASSES, objects=OBJECTS):
    """Writes a data set of one shard into a folder that exists."""
    import tensorflow as tf

    generator = np.random.default_rng(seed)
    path = Path(folder) / "00000-of-00001.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(images):
            writer.write(draw_record(generator, number + 1, SIZES[number % len(SIZES)], classes, objects))
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


def draw_record(generator, number, size, classes=CLASSES, objects=OBJECTS):
    """One image with so many objects and its semantic map, serialised."""
    height, width = size
    ys, xs = np.mgrid[:height, :width]
    coarse = Image.fromarray(generator.integers(0, 256, (height // 16, width // 16, 3)).astype(np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels = pixels + generator.normal(0, 10, pixels.shape).astype(np.int16)
    labels, drawn = np.zeros(size, np.uint8), []
    for index in range(objects):
        centre = generator.uniform((0, 0), size)
        radii = np.exp(generator.uniform(np.log(8), np.log(160), 2))
        inside = ((ys - centre[0]) / radii[0]) ** 2 + ((xs - centre[1]) / radii[1]) ** 2 <= 1
        category = int(generator.integers(classes)) + 1
        labels[inside] = category - 1
        pixels[inside] += generator.integers(-90, 90, 3).astype(np.int16)
        drawn.append(_describe(number * objects + index, inside, category))
    pixels = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    image = schema.Image(_encode(pixels, "jpeg", quality=93), "jpeg", height, width, f"{number}.jpg", number)
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
