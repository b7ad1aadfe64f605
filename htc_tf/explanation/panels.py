"""Panels of the page: one image for each step of the forward pass."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from htc_tf.explanation.canvas import Canvas, cut, heat, spread, tint, window
from htc_tf.explanation.page import GAP
from htc_tf.explanation.trace import softmax
from htc_tf.inference.semantic_map import draw_labels, label_names
from htc_tf.visualization import fonts
from htc_tf.visualization.drawing import TEXT_COLOR
from htc_tf.visualization.labels import BACKGROUND_COLOR, Label, place_labels
from htc_tf.visualization.palette import palette, readable_on

DRAWN = 100  # most proposals that are drawn
BACKGROUND = 0.5  # probability of background from which a stage's box is not drawn
DIM = 0.5  # how far the image fades behind boxes
LEAST_SHARE = 0.015  # share of the image from which a semantic label is named
TALLEST = 1.35  # largest height of an image, relative to its column's width
FONT = 12.5  # font size of labels, in thousandths of the page's width


class Panels:
    """Draws the steps of a Trace. Every panel takes its width in pixels and returns a PIL image."""

    def __init__(self, trace, categories, unit, objects):
        """
        Args:
            trace: A Trace.
            categories: [{"id", "name"}, ...] by class index.
            unit: A thousandth of the page's width in pixels.
            objects: Indices of the detections that are numbered and shown in detail.
        """
        self.trace, self.categories, self.unit, self.objects = trace, categories, unit, objects
        self.names = [fonts.class_name(category["name"], category["id"]) for category in categories]
        self.colors = palette(max(len(self.names), 1))
        self.aspect = trace.original.shape[0] / trace.original.shape[1]

    def color(self, detection):
        return self.colors[self.trace.detections.classes[detection]]

    def size(self, width):
        """Returns (width, height) of the image in a column, at least 2: `canvas.cut` takes the slope of a mask."""
        width = min(width, TALLEST * width / self.aspect)
        return max(2, round(width)), max(2, round(width * self.aspect))

    def canvas(self, width, dimmed=0.0):
        size = self.size(width)
        return Canvas(self.trace.original, size, size[0] / self.trace.image.shape[1], dimmed)

    def image(self, width):
        """The network's input at its own resolution."""
        return Image.fromarray(self.trace.image).resize(self.size(width), Image.Resampling.BOX)

    def pyramid(self, width, gap):
        """The activations of the pyramid: P2 as large as the image, the coarser levels beside it in a grid."""
        side, height = self.size(round((width - GAP * self.unit) / 2))
        small = tuple(max(1, (edge - gap) // 2) for edge in (side, height))
        second = side + round(GAP * self.unit)
        grid = Image.new("RGB", (second + side, height), BACKGROUND_COLOR)
        for place, (level, values) in enumerate(self.trace.levels.items()):
            row, column = divmod(max(place - 1, 0), 2)
            corner = (second + column * (small[0] + gap), row * (small[1] + gap)) if place else (0, 0)
            low, high = np.percentile(values, [2, 99.5])
            image = heat((values - low) / max(high - low, 1e-6), small if place else (side, height))
            cells = f"{values.shape[1]} x {values.shape[0]}"
            self.caption(
                image, f"P{level}", f"1/{2**level}: {cells}" if place else f"1/{2**level} of the size: {cells}"
            )
            grid.paste(image, corner)
        return grid

    def proposals(self, width):
        """The best proposals, whiter for higher scores; proposals of detected objects in the objects' colors."""
        canvas = self.canvas(width, DIM)
        scores = self.trace.scores[:DRAWN]
        reach = max(float(np.ptp(scores)), 1e-6) if len(scores) else 1
        for index in reversed(range(len(scores))):
            sure = float(scores[index] - scores[-1]) / reach
            canvas.box(self.trace.boxes[0, index], (255, 255, 255), self.unit, 0.12 + 0.6 * sure)
        return self.with_objects(canvas, 0)

    def stage(self, stage, width):
        """A stage's boxes: thin lines for foreground, thick lines for boxes that become detections."""
        trace, canvas = self.trace, self.canvas(width, DIM)
        probabilities = softmax(trace.logits[stage - 1])
        things = probabilities[:, :-1]
        shown = np.flatnonzero(probabilities[:, -1] < BACKGROUND)
        for row in sorted(shown, key=lambda row: things[row].max()):
            canvas.box(trace.boxes[stage, row], self.colors[things[row].argmax()], 0.8 * self.unit, 0.45)
        return self.with_objects(canvas, stage)

    def with_objects(self, canvas, step):
        """Adds the objects' boxes at a step, dashed at the step before, and labels with number, name and score."""
        trace, labels = self.trace, []
        for detection in reversed(trace.objects):
            row, color = trace.rows[detection], self.color(detection)
            if step and detection in self.objects:
                canvas.box(trace.boxes[step - 1, row], (255, 255, 255), 1.2 * self.unit, 0.9, dashed=True)
            canvas.box(trace.boxes[step, row], color, (3.2 if detection in self.objects else 2) * self.unit)
        for number, detection in enumerate(self.objects, 1):
            box = trace.boxes[step, trace.rows[detection]] * canvas.scale
            name = self.names[trace.detections.classes[detection]]
            labels.append(
                self.label(
                    f"{number} {name}" if step else str(number),
                    trace.probability(step, detection),
                    self.color(detection),
                    box,
                )
            )
        image = canvas.finish()
        place_labels(image, labels, FONT * self.unit)
        if step < trace.stages and labels:
            self.caption(image, f"{trace.overlap(step):.0%}", "overlap (IoU) with the final boxes", bottom=True)
        return image

    def label(self, name, score, color, box):
        return Label(
            name,
            "" if score is None else f"{score:.0%}",
            tuple(color.tolist()),
            readable_on(color),
            tuple(np.asarray(box).tolist()),
        )

    def semantic(self, width):
        """The label of every pixel, each named where there is most of it."""
        trace, size = self.trace, self.size(width)
        drawn = draw_labels(trace.image, trace.labels, self.categories)
        # Without the legend below: the names are drawn on the map.
        height = round(drawn.shape[1] * trace.labels.shape[0] / trace.labels.shape[1])
        image = Image.fromarray(drawn[:height]).resize(size, Image.Resampling.LANCZOS)
        labels, counts = np.unique(trace.labels, return_counts=True)
        large = [int(label) for label in labels[counts >= LEAST_SHARE * trace.labels.size]]
        font, labels = fonts.load(FONT * self.unit), []
        for label, (name, color) in label_names(self.categories, large).items():
            depth = depths(trace.labels == label)
            y, x = np.unravel_index(depth.argmax(), depth.shape) * np.array(size[::-1]) / depth.shape
            # The first place that is tried is then centered on the point.
            corner = [y + 0.75 * font.size, x - font.getlength(name) / 2 - 0.42 * font.size]
            labels.append((depth.max(), self.label(name, None, color, corner * 2)))
        place_labels(image, [label for _, label in sorted(labels, key=lambda pair: -pair[0])], FONT * self.unit)
        return image

    def detections(self, width):
        """The detections: boxes, masks and the scores of all stages together."""
        trace, canvas, labels = self.trace, self.canvas(width), []
        found, frame = trace.detections, (0, 0, *trace.image.shape[:2])
        numbers = {detection: f"{number} " for number, detection in enumerate(self.objects, 1)}
        for detection in reversed(range(len(found.scores))):
            box, color = found.boxes[detection], self.color(detection)
            if found.masks is not None:
                share = spread(found.masks[detection], box, frame, canvas.size)
                canvas.image = cut(np.asarray(canvas.image), share, color, 1.6 * self.unit)
            canvas.box(box, color, self.unit, 0.8)
            name = numbers.get(detection, "") + self.names[found.classes[detection]]
            labels.insert(0, self.label(name, found.scores[detection], color, box * canvas.scale))
        image = canvas.finish()
        place_labels(image, labels, FONT * self.unit)
        return image

    def closeup(self, width, gap, captions):
        """A row for each object: its boxes, each mask head's mask if there are several, and its final mask.

        Args:
            width: Width of the whole in pixels.
            gap: Pixels between the images.
            captions: A word or two above each column.
        """
        trace, columns = self.trace, len(captions)
        side = (width - (columns - 1) * gap) // columns
        font = fonts.load(11.5 * self.unit)
        top = round(1.7 * font.size)
        grid = Image.new("RGB", (width, max(top + len(self.objects) * (side + gap) - gap, 1)), BACKGROUND_COLOR)
        pen = ImageDraw.Draw(grid)
        for column, caption in enumerate(captions):
            font.draw(pen, (column * (side + gap), top / 2), font.fit(caption, side), TEXT_COLOR, "lm")
        scale = trace.original.shape[1] / trace.image.shape[1]
        for place, detection in enumerate(self.objects):
            color, boxes = self.color(detection), trace.boxes[:, trace.rows[detection]]
            wide, frame = around(boxes), around(boxes[-1:])
            crops = [self.boxes_within(window(trace.original, wide * scale, side), wide, boxes, color)]
            crop = window(trace.original, frame * scale, side)
            each = trace.masks[:, detection] if len(trace.masks) > 1 else ()
            for mask in [*each, trace.detections.masks[detection]]:
                share = spread(mask, trace.detections.boxes[detection], frame, (side, side))
                crops.append(tint(crop, share, color, 1.6 * self.unit))
            name = f"{place + 1} {self.names[trace.detections.classes[detection]]}"
            place_labels(crops[0], [self.label(name, None, color, [0, 0, 0, 0])], FONT * self.unit)
            for column, crop in enumerate(crops):
                grid.paste(crop, (column * (side + gap), top + place * (side + gap)))
        return grid

    def boxes_within(self, crop, frame, boxes, color):
        """One object's boxes, from the proposal (white and thin) to the last stage's box."""
        side = crop.shape[0]
        canvas = Canvas(crop, (side, side), side / float(frame[3] - frame[1]), 0.3)
        for step, box in enumerate(boxes):
            near = step / (len(boxes) - 1)
            shade = (1 - near) * np.array([255, 255, 255]) + near * color
            canvas.box(box - np.tile(frame[:2], 2), shade, (1 + 1.8 * near) * self.unit, 0.75 + 0.25 * near, not step)
        return canvas.finish()

    def caption(self, image, name, text, bottom=False):
        """Writes a caption on a dark strip in a corner of an image; `text` is left out if there is no room."""
        font = fonts.load(10.5 * self.unit)
        pad = 0.4 * font.size
        start = 2 * pad + font.getlength(name)
        width = start + font.getlength(text) + pad
        if width > image.width:
            text, width = "", start
        pen = ImageDraw.Draw(image, "RGBA")
        top = image.height - 1.5 * font.size if bottom else 0
        pen.rectangle((0, top, width, top + 1.5 * font.size), fill=(16, 18, 30, 190))
        for x, part in ((pad, name), (start, text)):
            font.draw(pen, (x, top + 0.75 * font.size), part, BACKGROUND_COLOR, "lm")


def around(boxes):
    """Returns a square frame, y1, x1, y2, x2, around boxes [n, 4] with a margin of 12 %."""
    start, end = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    middle, half = (start + end) / 2, 0.5 * max(float((end - start).max()), 1) * 1.24
    return np.concatenate([middle - half, middle + half])


def depths(region):
    """Estimates how deep each pixel lies inside a region [h, w] bool: the share of its surroundings inside."""
    # Padded, so that the image's border counts as the region's border.
    framed = Image.fromarray(np.where(np.pad(region, 1), np.uint8(255), np.uint8(0)))
    around = framed.filter(ImageFilter.BoxBlur(max(region.shape) / 12))
    return np.asarray(around, np.float32)[1:-1, 1:-1] * region
