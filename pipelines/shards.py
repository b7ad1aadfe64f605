"""One shard of the plan to one TFRecord file: the Beam step that reads, checks and writes.

Before it: `pipelines.plan`. After it: `pipelines.report`. A shard is written under a temporary name, renamed, and then
gets its sidecar, which says what is in it and of which plan it is. So a worker may be killed or retried at any time,
and a rerun does only the shards without a sidecar of their plan. Elements are shard numbers: nothing of the data
passes through Beam, whose in-process runner would keep it all in memory.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions

from htc_tf.data import schema
from pipelines import files, images, objects
from pipelines.checks import IMAGE_REASONS, Rejected, Tally
from pipelines.plan import Plan, read_lines
from pipelines.progress import SUFFIX


@dataclass(frozen=True)
class Job:
    """What every worker knows: the plan and the folders, as real paths."""

    plan: Plan
    images: str
    stuff: str | None
    output: str


def run(job: Job, shards: list[int], options: PipelineOptions) -> None:
    """Writes the shards of these numbers on the runner that `options` name, and waits for it."""
    with beam.Pipeline(options=options) as pipeline:
        _ = pipeline | beam.Create(shards) | WriteShards(job)


class WriteShards(beam.PTransform):
    """PCollection of shard numbers -> PCollection of the names of the files written."""

    def __init__(self, job: Job):
        super().__init__()
        self.job = job

    def expand(self, shards):
        return shards | beam.Reshuffle() | beam.ParDo(WriteShard(self.job))


class WriteShard(beam.DoFn):
    """Writes one shard; every count of its sidecar is also a Beam counter, in the namespace of the module."""

    def __init__(self, job: Job):
        self.job = job

    def setup(self):
        # A worker in another process tells of its coming and going, over the progress bar.
        for name in ("apache_beam.runners.worker", "__main__"):
            logging.getLogger(name).setLevel(logging.WARNING)

    def process(self, shard: int) -> Iterator[str]:
        sidecar = write_shard(self.job, shard)
        for name, number in sidecar["counters"].items():
            Metrics.counter(__name__, name).inc(number)
        yield sidecar["file"]


def write_shard(job: Job, shard: int) -> dict[str, Any]:
    """Writes the shard and its sidecar, and returns the sidecar's content."""
    output, plan, tally = Path(job.output), job.plan, Tally()
    path = output / f"{plan.name(shard)}.tfrecord"
    names = {category["id"]: category["name"] for category in plan.categories}
    largest_label = -1
    # The old sidecar goes first: killed below, this shard must not look finished.
    sidecar_path(output, plan, shard).unlink(missing_ok=True)
    # A byte an image, unbuffered: whoever shows the progress needs only the file's size.
    with files.replacing(path) as temporary, open(progress_path(output, shard), "wb", buffering=0) as progress:
        with tf.io.TFRecordWriter(os.fspath(temporary)) as writer:
            for line in read_lines(output, shard):
                try:
                    record, label = convert(job, line, names, tally)
                    writer.write(record)
                    largest_label = max(largest_label, label)
                except Rejected as error:
                    image = line["image"]
                    tally.reject(error, image_id=image["id"], file_name=image["file_name"])
                    tally.count("objects_of_rejected_images", len(line["objects"]))
                progress.write(b".")
        content = {"file": path.name, "bytes": temporary.stat().st_size, "sha256": files.sha256(temporary)}
    sidecar = {
        **content,
        "records": tally.counters["images"],
        "token": plan.tokens[shard],
        "largest_label": largest_label,
        "counters": {name: number for name, number in sorted(tally.counters.items()) if number},
        "rejected": tally.rejected,
    }
    files.write_json(sidecar_path(output, plan, shard), sidecar)
    return sidecar


def convert(job: Job, line: dict[str, Any], names: dict[int, str], tally: Tally) -> tuple[bytes, int]:
    """One image of the plan to its serialised record and the largest label of its stuff map, or -1.

    Raises:
      Rejected: the image cannot be used. Annotations that cannot are tallied, and the image goes without them.
    """
    image, plan = line["image"], job.plan
    name, height, width = image["file_name"], image["height"], image["width"]
    encoded, stored = images.load_image(job.images, name, height, width, plan.options["max_pixels"], tally)
    semantic, largest_label = b"", -1
    if job.stuff:
        semantic, largest_label = images.load_stuff(job.stuff, name, height, width, plan.stuff_labels, tally)
    kept = []
    for annotation in line["objects"]:
        try:
            category = names[annotation["category_id"]]
            kept.append(objects.convert(annotation, category, height, width, plan.masks, tally))
        except Rejected as error:
            tally.reject(error, image_id=image["id"], file_name=name, annotation_id=annotation["id"])
    tally.count("images")
    tally.count("images_without_objects", not kept)
    tally.count("objects", len(kept))
    tally.count("crowd", sum(item.is_crowd for item in kept))
    described = schema.Image(encoded, stored, height, width, name, image["id"])
    return schema.example(described, kept, semantic), largest_label


def read_sidecar(output: Path, plan: Plan, shard: int) -> dict[str, Any] | None:
    """The sidecar of a shard that is written, by this plan and whole; else None."""
    sidecar = files.read_json(sidecar_path(output, plan, shard))
    if sidecar is None or sidecar.get("token") != plan.tokens[shard]:
        return None
    try:
        return sidecar if (output / sidecar["file"]).stat().st_size == sidecar["bytes"] else None
    except OSError:
        return None


def is_finished(output: Path, plan: Plan, shard: int) -> bool:
    """Whether a rerun may skip the shard. One that lacks images is done again: their files may be there by now."""
    sidecar = read_sidecar(output, plan, shard)
    return sidecar is not None and not sidecar["counters"].keys() & IMAGE_REASONS.keys()


def progress_path(output: Path, shard: int) -> Path:
    return output / "plan" / f"{shard:05d}{SUFFIX}"


def sidecar_path(output: Path, plan: Plan, shard: int) -> Path:
    return output / f"{plan.name(shard)}.json"
