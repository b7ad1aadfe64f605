"""Label chips: small rounded tabs with a class name and a score, placed so that they can be read.

Before: `visualization.drawing` has drawn masks and boxes. After: the picture is done.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from htc_tf.visualization import fonts
from htc_tf.visualization.palette import readable_on

SUPERSAMPLING = 4
GROUND = (250, 250, 248)
GAP = 1  # pixels between chips
SCORE_OPACITY = 215
CROWDED = 0.12  # share of the picture that chips may cover before they become smaller
SMALLEST_FACTOR, SMALLEST_FONT = 0.7, 11
LONGEST_NAME = 16  # font sizes; longer names are cut


class Chip(NamedTuple):
    """One label: what it says, on which colour, beside which box (y1, x1, y2, x2 in pixels of the picture)."""

    name: str
    score: str
    fill: tuple
    ink: tuple
    box: tuple


def draw_chips(picture, chips, font_size):
    """Draws the chips, the first ones at the best places.

    Args:
        picture: a PIL image in RGB, drawn upon.
        chips: list of `Chip`, the most important first. One that could only lie on other chips loses its score, then
            its place: its object stays recognisable by colour.
        font_size: in pixels; small objects get a smaller one, and all where there are many.
    """
    chips = [chip._replace(name=_cut(chip.name, chip.score, font_size, picture.width)) for chip in chips]
    font_size *= _crowding(chips, font_size, picture.width * picture.height)
    sizes = [fonts.load(max(SMALLEST_FONT, round(factor * font_size))) for factor in (1, 0.85)]
    boxes = np.array([chip.box for chip in chips], np.float64).reshape(-1, 4)
    taken, placed = [], []
    for index, chip in enumerate(chips):
        y1, x1, y2, x2 = chip.box
        font = sizes[(y2 - y1) * (x2 - x1) < (4 * font_size) ** 2]
        pad, height = round(0.42 * font.size), round(1.5 * font.size)
        for score in dict.fromkeys([chip.score, ""]):
            width = round(font.getlength(_text(chip.name, score))) + 2 * pad
            others = np.delete(boxes, index, axis=0)
            place, hidden = _best_place(chip.box, height, width, picture.size, taken, others)
            if hidden <= 0.02:
                break
        if hidden <= 0.2:
            y1, x1, y2, x2 = place
            taken.append((y1 - GAP, x1 - GAP, y2 + GAP, x2 + GAP))
            placed.append((chip, score, place, font, pad))
    for chip, *where in reversed(placed):
        _draw_chip(picture, chip, *where)


def add_legend(picture, entries):
    """A PIL image in RGB with a strip beneath: a chip for each (name, colour), as many rows as it takes."""
    font = fonts.load(max(13, round(0.026 * max(picture.size))))
    pad, height = round(0.42 * font.size), round(1.5 * font.size)
    gap = round(0.5 * font.size)
    room = min(picture.width - 2 * (gap + pad), LONGEST_NAME * font.size)
    entries = [(font.fit(name, room), colour) for name, colour in entries]
    x, y, places = gap, picture.height + gap, []
    for name, _ in entries:
        width = min(round(font.getlength(name)) + 2 * pad, picture.width - 2 * gap)
        if x + width + gap > picture.width and x > gap:
            x, y = gap, y + height + gap
        places.append((y, x, y + height, x + width))
        x += width + gap
    sheet = Image.new("RGB", (picture.width, y + height + gap if entries else picture.height), GROUND)
    sheet.paste(picture)
    for (name, colour), place in zip(entries, places, strict=True):
        chip = Chip(name, "", tuple(colour.tolist()), readable_on(colour), place)
        _draw_chip(sheet, chip, "", place, font, pad)
    return sheet


def _crowding(chips, font_size, area):
    """The factor, 0.7 ... 1, that leaves most of the picture to be seen."""
    font = fonts.load(font_size)
    covered = sum((font.getlength(_text(chip.name, chip.score)) + font_size) * 1.5 * font_size for chip in chips)
    return min(1.0, max(SMALLEST_FACTOR, (CROWDED * area / max(covered, 1)) ** 0.5))


def _cut(name, score, font_size, width):
    """A name that leaves room for its score on a chip, which is no wider than the picture."""
    font = fonts.load(font_size)
    extra = font.getlength(f" {score}") + 0.5 * font_size if score else 0
    return font.fit(name, min(LONGEST_NAME * font_size, width - 0.84 * font_size - extra))


def _text(name, score):
    return f"{name} {score}" if score else name


def _best_place(box, height, width, size, taken, others):
    """The cheapest place around a box, as (y1, x1, y2, x2), and which share of it lies on chips already there."""
    y1, x1, y2, x2 = box
    corners = [
        (y1 - height, x1),  # on the box's shoulder, as a tab
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
    limits = np.array([size[1] - height, size[0] - width])
    tops = np.clip(np.round(corners), 0, np.maximum(limits, 0))
    moved = np.abs(tops - corners).sum(axis=1) / height
    places = np.concatenate([tops, tops + np.array([height, width])], axis=1)
    area = height * width
    on_chips = _overlap(places, taken) / area
    # A chip over a small object hides it; over a large one it does little harm.
    on_own = _overlap(places, np.array([box])) / np.clip((y2 - y1) * (x2 - x1), 1, 20 * area)
    areas = np.maximum((others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1]), area / 4)
    on_others = _overlap(places, others, areas)
    cost = 20 * on_chips + 3 * on_own + 2 * on_others + 0.5 * moved + 0.08 * np.arange(len(places))
    best = int(np.argmin(cost))
    return tuple(places[best].astype(int).tolist()), on_chips[best]


def _overlap(places, boxes, unit=1.0):
    """[n, 4] and [m, 4] -> [n], the area that each place shares with the boxes, in their units."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    start = np.maximum(places[:, None, :2], boxes[None, :, :2])
    end = np.minimum(places[:, None, 2:], boxes[None, :, 2:])
    return (np.prod(np.maximum(end - start, 0), axis=-1) / unit).sum(axis=1)


def _draw_chip(picture, chip, score, place, font, pad):
    y1, x1, y2, x2 = place
    size = (x2 - x1, y2 - y1)
    large = Image.new("L", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING))
    shape = (0, 0, large.width - 1, large.height - 1)
    ImageDraw.Draw(large).rounded_rectangle(shape, radius=large.height * 0.26, fill=240)
    picture.paste(chip.fill, (x1, y1), large.resize(size, Image.Resampling.BOX))
    draw = ImageDraw.Draw(picture, "RGBA")
    baseline = y1 + round(0.5 * size[1] + 0.36 * font.size)
    font.draw(draw, (x1 + pad, baseline), chip.name, (*chip.ink, 255), "ls")
    if score:
        start = x2 - pad - font.getlength(score)
        font.draw(draw, (start, baseline), score, (*chip.ink, SCORE_OPACITY), "ls")
