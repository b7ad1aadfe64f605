"""Datasets: a folder of TFRecord shards and its `dataset_info.json`, read and checked.

`pipelines.coco_to_tfrecord` writes the folder, the info last: a folder without it is unfinished.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, get_origin

import tensorflow as tf
from google.protobuf.message import DecodeError

from htc_tf import formats
from htc_tf.data import schema
from htc_tf.data.record import Image, Object
from htc_tf.errors import UserError, reason_of

INFO_FILE = "dataset_info.json"
VERSION = formats.RECORDS


@dataclass(frozen=True)
class Category:
    """A thing class: COCO's category id and name."""

    id: int
    name: str


@dataclass(frozen=True)
class Shard:
    """A TFRecord file; its name is relative to the folder."""

    file: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Stuff:
    """The semantic maps: `present` if the records have any; `labels` is S, the number of their labels."""

    present: bool
    labels: int


@dataclass(frozen=True)
class DatasetInfo:
    """The content of `dataset_info.json`. Class index i of the network is `categories[i]`."""

    folder: str
    categories: tuple[Category, ...]
    stuff: Stuff
    masks: bool
    images: int
    objects: int
    crowd: int
    shards: tuple[Shard, ...]
    counters: dict[str, int] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.categories)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(category.name for category in self.categories)

    @property
    def category_ids(self) -> tuple[int, ...]:
        return tuple(category.id for category in self.categories)

    @property
    def shard_paths(self) -> tuple[str, ...]:
        return tuple(os.path.join(self.folder, shard.file) for shard in self.shards)

    @property
    def records(self) -> int:
        return sum(shard.records for shard in self.shards)


def load_info(folder: str | os.PathLike) -> DatasetInfo:
    """Reads the info of a dataset and checks that its shards exist and have the right size.

    Raises:
        UserError: The folder or its info is missing, unreadable or of another version, or a shard is missing or cut.
    """
    folder = os.fspath(folder)
    path = os.path.join(folder, INFO_FILE)
    if not tf.io.gfile.isdir(folder):
        raise UserError(f"{folder}: no such folder of records; prepare it with htc-tf coco_to_tfrecord")
    try:
        with tf.io.gfile.GFile(path) as file:
            content = json.load(file)
    except tf.errors.NotFoundError:
        raise UserError(f"{folder} has no {INFO_FILE}: {_why_no_info(folder)}") from None
    except (ValueError, RecursionError, tf.errors.OpError) as error:
        raise UserError(f"{path} is unreadable: {error}") from None
    info = _from_json(folder, path, content)
    for shard, shard_path in zip(info.shards, info.shard_paths, strict=True):
        try:
            size = tf.io.gfile.stat(shard_path).length
        except tf.errors.OpError:
            raise UserError(f"{shard_path} is missing, but {path} lists it; prepare the data again") from None
        if size != shard.bytes:
            raise UserError(f"{shard_path} has {size} bytes, not {shard.bytes}; prepare the data again")
    return info


def _why_no_info(folder):
    inside = sorted(name.rstrip("/") for name in tf.io.gfile.listdir(folder))[:1000]
    records = [name for name in inside if tf.io.gfile.exists(os.path.join(folder, name, INFO_FILE))]
    if records:
        return f"the records are in its {', '.join(records)}: give one of these folders"
    return "the preparation did not finish; run it again, or give a folder of records"


def without_autotune(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a dataset whose threads TensorFlow does not tune, so that its iterators end at once.

    With tuning, the end of an iterator sometimes waits for the next round, which comes after as much time again as the
    iterator has lived, up to a minute. `tf.data.AUTOTUNE` is one thread per core then, at most 16.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def read_shard(path: str, records: int) -> Iterator[bytes]:
    """Yields the serialized records of one shard.

    Raises:
        UserError: The shard is damaged, or does not hold `records` records. TensorFlow itself ends a file that is
            empty, or cut between two records, without an error.
    """
    count = 0
    try:
        for serialized in without_autotune(tf.data.TFRecordDataset(path)).as_numpy_iterator():
            count += 1
            yield serialized
    except tf.errors.OpError as error:
        raise UserError(
            f"{path} is damaged after record {count}: {reason_of(error.message)}; prepare the data again"
        ) from None
    if count != records:
        raise UserError(f"{path} holds {count} records, not {records}; prepare the data again")


def coco_from_records(info: DatasetInfo) -> dict[str, Any]:
    """Returns the ground truth of a dataset as a COCO annotations dict, so that evaluation needs no annotation file.

    Segmentations are compressed RLE, absent if the dataset has no masks; boxes are [x, y, w, h] in pixels.

    Raises:
        UserError: A shard is damaged, or a record has another form.
    """
    images, annotations = [], []
    for path, shard in zip(info.shard_paths, info.shards, strict=True):
        for number, serialized in enumerate(read_shard(path, shard.records)):
            try:
                image, objects, _ = schema.unpack(serialized)
                annotations += [coco_annotation(image, item) for item in objects]
            except (DecodeError, IndexError, ValueError) as error:
                raise UserError(
                    f"{path}: record {number} was not written by the preparation ({error}); prepare the data again"
                ) from None
            size = {"height": image.height, "width": image.width}
            images.append({"id": image.source_id, "file_name": image.filename, **size})
    categories = [{"id": category.id, "name": category.name} for category in info.categories]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco_annotation(image: Image, item: Object) -> dict[str, Any]:
    """Returns an object of a record as a COCO annotation, with `segmentation` if it has a mask.

    Raises:
        UnicodeDecodeError: The run lengths are not ASCII.
    """
    left, top = item.xmin * image.width, item.ymin * image.height
    annotation = {
        "id": item.id,
        "image_id": image.source_id,
        "category_id": item.label,
        "bbox": [left, top, item.xmax * image.width - left, item.ymax * image.height - top],
        "area": item.area,
        "iscrowd": item.is_crowd,
    }
    if item.mask_rle:
        size = [image.height, image.width]
        annotation["segmentation"] = {"size": size, "counts": item.mask_rle.decode("ascii")}
    return annotation


def _from_json(folder: str, path: str, content: Any) -> DatasetInfo:
    version = content.get("version") if isinstance(content, dict) else None
    if type(version) is not int or version < 1:
        raise UserError(f"{path} states no version: it was not written by the preparation; prepare the data again")
    formats.check(version, VERSION, path)
    names = ("masks", "images", "objects", "crowd", "counters", "options", "inputs")
    try:
        return _typed(
            DatasetInfo(
                folder=folder,
                categories=tuple(_typed(Category(**category)) for category in content["categories"]),
                stuff=_typed(Stuff(**content["stuff"])),
                shards=tuple(_typed(Shard(**shard)) for shard in content["shards"]),
                **{name: content[name] for name in names},
            )
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} was not written by the preparation: {error}; prepare the data again") from None


def _typed(made):
    """Returns a dataclass of JSON values after a check of their types."""
    for entry in fields(made):
        value, kind = getattr(made, entry.name), get_origin(entry.type) or entry.type
        if type(value) is not kind or (kind is int and not -(2**63) <= value < 2**63):
            raise TypeError(f"{type(made).__name__}.{entry.name} is {str(value)[:40]!r}")
    return made
