"""One shard of the plan to one TFRecord file: the Beam step that reads, checks and writes.

Before it: `pipelines.plan`. After it: `pipelines.report`. A shard is written under a temporary name, renamed, and then
gets its sidecar, which says what is in it and of which plan it is. So a worker may be killed or retried at any time,
and a rerun does only the shards without a sidecar of their plan. Elements are shard numbers: nothing of the data
passes through Beam, whose in-process runner would keep it all in memory.
"""

import logging
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import tensorflow as tf
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from tqdm import tqdm

from htc_tf.data import schema
from htc_tf.errors import UserError
from pipelines import files, images, objects, stuff, workers
from pipelines.checks import Rejected, Tally
from pipelines.job_progress import Progress, Stopped, stop, stop_reason
from pipelines.plan import Plan, read_lines

MENDED = "finished shards are kept: when this is mended, the same command continues"
READERS = 16  # of sidecars, at a time: in a store, each is an answer to wait for


@dataclass(frozen=True)
class Job:
    """What every worker knows: the plan and the folders, as `files.resolve` gives them.

    `stuff` holds the stuff maps or, if the plan has their segments, panoptic PNGs. In `progress`, of the machine that
    watches, a worker that can see it says how far it is.
    """

    plan: Plan
    images: str
    stuff: str | None
    output: str
    progress: str


def run(job: Job, shards: list[int], options: PipelineOptions) -> None:
    """Writes the shards of these numbers on the runner that `options` name, and waits for it.

    Raises:
      UserError: a worker could not read or write a file, or was killed.
    """
    failure = None
    try:
        with workers.watched(job.progress), beam.Pipeline(options=options) as pipeline:
            _ = pipeline | beam.Create(shards) | WriteShards(job)
    except Exception as error:
        failure = error
    reason = stop_reason(job.progress)
    if not reason and failure:
        # Of an error in a worker that does not see the folder, a runner knows the text.
        text = f"{type(failure).__name__}: {failure}"
        named = re.search(rf"{UserError.__name__}: (.*?)( \[while running |\\n|$)", text, re.MULTILINE)
        reason = named and named[1]
    if reason:
        raise UserError(reason) from None
    if failure:
        raise failure


class WriteShards(beam.PTransform):
    """PCollection of shard numbers -> PCollection of the names of the files written."""

    def __init__(self, job: Job):
        super().__init__()
        self.job = job

    def expand(self, shards):
        return shards | beam.Reshuffle() | beam.ParDo(WriteShard(self.job))


class WriteShard(beam.DoFn):
    """Writes one shard; every count of its sidecar is also a Beam counter, in the namespace of the module.

    There is a distribution too, `objects_per_image`.
    """

    def __init__(self, job: Job):
        self.job = job

    def setup(self):
        # A worker in another process tells of its coming and going, over the progress bar.
        for name in ("apache_beam.runners.worker", "__main__"):
            logging.getLogger(name).setLevel(logging.WARNING)

    def process(self, shard: int) -> Iterator[str]:
        if stop_reason(self.job.progress) is not None:
            return
        try:
            sidecar = write_shard(self.job, shard)
        except Stopped:
            return
        except UserError as error:
            # Raised, it would come to the user in Beam's tracebacks; for a worker elsewhere there is no other way.
            try:
                stop(self.job.progress, str(error))
            except OSError:
                raise error from None
            return
        for name, number in sidecar["counters"].items():
            Metrics.counter(__name__, name).inc(number)
        distribution = Metrics.distribution(__name__, "objects_per_image")
        for objects_per_image, number in sidecar["objects_per_image"].items():
            for _ in range(number):
                distribution.update(int(objects_per_image))
        yield sidecar["file"]


