"""Shard writer: the Beam step that reads, checks and writes the images of one shard to one TFRecord file.

A shard is written under a temporary name and renamed. It then gets its index (`data.shard_index`), and at last its
sidecar, which describes its content and names its plan by a token. So a worker may be killed or retried at any time,
and a rerun writes only the shards without a valid sidecar, and the indexes that are missing or damaged. Elements are
shard numbers: no image passes through Beam, whose in-process runner would keep them in memory.
"""

import contextlib
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
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

from htc_tf.data import record_walk, schema, shard_index
from htc_tf.errors import UserError, user_error_in
from htc_tf.progress import progress_bar

from . import files, images, objects, runners, stuff, workers
from .checks import Counters, Rejected
from .job_progress import Progress, Stopped, stop, stop_reason
from .plan import Plan, read_lines

REMEDY = "finished shards are kept: fix this, then run the same command to continue"
READERS = 16  # threads that read sidecars, because each read from a store has a latency


@dataclass(frozen=True)
class Job:
    """The settings of every worker: the plan, and the folders as `files.resolve` returns them.

    Attributes:
        stuff: The folder of stuff maps or, if the plan has their segments, of panoptic PNGs.
        progress: The folder of `job_progress.show_progress`, on the machine that runs the command.
        link_folders: The folders in which links among the images may end, as in `images.read_inside`.
    """

    plan: Plan
    images: str
    stuff: str | None
    output: str
    progress: str
    link_folders: tuple[str, ...] | None = None


def run(job: Job, shards: list[int], options: PipelineOptions) -> None:
    """Writes shards on the runner that `options` select, and waits.

    Args:
        job: Job.
        shards: Numbers of the shards to write.
        options: Beam's options.
    Raises:
        UserError: A worker could not read or write a file, or was killed, or the runner's service does not answer.
    """
    # Workers without a shard would only take memory; 0 is one worker per core.
    local, failure = options.view_as(DirectOptions), None
    local.direct_num_workers = min(local.direct_num_workers or os.cpu_count() or 1, len(shards))
    try:
        with workers.monitor(job.progress), beam.Pipeline(options=options) as pipeline:
            _ = pipeline | beam.Create(shards) | WriteShards(job)
    except Exception as error:
        failure = error
    reason = stop_reason(job.progress)
    if not reason and failure:
        # A worker that does not share the folder can report an error only through the runner, as text.
        # Beam appends the step, or quotes a traceback with its line ends as \n.
        quoted = user_error_in(f"{type(failure).__name__}: {failure}")
        reason = quoted and re.split(r" \[while running |\\n", quoted)[0]
    if reason:
        raise UserError(reason) from None
    if failure:
        raise runners.explain_failure(failure, options)


class WriteShards(beam.PTransform):
    """Transforms a PCollection of shard numbers to one of the names of the files written."""

    def __init__(self, job: Job):
        super().__init__()
        self.job = job

    def expand(self, shards):
        return shards | beam.Reshuffle() | beam.ParDo(WriteShard(self.job))


class WriteShard(beam.DoFn):
    """Writes one shard.

    Every count of the sidecar is also a Beam counter in this module's namespace; `objects_per_image` is a distribution.
    """

    def __init__(self, job: Job):
        self.job = job

    def setup(self):
        # A worker in another process logs its start and end, which would disturb the progress bar.
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
            # If raised, it would reach the user in Beam's tracebacks; a worker elsewhere has no other way.
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
    plan, counters = job.plan, Counters()
    path = files.join(job.output, f"{plan.name(shard)}.tfrecord")
    names = {category["id"]: category["name"] for category in plan.categories}
    largest_label, rows = -1, []
    try:
        # The old sidecar is removed first: if killed below, this shard must not look finished.
        files.remove(sidecar_path(job.output, plan, shard))
        with files.atomic_write(path) as temporary, Progress(job.progress, shard) as progress:
            with tf.io.TFRecordWriter(os.fspath(temporary)) as writer:
                for line in read_lines(job.output, shard):
                    try:
                        record, numbers, label = convert(job, line, names, counters)
                        writer.write(record)
                        rows.append(numbers)
                        largest_label = max(largest_label, label)
                    except Rejected as error:
                        image = line["image"]
                        counters.reject(error, image_id=image["id"], file_name=image["file_name"])
                        counters.count("objects_of_rejected_images", len(line["objects"]))
                    progress.advance()
            content = {"bytes": temporary.stat().st_size, "sha256": files.sha256(temporary)}
        write_index(path, shard_index.make(rows), content["sha256"])
        sidecar = {
            "file": files.base_name(path),
            **content,
            "records": counters.counts["images"],
            "token": plan.tokens[shard],
            "largest_label": largest_label,
            "counters": {name: number for name, number in sorted(counters.counts.items()) if number},
            "objects_per_image": {str(size): number for size, number in sorted(counters.objects_per_image.items())},
            "rejected": counters.rejected,
        }
        files.write_checksummed_json(sidecar_path(job.output, plan, shard), sidecar)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"{files.describe_error(error, path)}; {REMEDY}") from error
    return sidecar


