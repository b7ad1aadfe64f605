"""The plan: which image goes to which shard, with all that a worker needs, written before any image is read.

Before it: a COCO annotation file. After it: `pipelines.shards`, one worker for one shard, which reads
`plan/NNNNN.jsonl` (one line = one image and its annotations) and nothing else of the annotations: workers share no
state and their memory does not grow with the data set. Images are ordered by a keyed hash of their id and dealt out
by rank, so shards are equally long, none is empty, and the same input gives the same bytes on any number of workers.
"""

import contextlib
import gc
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from htc_tf.errors import UserError
from pipelines import coco, files, panoptic
from pipelines.checks import Tally

PLAN_FILE = "plan.json"
FOLDER = "plan"  # of the lines, below the output
SUFFIX = ".jsonl"
VERSION = 2
IMAGES_PER_SHARD = 100
MAX_DEFAULT_SHARDS = 256
COCO_STUFF_LABELS = 183


@dataclass(frozen=True)
class Options:
    """What decides the records' bytes beside the input files. None: derived from the data."""

    shards: int | None = None
    seed: int = 0
    max_pixels: int = 50_000_000
    stuff: bool = False
    stuff_labels: int | None = None
    masks: str = "rle"  # or "png": run lengths and Model Garden's PNGs, or "none"
    decode: str = "full"  # or "header"


@dataclass(frozen=True)
class Plan:
    """What plan.json says. `tokens[i]` identifies shard i's content: a finished shard of another token is stale."""

    version: int
    options: dict[str, Any]
    inputs: dict[str, str]  # file name -> sha256
    categories: list[dict[str, Any]]
    masks: bool
    panoptic: bool  # the stuff maps are drawn from panoptic segments, which the lines list
    stuff_labels: int | None  # None: whatever the maps hold
    listed_images: int
    listed_annotations: int
    counters: dict[str, int]
    rejected: list[dict[str, Any]]
    tokens: list[str]
    images: list[int]  # a shard

    def name(self, shard: int) -> str:
        return f"{shard:05d}-of-{len(self.tokens):05d}"


def make_plan(annotations: str, output: str, options: Options, panoptic_file: str | None = None) -> Plan:
    """Reads and checks the annotation file and writes the plan below `output`; takes up the one that is there.

    Args:
      panoptic_file: COCO's panoptic JSON, whose segments go to the workers beside the annotations.

    Raises:
      UserError: the annotation file is unusable, or `output` holds records of other input or other options.
    """
    inputs = {files.base_name(annotations): files.sha256(annotations)}
    if panoptic_file:
        inputs[f"stuff/{files.base_name(panoptic_file)}"] = files.sha256(panoptic_file)
    existing = files.read_json(files.join(output, PLAN_FILE))
    if existing is not None:
        plan = _take_up(existing, output, inputs, asdict(options))
        if len(files.names(files.join(output, FOLDER), f"*{SUFFIX}")) == len(plan.tokens):
            return plan
    with _without_collector():
        return _plan_anew(annotations, output, options, panoptic_file, inputs)


def read_lines(output: str, shard: int) -> Iterator[dict[str, Any]]:
    """The images of one shard: {"image": {…}, "objects": [{…}, …]}, fields as in the annotation file.

    With a panoptic file there is "segments" too: the image's entry of `panoptic.read`, or None.
    """
    for line in files.read_lines(_lines_path(output, shard)):
        yield json.loads(line)


@contextlib.contextmanager
def _without_collector():
    """Annotations are millions of objects without a cycle: Python's collector would walk over them again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _plan_anew(annotations, output, options, panoptic_file, inputs):
    content = coco.read(annotations)
    tally = Tally()
    categories = coco.check_categories(content["categories"], annotations)
    images = coco.check_images(content["images"], tally)
    if not images:
        raise UserError(f"{annotations}: none of its {len(content['images'])} images is usable: {tally.rejected[0]}")
    objects = coco.check_annotations(content["annotations"], images, {row["id"] for row in categories}, tally)
    order = sorted(images, key=lambda image_id: (_rank(image_id, options.seed), image_id))
    shards = options.shards or min(-(-len(order) // IMAGES_PER_SHARD), MAX_DEFAULT_SHARDS)
    if shards > len(order):
        raise UserError(f"--shards {shards} is more than the {len(order)} images; none may be empty")
    members = [order[shard::shards] for shard in range(shards)]
    rows = {image_id: {"image": image, "objects": objects.get(image_id, [])} for image_id, image in images.items()}
    if panoptic_file:
        segments = panoptic.read(panoptic_file)
        for image_id, row in rows.items():
            row["segments"] = segments.get(image_id)
    fingerprint = json.dumps([VERSION, inputs, asdict(options)], sort_keys=True)
    plan = Plan(
        version=VERSION,
        options=asdict(options),
        inputs=inputs,
        categories=categories,
        masks=options.masks != "none" and any(item["segmentation"] for group in objects.values() for item in group),
        panoptic=panoptic_file is not None,
        stuff_labels=_stuff_labels(options, categories),
        listed_images=len(content["images"]),
        listed_annotations=len(content["annotations"]),
        counters=dict(tally.counters),
        rejected=tally.rejected,
        tokens=[hashlib.sha256(f"{fingerprint} {shard}/{shards}".encode()).hexdigest() for shard in range(shards)],
        images=[len(ids) for ids in members],
    )
    try:
        _write(plan, output, members, rows)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror or error}") from None
    return plan


def _write(plan, output, members, rows):
    folder = files.join(output, FOLDER)
    files.make_folder(folder)
    for stale in files.names(folder, "*"):
        files.remove(files.join(folder, stale))
    with tqdm(total=len(rows), desc="plan", unit="image") as bar:
        for shard, ids in enumerate(members):
            files.write_json_lines(_lines_path(output, shard), [rows[image_id] for image_id in ids])
            bar.update(len(ids))
    files.write_json(files.join(output, PLAN_FILE), asdict(plan))


def _take_up(existing, output, inputs, options):
    """The plan that an earlier run left, if it is this run's; its options count as given where they were derived."""
    known = {"annotations": existing.get("inputs"), **existing.get("options", {})}
    asked = {"annotations": inputs, **options}
    differing = [f"{key} was {known.get(key)}, is {value}" for key, value in asked.items() if known.get(key) != value]
    if existing.get("version") != VERSION:
        differing.insert(0, "made by another version")
    if differing:
        raise UserError(
            f"--output {output} holds records of another input or other options ({'; '.join(differing)}): "
            "remove it or name another folder"
        )
    return Plan(**existing)


def _lines_path(output, shard):
    return files.join(output, FOLDER, f"{shard:05d}{SUFFIX}")


def _rank(image_id, seed):
    return hashlib.blake2b(str(image_id).encode(), key=str(seed).encode(), digest_size=8).digest()


def _stuff_labels(options, categories):
    if not options.stuff or options.stuff_labels:
        return options.stuff_labels
    # COCO's own 80 classes come with COCO-stuff's labels, of which a small set need not hold the last.
    is_coco = len(categories) == 80 and categories[-1]["id"] == 90
    return COCO_STUFF_LABELS if is_coco else None
