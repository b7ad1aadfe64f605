"""Predictor: the model that `htc_tf.load` returns, which maps images in any common form to Predictions."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from htc_tf.errors import UserError
from htc_tf.inference.batching import detect_in_batches
from htc_tf.inference.inputs import MAX_PIXELS, ImageSource, as_image
from htc_tf.inference.prediction import Prediction
from htc_tf.inference.results import ImageDetector
from htc_tf.inference.tile_plan import OVERLAP
from htc_tf.inference.tiling import detect_tiled


class Predictor:
    """Detects objects in one image or a list of images.

    Attributes:
        categories: K dicts {"id", "name"} by class index; the ids are the data set's.
        class_names: K strings.
    """

    def __init__(self, detector: ImageDetector, categories: Sequence[dict[str, Any]]) -> None:
        """
        Args:
            detector: `inference.detector.Detector` of a run or `inference.exported.ExportedDetector` of an export.
            categories: K dicts {"id", "name"} by class index.
        """
        self.detector, self.categories = detector, list(categories)
        self._process = os.getpid()
        self.class_names: list[str] = [category["name"] for category in self.categories]

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence of them, too
        self, images: ImageSource, batch: int = ..., max_pixels: int = ..., tile: int | None = ..., overlap: float = ...
    ) -> Prediction: ...
    @overload
    def __call__(
        self,
        images: Sequence[ImageSource],
        batch: int = ...,
        max_pixels: int = ...,
        tile: int | None = ...,
        overlap: float = ...,
    ) -> list[Prediction]: ...

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource],
        batch: int = 1,
        max_pixels: int = MAX_PIXELS,
        tile: int | None = None,
        overlap: float = OVERLAP,
    ) -> Prediction | list[Prediction]:
        """Detects objects.

        Args:
            images: Path (JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF ...; its EXIF orientation is applied), https URL, bytes
                of a file, binary file object, PIL image, or array, [H, W, 3] RGB or [H, W] gray, uint8 or uint16; or a
                list of them, of any sizes.
            batch: int, images of a list that are detected at once, to fill a GPU. The results differ only by float32
                rounding. An export processes one image at a time.
            max_pixels: int, limit on the pixels of an image that is decoded here, against files that decode to far more
                than the memory.
            tile: int, side in pixels of the overlapping tiles in which a large image is detected: about the side of the
                training's images. Objects are merged over the seams. Of a TIFF of more than 33 million pixels only one
                tile at a time is in memory, if the extra geotiff is installed. None to detect in images as they are.
            overlap: float, lowest overlap of neighboring tiles, as a share of their side.
        Returns:
            A Prediction, or a list of them in the order of the images.
        Raises:
            UserError: A file cannot be read, or an image has another type; there is an overlap without tiles; or the
                model was loaded before this process was forked.
        """
        self._check_process()
        if tile is None and overlap != OVERLAP:
            raise UserError(f"overlap = {overlap!r} is that of tiles: give tile, too, or leave it out")
        listed = isinstance(images, (list, tuple))
        sources: Sequence[ImageSource] = images if listed else [images]  # type: ignore[assignment,list-item]

        def reader(number):
            return functools.partial(read, f"image {number} of the list: " if listed else "", max_pixels)

        if tile is not None:
            found = [self._detect_tiled(one, tile, overlap, batch, reader(n)) for n, one in enumerate(sources)]
        else:
            # A Prediction keeps its image, and the caller may use an array again.
            arrays = ((None, np.array(reader(n)(one))) for n, one in enumerate(sources))
            detected = detect_in_batches(self.detector, arrays, batch)
            found = [Prediction(image, result, self.categories) for _, image, result in detected]
        return found if listed else found[0]

    def _detect_tiled(self, source, tile, overlap, batch, reader):
        image, size, result = detect_tiled(self.detector, source, tile, overlap, batch, reader)
        return Prediction(image, result, self.categories, size)

    def _check_process(self):
        """Refuses a forked process, in which TensorFlow's threads are missing: it would wait for them without end."""
        if os.getpid() != self._process:
            raise UserError(
                "this model was loaded in another process: load it in the process that uses it, or start processes by "
                'multiprocessing.get_context("spawn")'
            )

    def semantic(self, image: ImageSource, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Returns the semantic branch's label of each pixel of an image, [H, W] uint8.

        Labels are the training data's; in COCO's stuff-thing maps a label is a category's id minus 1.

        Raises:
            UserError: As for a call; or the model has no semantic branch, or was exported without --semantic.
        """
        self._check_process()
        return self.detector.label_map(as_image(image, max_pixels))


def read(where: str, max_pixels: int, source: ImageSource) -> np.ndarray:
    """Returns a source by `as_image`; the error of one that has no name of its own begins with `where`."""
    try:
        return as_image(source, max_pixels)
    except UserError as error:
        if isinstance(source, (str, os.PathLike)):
            raise
        raise UserError(f"{where}{error}") from error
