"""The story: which pictures a model's walk is told in, in which order, with which sentences.

Before: `explanation.trace` recorded it. After: `explanation.page` lays the pictures out. What a model does not have
(stages, masks, a semantic branch) its story leaves out.
"""

import numpy as np

from htc_tf.explanation.diagram import draw_diagram
from htc_tf.explanation.page import GAP, Panel, draw_page
from htc_tf.explanation.panels import DRAWN, Panels


def draw_walk(walk, categories, name, width=2000, objects=3):
    """One page that shows a photo's walk through the model.

    Args:
        walk: a Walk.
        categories: [{"id", "name"}, ...] by class index.
        name: of the photo.
        width: of the page in pixels.
        objects: how many of the detections, best first, are numbered and looked at closely.
    Returns:
        [H, width, 3] uint8.
    """
    unit = width / 1000
    panels = Panels(walk, categories, unit, walk.objects[:objects])
    title = "One photo's walk through Hybrid Task Cascade"
    subtitle = (
        f"{name}, from its pixels to what was found. A colour is a class, a number one object, a percentage "
        "how sure a step is. Sections: arXiv:1901.07518."
    )
    return np.asarray(draw_page(title, subtitle, Story(walk, panels, unit).rows(), width))


class Story:
    """Rows of Panels with their sentences."""

    def __init__(self, walk, panels, unit):
        self.walk, self.panels, self.unit = walk, panels, unit
        self.gap = round(0.4 * GAP * unit)

    def rows(self):
        """-> lists of Panels, three in a row or less. What would be alone in its row ends the row before."""
        walk, count = self.walk, self.walk.stages
        rows = [[self.photo(), self.pyramid()], [self.proposals()]]
        if walk.labels is not None:
            rows[-1].append(self.semantic())
        if count > 1:
            rows[-1].append(self.plan())
            rows.append([])
        rows[-1] += [self.stage(stage) for stage in range(1, count + 1)]
        if walk.masks is not None and len(self.panels.objects):
            rows.append([self.masks()])
        rows[-1].append(self.detections())
        if len(rows[-1]) > 3:
            rows[-1:] = [rows[-1][:2], rows[-1][2:]]
        return rows

    def photo(self):
        height, width = self.walk.image.shape[:2]
        rows, columns = self.walk.padded
        text = f"All that the network sees: {width} x {height} pixels"
        text += "." if (height, width) == (rows, columns) else f", and zeros beyond, up to {columns} x {rows}."
        return Panel("The photo", text, "", self.panels.photo)

    def pyramid(self):
        text = (
            "A backbone and a feature pyramid turn pixels into features; bright is where they are strong. Each level "
            "has half the resolution of the one before. Fine levels are for small objects, coarse ones for large."
        )
        return Panel(
            "The pyramid", text, "FPN, arXiv:1612.03144", lambda width: self.panels.pyramid(width, self.gap), 2
        )

    def proposals(self):
        count = len(self.walk.scores)
        text = (
            f"Where may there be an object, whatever it is? Of {count} boxes the best {min(count, DRAWN)}, the surer "
            "the whiter. In colour those that will become objects."
        )
        return Panel("Proposals", text, "RPN, arXiv:1506.01497", self.panels.proposals)

    def semantic(self):
        text = (
            "A branch of its own names every pixel, objects and background. What it sees joins the features of every "
            "box, as context."
        )
        return Panel("The semantic branch", text, "Section 3.2", self.panels.semantic)

    def plan(self):
        text = f"Boxes pass through {self.walk.stages} stages, each with heads of its own that look at them afresh."
        share = 2 if self.walk.labels is None else 1
        return Panel("The cascade", text, "Section 3", lambda width: draw_diagram(self.walk, width, self.unit), share)

    def stage(self, stage):
        threshold = f"{self.walk.thresholds[stage - 1]:g}"
        if stage == 1:
            text = (
                "A head looks into each box, names it and moves its edges. Dashed is where it was before. This head "
                f"has learnt on boxes that meet an object with IoU {threshold}."
            )
        elif stage < self.walk.stages:
            text = (
                f"These boxes go into the next head, which has learnt on better ones, from IoU {threshold} on. It "
                "corrects less, and more exactly."
            )
        else:
            text = (
                f"The last head, from IoU {threshold} on, has the last word. Thin are the many other boxes that found "
                "the same objects."
            )
        return Panel(f"Stage {stage}", text, "Section 3.1", lambda width: self.panels.stage(stage, width))

    def masks(self):
        count = self.walk.stages
        captions = ["its boxes", *(f"stage {stage}" for stage in range(1, count + 1) if count > 1), "the mask"]
        whose = "every stage's" if count > 1 else "the"
        text = f"In each final box {whose} mask head tells, on 28 x 28 cells, what belongs to the object."
        if self.walk.mask_info_flow and count > 1:
            text += " Each builds on the features of the one before."
        if count > 1:
            text += " The mask is their mean." if self.walk.average_masks else " The mask is the last one's."
        height = self.panels.size(1000)[1] / 1000
        # As wide as makes it as high as the photo beside it.
        fraction = height / (len(self.panels.objects) / len(captions) + height)
        share = fraction / (1 - fraction)
        return Panel(
            "The masks", text, "Section 3.1", lambda width: self.panels.closeup(width, self.gap, captions), share
        )

    def detections(self):
        text = "A box's class is what all stages say together. " if self.walk.stages > 1 else ""
        text += f"Of boxes that overlap the best stays; of {len(self.walk.scores)} these are left."
        return Panel("What was found", text, "Section 4", self.panels.detections)
