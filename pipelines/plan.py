"""Preparation plan: assigns images to shards, and writes each shard's annotations before any image is read.

`pipelines.shards` runs one worker per shard. It reads `plan/NNNNN.jsonl` (one line per image, with its annotations) and
nothing else of the annotation file, so workers share no state and their memory does not grow with the dataset. Images
are sorted by a keyed hash of their id and dealt out by rank. So shards are equally long, none is empty, and the same
input gives the same bytes on any number of workers.
"""

import contextlib
import gc
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from htc_tf.errors import UserError, printable
from htc_tf.progress import progress_bar

from . import annotations as annotation_files
from . import file_states, files, lvis, sources
from .checks import Counters
from .file_states import State
from .sources import ImageFolders

PLAN_FILE = "plan.json"
FOLDER = "plan"  # of the shards' lines, below the output
SUFFIX = ".jsonl"
LINES = f"{'[0-9]' * 5}{SUFFIX}"  # pattern of the names of the shards' lines
STATES_FILE = "files.json"  # in the same folder
VERSION = 3
IMAGES_PER_SHARD = 100
MAX_DEFAULT_SHARDS = 256
COCO_STUFF_LABELS = 183


@dataclass(frozen=True)
class Options:
    """Options that affect the records' bytes, beside the input files. None means derived from the data."""

    shards: int | None = None
    seed: int = 0
    max_pixels: int = 50_000_000
    stuff: bool = False
    stuff_labels: int | None = None
    masks: str = "rle"  # or "png": run lengths and Model Garden's PNGs, or "none"
    decode: str = "full"  # or "header"
    exif: str = "auto"  # or "apply" or "ignore"
    boxes: str = "checked"  # or "unchecked", or "mask": boxes are computed from the masks
    follow_links: bool = False


@dataclass(frozen=True)
class Plan:
    """The content of plan.json. `tokens[i]` identifies the content of shard i: a shard with another token is stale."""

    version: int
    options: dict[str, Any]
    inputs: dict[str, str]  # sha256 by file name, with the file's number before it if there are several
    folders: dict[str, str]  # "images", "stuff" if there are stuff maps: as `files.resolve` gives them
    exif: str  # "apply" or "ignore", for orientations that leave the size unchanged
    categories: list[dict[str, Any]]
    masks: bool
    panoptic: bool  # stuff maps are drawn from panoptic segments, which the lines list
    stuff_labels: int | None  # None: derived from the maps
    listed_images: int
    listed_annotations: int
    counters: dict[str, int]
    rejected: list[dict[str, Any]]
    warnings: list[str]  # suspicious content of the annotation file
    lines: list[str]  # sha256 of each shard's plan/NNNNN.jsonl
    tokens: list[str]
    images: list[int]  # number of images of each shard
    merged: bool = False  # as in `annotations.Dataset`
    side_files: dict[str, str] = field(default_factory=dict)  # sha256 of other files that the plan wrote, by name

    def name(self, shard: int) -> str:
        return f"{shard:05d}-of-{len(self.tokens):05d}"


def make_plan(
    annotations: Sequence[str],
    images: ImageFolders,
    output: str,
    options: Options,
    stuff: str | None = None,
    panoptic_file: str | None = None,
) -> Plan:
    """Reads and checks the annotation files and writes the plan below `output`, or continues the existing plan.

    Args:
        annotations: The annotation files.
        images: Their image folders.
        output: The folder of the records.
        options: Options.
        stuff: The folder of stuff maps or panoptic PNGs, or None.
        panoptic_file: COCO's panoptic JSON, whose segments go to the workers with the annotations; or None.
    Raises:
        UserError: An annotation file is unusable, or `output` holds records of other input or other options.
    """
    inputs, folders = sources.identify(annotations, images, stuff, panoptic_file)
    plan, states = _read(output), None
    if plan is not None:
        _check_same(plan, output, inputs, folders, asdict(options))
        states = _read_states(plan, output)
    if states is not None:
        plan, states = _refresh(plan, states, output)
        if all(state.stamp for state in states):
            return plan
    with without_collector():
        counters = Counters()
        dataset = annotation_files.read(annotations, images, panoptic_file, counters)
        # Names that are corrected or taken from URLs depend on the files that exist: those of missing ones may change.
        names = {row["image"]["file_name"] for row in dataset.rows.values()}
        if states is not None and names == {state.file_name for state in states}:
            return plan
        return _make_new_plan(dataset, counters, output, options, panoptic_file, inputs, folders)


def read_lines(output: str, shard: int) -> Iterator[dict[str, Any]]:
    """Yields the images of one shard: {"image": {…}, "objects": [{…}, …]}, fields as in the annotation file.

    With a panoptic file, "segments" is the image's entry of `panoptic.read`, or None.
    """
    for line in files.read_lines(_lines_path(output, shard)):
        yield json.loads(line)


