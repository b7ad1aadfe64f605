"""Pictures of detections or of the truth: masks, boxes and labels on the photograph they belong to.

Before: `inference.results` gives boxes, scores, classes and masks in the image's own pixels. After: `predict` saves
the pictures, training writes truth beside prediction to TensorBoard, `pipelines.inspect_records` makes a contact sheet.

Edges are drawn as what a blurred mask crosses: a Gaussian turns the pixels' stairs into a slope whose height tells the
distance to the edge, and so how much of a pixel the line covers.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from pycocotools import mask as coco_mask

from htc_tf.visualization import fonts
from htc_tf.visualization.labels import Chip, draw_chips
from htc_tf.visualization.palette import palette, readable_on

SMALLEST_LONG_SIDE = 640
PAPER, INK = (250, 250, 248), (40, 40, 46)
GAUSS_AT_0, GAUSS_AT_1, NORMAL_AT_1 = 0.3989, 0.2420, 0.8413  # the density at 0 and 1 sigma, the distribution at 1


def draw(image, boxes, classes, class_names, scores=None, masks=None, threshold=0.5):
    """Draws objects on their image.

    Args:
        image: [H, W, 3] uint8 RGB.
        boxes: [n, 4] y1, x1, y2, x2 in the image's pixels.
        classes: [n] int, indices into class_names; they choose the colour.
        class_names: a name for each class; one that no font can write becomes the class's index.
        scores: [n], or None for the truth.
        masks: n masks, each [H, W] bool or COCO run lengths, or None.
        threshold: with scores, what scores less is not drawn. The fainter a score, the fainter the mask's tint.

    Returns:
        [H', W', 3] uint8 RGB: of the image's size, or enlarged to 640 pixels along its longer side.
    """
    image = np.asarray(image)
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    classes = np.asarray(classes, int).reshape(-1)
    scale = max(1.0, SMALLEST_LONG_SIDE / max(image.shape[:2]))
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    photo = Image.fromarray(image) if scale == 1 else Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    canvas = np.asarray(photo, np.float32).copy()
    unit = math.sqrt(size[0] * size[1])
    line, font_size = max(1.8, 0.0036 * unit), max(12, round(0.0245 * unit))

    shown = np.arange(len(boxes)) if scores is None else np.flatnonzero(np.asarray(scores) >= threshold)
    colours = palette(max(len(class_names), 1))[classes]
    largest_first = sorted(shown, key=lambda i: -_area(boxes[i]))
    for i in largest_first:
        mask = None if masks is None else _decoded(masks[i])
        if mask is None or not mask.any():
            _draw_box(canvas, boxes[i] * scale, colours[i], line)
        else:
            # The outline says where the object is: its box stands back, or a crowd becomes a web of lines.
            _draw_box(canvas, boxes[i] * scale, colours[i], 0.6 * line, opacity=0.6)
            sureness = 1 if scores is None else scores[i]
            _draw_mask(canvas, mask, scale, colours[i], line, 0.5 + 0.5 * sureness)

    picture = Image.fromarray(np.clip(np.round(canvas), 0, 255).astype(np.uint8))
    order = shown if scores is None else sorted(shown, key=lambda i: -scores[i])
    chips = [
        Chip(
            name=fonts.class_name(class_names[classes[i]], classes[i]),
            score="" if scores is None else f"{scores[i]:.0%}",
            fill=tuple(colours[i].tolist()),
            ink=readable_on(colours[i]),
            box=tuple((boxes[i] * scale).tolist()),
        )
        for i in order
    ]
    draw_chips(picture, chips, font_size)
    return np.asarray(picture)


def side_by_side(left, right, captions=("truth", "prediction")):
    """Two pictures, [H, W, 3] uint8 each, at one height with a caption above each. Returns [H', W', 3] uint8."""
    height = max(left.shape[0], right.shape[0])
    pictures = [_resized(p, round(p.shape[1] * height / p.shape[0]), height) for p in (left, right)]
    gap = max(6, round(0.015 * height))
    font = fonts.load(max(13, round(0.032 * height)))
    bar = round(2.1 * font.size)
    sheet = Image.new("RGB", (sum(p.width for p in pictures) + 3 * gap, height + bar + gap), PAPER)
    x = gap
    for picture, caption in zip(pictures, captions, strict=True):
        sheet.paste(picture, (x, bar))
        font.draw(ImageDraw.Draw(sheet), (x, bar // 2), font.fit(caption, picture.width), INK, "lm")
        x += picture.width + gap
    return np.asarray(sheet)


def contact_sheet(images, columns=4, cell=400):
    """Pictures, [H, W, 3] uint8 of any sizes, on one sheet of `columns`, each within a square of `cell` pixels."""
    thumbnails = [_resized(p, *_fitted(p.shape[1], p.shape[0], cell)) for p in images]
    rows = [thumbnails[i : i + columns] for i in range(0, len(thumbnails), columns)]
    gap = max(4, cell // 40)
    heights = [max(p.height for p in row) for row in rows]
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, sum(heights) + gap * (len(rows) + 1)), PAPER)
    y = gap
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            x = gap + column * (cell + gap)
            sheet.paste(picture, (x + (cell - picture.width) // 2, y + (height - picture.height) // 2))
        y += height + gap
    return np.asarray(sheet)


def _draw_mask(canvas, mask, scale, colour, line, tint=1.0):
    """Tints the mask, more towards its edge, and draws its outline. `tint` 0 ... 1: how much of the tint."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    # The slope must be as wide as the line, and wide enough to smooth the stairs of an enlarged mask.
    sigma, glow = max(line / 2, 0.5 * scale), 5 * line
    margin = math.ceil(3 * (sigma + line)) + 1
    top, left = (max(math.floor(axis[0] * scale) - margin, 0) for axis in (rows, columns))
    bottom, right = (
        min(math.ceil((axis[-1] + 1) * scale) + margin, end)
        for axis, end in zip((rows, columns), canvas.shape, strict=False)
    )
    height, width = mask.shape
    source = Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0)))
    window = (left / scale, top / scale, min(right / scale, width), min(bottom / scale, height))
    source = source.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=window)
    slope = _blurred(source, sigma)
    depth = _blurred(source, glow)
    inside = np.clip((slope - 0.5) * sigma / GAUSS_AT_0 + 0.5, 0, 1)
    # The line reaches one sigma to both sides; where the mask is too thin for the inner side, all of it is line.
    reach = line / 2 / sigma
    low, high, steep = _normal(-reach), _normal(reach), GAUSS_AT_1
    outer = np.clip((slope - low) * sigma / steep + 0.5, 0, 1)
    inner = np.clip((slope - high) * sigma / steep + 0.5, 0, 1)
    line_opacity = 0.95 * outer * (1 - inner)
    rim = 0.3 * np.clip(slope / low, 0, 1) * (1 - inner)
    fill = tint * inside * np.clip(0.6 - 0.35 * depth, 0.25, 0.45)
    _paint(canvas[top:bottom, left:right], colour, line_opacity, rim, fill)


