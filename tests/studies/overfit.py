"""python -m tests.studies.overfit --sample DIR: overfits eight COCO images from scratch, evaluated on the same eight.

Each row of the paper's ablation is trained by its own gin file followed by gin/options/overfit.gin, which makes network
and images small. A network that cannot overfit has a part that does not learn. The result is a section of
docs/results.md. Run again, the command continues after the last finished row.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from tests.studies import recorded

OVERRIDE = "gin/options/overfit.gin"
IMAGES = 8
OBJECTS = (1, 6)  # fewest and most objects of an image
SMALLEST = 32 * 32  # pixels: COCO's bound of small objects
NOT_A_THING = 182  # the last of the semantic branch's 183 labels, which none of COCO's classes has
TARGET = 0.6  # mask AP
SECTION = "Overfitting eight images"
TENTHS = 10


class Training(NamedTuple):
    """A training of the study: of a row of the ablation."""

    name: str


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.studies.overfit", description=__doc__)
    parser.add_argument("--sample", required=True, help="a data set in COCO's layout: annotations/, train2017/")
    rows = {"nargs": "+", "default": recorded.ROWS, "choices": recorded.ROWS, "metavar": "ROW"}
    parser.add_argument("--rows", **rows, help=f"rows of the ablation (default: {' '.join(recorded.ROWS)})")
    parser.add_argument("--gin_param", action="append", default=[], help="a binding after the gin files; repeatable")
    parser.add_argument("--seed", type=int, default=0, help="seed of the trainings (default: 0)")
    parser.add_argument("--workdir", type=Path, default=Path("runs/overfit"), help="results so far, runs and logs")
    parser.add_argument("--output", type=Path, default=recorded.RESULTS, help="Markdown file to write the section to")
    return parser.parse_args()


def choose(data):
    """Selects, from COCO annotations, the first eight images by id with 1 to 6 objects, none of them crowd or small.

    Returns:
        The annotations of these images only.
    """
    of_image = {image["id"]: [] for image in data["images"]}
    for annotation in data["annotations"]:
        of_image[annotation["image_id"]].append(annotation)

    def fits(image):
        objects = of_image[image["id"]]
        usable = all(not o["iscrowd"] and o["area"] >= SMALLEST for o in objects)
        return usable and OBJECTS[0] <= len(objects) <= OBJECTS[1]

    images = sorted(filter(fits, data["images"]), key=lambda image: image["id"])[:IMAGES]
    return {**data, "images": images, "annotations": [o for image in images for o in of_image[image["id"]]]}


def draw_things(shape, labels, masks):
    """Returns a stuff map [H, W] uint8 of the objects: each label on its mask [H, W], later ones on top.

    All other pixels are `NOT_A_THING`.
    """
    drawn = np.full(shape, NOT_A_THING, np.uint8)
    for label, mask in zip(labels, masks, strict=True):
        drawn[mask > 0] = label
    return drawn


def prepare(sample, folder):
    """Writes the eight images' annotations, stuff maps and records below `folder`.

    Returns:
        (annotation file, folder of records)
    """
    source = Path(sample) / "annotations" / "instances_train2017.json"
    if not source.is_file():
        raise SystemExit(f"error: no {source}: --sample must name a folder in COCO's layout")
    annotations, stuff, records = folder / "annotations.json", folder / "stuff", folder / "records"
    stuff.mkdir(parents=True, exist_ok=True)
    annotations.write_text(json.dumps(choose(json.loads(source.read_text()))))
    coco = COCO(annotations)
    for image in coco.dataset["images"]:
        objects = coco.imgToAnns[image["id"]]
        # COCO-stuff numbers the things by their ids, from 0.
        labels = [o["category_id"] - 1 for o in objects]
        drawn = draw_things((image["height"], image["width"]), labels, map(coco.annToMask, objects))
        Image.fromarray(drawn).save(stuff / f"{Path(image['file_name']).stem}.png")
    images = Path(sample).resolve() / "train2017"
    flags = ["--annotations", annotations, "--images", images, "--stuff", stuff, "--output", records]
    recorded.run_module(folder / "records.log", "pipelines.coco_to_tfrecord", *flags)
    return annotations, records


def average_tenths(losses):
    """Returns the mean loss of each tenth of the steps of [[step, loss], ...]."""
    steps, totals = np.array(losses).T
    tenths = np.minimum((steps - 1) * TENTHS // steps[-1], TENTHS - 1)
    return [float(totals[tenths == tenth].mean()) for tenth in range(TENTHS)]


def report(entries, data, flags):
    """Returns the section's lines.

    Args:
        entries: {row: the cached result}.
        data: COCO annotations of the eight images.
        flags: The flags of this command.
    """
    params = "".join(f' --gin_param "{param}"' for param in flags.gin_param)
    names = {category["id"]: category["name"] for category in data["categories"]}
    classes = sorted({names[o["category_id"]] for o in data["annotations"]})
    rows, curves = [], []
    for row, entry in entries.items():
        (cpu, wall), evaluated = entry["train"], entry["evaluate"]
        figures = [f"{entry['metrics'][name]:.3f}" for name in recorded.METRICS]
        times = [str(entry["losses"][-1][0]), f"{cpu:.0f}", f"{evaluated[0]:.0f}", f"{(wall + evaluated[1]) / 60:.1f}"]
        rows.append([recorded.title_of(row), *figures, *times])
        curves.append([recorded.title_of(row), *(f"{loss:.2f}" for loss in average_tenths(entry["losses"]))])
    masks = [entry["metrics"]["segm/AP"] for entry in entries.values()]
    seconds = sum(entry[part][0] for entry in entries.values() for part in ("train", "evaluate"))
    reached = sum(ap >= TARGET for ap in masks)
    return [
        f"`make overfit` (`python -m tests.studies.overfit --sample DIR{params}`) trains each row of the paper's "
        "ablation on eight COCO images from scratch and evaluates it on the same eight, at their own size and with "
        "their own annotations. It does not measure quality: a network that misses the target has a part that does not "
        "learn.",
        "",
        f"- Images: the first {IMAGES} by id of the sample's training images that have {OBJECTS[0]} to {OBJECTS[1]} "
        "objects, none of them a crowd or smaller than 32 x 32 pixels: "
        f"{', '.join(str(image['id']) for image in data['images'])}. "
        f"They contain {len(data['annotations'])} objects of {len(classes)} classes: {', '.join(classes)}.",
        f"- Configuration: `--gin_file gin/ablation/ROW.gin --gin_file {OVERRIDE}`, seed {flags.seed}; "
        "no augmentation.",
        "- The sample has no stuff maps. The semantic branch learns the objects' own masks, and one label for "
        "everything else.",
        f"- Measured on {recorded.machines_of(entries.values())}, including the start of each command. Training keeps "
        "one core busy: where the minutes exceed the CPU-seconds, the machine had other work.",
        "",
        *recorded.format_table(
            [
                *("row", "box AP", "box AP50", "mask AP", "mask AP50", "steps"),
                *("CPU-seconds of training", "of evaluation", "minutes, both"),
            ],
            rows,
        ),
        "",
        f"Target: {TARGET} mask AP. Reached by {reached} of {len(masks)}; the lowest is {min(masks):.3f}. All rows "
        f"together took {seconds / 60:.0f} CPU-minutes.",
        "",
        "The sum of all losses, averaged over each tenth of the steps (the rows have different losses: compare within "
        "a row, not between rows):",
        "",
        *recorded.format_table(["row", *(f"{tenth + 1}" for tenth in range(TENTHS))], curves),
    ]


def main():
    flags = parse()
    folder = flags.workdir.resolve()
    annotations, records = prepare(flags.sample, folder)
    data = json.loads(annotations.read_text())
    found = {}  # {row: the cached result}

    def train(row, _):
        params = [f"--gin_param={param}" for param in flags.gin_param]
        configuration = [f"--gin_file=gin/ablation/{row.name}.gin", f"--gin_file={OVERRIDE}", *params]
        run = folder / row.name
        return recorded.train_and_evaluate(run, configuration, records, records, annotations, flags.seed)

    def write(entries):
        found.update({row.name: entry for row, entry in entries.items()})
        recorded.write_section(flags.output, SECTION, report(found, data, flags))

    how = [*flags.gin_param, f"--seed={flags.seed}", (recorded.ROOT / OVERRIDE).read_text()]
    rows = {Training(row): how for row in flags.rows}
    recorded.run_study("overfit", rows, recorded.ResultCache(folder / "done.json"), train, write)
    missed = [row for row, entry in found.items() if entry["metrics"]["segm/AP"] < TARGET]
    print(f"wrote the section '{SECTION}' of {flags.output}; below {TARGET} mask AP: {', '.join(missed) or 'no row'}")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
