"""The pictures of the page, each of one step of the walk.

Before: `explanation.trace` recorded the steps. After: `explanation.layout` puts them beside their sentences.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from htc_tf.explanation.canvas import Plate, cut, heat, spread, tint, window
from htc_tf.explanation.page import GAP
from htc_tf.explanation.trace import softmax
from htc_tf.inference.semantic_map import draw_labels, label_names
from htc_tf.visualization import fonts
from htc_tf.visualization.drawing import INK, PAPER
from htc_tf.visualization.labels import Chip, draw_chips
from htc_tf.visualization.palette import palette, readable_on

DRAWN = 100  # proposals, at most
BACKGROUND = 0.5  # a box is no object where this probability is higher
DIM = 0.5
LEAST_SHARE = 0.015  # of the photo, that a label needs to be named on it
TALLEST = 1.35  # a photo's height on the page, by the width that there is
FONT = 12.5  # of chips, in thousandths of the page's width


class Panels:
    """Draws the steps of a Walk; sizes are in pixels, `unit` of them a thousandth of the page's width."""

    def __init__(self, walk, categories, unit, objects):
        """
        Args:
            walk: a Walk.
            categories: [{"id", "name"}, ...] by class index.
            unit: pixels.
            objects: indices of the detections that are numbered, followed and looked at closely.
        """
        self.walk, self.categories, self.unit, self.objects = walk, categories, unit, objects
        self.names = [fonts.class_name(category["name"], category["id"]) for category in categories]
        self.colours = palette(max(len(self.names), 1))
        self.aspect = walk.photo.shape[0] / walk.photo.shape[1]

    def colour(self, detection):
        return self.colours[self.walk.detections.classes[detection]]

    def size(self, width):
        """(width, height) of a photo in a column."""
        width = min(width, TALLEST * width / self.aspect)
        return round(width), max(1, round(width * self.aspect))

    def plate(self, width, dimmed=0.0):
        size = self.size(width)
        return Plate(self.walk.photo, size, size[0] / self.walk.image.shape[1], dimmed)

    def photo(self, width):
        """What the network sees, at its own resolution."""
        return Image.fromarray(self.walk.image).resize(self.size(width), Image.Resampling.BOX)

    def pyramid(self, width, gap):
        """The finest level as large as the photo, the coarser ones beside it, two by two."""
        side, height = self.size(round((width - GAP * self.unit) / 2))
        small = tuple(max(1, (edge - gap) // 2) for edge in (side, height))
        second = side + round(GAP * self.unit)
        sheet = Image.new("RGB", (second + side, height), PAPER)
        for place, (level, values) in enumerate(self.walk.levels.items()):
            row, column = divmod(max(place - 1, 0), 2)
            corner = (second + column * (small[0] + gap), row * (small[1] + gap)) if place else (0, 0)
            low, high = np.percentile(values, [2, 99.5])
            picture = heat((values - low) / max(high - low, 1e-6), small if place else (side, height))
            cells = f"{values.shape[1]} x {values.shape[0]}"
            self.caption(
                picture, f"P{level}", f"1/{2**level}: {cells}" if place else f"1/{2**level} of the size: {cells}"
            )
            sheet.paste(picture, corner)
        return sheet

    def proposals(self, width):
        """The best proposals, the surer the whiter; the objects' in their colours."""
        plate = self.plate(width, DIM)
        scores = self.walk.scores[:DRAWN]
        reach = max(float(np.ptp(scores)), 1e-6) if len(scores) else 1
        for index in reversed(range(len(scores))):
            sure = (scores[index] - scores[-1]) / reach
            plate.box(self.walk.boxes[0, index], (255, 255, 255), self.unit, 0.12 + 0.6 * sure)
        return self.with_objects(plate, 0)

    def stage(self, stage, width):
        """The boxes that a stage makes: thin what it takes for objects, thick those that end as detections."""
        walk, plate = self.walk, self.plate(width, DIM)
        probabilities = softmax(walk.logits[stage - 1])
        things = probabilities[:, :-1]
        shown = np.flatnonzero(probabilities[:, -1] < BACKGROUND)
        for row in sorted(shown, key=lambda row: things[row].max()):
            plate.box(walk.boxes[stage, row], self.colours[things[row].argmax()], 0.8 * self.unit, 0.45)
        return self.with_objects(plate, stage)

    def with_objects(self, plate, step):
        """The objects' boxes of a step, where they were before as dashes, and chips: number, name and score."""
        walk, chips = self.walk, []
        for detection in reversed(walk.objects):
            row, colour = walk.rows[detection], self.colour(detection)
            if step and detection in self.objects:
                plate.box(walk.boxes[step - 1, row], (255, 255, 255), 1.2 * self.unit, 0.9, dashed=True)
            plate.box(walk.boxes[step, row], colour, (3.2 if detection in self.objects else 2) * self.unit)
        for number, detection in enumerate(self.objects, 1):
            box = walk.boxes[step, walk.rows[detection]] * plate.scale
            name = self.names[walk.detections.classes[detection]]
            chips.append(
                self.chip(
                    f"{number} {name}" if step else str(number),
                    walk.probability(step, detection),
                    self.colour(detection),
                    box,
                )
            )
        picture = plate.finish()
        draw_chips(picture, chips, FONT * self.unit)
        if step < walk.stages and chips:
            self.caption(picture, f"{walk.overlap(step):.0%}", "overlap (IoU) with the final boxes", bottom=True)
        return picture

    def chip(self, name, score, colour, box):
        return Chip(
            name,
            "" if score is None else f"{score:.0%}",
            tuple(colour.tolist()),
            readable_on(colour),
            tuple(np.asarray(box).tolist()),
        )

    def semantic(self, width):
        """The label of every pixel, each named where there is most of it."""
        walk, size = self.walk, self.size(width)
        drawn = draw_labels(walk.image, walk.labels, self.categories)
        # Without the legend beneath: the names are on the map.
        height = round(drawn.shape[1] * walk.labels.shape[0] / walk.labels.shape[1])
        picture = Image.fromarray(drawn[:height]).resize(size, Image.Resampling.LANCZOS)
        labels, counts = np.unique(walk.labels, return_counts=True)
        large = [int(label) for label in labels[counts >= LEAST_SHARE * walk.labels.size]]
        font, chips = fonts.load(FONT * self.unit), []
        for label, (name, colour) in label_names(self.categories, large).items():
            depth = depths(walk.labels == label)
            y, x = np.unravel_index(depth.argmax(), depth.shape) * np.array(size[::-1]) / depth.shape
            # The first place that is tried is then the one around the point.
            corner = [y + 0.75 * font.size, x - font.getlength(name) / 2 - 0.42 * font.size]
            chips.append((depth.max(), self.chip(name, None, colour, corner * 2)))
        draw_chips(picture, [chip for _, chip in sorted(chips, key=lambda pair: -pair[0])], FONT * self.unit)
        return picture

    def detections(self, width):
        """The masks, the boxes and the scores of all stages together."""
        walk, plate, chips = self.walk, self.plate(width), []
        found, frame = walk.detections, (0, 0, *walk.image.shape[:2])
        numbers = {detection: f"{number} " for number, detection in enumerate(self.objects, 1)}
        for detection in reversed(range(len(found.scores))):
            box, colour = found.boxes[detection], self.colour(detection)
            if found.masks is not None:
                share = spread(found.masks[detection], box, frame, plate.size)
                plate.photo = cut(np.asarray(plate.photo), share, colour, 1.6 * self.unit)
            plate.box(box, colour, self.unit, 0.8)
            name = numbers.get(detection, "") + self.names[found.classes[detection]]
            chips.insert(0, self.chip(name, found.scores[detection], colour, box * plate.scale))
        picture = plate.finish()
        draw_chips(picture, chips, FONT * self.unit)
        return picture

    def closeup(self, width, gap, captions):
        """A row for each object: its boxes, each stage's mask if there are several, the mask that it ends with.

        Args:
            width: of the whole.
            gap: between the pictures.
            captions: a word or two above each column.
        """
        walk, columns = self.walk, len(captions)
        side = (width - (columns - 1) * gap) // columns
        font = fonts.load(11.5 * self.unit)
        top = round(1.7 * font.size)
        sheet = Image.new("RGB", (width, max(top + len(self.objects) * (side + gap) - gap, 1)), PAPER)
        pen = ImageDraw.Draw(sheet)
        for column, caption in enumerate(captions):
            font.draw(pen, (column * (side + gap), top / 2), font.fit(caption, side), INK, "lm")
        scale = walk.photo.shape[1] / walk.image.shape[1]
        for place, detection in enumerate(self.objects):
            colour, boxes = self.colour(detection), walk.boxes[:, walk.rows[detection]]
            wide, frame = around(boxes), around(boxes[-1:])
            crops = [self.boxes_within(window(walk.photo, wide * scale, side), wide, boxes, colour)]
            photo = window(walk.photo, frame * scale, side)
            each = walk.masks[:, detection] if walk.stages > 1 else ()
            for mask in [*each, walk.detections.masks[detection]]:
                share = spread(mask, walk.detections.boxes[detection], frame, (side, side))
                crops.append(tint(photo, share, colour, 1.6 * self.unit))
            name = f"{place + 1} {self.names[walk.detections.classes[detection]]}"
            draw_chips(crops[0], [self.chip(name, None, colour, [0, 0, 0, 0])], FONT * self.unit)
            for column, crop in enumerate(crops):
                sheet.paste(crop, (column * (side + gap), top + place * (side + gap)))
        return sheet

    def boxes_within(self, photo, frame, boxes, colour):
        """From the proposal, white and thin, to the last stage's box."""
        side = photo.shape[0]
        plate = Plate(photo, (side, side), side / (frame[3] - frame[1]), 0.3)
        for step, box in enumerate(boxes):
            near = step / (len(boxes) - 1)
            shade = (1 - near) * np.array([255, 255, 255]) + near * colour
            plate.box(box - np.tile(frame[:2], 2), shade, (1 + 1.8 * near) * self.unit, 0.75 + 0.25 * near, not step)
        return plate.finish()

    def caption(self, picture, name, text, bottom=False):
        """A word and a few more on a dark strip in the picture's corner."""
        font = fonts.load(10.5 * self.unit)
        pad = 0.4 * font.size
        start = 2 * pad + font.getlength(name)
        width = start + font.getlength(text) + pad
        if width > picture.width:
            text, width = "", start
        pen = ImageDraw.Draw(picture, "RGBA")
        top = picture.height - 1.5 * font.size if bottom else 0
        pen.rectangle((0, top, width, top + 1.5 * font.size), fill=(16, 18, 30, 190))
        for x, part in ((pad, name), (start, text)):
            font.draw(pen, (x, top + 0.75 * font.size), part, PAPER, "lm")


def around(boxes):
    """A square frame, y1, x1, y2, x2, with room around boxes [n, 4]."""
    start, end = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    middle, half = (start + end) / 2, 0.5 * max((end - start).max(), 1) * 1.24
    return np.concatenate([middle - half, middle + half])


def depths(region):
    """How far each pixel of a region [h, w] bool is from its border, roughly: how much of what is around it belongs."""
    # A frame of nothing: the photo's border is the region's, too.
    framed = Image.fromarray(np.where(np.pad(region, 1), np.uint8(255), np.uint8(0)))
    around = framed.filter(ImageFilter.BoxBlur(max(region.shape) / 12))
    return np.asarray(around, np.float32)[1:-1, 1:-1] * region
