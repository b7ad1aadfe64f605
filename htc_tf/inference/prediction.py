"""Prediction: the objects detected in one image, as `htc_tf.load(...)(image)` returns them."""

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
THRESHOLD = 0.3  # lowest score that is drawn by default
SAVED = (*sorted(JPEG), ".png", ".webp")


class Prediction:
    """The n objects of one image, best first; none scores below the model's own threshold (0.001).

    Attributes:
        image: [H, W, 3] uint8 RGB, the image, upright.
        boxes: [n, 4] float32, y1, x1, y2, x2 in pixels of the image, clipped to it.
        scores: [n] float32, 0 to 1.
        classes: [n] int32, indices into the model's `class_names`.
        class_names, category_ids: n strings; n ids of the data set.
        masks: [n, H, W] bool, decoded on first access; None without mask heads.
        run_lengths: n COCO run lengths, the masks' compact form; None without mask heads.
    """

    def __init__(self, image, result, categories):
        """
        Args:
            image: [H, W, 3] uint8 RGB.
            result: ImageResult of the image.
            categories: K dicts {"id", "name"} by class index.
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
        # [H, W, n] uint8 in Fortran order -> [n, H, W] bool: both are views, nothing is copied.
        return coco_mask.decode(self.run_lengths).transpose(2, 0, 1).view(bool)

    def __len__(self):
        return len(self.scores)

    def __repr__(self):
        shown = Counter(self.above(THRESHOLD).class_names)
        height, width = self.image.shape[:2]
        counts = ", ".join(f"{count} {name}" for name, count in shown.most_common()) or "nothing"
        return f"<Prediction in {width} x {height} pixels: {counts}; {len(self) - shown.total()} below {THRESHOLD:.0%}>"

    def above(self, threshold):
        """Returns a Prediction with the objects whose score is at least `threshold`."""
        keep = np.flatnonzero(self.scores >= threshold)
        masks = None if self.run_lengths is None else [self.run_lengths[index] for index in keep]
        kept = ImageResult(self.boxes[keep], self.scores[keep], self.classes[keep], masks)
        return Prediction(self.image, kept, self.categories)

    def to_coco(self, image_id=0):
        """Returns the objects in COCO's results format, a list of dicts for JSON.

        Each has image_id, category_id (the data set's), bbox as [x, y, width, height] in pixels, score, and with masks
        segmentation as run lengths.
        """
        return coco_results([self.result], [image_id], [category["id"] for category in self.categories])

    def to_supervision(self):
        """Returns the objects as `supervision.Detections`, for its trackers, annotators and dataset writers.

        Raises:
            UserError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise UserError(
                "supervision is not installed: pip install supervision (the extra htc_tf[supervision])"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes[:, [1, 0, 3, 2]],
            mask=self.masks,
            confidence=self.scores,
            class_id=self.classes.astype(int),
            data={"class_name": np.array(self.class_names, dtype=str)},
        )

    def draw(self, path=None, threshold=THRESHOLD):
        """Draws outlines, boxes and labels of the objects on the image.

        Args:
            path: Path of the drawing, with the suffix .jpg, .jpeg, .png or .webp; its folder is created if necessary.
                None to save nothing.
            threshold: float, lowest score that is drawn, 0 to 1.
        Returns:
            [H', W', 3] uint8 RGB, of the image's size, or enlarged to 640 pixels along its longer side.
        Raises:
            UserError: The path has another suffix, or cannot be written.
        """
        names = [fonts.class_name(category["name"], category["id"]) for category in self.categories]
        drawn = draw(self.image, self.boxes, self.classes, names, self.scores, self.run_lengths, threshold)
        if path is not None:
            save(drawn, path)
        return drawn


def save(image, path):
    """Saves an image [H, W, 3 or 4] uint8 in the format of the path's suffix."""
    path = Path(path)
    if path.suffix.lower() not in SAVED:
        raise UserError(f"{path}: name an image that ends in {', '.join(SAVED)}")
    # subsampling 0 keeps colors at full resolution: outlines would fray at half of it.
    options = {"quality": 92, "subsampling": 0} if path.suffix.lower() in JPEG else {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, **options)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from error
