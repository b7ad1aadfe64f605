"""Annotation files as one dataset: read, merged if there are several, and checked against each other."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from htc_tf.errors import UserError

from . import coco, file_names, lvis, merging, panoptic
from .checks import Counters, Rejected, show
from .sources import ImageFolders


@dataclass(frozen=True)
class Dataset:
    """The usable content of the annotation files.

    Attributes:
        categories: The thing classes, as {"id", "name"}, in the order of their ids.
        rows: For each image id, the image's line of `plan.read_lines`.
        listed_images, listed_annotations: Numbers of entries in the files.
        merged: True if there are several files, or image ids changed: the records differ from any file then.
        lvis: Result of `lvis.collect`.
    """

    categories: list[dict[str, Any]]
    rows: dict[int, dict[str, Any]]
    listed_images: int
    listed_annotations: int
    merged: bool
    lvis: dict[str, Any] | None

    @property
    def masks(self) -> bool:
        """True if any object has a mask, or there is no object."""
        objects = [item for row in self.rows.values() for item in row["objects"]]
        return any(item["segmentation"] for item in objects) or not objects


def read(paths: Sequence[str], folders: ImageFolders, panoptic_file: str | None, counters: Counters) -> Dataset:
    """Reads the annotation files, and the segments of a panoptic file.

    Raises:
        UserError: A file is unusable, or the panoptic file's image ids cannot be those of the images.
    """
    contents = [coco.read(path, counters) for path in paths]
    if len(folders.different) > 1:
        for content, folder in zip(contents, folders.each, strict=True):
            _move_names(content["images"], folder, folders.root, counters)
    listed_images, listed_annotations = (
        sum(len(content[key]) for content in contents) for key in ("images", "annotations")
    )
    all_categories = [entry for content in contents for entry in content["categories"]]
    content, merged = contents[0], merging.needs_new_ids(contents)
    if merged:
        content, same_ids = merging.merge(contents, paths, folders.each, counters)
        if panoptic_file and not same_ids:
            raise UserError(
                f"--stuff {panoptic_file} names its images by their ids, but {' and '.join(paths)} need new ids: give "
                "each image an integer id of its own"
            )
        categories = content["categories"]
    else:
        categories = coco.check_categories(content["categories"], paths[0], counters)
    images = coco.check_images(content["images"], counters, folders.root)
    if not images:
        row = next(row for row in counters.rejected if "file_name" in row)  # merging rejects annotations before
        first = f"{show(row['file_name'])}: {row['detail']}" if row["file_name"] else row["detail"]
        raise UserError(f"{coco.listed(paths)}: none of the {listed_images} images is usable; the first: {first}")
    objects = coco.check_annotations(content["annotations"], images, categories, counters)
    rows = {image_id: {"image": image, "objects": objects.get(image_id, [])} for image_id, image in images.items()}
    if panoptic_file:
        segments = panoptic.read(panoptic_file, counters)
        for image_id, row in rows.items():
            row["segments"] = segments.get(image_id)
    federated = lvis.collect(content["images"], all_categories, images, categories, counters)
    return Dataset(categories, rows, listed_images, listed_annotations, merged, federated)


def _move_names(images, folder, root, counters):
    """Makes file names relative to `root` instead of `folder`; `coco.check_images` rejects the unusable ones."""
    for entry in images:
        if isinstance(entry, dict):
            with contextlib.suppress(Rejected):
                name = file_names.file_name(entry, folder, counters)
                entry["file_name"] = str(PurePosixPath(os.path.relpath(folder, root), name))
