"""Record as Python values: an image with its objects. Loads no TensorFlow; `data.schema` serializes it."""

from typing import NamedTuple


class Image(NamedTuple):
    """The image of a record, in the order of `schema.IMAGE_FIELDS`."""

    encoded: bytes
    format: str
    height: int
    width: int
    filename: str
    source_id: int
    sha256: str = ""


class Object(NamedTuple):
    """One object of a record, in the order of `schema.OBJECT_FIELDS`."""

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