def convert(
    job: Job, line: dict[str, Any], names: dict[int, str], counters: Counters
) -> tuple[bytes, record_walk.Numbers, int]:
    """Converts one image of the plan to a record.

    Returns:
        (record, numbers, largest label): the serialized record, its numbers for the index, and the largest label of its
        stuff map or -1.
    Raises:
        Rejected: The image cannot be used. Unusable annotations are counted and left out instead.
    """
    image, plan = line["image"], job.plan
    name, height, width = image["file_name"], image["height"], image["width"]
    max_pixels, decode = plan.options["max_pixels"], plan.options["decode"]
    encoded, stored = images.load_image(
        job.images, name, height, width, max_pixels, decode, plan.exif, counters, job.link_folders
    )
    semantic, largest_label = b"", -1
    links, labels = () if plan.options.get("follow_links") else None, plan.stuff_labels
    if job.stuff and plan.panoptic:
        semantic, largest_label = stuff.draw_map(job.stuff, line["segments"], height, width, labels, links)
    elif job.stuff:
        semantic, largest_label = stuff.load_map(job.stuff, name, height, width, labels, counters, links)
    kept = []
    for annotation in line["objects"]:
        try:
            category = names[annotation["category_id"]]
            boxes = plan.options["boxes"]
            kept.append(objects.convert(annotation, category, height, width, plan.masks, counters, boxes))
        except Rejected as error:
            counters.reject(error, image_id=image["id"], file_name=name, annotation_id=annotation["id"])
    counters.count("images")
    counters.count("images_without_objects", not kept)
    counters.count("objects", len(kept))
    counters.count("crowd", sum(item.is_crowd for item in kept))
    counters.objects_per_image[len(kept)] += 1
    with_pngs = plan.masks and plan.options["masks"] == "png"
    mask_pngs = [objects.mask_png(item.mask_rle, height, width) for item in kept] if with_pngs else []
    described = schema.Image(encoded, stored, height, width, name, image["id"])
    record = schema.example(described, kept, semantic, mask_pngs)
    return record, record_walk.numbers_of(len(record), described, kept), largest_label


def write_index(path: str, index: shard_index.ShardIndex, sha256: str) -> None:
    with files.atomic_write(shard_index.index_path(path)) as temporary:
        temporary.write_bytes(shard_index.encode(index, sha256))


def repair_indexes(output: str, sidecars: list[dict[str, Any] | None]) -> int:
    """Writes the missing and damaged indexes of finished shards by walking their records; returns their number.

    Args:
        output: The folder of the records. If it is read-only, nothing is written.
        sidecars: As `read_sidecars` returns them.
    Raises:
        UserError: A shard without an index is damaged.
    """
    paths = [(files.join(output, sidecar["file"]), sidecar) for sidecar in sidecars if sidecar]
    with ThreadPoolExecutor(READERS) as pool:
        whole = list(pool.map(lambda pair: _has_index(*pair), paths))
    written = 0
    with contextlib.suppress(OSError):
        for (path, sidecar), has_index in zip(paths, whole, strict=True):
            if not has_index:
                shard = files.read_bytes(path) if files.is_remote(path) else record_walk.open_shard(path)
                try:
                    index = shard_index.make(record_walk.walk(shard))
                except record_walk.Damaged as error:  # in a store, of whose shards only the sizes were compared
                    raise UserError(f"{path} is damaged: {error}; remove it, then run the same command") from None
                write_index(path, index, sidecar["sha256"])
                written += 1
    return written


def read_sidecars(output: str, plan: Plan, verify: bool = False) -> list[dict[str, Any] | None]:
    """Returns each shard's sidecar, or None if the shard is missing, incomplete or of another plan.

    Args:
        output: The folder of the records.
        plan: The plan.
        verify: If True, compare the checksums of the shards too; in a store, which verifies its objects, only sizes.
    """
    numbers = range(len(plan.tokens))
    with ThreadPoolExecutor(READERS) as pool, progress_bar(total=len(numbers), desc="check", disable=not verify) as bar:
        found = []
        for sidecar in pool.map(lambda shard: _read_sidecar(output, plan, shard, verify), numbers):
            found.append(sidecar)
            bar.update()
    return found


def list_finished(output: str, plan: Plan) -> dict[int, int]:
    """Returns the number of images of each shard that has a sidecar, by the shard's number, from one listing."""
    present = set(files.names(output, "*.json"))
    return {shard: images for shard, images in enumerate(plan.images) if f"{plan.name(shard)}.json" in present}


def sidecar_path(output: str, plan: Plan, shard: int) -> str:
    return files.join(output, f"{plan.name(shard)}.json")


def _read_sidecar(output, plan, shard, verify):
    sidecar = files.read_checksummed_json(sidecar_path(output, plan, shard))
    if sidecar is None or sidecar.get("token") != plan.tokens[shard]:
        return None
    path = files.join(output, sidecar["file"])
    if files.size(path) != sidecar["bytes"]:
        return None
    if verify and not files.is_remote(path) and files.sha256(path) != sidecar["sha256"]:
        return None
    return sidecar


def _has_index(path, sidecar):
    try:
        content = files.read_bytes(shard_index.index_path(path))
        shard_index.decode(content, sidecar["records"], sidecar["bytes"], sidecar["sha256"])
    except (OSError, shard_index.Unusable):
        return False
    return True
