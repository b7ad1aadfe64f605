"""Drawings of detections or ground truth: masks, boxes and labels on their image.

Outlines are anti-aliased by blurring the mask: a Gaussian turns the pixels' stairs into a slope whose height is the
distance to the edge, and so the share of a pixel that the line covers.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from pycocotools import mask as coco_mask

from htc_tf.visualization import fonts
from htc_tf.visualization.labels import BACKGROUND_COLOR, Label, place_labels
from htc_tf.visualization.palette import palette, readable_on

SMALLEST_LONG_SIDE = 640
TEXT_COLOR = (40, 40, 46)
GAUSS_AT_0, GAUSS_AT_1, NORMAL_AT_1 = 0.3989, 0.2420, 0.8413  # the density at 0 and 1 sigma, the distribution at 1


def draw(image, boxes, classes, class_names, scores=None, masks=None, threshold=0.5, track_ids=None):
    """Draws objects on their image.

    Args:
        image: [H, W, 3] uint8 RGB.
        boxes: [n, 4] float32, y1, x1, y2, x2 in the image's pixels.
        classes: [n] int, indices into `class_names`, which also choose the colors.
        class_names: A name for each class. A name that no font can write is replaced by the class's index.
        scores: [n] float, or None for ground truth.
        masks: n masks, each [H, W] bool or COCO run lengths; or None.
        threshold: Lowest score to draw. The lower a score, the fainter the mask's tint.
        track_ids: [n] int, each object's number in its video, which precedes its class; 0 for none.
    Returns:
        [H', W', 3] uint8 RGB: the image's size, enlarged to 640 pixels along the longer side if it is smaller.
    """
    image = np.asarray(image)
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    classes = np.asarray(classes, int).reshape(-1)
    scale = max(1.0, SMALLEST_LONG_SIDE / max(image.shape[:2]))
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    enlarged = Image.fromarray(image) if scale == 1 else Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    canvas = np.asarray(enlarged, np.float32).copy()
    unit = math.sqrt(size[0] * size[1])  # line widths and letters grow with the image
    line, font_size = max(1.8, 0.0036 * unit), max(12, round(0.0245 * unit))

    shown = np.arange(len(boxes)) if scores is None else np.flatnonzero(np.asarray(scores) >= threshold)
    colors = palette(max(len(class_names), 1))[classes]
    largest_first = sorted(shown, key=lambda i: -_area(boxes[i]))
    for i in largest_first:
        mask = None if masks is None else _decoded(masks[i])
        if mask is None or not mask.any():
            _draw_box(canvas, boxes[i] * scale, colors[i], line)
        else:
            # The outline locates the object, so its box is drawn faintly: otherwise a crowd becomes a web of lines.
            _draw_box(canvas, boxes[i] * scale, colors[i], 0.6 * line, opacity=0.6)
            score = 1 if scores is None else float(scores[i])
            _draw_mask(canvas, mask, scale, colors[i], line, 0.5 + 0.5 * score)

    drawn = Image.fromarray(np.clip(np.round(canvas), 0, 255).astype(np.uint8))
    order = shown if scores is None else sorted(shown, key=lambda i: -scores[i])
    labels = [
        Label(
            name=(f"#{track_ids[i]} " if track_ids is not None and track_ids[i] else "")
            + fonts.class_name(class_names[classes[i]], classes[i]),
            score="" if scores is None else f"{scores[i]:.0%}",
            fill=tuple(colors[i].tolist()),
            text_color=readable_on(colors[i]),
            box=tuple((boxes[i] * scale).tolist()),
        )
        for i in order
    ]
    place_labels(drawn, labels, font_size)
    return np.asarray(drawn)


def side_by_side(left, right, captions=("ground truth", "prediction")):
    """Returns two images, [H, W, 3] uint8 each, at one height with a caption above each: [H', W', 3] uint8."""
    height = max(left.shape[0], right.shape[0])
    images = [_resized(p, round(p.shape[1] * height / p.shape[0]), height) for p in (left, right)]
    gap = max(6, round(0.015 * height))
    font = fonts.load(max(13, round(0.032 * height)))
    bar = round(2.1 * font.size)
    grid = Image.new("RGB", (sum(p.width for p in images) + 3 * gap, height + bar + gap), BACKGROUND_COLOR)
    x = gap
    for image, caption in zip(images, captions, strict=True):
        grid.paste(image, (x, bar))
        font.draw(ImageDraw.Draw(grid), (x, bar // 2), font.fit(caption, image.width), TEXT_COLOR, "lm")
        x += image.width + gap
    return np.asarray(grid)


def contact_sheet(images, columns=4, cell=400):
    """Lays images out in a grid.

    Args:
        images: A list of [H, W, 3] uint8, of any sizes.
        columns: Number of columns.
        cell: Side of the square that each image is resized to fit, in pixels.
    Returns:
        [H', W', 3] uint8.
    """
    thumbnails = [_resized(p, *_fitted(p.shape[1], p.shape[0], cell)) for p in images]
    rows = [thumbnails[i : i + columns] for i in range(0, len(thumbnails), columns)]
    gap = max(4, cell // 40)
    heights = [max(p.height for p in row) for row in rows]
    grid = Image.new("RGB", (columns * (cell + gap) + gap, sum(heights) + gap * (len(rows) + 1)), BACKGROUND_COLOR)
    y = gap
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            x = gap + column * (cell + gap)
            grid.paste(image, (x + (cell - image.width) // 2, y + (height - image.height) // 2))
        y += height + gap
    return np.asarray(grid)


def _draw_mask(canvas, mask, scale, color, line, tint=1.0):
    """Tints a mask, more toward its edge, and draws its outline, in place.

    Args:
        canvas: [H', W', 3] float32.
        mask: [H, W] bool.
        scale: Canvas pixels per mask pixel.
        color: [3] uint8.
        line: Width of the outline in canvas pixels.
        tint: 0 to 1, opacity of the tint.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    # The slope must be as wide as the line, and wide enough to smooth the stairs of an enlarged mask.
    sigma, glow = max(line / 2, 0.5 * scale), 5 * line
    # Only the window around the mask is computed: the blur and the line reach 3 sigma and a line beyond it.
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
    slope = _blurred(source, sigma)  # [h, w], 0.5 on the edge
    depth = _blurred(source, glow)  # [h, w], toward 1 deep inside
    inside = np.clip((slope - 0.5) * sigma / GAUSS_AT_0 + 0.5, 0, 1)
    # The line covers half its width on both sides; where the mask is too thin for the inner half, all of it is line.
    reach = line / 2 / sigma
    low, high, steep = _normal(-reach), _normal(reach), GAUSS_AT_1
    outer = np.clip((slope - low) * sigma / steep + 0.5, 0, 1)
    inner = np.clip((slope - high) * sigma / steep + 0.5, 0, 1)
    line_opacity = 0.95 * outer * (1 - inner)
    rim = 0.3 * np.clip(slope / low, 0, 1) * (1 - inner)
    fill = tint * inside * np.clip(0.6 - 0.35 * depth, 0.25, 0.45)
    _paint(canvas[top:bottom, left:right], color, line_opacity, rim, fill)


