"""The data set's side of the server: which images fit a filter, each one's picture and truth, and what training makes
of it.

Before: `htc_tf.browse`. After: `pages/album.js` draws. Pictures leave as they lie in the records; only thumbnails and
augmented ones are encoded here, for each request anew.
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
from htc_tf.web.demo import coloured
from htc_tf.web.record_index import SIZES
from htc_tf.web.server import Refusal, Reply

THUMBNAIL = 440  # pixels along the longer side
JPEG_QUALITY = 82
LARGEST_PAGE = 500  # images
LARGEST_SIDE = 1 << 20  # pixels of an image whose truth is shown
LARGEST_MASK = 1 << 28  # pixels
SIGNATURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


class Album:
    """A data set behind a web page."""

    def __init__(self, index, augmenter=None):
        """
        Args:
            index: a RecordIndex; its `start` is the caller's.
            augmenter: an Augmenter, or None where no configuration was given.
        """
        self.index, self.info, self.augmenter = index, index.info, augmenter
        self.decoding = threading.Lock()  # one image at a time: a page asks for many, and each may be large
        self.routes = {
            ("GET", "/api/dataset"): self.describe,
            ("GET", "/api/images"): self.find,
            ("GET", r"/api/images/(\d{1,9})"): self.truth,
            ("GET", r"/api/images/(\d{1,9})/picture"): self.picture,
            ("GET", r"/api/images/(\d{1,9})/thumbnail"): self.thumbnail,
            ("GET", r"/api/images/(\d{1,9})/augmented/(\d{1,9})"): self.augmented,
        }

    def describe(self, request):
        """-> the data set in numbers, its classes with their colours, and how far the index is."""
        categories = [{"id": category.id, "name": category.name} for category in self.info.categories]
        counts = self.index.count_classes().tolist()
        return {
            "name": " / ".join(Path(os.path.abspath(self.info.folder)).parts[-2:]),
            "images": self.info.images,
            "objects": self.info.objects,
            "crowd": self.info.crowd,
            "masks": self.info.masks,
            "classes": [dict(one, objects=count) for one, count in zip(coloured(categories), counts, strict=True)],
            "sizes": SIZES,
            "indexed": len(self.index.known().offsets),
            "done": self.index.done,
            "problem": self.index.problem,
            "augmentations": self.augmenter.names if self.augmenter else None,
        }

    def find(self, request):
        """?class=CATEGORY_ID|none &size=NAME &id=IMAGE_ID &from=0 &count=48 -> {"total", "places"} in the index.

        Numbers are whole, from 0 to 2**63 - 1.
        """
        query = request.query
        label, size = query.get("class", ""), query.get("size", "")
        if label not in ("", "none") and label not in map(str, self.info.category_ids):
            raise Refusal(f"class {label[:40]}: the data set has no such category id")
        if size and size not in SIZES:
            raise Refusal(f"size {size[:40]}: give one of {', '.join(SIZES)}")
        found = self.index.find(
            label=None if label in ("", "none") else self.info.category_ids.index(int(label)),
            size=SIZES.index(size) if size else None,
            image_id=whole_number(query, "id"),
            without_objects=label == "none",
        )
        first, count = whole_number(query, "from") or 0, whole_number(query, "count") or 48
        return {"total": len(found), "places": found[first : first + min(count, LARGEST_PAGE)].tolist()}

    def truth(self, request, place):
        """-> an image's id, file name, size in pixels, and its objects as COCO annotations with their `size`."""
        image, objects, _ = self.unpack(place)
        known = self.index.known()
        sizes = known.sizes[known.owners == int(place)].tolist()
        if not (min(image.height, image.width) > 0 and max(image.height, image.width) <= LARGEST_SIDE):
            raise damaged(place, f"no image has {image.width} x {image.height} pixels")
        if len(objects) != len(sizes):
            raise damaged(place, f"{len(objects)} objects, not {len(sizes)}")
        annotations = []
        for item, size in zip(objects, sizes, strict=True):
            left, top = item.xmin * image.width, item.ymin * image.height
            box = [left, top, item.xmax * image.width - left, item.ymax * image.height - top]
            if not np.isfinite([*box, item.area]).all():
                raise damaged(place, f"object {item.id} has a box or an area that is not finite")
            annotation = {"id": item.id, "category_id": item.label, "bbox": [round(side, 2) for side in box]}
            annotation |= {"area": round(item.area, 1), "size": SIZES[size], "iscrowd": item.is_crowd}
            if item.mask_rle:
                if not covers(item.mask_rle, image.height, image.width):
                    raise damaged(place, f"object {item.id} has a mask of another size than its image")
                counts = item.mask_rle.decode("ascii")
                annotation["segmentation"] = {"size": [image.height, image.width], "counts": counts}
            annotations.append(annotation)
        size = {"width": image.width, "height": image.height}
        return {"place": int(place), "id": image.source_id, "file_name": image.filename, **size, "objects": annotations}

    def picture(self, request, place):
        """The file as it is stored. Its own first bytes say what it is, not the record's `image/format`.

        A browser would turn a file with an EXIF orientation, which records do not mean: it gets the pixels as PNG.
        """
        stored = self.unpack(place).image
        encoded = stored.encoded
        kind = next((kind for start, kind in SIGNATURES.items() if encoded.startswith(start)), None)
        if kind is None:
            raise damaged(place, "its image is neither JPEG nor PNG")
        image = open_stored(stored)
        if image_io.orientation(image) == 1:
            return Reply(encoded, kind)
        with self.decoding:
            return Reply(encode(image, stored, "PNG"), "image/png")

    def thumbnail(self, request, place):
        stored = self.unpack(place).image
        image = open_stored(stored)
        image.draft("RGB", (THUMBNAIL, THUMBNAIL))  # a JPEG is decoded at a half, a quarter ... of its size
        with self.decoding:
            return Reply(encode(image, stored, "JPEG", THUMBNAIL, quality=JPEG_QUALITY), "image/jpeg")

    def augmented(self, request, place, number):
        """-> {"picture", "width", "height", "objects"}: the `number`-th way in which training may see an image."""
        if self.augmenter is None:
            raise Refusal("augmentations are a configuration's: start again with --gin_file")
        partner = (int(place) + 1 + int(number)) % len(self.index.known().offsets)
        for used in (place, partner):
            open_stored(self.unpack(used).image)  # refuses an image that is too large to decode
        return self.augmenter.draw(self.index.read(int(place)), self.index.read(partner), int(number))

    def unpack(self, place):
        try:
            return schema.unpack(self.index.read(int(place))[1])
        except (DecodeError, IndexError, ValueError) as error:
            raise damaged(place, error) from None


def damaged(place, reason):
    return Refusal(f"record {place} is damaged: {reason}; prepare the data again")


def covers(counts, height, width):
    """Whether COCO's compressed run lengths, bytes, are of [height, width] pixels, so that a page can draw them."""
    lengths, value, shift = [], 0, 0
    for byte in counts:
        code = byte - 48
        if not 0 <= code < 64 or shift > 30:
            return False
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) << (shift - 4)
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return not shift and min(lengths, default=-1) >= 0 and sum(lengths) == height * width <= LARGEST_MASK


def whole_number(query, name):
    """-> an int from 0 to 2**63 - 1, or None where nothing is given."""
    text = query.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) >= 2**63:
        raise Refusal(f"{name} {text[:40]}: give a whole number, at most 2**63 - 1")
    return int(text)


def open_stored(stored):
    """A record's image, its header read and its bounds checked: records may come from elsewhere."""
    try:
        return image_io.open_image(stored.encoded)
    except image_io.ImageError as error:
        raise undecodable(stored, error) from None


def encode(image, stored, form, longest=None, **options):
    """An open image as the bytes of a file, as it lies in the record, its longer side at most `longest`."""
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
    return Refusal(f"{stored.filename} does not decode: {error}; prepare the data again")
