"""Dataset browser: filters the images of a dataset, and returns each one with its ground truth and augmentations.

Images are sent as stored in the records; only thumbnails and augmented images are encoded here, on every request.
"""

import io
import os
import re
import threading
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image

from htc_tf.data import image_io, schema
from htc_tf.data.datasets import coco_annotation
from htc_tf.ops.rle_decoding import is_valid_rle
from htc_tf.web.demo import add_colors
from htc_tf.web.record_index import SIZES
from htc_tf.web.server import HTTPError, Reply

THUMBNAIL = 440  # pixels of the longer side
JPEG_QUALITY = 82
MAX_PAGE = 500  # images
MAX_SIDE = 1 << 20  # pixels of an image whose ground truth is shown
MAX_MASK_PIXELS = 1 << 28  # of a mask that a page draws
SIGNATURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


class DatasetBrowser:
    """The routes of the dataset browser's page. The position of an image is its record's place in the dataset."""

    def __init__(self, index, augmenter=None):
        """Initializes the browser.

        Args:
            index: A RecordIndex, started by the caller.
            augmenter: An Augmenter, or None without a configuration.
        """
        self.index, self.info, self.augmenter = index, index.info, augmenter
        self.decoding = threading.Lock()  # one image at a time: a page asks for many, and each may be large
        self.routes = {
            ("GET", "/api/dataset"): self.describe,
            ("GET", "/api/images"): self.find,
            ("GET", r"/api/images/(\d{1,9})"): self.ground_truth,
            ("GET", r"/api/images/(\d{1,9})/file"): self.file,
            ("GET", r"/api/images/(\d{1,9})/thumbnail"): self.thumbnail,
            ("GET", r"/api/images/(\d{1,9})/augmented/(\d{1,9})"): self.augmented,
        }

    def describe(self, request):
        """Returns the dataset's statistics, its classes with their colors, and the progress of the index."""
        categories = [{"id": category.id, "name": category.name} for category in self.info.categories]
        counts = self.index.count_classes().tolist()
        return {
            "name": " / ".join(Path(os.path.abspath(self.info.folder)).parts[-2:]),
            "images": self.info.images,
            "objects": self.info.objects,
            "crowd": self.info.crowd,
            "masks": self.info.masks,
            "classes": [dict(item, objects=count) for item, count in zip(add_colors(categories), counts, strict=True)],
            "sizes": SIZES,
            "indexed": len(self.index.known().offsets),
            "done": self.index.done,
            "problem": self.index.problem,
            "augmentations": self.augmenter.names if self.augmenter else None,
        }

    def find(self, request):
        """Returns {"total", "positions"} of the images that match a query.

        The query is ?class=CATEGORY_ID|none &size=NAME &id=IMAGE_ID &from=0 &count=48, with integers from 0 to
        2**63 - 1.
        """
        query = request.query
        label, size = query.get("class", ""), query.get("size", "")
        if label not in ("", "none") and label not in map(str, self.info.category_ids):
            raise HTTPError(f"class {label[:40]}: the dataset has no such category id")
        if size and size not in SIZES:
            raise HTTPError(f"size {size[:40]}: give one of {', '.join(SIZES)}")
        positions = self.index.find(
            label=None if label in ("", "none") else self.info.category_ids.index(int(label)),
            size=SIZES.index(size) if size else None,
            image_id=parse_integer(query, "id"),
            without_objects=label == "none",
        )
        first, count = parse_integer(query, "from") or 0, parse_integer(query, "count") or 48
        return {"total": len(positions), "positions": positions[first : first + min(count, MAX_PAGE)].tolist()}

    def ground_truth(self, request, position):
        """Returns an image's id, file name and size, and its objects as COCO annotations with their `size`."""
        image, objects, _ = self.unpack(position)
        known = self.index.known()
        sizes = known.sizes[known.owners == int(position)].tolist()
        if not (min(image.height, image.width) > 0 and max(image.height, image.width) <= MAX_SIDE):
            raise damaged(position, f"an image of {image.width} x {image.height} pixels")
        if len(objects) != len(sizes):
            raise damaged(position, f"{len(objects)} objects, not {len(sizes)}")
        annotations = []
        for item, size in zip(objects, sizes, strict=True):
            mask = {"size": [image.height, image.width], "counts": item.mask_rle}
            valid = image.height * image.width <= MAX_MASK_PIXELS and is_valid_rle(mask, *mask["size"])
            if item.mask_rle and not valid:
                raise damaged(position, f"object {item.id} has a mask of another size than its image")
            annotation = coco_annotation(image, item)
            if not np.isfinite([*annotation["bbox"], item.area]).all():
                raise damaged(position, f"object {item.id} has a box or an area that is not finite")
            annotation["bbox"] = [round(side, 2) for side in annotation["bbox"]]
            annotation |= {"area": round(item.area, 1), "size": SIZES[size]}
            annotations.append(annotation)
        return {
            "position": int(position),
            "id": image.source_id,
            "file_name": image.filename,
            "width": image.width,
            "height": image.height,
            "objects": annotations,
        }

    def file(self, request, position):
        """Returns the image file as stored; its MIME type is determined by its first bytes, not by `image/format`.

        A browser would rotate a file with an EXIF orientation, which records ignore: such an image is sent as PNG.
        """
        stored = self.unpack(position).image
        encoded = stored.encoded
        mime_type = next((kind for start, kind in SIGNATURES.items() if encoded.startswith(start)), None)
        if mime_type is None:
            raise damaged(position, "its image is neither JPEG nor PNG")
        image = open_stored(stored)
        if image_io.orientation(image) == 1:
            return Reply(encoded, mime_type)
        with self.decoding:
            return Reply(encode(image, stored, "PNG"), "image/png")

    def thumbnail(self, request, position):
        """Returns a small JPEG of an image."""
        stored = self.unpack(position).image
        image = open_stored(stored)
        image.draft("RGB", (THUMBNAIL, THUMBNAIL))  # a JPEG is decoded at 1/2, 1/4 or 1/8 of its size
        with self.decoding:
            return Reply(encode(image, stored, "JPEG", THUMBNAIL, quality=JPEG_QUALITY), "image/jpeg")

    def augmented(self, request, position, number):
        """Returns {"image", "width", "height", "objects"} of an image augmented with the seed `number`.

        Copy-paste takes objects from another image, whose choice depends on how many are indexed.
        """
        if self.augmenter is None:
            raise HTTPError("augmentations need a configuration: start the browser with --gin_file")
        open_stored(self.unpack(position).image)  # refuses an image that is too large to decode, or not indexed
        source = (int(position) + 1 + int(number)) % len(self.index.known().offsets)
        open_stored(self.unpack(source).image)
        return self.augmenter.draw(self.index.read(int(position)), self.index.read(source), int(number))

    def unpack(self, position):
        try:
            return schema.unpack(self.index.read(int(position))[1])
        except (DecodeError, IndexError, ValueError) as error:
            raise damaged(position, error) from None


def damaged(position, reason):
    return HTTPError(f"record {position} is damaged: {reason}; prepare the data again")


def parse_integer(query, name):
    """Returns an int from 0 to 2**63 - 1, or None if the query does not have it."""
    text = query.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) >= 2**63:
        raise HTTPError(f"{name} {text[:40]}: give an integer from 0 to 2**63 - 1")
    return int(text)


def open_stored(stored):
    """Opens a record's image: reads its header and checks the limits, because records may come from anyone."""
    try:
        return image_io.open_image(stored.encoded)
    except image_io.ImageError as error:
        raise undecodable(stored, error) from None


def encode(image, stored, form, longest=None, **options):
    """Encodes an open image without EXIF rotation, its longer side at most `longest` pixels."""
    try:
        image = Image.fromarray(image_io.to_rgb(image, upright=False))
    except image_io.ImageError as error:
        raise undecodable(stored, error) from None
    if longest:
        image.thumbnail((longest, longest))
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def undecodable(stored, error):
    return HTTPError(f"{stored.filename} does not decode: {error}; prepare the data again")
