"""What the job did: counts by reason, the rejected entries, the verdict, and at last dataset_info.json.

Before it: `pipelines.shards` (or, when the annotation file alone is too bad, `pipelines.plan`). After it:
`htc_tf.data.datasets` reads the info.
"""

import math
from collections import Counter
from typing import Any

from htc_tf.data.datasets import INFO_FILE
from htc_tf.data.datasets import VERSION as INFO_VERSION
from htc_tf.errors import UserError
from pipelines import files
from pipelines.checks import ADVICE, ANNOTATION_REASONS, IMAGE_REASONS, REPAIRS, allowed, rejections, show
from pipelines.plan import Plan
from pipelines.shards import read_sidecars

REPORT_FILE = "report.json"
REJECTED_FILE = "rejected.jsonl"
MAX_NAMED = 20
MAX_EXAMPLES = 5
MOST = 0.5  # of the objects that disagree must fit a convention for it to be named
MAX_TINY = 0.1  # of the objects may be below one pixel


def conclude(output: str, plan: Plan, sidecars: list[dict[str, Any]], max_bad_fraction: float) -> Counter:
    """Writes report.json and rejected.jsonl, prints the table, and returns all counts.

    Without sidecars it concludes from the plan alone, and prints nothing.

    Raises:
      UserError: more than `max_bad_fraction` of the images, or of the annotations, were rejected.
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
    complaints = complain(plan, counters, rejected, max_bad_fraction, bool(sidecars))
    # Nothing is written in between: a finished folder may be read-only.
    if sidecars or complaints:
        files.write_json(files.join(output, REPORT_FILE), report)
        files.write_json_lines(files.join(output, REJECTED_FILE), rejected)
    if sidecars:
        print("\n".join((table(plan, counters), *examples(rejected))))
        if not complaints:
            print(*(f"warning: {text}\n" for text in warnings(plan, counters, rejected)), sep="", end="")
    if complaints:
        raise UserError(f"{', '.join(plan.inputs)}: {'; '.join(complaints)}. See {files.join(output, REJECTED_FILE)}")
    return counters


def complain(
    plan: Plan, counters: Counter, rejected: list[dict[str, Any]], max_bad_fraction: float, complete: bool
) -> list[str]:
    """What is too bad to go on with, why, and the way out; empty where all is well.

    Args:
      complete: whether the images were read, not the annotation file alone.
    """
    complaints, needed = [], 0.0
    for bad, listed, reasons, noun in zip(
        rejections(counters),
        (plan.listed_images, plan.listed_annotations),
        (IMAGE_REASONS, ANNOTATION_REASONS),
        ("images", "annotations"),
        strict=True,
    ):
        if bad > allowed(listed, max_bad_fraction) or (complete and noun == "images" and bad >= listed):
            counts = ", ".join(f"{name} {counters[name]}" for name in reasons if counters[name])
            first = next(row for row in rejected if row["reason"] in reasons)
            complaints.append(f"{bad} of {listed} {noun} were rejected ({counts}), the first for: {_example(first)}")
            complaints += [f"{name}: {ADVICE[name]}" for name in reasons if counters[name] and name in ADVICE]
            needed = max(needed, bad / listed)
    unknown = sorted({str(row["category_id"]) for row in rejected if row.get("category_id") is not None})
    if complaints and unknown:
        complaints.append(f"its categories do not define the category ids {', '.join(unknown[:MAX_NAMED])}")
    if complaints:
        complaints += _conventions(rejected)
        complaints.append(_bound(needed, max_bad_fraction))
    tiny = counters["objects_tiny"]
    if tiny > allowed(counters["objects"], MAX_TINY) and plan.options.get("boxes") != "unchecked":
        fractions = counters["boxes_of_fractions"] > MOST * tiny
        complaints.append(
            f"{tiny} of {counters['objects']} objects are below one pixel"
            + (": their boxes look like fractions of the image, and must be in pixels" if fractions else "")
            + "; --boxes unchecked keeps them as they are"
        )
    return complaints


def examples(rejected: list[dict[str, Any]]) -> list[str]:
    """The first rejected entries, in words."""
    lines = [f"left out: {_example(row, True)}" for row in rejected[:MAX_EXAMPLES]]
    more = len(rejected) - len(lines)
    return [*lines, f"left out: {more:,} more, all in {REJECTED_FILE}"] if more else lines


def warnings(plan: Plan, counters: Counter, rejected: list[dict[str, Any]]) -> list[str]:
    """What training would suffer from without a word, in sentences."""
    said, objects = list(plan.warnings), counters["objects"]
    if not objects:
        said.append("no record holds an object: there is nothing to train on")
    elif counters["crowd"] == objects:
        said.append(
            f"all {objects} objects are crowd regions (iscrowd 1), which training ignores: there is nothing to train "
            "on; set iscrowd to 0 where an entry is one object"
        )
    if not plan.masks and plan.options.get("masks") != "none":
        said.append("no annotation has a segmentation: these records hold boxes only, and cannot train masks")
    clipped = counters["boxes_clipped"]
    if not plan.masks and clipped > MAX_TINY * objects and clipped > 1:
        said.append(
            f"{clipped} of {objects} boxes reach outside of their image: bbox must be [x, y, width, height], not "
            "[x1, y1, x2, y2]"
        )
    if counters["objects_tiny"] and objects:
        said.append(f"{counters['objects_tiny']} of {objects} objects are narrower or lower than one pixel")
    return said + _conventions(rejected)


def _conventions(rejected):
    """The convention that most of the objects whose box and mask disagree would agree under."""
    tried = [row["reads_as"] for row in rejected if "reads_as" in row]
    counts = Counter(name for names in tried for name in names)
    if not counts:
        return []
    name, number = counts.most_common(1)[0]
    return (
        [f"it looks as if {name} ({number} of {len(tried)} objects agree then)"] if number > MOST * len(tried) else []
    )


def _bound(needed, max_bad_fraction):
    text = f"that is more than --max_bad_fraction {max_bad_fraction:g} allows"
    if needed >= 1:
        return text
    return f"{text}; to go on without them: --max_bad_fraction {math.ceil(needed * 1000) / 1000:g}"


def _example(row, with_reason=False):
    who = f"annotation {row['annotation_id']}" if row.get("annotation_id") is not None else ""
    image = row.get("file_name") or (f"image_id {row['image_id']}" if row.get("image_id") is not None and who else "")
    parts = (
        show(image) if image else "",
        who if with_reason else "",
        row["reason"] if with_reason else "",
        row["detail"],
    )
    return ": ".join(filter(None, parts))


def write_info(output: str, plan: Plan, sidecars: list[dict[str, Any]], counters: Counter) -> dict[str, Any]:
    """Writes dataset_info.json, the only mark of a complete data set, and returns its content."""
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
    """The sidecars of all shards, in order.

    Raises:
      UserError: one is missing: a worker wrote elsewhere than this process reads.
    """
    sidecars = read_sidecars(output, plan)
    missing = [plan.name(shard) for shard, sidecar in enumerate(sidecars) if sidecar is None]
    if missing:
        raise UserError(
            f"{len(missing)} shards were not written below {output}, the first is {missing[0]}: all workers must "
            "see the same folders"
        )
    return sidecars


def describe(output: str, info: dict[str, Any]) -> str:
    """One line on a complete data set."""
    size = sum(shard["bytes"] for shard in info["shards"]) / 1e6
    masks = "masks" if info["masks"] else "boxes only, no masks"
    stuff = f"stuff maps of {info['stuff']['labels']} labels" if info["stuff"]["present"] else "no stuff maps"
    count = f"{info['images']} records in {len(info['shards'])} shards, {size:.1f} MB"
    return f"{output}: {count}; {len(info['categories'])} classes, {masks}, {stuff}"


def table(plan: Plan, counters: Counter) -> str:
    """The counts by name with their meaning, for a terminal."""
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
