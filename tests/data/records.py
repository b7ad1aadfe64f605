"""Small datasets for tests: records of drawn images and rectangles, written as `pipelines.coco_to_tfrecord` would."""

import hashlib
import io
import json

import numpy as np
import tensorflow as tf
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf.data import input, schema

CATEGORIES = {3: "cup", 90: "brush"}


def encode_image(pixels, format="png"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def rectangle(number, y1, x1, y2, x2, label, size, crowd=0):
    """Returns a rectangular object of an image of size (height, width)."""
    height, width = size
    bitmap = np.zeros(size, np.uint8, order="F")
    bitmap[y1:y2, x1:x2] = 1
    sides = (y1 / height, x1 / width, y2 / height, x2 / width)
    rle = coco_mask.encode(bitmap)["counts"]
    return schema.Object(number, *sides, label, CATEGORIES.get(label, "?"), crowd, float(bitmap.sum()), rle)


def record(image_id, size, objects=(), pixels=None, encoded=None, semantic=b"", format="png"):
    if encoded is None:
        generator = np.random.default_rng(image_id)
        pixels = generator.integers(0, 256, (*size, 3)).astype(np.uint8) if pixels is None else pixels
        encoded = encode_image(pixels, format)
    image = schema.Image(encoded, format, *size, f"photos/{image_id}.{format}", image_id)
    return schema.example(image, objects, semantic)


def write_dataset(folder, records, shards=1, crowd=0, stuff=True):
    """Writes a dataset of these records, distributed round-robin over the shards, and returns its folder."""
    folder.mkdir(exist_ok=True)
    listed = []
    for number in range(shards):
        path = folder / f"{number:05d}-of-{shards:05d}.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for serialized in records[number::shards]:
                writer.write(serialized)
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        count = len(records[number::shards])
        listed.append({"file": path.name, "records": count, "bytes": len(content), "sha256": digest})
    info = {
        "version": 1,
        "categories": [{"id": number, "name": name} for number, name in CATEGORIES.items()],
        "stuff": {"present": stuff, "labels": 12},
        **{"masks": True, "images": len(records), "objects": 0, "crowd": crowd, "shards": listed},
        **{"counters": {}, "options": {}, "inputs": {}},
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return str(folder)


def make(**kwargs):
    """Returns an Input of small images; keyword arguments override its settings."""
    settings = {"batch_size": 2, "min_side": 48, "max_side": 64, "max_objects": 4, "mask_size": 16}
    return input.Input(**{**settings, **kwargs})