def _normal(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def _blurred(mask, sigma):
    return np.asarray(mask.filter(ImageFilter.GaussianBlur(sigma)), np.float32) / 255


def _draw_box(canvas, box, colour, line, opacity=0.95):
    """A rectangle with rounded corners and a faint dark rim, strip by strip, since most of it is empty."""
    height, width = canvas.shape[:2]
    y1, x1, y2, x2 = np.clip(box, line / 2, [height - line / 2, width - line / 2] * 2)
    radius = min(2.5 * line, (y2 - y1) / 2, (x2 - x1) / 2)
    reach = math.ceil(radius + line + 2)
    middle = np.array([(y1 + y2) / 2, (x1 + x2) / 2])
    halves = np.array([(y2 - y1) / 2, (x2 - x1) / 2])
    above, below = (_span(edge, reach, height) for edge in (y1, y2))
    before, behind = (_span(edge, reach, width) for edge in (x1, x2))
    below = (max(below[0], above[1]), max(below[1], above[1]))
    behind = (max(behind[0], before[1]), max(behind[1], before[1]))
    whole = (before[0], behind[1])
    between = (above[1], below[0])
    for rows, columns in [(above, whole), (below, whole), (between, before), (between, behind)]:
        y, x = np.ogrid[rows[0] : rows[1], columns[0] : columns[1]]
        ahead = np.abs(y + 0.5 - middle[0]) - halves[0] + radius
        aside = np.abs(x + 0.5 - middle[1]) - halves[1] + radius
        corner = np.hypot(np.maximum(ahead, 0), np.maximum(aside, 0))
        distance = np.abs(corner + np.minimum(np.maximum(ahead, aside), 0) - radius)
        part = canvas[rows[0] : rows[1], columns[0] : columns[1]]
        rim = 0.25 * opacity * np.clip(line / 2 + 1.3 - distance, 0, 1)
        _paint(part, colour, opacity * np.clip(line / 2 + 0.5 - distance, 0, 1), rim)


def _span(edge, reach, end):
    return max(math.floor(edge) - reach, 0), min(math.ceil(edge) + reach, end)


def _paint(part, colour, line, rim, fill=0.0):
    """Lays the colour as a fill, black as a rim, the colour as a line on part of the canvas: opacities [h, w]."""
    part *= ((1 - line) * (1 - rim) * (1 - fill))[..., None]
    part += (line + (1 - line) * (1 - rim) * fill)[..., None] * colour.astype(np.float32)


def _decoded(mask):
    return coco_mask.decode(mask).astype(bool) if isinstance(mask, dict) else np.asarray(mask, bool)


def _area(box):
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _fitted(width, height, cell):
    scale = cell / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(picture, width, height):
    picture = Image.fromarray(np.asarray(picture))
    return picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.LANCZOS)
