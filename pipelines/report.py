"""Report of a preparation: counts by reason, rejected entries, the verdict, and finally dataset_info.json."""

import math
from collections import Counter
from typing import Any

from htc_tf.data.datasets import INFO_FILE
from htc_tf.data.datasets import VERSION as INFO_VERSION
from htc_tf.errors import UserError, printable

from . import coco, files
from .checks import ADVICE, ANNOTATION_REASONS, IMAGE_REASONS, REPAIRS, allowed, rejections, show
from .plan import Plan
from .shards import read_sidecars

REPORT_FILE = "report.json"
REJECTED_FILE = "rejected.jsonl"
MAX_NAMED = 20
MAX_EXAMPLES = 5
MAJORITY = 0.5  # share of the disagreeing objects that must fit a convention before it is named
MAX_TINY = 0.1  # share of the objects that may be smaller than one pixel
MAX_DARK = 0.1  # share of the images that may be nearly black without a warning


def write_report(output: str, plan: Plan, sidecars: list[dict[str, Any]], max_bad_fraction: float) -> Counter:
    """Writes report.json and rejected.jsonl, prints the table, and returns all counts.

    Without sidecars it judges the plan alone, and prints nothing.

    Args:
        output: The folder of the records.
        plan: The plan.
        sidecars: The shards' sidecars, or an empty list.
        max_bad_fraction: Fraction of the images, and of the annotations, that may be rejected.
    Raises:
        UserError: More than that were rejected.
    """
    counters = Counter(plan.counters)
    objects_per_image = Counter()
    rejected = list(plan.rejected)
    for sidecar in sidecars:
        counters.update(sidecar["counters"])
        objects_per_image.update(sidecar["objects_per_image"])
        rejected += sidecar["rejected"]
    report = {
        "listed": {"images": plan.listed_images, "annotations": plan.listed_annotations},
        "max_bad_fraction": max_bad_fraction,
        "counters": dict(sorted(counters.items())),
        "objects_per_image": dict(sorted(objects_per_image.items(), key=lambda pair: int(pair[0]))),
    }
    problems = find_problems(plan, counters, rejected, max_bad_fraction, bool(sidecars))
    # Nothing is written after a good plan alone, because a finished folder may be read-only.
    if sidecars or problems:
        files.write_json(files.join(output, REPORT_FILE), report)
        files.write_json_lines(files.join(output, REJECTED_FILE), rejected)
    if sidecars:
        lines = examples(rejected)
        if not problems:
            lines += [f"warning: {text}" for text in warnings(plan, counters, rejected)]
        print("\n".join((table(plan, counters), *map(printable, lines))))
    if problems:
        raise UserError(
            f"{coco.listed(list(plan.inputs))}: {'; '.join(problems)}. See {files.join(output, REJECTED_FILE)}"
        )
    return counters


def find_problems(
    plan: Plan, counters: Counter, rejected: list[dict[str, Any]], max_bad_fraction: float, complete: bool
) -> list[str]:
    """Returns the reasons not to continue, with remedies; empty if all is well.

    Args:
        plan, counters, rejected, max_bad_fraction: As in `write_report`.
        complete: If True, the images were read, not only the annotation file.
    """
    problems, needed = [], 0.0
    for bad, listed, reasons, noun in zip(
        rejections(counters),
        (plan.listed_images, plan.listed_annotations),
        (IMAGE_REASONS, ANNOTATION_REASONS),
        ("images", "annotations"),
        strict=True,
    ):
        none_left = complete and noun == "images" and not counters["images"]
        if bad > allowed(listed, max_bad_fraction) or none_left:
            counts = ", ".join(f"{name} {counters[name]}" for name in reasons if counters[name])
            first = next(row for row in rejected if row["reason"] in reasons)
            problems.append(f"{bad} of {listed} {noun} were rejected ({counts}); the first: {_example(first)}")
            problems += [f"{name}: {ADVICE[name]}" for name in reasons if counters[name] and name in ADVICE]
            needed = 1 if none_left else max(needed, bad / listed)
    unknown = sorted({show(row["category_id"]) for row in rejected if row.get("category_id") is not None})
    if problems and unknown:
        problems.append(f"the categories do not define the category ids {', '.join(unknown[:MAX_NAMED])}")
    if problems:
        problems += _conventions(rejected)
        problems.append(_bound(needed, max_bad_fraction))
    tiny = counters["objects_tiny"]
    if tiny > allowed(counters["objects"], MAX_TINY) and plan.options.get("boxes") != "unchecked":
        fractions = counters["boxes_of_fractions"] > MAJORITY * tiny
        problems.append(
            f"{tiny} of {counters['objects']} objects are smaller than one pixel"
            + (": their boxes look like fractions of the image, and must be in pixels" if fractions else "")
            + "; --boxes unchecked keeps them unchanged"
        )
    return problems


def examples(rejected: list[dict[str, Any]]) -> list[str]:
    """Describes the first rejected entries."""
    lines = [f"left out: {_example(row, True)}" for row in rejected[:MAX_EXAMPLES]]
    more = len(rejected) - len(lines)
    return [*lines, f"left out: {more:,} more, all in {REJECTED_FILE}"] if more else lines


