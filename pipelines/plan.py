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
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from tqdm import tqdm

from htc_tf.errors import UserError
from pipelines import coco, files, panoptic, survey
from pipelines.checks import Tally
from pipelines.survey import State

PLAN_FILE = "plan.json"
FOLDER = "plan"  # of the lines, below the output
SUFFIX = ".jsonl"
STATES_FILE = "files.json"  # in the same folder
VERSION = 3
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
    exif: str = "auto"  # or "apply" or "ignore"
    boxes: str = "checked"  # or "unchecked", or "mask": each box is its mask's own


@dataclass(frozen=True)
class Plan:
    """What plan.json says. `tokens[i]` identifies shard i's content: a finished shard of another token is stale."""

    version: int
    options: dict[str, Any]
    inputs: dict[str, str]  # file name -> sha256
    folders: dict[str, str]  # "images" and, if there are stuff maps, "stuff": as `files.resolve` gives them
    exif: str  # "apply" or "ignore" orientations that no annotated size decides
    categories: list[dict[str, Any]]
    masks: bool
    panoptic: bool  # the stuff maps are drawn from panoptic segments, which the lines list
    stuff_labels: int | None  # None: whatever the maps hold
    listed_images: int
    listed_annotations: int
    counters: dict[str, int]
    rejected: list[dict[str, Any]]
    warnings: list[str]  # what the annotation file says that is unlikely to be meant
    lines: list[str]  # sha256 of the shards' plan/NNNNN.jsonl
    tokens: list[str]
    images: list[int]  # a shard

    def name(self, shard: int) -> str:
        return f"{shard:05d}-of-{len(self.tokens):05d}"


def make_plan(
    annotations: str,
    images: str,
    output: str,
    options: Options,
    stuff: str | None = None,
    panoptic_file: str | None = None,
) -> Plan:
    """Reads and checks the annotation file and writes the plan below `output`; takes up the one that is there.

    Args:
      images, stuff: the folders of the images and of their stuff maps or panoptic PNGs.
      panoptic_file: COCO's panoptic JSON, whose segments go to the workers beside the annotations.

    Raises:
      UserError: the annotation file is unusable, or `output` holds records of other input or other options.
    """
    inputs = {files.base_name(annotations): files.sha256(annotations)}
    if panoptic_file:
        inputs[f"stuff/{files.base_name(panoptic_file)}"] = files.sha256(panoptic_file)
    folders = {"images": files.resolve(images)} | ({"stuff": files.resolve(stuff)} if stuff else {})
    plan = _read(output)
    if plan is not None:
        _check_same(plan, output, inputs, folders, asdict(options))
        states = _read_states(plan, output)
        if states is not None:
            return _renew(plan, states, output)
    with _without_collector():
        return _plan_anew(annotations, output, options, panoptic_file, inputs, folders)


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


def _plan_anew(annotations, output, options, panoptic_file, inputs, folders):
    tally = Tally()
    content = coco.read(annotations, tally)
    categories = coco.check_categories(content["categories"], annotations, tally)
    images = coco.check_images(content["images"], tally, folders["images"])
    if not images:
        first = ": ".join(filter(None, (tally.rejected[0]["file_name"], tally.rejected[0]["detail"])))
        raise UserError(f"{annotations}: none of its {len(content['images'])} images is usable, the first for: {first}")
    objects = coco.check_annotations(content["annotations"], images, categories, tally)
    order = sorted(images, key=lambda image_id: (_rank(image_id, options.seed), image_id))
    shards = options.shards or min(-(-len(order) // IMAGES_PER_SHARD), MAX_DEFAULT_SHARDS)
    if shards > len(order):
        raise UserError(f"--shards {shards} is more than the {len(order)} images; none may be empty")
    members = [order[shard::shards] for shard in range(shards)]
    rows = {image_id: {"image": image, "objects": objects.get(image_id, [])} for image_id, image in images.items()}
    if panoptic_file:
        segments = panoptic.read(panoptic_file, tally)
        for image_id, row in rows.items():
            row["segments"] = segments.get(image_id)
    plan = Plan(
        version=VERSION,
        options=asdict(options),
        inputs=inputs,
        folders=folders,
        exif="",
        categories=categories,
        masks=options.masks != "none" and any(item["segmentation"] for group in objects.values() for item in group),
        panoptic=panoptic_file is not None,
        stuff_labels=_stuff_labels(options, categories),
        listed_images=len(content["images"]),
        listed_annotations=len(content["annotations"]),
        counters=dict(tally.counters),
        rejected=tally.rejected,
        warnings=tally.warnings,
        lines=[],
        tokens=[],
        images=[len(ids) for ids in members],
    )
    plan, states = _survey(
        plan, [survey.new_state(rows[image_id], options.stuff) for ids in members for image_id in ids]
    )
    folder = files.join(output, FOLDER)
    files.make_folder(folder)
    for stale in files.names(folder, "*"):
        files.remove(files.join(folder, stale))
    with tqdm(total=len(rows), desc="plan", unit="image") as bar:
        for shard, ids in enumerate(members):
            lines = files.write_json_lines(_lines_path(output, shard), [rows[image_id] for image_id in ids])
            plan.lines.append(lines)
            bar.update(len(ids))
    plan = _with_tokens(plan, states)
    _write(plan, states, output)
    return plan


def _read(output):
    """The plan that is there, or None if it is damaged or missing."""
    path = files.join(output, PLAN_FILE)
    content = files.read_sealed_json(path)
    if content is None:
        content = files.read_json(path)
        # Plans of versions before 3 have no checksum.
        if not isinstance(content, dict) or files.CHECKSUM in content:
            return None
    if content.get("version") != VERSION:
        raise UserError(f"--output {output} holds records of another version: remove it or name another folder")
    return Plan(**content)


def _read_states(plan, output):
    """The states of the last run, or None if they or any lines are damaged or missing."""
    listed = files.read_sealed_json(files.join(output, FOLDER, STATES_FILE))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda shard: _sha256(_lines_path(output, shard)), range(len(plan.lines))))
    return [State(*row) for row in listed["files"]] if listed and found == plan.lines else None


