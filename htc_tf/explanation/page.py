"""Page layout: rows of images, each below its number, title and text.

Sizes are in thousandths of the page's width, so pages of 1000 and 2000 pixels look the same.
"""

from typing import Any, NamedTuple

from PIL import Image, ImageDraw

from htc_tf.visualization import fonts
from htc_tf.visualization.drawing import TEXT_COLOR
from htc_tf.visualization.labels import BACKGROUND_COLOR

FAINT_COLOR = (104, 104, 112)
MARGIN, GAP = 22, 20
TITLE, TEXT, SOURCE, HEAD = 16.5, 12, 10.5, 27
LEADING = 1.38
BADGE = 21


class Panel(NamedTuple):
    """One image of the page with its texts."""

    title: str
    text: str
    source: str  # the paper's section
    draw: Any  # a function of the width in pixels; returns a PIL image of at most that width
    share: float = 1.0  # width relative to the row's other panels


def draw_page(title, subtitle, rows, width):
    """Lays out a page.

    Args:
        title: One line at the top.
        subtitle: Text below the title; it wraps.
        rows: Lists of Panels, which are numbered consecutively.
        width: Width of the page in pixels.
    Returns:
        A PIL image.
    """
    unit = width / 1000
    inner = width - 2 * MARGIN * unit
    blocks = [_draw_head(title, subtitle, inner, unit)]
    number = 1
    for row in rows:
        # A panel of two columns is as wide as two and the gap between them.
        column = (inner + GAP * unit) / sum(panel.share for panel in row)
        widths = [round(column * panel.share - GAP * unit) for panel in row]
        texts = [_draw_text(number + i, panel, widths[i], unit) for i, panel in enumerate(row)]
        images = [panel.draw(widths[i]) for i, panel in enumerate(row)]
        number += len(row)
        top = max(text.height for text in texts)
        block = Image.new("RGB", (round(inner), top + max(image.height for image in images)), BACKGROUND_COLOR)
        x = 0.0
        for panel, text, image in zip(row, texts, images, strict=True):
            block.paste(text, (round(x), 0))
            block.paste(image, (round(x), top))
            x += column * panel.share
        blocks.append(block)
    gap = round(1.2 * GAP * unit)
    height = sum(block.height + gap for block in blocks) - gap + 2 * round(MARGIN * unit)
    page = Image.new("RGB", (width, height), BACKGROUND_COLOR)
    y = round(MARGIN * unit)
    for block in blocks:
        page.paste(block, (round(MARGIN * unit), y))
        y += block.height + gap
    return page


def wrap(text, font, width):
    """Returns lines of at most `width` pixels, broken between words; a wider word is cut."""
    lines = [""]
    for word in text.split():
        word = font.fit(word, width)
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _draw_head(title, subtitle, width, unit):
    large, small = fonts.load(HEAD * unit), fonts.load(TEXT * unit)
    lines = wrap(subtitle, small, width)
    head = Image.new("RGB", (round(width), round((1.35 * HEAD + len(lines) * LEADING * TEXT) * unit)), BACKGROUND_COLOR)
    pen = ImageDraw.Draw(head)
    bold = {"stroke_width": 0.3 * unit, "stroke_fill": TEXT_COLOR}
    large.draw(pen, (0, 0.5 * HEAD * unit), large.fit(title, width), TEXT_COLOR, "lm", **bold)
    for i, line in enumerate(lines):
        y = (1.35 * HEAD + (i + 0.5) * LEADING * TEXT) * unit
        small.draw(pen, (0, y), line, FAINT_COLOR, "lm")
    return head


def _draw_text(number, panel, width, unit):
    """Draws a panel's number, title, text and source, as high as they need."""
    title, text, source = (fonts.load(size * unit) for size in (TITLE, TEXT, SOURCE))
    lines = wrap(panel.text, text, width)
    step = LEADING * TEXT * unit
    top = 1.9 * TITLE * unit
    height = top + len(lines) * step + (1.5 * SOURCE * unit if panel.source else 0) + 0.6 * TEXT * unit
    block = Image.new("RGB", (width, round(height)), BACKGROUND_COLOR)
    pen = ImageDraw.Draw(block)
    middle, badge = 0.72 * TITLE * unit, BADGE * unit
    fine = Image.new("L", (round(4 * badge),) * 2)
    ImageDraw.Draw(fine).ellipse((0, 0, fine.width - 1, fine.height - 1), fill=255)
    disc = fine.resize((round(badge),) * 2, Image.Resampling.BOX)
    block.paste(TEXT_COLOR, (0, round(middle - badge / 2)), disc)
    text.draw(pen, (disc.width / 2, middle), str(number), BACKGROUND_COLOR, "mm")
    title.draw(pen, (badge * 1.4, middle), title.fit(panel.title, width - 1.4 * badge), TEXT_COLOR, "lm")
    for i, line in enumerate(lines):
        text.draw(pen, (0, top + (i + 0.5) * step), line, TEXT_COLOR, "lm")
    if panel.source:
        place = (0, top + len(lines) * step + 0.75 * SOURCE * unit)
        source.draw(pen, place, source.fit(panel.source, width), FAINT_COLOR, "lm")
    return block
