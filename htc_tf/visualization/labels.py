"""Labels: small rounded tabs with a class name and a score, placed where they can be read."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from htc_tf.visualization import fonts
from htc_tf.visualization.palette import readable_on

SUPERSAMPLING = 4
BACKGROUND_COLOR = (250, 250, 248)
GAP = 1  # pixels between labels
SCORE_OPACITY = 215
CROWDED = 0.12  # share of the image that labels may cover before they become smaller
SMALLEST_FACTOR, SMALLEST_FONT = 0.7, 11
LONGEST_NAME = 16  # times the font size; longer names are cut


class Label(NamedTuple):
    """The label of one object."""

    name: str
    score: str
    fill: tuple  # (r, g, b)
    text_color: tuple  # (r, g, b)
    box: tuple  # y1, x1, y2, x2 of the object in the image's pixels


def place_labels(image, labels, font_size):
    """Draws labels on an image; the first ones get the best places.

    A label that would cover others loses its score, or else is left out: its object is still known by its color.

    Args:
        image: A PIL image in RGB, drawn on in place.
        labels: A list of `Label`, the most important first.
        font_size: Pixels. Labels of small objects are smaller, and so are all labels of a crowded image.
    """
    labels = [label._replace(name=_cut(label.name, label.score, font_size, image.width)) for label in labels]
    font_size *= _crowding(labels, font_size, image.width * image.height)
    sizes = [fonts.load(max(SMALLEST_FONT, round(factor * font_size))) for factor in (1, 0.85)]
    boxes = np.array([label.box for label in labels], np.float64).reshape(-1, 4)
    taken, placed = np.zeros([0, 4]), []
    for index, label in enumerate(labels):
        y1, x1, y2, x2 = label.box
        font = sizes[(y2 - y1) * (x2 - x1) < (4 * font_size) ** 2]
        pad, height = round(0.42 * font.size), round(1.5 * font.size)
        for score in dict.fromkeys([label.score, ""]):
            width = round(font.getlength(_text(label.name, score))) + 2 * pad
            others = np.delete(boxes, index, axis=0)
            place, hidden = _best_place(label.box, height, width, image.size, taken, others)
            if hidden <= 0.02:
                break
        if hidden <= 0.2:
            y1, x1, y2, x2 = place
            taken = np.vstack([taken, [y1 - GAP, x1 - GAP, y2 + GAP, x2 + GAP]])
            placed.append((label, score, place, font, pad))
    for label, *where in reversed(placed):
        _draw_label(image, label, *where)


def add_legend(image, entries):
    """Returns a PIL image in RGB with a legend below it.

    Args:
        image: A PIL image in RGB.
        entries: (name, color) pairs; each color is [3] uint8.
    """
    font = fonts.load(max(13, round(0.026 * max(image.size))))
    pad, height = round(0.42 * font.size), round(1.5 * font.size)
    gap = round(0.5 * font.size)
    room = min(image.width - 2 * (gap + pad), LONGEST_NAME * font.size)
    entries = [(font.fit(name, room), color) for name, color in entries]
    x, y, places = gap, image.height + gap, []
    for name, _ in entries:
        width = max(min(round(font.getlength(name)) + 2 * pad, image.width - 2 * gap), 1)  # 1 in a thin image
        if x + width + gap > image.width and x > gap:
            x, y = gap, y + height + gap
        places.append((y, x, y + height, x + width))
        x += width + gap
    framed = Image.new("RGB", (image.width, y + height + gap if entries else image.height), BACKGROUND_COLOR)
    framed.paste(image)
    for (name, color), place in zip(entries, places, strict=True):
        label = Label(name, "", tuple(color.tolist()), readable_on(color), place)
        _draw_label(framed, label, "", place, font, pad)
    return framed


def _crowding(labels, font_size, area):
    """Returns a factor of the font size, 0.7 to 1, that leaves most of the image visible."""
    font = fonts.load(font_size)
    covered = sum((font.getlength(_text(label.name, label.score)) + font_size) * 1.5 * font_size for label in labels)
    return min(1.0, max(SMALLEST_FACTOR, (CROWDED * area / max(covered, 1)) ** 0.5))


def _cut(name, score, font_size, width):
    """Returns a name cut so that its label, with the score, is no wider than the image."""
    font = fonts.load(font_size)
    extra = font.getlength(f" {score}") + 0.5 * font_size if score else 0
    return font.fit(name, min(LONGEST_NAME * font_size, width - 0.84 * font_size - extra))


def _text(name, score):
    return f"{name} {score}" if score else name


def _best_place(box, height, width, size, taken, others):
    """Chooses a label's place around its box.

    Args:
        box: (y1, x1, y2, x2) of the object.
        height, width: Size of the label in pixels.
        size: (width, height) of the image.
        taken: [k, 4], places of the labels already placed.
        others: [m, 4] float64, boxes of the other objects.
    Returns:
        (place, hidden): y1, x1, y2, x2 in pixels, and the share of it that lies on other labels.
    """
    y1, x1, y2, x2 = box
    corners = [
        (y1 - height, x1),  # above the upper left corner, as a tab
        (y1, x1),
        (y1 - height, x2 - width),
        (y2, x1),
        (y1, x2 - width),
        (y2 - height, x1),
        (y2, x2 - width),
        (y2 - height, x2 - width),
        ((y1 + y2 - height) / 2, x1),
        ((y1 + y2 - height) / 2, x2),
        ((y1 + y2 - height) / 2, x1 - width),
        ((y1 + y2 - height) / 2, (x1 + x2 - width) / 2),
    ]
    limits = np.array([size[1] - height, size[0] - width])  # highest top and left inside the image
    tops = np.clip(np.round(corners), 0, np.maximum(limits, 0))
    moved = np.abs(tops - corners).sum(axis=1) / height
    places = np.concatenate([tops, tops + np.array([height, width])], axis=1)
    area = height * width
    on_labels = _overlap(places, taken) / area
    # A label over a small object hides it; over a large one it does little harm.
    on_own = _overlap(places, np.array([box])) / np.clip((y2 - y1) * (x2 - x1), 1, 20 * area)
    areas = np.maximum((others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1]), area / 4)
    on_others = _overlap(places, others, areas)
    cost = 20 * on_labels + 3 * on_own + 2 * on_others + 0.5 * moved + 0.08 * np.arange(len(places))
    best = int(np.argmin(cost))
    return tuple(places[best].astype(int).tolist()), on_labels[best]


def _overlap(places, boxes, unit=1.0):
    """Returns the area that each place [n, 4] shares with boxes [m, 4], divided by `unit` (scalar or [m]): [n]."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    # Of thousands of boxes, few are near the places of one label.
    near = ((boxes[:, :2] < places[:, 2:].max(axis=0)) & (boxes[:, 2:] > places[:, :2].min(axis=0))).all(axis=1)
    boxes, unit = boxes[near], unit if np.isscalar(unit) else unit[near]
    start = np.maximum(places[:, None, :2], boxes[None, :, :2])  # [n, m, 2]
    end = np.minimum(places[:, None, 2:], boxes[None, :, 2:])
    return (np.prod(np.maximum(end - start, 0), axis=-1) / unit).sum(axis=1)


def _draw_label(image, label, score, place, font, pad):
    y1, x1, y2, x2 = place
    size = (x2 - x1, y2 - y1)
    large = Image.new("L", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING))
    shape = (0, 0, large.width - 1, large.height - 1)
    ImageDraw.Draw(large).rounded_rectangle(shape, radius=large.height * 0.26, fill=240)
    image.paste(label.fill, (x1, y1), large.resize(size, Image.Resampling.BOX))
    draw = ImageDraw.Draw(image, "RGBA")
    baseline = y1 + round(0.5 * size[1] + 0.36 * font.size)
    font.draw(draw, (x1 + pad, baseline), label.name, (*label.text_color, 255), "ls")
    if score:
        start = x2 - pad - font.getlength(score)
        font.draw(draw, (start, baseline), score, (*label.text_color, SCORE_OPACITY), "ls")
