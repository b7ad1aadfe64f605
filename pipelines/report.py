"""What the job did: counts by reason, the rejected entries, the verdict, and at last dataset_info.json.

Before it: `pipelines.shards` (or, when the annotation file alone is too bad, `pipelines.plan`). After it:
`htc_tf.data.datasets` reads the info.
"""

from collections import Counter
from typing import Any

from htc_tf.data.datasets import INFO_FILE
from htc_tf.data.datasets import VERSION as INFO_VERSION
from htc_tf.errors import UserError
from pipelines import files
from pipelines.checks import ANNOTATION_REASONS, IMAGE_REASONS, REPAIRS, rejections
from pipelines.plan import Plan
from pipelines.shards import read_sidecars

REPORT_FILE = "report.json"
REJECTED_FILE = "rejected.jsonl"
MAX_NAMED = 20


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
    files.write_json(files.join(output, REPORT_FILE), report)
    files.write_json_lines(files.join(output, REJECTED_FILE), rejected)
    if sidecars:
        print(table(plan, counters))
    complaints = complain(plan, counters, rejected, max_bad_fraction)
    if complaints:
        raise UserError(
            f"{', '.join(plan.inputs)}: {'; '.join(complaints)}; that is more than "
            f"--max_bad_fraction {max_bad_fraction:g}. See {files.join(output, REJECTED_FILE)}"
        )
    return counters


def complain(plan: Plan, counters: Counter, rejected: list[dict[str, Any]], max_bad_fraction: float) -> list[str]:
    """What was rejected beyond the bound, with its reasons; empty where all is well."""
    complaints = []
    for bad, listed, reasons, noun in zip(
        rejections(counters),
        (plan.listed_images, plan.listed_annotations),
        (IMAGE_REASONS, ANNOTATION_REASONS),
        ("images", "annotations"),
        strict=True,
    ):
        if bad > max_bad_fraction * listed:
            counts = ", ".join(f"{name} {counters[name]}" for name in reasons if counters[name])
            first = next(row for row in rejected if row["reason"] in reasons)
            example = ": ".join(filter(None, (first.get("file_name"), first["detail"])))
            complaints.append(f"{bad} of {listed} {noun} were rejected ({counts}), the first for: {example}")
    unknown = sorted({str(row["category_id"]) for row in rejected if "category_id" in row})
    if complaints and unknown:
        complaints.append(f"its categories do not define the category ids {', '.join(unknown[:MAX_NAMED])}")
    return complaints


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
        "options": {**plan.options, "shards": len(plan.tokens)},
        "inputs": plan.inputs,
    }
    files.write_json(files.join(output, INFO_FILE), info)
    return info


def collect(output: str, plan: Plan) -> list[dict[str, Any]]:
    """The sidecars of all shards, in order.

    Raises:
      RuntimeError: one is missing: a worker must have failed to write where this process reads.
    """
    sidecars = read_sidecars(output, plan)
    missing = [plan.name(shard) for shard, sidecar in enumerate(sidecars) if sidecar is None]
    if missing:
        raise RuntimeError(f"{len(missing)} shards were not written below {output}, the first is {missing[0]}")
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
