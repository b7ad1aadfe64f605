"""Prediction: the objects detected in one image, as `htc_tf.load(...)(image)` returns them."""

from __future__ import annotations

import functools
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf.errors import UserError
from htc_tf.inference.label_files import labelme
from htc_tf.inference.overview import reduction, shrink_mask
from htc_tf.inference.results import ImageResult, coco_results
from htc_tf.ops.polygons import TOLERANCE, Polygon, trace_polygons
from htc_tf.visualization import fonts
from htc_tf.visualization.drawing import draw
from htc_tf.visualization.saving import save

if TYPE_CHECKING:
    import supervision

THRESHOLD = 0.3  # lowest score that is drawn by default
PREVIEW = 1024  # pixels, the longer side of an image in a notebook


class DetectedObject:
    """One object of a Prediction.

    Attributes:
        label: Name of its class.
        score: 0 to 1.
        box: [4] float32, y1, x1, y2, x2 in pixels of the image, clipped to it.
        class_index: Index into the model's `class_names`.
        category_id: Id of its class in the data set.
        run_lengths: COCO run lengths; None without mask heads.
    """

    def __init__(self, prediction: Prediction, index: int) -> None:
        category = prediction.categories[prediction.classes[index]]
        self.label: str = category["name"]
        self.score = float(prediction.scores[index])
        self.box: np.ndarray = prediction.boxes[index]
        self.class_index = int(prediction.classes[index])
        self.category_id: int = category["id"]
        run_lengths = prediction.run_lengths
        self.run_lengths: dict[str, Any] | None = None if run_lengths is None else run_lengths[index]

    @functools.cached_property
    def mask(self) -> np.ndarray | None:
        """[H, W] bool, decoded on first access; None without mask heads."""
        return None if self.run_lengths is None else coco_mask.decode(self.run_lengths).view(bool)

    def polygons(self, tolerance: float = TOLERANCE) -> list[Polygon] | None:
        """Returns the mask's outline; see `Prediction.polygons`."""
        return None if self.run_lengths is None else trace_polygons([self.run_lengths], tolerance)[0]

    def __repr__(self) -> str:
        y1, x1, y2, x2 = self.box.tolist()
        return f"<{self.label}, {self.score:.0%}, x {x1:.1f} to {x2:.1f}, y {y1:.1f} to {y2:.1f}>"


