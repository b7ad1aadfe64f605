"""Layout of the page: which panels it has, in which order, with which texts.

Panels of parts that a model lacks (stages, masks, the semantic branch) are left out.
"""

import numpy as np

from htc_tf.explanation.diagram import draw_diagram
from htc_tf.explanation.page import GAP, Panel, draw_page
from htc_tf.explanation.panels import DRAWN, Panels

LEAST_SHARE = 0.5  # width of the masks relative to the detections beside them: those of many objects need room


def draw_explanation(trace, categories, name, width=2000, objects=3):
    """Draws the page that follows one image through the model.

    Args:
        trace: A Trace.
        categories: [{"id", "name"}, ...] by class index.
        name: The image's name.
        width: Width of the page in pixels.
        objects: Number of detections, best first, that are numbered and shown in detail.
    Returns:
        [H, width, 3] uint8.
    """
    unit = width / 1000
    panels = Panels(trace, categories, unit, trace.objects[:objects])
    title = "One image through Hybrid Task Cascade"
    subtitle = (
        f"{name}, from pixels to detections. Each class has a color, each object a number; percentages are the "
        "step's probabilities. Sections refer to arXiv:1901.07518."
    )
    return np.asarray(draw_page(title, subtitle, Layout(trace, panels, unit).rows(), width))


class Layout:
    """The page's panels with their texts, in rows."""

    def __init__(self, trace, panels, unit):
        self.trace, self.panels, self.unit = trace, panels, unit
        self.gap = round(0.4 * GAP * unit)

    def rows(self):
        """Returns lists of at most three Panels. A panel that would be alone joins the row before it."""
        trace, count = self.trace, self.trace.stages
        rows = [[self.image(), self.pyramid()], [self.proposals()]]
        if trace.labels is not None:
            rows[-1].append(self.semantic())
        if count > 1:
            rows[-1].append(self.plan())
            stages = np.array_split(range(1, count + 1), -(-count // 3))  # of even lengths
            rows += [[self.stage(int(stage)) for stage in row] for row in stages]
        else:
            rows[-1].append(self.stage(1))
        if trace.masks is not None and len(self.panels.objects):
            rows.append([self.masks()])
        rows[-1].append(self.detections())
        if len(rows[-1]) > 3:
            rows[-1:] = [rows[-1][:2], rows[-1][2:]]
        return rows

    def image(self):
        height, width = self.trace.image.shape[:2]
        rows, columns = self.trace.padded
        text = f"The network's input: {width} x {height} pixels"
        text += "." if (height, width) == (rows, columns) else f", padded with zeros to {columns} x {rows}."
        return Panel("The image", text, "", self.panels.image)

    def pyramid(self):
        text = (
            "The backbone and the feature pyramid turn pixels into features; bright cells have large activations. Each "
            "level has half the resolution of the previous one: fine levels for small objects, coarse ones for large."
        )
        return Panel(
            "The pyramid", text, "FPN, arXiv:1612.03144", lambda width: self.panels.pyramid(width, self.gap), 2
        )

    def proposals(self):
        count = len(self.trace.scores)
        text = (
            f"The RPN proposes boxes that may hold an object of any class: the best {min(count, DRAWN)} of {count}, "
            "whiter for higher scores. The proposals that become detections are in color."
        )
        return Panel("Proposals", text, "RPN, arXiv:1506.01497", self.panels.proposals)

    def semantic(self):
        text = (
            "A separate branch labels every pixel, objects and background. Its embedding is added to the features of "
            "every RoI, as context."
        )
        return Panel("The semantic branch", text, "Section 3.2", self.panels.semantic)

    def plan(self):
        text = f"Boxes pass through {self.trace.stages} stages; each has its own heads and pools its own features."
        share = 2 if self.trace.labels is None else 1
        return Panel("The cascade", text, "Section 3", lambda width: draw_diagram(self.trace, width, self.unit), share)

    def stage(self, stage):
        threshold = f"{self.trace.thresholds[stage - 1]:g}"
        if stage == 1:
            text = (
                "The box head classifies each RoI and refines its box; dashed lines are the boxes before. The head was "
                f"trained with positives from IoU {threshold}."
            )
        elif stage < self.trace.stages:
            text = (
                f"The refined boxes are this stage's RoIs. Its head was trained with positives from IoU {threshold}; "
                "its corrections are smaller and more precise."
            )
        else:
            text = (
                f"The last head was trained with positives from IoU {threshold}. Thin lines are more boxes on the same "
                "objects, which non-maximum suppression removes."
            )
        return Panel(f"Stage {stage}", text, "Section 3.1", lambda width: self.panels.stage(stage, width))

    def masks(self):
        stages = self.trace.mask_stages
        count = len(stages)
        captions = ["boxes", *(f"stage {stage}" for stage in stages if count > 1), "final mask"]
        whose = "every stage's" if count > 1 else "the"
        text = f"In each final box, {whose} mask head predicts the object's mask on 28 x 28 cells."
        if self.trace.mask_info_flow and count > 1:
            text += " Each receives the features of the previous one."
        if count > 1:
            text += f" The final mask is {'their mean' if self.trace.average_masks else 'the last one'}."
        height = self.panels.size(1000)[1] / 1000
        # The width at which this panel is as high as the image beside it, if that leaves room.
        fraction = height / (len(self.panels.objects) / len(captions) + height)
        share = max(fraction / (1 - fraction), LEAST_SHARE)
        return Panel(
            "The masks", text, "Section 3.1", lambda width: self.panels.closeup(width, self.gap, captions), share
        )

    def detections(self):
        text = "Class scores are the mean of all stages. " if self.trace.stages > 1 else ""
        text += f"Of overlapping boxes of one class the best is kept: these remain of {len(self.trace.scores)}."
        return Panel("Detections", text, "Section 4", self.panels.detections)