def write_shard(job: Job, shard: int) -> dict[str, Any]:
    """Writes the shard and its sidecar, and returns the sidecar's content."""
    plan, tally = job.plan, Tally()
    path = files.join(job.output, f"{plan.name(shard)}.tfrecord")
    names = {category["id"]: category["name"] for category in plan.categories}
    largest_label = -1
    try:
        # The old sidecar goes first: killed below, this shard must not look finished.
        files.remove(sidecar_path(job.output, plan, shard))
        with files.replacing(path) as temporary, Progress(job.progress, shard) as progress:
            with tf.io.TFRecordWriter(os.fspath(temporary)) as writer:
                for line in read_lines(job.output, shard):
                    try:
                        record, label = convert(job, line, names, tally)
                        writer.write(record)
                        largest_label = max(largest_label, label)
                    except Rejected as error:
                        image = line["image"]
                        tally.reject(error, image_id=image["id"], file_name=image["file_name"])
                        tally.count("objects_of_rejected_images", len(line["objects"]))
                    progress.advance()
            content = {"bytes": temporary.stat().st_size, "sha256": files.sha256(temporary)}
        sidecar = {
            "file": files.base_name(path),
            **content,
            "records": tally.counters["images"],
            "token": plan.tokens[shard],
            "largest_label": largest_label,
            "counters": {name: number for name, number in sorted(tally.counters.items()) if number},
            "objects_per_image": {str(size): number for size, number in sorted(tally.objects_per_image.items())},
            "rejected": tally.rejected,
        }
        files.write_sealed_json(sidecar_path(job.output, plan, shard), sidecar)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"{files.explain(error, path)}; {MENDED}") from error
    return sidecar


def convert(job: Job, line: dict[str, Any], names: dict[int, str], tally: Tally) -> tuple[bytes, int]:
    """One image of the plan to its serialised record and the largest label of its stuff map, or -1.

    Raises:
      Rejected: the image cannot be used. Annotations that cannot are tallied, and the image goes without them.
    """
    image, plan = line["image"], job.plan
    name, height, width = image["file_name"], image["height"], image["width"]
    max_pixels, decode = plan.options["max_pixels"], plan.options["decode"]
    encoded, stored = images.load_image(job.images, name, height, width, max_pixels, decode, plan.exif, tally)
    semantic, largest_label = b"", -1
    if job.stuff and plan.panoptic:
        semantic, largest_label = stuff.draw_map(job.stuff, line["segments"], height, width, plan.stuff_labels)
    elif job.stuff:
        semantic, largest_label = stuff.load_map(job.stuff, name, height, width, plan.stuff_labels, tally)
    kept = []
    for annotation in line["objects"]:
        try:
            category = names[annotation["category_id"]]
            boxes = plan.options["boxes"]
            kept.append(objects.convert(annotation, category, height, width, plan.masks, tally, boxes))
        except Rejected as error:
            tally.reject(error, image_id=image["id"], file_name=name, annotation_id=annotation["id"])
    tally.count("images")
    tally.count("images_without_objects", not kept)
    tally.count("objects", len(kept))
    tally.count("crowd", sum(item.is_crowd for item in kept))
    tally.objects_per_image[len(kept)] += 1
    with_pngs = plan.masks and plan.options["masks"] == "png"
    mask_pngs = [objects.draw_mask(item.mask_rle, height, width) for item in kept] if with_pngs else []
    described = schema.Image(encoded, stored, height, width, name, image["id"])
    return schema.example(described, kept, semantic, mask_pngs), largest_label


def read_sidecars(output: str, plan: Plan, verify: bool = False) -> list[dict[str, Any] | None]:
    """For each shard the sidecar if it is written, by this plan and whole; else None.

    Args:
      verify: read the shards, too, and compare their checksums; in a store, which has its own, only their sizes.
    """
    numbers = range(len(plan.tokens))
    with ThreadPoolExecutor(READERS) as pool, tqdm(total=len(numbers), desc="check", disable=not verify) as bar:
        found = []
        for sidecar in pool.map(lambda shard: _read_sidecar(output, plan, shard, verify), numbers):
            found.append(sidecar)
            bar.update()
    return found


def sidecar_path(output: str, plan: Plan, shard: int) -> str:
    return files.join(output, f"{plan.name(shard)}.json")


def _read_sidecar(output, plan, shard, verify):
    sidecar = files.read_sealed_json(sidecar_path(output, plan, shard))
    if sidecar is None or sidecar.get("token") != plan.tokens[shard]:
        return None
    path = files.join(output, sidecar["file"])
    if files.size(path) != sidecar["bytes"]:
        return None
    if verify and not files.is_remote(path) and files.sha256(path) != sidecar["sha256"]:
        return None
    return sidecar