def _normal(x):
    """Cumulative distribution function of the standard normal distribution."""
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def _blurred(mask, sigma):
    return np.asarray(mask.filter(ImageFilter.GaussianBlur(sigma)), np.float32) / 255


def _draw_box(canvas, box, color, line, opacity=0.95):
    """Draws a rectangle with rounded corners and a faint dark rim, as four strips, since its inside is empty."""
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
        # Signed distance to a rounded rectangle: https://iquilezles.org/articles/distfunctions2d
        ahead = np.abs(y + 0.5 - middle[0]) - halves[0] + radius
        aside = np.abs(x + 0.5 - middle[1]) - halves[1] + radius
        corner = np.hypot(np.maximum(ahead, 0), np.maximum(aside, 0))
        distance = np.abs(corner + np.minimum(np.maximum(ahead, aside), 0) - radius)
        part = canvas[rows[0] : rows[1], columns[0] : columns[1]]
        rim = 0.25 * opacity * np.clip(line / 2 + 1.3 - distance, 0, 1)
        _paint(part, color, opacity * np.clip(line / 2 + 0.5 - distance, 0, 1), rim)


def _span(edge, reach, end):
    return max(math.floor(edge) - reach, 0), min(math.ceil(edge) + reach, end)


def _paint(part, color, line, rim, fill=0.0):
    """Blends a fill, then a black rim, then a line onto part of the canvas; opacities are [h, w] float32."""
    part *= ((1 - line) * (1 - rim) * (1 - fill))[..., None]
    part += (line + (1 - line) * (1 - rim) * fill)[..., None] * color.astype(np.float32)


def _decoded(mask):
    return coco_mask.decode(mask).astype(bool) if isinstance(mask, dict) else np.asarray(mask, bool)


def _area(box):
    y1, x1, y2, x2 = map(float, box)  # float32 overflows at a box of 1e20 pixels, which a server may return
    return (y2 - y1) * (x2 - x1)


def _fitted(width, height, cell):
    scale = cell / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(image, width, height):
    image = Image.fromarray(np.asarray(image))
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)
