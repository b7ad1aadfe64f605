"""A sheet of thumbnails that shows what a data set's records hold: images with masks, boxes and class names.

Called by `pipelines.inspect_records`. Everything is drawn twice as large and then reduced, which smooths the edges.
"""

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from pycocotools import mask as coco_mask

from htc_tf.data import image_io
from htc_tf.data.schema import Object, Record
from htc_tf.errors import UserError
from htc_tf.visualization import fonts

SCALE = 2  # drawn pixels for one of the sheet
CELL = 300  # the square that a thumbnail fits in, pixels of the sheet
GAP = 20
CAPTION = 44
TAG = 150  # of a class's name
HEADER = 84
COLUMNS = 6
RADIUS = 12
BACKGROUND = (18, 20, 25)
FRAME = (30, 33, 40)
INK = (236, 238, 242)
FAINT = (146, 152, 164)
GOLDEN = 0.61803398875


def draw_sheet(records: Sequence[Record], title: str, subtitle: str, category_ids: Sequence[int]) -> Image.Image:
    """One picture of all the records, in rows. `category_ids` gives every class its colour, by its place."""
    columns = min(COLUMNS, max(1, len(records)))
    rows = -(-len(records) // columns)
    size = (GAP + columns * (CELL + GAP), HEADER + rows * (CELL + CAPTION + GAP) + GAP // 2)
    sheet = Image.new("RGB", tuple(SCALE * side for side in size), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    _write(pen, (GAP, 20), title, 24, INK, size[0] - 2 * GAP)
    _write(pen, (GAP, 52), subtitle, 14, FAINT, size[0] - 2 * GAP)
    colors = {category_id: class_color(index) for index, category_id in enumerate(category_ids)}
    for number, record in enumerate(records):
        row, column = divmod(number, columns)
        left, top = GAP + column * (CELL + GAP), HEADER + row * (CELL + CAPTION + GAP)
        _paste_rounded(sheet, draw_record(record, colors), left, top)
        count = f"{len(record.objects)} object{'s' * (len(record.objects) != 1)}"
        _write(pen, (left + 2, top + CELL + 7), record.image.filename, 13, INK, CELL)
        details = f"{record.image.width} x {record.image.height}  ·  {count}"
        _write(pen, (left + 2, top + CELL + 25), details, 12, FAINT, CELL)
    return sheet.resize(size, Image.Resampling.LANCZOS)


def draw_record(record: Record, colors: dict[int, tuple[int, int, int]]) -> Image.Image:
    """The image fitted into a cell, at SCALE, with its objects, the largest first so that none hides another."""
    side = SCALE * CELL
    height, width = record.image.height, record.image.width
    zoom = side / max(height, width)
    try:
        picture = image_io.open_image(record.image.encoded)
        picture = Image.fromarray(image_io.to_rgb(picture, upright=False))  # as it lies in the record
    except image_io.ImageError as error:
        raise UserError(f"image {record.image.filename} of the records: {error}") from None
    picture = picture.resize((max(1, round(width * zoom)), max(1, round(height * zoom))), Image.Resampling.LANCZOS)
    objects = sorted(record.objects, key=lambda item: -item.area)
    for item in objects:
        picture = _tint(picture, item, colors[item.label], (height, width))
    pen = ImageDraw.Draw(picture)
    tags = []
    for item in objects:
        sides = (item.xmin * width, item.ymin * height, item.xmax * width, item.ymax * height)
        box = [round(side * zoom) for side in sides]
        box = [*box[:2], max(box[0], box[2] - 1), max(box[1], box[3] - 1)]
        pen.rectangle(box, outline=colors[item.label], width=SCALE)
        tags.append((box, item))
    for box, item in tags:
        name = fonts.class_name(item.text, item.label)
        _tag(pen, picture.size, box, name, " (crowd)" * item.is_crowd, colors[item.label])
    frame = Image.new("RGB", (side, side), FRAME)
    frame.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return frame


def class_color(index: int) -> tuple[int, int, int]:
    """A bright colour; steps of the golden ratio keep the hues of neighbouring classes apart."""
    hue = math.modf(0.56 + index * GOLDEN)[0]
    saturation, value = ((0.75, 1.0), (0.5, 1.0), (0.85, 0.85))[index % 3]
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value))


def _tint(picture: Image.Image, item: Object, color, size) -> Image.Image:
    if not item.mask_rle:
        return picture
    mask = coco_mask.decode({"size": list(size), "counts": item.mask_rle}) * np.uint8(255)
    mask = Image.fromarray(mask).resize(picture.size, Image.Resampling.BILINEAR)
    outline = ImageChops.subtract(mask, mask.filter(ImageFilter.MinFilter(2 * SCALE + 1)))
    paint = Image.new("RGB", picture.size, color)
    picture = Image.composite(Image.blend(picture, paint, 0.45), picture, mask)
    return Image.composite(paint, picture, outline)


def _tag(pen, size, box, name, crowd, color):
    """The class name on a patch above the box, or inside it at the image's upper edge; not on tiny boxes."""
    if (box[2] - box[0]) * (box[3] - box[1]) < (SCALE * 22) ** 2:
        return
    font = fonts.load(SCALE * 10)
    text = font.fit(name, min(SCALE * TAG, size[0] - SCALE * 6 - font.getlength(crowd))) + crowd
    width = math.ceil(font.getlength(text)) + SCALE * 6
    height = SCALE * 14
    left = max(0, min(box[0], size[0] - width))
    top = box[1] - height if box[1] >= height else box[1]
    pen.rounded_rectangle((left, top, left + width, top + height), SCALE * 3, fill=color)
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
    font.draw(pen, (left + SCALE * 3, top + height / 2), text, BACKGROUND if bright else INK, "lm")


def _paste_rounded(sheet, picture, left, top):
    mask = Image.new("L", picture.size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, picture.width - 1, picture.height - 1), SCALE * RADIUS, fill=255)
    sheet.paste(picture, (SCALE * left, SCALE * top), mask)


def _write(pen, position, text, size, color, width):
    """Text that ends in … where it would be wider than `width`."""
    font = fonts.load(SCALE * size)
    font.draw(pen, (SCALE * position[0], SCALE * position[1]), font.fit(text, SCALE * width), color)
