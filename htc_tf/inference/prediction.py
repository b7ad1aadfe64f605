"""What was found in one picture: the answer that `htc_tf.load(...)(picture)` gives, with what one does with it.

Before: `inference.predictor` ran the model. After: the user's own program, or `inference.predict_files`, which saves it.
"""

import functools
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf.errors import UserError
from htc_tf.inference.results import ImageResult, coco_results
from htc_tf.visualization import fonts
from htc_tf.visualization.drawing import draw

JPEG = {".jpg", ".jpeg"}
THRESHOLD = 0.3  # lowest score that is worth a look
SAVED = (*sorted(JPEG), ".png", ".webp")


class Prediction:
    """Objects of one picture, best first; n of them, none below the model's own score threshold (0.001).

    Attributes:
        image: [H, W, 3] uint8 RGB, the picture, upright.
        boxes: [n, 4] float32, y1, x1, y2, x2 in pixels of the picture, within it.
        scores: [n] float32, 0 ... 1.
        classes: [n] int32, indices into the model's `class_names`.
        class_names, category_ids: n names; n ids of the data set.
        masks: [n, H, W] bool, or None from a model without mask branches. Made when first asked for: they are kept as
            COCO run lengths, which `run_lengths` has.
    """

    def __init__(self, image, result, categories):
        """
        Args:
            image: [H, W, 3] uint8 RGB.
            result: its ImageResult.
            categories: [{"id", "name"}, ...] by class index.
        """
        self.image, self.result, self.categories = image, result, categories
        self.boxes, self.scores, self.classes, self.run_lengths = result[:4]

    @property
    def class_names(self):
        return [self.categories[index]["name"] for index in self.classes]

    @property
    def category_ids(self):
        return [self.categories[index]["id"] for index in self.classes]

    @functools.cached_property
    def masks(self):
        if self.run_lengths is None:
            return None
        if not self.run_lengths:
            return np.zeros((0, *self.image.shape[:2]), bool)
        # Of [H, W, n] in Fortran's order a view, and as bytes no copy either.
        return coco_mask.decode(self.run_lengths).transpose(2, 0, 1).view(bool)

    def __len__(self):
        return len(self.scores)

    def __repr__(self):
        sure = Counter(self.above(THRESHOLD).class_names)
        height, width = self.image.shape[:2]
        counts = ", ".join(f"{count} {name}" for name, count in sure.most_common()) or "nothing"
        return f"<Prediction in {width} x {height} pixels: {counts}; {len(self) - sure.total()} below {THRESHOLD:.0%}>"

    def above(self, threshold):
        """-> a Prediction of the objects with at least that score."""
        keep = np.flatnonzero(self.scores >= threshold)
        masks = None if self.run_lengths is None else [self.run_lengths[index] for index in keep]
        kept = ImageResult(self.boxes[keep], self.scores[keep], self.classes[keep], masks)
        return Prediction(self.image, kept, self.categories)

    def to_coco(self, image_id=0):
        """-> a list of dicts in COCO's results format, which json can write: image_id, category_id (the data set's),
        bbox as [x, y, width, height] in pixels, score, and segmentation as run lengths where there are masks."""
        return coco_results([self.result], [image_id], [category["id"] for category in self.categories])

    def draw(self, path=None, threshold=THRESHOLD):
        """The picture with outlines, boxes and labels of the objects with at least that score.

        Args:
            path: where to save it, too: a name that ends in .jpg, .jpeg, .png or .webp, in a folder that is made if it
                is not there; or None.
            threshold: lowest score, 0 ... 1.
        Returns:
            [H', W', 3] uint8 RGB: of the picture's size, or enlarged to 640 pixels along its longer side.
        Raises:
            UserError: the name ends in something else.
        """
        names = [fonts.class_name(category["name"], category["id"]) for category in self.categories]
        drawn = draw(self.image, self.boxes, self.classes, names, self.scores, self.run_lengths, threshold)
        if path is not None:
            save(drawn, path)
        return drawn


def save(picture, path):
    """Saves [H, W, 3 or 4] uint8 as what the name's ending says."""
    path = Path(path)
    if path.suffix.lower() not in SAVED:
        raise UserError(f"{path}: name a picture that ends in {', '.join(SAVED)}")
    # No colours at half resolution: outlines would fray.
    options = {"quality": 92, "subsampling": 0} if path.suffix.lower() in JPEG else {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, **options)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from error
