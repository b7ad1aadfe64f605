"""The plan of the network: what goes where, as its switches are set.

Before: `explanation.trace` has the switches. After: a picture on the page, beside those of the steps.
"""

from PIL import Image, ImageDraw

from htc_tf.visualization import fonts
from htc_tf.visualization.drawing import INK, PAPER

FINE = 3  # drawn so many times larger
NODE = (236, 236, 232)
BOXES, TO_MASKS, FLOW, CONTEXT = INK, (200, 90, 20), (150, 40, 130), (0, 120, 130)
FONT, TIP = 10, 5


def draw_diagram(walk, width, unit):
    """The network of a Walk, `width` pixels wide, `unit` of them a thousandth of the page's width."""
    return _Diagram(walk, width, unit).draw()


class _Diagram:
    """Places are in units, from the top left."""

    def __init__(self, walk, width, unit):
        self.walk, self.unit, self.width = walk, unit, width / unit
        self.columns = 2 + walk.stages
        self.node = (min(0.8 * self.width / self.columns, 86), 30)
        self.semantic, self.masks = walk.labels is not None, walk.masks is not None
        self.heights = {"semantic": 16, "boxes": 92 if self.semantic else 16}
        self.heights["masks"] = self.heights["boxes"] + 76
        self.legend = self.heights["masks" if self.masks else "boxes"] + 46

    def draw(self):
        entries = self.entries()
        size = (self.width, self.legend + 21 * len(entries))
        self.sheet = Image.new("RGB", [round(side * self.unit * FINE) for side in size], PAPER)
        self.pen = ImageDraw.Draw(self.sheet)
        stages = range(2, self.columns)
        if self.semantic:
            left, right = self.x(2) - self.node[0] / 2, self.x(self.columns - 1) + self.node[0] / 2
            y = self.heights["semantic"]
            self.arrow([(self.x(0), self.heights["boxes"]), (self.x(0), y), (left - 6, y)], CONTEXT)
            for column in stages:
                self.arrow([(self.x(column) - 8, y), self.above(column, "boxes", -8)], CONTEXT)
                if self.masks:
                    # Past the box head, on its left.
                    x = self.x(column) - self.node[0] / 2 - 5
                    end = self.heights["masks"] + 8
                    self.arrow([(x, y), (x, end), (x + 5, end)], CONTEXT)
            self.box(left - 6, y - 15, right, y + 15, "semantic branch")
        for column in range(1, self.columns):
            self.arrow([self.beside(column - 1, "boxes", 1), self.beside(column, "boxes", -1)], BOXES)
        for column in stages if self.masks else ():
            below = (self.x(column), self.heights["boxes"] + 15)
            if self.walk.interleaved:
                self.arrow([below, self.above(column, "masks")], TO_MASKS)
            elif column == 2:
                x = self.x(1)
                self.arrow([(x, below[1]), (x, self.heights["masks"]), self.beside(column, "masks", -1)], TO_MASKS)
            if self.walk.mask_info_flow and column > 2:
                self.arrow([self.beside(column - 1, "masks", 1, -4), self.beside(column, "masks", -1, -4)], FLOW)
        self.place(0, "boxes", "features")
        self.place(1, "boxes", "proposals")
        for column in stages:
            self.place(column, "boxes", f"boxes {column - 1}")
            if self.masks:
                self.place(column, "masks", f"masks {column - 1}")
        for row, (colour, text) in enumerate(entries):
            y = self.legend + 21 * row
            self.arrow([(2, y), (24, y)], colour)
            self.text(32, y, text, "lm")
        size = [round(side * self.unit) for side in size]
        return self.sheet.resize(size, Image.Resampling.BOX)

    def entries(self):
        """What each kind of arrow means."""
        entries = [(BOXES, "boxes, better from stage to stage")]
        if self.masks and self.walk.interleaved:
            entries.append((TO_MASKS, "masks are learnt on boxes just refined"))
        if self.masks and self.walk.mask_info_flow and self.walk.stages > 1:
            entries.append((FLOW, "mask features: mask information flow"))
        if self.semantic:
            entries.append((CONTEXT, "context of the semantic branch"))
        return entries

    def x(self, column):
        return self.node[0] / 2 + 1 + column * (self.width - self.node[0] - 2) / (self.columns - 1)

    def above(self, column, row, aside=0):
        return self.x(column) + aside, self.heights[row] - self.node[1] / 2

    def beside(self, column, row, side, down=0):
        return self.x(column) + side * self.node[0] / 2, self.heights[row] + down

    def place(self, column, row, name):
        x, y = self.x(column), self.heights[row]
        self.box(x - self.node[0] / 2, y - self.node[1] / 2, x + self.node[0] / 2, y + self.node[1] / 2, name)

    def box(self, left, top, right, bottom, name):
        corners = [value * self.unit * FINE for value in (left, top, right, bottom)]
        self.pen.rounded_rectangle(corners, 5 * self.unit * FINE, fill=NODE, outline=(190, 190, 186), width=FINE)
        self.text((left + right) / 2, (top + bottom) / 2, name, "mm")

    def text(self, x, y, text, anchor):
        scale = self.unit * FINE
        fonts.load(FONT * scale).draw(self.pen, (x * scale, y * scale), text, INK, anchor)

    def arrow(self, points, colour):
        """A line through the points, level or upright, with a head at its end."""
        scale = self.unit * FINE
        (x0, y0), (x1, y1) = points[-2:]
        length = max(abs(x1 - x0) + abs(y1 - y0), 1)
        ahead, aside = (x1 - x0) / length, (y1 - y0) / length
        neck = (x1 - TIP * ahead, y1 - TIP * aside)
        line = [(x * scale, y * scale) for x, y in [*points[:-1], neck]]
        self.pen.line(line, fill=colour, width=round(1.5 * scale), joint="curve")
        wing = 0.6 * TIP
        head = [
            (x1, y1),
            (neck[0] - wing * aside, neck[1] + wing * ahead),
            (neck[0] + wing * aside, neck[1] - wing * ahead),
        ]
        self.pen.polygon([(x * scale, y * scale) for x, y in head], fill=colour)
