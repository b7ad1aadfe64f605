"""Diagram of the network: boxes, masks and features that flow between its parts, as its options are set."""

from PIL import Image, ImageDraw

from htc_tf.visualization import fonts
from htc_tf.visualization.drawing import TEXT_COLOR
from htc_tf.visualization.labels import BACKGROUND_COLOR

OVERSAMPLING = 3  # drawn larger and scaled down, for smooth lines
NODE = (236, 236, 232)
BOXES, TO_MASKS, FLOW, CONTEXT = TEXT_COLOR, (200, 90, 20), (150, 40, 130), (0, 120, 130)
GLOBAL = (70, 130, 20)
FONT, TIP = 10, 5


def draw_diagram(trace, width, unit):
    """Draws the network of a Trace.

    Args:
        trace: A Trace.
        width: Width of the image in pixels.
        unit: A thousandth of the page's width in pixels.
    Returns:
        A PIL image.
    """
    return _Diagram(trace, width, unit).draw()


class _Diagram:
    """Positions are in units, from the top left corner."""

    def __init__(self, trace, width, unit):
        self.trace, self.unit, self.width = trace, unit, width / unit
        self.columns = 2 + trace.stages
        self.node = (min(0.8 * self.width / self.columns, 86), 30)
        self.semantic, self.masks = trace.labels is not None, trace.masks is not None
        self.heights = {"semantic": 16, "boxes": 92 if self.semantic else 16}
        self.heights["masks"] = self.heights["boxes"] + 76
        self.legend = self.heights["masks" if self.masks else "boxes"] + 46

    def draw(self):
        entries = self.entries()
        size = (self.width, self.legend + 21 * len(entries))
        self.image = Image.new("RGB", [round(side * self.unit * OVERSAMPLING) for side in size], BACKGROUND_COLOR)
        self.pen = ImageDraw.Draw(self.image)
        stages, masks = range(2, self.columns), [1 + stage for stage in self.trace.mask_stages]
        if self.semantic:
            left, right = self.x(2) - self.node[0] / 2, self.x(self.columns - 1) + self.node[0] / 2
            y = self.heights["semantic"]
            self.arrow([(self.x(0), self.heights["boxes"]), (self.x(0), y), (left - 6, y)], CONTEXT)
            for column in stages:
                self.arrow([(self.x(column) - 8, y), self.above(column, "boxes", -8)], CONTEXT)
                if column in masks:
                    # Around the left side of the box head.
                    x = self.x(column) - self.node[0] / 2 - 5
                    end = self.heights["masks"] + 8
                    self.arrow([(x, y), (x, end), (x + 5, end)], CONTEXT)
            self.box(left - 6, y - 15, right, y + 15, "semantic branch")
        if self.trace.global_context:
            self.draw_global_context(stages, masks)
        for column in range(1, self.columns):
            self.arrow([self.beside(column - 1, "boxes", 1), self.beside(column, "boxes", -1)], BOXES)
        for column in masks:
            below = (self.x(column), self.heights["boxes"] + 15)
            if self.trace.interleaved:
                self.arrow([below, self.above(column, "masks")], TO_MASKS)
            elif column - 1 not in masks:
                x = self.x(column - 1)
                self.arrow([(x, below[1]), (x, self.heights["masks"]), self.beside(column, "masks", -1)], TO_MASKS)
            if self.trace.relay:
                self.arrow([below, self.above(column, "masks")], FLOW)
            if self.trace.mask_info_flow and column - 1 in masks:
                self.arrow([self.beside(column - 1, "masks", 1, -4), self.beside(column, "masks", -1, -4)], FLOW)
        self.place(0, "boxes", "features")
        self.place(1, "boxes", "proposals")
        for column in stages:
            self.place(column, "boxes", f"boxes {column - 1}")
            if column in masks:
                self.place(column, "masks", f"masks {column - 1}")
        for row, (color, text) in enumerate(entries):
            y = self.legend + 21 * row
            self.arrow([(2, y), (24, y)], color)
            self.text(32, y, text, "lm")
        size = [round(side * self.unit) for side in size]
        return self.image.resize(size, Image.Resampling.BOX)

    def draw_global_context(self, stages, masks):
        """Draws arrows from the features to every head, along a line between box heads and mask heads."""
        below, line = self.heights["boxes"] + self.node[1] / 2, self.heights["boxes"] + 36
        for column in stages:
            x = self.x(column) + 16
            self.arrow([(self.x(0), below), (self.x(0), line), (x, line), (x, below)], GLOBAL)
            if column in masks:
                self.arrow([(x, line), self.above(column, "masks", 16)], GLOBAL)

    def entries(self):
        """Returns (color, meaning) of each kind of arrow."""
        entries = [(BOXES, "boxes, refined stage by stage")]
        if self.masks:
            boxes = "the refined boxes" if self.trace.interleaved else "the stage's input boxes"
            entries.append((TO_MASKS, f"masks are trained on {boxes}"))
        if self.trace.mask_info_flow and len(self.trace.mask_stages) > 1:
            entries.append((FLOW, "mask features: mask information flow"))
        if self.trace.relay:
            entries.append((FLOW, "features of the box head: feature relay"))
        if self.semantic:
            entries.append((CONTEXT, "context of the semantic branch"))
        if self.trace.global_context:
            entries.append((GLOBAL, "features of the whole image: global context"))
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
        corners = [value * self.unit * OVERSAMPLING for value in (left, top, right, bottom)]
        self.pen.rounded_rectangle(
            corners, 5 * self.unit * OVERSAMPLING, fill=NODE, outline=(190, 190, 186), width=OVERSAMPLING
        )
        self.text((left + right) / 2, (top + bottom) / 2, name, "mm")

    def text(self, x, y, text, anchor):
        scale = self.unit * OVERSAMPLING
        fonts.load(FONT * scale).draw(self.pen, (x * scale, y * scale), text, TEXT_COLOR, anchor)

    def arrow(self, points, color):
        """Draws a polyline of horizontal and vertical segments with an arrowhead at its end."""
        scale = self.unit * OVERSAMPLING
        (x0, y0), (x1, y1) = points[-2:]
        length = max(abs(x1 - x0) + abs(y1 - y0), 1)
        ahead, aside = (x1 - x0) / length, (y1 - y0) / length
        neck = (x1 - TIP * ahead, y1 - TIP * aside)
        line = [(x * scale, y * scale) for x, y in [*points[:-1], neck]]
        self.pen.line(line, fill=color, width=round(1.5 * scale), joint="curve")
        wing = 0.6 * TIP
        head = [
            (x1, y1),
            (neck[0] - wing * aside, neck[1] + wing * ahead),
            (neck[0] + wing * aside, neck[1] - wing * ahead),
        ]
        self.pen.polygon([(x * scale, y * scale) for x, y in head], fill=color)
