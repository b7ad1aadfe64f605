"""python -m tests.studies.overfit --sample DIR: learns eight photos of COCO by heart, and is examined on the same eight.

Each row of the paper's ablation does, by its own gin file, with gin/options/overfit.gin after it, which makes network
and images small. A network that cannot do that has a part that does not learn. The record is a section of
docs/results.md. Run again, it goes on after the last row that was done.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from tests.studies import recorded

OVERLAY = "gin/options/overfit.gin"
IMAGES = 8
OBJECTS = (1, 6)  # an image, at least and at most
SMALLEST = 32 * 32  # pixels: COCO's bound of what is small
NOT_A_THING = 182  # the last of the semantic branch's 183 labels, which none of COCO's classes has
TARGET = 0.6  # mask AP
SECTION = "Eight photos by heart"
TENTHS = 10


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.studies.overfit", description=__doc__)
    parser.add_argument("--sample", required=True, help="a data set in COCO's layout: annotations/, train2017/")
    parser.add_argument("--rows", nargs="+", default=recorded.ROWS, choices=recorded.ROWS, metavar="ROW")
    parser.add_argument("--gin_param", action="append", default=[], help="after the gin files; repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path, default=Path("runs/overfit"))
    parser.add_argument("--output", type=Path, default=recorded.RESULTS, help="Markdown file to write the section to")
    return parser.parse_args()


def choose(data):
    """Of a COCO annotation file the first eight images by id that have 1 to 6 objects, no crowd and nothing small.

    Returns:
        the same with these images and their annotations alone.
    """
    of_image = {image["id"]: [] for image in data["images"]}
    for annotation in data["annotations"]:
        of_image[annotation["image_id"]].append(annotation)

    def fits(image):
        objects = of_image[image["id"]]
        sound = all(not o["iscrowd"] and o["area"] >= SMALLEST for o in objects)
        return sound and OBJECTS[0] <= len(objects) <= OBJECTS[1]

    images = sorted(filter(fits, data["images"]), key=lambda image: image["id"])[:IMAGES]
    return {**data, "images": images, "annotations": [o for image in images for o in of_image[image["id"]]]}


def draw_things(shape, labels, masks):
    """A stuff map [H, W] uint8 of things alone: the masks [H, W] with their labels, where they overlap the later one's,
    and `NOT_A_THING` elsewhere."""
    drawn = np.full(shape, NOT_A_THING, np.uint8)
    for label, mask in zip(labels, masks, strict=True):
        drawn[mask > 0] = label
    return drawn


def prepare(sample, folder):
    """Writes the eight images' annotations, stuff maps and records below `folder`.

    Returns:
        (the annotation file, the records' folder)
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
    recorded.call(folder / "records.log", "pipelines.coco_to_tfrecord", *flags)
    return annotations, records


def average_tenths(losses):
    """[[step, loss], ...] -> the mean loss of each tenth of the steps."""
    steps, totals = np.array(losses).T
    tenths = np.minimum((steps - 1) * TENTHS // steps[-1], TENTHS - 1)
    return [float(totals[tenths == tenth].mean()) for tenth in range(TENTHS)]


def report(entries, data, flags):
    """The section's lines.

    Args:
        entries: {row: what the notebook has of it}.
        data: the eight images' annotations.
        flags: of this command.
    """
    params = "".join(f' --gin_param "{param}"' for param in flags.gin_param)
    names = {category["id"]: category["name"] for category in data["categories"]}
    classes = sorted({names[o["category_id"]] for o in data["annotations"]})
    rows, curves = [], []
    for row, entry in entries.items():
        (cpu, wall), examined = entry["train"], entry["evaluate"]
        figures = [f"{entry['metrics'][name]:.3f}" for name in recorded.METRICS]
        times = [str(entry["losses"][-1][0]), f"{cpu:.0f}", f"{examined[0]:.0f}", f"{(wall + examined[1]) / 60:.1f}"]
        rows.append([recorded.title_of(row), *figures, *times])
        curves.append([recorded.title_of(row), *(f"{loss:.2f}" for loss in average_tenths(entry["losses"]))])
    masks = [entry["metrics"]["segm/AP"] for entry in entries.values()]
    seconds = sum(entry[part][0] for entry in entries.values() for part in ("train", "evaluate"))
    reached = sum(ap >= TARGET for ap in masks)
    return [
        f"`make overfit` (`python -m tests.studies.overfit --sample DIR{params}`) trains each row of the paper's ablation on "
        "eight photos of COCO from scratch, then evaluates it on the same eight, at their own size and with their own "
        "annotations. It is no measure of quality: a network that does not get there has a part that does not learn.",
        "",
        f"- Photos: the first {IMAGES} by id of the sample's training images that have {OBJECTS[0]} to {OBJECTS[1]} "
        "objects, none of them a crowd or smaller than 32 x 32 pixels: "
        f"{', '.join(str(image['id']) for image in data['images'])}. "
        f"They hold {len(data['annotations'])} objects of {len(classes)} classes: {', '.join(classes)}.",
        f"- Configuration: `--gin_file gin/ablation/ROW.gin --gin_file {OVERLAY}`, seed {flags.seed}; no augmentation.",
        "- The sample has no stuff maps. The semantic branch learns the objects' own masks, and one label for all "
        "that is none.",
        f"- Measured on {recorded.describe_machine()}, the start of each command included. Training keeps one core "
        "busy: where the minutes are more than the CPU-seconds say, the machine had other work.",
        "",
        *recorded.format_table(
            [
                *("row", "box AP", "box AP50", "mask AP", "mask AP50", "steps"),
                *("CPU-seconds of training", "of evaluation", "minutes, both"),
            ],
            rows,
        ),
        "",
        f"To reach: {TARGET} mask AP. Reached by {reached} of {len(masks)}; the least is {min(masks):.3f}. All of "
        f"it took {seconds / 60:.0f} CPU-minutes.",
        "",
        "The sum of all losses, its mean over each tenth of the steps (rows have different losses: compare along the "
        "lines, not between them):",
        "",
        *recorded.format_table(["row", *(f"{tenth + 1}" for tenth in range(TENTHS))], curves),
    ]


def main():
    flags = parse()
    folder = flags.workdir.resolve()
    annotations, records = prepare(flags.sample, folder)
    data = json.loads(annotations.read_text())
    notebook = recorded.Notebook(folder / "done.json")
    entries = {}
    for row in flags.rows:
        configuration = [f"--gin_file=gin/ablation/{row}.gin", f"--gin_file={OVERLAY}"]
        configuration += [f"--gin_param={param}" for param in flags.gin_param]
        how = [*configuration, flags.seed, (recorded.ROOT / OVERLAY).read_text()]
        entry = notebook.find(row, how)
        if entry is None:
            print(f"{row}: trains; follow it in {folder / row}.log", flush=True)
            outcome = recorded.play(folder / row, configuration, records, records, annotations, flags.seed)
            entry = notebook.add(row, how, outcome)
        entries[row] = entry
        print(f"{row}: " + ", ".join(f"{name} {value:.3f}" for name, value in entry["metrics"].items()), flush=True)
        recorded.write_section(flags.output, SECTION, report(entries, data, flags))
    sys.exit(any(entry["metrics"]["segm/AP"] < TARGET for entry in entries.values()))


if __name__ == "__main__":
    main()
