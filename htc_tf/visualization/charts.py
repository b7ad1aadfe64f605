"""Charts of an evaluation: precision over recall, a confusion matrix, and what each kind of error costs.

Before: `evaluation.evaluator` has the tables, `evaluation.error_analysis` the reasons. After: `evaluation.report` saves
the charts beside its table. Drawn with Pillow alone, in the colours of the pictures (`visualization.palette`), enlarged
and scaled down again for smooth lines.
"""

import numpy as np
from PIL import Image, ImageDraw

from htc_tf.visualization import fonts
from htc_tf.visualization.palette import palette

PAPER, INK, SOFT, GRID = (250, 250, 248), (40, 40, 46), (120, 120, 128), (226, 226, 224)
FINE = 3  # drawn so many times larger
RECALLS = np.linspace(0, 1, 101)
SIDE = 380  # pixels of a panel
EMPTY = (244, 244, 242)
APART = 3  # pixels between the classes and what is none
LONGEST_NAME = 170  # pixels
TITLE_SIZE = 16


def _font(size):
    return fonts.load(size * FINE)


class Sheet:
    """A page to draw on, in its final pixels whatever it is drawn in."""

    def __init__(self, width, height):
        self.image = Image.new("RGB", (round(width) * FINE, round(height) * FINE), PAPER)
        self.pen = ImageDraw.Draw(self.image, "RGBA")

    def line(self, points, colour, width=1.0):
        points = [(x * FINE, y * FINE) for x, y in points]
        self.pen.line(points, fill=colour, width=max(1, round(width * FINE)), joint="curve")

    def box(self, left, top, right, bottom, colour, radius=0.0):
        corners = [v * FINE for v in (left, top, max(left, right), max(top, bottom))]
        self.pen.rounded_rectangle(corners, radius * FINE, fill=colour)

    def text(self, x, y, text, size=13, colour=INK, anchor="lm", turned=False):
        font = _font(size)
        if not turned:
            font.draw(self.pen, (x * FINE, y * FINE), text, colour, anchor)
            return
        # Upwards, ending at (x, y): drawn level on a strip of its own first.
        strip = Image.new("L", (round(font.getlength(text)) + 2, round(1.4 * font.size)))
        font.draw(ImageDraw.Draw(strip), (0, strip.height // 2), text, 255, "lm")
        strip = strip.rotate(90, expand=True)
        self.image.paste(colour, (round(x * FINE - strip.width / 2), round(y * FINE) - strip.height), strip)

    def finish(self):
        """-> [H, W, 3] uint8"""
        size = (self.image.width // FINE, self.image.height // FINE)
        return np.asarray(self.image.resize(size, Image.Resampling.BOX))


def text_width(text, size):
    return _font(size).getlength(text) / FINE


def fit(text, size, width):
    """The text, cut and ended by "…" where it is wider than `width`."""
    return _font(size).fit(text, width * FINE)


def draw_curves(precisions, ious):
    """Precision over recall at each IoU, a panel for each kind.

    Args:
        precisions: {title: [I, 101] mean precision of the classes, -1 where undefined}.
        ious: the I overlaps from which an object counts as found.

    Returns:
        [H, W, 3] uint8.
    """
    left, top, gap, right = 58, 52, 64, 112
    panels = len(precisions)
    sheet = Sheet(left + panels * SIDE + (panels - 1) * (gap + right) + right, top + SIDE + 56)
    colours = _fade(len(ious))
    for panel, (title, table) in enumerate(precisions.items()):
        x0 = left + panel * (SIDE + gap + right)
        defined = bool((np.asarray(table) >= 0).all())
        mean = f"AP {np.mean(table):.3f}" if defined else "nothing to find"
        sheet.text(x0, top - 26, f"{title}: {mean}", size=17)
        _draw_axes(sheet, x0, top, "recall", "precision")
        if not defined:
            continue
        for row, colour in reversed(list(zip(np.asarray(table), colours, strict=True))):
            points = [(x0 + r * SIDE, top + (1 - p) * SIDE) for r, p in zip(RECALLS, row, strict=True)]
            sheet.line(points, colour, 2.2)
        for place, (row, iou, colour) in enumerate(zip(np.asarray(table), ious, colours, strict=True)):
            y = top + 10 + 19 * place
            sheet.box(x0 + SIDE + 12, y - 2, x0 + SIDE + 26, y + 2, colour, 2)
            sheet.text(x0 + SIDE + 32, y, f"{iou:.2f}", size=12, colour=SOFT)
            sheet.text(x0 + SIDE + 98, y, f"{row.mean():.2f}", size=12, anchor="rm")
    return sheet.finish()


def _draw_axes(sheet, x0, y0, across, up):
    for tick in np.linspace(0, 1, 6):
        x, y = x0 + tick * SIDE, y0 + (1 - tick) * SIDE
        sheet.line([(x, y0), (x, y0 + SIDE)], GRID)
        sheet.line([(x0, y), (x0 + SIDE, y)], GRID)
        sheet.text(x, y0 + SIDE + 14, f"{tick:.1f}", size=12, colour=SOFT, anchor="mm")
        sheet.text(x0 - 8, y, f"{tick:.1f}", size=12, colour=SOFT, anchor="rm")
    sheet.text(x0 + SIDE / 2, y0 + SIDE + 36, across, size=13, colour=SOFT, anchor="mm")
    sheet.text(x0 - 42, y0 + SIDE / 2 + text_width(up, 13) / 2, up, size=13, colour=SOFT, turned=True)


def _fade(count):
    """From dark blue at the loosest to orange at the strictest, even in lightness to the eye."""
    stops = np.array([[23, 62, 110], [47, 155, 230], [240, 190, 60], [213, 94, 0]], float)
    at = np.linspace(0, len(stops) - 1, count)
    return [tuple(round(float(np.interp(a, range(len(stops)), stops[:, c]))) for c in range(3)) for a in at]


def draw_confusion(matrix, names, title="truth by rows, detections by columns"):
    """A confusion matrix as `error_split.count_confusions` gives it, without classes that nothing is or was taken for.

    Args:
        matrix: [K + 1, K + 1] int.
        names: of the K classes; long ones are cut.
        title: above it; the sheet is as wide as it needs.

    Returns:
        [H, W, 3] uint8. A cell's colour, and its number where there is room, is its share of the row.
    """
    matrix = np.asarray(matrix)
    last = len(matrix) - 1
    shown = [i for i in range(last) if matrix[i].any() or matrix[:, i].any()] + [last]
    matrix, labels = matrix[np.ix_(shown, shown)], [fonts.class_name(names[i], i) for i in shown[:-1]]
    cell = int(np.clip(620 / len(shown), 13, 52))
    size = int(np.clip(0.42 * cell, 10, 13))
    labels = [fit(label, size, LONGEST_NAME) for label in labels]
    rows, columns = [*labels, "nothing there"], [*labels, "missed"]
    margin = max(text_width(label, size) for label in [*rows, *columns]) + 52
    top = margin + 36
    width = max(margin + cell * len(shown) + APART + 24, text_width(title, TITLE_SIZE) + 32)
    sheet = Sheet(width, top + cell * len(shown) + APART + 24)
    sheet.text(16, 24, title, size=TITLE_SIZE)
    # The empty grid first, so that only cells with something in them are drawn one by one. "missed" stands apart.
    edges = [margin + cell * i for i in range(len(shown))]
    far = (edges[-1] + cell + APART, top + cell * len(shown) + APART)
    sheet.box(margin, top, *far, EMPTY)
    for i, x in enumerate(edges):
        y, wide = x - margin + top, i == len(edges) - 1
        sheet.box(x - 1, top, x + 1 + APART * wide, far[1], PAPER)
        sheet.box(margin, y - 1, far[0], y + 1 + APART * wide, PAPER)
    counts = matrix.sum(axis=1)
    shares = matrix / np.maximum(counts, 1)[:, None]
    for i, row in enumerate(shares):
        y = top + i * cell + APART * (i == len(shares) - 1)
        sheet.text(margin - 46, y + cell / 2, rows[i], size=size, anchor="rm")
        sheet.text(margin - 8, y + cell / 2, str(counts[i]), size=max(size - 2, 9), colour=SOFT, anchor="rm")
        for j in np.flatnonzero(row):
            x, share = margin + j * cell + APART * (j == len(row) - 1), row[j]
            shade = _shade(share, right=i == j and i < len(shares) - 1)
            sheet.box(x + 1, y + 1, x + cell - 1, y + cell - 1, shade, 0.08 * cell)
            if cell >= 26:
                ink = PAPER if share > 0.55 else INK
                sheet.text(x + cell / 2, y + cell / 2, f"{share:.2f}"[share < 1 :], size, ink, "mm")
    for j, label in enumerate(columns):
        sheet.text(margin + (j + 0.5) * cell + APART * (j == len(columns) - 1), top - 8, label, size=size, turned=True)
    return sheet.finish()


def _shade(share, right):
    """Blue on the diagonal, orange beside it; faint things are made visible."""
    colour = np.array((0, 114, 178) if right else (213, 94, 0), float)
    strength = share**0.6
    return tuple(np.round((1 - strength) * np.array(EMPTY) + strength * colour).astype(int).tolist())


def draw_error_split(splits):
    """What each kind of error costs in AP50, as bars, a panel for each kind.

    Args:
        splits: {title: `error_split.ErrorSplit`}.

    Returns:
        [H, W, 3] uint8.
    """
    bar, step, label, width, room = 20, 34, 104, 250, 156
    reasons = list(next(iter(splits.values())).counts)
    longest = max([*(price for split in splits.values() for price in split.prices.values()), 0.01])
    sheet = Sheet(16 + len(splits) * (label + width + room), 66 + step * len(reasons) + 20)
    for panel, (title, split) in enumerate(splits.items()):
        x0 = 16 + panel * (label + width + room) + label
        head = "nothing to find" if split.ap50 < 0 else f"AP50 {split.ap50:.3f}"
        sheet.text(x0 - label, 26, f"{title}: {head}", size=17)
        for place, reason in enumerate(reasons):
            y = 66 + step * place
            price = max(split.prices[reason], 0.0)
            colour = tuple(palette(len(reasons))[place].tolist())
            sheet.text(x0 - 10, y + bar / 2, reason, anchor="rm")
            sheet.box(x0, y, x0 + width, y + bar, EMPTY, 4)
            if price > 0:
                sheet.box(x0, y, x0 + max(width * price / longest, 3), y + bar, colour, 4)
            sheet.text(x0 + width + 10, y + bar / 2, f"+{price:.3f}")
            sheet.text(x0 + width + room - 30, y + bar / 2, str(split.counts[reason]), 11, SOFT, "rm")
    return sheet.finish()