def _renew(plan, before, output):
    """The plan with the tokens of the files as they are now."""
    renewed, states = _survey(plan, before)
    renewed = _with_tokens(renewed, states)
    if renewed == plan:
        return plan
    lost, changed = survey.losses(before, states), survey.changes(before, states)
    if lost:
        raise UserError(
            f"{len(lost)} of the files that the records in {output} are made from are gone, the first is that of "
            f"{lost[0]}: put them back, or name another --output"
        )
    stale = sum(new != old for new, old in zip(renewed.tokens, plan.tokens, strict=True))
    if changed:
        print(
            f"the files of {len(changed)} of {len(states)} images are new or have changed since the last run, the "
            f"first is {changed[0]}: {stale} of {len(plan.tokens)} shards are written again",
            flush=True,
        )
    _write(renewed, states, output)
    return renewed


def _survey(plan, listed):
    """The plan with its decision on EXIF orientations, and the states of the files, in the shards' order."""
    asked = plan.options["exif"]
    states = survey.survey(plan.folders["images"], plan.folders.get("stuff"), listed, asked == "auto")
    exif = survey.decide(states) if asked == "auto" else asked
    if said := survey.describe(states, exif):
        print(said, flush=True)
    return replace(plan, exif=exif), states


def _with_tokens(plan, states):
    shards, start, tokens = len(plan.images), 0, []
    for shard, number in enumerate(plan.images):
        of_shard = states[start : start + number]
        start += number
        identity = [VERSION, plan.inputs, plan.options, plan.folders, plan.exif, plan.lines[shard], shards, of_shard]
        tokens.append(hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest())
    return replace(plan, tokens=tokens)


def _write(plan, states, output):
    # The plan last: without it, or with tokens of other states, the next run surveys anew.
    files.write_sealed_json(files.join(output, FOLDER, STATES_FILE), {"files": states})
    files.write_sealed_json(files.join(output, PLAN_FILE), asdict(plan))


def _check_same(plan, output, inputs, folders, options):
    """Raises UserError if the plan that an earlier run left is of other input or other options."""
    differing = []
    if plan.inputs != inputs:
        differing.append(f"other content of {', '.join(inputs)}, or of {', '.join(plan.inputs)}")
    known, asked = {**plan.options, **plan.folders}, {**options, **folders}
    for name in sorted(known.keys() | asked.keys()):
        if known.get(name) != asked.get(name):
            differing.append(f"--{name} was {_show(known.get(name))}, is {_show(asked.get(name))}")
    if differing:
        raise UserError(
            f"--output {output} holds records of another input or other options ({'; '.join(differing)}): "
            "remove it or name another folder"
        )


def _show(value):
    return "not given" if value in (None, False) else value


def _sha256(path):
    try:
        return files.sha256(path)
    except FileNotFoundError:
        return None


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