class Prediction:
    """The n objects of one image, best first; none scores below the model's own threshold (0.001).

    Iteration and an index give its `DetectedObject`s; a slice, a boolean mask [n] or indices give a Prediction.

    Attributes:
        image: [H, W, 3] uint8 RGB, the image, upright; of a file that was read in windows a reduced overview.
        size: (height, width) of the image, H and W.
        boxes: [n, 4] float32, y1, x1, y2, x2 in pixels of the image, clipped to it.
        scores: [n] float32, 0 to 1.
        classes: [n] int32, indices into the model's `class_names`.
        class_names, category_ids: n strings; n ids of the data set.
        masks: [n, H, W] bool, decoded on first access; None without mask heads.
        run_lengths: n COCO run lengths, the masks' compact form; None without mask heads.
        track_ids: [n] int32, the objects' numbers in a tracked video, 0 without one; None for an image.
    """

    def __init__(
        self,
        image: np.ndarray,
        result: ImageResult,
        categories: Sequence[dict[str, Any]],
        size: tuple[int, int] | None = None,
    ) -> None:
        """
        Args:
            image: [H, W, 3] uint8 RGB, or `inference.overview.Overview.image` of it.
            result: ImageResult of the image.
            categories: K dicts {"id", "name"} by class index.
            size: (height, width) of the image if `image` is an overview.
        """
        self.image, self.result, self.categories = image, result, categories
        self.size: tuple[int, int] = size or (image.shape[0], image.shape[1])
        self.boxes, self.scores, self.classes, self.run_lengths = result[:4]
        self.track_ids: np.ndarray | None = result.track_ids

    @property
    def class_names(self) -> list[str]:
        return [self.categories[index]["name"] for index in self.classes]

    @property
    def category_ids(self) -> list[int]:
        return [self.categories[index]["id"] for index in self.classes]

    @functools.cached_property
    def masks(self) -> np.ndarray | None:
        if self.run_lengths is None:
            return None
        if not self.run_lengths:
            return np.zeros((0, *self.size), bool)
        # [H, W, n] uint8 in Fortran order -> [n, H, W] bool: both are views, nothing is copied.
        return coco_mask.decode(self.run_lengths).transpose(2, 0, 1).view(bool)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[DetectedObject]:
        return (DetectedObject(self, index) for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> DetectedObject: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | Sequence[bool] | np.ndarray) -> Prediction: ...

    def __getitem__(
        self, index: int | slice | Sequence[int] | Sequence[bool] | np.ndarray
    ) -> DetectedObject | Prediction:
        """Returns a DetectedObject for an int; a Prediction for a slice, a boolean mask [n], or indices."""
        rows = np.arange(len(self))[index]
        if np.ndim(rows) == 0:
            return DetectedObject(self, int(rows))
        masks = None if self.run_lengths is None else [self.run_lengths[row] for row in rows]
        kept = self.result._replace(
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            classes=self.classes[rows],
            masks=masks,
            track_ids=None if self.track_ids is None else self.track_ids[rows],
        )
        return Prediction(self.image, kept, self.categories, self.size)

    def __repr__(self) -> str:
        shown = Counter(self.above(THRESHOLD).class_names)
        height, width = self.size
        counts = ", ".join(f"{count} {name}" for name, count in shown.most_common()) or "nothing"
        return f"<Prediction in {width} x {height} pixels: {counts}; {len(self) - shown.total()} below {THRESHOLD:.0%}>"

    def _repr_png_(self) -> bytes:
        """Returns the drawing as a PNG, which notebooks show for a Prediction."""
        shown = Image.fromarray(self.draw())
        shown.thumbnail((PREVIEW, PREVIEW))
        stream = io.BytesIO()
        shown.save(stream, "PNG")
        return stream.getvalue()

    def above(self, threshold: float) -> Prediction:
        """Returns a Prediction with the objects whose score is at least `threshold`."""
        return self[self.scores >= threshold]

    def visible(self) -> Prediction:
        """Returns a Prediction without the objects whose mask has no pixel; they are few, small, and unsure."""
        return self if not self.run_lengths else self[coco_mask.area(self.run_lengths) > 0]

    def polygons(self, tolerance: float = TOLERANCE) -> list[list[Polygon]] | None:
        """Returns the outlines of the masks: for each object a list of its parts, each with its holes.

        Args:
            tolerance: Pixels by which an outline may be simplified, by at most 1.5 % of its area. With 0 it follows
                the borders of the pixels.
        Returns:
            n lists of `ops.polygons.Polygon`: `outer`, [p, 2] float64, the corners x, y in pixels, and `holes`, a list
            of such arrays. A pixel i covers [i, i + 1). None without mask heads.
        """
        return None if self.run_lengths is None else trace_polygons(self.run_lengths, tolerance)

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """Returns the objects in COCO's results format, a list of dicts for JSON.

        Each has image_id, category_id (the data set's), bbox as [x, y, width, height] in pixels, score, and with masks
        segmentation as run lengths.

        Raises:
            UserError: `image_id` is no whole number, or negative.
        """
        if not isinstance(image_id, (int, np.integer)) or image_id < 0:
            raise UserError(f"image_id={image_id!r}: give the image's number, 0 or more")
        return coco_results([self.result], [image_id], [category["id"] for category in self.categories])

    def to_labelme(
        self,
        path: str | os.PathLike,
        tolerance: float = TOLERANCE,
        image_path: str | os.PathLike | None = None,
    ) -> None:
        """Writes the objects as a JSON file of LabelMe.

        Args:
            path: Path of the file; its folder is created if necessary.
            tolerance: Pixels by which polygons may differ from the masks' outlines.
            image_path: Path of the image file, which the JSON file refers to; None to store the image's pixels in it.
        Raises:
            UserError: The path cannot be written.
        """
        labelme.write_labels(Path(path), self, tolerance, image_path)

    def to_supervision(self) -> supervision.Detections:
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
            tracker_id=None if self.track_ids is None else self.track_ids.astype(int),
            data={"class_name": np.array(self.class_names, dtype=str)},
        )

    def draw(self, path: str | os.PathLike | None = None, threshold: float = THRESHOLD) -> np.ndarray:
        """Draws outlines, boxes and labels of the objects on the image.

        Args:
            path: Path of the drawing, with the suffix .jpg, .jpeg, .png or .webp; its folder is created if necessary.
                None to save nothing.
            threshold: float, lowest score that is drawn, 0 to 1.
        Returns:
            [H', W', 3] uint8 RGB, of the size of `image`, or enlarged to 640 pixels along its longer side.
        Raises:
            UserError: The path has another suffix, or cannot be written.
        """
        names = [fonts.class_name(category["name"], category["id"]) for category in self.categories]
        shown = self.above(threshold)
        boxes, masks = shown.boxes, shown.run_lengths
        if self.image.shape[:2] != self.size:
            factor = reduction(*self.size)
            boxes, masks = boxes / factor, masks and [shrink_mask(mask, factor) for mask in masks]
        drawn = draw(self.image, boxes, shown.classes, names, shown.scores, masks, threshold, shown.track_ids)
        if path is not None:
            save(drawn, path)
        return drawn