def warnings(plan: Plan, counters: Counter, rejected: list[dict[str, Any]]) -> list[str]:
    """Returns sentences about everything that would silently harm training."""
    found, objects = list(plan.warnings), counters["objects"]
    if not objects:
        found.append("no record contains an object: nothing to train on")
    elif counters["crowd"] == objects:
        found.append(
            f"all {objects} objects are crowd regions (iscrowd 1), which training ignores: nothing to train on; set "
            "iscrowd to 0 for entries that are single objects"
        )
    if not plan.masks and plan.options.get("masks") != "none":
        found.append("no annotation has a segmentation: these records hold boxes only, and cannot train masks")
    clipped = counters["boxes_clipped"]
    if not plan.masks and clipped > MAX_TINY * objects and clipped > 1:
        found.append(
            f"{clipped} of {objects} boxes extend outside their image: bbox must be [x, y, width, height], not "
            "[x1, y1, x2, y2]"
        )
    dark = counters["images_dark"]
    if dark > MAX_DARK * counters["images"]:
        found.append(
            f"{dark} of {counters['images']} images are nearly or all black: their values have at most 12 of 16 bits; "
            "scale them to the whole range"
        )
    if counters["objects_tiny"] and objects:
        found.append(f"{counters['objects_tiny']} of {objects} objects are less than one pixel wide or high")
    return found + _conventions(rejected)


def _conventions(rejected):
    """Names the convention under which most of the objects with disagreeing box and mask would agree."""
    tried = [row["reads_as"] for row in rejected if "reads_as" in row]
    counts = Counter(name for names in tried for name in names)
    if not counts:
        return []
    name, number = counts.most_common(1)[0]
    return (
        [f"it looks as if {name} ({number} of {len(tried)} objects agree then)"]
        if number > MAJORITY * len(tried)
        else []
    )


def _bound(needed, max_bad_fraction):
    text = f"this exceeds --max_bad_fraction {max_bad_fraction:g}"
    if needed >= 1:
        return text
    return f"{text}; to continue without them: --max_bad_fraction {math.ceil(needed * 1000) / 1000:g}"


def _example(row, with_reason=False):
    entry = f"annotation {show(row['annotation_id'])}" if row.get("annotation_id") is not None else ""
    image = row.get("file_name") or (
        f"image_id {show(row['image_id'])}" if row.get("image_id") is not None and entry else ""
    )
    parts = (
        show(image) if image else "",
        entry if with_reason else "",
        row["reason"] if with_reason else "",
        row["detail"],
    )
    return ": ".join(filter(None, parts))


def write_info(output: str, plan: Plan, sidecars: list[dict[str, Any]], counters: Counter) -> dict[str, Any]:
    """Writes dataset_info.json, which marks the dataset as complete, and returns its content."""
    with_stuff = plan.options["stuff"]
    largest_label = max(sidecar["largest_label"] for sidecar in sidecars)
    info = {
        "version": INFO_VERSION,
        "categories": plan.categories,
        "stuff": {"present": with_stuff, "labels": (plan.stuff_labels or largest_label + 1) if with_stuff else 0},
        "masks": plan.masks,
        "images": counters["images"],
        "objects": counters["objects"],
        "crowd": counters["crowd"],
        "shards": [{key: sidecar[key] for key in ("file", "records", "bytes", "sha256")} for sidecar in sidecars],
        "counters": dict(sorted(counters.items())),
        "options": {**plan.options, "exif": plan.exif, "shards": len(plan.tokens)},
        "inputs": plan.inputs,
    }
    files.write_json(files.join(output, INFO_FILE), info)
    return info


def collect(output: str, plan: Plan) -> list[dict[str, Any]]:
    """Returns the sidecars of all shards, in order.

    Raises:
        UserError: A sidecar is missing: a worker wrote to another folder than this process reads.
    """
    sidecars = read_sidecars(output, plan)
    missing = [plan.name(shard) for shard, sidecar in enumerate(sidecars) if sidecar is None]
    if missing:
        raise UserError(
            f"{len(missing)} shards are missing below {output}, the first is {missing[0]}: all workers must share the "
            "same folders"
        )
    return sidecars


def describe(output: str, info: dict[str, Any]) -> str:
    """Describes a complete dataset in one line."""
    size = sum(shard["bytes"] for shard in info["shards"]) / 1e6
    masks = "masks" if info["masks"] else "boxes only, no masks"
    stuff = f"stuff maps of {info['stuff']['labels']} labels" if info["stuff"]["present"] else "no stuff maps"
    count = f"{info['images']} records in {len(info['shards'])} shards, {size:.1f} MB"
    return f"{output}: {count}; {len(info['categories'])} classes, {masks}, {stuff}"


def table(plan: Plan, counters: Counter) -> str:
    """Formats the counts with their meanings as a table."""
    rows = [
        ("images", counters["images"], f"of {plan.listed_images} listed"),
        ("  without objects", counters["images_without_objects"], ""),
        ("objects", counters["objects"], f"of {plan.listed_annotations} annotations listed"),
        ("  crowd", counters["crowd"], "regions of many objects"),
    ]
    lost = counters["objects_of_rejected_images"]
    for title, meanings in (
        ("rejected images", IMAGE_REASONS),
        ("rejected annotations", ANNOTATION_REASONS),
        ("repaired", REPAIRS),
    ):
        rows.append((title, sum(counters[name] for name in meanings), ""))
        rows += [(f"  {name}", counters[name], meaning) for name, meaning in meanings.items() if counters[name]]
        if meanings is IMAGE_REASONS and lost:
            rows.append(("  their annotations", lost, "left out with them"))
    return "\n".join(f"{name:<26}{number:>10,}  {meaning}".rstrip() for name, number, meaning in rows)