@contextlib.contextmanager
def without_collector():
    """Disables garbage collection, which would scan the millions of acyclic annotations again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _make_new_plan(dataset, counters, output, options, panoptic_file, inputs, folders):
    key = str(options.seed).encode()
    order = sorted(dataset.rows, key=lambda i: (hashlib.blake2b(str(i).encode(), key=key, digest_size=8).digest(), i))
    shards = options.shards or min(-(-len(order) // IMAGES_PER_SHARD), MAX_DEFAULT_SHARDS)
    if shards > len(order):
        raise UserError(f"--shards {shards} is more than the {len(order)} images; no shard may be empty")
    members = [order[shard::shards] for shard in range(shards)]
    plan = Plan(
        version=VERSION,
        options=asdict(options),
        inputs=inputs,
        folders=folders,
        exif="",
        categories=dataset.categories,
        masks=options.masks != "none" and dataset.masks,
        panoptic=panoptic_file is not None,
        stuff_labels=_stuff_labels(options, dataset.categories),
        listed_images=dataset.listed_images,
        listed_annotations=dataset.listed_annotations,
        counters=dict(counters.counts),
        rejected=counters.rejected,
        warnings=list(dict.fromkeys(counters.warnings)),
        lines=[],
        tokens=[],
        images=[len(ids) for ids in members],
        merged=dataset.merged,
    )
    rows = dataset.rows
    plan, states = _update_states(
        plan, [file_states.new_state(rows[image_id], options.stuff) for ids in members for image_id in ids]
    )
    folder = files.join(output, FOLDER)
    files.make_folder(folder)
    for stale in files.names(folder, LINES):
        files.remove(files.join(folder, stale))
    with progress_bar(total=len(rows), desc="plan", unit="image") as bar:
        for shard, ids in enumerate(members):
            lines = files.write_json_lines(_lines_path(output, shard), [rows[image_id] for image_id in ids])
            plan.lines.append(lines)
            bar.update(len(ids))
    if dataset.lvis:
        plan.side_files[lvis.FILE] = files.write_json_lines(files.join(output, lvis.FILE), [dataset.lvis])
    plan = _with_tokens(plan, states)
    _write(plan, states, output)
    return plan


def _read(output):
    """Returns the existing plan, or None if it is damaged or missing."""
    path = files.join(output, PLAN_FILE)
    content = files.read_checksummed_json(path)
    if content is None:
        content = files.read_json(path)
        # Plans of versions before 3 have no checksum.
        if not isinstance(content, dict) or files.CHECKSUM in content:
            return None
    if content.get("version") != VERSION:
        raise UserError(f"--output {output} holds records of another version: give another folder, or remove them")
    return Plan(**content)


def _read_states(plan, output):
    """Returns the states of the last run, or None if they or any lines are damaged or missing."""
    listed = files.read_checksummed_json(files.join(output, FOLDER, STATES_FILE))
    paths = [_lines_path(output, shard) for shard in range(len(plan.lines))]
    paths += [files.join(output, name) for name in plan.side_files]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(_sha256, paths))
    whole = found == [*plan.lines, *plan.side_files.values()]
    return [State(*row) for row in listed["files"]] if listed and whole else None


def _refresh(plan, before, output):
    """Returns the plan with the tokens of the current files, and their states."""
    renewed, states = _update_states(plan, before)
    renewed = _with_tokens(renewed, states)
    if renewed == plan:
        return plan, states
    lost, changed = file_states.removed(before, states), file_states.changes(before, states)
    if lost:
        raise UserError(
            f"the files of {len(lost)} images that the records in {output} were made from are gone, the first is "
            f"{lost[0]}: restore them, or give another --output"
        )
    stale = sum(new != old for new, old in zip(renewed.tokens, plan.tokens, strict=True))
    if changed:
        print(
            f"the files of {len(changed)} of {len(states)} images are new or have changed since the last run, the "
            f"first is {printable(changed[0])}: {stale} of {len(plan.tokens)} shards are written again",
            flush=True,
        )
    _write(renewed, states, output)
    return renewed, states


def _update_states(plan, listed):
    """Returns the plan with its decision on EXIF orientations, and the states of the files in the shards' order."""
    asked = plan.options["exif"]
    states = file_states.read_states(plan.folders["images"], plan.folders.get("stuff"), listed, asked == "auto")
    exif = file_states.decide_exif(states) if asked == "auto" else asked
    if line := file_states.describe(states, exif):
        print(line, flush=True)
    return replace(plan, exif=exif), states


def _with_tokens(plan, states):
    shards, start, tokens = len(plan.images), 0, []
    for shard, number in enumerate(plan.images):
        shard_states = states[start : start + number]
        start += number
        whole = [VERSION, plan.inputs, plan.options, plan.folders, plan.exif]
        identity = [*whole, plan.lines[shard], shards, shard_states]
        tokens.append(hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest())
    return replace(plan, tokens=tokens)


def _write(plan, states, output):
    # The plan is written last: without it, or with tokens of other states, the next run reads the states again.
    files.write_checksummed_json(files.join(output, FOLDER, STATES_FILE), {"files": states})
    files.write_checksummed_json(files.join(output, PLAN_FILE), asdict(plan))


def _check_same(plan, output, inputs, folders, options):
    """Raises UserError if the plan of an earlier run has other input or other options."""
    differing = []
    if plan.inputs != inputs:
        differing.append(f"other content of {', '.join(inputs)}, or of {', '.join(plan.inputs)}")
    known, asked = {**plan.options, **plan.folders}, {**options, **folders}
    for name in sorted(known.keys() | asked.keys()):
        # A plan of an earlier version lacks the newer options.
        if (known.get(name) or None) != (asked.get(name) or None):
            differing.append(f"--{name} was {known.get(name) or 'not given'}, is {asked.get(name) or 'not given'}")
    if differing:
        raise UserError(
            f"--output {output} holds records of another input or other options ({'; '.join(differing)}): "
            "give another folder, or remove them"
        )


def _sha256(path):
    try:
        return files.sha256(path)
    except FileNotFoundError:
        return None


def _lines_path(output, shard):
    return files.join(output, FOLDER, f"{shard:05d}{SUFFIX}")


def _stuff_labels(options, categories):
    if not options.stuff or options.stuff_labels:
        return options.stuff_labels
    # COCO's 80 classes come with COCO-stuff's labels; a small set may lack the last ones.
    is_coco = len(categories) == 80 and categories[-1]["id"] == 90
    return COCO_STUFF_LABELS if is_coco else None
