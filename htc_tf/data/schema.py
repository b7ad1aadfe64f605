"""The record: one image with its objects and its semantic map, as one tf.train.Example.

Before it: `pipelines.coco_to_tfrecord` fills it. After it: `data.input` parses it, in graph. This is the only
file that the pipelines share with training, and a Beam worker imports it: TensorFlow, but no Keras and no gin.

The keys are TensorFlow Model Garden's where it has one (official/vision/data/create_coco_tf_record.py);
`image/object/id` and `image/object/mask_rle` are ours; `image/object/mask`, which only Model Garden's own parser needs,
is written where it was asked for. An image without objects keeps its keys, with empty lists.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf


class Field(NamedTuple):
    """One row of the table: the attribute that holds the value, its key in the Example, its type and meaning."""

    name: str
    key: str
    dtype: tf.DType
    meaning: str


class Image(NamedTuple):
    """What a record says of its image, in the order of `IMAGE_FIELDS`."""

    encoded: bytes
    format: str
    height: int
    width: int
    filename: str
    source_id: int
    sha256: str = ""


class Object(NamedTuple):
    """What a record says of one object, in the order of `OBJECT_FIELDS`."""

    id: int
    ymin: float
    xmin: float
    ymax: float
    xmax: float
    label: int
    text: str
    is_crowd: int
    area: float
    mask_rle: bytes = b""


class Record(NamedTuple):
    """A record as Python values."""

    image: Image
    objects: tuple[Object, ...]
    semantic: bytes = b""


IMAGE_FIELDS = (
    Field("encoded", "image/encoded", tf.string, "the image file, JPEG or PNG, 8-bit RGB or grey"),
    Field("format", "image/format", tf.string, "'jpeg' or 'png'"),
    Field("height", "image/height", tf.int64, "pixels, of the decoded image"),
    Field("width", "image/width", tf.int64, "pixels, of the decoded image"),
    Field("filename", "image/filename", tf.string, "COCO's file_name"),
    Field("source_id", "image/source_id", tf.string, "COCO's image id, in decimal"),
    Field("sha256", "image/key/sha256", tf.string, "of image/encoded, in hexadecimal"),
)
OBJECT_FIELDS = (
    Field("id", "image/object/id", tf.int64, "COCO's annotation id"),
    Field("ymin", "image/object/bbox/ymin", tf.float32, "top / height, clipped to 0 ... 1"),
    Field("xmin", "image/object/bbox/xmin", tf.float32, "left / width, clipped to 0 ... 1"),
    Field("ymax", "image/object/bbox/ymax", tf.float32, "bottom / height, clipped to 0 ... 1"),
    Field("xmax", "image/object/bbox/xmax", tf.float32, "right / width, clipped to 0 ... 1"),
    Field("label", "image/object/class/label", tf.int64, "COCO's category id, as the annotation file has it"),
    Field("text", "image/object/class/text", tf.string, "the category's name"),
    Field("is_crowd", "image/object/is_crowd", tf.int64, "1: a region of many objects, else 0"),
    Field("area", "image/object/area", tf.float32, "COCO's area of the object, square pixels"),
    Field("mask_rle", "image/object/mask_rle", tf.string, "COCO compressed RLE at image size; '' without masks"),
)
# Optional; `parse` leaves it alone: masks are read from their run lengths.
MASK_PNG = Field("mask_pngs", "image/object/mask", tf.string, "--masks png: PNG of the image's size, 1 inside, else 0")
SEMANTIC = Field("semantic", "image/segmentation/class/encoded", tf.string, "PNG, one byte a pixel; 255 is ignored")

LISTS = {tf.int64: "int64_list", tf.float32: "float_list", tf.string: "bytes_list"}
FEATURES = {
    **{field.key: tf.io.FixedLenFeature([], field.dtype) for field in IMAGE_FIELDS},
    **{field.key: tf.io.FixedLenSequenceFeature([], field.dtype, allow_missing=True) for field in OBJECT_FIELDS},
    SEMANTIC.key: tf.io.FixedLenFeature([], SEMANTIC.dtype, default_value=""),
}


def example(image: Image, objects: Sequence[Object], semantic: bytes = b"", mask_pngs: Sequence[bytes] = ()) -> bytes:
    """One record, serialised to the same bytes every time. `image.sha256` is filled in here.

    Args:
      semantic: the stuff map; b"" for none.
      mask_pngs: the objects' masks for Model Garden's parser, in the objects' order; empty for none.
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
    """The tensors of one serialised record of G objects, for use in a tf.data graph. Nothing is decoded yet.

    Args:
      serialized: [] string.

    Returns:
      encoded [] string; filename [] string; image_id [] int64; height, width [] int32, pixels;
      boxes [G, 4] float32 [y1, x1, y2, x2] in pixels of the original image; categories [G] int64, COCO's ids;
      is_crowd [G] bool; areas [G] float32, square pixels; ids [G] int64, COCO's annotation ids;
      mask_rle [G] string, each '' where the data has no masks; semantic [] string, '' where there is no map.
    """
    features = tf.io.parse_single_example(serialized, FEATURES)
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
    """`example`'s inverse, in Python, for what walks a data set outside of TensorFlow's graph.

    Raises:
      google.protobuf.message.DecodeError: the bytes are no Example.
      IndexError: the Example is not of this schema.
    """
    features = tf.train.Example.FromString(serialized).features.feature
    image = Image(*(_values(features, field)[0] for field in IMAGE_FIELDS))
    columns = [_values(features, field) for field in OBJECT_FIELDS]
    objects = tuple(Object(*row) for row in zip(*columns, strict=True))
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
    values_of_kind.SetInParent()  # An empty list is one still: no key may lack its type.
    values_of_kind.value.extend(values)


def _values(features, field):
    return getattr(features[field.key], LISTS[field.dtype]).value
