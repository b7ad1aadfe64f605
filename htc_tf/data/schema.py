"""Record schema: one image with its objects and semantic map as one tf.train.Example.

`pipelines.coco_to_tfrecord` writes records, `data.sample` parses them. Beam workers import this file: it loads
TensorFlow, but neither Keras nor gin.

The keys are TensorFlow Model Garden's (official/vision/data/create_coco_tf_record.py) except `image/object/id` and
`image/object/mask_rle`. `image/object/mask`, which only Model Garden's parser needs, is optional. An image without
objects keeps all keys, with empty lists.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from htc_tf.data.record import Image, Object, Record


class Field(NamedTuple):
    """One row of the schema: attribute, key in the Example, type and meaning."""

    name: str
    key: str
    dtype: tf.DType
    meaning: str


IMAGE_FIELDS = (
    Field("encoded", "image/encoded", tf.string, "the image file, JPEG or PNG, RGB or gray"),
    Field("format", "image/format", tf.string, "'jpeg' or 'png'"),
    Field("height", "image/height", tf.int64, "pixels of the decoded image"),
    Field("width", "image/width", tf.int64, "pixels of the decoded image"),
    Field("filename", "image/filename", tf.string, "COCO's file_name"),
    Field("source_id", "image/source_id", tf.string, "COCO's image id in decimal"),
    Field("sha256", "image/key/sha256", tf.string, "SHA-256 of image/encoded in hexadecimal"),
)
OBJECT_FIELDS = (
    Field("id", "image/object/id", tf.int64, "COCO's annotation id"),
    Field("ymin", "image/object/bbox/ymin", tf.float32, "top / height, clipped to 0 ... 1"),
    Field("xmin", "image/object/bbox/xmin", tf.float32, "left / width, clipped to 0 ... 1"),
    Field("ymax", "image/object/bbox/ymax", tf.float32, "bottom / height, clipped to 0 ... 1"),
    Field("xmax", "image/object/bbox/xmax", tf.float32, "right / width, clipped to 0 ... 1"),
    Field("label", "image/object/class/label", tf.int64, "COCO's category id, as in the annotation file"),
    Field("text", "image/object/class/text", tf.string, "the category's name"),
    Field("is_crowd", "image/object/is_crowd", tf.int64, "1 for a region of many objects, else 0"),
    Field("area", "image/object/area", tf.float32, "COCO's area, square pixels"),
    Field("mask_rle", "image/object/mask_rle", tf.string, "COCO compressed RLE at image size; '' without masks"),
)
# Optional and ignored by `parse`, which reads masks from their run lengths.
MASK_PNG = Field("mask_pngs", "image/object/mask", tf.string, "--masks png: PNG of the image's size, 1 inside, else 0")
SEMANTIC = Field("semantic", "image/segmentation/class/encoded", tf.string, "PNG, one byte per pixel; 255 is ignored")

LISTS = {tf.int64: "int64_list", tf.float32: "float_list", tf.string: "bytes_list"}
FEATURES = {
    **{field.key: tf.io.FixedLenFeature([], field.dtype) for field in IMAGE_FIELDS},
    **{field.key: tf.io.FixedLenSequenceFeature([], field.dtype, allow_missing=True) for field in OBJECT_FIELDS},
    SEMANTIC.key: tf.io.FixedLenFeature([], SEMANTIC.dtype, default_value=""),
}


def example(image: Image, objects: Sequence[Object], semantic: bytes = b"", mask_pngs: Sequence[bytes] = ()) -> bytes:
    """Serializes a record, to the same bytes every time.

    Args:
        image: Image; its sha256 is computed here.
        objects: Objects.
        semantic: PNG of the semantic map, or b"".
        mask_pngs: PNG of each object's mask, for Model Garden's parser, or empty.
    """
    image = image._replace(sha256=hashlib.sha256(image.encoded).hexdigest())
    record = tf.train.Example()
    features = record.features.feature
    for field in IMAGE_FIELDS:
        _fill(features, field, [getattr(image, field.name)])
    for field in OBJECT_FIELDS:
        _fill(features, field, [getattr(item, field.name) for item in objects])
    if semantic:
        _fill(features, SEMANTIC, [semantic])
    if mask_pngs:
        _fill(features, MASK_PNG, mask_pngs)
    return record.SerializeToString(deterministic=True)


def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses a serialized record of G objects in a tf.data graph, without decoding images.

    Args:
        serialized: [] string.
    Returns:
        encoded [] string; filename [] string; image_id [] int64; height, width [] int32, pixels;
        boxes [G, 4] float32 [y1, x1, y2, x2] in pixels of the original image; categories [G] int64, COCO's ids;
        is_crowd [G] bool; areas [G] float32, square pixels; ids [G] int64, COCO's annotation ids;
        mask_rle [G] string, '' for an object without a mask; semantic [] string, '' without a map.
    """
    features = tf.io.parse_single_example(serialized, FEATURES)
    # Boxes are stored relative to the image's size.
    image = {field.name: features[field.key] for field in IMAGE_FIELDS}
    objects = {field.name: features[field.key] for field in OBJECT_FIELDS}
    height, width = tf.cast(image["height"], tf.float32), tf.cast(image["width"], tf.float32)
    sides = (objects["ymin"] * height, objects["xmin"] * width, objects["ymax"] * height, objects["xmax"] * width)
    return {
        "encoded": image["encoded"],
        "filename": image["filename"],
        "image_id": tf.strings.to_number(image["source_id"], tf.int64),
        "height": tf.cast(image["height"], tf.int32),
        "width": tf.cast(image["width"], tf.int32),
        "boxes": tf.stack(sides, axis=-1),
        "categories": objects["label"],
        "is_crowd": objects["is_crowd"] > 0,
        "areas": objects["area"],
        "ids": objects["id"],
        "mask_rle": objects["mask_rle"],
        "semantic": features[SEMANTIC.key],
    }


def unpack(serialized: bytes) -> Record:
    """Parses a serialized record in Python: the inverse of `example`.

    Raises:
        google.protobuf.message.DecodeError: The bytes are not an Example.
        IndexError, ValueError: The Example does not have this schema.
    """
    features = tf.train.Example.FromString(serialized).features.feature
    # Their texts are bytes at first.
    image: Any = Image(*(_values(features, field)[0] for field in IMAGE_FIELDS))
    columns = [_values(features, field) for field in OBJECT_FIELDS]
    objects: Any = tuple(Object(*row) for row in zip(*columns, strict=True))
    semantic = features[SEMANTIC.key].bytes_list.value if SEMANTIC.key in features else ()
    return Record(
        image._replace(
            format=image.format.decode(),
            filename=image.filename.decode(),
            source_id=int(image.source_id),
            sha256=image.sha256.decode(),
        ),
        tuple(item._replace(text=item.text.decode()) for item in objects),
        semantic[0] if semantic else b"",
    )


def _fill(features, field, values):
    if field.dtype is tf.string:
        values = [value if isinstance(value, bytes) else str(value).encode() for value in values]
    values_of_kind = getattr(features[field.key], LISTS[field.dtype])
    values_of_kind.SetInParent()  # keeps the type of an empty list
    values_of_kind.value.extend(values)


def _values(features, field):
    return getattr(features[field.key], LISTS[field.dtype]).value
