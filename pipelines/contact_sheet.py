"""Contact sheet of a dataset: thumbnails of its records with masks, boxes and class names, and a caption below each."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from htc_tf.data import image_io
from htc_tf.data.annotations import count_pixels
from htc_tf.data.datasets import Category
from htc_tf.data.record import Record
from htc_tf.errors import UserError
from htc_tf.visualization import drawing, fonts

COLUMNS = 4
CELL = 480  # side of the square that a thumbnail fits in, pixels
GAP, CAPTION, HEADER = 20, 44, 84  # pixels: between cells, below a cell, above the first row
LONGEST_SIDE = 2 * CELL  # larger images are reduced before their objects are drawn, which bounds the work
BACKGROUND, CELL_COLOR, TEXT_COLOR, FAINT_COLOR = (18, 20, 25), (30, 33, 40), (236, 238, 242), (146, 152, 164)
NO_MASK = np.zeros((1, 1), bool)


def draw_sheet(records: Sequence[Record], title: str, subtitle: str, categories: Sequence[Category]) -> Image.Image:
    """Draws all records in a grid.

    Args:
        records: Records.
        title, subtitle: Two lines above the grid.
        categories: The dataset's categories, whose order decides the colors.
    """
    columns = min(COLUMNS, max(1, len(records)))
    rows = -(-len(records) // columns)
    size = (GAP + columns * (CELL + GAP), HEADER + rows * (CELL + CAPTION + GAP) + GAP // 2)
    sheet = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    _write(pen, (GAP, 20), title, 24, TEXT_COLOR, size[0] - 2 * GAP)
    _write(pen, (GAP, 52), subtitle, 14, FAINT_COLOR, size[0] - 2 * GAP)
    for number, record in enumerate(records):
        row, column = divmod(number, columns)
        left, top = GAP + column * (CELL + GAP), HEADER + row * (CELL + CAPTION + GAP)
        pen.rectangle((left, top, left + CELL - 1, top + CELL - 1), CELL_COLOR)
        drawn = draw_record(record, categories)
        sheet.paste(drawn, (left + (CELL - drawn.width) // 2, top + (CELL - drawn.height) // 2))
        count = f"{len(record.objects)} object{'s' * (len(record.objects) != 1)}"
        _write(pen, (left + 2, top + CELL + 7), record.image.filename, 13, TEXT_COLOR, CELL)
        details = f"{record.image.width} x {record.image.height}  ·  {count}"
        _write(pen, (left + 2, top + CELL + 25), details, 12, FAINT_COLOR, CELL)
    return sheet


def draw_record(record: Record, categories: Sequence[Category]) -> Image.Image:
    """Draws the objects of a record on its image, fitted into a cell."""
    try:
        # As stored: the record's pixels are already oriented as annotated.
        image = image_io.to_rgb(image_io.open_image(record.image.encoded), upright=False)
    except image_io.ImageError as error:
        raise UserError(f"image {record.image.filename} of the records: {error}") from None
    height, width = image.shape[:2]
    for item in record.objects:
        # A box may be slightly outside; comparisons with NaN are false.
        if not (-1 <= item.ymin <= item.ymax <= 2 and -1 <= item.xmin <= item.xmax <= 2):
            _refuse(record, item, "a box that is not one of the image")
        if item.mask_rle and count_pixels(item.mask_rle.decode("latin-1")) != height * width:
            _refuse(record, item, "run lengths that do not fill the image")
    size = _fitted((width, height), min(LONGEST_SIDE, max(width, height)))
    image = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    objects = sorted(record.objects, key=lambda item: -item.area)  # large objects get their labels first
    # Crowd regions have their own labels and colors, after all classes'.
    class_names = {category.id: category.name for category in categories}
    for label in sorted({item.label for item in objects} - class_names.keys()):
        class_names[label] = str(label)  # not listed
    index = {label: place for place, label in enumerate(class_names)}
    names = fonts.class_names(list(class_names.values()), list(class_names))
    drawn = drawing.draw(
        image,
        boxes=[np.multiply((o.ymin, o.xmin, o.ymax, o.xmax), (size[1], size[0]) * 2) for o in objects],
        classes=[index[item.label] + len(names) * item.is_crowd for item in objects],
        class_names=[*names, *(f"{name} (crowd)" for name in names)],
        masks=[_resized_mask(item.mask_rle, (width, height), size) for item in objects],
    )
    return Image.fromarray(drawn).resize(_fitted(size, CELL), Image.Resampling.LANCZOS)


def _refuse(record, item, what):
    raise UserError(f"image {record.image.filename} of the records: its object {item.id} has {what}")


def _fitted(size, side):
    """Scales (width, height) so that the longer side has `side` pixels."""
    return tuple(max(1, round(length * side / max(size))) for length in size)


def _resized_mask(counts, size, new_size):
    """Returns [H', W'] bool; an empty mask if the record has none."""
    if not counts:
        return NO_MASK
    mask = coco_mask.decode({"size": [size[1], size[0]], "counts": counts})  # [H, W] uint8, 0 or 1
    if new_size == size:
        return mask.astype(bool)
    return np.asarray(Image.fromarray(mask * np.uint8(255)).resize(new_size, Image.Resampling.BILINEAR)) > 127


def _write(pen, position, text, size, color, width):
    """Writes a line of text, cut to `width` pixels."""
    font = fonts.load(size)
    font.draw(pen, position, font.fit(text, width), color)
